"""Faults of the machine: what the daemon does in each, as a table."""

from __future__ import annotations

import errno
import os
import re
import resource
import shutil
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import mrcfile
import numpy as np
import pytest

from frazil.session.outbox.ledger import LedgerReader

pytestmark = [pytest.mark.system, pytest.mark.timeout(600)]

Serve = Callable[..., "RunningDaemon"]  # type: ignore[name-defined]  # noqa: F821
BIN = Path(sys.executable).parent
ROWS: list[tuple[str, str, str]] = []


@pytest.fixture(scope="module", autouse=True)
def table(report: Callable[[str, str], None]) -> Iterator[None]:
    """Every fault that was survived is a row."""
    yield
    lines = "\n".join(f"| {fault} | {made} | {did} |" for fault, made, did in ROWS)
    report("faults.md", f"| fault | how it was made | what the daemon did |\n| --- | --- | --- |\n{lines}")


def row(fault: str, made: str, did: str) -> None:
    ROWS.append((fault, made, did))


@pytest.fixture
def start(serve: Serve, blob_model: Path) -> Callable[..., Any]:
    def go(*options: str | Path, **others: Any) -> Any:
        return serve("--diameter", "48", "--model", blob_model, "--scan", "0.3", "--stall", "1", *options, **others)

    return go


@pytest.fixture
def drop(tiny_micrograph: bytes) -> Callable[..., None]:
    def put(folder: Path, *names: str) -> None:
        for name in names:
            (folder / name).write_bytes(tiny_micrograph)

    return put


def picked(ledger: Path) -> list[str]:
    with LedgerReader(ledger) as reader:
        return [record.path for record in reader.micrographs(["picked"])]


def fill(disk: Path) -> Path:
    """Leave no room on a small disk."""
    filler = disk / "filler"
    with filler.open("wb", buffering=0) as file:
        for size in (65536, 4096):
            try:
                while True:
                    file.write(b"x" * size)
            except OSError:
                pass
    return filler


@pytest.mark.parametrize("what", ["outputs", "ledger"])
def test_a_full_disk_makes_picking_wait_and_loses_nothing(
    start: Callable[..., Any],
    drop: Callable[..., None],
    small_disk: Callable[..., Path],
    metric: Callable[[str, str], float],
    wait_for: Callable[..., None],
    tmp_path: Path,
    what: str,
) -> None:
    disk = small_disk("disk", 4096)
    out, ledger = (disk / "out", tmp_path / "l.sqlite") if what == "outputs" else (tmp_path / "out", disk / "l.sqlite")
    daemon = start("--ledger", ledger, out=out)
    drop(daemon.watched, "before.mrc")
    daemon.wait_log("picked before")
    filler = fill(disk)
    names = [f"{i}.mrc" for i in range(30)]
    drop(daemon.watched, *names)
    daemon.wait_log("cannot write .* picking waits")
    wait_for(lambda: metric(daemon.metrics, "frazil_output_blocked") == 1, "the metric")
    assert daemon.process.poll() is None
    state, says = readiness(daemon)
    assert state == 503
    assert "cannot write" in says
    assert "picking waits until it can" in says
    with urllib.request.urlopen(f"{daemon.page}healthz", timeout=5) as answer:
        assert answer.status == 200
    filler.unlink()
    daemon.wait_log("can write .* again")
    wait_for(lambda: readiness(daemon) == (200, "ok\n"), "readiness")
    wait_for(lambda: metric(daemon.metrics, "frazil_ledger_sequence") == 31, "all of them")
    wait_for(lambda: len(list(out.glob("*.star"))) == 31, "all files")
    assert metric(daemon.metrics, "frazil_output_blocked") == 0
    assert daemon.stop() == 0
    assert sorted(picked(ledger)) == sorted(["before.mrc", *names])
    said = [line for line in daemon.log if "cannot write" in line]
    assert len(said) <= 3
    row(
        f"No space for the {what}",
        "a disk of 2 MB, filled",
        "one log line, `frazil_output_blocked` 1 and `/readyz` 503 at once; picking waited, went on by itself once "
        "there was room; 31 of 31 picked once",
    )


