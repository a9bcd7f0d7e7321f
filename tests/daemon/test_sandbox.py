"""A model is checked in a process of its own, which may crash, hang or run out of memory."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from frazil.errors import ModelError
from frazil.model import MicrographSize, check_in_sandbox, identify_model, load_model
from frazil.model.sandbox import available_bytes


def test_a_good_model_is_known_by_its_hash(blob_model: Path) -> None:
    assert check_in_sandbox(blob_model).sha256 == identify_model(blob_model).sha256


def test_every_bad_model_is_refused_by_its_reason(bad_model: tuple[Path, str]) -> None:
    path, reason = bad_model
    with pytest.raises(ModelError, match=path.parent.name) as refused:
        check_in_sandbox(path, seconds=4 if reason == "hang" else 60)
    assert refused.value.reason == reason
    assert "\n" not in str(refused.value)


def test_a_model_that_is_modest_on_its_reference_and_greedy_on_real_batches_is_refused(
    tmp_path: Path, make_greedy_model: Callable[[Path, int, int], Path]
) -> None:
    # 32 MiB for its reference of two tiles of 63 px; 8 GiB for the largest tile that a micrograph can bring.
    greedy = make_greedy_model(tmp_path / "greedy", 1, 1024)
    load_model(greedy, "cpu", 1)
    with pytest.raises(
        ModelError, match=r"greedy: expected to .* within \d+ MiB of memory, all that is there"
    ) as refused:
        check_in_sandbox(greedy, threads=1)
    assert refused.value.reason == "memory"
    # Where the session's micrographs are small, so are its batches.
    micrograph = MicrographSize(shape=(256, 256), diameter_px=16.0, margin_px=4.0)
    assert check_in_sandbox(greedy, threads=1, micrograph=micrograph).memory_bytes < 2**30


def test_the_memory_that_a_model_needs_is_measured(
    tmp_path: Path, make_greedy_model: Callable[[Path, int, int], Path]
) -> None:
    small, large = (make_greedy_model(tmp_path / str(floats), 1, floats) for floats in (1, 33))
    needed = [check_in_sandbox(model, threads=1).memory_bytes for model in (small, large)]
    assert needed[1] - needed[0] == pytest.approx(2**21 * 32 * 4, rel=0.2)


def test_a_check_that_the_kernel_kills_ran_out_of_memory(
    tmp_path: Path, spoil_model: Callable[[str, Path, int], None]
) -> None:
    spoil_model("endless", tmp_path / "m", 1)
    before = set(children_of(os.getpid()))

    def kill() -> None:
        while not (processes := set(children_of(os.getpid())) - before):
            pass
        os.kill(processes.pop(), signal.SIGKILL)

    killer = threading.Thread(target=kill)
    killer.start()
    with pytest.raises(ModelError, match="found its process killed") as refused:
        check_in_sandbox(tmp_path / "m" / "1")
    killer.join()
    assert refused.value.reason == "memory"


def test_a_check_can_be_stopped(tmp_path: Path, spoil_model: Callable[[str, Path, int], None]) -> None:
    spoil_model("endless", tmp_path / "m", 1)
    stop = threading.Event()
    stop.set()
    with pytest.raises(ModelError, match="stopped"):
        check_in_sandbox(tmp_path / "m" / "1", stop=stop)


def test_a_check_ends_when_the_process_that_wants_it_is_killed(
    tmp_path: Path, spoil_model: Callable[[str, Path, int], None]
) -> None:
    spoil_model("endless", tmp_path / "m", 1)
    program = "import sys, pathlib; from frazil.model import check_in_sandbox as c; c(pathlib.Path(sys.argv[1]))"
    parent = subprocess.Popen([sys.executable, "-c", program, tmp_path / "m" / "1"])
    while not (children := children_of(parent.pid)):
        assert parent.poll() is None
    parent.kill()
    parent.wait()
    deadline = threading.Event()
    for _ in range(300):
        if not any(Path(f"/proc/{child}").exists() for child in children):
            break
        deadline.wait(0.1)
    else:
        for child in children:
            os.kill(child, signal.SIGKILL)
        pytest.fail("the process lives on")


def children_of(pid: int) -> list[int]:
    return [int(p) for p in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


# --- memory -----------------------------------------------------------------------------------------------------


def write_group(group: Path, **values: object) -> None:
    group.mkdir(parents=True, exist_ok=True)
    for name, value in values.items():
        (group / f"memory.{name}").write_text(f"{value}\n")


def test_a_process_may_take_what_the_tightest_of_its_groups_and_the_machine_leave(tmp_path: Path) -> None:
    proc, groups = tmp_path / "proc", tmp_path / "cgroup"
    (proc / "self").mkdir(parents=True)
    assert available_bytes(proc, groups) is None
    (proc / "meminfo").write_text("MemTotal: 9000 kB\nMemAvailable: 8000 kB\n")
    (proc / "self" / "cgroup").write_text("0::/system.slice/frazil.service\n")
    assert available_bytes(proc, groups) == 8000 * 1024  # no group says anything
    write_group(groups / "system.slice", max="max", high="max", current=10**9, stat="inactive_file 0\nactive_file 0")
    assert available_bytes(proc, groups) == 8000 * 1024  # a group without a limit
    stat = "anon 1\ninactive_file 300\nactive_file 50"
    service = groups / "system.slice" / "frazil.service"
    write_group(service, max=6_000_000, high="max", current=2_000_000, stat=stat)
    assert available_bytes(proc, groups) == 4_000_350
    write_group(service, high=3_000_000)
    assert available_bytes(proc, groups) == 1_000_350
    write_group(service, current=3_100_000)
    assert available_bytes(proc, groups) == 0
    write_group(groups / "system.slice", max=1)
    assert available_bytes(proc, groups) == 0
