"""What happens to a ledger, and to who shares it, while real daemons run."""

from __future__ import annotations

import os
import re
import shutil
import signal
import sqlite3
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

import frazil
from frazil.session.outbox.ledger import LedgerReader, check

pytestmark = pytest.mark.system

BIN = Path(sys.executable).parent
PATIENCE_SECONDS = 60.0
Serve = Callable[..., Any]


@pytest.fixture
def start(serve: Serve, blob_model: Path) -> Serve:
    def go(*options: str | Path, **others: Any) -> Any:
        return serve("--diameter", "48", "--model", blob_model, "--scan", "0.3", "--stall", "0.5", *options, **others)

    return go


@pytest.fixture
def drop(write_mrc: Callable[..., Path], make_scene: Callable[..., Any]) -> Callable[..., None]:
    def put(folder: Path, *names: str) -> None:
        for name in names:
            aside = folder.parent / "aside.tmp"
            write_mrc(aside, make_scene(shape=(64, 96), count=1, diameter_px=24.0).pixels, 2.0)
            aside.rename(folder / name)

    return put


def serve_command(*options: object) -> subprocess.CompletedProcess[str]:
    """A daemon that is expected to refuse."""
    command = [BIN / "frazil", "serve", "--diameter", "48", "--device", "cpu", "--publish", "tcp://127.0.0.1:0"]
    command += ["--http", "127.0.0.1:0", *options]  # type: ignore[list-item]
    return subprocess.run([str(c) for c in command], capture_output=True, text=True, timeout=60, check=False)


def names(stream: frazil.PickStream, count: int) -> list[tuple[int, str]]:
    taken = []
    for _ in range(count):
        document = stream.receive(PATIENCE_SECONDS)
        assert document is not None, f"only {taken} of {count} came"
        taken.append((document.seq, document.micrograph))
    return taken


def test_an_output_directory_that_is_emptied_ends_the_daemon_and_the_next_one_makes_all_of_it_again(
    start: Serve, drop: Callable[..., None]
) -> None:
    daemon = start()
    drop(daemon.watched, "a.mrc", "b.mrc")
    daemon.wait_log("picked a")
    daemon.wait_log("picked b")
    subprocess.run(f"rm -rf {daemon.out}/*", shell=True, check=True)
    drop(daemon.watched, "c.mrc")
    daemon.wait_log("found that it was deleted while frazil ran")
    assert daemon.process.wait(PATIENCE_SECONDS) == 1  # which a service manager starts again
    said = "".join(daemon.log)
    saved = re.search(r"what it held is saved in (\S+\.bak)", said)
    assert saved, said
    assert "Traceback" not in said
    with LedgerReader(Path(saved[1])) as reader:
        assert {r.path for r in reader.micrographs(["picked"])} >= {"a.mrc", "b.mrc"}
    again = start()
    for name in "abc":
        again.wait_log(f"picked {name}")
    assert {file.name for file in again.out.glob("*.star")} == {f"{name}_picks.star" for name in "abc"}
    again.wait_log("the results here came from another ledger, with 2 documents")
    assert again.stop() == 0


def test_a_second_daemon_with_a_ledger_of_its_own_is_kept_off_the_output_directory(
    start: Serve, tmp_path: Path, blob_model: Path
) -> None:
    daemon = start("--ledger", tmp_path / "one.sqlite")
    (tmp_path / "other").mkdir()
    second = serve_command(
        "--watch", tmp_path / "other", "--out", daemon.out, "--ledger", tmp_path / "two.sqlite", "--model", blob_model
    )
    assert second.returncode == 1
    assert f"in use by another frazil daemon (process {daemon.process.pid} on " in second.stderr
    assert len(second.stderr.splitlines()) == 1
    assert daemon.stop(signal.SIGKILL) == -signal.SIGKILL
    assert start("--ledger", tmp_path / "one.sqlite").stop() == 0  # the lock of a killed one is free


