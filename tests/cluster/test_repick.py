"""An archive is picked again by real workers: all of it, once, as a daemon and `frazil pick` do it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import msgspec
import pytest

from frazil.documents import FailedDocument, JunkArea, MicrographDocument
from frazil.file_picker import FilePicker
from frazil.micrograph_names import Named
from frazil.picking import PickingSettings, read_star

pytestmark = pytest.mark.system

Repick = Callable[..., "Running"]  # type: ignore[name-defined]  # noqa: F821
Documents = Callable[[Path], list[tuple[str, MicrographDocument | FailedDocument]]]


def without_times(document: MicrographDocument | FailedDocument) -> MicrographDocument:
    """What two documents of one micrograph have in common, whoever made them."""
    assert isinstance(document, MicrographDocument)
    nothing = msgspec.structs.replace(document.seconds, read=0, prepare=0, infer=0, junk=0, peaks=0, total=0)
    return msgspec.structs.replace(
        document, epoch="", seq=0, supersedes=0, seconds=nothing, picked_at="", directory="", session=""
    )


def test_all_are_picked_once_to_the_last_digit_and_a_damaged_one_fails_alone(
    repick: Repick,
    make_archive: Callable[..., list[str]],
    read_documents: Documents,
    blob_model: Path,
    tmp_path: Path,
) -> None:
    archive = tmp_path / "archive"
    keys = make_archive(archive, 7)
    (archive / "grid1" / "damaged.mrc").write_bytes((archive / keys[0]).read_bytes()[:5000])
    os.utime(archive / "grid1" / "damaged.mrc", (0, 0))  # nobody is writing it
    (archive / "grid1" / "notes.txt").write_text("not for frazil")

    running = repick(archive, "--threads-per-worker", "1")
    status, summary, said = running.end()
    assert status == 1
    assert (summary["micrographs"], summary["picked"], summary["failed"]) == (8, 7, {"truncated": 1})
    assert "damaged.mrc: expected" in said

    by_key = dict(read_documents(running.out))
    assert len(by_key) == len(read_documents(running.out)) == 8
    failed = by_key["grid1/damaged.mrc"]
    assert isinstance(failed, FailedDocument)
    assert (failed.reason, failed.kind, failed.directory) == ("truncated", "permanent", "grid1")

    # Two threads, where the worker had one: the picks do not depend on it.
    settings = PickingSettings(diameter_angstrom=48.0, threshold=0.5)
    picker = FilePicker(settings, out=tmp_path / "pick", model=blob_model, device="cpu", threads=2, find_junk=False)
    for key in keys:
        expected = picker.pick(Named(archive / key, key))
        assert without_times(by_key[key]) == without_times(expected.document)
        star = read_star(running.out / f"{key.removesuffix('.mrc')}_picks.star")
        assert star.score.tolist() == expected.document.picks.score

    status, summary, _ = repick(archive, "--resume").end()  # nothing is left: no worker is started
    assert (status, summary["already"], summary["picked"]) == (0, 8, 0)


def test_killed_at_any_moment_it_is_resumed_and_each_has_one_result(
    repick: Repick,
    make_archive: Callable[..., list[str]],
    check_once: Callable[[Path, Sequence[str]], None],
    tmp_path: Path,
) -> None:
    archive = tmp_path / "archive"
    keys = make_archive(archive, 200)
    running = repick(archive)
    running.wait_results(3)
    assert len(running.workers()) == 2
    assert foreign_listeners([running.process.pid, *running.workers()]) == []
    running.kill()
    before = running.results()
    assert before < len(keys)

    running = repick(archive, "--resume")
    running.wait_results(before + 3)
    os.kill(running.workers()[0], signal.SIGKILL)
    status, summary, said = running.end()
    assert status == 0, said
    assert summary["already"] >= 3
    assert summary["already"] + summary["picked"] == len(keys)
    check_once(running.out, keys)


def foreign_listeners(pids: Sequence[int]) -> list[str]:
    """Ports on which processes listen for other machines, as the kernel has them."""
    inodes = set()
    for pid in pids:
        for descriptor in Path(f"/proc/{pid}/fd").iterdir():
            try:
                name = str(descriptor.readlink())
            except OSError:
                continue
            inodes.add(name.removeprefix("socket:[").removesuffix("]"))
    found = []
    for table, own in (("tcp", "0100007F"), ("tcp6", "0" * 24 + "01000000")):
        for line in Path(f"/proc/net/{table}").read_text().splitlines()[1:]:
            fields = line.split()
            if fields[3] == "0A" and fields[9] in inodes and not fields[1].startswith(f"{own}:"):
                found.append(fields[1])
    return found


def test_a_session_gets_new_revisions_equal_to_those_of_its_daemon(
    repick: Repick,
    serve: Callable[..., Any],
    make_archive: Callable[..., list[str]],
    read_documents: Documents,
    blob_model: Path,
    tmp_path: Path,
) -> None:
    watched, out = tmp_path / "watched", tmp_path / "out"
    keys = make_archive(watched, 3)
    daemon = serve("--diameter", "48", "--model", blob_model, "--threads", "2", watched=watched, out=out)
    for _ in keys:
        daemon.wait_log(rf"picked .*sequence number {len(keys)}\)")

    assert daemon.stop() == 0
    stars = {file: file.read_bytes() for file in out.rglob("*.star")}
    for file in stars:
        file.unlink()

    # A part of the session, by a pattern: its keys stay those of the session.
    status, summary, said = repick(f"{watched}/grid[01]/*.mrc", workers=1).end()
    assert status == 0, said
    assert summary["picked"] == 2
    found = read_documents(out)
    assert [key for key, _ in found[:3]] != []
    first = {key: one for key, one in found if one.seq <= 3}
    again = {key: one for key, one in found if one.seq > 3 and isinstance(one, MicrographDocument)}
    assert sorted(first) == sorted(keys)
    assert sorted(again) == ["grid0/m0000.mrc", "grid1/m0001.mrc"]
    for key, one in again.items():
        assert one.supersedes == first[key].seq
        assert without_times(one) == without_times(first[key])
        assert one.directory == first[key].directory
        star = out / f"{key.removesuffix('.mrc')}_picks.star"
        assert star.read_bytes() == stars[star]


def test_the_threshold_is_chosen_from_all_and_kept_for_the_daemon(
    repick: Repick, make_archive: Callable[..., list[str]], read_documents: Documents, tmp_path: Path
) -> None:
    archive = tmp_path / "archive"
    make_archive(archive, 4)
    status, summary, said = repick(archive, "--choose-threshold", workers=1).end()
    assert status == 0, said
    assert f"threshold {summary['threshold']:g}, chosen from 4 micrographs" in said
    for _, one in read_documents(tmp_path / "out"):
        assert isinstance(one, MicrographDocument)
        assert one.threshold == summary["threshold"]
        assert one.chosen.micrographs == 4  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("options", "status", "message"),
    [
        (("--cluster", "tcp://127.0.0.1:1"), 1, "tcp://127.0.0.1:1: expected a Dask scheduler, found none"),
        (("--cluster", "pbs"), 78, "expected local, slurm, or an address such as tcp://head:8786, found 'pbs'"),
        (("--watch", "/nowhere"), 1, "/nowhere: expected a directory with micrographs, found none"),
    ],
)
def test_what_is_not_there_is_said_in_a_line(
    repick: Repick,
    make_archive: Callable[..., list[str]],
    tmp_path: Path,
    options: tuple[str, ...],
    status: int,
    message: str,
) -> None:
    make_archive(tmp_path / "archive", 1)
    running = repick(tmp_path / "archive", *options)
    printed, said = running.process.communicate()
    assert (running.process.returncode, printed) == (status, "")
    assert message in said
    assert "Traceback" not in said


def test_without_dask_it_is_said_how_to_install_it_and_nothing_else_loads_it(
    make_archive: Callable[..., list[str]], blob_model: Path, tmp_path: Path
) -> None:
    make_archive(tmp_path / "archive", 1)
    code = """