def test_outputs_that_become_read_only_make_picking_wait(
    start: Callable[..., Any],
    drop: Callable[..., None],
    small_disk: Callable[..., Path],
    metric: Callable[[str, str], float],
    wait_for: Callable[..., None],
    blob_model: Path,
    tmp_path: Path,
) -> None:
    disk = small_disk("disk", 2048)
    daemon = start("--ledger", tmp_path / "l.sqlite", out=disk / "out")
    drop(daemon.watched, "before.mrc")
    daemon.wait_log("picked before")
    subprocess.run(["mount", "-o", "remount,ro", disk], check=True)
    drop(daemon.watched, "a.mrc", "b.mrc")
    daemon.wait_log("cannot write .*Read-only file system.* picking waits")
    wait_for(lambda: metric(daemon.metrics, "frazil_output_blocked") == 1, "the metric")
    # A daemon that is told to stop while it waits leaves the rest to the next one; that one does not start as yet.
    assert daemon.stop() == 0
    command = [BIN / "frazil", "serve", "--watch", daemon.watched, "--out", disk / "out", "--diameter", "48"]
    command += ["--no-assess"]
    refused = subprocess.run([str(c) for c in command], capture_output=True, text=True, timeout=300, check=False)
    assert refused.returncode == 1
    assert "expected a directory that can be written: Read-only file system" in refused.stderr
    assert len(refused.stderr.splitlines()) == 1
    subprocess.run(["mount", "-o", "remount,rw", disk], check=True)
    again = start("--ledger", tmp_path / "l.sqlite", out=disk / "out")
    wait_for(lambda: len(list((disk / "out").glob("*.star"))) == 3, "all files")
    assert again.stop() == 0
    assert sorted(picked(tmp_path / "l.sqlite")) == ["a.mrc", "b.mrc", "before.mrc"]
    row(
        "Outputs read-only",
        "the disk remounted read-only",
        "picking waited, as with a full disk; stopped and started again it refused, in one line, until the disk could "
        "be written; then it delivered what was left",
    )


def readiness(daemon: Any) -> tuple[int, str]:
    """What /readyz answers."""
    try:
        with urllib.request.urlopen(f"{daemon.page}readyz", timeout=5) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read().decode()


def failures(ledger: Path) -> dict[str, str]:
    """Reasons of the micrographs in quarantine."""
    with LedgerReader(ledger) as reader:
        return {record.path: record.reason for record in reader.micrographs(["quarantined"])}


@pytest.fixture
def immutable() -> Iterator[Callable[[Path], bool]]:
    """Make folders that nobody, not even root, can write; whether it could be done."""
    made = []

    def lock(folder: Path) -> bool:
        made.append(folder)
        return subprocess.run(["chattr", "+i", folder], capture_output=True, check=False).returncode == 0

    yield lock
    for folder in made:
        subprocess.run(["chattr", "-i", folder], capture_output=True, check=False)


def test_a_file_that_cannot_be_written_fails_alone(
    start: Callable[..., Any],
    drop: Callable[..., None],
    faulty: dict[str, str],
    faults: Path,
    immutable: Callable[[Path], bool],
    metric: Callable[[str, str], float],
    wait_for: Callable[..., None],
    tmp_path: Path,
) -> None:
    """Each way in which one file cannot be written, all at once, before and after a restart."""
    out, watched = tmp_path / "out", tmp_path / "watched"
    for folder in (out / "is_a_folder_picks.star", out / "locked", watched):
        folder.mkdir(parents=True)
    for folder in ("a_file", "locked", "loop"):
        (watched / folder).mkdir()
    (out / "a_file").write_text("notes of the operator")
    (out / "loop").symlink_to("loop")
    (faults / "rename").write_text(f"{errno.EINVAL} why?")
    (faults / "folds").write_text("_picks.star")
    long = "L" * 245 + ".mrc"
    bad = {
        long: "name",
        "is_a_folder.mrc": "output",
        "a_file/x.mrc": "output",
        "loop/x.mrc": "output",
        "why?.mrc": "output",
        "twice.MRC": "name",
    }
    if immutable(out / "locked"):
        bad["locked/x.mrc"] = "output"
    daemon = start(env=faulty)
    ledger = out / "frazil-ledger.sqlite"
    drop(watched, "twice.mrc", "Capital.mrc")
    daemon.wait_log("picked twice")
    daemon.wait_log("picked Capital")
    bad["cAPITAL.mrc"] = "output"
    drop(watched, *bad)
    for name in bad:
        daemon.wait_log(rf"failed \(.*{re.escape(Path(name).name)}")
    wait_for(lambda: len(failures(ledger)) == len(bad), "the ledger")
    assert failures(ledger) == bad
    drop(watched, "z_good.mrc")
    daemon.wait_log("picked z_good")
    assert "for Capital_picks.star" in daemon.wait_log("cAPITAL.mrc: expected a name of its own, .*").group()
    assert readiness(daemon)[0] == 200
    assert metric(daemon.metrics, "frazil_output_blocked") == 0
    assert metric(daemon.metrics, 'frazil_micrographs_total{outcome="failed",reason="output"}') == len(bad) - 2
    assert sorted(p.name for p in out.glob("*.star") if p.is_file()) == [
        "Capital_picks.star",
        "twice_picks.star",
        "z_good_picks.star",
    ]
    status = subprocess.run([BIN / "frazil", "status", "--ledger", out], capture_output=True, text=True, check=True)
    assert f"3 picked, {len(bad)} quarantined" in status.stdout
    with LedgerReader(ledger) as reader:
        head = reader.head()
    assert daemon.stop() == 0
    # A restart meets nothing of it again; mended and asked for, each is written.
    daemon = start(env=faulty)
    drop(watched, "z_last.mrc")
    daemon.wait_log(rf"picked z_last.*sequence number {head + 1}\)")
    (out / "is_a_folder_picks.star").rmdir()
    (out / "a_file").unlink()
    (out / "loop").unlink()
    (faults / "rename").unlink()
    subprocess.run(["chattr", "-i", out / "locked"], capture_output=True, check=False)
    (faults / "folds").unlink()
    subprocess.run([BIN / "frazil", "requeue", "--failed", "--ledger", ledger], check=True, timeout=60)
    wait_for(lambda: failures(ledger) == {long: "name", "twice.MRC": "name"}, "what was mended", 60)
    for name in ("is_a_folder", "a_file/x", "loop/x", "why?", "cAPITAL"):
        wait_for((out / f"{name}_picks.star").is_file, name)
    assert daemon.stop() == 0
    row(
        "A file of picks that cannot be written for a reason of its own",
        "a name of 249 bytes, a file where a folder must go, a folder with the file's name, a link round in a circle, "
        "a sub-folder nobody may write, a name that the share refuses, `a.mrc` and `a.MRC`, a share that knows no "
        "capitals",
        "that micrograph alone failed (`name` or `output`) and was quarantined; all others were picked, also after a "
        "restart; mended, `frazil requeue --failed` wrote its picks",
    )