def test_the_next_session_does_not_overwrite_the_last(
    start: Serve, drop: Callable[..., None], tmp_path: Path, blob_model: Path
) -> None:
    before, after = tmp_path / "session42", tmp_path / "session43"
    daemon = start(watched=before)
    drop(before, "a.mrc")
    daemon.wait_log("picked a")
    assert daemon.stop() == 0
    picks = (daemon.out / "a_picks.star").read_bytes()
    after.mkdir()
    drop(after, "a.mrc")
    refused = serve_command("--watch", after, "--out", daemon.out, "--model", blob_model)
    assert refused.returncode == 1
    assert f"expected a ledger of {after}, found that of {before}: give another --out" in refused.stderr
    assert (daemon.out / "a_picks.star").read_bytes() == picks
    # The directory that was renamed is another matter.
    shutil.rmtree(after)
    before.rename(after)
    told = subprocess.run(
        [BIN / "frazil", "ledger", "set-watch", after, "--ledger", daemon.out],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert told.returncode == 0, told.stderr
    assert f"of {after} from now on, before of {before}" in told.stdout
    again = start(watched=after)
    drop(after, "b.mrc")
    again.wait_log("picked b.*sequence number 2")
    assert again.stop() == 0


def test_a_ledger_restored_from_a_copy_is_said_to_whoever_listens(
    start: Serve, drop: Callable[..., None], tmp_path: Path
) -> None:
    daemon = start()
    ledger = daemon.out / "frazil-ledger.sqlite"
    drop(daemon.watched, "a.mrc")
    daemon.wait_log("picked a")
    assert daemon.stop() == 0
    shutil.copy(ledger, tmp_path / "copy")
    daemon = start()
    with frazil.PickStream(daemon.stream, resume=tmp_path / "cursor") as stream:
        drop(daemon.watched, "b.mrc", "c.mrc")
        assert [seq for seq, _ in names(stream, 3)] == [1, 2, 3]
        stream.acknowledge()
    assert daemon.stop() == 0
    shutil.copy(tmp_path / "copy", ledger)
    daemon = start()
    daemon.wait_log("expected documents up to number 3, found them up to 1")
    with frazil.PickStream(daemon.stream, resume=tmp_path / "cursor") as stream:
        assert sorted(names(stream, 2)) in ([(4, "b.mrc"), (5, "c.mrc")], [(4, "c.mrc"), (5, "b.mrc")])
        stream.acknowledge()
    assert daemon.stop() == 0


def test_a_ledger_that_turns_malformed_ends_the_daemon_and_is_rebuilt(
    start: Serve, drop: Callable[..., None], tmp_path: Path, blob_model: Path
) -> None:
    daemon = start()
    ledger = daemon.out / "frazil-ledger.sqlite"
    drop(daemon.watched, *(f"{i}.mrc" for i in range(6)))
    daemon.wait_log(r"sequence number 6\)")
    assert daemon.stop() == 0
    with closing(sqlite3.connect(ledger)) as database, database:  # enough that it does not lie in one page
        database.executemany(
            "INSERT INTO documents (seq, topic, path, body) VALUES (?, 'model', '', ?)",
            [(seq, b"{}" * 200) for seq in range(7, 407)],
        )
        database.execute("UPDATE meta SET value = '406' WHERE key = 'delivered'")
    daemon = start()
    with ledger.open("r+b") as file:  # all but the first page, beneath the running daemon
        size = os.fstat(file.fileno()).st_size
        file.seek(4096)
        file.write(os.urandom(size - 4096))
    with frazil.PickStream(daemon.stream, since=1):
        drop(daemon.watched, "next.mrc")
        assert daemon.process.wait(PATIENCE_SECONDS) == 65  # which a service manager does not start again
    said = "".join(daemon.log)
    assert "found it damaged" in said
    assert "frazil ledger rebuild" in said
    assert "Traceback" not in said
    refused = serve_command("--watch", daemon.watched, "--out", daemon.out, "--model", blob_model)
    assert refused.returncode == 65
    assert "found it damaged" in refused.stderr
    assert len(refused.stderr.splitlines()) == 1
    checked = subprocess.run(
        [BIN / "frazil", "ledger", "check", "--ledger", daemon.out], capture_output=True, text=True, timeout=60
    )
    assert checked.returncode != 0
    built = subprocess.run(
        [BIN / "frazil", "ledger", "rebuild", "--ledger", daemon.out], capture_output=True, text=True, timeout=60
    )
    assert built.returncode == 0, built.stderr
    assert check(ledger).faults == []
    again = start()
    again.wait_log("picked next")
    assert again.stop() == 0
    with LedgerReader(ledger) as reader:
        assert {r.path for r in reader.micrographs(["picked"])} == {*(f"{i}.mrc" for i in range(6)), "next.mrc"}
        assert reader.head() > 406


def test_one_damaged_document_neither_ends_the_daemon_nor_holds_up_what_follows(
    start: Serve, drop: Callable[..., None], tmp_path: Path
) -> None:
    daemon = start()
    drop(daemon.watched, "a.mrc")
    daemon.wait_log("picked a")
    with closing(sqlite3.connect(daemon.out / "frazil-ledger.sqlite")) as database, database:
        database.execute("UPDATE documents SET body = x'00' WHERE seq = 1")
    drop(daemon.watched, "b.mrc")
    with frazil.PickStream(daemon.stream, since=1) as stream:
        assert names(stream, 1) == [(2, "b.mrc")]
        assert stream.missing == [(1, 1)]
    daemon.wait_log(r"document 1 \(a.mrc\) is damaged in the ledger and passed over")
    assert urllib.request.urlopen(f"{daemon.page}api/now", timeout=10).status == 200
    assert daemon.process.poll() is None
    assert daemon.stop() == 0
    shown = subprocess.run(
        [BIN / "frazil", "ledger", "export", "--documents", "--ledger", daemon.out],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert shown.returncode == 0
    assert len(shown.stdout.splitlines()) == 1
    assert "skipped document 1, which is damaged" in shown.stderr
