"""The model repository: what is promoted serves, and nothing in use is lost."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from frazil.errors import ModelError, OutputError
from frazil.model import (
    MicrographSize,
    ModelFolder,
    Refusal,
    Standing,
    current_stamp,
    identify_model,
    load_model,
    post_standing,
    prove_model,
    read_current,
    read_standings,
)
from frazil.model.sandbox import available_bytes

BIN = Path(sys.executable).parent


def folder_of(path: Path, *versions: int) -> ModelFolder:
    for version in versions:
        (path / str(version)).mkdir(parents=True)
    return ModelFolder(path)


def test_what_is_promoted_is_what_loads(tmp_path: Path, make_blob_model: Callable[..., Path]) -> None:
    folder = ModelFolder(make_blob_model(tmp_path / "blob"))
    make_blob_model(tmp_path / "blob", 2, bias=-5.0)
    for version in (2, 1, 2):
        folder.promote(version)
        assert load_model(tmp_path / "blob", "cpu").identity.version == version


def test_rolling_back_goes_back_through_what_served(tmp_path: Path) -> None:
    folder = folder_of(tmp_path, 1, 2, 3, 4)
    for version in (1, 2, 4, 2):
        folder.promote(version)
    assert read_current(tmp_path) == [2, 4, 1]
    assert [folder.rollback(), folder.rollback()] == [4, 1]
    with pytest.raises(ModelError, match="served before 1, found none"):
        folder.rollback()
    assert read_current(tmp_path) == [1]


def test_rolling_back_passes_over_what_is_gone(tmp_path: Path) -> None:
    folder = folder_of(tmp_path, 1, 2, 3)
    for version in (1, 2, 3):
        folder.promote(version)
    (tmp_path / "2").rmdir()
    assert folder.rollback() == 1


def test_a_version_that_is_not_there_cannot_be_promoted(tmp_path: Path) -> None:
    folder = folder_of(tmp_path, 1)
    folder.promote(1)
    with pytest.raises(ModelError, match="expected a version among 1; found 2"):
        folder.promote(2)
    assert read_current(tmp_path) == [1]


def test_promoting_repairs_a_torn_current(tmp_path: Path) -> None:
    folder = folder_of(tmp_path, 1, 2)
    (tmp_path / "CURRENT").write_bytes(b"\0\xff")
    folder.promote(2)
    assert read_current(tmp_path) == [2]


def test_promoting_again_asks_again(tmp_path: Path) -> None:
    folder = folder_of(tmp_path, 1)
    folder.promote(1)
    before = current_stamp(tmp_path)
    folder.promote(1)
    assert current_stamp(tmp_path) != before


def test_current_is_replaced_whole_so_that_a_reader_keeps_the_old_one(tmp_path: Path) -> None:
    folder = folder_of(tmp_path, 1, 2)
    folder.promote(1)
    with (tmp_path / "CURRENT").open() as reader:
        folder.promote(2)
        assert reader.read() == "1\n"


def test_a_folder_that_cannot_be_changed_is_an_error_that_names_it(tmp_path: Path) -> None:
    folder = folder_of(tmp_path, 1)
    (tmp_path / "CURRENT").mkdir()
    with pytest.raises(OutputError, match=r"can be changed, found: .*CURRENT"):
        folder.promote(1)
    assert sorted(p.name for p in tmp_path.iterdir()) == [".lock", "1", "CURRENT"]


def test_pruning_keeps_the_newest_the_serving_the_one_before_and_those_in_use(tmp_path: Path) -> None:
    folder = folder_of(tmp_path, *range(1, 11))
    folder.promote(2)
    folder.promote(4)
    (tmp_path / ".removed-0-interrupted").mkdir()
    assert folder.prune(2, in_use=[6]) == [1, 3, 5, 7, 8]
    assert folder.versions() == [2, 4, 6, 9, 10]
    assert not list(tmp_path.glob(".removed*"))
    assert folder.rollback() == 2


def test_pruning_a_model_whose_current_is_torn_removes_nothing(tmp_path: Path) -> None:
    folder = folder_of(tmp_path, 1, 2, 3)
    (tmp_path / "CURRENT").write_text("what?")
    with pytest.raises(ModelError, match="CURRENT"):
        folder.prune(1)
    assert folder.versions() == [1, 2, 3]


def test_two_that_promote_at_once_leave_both_in_order(tmp_path: Path) -> None:
    folder_of(tmp_path, *range(1, 9))
    threads = [threading.Thread(target=ModelFolder(tmp_path).promote, args=(v,)) for v in range(1, 9)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(read_current(tmp_path)) == list(range(1, 9))


def test_a_lock_held_by_a_killed_process_is_free(tmp_path: Path) -> None:
    folder = folder_of(tmp_path, 1)
    hold = (
        "import fcntl, sys; f = open(sys.argv[1], 'ab'); fcntl.flock(f, fcntl.LOCK_EX); print(1, flush=True); input()"
    )
    with subprocess.Popen([sys.executable, "-c", hold, tmp_path / ".lock"], stdin=-1, stdout=-1) as holder:
        assert holder.stdout is not None
        holder.stdout.readline()
        promoting = threading.Thread(target=folder.promote, args=(1,))
        promoting.start()
        assert not (tmp_path / "CURRENT").exists()
        holder.kill()
        promoting.join()
    assert read_current(tmp_path) == [1]


def standing(folder: Path, **changes: object) -> Standing:
    values: dict[str, object] = {
        "folder": str(folder),
        "host": "titan1",
        "watch": "/data",
        "version": 1,
        "sha256": "00",
        "since": "2026-01-01T00:00:00Z",
    }
    return Standing(**(values | changes))  # type: ignore[arg-type]


def refusal(version: int, message: str) -> Refusal:
    return Refusal(version=version, sha256="", reason="crash", message=message, at="", current="")


def test_standings_are_posted_one_for_each_daemon_and_torn_ones_are_passed_over(tmp_path: Path) -> None:
    first = standing(tmp_path).refuse(refusal(2, "once")).refuse(refusal(2, "twice"))
    post_standing(tmp_path, "a", standing(tmp_path))
    post_standing(tmp_path, "a", first)
    post_standing(tmp_path, "b", standing(tmp_path, host="titan2"))
    (tmp_path / ".serving" / "c.json").write_text("{")
    assert [s.host for s in read_standings(tmp_path)] == ["titan1", "titan2"]
    assert [r.message for r in read_standings(tmp_path)[0].refusals] == ["twice"]


# --- the proof --------------------------------------------------------------------------------------------------


def test_a_good_model_is_proved_by_its_hash(blob_model: Path) -> None:
    assert prove_model(blob_model).sha256 == identify_model(blob_model).sha256


def test_every_bad_model_is_refused_by_its_reason(bad_model: tuple[Path, str]) -> None:
    path, reason = bad_model
    with pytest.raises(ModelError, match=path.parent.name) as refused:
        prove_model(path, seconds=4 if reason == "hang" else 60)
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
        prove_model(greedy, threads=1)
    assert refused.value.reason == "memory"
    # Where the session's micrographs are small, so are its batches.
    micrograph = MicrographSize(shape=(256, 256), diameter_px=16.0, margin_px=4.0)
    assert prove_model(greedy, threads=1, micrograph=micrograph).memory_bytes < 2**30


def test_a_proof_measures_the_memory_that_a_model_needs(
    tmp_path: Path, make_greedy_model: Callable[[Path, int, int], Path]
) -> None:
    needed = [
        prove_model(make_greedy_model(tmp_path / str(floats), 1, floats), threads=1).memory_bytes for floats in (1, 33)
    ]
    assert needed[1] - needed[0] == pytest.approx(2**21 * 32 * 4, rel=0.2)


def test_a_proof_that_the_kernel_kills_ran_out_of_memory(
    tmp_path: Path, spoil_model: Callable[[str, Path, int], None]
) -> None:
    spoil_model("endless", tmp_path / "m", 1)
    before = set(children_of(os.getpid()))

    def kill() -> None:
        while not (proofs := set(children_of(os.getpid())) - before):
            pass
        os.kill(proofs.pop(), signal.SIGKILL)

    killer = threading.Thread(target=kill)
    killer.start()
    with pytest.raises(ModelError, match="found its process killed") as refused:
        prove_model(tmp_path / "m" / "1")
    killer.join()
    assert refused.value.reason == "memory"


def test_a_proof_can_be_stopped(tmp_path: Path, spoil_model: Callable[[str, Path, int], None]) -> None:
    spoil_model("endless", tmp_path / "m", 1)
    stop = threading.Event()
    stop.set()
    with pytest.raises(ModelError, match="stopped"):
        prove_model(tmp_path / "m" / "1", stop=stop)


def test_a_proof_ends_when_the_process_that_wants_it_is_killed(
    tmp_path: Path, spoil_model: Callable[[str, Path, int], None]
) -> None:
    spoil_model("endless", tmp_path / "m", 1)
    prove = "import sys; from pathlib import Path; from frazil.model import prove_model; prove_model(Path(sys.argv[1]))"
    parent = subprocess.Popen([sys.executable, "-c", prove, tmp_path / "m" / "1"])
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
        pytest.fail("the proof lives on")


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


# --- the command line -------------------------------------------------------------------------------------------


def frazil_models(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [BIN / "frazil", "models", *arguments]
    return subprocess.run([str(c) for c in command], capture_output=True, text=True, timeout=300)


def test_the_commands_list_promote_roll_back_and_prune(
    tmp_path: Path, make_blob_model: Callable[..., Path], spoil_model: Callable[[str, Path, int], None]
) -> None:
    blob = make_blob_model(tmp_path / "models" / "blob")
    make_blob_model(blob, 2, threshold=0.25)
    spoil_model("no onnx", blob, 3)
    post_standing(blob, "a", standing(blob).refuse(refusal(3, "it is no model")))

    listed = frazil_models("list", tmp_path / "models").stdout
    assert "blob/1 serves at titan1, watching /data" in listed
    assert "blob/3 was refused at titan1, watching /data (crash): it is no model" in listed
    assert "0.25" in listed
    assert frazil_models("promote", blob, 2).returncode == 0
    refused = frazil_models("promote", blob, 3)
    assert (refused.returncode, "expected an ONNX file" in refused.stderr) == (1, True)
    assert read_current(blob) == [2, 1]
    verified = frazil_models("verify", blob)
    assert verified.returncode == 1
    assert verified.stdout.count("fit to serve") == 2
    assert "found 1 of 3" in verified.stderr
    assert "rolled back to version 1" in frazil_models("rollback", blob).stdout
    assert "removed 2" in frazil_models("prune", blob, "--keep", 1).stdout
    shown = frazil_models("show", blob).stdout
    assert "blob/1 (promoted)" in shown
    assert "titan1 /data: serves 1" in shown
    for output in (listed, refused.stderr, verified.stderr, shown):
        assert "Traceback" not in output