def test_a_server_that_does_not_answer_is_waited_for(
    start: Callable[..., Any],
    drop: Callable[..., None],
    faulty: dict[str, str],
    faults: Path,
    wait_for: Callable[..., None],
    tmp_path: Path,
) -> None:
    daemon = start(env=faulty)
    for number in (errno.ESTALE, errno.EIO):
        (faults / "rename").write_text(f"{number} _picks.star")
        drop(daemon.watched, f"{number}.mrc", f"{number}_next.mrc")
        daemon.wait_log(rf"cannot write .*{number}\w*_picks.star \({os.strerror(number)}\): picking waits")
        wait_for(lambda: readiness(daemon)[0] == 503, "readiness")
        (faults / "rename").unlink()
        daemon.wait_log(rf"picked {number}_next.mrc")
        daemon.wait_log(rf"picked {number}.mrc")
    assert readiness(daemon) == (200, "ok\n")
    assert failures(daemon.out / "frazil-ledger.sqlite") == {}
    assert daemon.stop() == 0
    row(
        "A server of the outputs that does not answer (ESTALE), EIO when writing",
        "a preloaded library fails `rename`",
        "picking waited, `/readyz` 503, and went on by itself; no micrograph failed",
    )


def test_input_output_errors_are_waited_for(
    start: Callable[..., Any],
    drop: Callable[..., None],
    faulty: dict[str, str],
    faults: Path,
    wait_for: Callable[..., None],
    tmp_path: Path,
) -> None:
    (faults / "eio").write_text("bad_sector")
    daemon = start(env=faulty)
    drop(daemon.watched, "bad_sector.mrc", "good.mrc")
    daemon.wait_log("picked good")
    daemon.wait_log("bad_sector.mrc: cannot be read: Input/output error; it is retried until it can be read")
    ledger = daemon.out / "frazil-ledger.sqlite"

    def is_waiting() -> bool:
        with LedgerReader(ledger) as reader:
            record = reader.micrograph("bad_sector.mrc")
        return record is not None and (record.state, record.reason) == ("waiting", "unreadable")

    wait_for(is_waiting, "the ledger's note")
    (faults / "eio").unlink()
    daemon.wait_log("picked bad_sector")
    assert daemon.stop() == 0
    row(
        "EIO when reading a micrograph",
        "a preloaded library fails `read`",
        "the others were picked; this one was reported and stood in the ledger as `waiting`; picked once it could be "
        "read",
    )


