"""The long proof that bulk work loses nothing and repeats nothing, whatever dies: `pytest tests/cluster --long`."""

from __future__ import annotations

import contextlib
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from frazil.documents import FailedDocument, MicrographDocument
from frazil.file_picker import FilePicker
from frazil.micrograph_names import Named
from frazil.picking import PickingSettings

pytestmark = [pytest.mark.system, pytest.mark.timeout(7200)]

Repick = Callable[..., "Running"]  # type: ignore[name-defined]  # noqa: F821
KILLS = 30
PATIENCE_SECONDS = 240.0


@pytest.fixture(autouse=True)
def only_long(is_long: bool) -> None:
    if not is_long:
        pytest.skip("a long proof: --long")


class Cluster:
    """A Dask cluster of somebody else: a scheduler and workers of their own."""

    def __init__(self, folder: Path) -> None:
        self.file = folder / f"scheduler-{time.monotonic_ns()}.json"
        self.processes = [self._start("distributed.cli.dask_scheduler", "--host", "127.0.0.1", "--port", "0")]
        for _ in range(2):
            self.processes.append(
                self._start("distributed.cli.dask_worker", "--nthreads", "1", "--death-timeout", "60")
            )

    def _start(self, module: str, *options: str) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-m", module, "--scheduler-file", str(self.file), "--no-dashboard", *options]
        return subprocess.Popen(command, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)

    def address(self) -> str:
        """Once the scheduler has written it."""
        deadline = time.monotonic() + PATIENCE_SECONDS
        while not self.file.exists():
            assert time.monotonic() < deadline
            time.sleep(0.1)
        return str(json.loads(self.file.read_text())["address"])

    def kill(self) -> None:
        """End the scheduler, as the system does that has no memory left; the workers find out."""
        self.processes[0].kill()

    def end(self) -> None:
        for process in self.processes:
            process.terminate()
        for process in self.processes:
            try:
                process.wait(30)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


@pytest.fixture
def start_cluster(tmp_path: Path) -> Iterator[Callable[[], Cluster]]:
    clusters: list[Cluster] = []

    def start() -> Cluster:
        clusters.append(Cluster(tmp_path))
        return clusters[-1]

    yield start
    for cluster in clusters:
        cluster.end()


def test_thirty_kills_of_every_part_leave_one_result_of_each(
    repick: Repick,
    start_cluster: Callable[[], Cluster],
    small_disk: Callable[..., Path],
    make_archive: Callable[..., list[str]],
    check_once: Callable[[Path, Sequence[str]], None],
    read_documents: Callable[[Path], list[tuple[str, Any]]],
    blob_model: Path,
    tmp_path: Path,
) -> None:
    archive, rng = tmp_path / "archive", random.Random(7)
    keys = make_archive(archive, 60 * KILLS)
    scratch = small_disk("scratch", 64)
    (scratch / "filler").write_bytes(b"x" * (60 << 10))
    full = tmp_path / "full.toml"
    full.write_text(f'[cluster]\nscratch = "{scratch}"\n')
    hits: Counter[str] = Counter()
    before = 0
    for _ in range(KILLS):
        what = rng.choice(("worker", "driver", "scheduler", "scratch"))
        cluster = start_cluster() if what == "scheduler" else None
        where = ("--cluster", cluster.address()) if cluster else ()
        options = ("--config", full) if what == "scratch" else ()
        running = repick(archive, "--resume", *where, *options)
        try:
            running.wait_results(before + rng.randint(1, 15))
        except AssertionError:
            assert what == "scratch"  # no worker may be able to start there: it says so, and ends
        time.sleep(rng.uniform(0, 0.2))
        if what == "worker" and (workers := running.workers()):
            os.kill(rng.choice(workers), signal.SIGKILL)
            running.wait_results(running.results() + 5)
        if cluster is not None:
            cluster.kill()
            _, said = running.process.communicate(timeout=PATIENCE_SECONDS)
            assert running.process.returncode == 1, said
            assert "Traceback" not in said
            assert "scheduler" in said
            cluster.end()
        elif what != "scratch" or running.process.poll() is None:
            running.kill()
        hits[what] += 1
        before = running.results()
        assert before < len(keys)
    status, summary, said = repick(archive, "--resume").end()
    assert status == 0, said
    assert summary["already"] == before or summary["already"] == before - 1  # one may have been committed meanwhile
    check_once(tmp_path / "out", keys)
    print(hits)

    # As one process that nobody kills picks them; under their many names there are four micrographs.
    picker = FilePicker(
        PickingSettings(diameter_angstrom=48.0),
        out=tmp_path / "pick",
        model=blob_model,
        device="cpu",
        threads=1,
        find_junk=False,
    )
    expected = [picker.pick(Named(archive / key, key)).document for key in keys[:4]]
    found = dict(read_documents(tmp_path / "out"))
    for number, key in enumerate(keys):
        one = found[key]
        assert isinstance(one, MicrographDocument)
        assert (one.picks, one.threshold) == (expected[number % 4].picks, expected[number % 4].threshold)


def test_a_micrograph_that_kills_its_workers_fails_alone(
    repick: Repick,
    make_archive: Callable[..., list[str]],
    write_mrc: Callable[..., Path],
    read_documents: Callable[[Path], list[tuple[str, Any]]],
    tmp_path: Path,
) -> None:
    archive = tmp_path / "archive"
    keys = make_archive(archive, 12)
    rng = np.random.default_rng(0)
    write_mrc(archive / "grid1" / "huge.mrc", rng.normal(100, 10, (12000, 12000)).astype(np.float32), 2.0)
    small = tmp_path / "small.toml"
    small.write_text('[cluster]\nmemory = "600MB"\n')
    status, summary, said = repick(archive, "--config", small).end()
    assert status == 1
    assert (summary["picked"], summary["failed"]) == (len(keys), {"internal": 1})
    assert "huge.mrc: expected a worker to pick it: the worker died 3 times" in said
    (failed,) = [one for _, one in read_documents(tmp_path / "out") if isinstance(one, FailedDocument)]
    assert failed.micrograph == "huge.mrc"


def test_a_full_disk_is_waited_for(
    repick: Repick,
    small_disk: Callable[..., Path],
    make_archive: Callable[..., list[str]],
    check_once: Callable[[Path, Sequence[str]], None],
    tmp_path: Path,
) -> None:
    keys = make_archive(tmp_path / "archive", 200)
    out = small_disk("disk", 32768)
    running = repick(tmp_path / "archive", out=out)
    running.wait_results(2)
    filler = out / "filler"
    fill(filler)
    time.sleep(5)
    assert running.process.poll() is None
    filler.unlink()
    status, summary, said = running.end()
    assert (status, summary["picked"]) == (0, len(keys)), said
    check_once(out, keys)


def fill(file: Path) -> None:
    """Write a file until there is no room."""
    with file.open("wb", buffering=0) as opened, contextlib.suppress(OSError):
        while True:
            opened.write(b"x" * 16384)
    assert os.statvfs(file.parent).f_bavail == 0