import sys
import frazil.cluster.repick, frazil.daemon
assert not {"dask", "distributed", "tornado"} & set(sys.modules)
sys.modules["distributed"] = None
from frazil.commands.cli import main
main()
"""
    command = ["repick", "--watch", tmp_path / "archive", "--out", tmp_path / "out", "--diameter", "48"]
    done = subprocess.run(
        [sys.executable, "-c", code, *map(str, command), "--model", str(blob_model), "--threshold", "0.5"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1] == (
        "frazil: error: expected Dask, which hands out the work, found no distributed: pip install 'frazil[cluster]'"
    )


def test_another_model_or_other_settings_do_not_go_on_with_a_run(
    repick: Repick, make_archive: Callable[..., list[str]], tmp_path: Path
) -> None:
    archive = tmp_path / "archive"
    make_archive(archive, 1)
    assert repick(archive, workers=1).end()[0] == 0
    refused = repick(archive, "--resume", "--threshold", "0.3", workers=1)
    _, said = refused.process.communicate()
    assert refused.process.returncode == 78
    assert "give threshold None as before, or leave --resume out" in said


def test_a_signal_ends_it_in_order(repick: Repick, make_archive: Callable[..., list[str]], tmp_path: Path) -> None:
    make_archive(tmp_path / "archive", 400)
    running = repick(tmp_path / "archive")
    running.wait_results(1)
    running.process.send_signal(signal.SIGTERM)
    started = time.monotonic()
    printed, said = running.process.communicate()
    assert (running.process.returncode, printed) == (130, "")
    assert "Traceback" not in said
    assert time.monotonic() - started < 60


def test_workers_find_junk_as_the_files_picked_one_by_one(
    repick: Repick,
    read_documents: Documents,
    make_scene: Callable[..., Any],
    write_mrc: Callable[..., Path],
    blob_model: Path,
    dark_model: Path,
    tmp_path: Path,
) -> None:
    archive = tmp_path / "archive"
    archive.mkdir()
    pixels = make_scene(seed=3, count=16).pixels.copy()
    pixels[40:180, 240:400] -= 120
    write_mrc(archive / "a.mrc", pixels, 2.0)
    options = ("--threshold", "0.5", "--find-junk", "--junk-model", dark_model, "--junk-picks", "flag")
    status, summary, said = (running := repick(archive, *options, workers=1)).end()
    assert status == 0, said
    settings = PickingSettings(diameter_angstrom=48.0, threshold=0.5)
    picker = FilePicker(
        settings,
        out=tmp_path / "pick",
        model=blob_model,
        junk_model=dark_model,
        junk_picks="flag",
        device="cpu",
        threads=1,
    )
    expected = picker.pick(Named(archive / "a.mrc", "a.mrc")).document
    ((_, found),) = read_documents(running.out)
    assert isinstance(found, MicrographDocument)
    assert without_times(found) == without_times(expected)
    assert isinstance(found.junk, JunkArea)
    assert found.junk.flagged
    assert summary["picks"] == len(found.picks.y)

    refused = repick(archive, "--resume", "--threshold", "0.5", "--no-find-junk", workers=1)
    _, said = refused.process.communicate()
    assert refused.process.returncode == 78
    assert "give find-junk, junk-model and junk-picks as before" in said
