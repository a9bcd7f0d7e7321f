"""Whose ledger it is, whether it is still there, and how far it had come."""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
import socket
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from frazil.errors import LedgerDamagedError, OutputError
from frazil.session.outbox.daemon_info import DaemonInfo, check_watch, move_watch
from frazil.session.outbox.file_stamp import FileStamp
from frazil.session.outbox.ledger import (
    DAEMON_KEY,
    Handled,
    Ledger,
    LedgerReader,
    Witness,
    check,
    is_fatal,
    read_witness,
)
from frazil.session.outbox.ledger.witness import WITNESS_NAME, Generation, outputs_of

HANDLED = Handled(stamp=FileStamp(size=10, mtime_ns=20), fingerprint="f")


def body(epoch: str, seq: int, _: int = 0) -> bytes:
    return f'{{"epoch":"{epoch}","seq":{seq}}}'.encode()


def witness_of(folder: Path) -> Witness:
    return Witness(folder, watch=folder / "watched", ledger=folder / "l")


def commit(ledger: Ledger, count: int = 1) -> int:
    for _ in range(count):
        seq, _ = ledger.commit_picked(f"{ledger.head}.mrc", HANDLED, body)
        ledger.note_given_out(seq)
    return ledger.head


# --- the witness ----------------------------------------------------------------------------------------------------