def test_a_promoted_model_that_cannot_be_read_at_present_is_waited_for_and_not_refused(
    serve: Serve, make_blob_model: Callable[..., Path], faulty: dict[str, str], faults: Path, tmp_path: Path
) -> None:
    folder = make_blob_model(tmp_path / "blob")
    daemon = serve(
        *("--diameter", "48", "--model", folder, "--canary-micrographs", "0"),
        env=faulty,
    )
    make_blob_model(folder, 2, bias=-6.01)
    (faults / "eio").write_text("CURRENT")
    (folder / "aside").write_text("2\n")
    (folder / "aside").rename(folder / "CURRENT")
    daemon.wait_log("the promoted model waits, and the old one goes on")
    (faults / "eio").unlink()
    daemon.wait_log("model blob/2 .* serves from here on", 120)
    assert daemon.stop() == 0
    assert len([line for line in daemon.log if "the promoted model waits" in line]) == 1
    assert not [line for line in daemon.log if "refused" in line]
    row(
        "EIO when reading the promoted model's name",
        "a preloaded library fails `read`",
        "one log line; the old model went on and none was refused; the new one served once it could be read",
    )


def test_errors_in_the_middle_of_reading_are_tried_again_and_then_given_up(
    start: Callable[..., Any],
    drop: Callable[..., None],
    wait_for: Callable[..., None],
    metric: Callable[[str, str], float],
    tmp_path: Path,
) -> None:
    """Memory that runs out, for real: a limit on the process that a large micrograph does not fit into."""
    large = tmp_path / "large.tmp"
    with mrcfile.new(large) as mrc:
        mrc.set_data(np.random.default_rng(0).normal(100, 10, (8000, 9000)).astype(np.float32))
        mrc.voxel_size = 0.25
    daemon = start("--max-attempts", "2")
    pid = daemon.process.pid
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    used = 1024 * int(next(line.split()[1] for line in lines if line.startswith("VmSize")))
    resource.prlimit(pid, resource.RLIMIT_AS, (used + (100 << 20), resource.RLIM_INFINITY))
    large.rename(daemon.watched / "large.mrc")
    daemon.wait_log(r"failed \(memory\), retried in")
    daemon.wait_log(r"failed \(memory\) at attempt 2")
    drop(daemon.watched, "small.mrc")
    daemon.wait_log("picked small")
    assert metric(daemon.metrics, 'frazil_retries_total{reason="memory"}') == 1
    resource.prlimit(pid, resource.RLIMIT_AS, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    ledger = daemon.out / "frazil-ledger.sqlite"
    done = subprocess.run([BIN / "frazil", "requeue", "--failed", "--ledger", ledger], check=True, timeout=300)
    assert done.returncode == 0
    wait_for(lambda: "large.mrc" in picked(ledger), "the large one")
    assert daemon.stop() == 0
    row(
        "Out of memory",
        "a limit on the process that one micrograph does not fit into",
        "tried again after a while, `max_attempts` times, then quarantine; the others were picked; "
        "`frazil requeue --failed` picked it once there was memory",
    )


def test_a_mount_that_goes_and_returns_is_no_deletion(
    start: Callable[..., Any],
    drop: Callable[..., None],
    small_disk: Callable[..., Path],
    metric: Callable[[str, str], float],
    wait_for: Callable[..., None],
    tmp_path: Path,
) -> None:
    disk = small_disk("disk", 8192)
    watched = tmp_path / "mnt"
    watched.mkdir()
    bind = ["mount", "--bind", disk, watched]
    subprocess.run(bind, check=True)
    try:
        drop(disk, "a.mrc", "b.mrc")
        daemon = start(watched=watched)
        daemon.wait_log("picked a")
        daemon.wait_log("picked b")
        subprocess.run(["umount", "-l", watched], check=True)
        wait_for(lambda: metric(daemon.metrics, "frazil_watch_fault") == 1, "the fault")
        daemon.wait_log("cannot be seen .nothing is mounted on")
        assert readiness(daemon) == (503, f"cannot see {watched}: nothing is mounted on {watched}\n")
        drop(disk, "c.mrc")
        # Killed and started while the mount is away, it knows what should be there.
        assert daemon.stop(signal.SIGKILL) == -signal.SIGKILL
        daemon = start(watched=watched)
        daemon.wait_log("cannot be seen .nothing is mounted on")
        subprocess.run(bind, check=True)
        daemon.wait_log("can be seen again")
        daemon.wait_log("picked c")
        drop(disk, "d.mrc")
        daemon.wait_log("picked d")
        assert daemon.stop() == 0
    finally:
        subprocess.run(["umount", "-l", watched], check=False)
    with LedgerReader(daemon.out / "frazil-ledger.sqlite") as reader:
        assert reader.counts() == {"picked": 4}
        assert len(list(reader.documents())) == 4
    row(
        "A mount that goes and returns",
        "the watched file system unmounted and mounted again, the daemon killed meanwhile",
        "one log line and `frazil_watch_fault` 1; nothing counted as gone; after the return the new files were picked "
        "and the old ones not again",
    )


def test_a_directory_renamed_away_and_back_is_no_deletion(
    start: Callable[..., Any],
    drop: Callable[..., None],
    metric: Callable[[str, str], float],
    wait_for: Callable[..., None],
    tmp_path: Path,
) -> None:
    daemon = start()
    drop(daemon.watched, "a.mrc")
    daemon.wait_log("picked a")
    daemon.watched.rename(tmp_path / "away")
    wait_for(lambda: metric(daemon.metrics, "frazil_watch_fault") == 1, "the fault")
    drop(tmp_path / "away", "b.mrc")
    (tmp_path / "away").rename(daemon.watched)
    daemon.wait_log("picked b")
    assert daemon.stop() == 0
    with LedgerReader(daemon.out / "frazil-ledger.sqlite") as reader:
        assert reader.counts() == {"picked": 2}
    row("The watched directory away", "renamed, and renamed back", "the same")


def test_a_clock_that_jumps_hurts_nothing(
    start: Callable[..., Any],
    drop: Callable[..., None],
    faulty: dict[str, str],
    faults: Path,
    wait_for: Callable[..., None],
    tmp_path: Path,
) -> None:
    daemon = start(env=faulty)
    day = 86_400
    for i, offset in enumerate((0, -day, day, -3650 * day)):
        (faults / "clock.new").write_text(str(offset))
        (faults / "clock.new").rename(faults / "clock")
        drop(daemon.watched, f"{i}.mrc")
        future = daemon.watched / f"future{i}.mrc"
        drop(daemon.watched, ".aside")
        os.utime(daemon.watched / ".aside", (time.time() + day, time.time() + day))
        (daemon.watched / ".aside").rename(future)
        daemon.wait_log(rf"picked {i}\.mrc")
        daemon.wait_log(rf"picked future{i}\.mrc")
    assert daemon.stop() == 0
    again = start(env=faulty)
    drop(again.watched, "last.mrc")
    again.wait_log(r"picked last\.mrc: .*sequence number 9\)")
    assert again.stop() == 0
    with LedgerReader(again.out / "frazil-ledger.sqlite") as reader:
        assert reader.counts() == {"picked": 9}
        times = [r.picked_at or 0 for r in reader.micrographs()]
    assert max(times) - min(times) > 3000 * day  # the clock was really turned
    row(
        "The clock jumps, back and forth; times of files in the future",
        "a preloaded library turns the wall clock by up to ten years",
        "nothing waited longer, nothing was picked twice: only the monotonic clock decides, wall times are recorded",
    )


def test_a_process_out_of_descriptors_recovers(
    start: Callable[..., Any], drop: Callable[..., None], wait_for: Callable[..., None]
) -> None:
    daemon = start()
    drop(daemon.watched, "a.mrc")
    daemon.wait_log("picked a")
    pid = daemon.process.pid
    soft, hard = resource.prlimit(pid, resource.RLIMIT_NOFILE)
    resource.prlimit(pid, resource.RLIMIT_NOFILE, (3, hard))
    drop(daemon.watched, "b.mrc")
    daemon.wait_log("cannot be (read|seen)")
    assert daemon.process.poll() is None
    resource.prlimit(pid, resource.RLIMIT_NOFILE, (soft, hard))
    daemon.wait_log("picked b")
    assert daemon.stop() == 0
    row(
        "No more open files allowed",
        "a limit of 3 on the running process",
        "reported, waited, and went on when the limit was lifted",
    )


def test_what_was_written_survives_the_loss_of_every_cache(
    start: Callable[..., Any], drop: Callable[..., None], tmp_path: Path
) -> None:
    """The ledger of a killed daemon, copied without its shared-memory file as a power cut leaves it, is whole."""
    daemon = start()
    names = [f"{i}.mrc" for i in range(20)]
    drop(daemon.watched, *names)
    daemon.wait_log(r"sequence number 20\)")
    assert daemon.stop(signal.SIGKILL) == -signal.SIGKILL
    for file in daemon.out.iterdir():
        if not file.name.endswith("-shm"):
            shutil.copy(file, tmp_path / file.name)
    assert sorted(picked(tmp_path / "frazil-ledger.sqlite")) == sorted(names)
    row(
        "Killed, and the ledger copied without its shared memory",
        "SIGKILL",
        "all that was said to be picked is in the ledger",
    )