def test_a_restored_ledger_gives_no_number_out_twice(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with closing(witness_of(tmp_path)) as witness, closing(Ledger(tmp_path / "l", witness)) as ledger:
        commit(ledger, 3)
    shutil.copy(tmp_path / "l", tmp_path / "copy")
    with closing(witness_of(tmp_path)) as witness, closing(Ledger(tmp_path / "l", witness)) as ledger:
        assert commit(ledger, 4) == 7
        forgotten = ledger.generation
    assert not caplog.records
    shutil.copy(tmp_path / "copy", tmp_path / "l")
    with closing(witness_of(tmp_path)) as witness, closing(Ledger(tmp_path / "l", witness)) as ledger:
        assert "expected documents up to number 7, found them up to 3" in caplog.text
        assert ledger.head == 7
        assert commit(ledger) == 8
        with LedgerReader(tmp_path / "l") as reader:
            # Whoever read in the generation that was forgotten goes on where it is: its numbers are not used again.
            assert reader.common(forgotten, 6) == 6
            assert reader.common("unheard of", 6) is None
    # It is noted in the ledger itself: without the witness, too, the next start begins behind it.
    (tmp_path / ".frazil-witness").unlink()
    with closing(Ledger(tmp_path / "l")) as ledger:
        assert commit(ledger) == 9


def test_a_ledger_without_its_write_ahead_log_gives_no_number_out_twice(tmp_path: Path) -> None:
    with closing(witness_of(tmp_path)) as witness, closing(Ledger(tmp_path / "l", witness)) as ledger:
        commit(ledger, 3)
    with closing(witness_of(tmp_path)) as witness, closing(Ledger(tmp_path / "l", witness)) as ledger:
        commit(ledger, 4)
        shutil.copy(tmp_path / "l", tmp_path / "copy")  # which alone, as after a kill, lacks what is in the log
    shutil.copy(tmp_path / "copy", tmp_path / "l")
    with closing(witness_of(tmp_path)) as witness, closing(Ledger(tmp_path / "l", witness)) as ledger:
        with LedgerReader(tmp_path / "l") as reader:
            assert reader.head() == 3
        assert commit(ledger) == 8


def test_a_new_ledger_among_results_of_another_says_so(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with closing(witness_of(tmp_path)) as witness, closing(Ledger(tmp_path / "l", witness)) as ledger:
        commit(ledger, 3)
    with closing(witness_of(tmp_path)) as witness, closing(Ledger(tmp_path / "other", witness)) as ledger:
        assert "came from another ledger, with 3 documents" in caplog.text
        assert commit(ledger) == 1
        assert read_witness(tmp_path) == (ledger.epoch, 1)


@pytest.mark.parametrize("content", [b"", b"x" * 100, b"{}" * 400, b"\0" * 4096])
def test_a_witness_that_says_nothing_stops_nobody(tmp_path: Path, content: bytes) -> None:
    (tmp_path / ".frazil-witness").write_bytes(content)
    with closing(witness_of(tmp_path)) as witness, closing(Ledger(tmp_path / "l", witness)) as ledger:
        commit(ledger)
    assert read_witness(tmp_path)[1] == 1


def test_a_second_daemon_is_kept_off_the_output_directory_whatever_its_ledger(tmp_path: Path) -> None:
    with closing(witness_of(tmp_path)) as held:
        with pytest.raises(OutputError, match=r"in use by another frazil daemon \(process \d+ on .*watching .*watched"):
            Witness(tmp_path, watch=tmp_path / "else", ledger=tmp_path / "own")
        (tmp_path / ".frazil-witness").unlink()  # whoever empties the directory takes the lock away with it
        held.beat()
        with pytest.raises(OutputError, match="in use by another frazil daemon"):
            witness_of(tmp_path)
    witness_of(tmp_path).close()


def test_an_output_directory_that_is_gone_is_claimed_again_once_it_is_there(tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    with closing(Witness(out, watch=tmp_path, ledger=tmp_path / "l")) as witness:
        witness.begin("e", 5, ())
        witness.note(6)
        shutil.rmtree(out)
        witness.beat()
        out.mkdir()
        witness.beat()
        assert read_witness(out) == ("e", 6)
        with pytest.raises(OutputError, match="in use by another"):
            Witness(out, watch=tmp_path, ledger=tmp_path / "l")


def test_a_number_that_the_witness_cannot_note_is_said_once_until_it_can_again(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    file = tmp_path / ".frazil-witness"
    with closing(witness_of(tmp_path)) as witness:
        witness.begin("e", 3, ())
        for count in (1, 2):
            file.rename(tmp_path / "away")
            witness.note(4)
            witness.note(5)
            said = [record.getMessage() for record in caplog.records]
            assert len(said) == count
            assert all(f"{file}: cannot be written (" in one and "is not recognised" in one for one in said)
            assert read_witness(tmp_path) == ("", 0)
            (tmp_path / "away").rename(file)
            witness.note(6)
            assert read_witness(tmp_path) == ("e", 6)
            witness.beat()
    assert read_witness(tmp_path) == ("e", 6)


def test_another_file_in_the_place_of_the_witness_is_not_written_to(tmp_path: Path) -> None:
    file = tmp_path / ".frazil-witness"
    with closing(witness_of(tmp_path)) as witness:
        witness.begin("e", 3, ())
        file.rename(tmp_path / "away")
        file.write_text("of somebody else")
        witness.note(4)
        assert file.read_text() == "of somebody else"
        with pytest.raises(OutputError, match=r"\.frazil-witness: cannot be written: another file is in its place"):
            witness.begin("e", 4, ())


def test_a_witness_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match=r"none/\.frazil-witness: expected a file that can be written: No such file"):
        witness_of(tmp_path / "none")


def test_a_share_that_locks_only_what_is_open_for_writing_is_claimed_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lock = fcntl.flock

    def as_on_nfs(descriptor: int, how: int) -> None:
        if fcntl.fcntl(descriptor, fcntl.F_GETFL) & os.O_ACCMODE == os.O_RDONLY:
            raise OSError(errno.EBADF, "Bad file descriptor")
        lock(descriptor, how)

    monkeypatch.setattr("frazil.session.outbox.ledger.witness.fcntl.flock", as_on_nfs)
    with closing(witness_of(tmp_path)), pytest.raises(OutputError, match="in use by another frazil daemon"):
        witness_of(tmp_path)


def test_where_nothing_can_be_locked_the_log_names_the_file_and_why(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def cannot(descriptor: int, how: int) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr("frazil.session.outbox.ledger.witness.fcntl.flock", cannot)
    with closing(witness_of(tmp_path)):
        (warned,) = caplog.records
    assert str(tmp_path / WITNESS_NAME) in warned.getMessage()
    assert "No locks available" in warned.getMessage()


def test_others_may_read_the_witness_and_not_write_it(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        with closing(witness_of(tmp_path)):
            assert (tmp_path / WITNESS_NAME).stat().st_mode & 0o777 == 0o644
    finally:
        os.umask(before)


@pytest.mark.parametrize("content", [b"", b"notes of the operator", b"{}"])
def test_a_witness_that_says_nothing_is_of_no_ledger(tmp_path: Path, content: bytes) -> None:
    assert read_witness(tmp_path) == ("", 0)
    (tmp_path / WITNESS_NAME).write_bytes(content)
    assert read_witness(tmp_path) == ("", 0)


def test_the_witness_says_who_writes_here_and_what_it_was_told(tmp_path: Path) -> None:
    with closing(witness_of(tmp_path)) as witness:
        assert (witness.epoch, witness.seq, witness.generations) == ("", 0, ())
        witness.begin("e", 3, tuple(Generation(f"{i}", i) for i in range(1005)))
        with pytest.raises(OutputError) as refused:
            Witness(tmp_path, watch=tmp_path, ledger=tmp_path / "own")
    who = f"process {os.getpid()} on {socket.gethostname()}, watching {tmp_path}/watched, with the ledger {tmp_path}/l"
    assert str(refused.value) == (
        f"{tmp_path}: expected an output directory that is free, found it in use by another frazil daemon ({who}): "
        "give each an --out of its own"
    )
    with closing(witness_of(tmp_path)) as again:
        assert (again.epoch, again.seq) == ("e", 3)
        assert [generation.first for generation in again.generations] == list(range(5, 1005))


def test_a_witness_that_ended_or_is_of_this_host_is_not_watched_for_a_sign_of_life(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("frazil.session.outbox.ledger.witness._OTHER_HOST_SECONDS", 1e6)
    witness_of(tmp_path).close()
    file = tmp_path / ".frazil-witness"
    file.write_bytes(file.read_bytes().replace(b'"ended":true', b'"ended":false'))  # as after a kill
    witness_of(tmp_path).close()
    monkeypatch.setattr("socket.gethostname", lambda: "elsewhere")
    witness_of(tmp_path).close()


def test_the_output_directory_is_where_the_daemon_said_or_where_the_ledger_lies(tmp_path: Path) -> None:
    assert outputs_of(tmp_path / "l", '{"out":"/results"}') == Path("/results")
    for info in ("", "{", "[]", '{"out":5}'):
        assert outputs_of(tmp_path / "l", info) == tmp_path
    assert read_witness(tmp_path) == ("", 0)


def test_a_daemon_that_lost_the_directory_to_another_ends(tmp_path: Path) -> None:
    with closing(witness_of(tmp_path)) as first:
        (tmp_path / ".frazil-witness").unlink()
        with closing(witness_of(tmp_path)), pytest.raises(OutputError, match="in use by another"):
            first.beat()


def test_a_daemon_on_another_host_is_seen_by_its_beat_where_locks_do_not_reach(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The lock is the kernel's own, so the other host is a process that holds the file without one."""
    monkeypatch.setattr("socket.gethostname", lambda: "elsewhere")
    with closing(witness_of(tmp_path)):
        left_behind = (tmp_path / ".frazil-witness").read_bytes()
    monkeypatch.undo()
    monkeypatch.setattr("frazil.session.outbox.ledger.witness._OTHER_HOST_SECONDS", 1.0)
    (tmp_path / ".frazil-witness").write_bytes(left_behind.replace(b'"ended":true', b'"ended":false'))
    beats = subprocess.Popen(
        [sys.executable, "-c", "import os,sys,time\nwhile True: os.utime(sys.argv[1]); time.sleep(0.05)",
         str(tmp_path / ".frazil-witness")]
    )  # fmt: skip
    try:
        with pytest.raises(OutputError, match=r"process .* on elsewhere"):
            witness_of(tmp_path)
    finally:
        beats.kill()
        beats.wait()
    witness_of(tmp_path).close()  # it is dead by now


# --- is it still there ----------------------------------------------------------------------------------------------


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    made = Ledger(tmp_path / "l")
    yield made
    made.close()


def refuses(ledger: Ledger) -> bool:
    head = ledger.head
    with pytest.raises(sqlite3.Error) as raised:
        commit(ledger)
    return ledger.head == head and is_fatal(raised.value)


def test_a_ledger_that_is_there_passes_every_look(ledger: Ledger) -> None:
    for _ in range(3):
        ledger.look()
        commit(ledger, 2)
        ledger.remember("a", "b")
    with sqlite3.connect(ledger.file) as other:  # what others do to it is no harm
        other.execute("INSERT INTO requests (path, made_at) VALUES ('a', 1)")
    other.close()
    ledger.look()


def test_a_deleted_ledger_gives_no_number_out_and_is_saved(ledger: Ledger, tmp_path: Path) -> None:
    commit(ledger, 5)
    for file in tmp_path.iterdir():
        file.unlink()
    assert refuses(ledger)
    with pytest.raises(OutputError, match="found that it was deleted while frazil ran"):
        ledger.look()
    beats: list[None] = []
    says = ledger.rescue(lambda: beats.append(None))
    (saved,) = tmp_path.glob("l.*.bak")
    assert says == f"what it held is saved in {saved}"
    assert beats
    with LedgerReader(saved) as reader:
        assert [seq for seq, _ in reader.documents()] == [1, 2, 3, 4, 5]
    with closing(Ledger(tmp_path / "l")) as fresh:
        assert (fresh.head, fresh.epoch == ledger.epoch) == (0, False)


def test_a_ledger_whose_directory_was_deleted_is_saved_in_a_new_one_with_signs_of_life(tmp_path: Path) -> None:
    file = tmp_path / "session" / "out" / "l"
    file.parent.mkdir(parents=True)
    beats: list[None] = []
    with closing(Ledger(file)) as ledger:
        ledger.commit_picked("a.mrc", HANDLED, body, score_map=bytes(9_000_000))
        shutil.rmtree(tmp_path / "session")
        with pytest.raises(OutputError, match="found that it was deleted"):
            ledger.look()
        ledger.rescue(lambda: beats.append(None))
    assert len(beats) > 2
    (saved,) = file.parent.glob("l.*.bak")
    assert check(saved).documents == 1


def test_a_ledger_that_cannot_be_saved_says_why(tmp_path: Path) -> None:
    file = tmp_path / "session" / "l"
    file.parent.mkdir()
    with closing(Ledger(file)) as ledger:
        shutil.rmtree(tmp_path / "session")
        (tmp_path / "session").write_text("in the way")
        assert ledger.rescue().startswith(f"what it held cannot be saved in {file}.")


def test_a_ledger_that_was_moved_away_is_named(ledger: Ledger, tmp_path: Path) -> None:
    commit(ledger)
    (tmp_path / "l").rename(tmp_path / "moved")
    shutil.copy(tmp_path / "moved", tmp_path / "l")
    with pytest.raises(OutputError, match="found that another file is in its place"):
        ledger.look()
    assert ledger.rescue() == f"it is now {tmp_path / 'moved'}"
    assert not list(tmp_path.glob("*.bak"))


@pytest.mark.parametrize("ending", ["-wal", "-shm"])
def test_a_write_ahead_log_that_is_deleted_is_noticed_and_nothing_of_it_lost(
    ledger: Ledger, tmp_path: Path, ending: str
) -> None:
    commit(ledger, 5)
    (tmp_path / f"l{ending}").unlink()
    with pytest.raises(OutputError, match=rf"l{ending}: .* it was deleted"):
        ledger.look()
    assert ledger.rescue() == ""
    if ending == "-wal":
        shutil.copy(tmp_path / "l", tmp_path / "copy")  # the file alone has it all
        with closing(Ledger(tmp_path / "copy")) as copy:
            assert copy.head == 5
    ledger.close()
    with closing(Ledger(tmp_path / "l")) as again:
        assert again.head == 5


def test_a_ledger_written_over_in_its_place_is_noticed(ledger: Ledger, tmp_path: Path) -> None:
    commit(ledger)
    with closing(sqlite3.connect(tmp_path / "copy")) as copy, closing(sqlite3.connect(ledger.file)) as database:
        database.backup(copy)
    commit(ledger, 3)
    with closing(sqlite3.connect(tmp_path / "copy")) as copy, closing(sqlite3.connect(ledger.file)) as database:
        copy.backup(database)  # as somebody does who restores a copy while the daemon runs
    with pytest.raises(OutputError, match="found it written over"):
        ledger.look()
    assert refuses(ledger)


def test_a_ledger_that_was_spoilt_in_its_place_is_noticed(ledger: Ledger) -> None:
    commit(ledger, 5)
    with closing(sqlite3.connect(ledger.file)) as other:
        other.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
    with ledger.file.open("r+b") as file:
        file.write(b"\x55" * 4096)
    with pytest.raises(LedgerDamagedError, match=rf"{ledger.file}: expected a frazil ledger, found it damaged"):
        ledger.look()
    assert refuses(ledger)


def test_a_ledger_that_was_told_to_stop_takes_nothing_more_and_says_why(ledger: Ledger) -> None:
    commit(ledger)
    ledger.stop(OutputError("the first reason"))
    ledger.stop(OutputError("another"))
    assert refuses(ledger)
    for use in (ledger.known, ledger.take_requests, lambda: ledger.remember("a", "b")):
        with pytest.raises(sqlite3.Error, match="the first reason"):
            use()
    with pytest.raises(OutputError, match="the first reason"):
        ledger.look()


# --- whose it is ----------------------------------------------------------------------------------------------------


def leave_info(ledger: Ledger, watch: Path) -> None:
    info = DaemonInfo(pid=1, started_at=0.0, watch=str(watch), out="/out", stream="", metrics="", model="", provider="")
    ledger.remember(DAEMON_KEY, info.encode())


def test_a_ledger_is_of_one_watched_directory(ledger: Ledger, tmp_path: Path) -> None:
    check_watch(ledger, tmp_path / "any")
    leave_info(ledger, tmp_path / "session42")
    check_watch(ledger, tmp_path / "session43")  # it knows no micrograph: nothing can be mixed up
    commit(ledger)
    check_watch(ledger, tmp_path / "session42")
    with pytest.raises(OutputError, match=r"expected a ledger of .*session43, found that of .*session42.*set-watch"):
        check_watch(ledger, tmp_path / "session43")


def test_a_watched_directory_may_have_two_names(ledger: Ledger, tmp_path: Path) -> None:
    (tmp_path / "session").mkdir()
    (tmp_path / "link").symlink_to("session")
    leave_info(ledger, tmp_path / "session")
    commit(ledger)
    check_watch(ledger, tmp_path / "link")


def test_a_directory_that_was_renamed_is_told_to_the_ledger(ledger: Ledger, tmp_path: Path) -> None:
    leave_info(ledger, tmp_path / "before")
    commit(ledger)
    now = tmp_path / "now"
    with pytest.raises(OutputError, match="expected the watched directory, found none"):
        move_watch(ledger.file, now)
    now.mkdir()
    with pytest.raises(OutputError, match=r"found none of 1 that the ledger knows, such as 0\.mrc"):
        move_watch(ledger.file, now)
    (now / "0.mrc").touch()
    with pytest.raises(OutputError, match="in use by another frazil daemon"):
        move_watch(ledger.file, now)
    ledger.close()
    assert move_watch(ledger.file, now) == str(tmp_path / "before")
    with closing(Ledger(ledger.file)) as again:
        check_watch(again, now)


# --- layout 2 -------------------------------------------------------------------------------------------------------

LAYOUT_2 = """
CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE micrographs (
    path TEXT PRIMARY KEY,
    state TEXT NOT NULL CHECK (state IN ('seen', 'waiting', 'picked', 'failed', 'quarantined', 'gone')),
    size INTEGER NOT NULL, mtime_ns INTEGER NOT NULL, fingerprint TEXT NOT NULL DEFAULT '',
    reason TEXT NOT NULL DEFAULT '', message TEXT NOT NULL DEFAULT '', attempts INTEGER NOT NULL DEFAULT 0,
    seen_at REAL, complete_at REAL, picked_at REAL, published_at REAL, seq INTEGER
) WITHOUT ROWID;
CREATE INDEX micrographs_by_state ON micrographs (state);
CREATE TABLE documents (
    seq INTEGER PRIMARY KEY, topic TEXT NOT NULL, path TEXT NOT NULL, body BLOB NOT NULL, committed_at REAL,
    superseded_by INTEGER
);
CREATE TABLE score_maps (seq INTEGER PRIMARY KEY, body BLOB NOT NULL);
CREATE TABLE requests (id INTEGER PRIMARY KEY, path TEXT NOT NULL, made_at REAL NOT NULL);
INSERT INTO meta VALUES ('layout', '2'), ('epoch', 'abc'), ('delivered', '2'), ('archived', '0');
INSERT INTO micrographs (path, state, size, mtime_ns, fingerprint, attempts, seq)
    VALUES ('a', 'picked', 10, 20, 'f', 1, 1);
INSERT INTO documents VALUES
    (1, 'picks', 'a', CAST('{"one":1}' AS BLOB), 5.0, NULL), (2, 'model', '', CAST('{}' AS BLOB), 6.0, NULL);
"""


@pytest.fixture
def of_layout_2(tmp_path: Path) -> Path:
    """As frazil made it before this layout."""
    with closing(sqlite3.connect(tmp_path / "l")) as database:
        database.execute("PRAGMA auto_vacuum=INCREMENTAL")
        database.execute("PRAGMA journal_mode=WAL")
        database.executescript(LAYOUT_2)
    return tmp_path / "l"


def test_a_ledger_of_layout_2_is_brought_up_to_date(of_layout_2: Path) -> None:
    with closing(Ledger(of_layout_2)) as ledger:
        assert (ledger.epoch, ledger.head) == ("abc", 2)
        assert ledger.known() == {"a": FileStamp(size=10, mtime_ns=20)}
        assert commit(ledger) == 3
    with LedgerReader(of_layout_2) as reader:
        assert reader.meta()["layout"] == "5"
        assert [(s.seq, s.body[:7], s.checksum is None) for s in reader.documents()] == [
            (1, b'{"one":', True),
            (2, b"{}", True),
            (3, b'{"epoch', False),
        ]
        assert len(reader.generations()) == 1


def test_a_ledger_of_layout_2_is_read_as_it_is(of_layout_2: Path) -> None:
    """An archive of an earlier frazil is opened by nobody else."""
    with LedgerReader(of_layout_2) as reader:
        assert [seq for seq, _ in reader.documents()] == [1, 2]
        assert reader.history("a") == [(1, b'{"one":1}')]
        assert reader.document(2) is not None
        assert reader.meta()["layout"] == "2"
    assert check(of_layout_2).head == 2


def test_many_may_open_an_older_ledger_at_once(of_layout_2: Path) -> None:
    errors: list[BaseException] = []

    def open_one(name: str) -> None:
        try:
            with closing(Ledger(of_layout_2)):
                pass
        except OutputError as error:
            if "in use" not in str(error):
                errors.append(error)

    threads = [threading.Thread(target=open_one, args=(str(i),)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not errors
    with closing(Ledger(of_layout_2)) as ledger:
        assert ledger.head == 2


def test_a_damaged_ledger_is_told_from_a_full_disk(tmp_path: Path) -> None:
    with closing(Ledger(tmp_path / "l")) as ledger:
        commit(ledger, 50)
    content = bytearray((tmp_path / "l").read_bytes())
    content[:100] = bytes(100)
    (tmp_path / "l").write_bytes(content)
    with pytest.raises(LedgerDamagedError, match=r"found it damaged .*ledger check .*ledger rebuild"):
        Ledger(tmp_path / "l")
    with pytest.raises(LedgerDamagedError):
        LedgerReader(tmp_path / "l")
    with closing(sqlite3.connect(":memory:")) as database:
        with pytest.raises(sqlite3.Error) as missing:
            database.execute("SELECT * FROM documents")
        with pytest.raises(sqlite3.Error) as nested:
            database.executescript("BEGIN; BEGIN")
    assert is_fatal(missing.value)
    assert not is_fatal(nested.value)
    assert not is_fatal(OSError(28, "No space left on device"))
    full = sqlite3.OperationalError("database or disk is full")
    full.sqlite_errorcode = sqlite3.SQLITE_FULL
    assert not is_fatal(full)
