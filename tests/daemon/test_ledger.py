"""The ledger: numbers without gaps, nothing forgotten, one daemon at a time, others welcome."""

from __future__ import annotations

import os
import re
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing
from pathlib import Path

import pytest

from frazil.errors import OutputError
from frazil.session.outbox.file_stamp import FileStamp
from frazil.session.outbox.ledger import (
    LEDGER_NAME,
    Handled,
    Ledger,
    LedgerReader,
    Note,
    archive,
    meta_keys,
    request_requeue,
)

HANDLED = Handled(stamp=FileStamp(size=10, mtime_ns=20), fingerprint="f")


def body(epoch: str, seq: int, supersedes: int = 0) -> bytes:
    return f"{epoch}:{seq}".encode() + (f">{supersedes}".encode() if supersedes else b"")


def test_sequence_numbers_have_no_gaps_over_restarts(tmp_path: Path) -> None:
    file = tmp_path / "ledger.sqlite"
    numbers, epochs = [], set()
    for start in range(3):
        ledger = Ledger(file)
        epochs.add(ledger.epoch)
        numbers += [ledger.commit_picked(f"{start}-{i}.mrc", HANDLED, body)[0] for i in range(4)]
        assert ledger.head == numbers[-1]
        ledger.close()
    assert numbers == list(range(1, 13))
    assert len(epochs) == 1


def test_another_ledger_is_another_epoch(tmp_path: Path) -> None:
    first, second = Ledger(tmp_path / "a"), Ledger(tmp_path / "b")
    assert first.epoch != second.epoch
    first.close()
    second.close()


def test_what_was_not_marked_delivered_is_delivered_after_a_restart(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "l")
    for name in "abc":
        ledger.commit_picked(name, HANDLED, body)
    ledger.mark_delivered(1)
    ledger.close()
    ledger = Ledger(tmp_path / "l")
    assert [tuple(stored) for stored in ledger.undelivered()] == [(seq, body(ledger.epoch, seq)) for seq in (2, 3)]
    ledger.mark_delivered(3)
    assert list(ledger.undelivered()) == []
    ledger.close()


def test_all_that_was_not_delivered_is_read_though_it_is_more_than_is_read_at_once(tmp_path: Path) -> None:
    with closing(Ledger(tmp_path / "l")) as ledger:
        for i in range(250):
            ledger.commit_picked(f"{i}", HANDLED, body)
        assert [stored.seq for stored in ledger.undelivered()] == list(range(1, 251))


def test_the_first_of_several_paths_with_a_result_is_the_one_picked_first(ledger: Ledger) -> None:
    ledger.note([note("c")])
    ledger.commit_failed("d", HANDLED, "not_mrc", "", "quarantined", body)
    assert ledger.first_with_result(["a", "c", "d"]) is None
    assert ledger.first_with_result([]) is None
    for path in ("b", "a"):
        ledger.commit_picked(path, HANDLED, body)
    assert ledger.first_with_result(["a", "c", "b"]) == "b"
    assert ledger.first_with_result(["c", "a"]) == "a"


def test_a_document_that_cannot_be_made_uses_up_no_number(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "l")

    def broken(epoch: str, seq: int, supersedes: int) -> bytes:
        raise RuntimeError("no document")

    with pytest.raises(RuntimeError):
        ledger.commit_picked("a.mrc", HANDLED, broken)
    assert ledger.known() == {}
    assert ledger.commit_picked("a.mrc", HANDLED, body)[0] == 1
    ledger.close()


def test_picked_failed_and_touched_micrographs_are_remembered(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "l")
    ledger.commit_picked("a.mrc", HANDLED, body)
    ledger.commit_failed("b.mrc", HANDLED, "truncated", "b.mrc: too short", "quarantined", body)
    later = FileStamp(size=10, mtime_ns=99)
    ledger.restamp("a.mrc", later)
    ledger.close()
    ledger = Ledger(tmp_path / "l")
    assert ledger.known() == {"a.mrc": later, "b.mrc": HANDLED.stamp}
    ledger.close()


def test_picks_failures_and_other_documents_share_one_sequence(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "l")
    assert ledger.commit_picked("a.mrc", HANDLED, body)[0] == 1
    assert ledger.commit_failed("b.mrc", HANDLED, "truncated", "too short", "quarantined", body) == 2
    assert ledger.commit_document("model", body) == 3
    assert ledger.head == 3
    with LedgerReader(tmp_path / "l") as reader:
        assert [seq for seq, _ in reader.documents(after=1)] == [2, 3]
        assert [tuple(stored) for stored in reader.documents(limit=1)] == [(1, body(ledger.epoch, 1))]
    ledger.close()


def test_a_second_daemon_is_kept_off(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "l")
    with pytest.raises(OutputError, match="in use by another frazil daemon"):
        Ledger(tmp_path / "l")
    ledger.close()
    Ledger(tmp_path / "l").close()


def test_a_file_that_is_no_ledger_is_refused_and_left_alone(tmp_path: Path) -> None:
    file = tmp_path / "notes.txt"
    file.write_text("notes " * 500)
    with pytest.raises(OutputError, match=r"notes\.txt: expected a frazil ledger"):
        Ledger(file)
    assert file.read_text() == "notes " * 500


def test_a_ledger_of_another_layout_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "l"
    Ledger(file).close()
    with sqlite3.connect(file) as database:
        database.execute("UPDATE meta SET value = '99' WHERE key = 'layout'")
    database.close()
    with pytest.raises(OutputError, match="expected ledger layout 5 or older, found 99"):
        Ledger(file)


def test_a_place_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="missing/l"):
        Ledger(tmp_path / "missing" / "l")


# --- what is known of every micrograph --------------------------------------------------------------------------


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    made = Ledger(tmp_path / "l")
    yield made
    made.close()


def note(path: str, state: str = "seen", size: int = 10) -> Note:
    return Note(key=path, stamp=FileStamp(size=size, mtime_ns=20), state=state)  # type: ignore[arg-type]


def states(ledger: Ledger) -> dict[str, str]:
    with LedgerReader(ledger.file) as reader:
        return {record.path: record.state for record in reader.micrographs()}


def test_a_micrograph_goes_through_its_states_and_a_restart_knows_what_needs_no_look(ledger: Ledger) -> None:
    ledger.note([note("a"), note("b"), note("c"), note("d"), note("e", "waiting")])
    ledger.commit_picked("a", HANDLED, body)
    ledger.commit_failed("b", HANDLED, "unreadable", "b: cannot be read", "failed", body)
    ledger.commit_failed("c", HANDLED, "not_mrc", "c: is text", "quarantined", body)
    ledger.note_gone(["d"])
    expected = {"a": "picked", "b": "failed", "c": "quarantined", "d": "gone", "e": "waiting"}
    assert states(ledger) == expected
    assert sorted(ledger.known()) == ["a", "c"]
    assert ledger.missing() == ["d"]
    with LedgerReader(ledger.file) as reader:
        assert reader.counts() == dict.fromkeys(expected.values(), 1)
        assert [r.path for r in reader.micrographs(["picked", "failed"])] == ["a", "b"]


def test_a_file_that_is_gone_keeps_its_result_and_returns_to_what_it_was(ledger: Ledger) -> None:
    ledger.commit_picked("a", HANDLED, body)
    ledger.commit_failed("b", HANDLED, "not_mrc", "", "quarantined", body)
    ledger.note_gone(["a", "b", "unheard of"])
    assert set(states(ledger).values()) == {"gone"}
    assert sorted(ledger.known()) == ["a", "b"]
    ledger.note_returned(["a", "b"])
    assert states(ledger) == {"a": "picked", "b": "quarantined"}


def test_attempts_are_counted_until_the_micrograph_is_picked_or_changes(ledger: Ledger) -> None:
    ledger.note([note("a")])
    for attempt in range(3):
        assert ledger.attempts("a") == attempt
        ledger.commit_failed("a", HANDLED, "unreadable", "", "failed", body)
    ledger.commit_picked("a", HANDLED, body)
    with LedgerReader(ledger.file) as reader:
        record = reader.micrograph("a")
    assert record is not None
    assert (record.attempts, record.state, record.reason) == (4, "picked", "")
    assert ledger.attempts("a") == 0


def test_a_file_written_again_gets_a_new_number_and_supersedes_the_old_result(ledger: Ledger) -> None:
    ledger.commit_picked("a", HANDLED, body, score_map=b"old")
    ledger.commit_picked("b", HANDLED, body)
    ledger.note([note("a", size=99)])  # while the new one is proved, the old one stands
    assert states(ledger)["a"] == "picked"
    seq, document = ledger.commit_picked("a", HANDLED, body, score_map=b"new")
    assert (seq, document) == (3, f"{ledger.epoch}:3>1".encode())
    with LedgerReader(ledger.file) as reader:
        assert [number for number, _ in reader.history("a")] == [1, 3]
        assert (reader.score_map(1), reader.score_map(3)) == (None, b"new")
        record = reader.micrograph("a")
        assert record is not None
        assert record.seq == 3
    with sqlite3.connect(ledger.file) as database:
        assert database.execute("SELECT seq, superseded_by FROM documents").fetchall() == [(1, 3), (2, None), (3, None)]
    database.close()


def test_a_file_that_was_gone_is_new_again_only_where_nothing_is_known_of_it(ledger: Ledger) -> None:
    ledger.note([note("new")])
    ledger.commit_picked("picked", HANDLED, body)
    ledger.commit_failed("failed", HANDLED, "unreadable", "", "failed", body)
    ledger.commit_failed("quarantined", HANDLED, "not_mrc", "", "quarantined", body)
    every = ["new", "picked", "failed", "quarantined"]
    ledger.note_gone(every)
    assert sorted(ledger.missing()) == sorted(every)
    ledger.note_returned(every)
    assert states(ledger) == {"new": "gone", "picked": "picked", "failed": "quarantined", "quarantined": "quarantined"}
    ledger.note_gone(every)
    ledger.note([note(path, "waiting") for path in every])
    assert {path: state for path, state in states(ledger).items() if state != "gone"} == {
        "new": "waiting",
        "failed": "waiting",
        "quarantined": "waiting",
    }


def test_a_file_that_was_touched_while_it_was_gone_is_known_again(ledger: Ledger) -> None:
    ledger.commit_picked("a", HANDLED, body)
    ledger.note([note("b")])
    ledger.note_gone(["a"])
    for path in ("a", "b"):
        ledger.restamp(path, FileStamp(size=11, mtime_ns=21))
    assert states(ledger) == {"a": "picked", "b": "seen"}
    assert ledger.known() == {"a": FileStamp(size=11, mtime_ns=21)}
    assert (ledger.fingerprint("a"), ledger.fingerprint("b")) == ("f", None)


def test_times_are_recorded(ledger: Ledger) -> None:
    before = time.time()
    ledger.note([note("a")])
    seq, _ = ledger.commit_picked("a", HANDLED, body, complete_at_unix=before)
    ledger.mark_delivered(seq)
    with LedgerReader(ledger.file) as reader:
        record = reader.micrograph("a")
    assert record is not None
    assert record.seen_at is not None
    assert record.picked_at is not None
    assert record.published_at is not None
    assert record.complete_at == before <= record.seen_at <= record.picked_at <= record.published_at <= time.time()


def test_names_may_hold_what_they_like(ledger: Ledger) -> None:
    names = ["100%_a.mrc", "a_b.mrc", "it's.mrc", "grid 1/a.mrc", "grid 10/a.mrc", 'x"; DROP TABLE meta; --.mrc']
    for name in names:
        ledger.commit_picked(name, HANDLED, body)
    with LedgerReader(ledger.file) as reader:
        assert sorted(r.path for r in reader.micrographs()) == sorted(names)
        assert [r.path for r in reader.micrographs(below="grid 1/")] == ["grid 1/a.mrc"]
        assert [r.path for r in reader.micrographs(below="100%")] == ["100%_a.mrc"]


def test_documents_are_read_from_any_place_in_the_stream(ledger: Ledger) -> None:
    for i in range(10):
        ledger.commit_picked(f"{i}", HANDLED, body)
    with LedgerReader(ledger.file) as reader:
        assert [seq for seq, _ in reader.documents(after=7)] == [8, 9, 10]
        assert [seq for seq, _ in reader.documents(after=2, limit=3)] == [3, 4, 5]


# --- other processes --------------------------------------------------------------------------------------------

REQUEUE = "import sys; from pathlib import Path; from frazil.session.outbox.ledger import request_requeue\n"
REQUEUE += "for path in sys.argv[2:]: request_requeue(Path(sys.argv[1]), [path])"


def test_a_late_note_does_not_hide_a_failure(ledger: Ledger) -> None:
    ledger.commit_failed("a", HANDLED, "memory", "", "failed", body)
    ledger.note([note("a")])
    assert states(ledger) == {"a": "failed"}
    ledger.note([note("a", size=99)])
    assert states(ledger) == {"a": "seen"}


def test_requests_of_other_processes_are_granted_while_the_daemon_writes(ledger: Ledger) -> None:
    names = [f"{i}.mrc" for i in range(40)]
    for name in names:
        ledger.commit_picked(name, HANDLED, body)
    granted: list[str] = []
    written = 0
    with ExitStack() as running:
        others = [
            running.enter_context(subprocess.Popen([sys.executable, "-c", REQUEUE, ledger.file, *names[k::2]]))
            for k in range(2)
        ]
        deadline = time.monotonic() + 60
        while any(other.poll() is None for other in others) or len(granted) < len(names):
            granted += ledger.take_requests()
            ledger.commit_picked(f"new{written}.mrc", HANDLED, body)
            written += 1
            assert time.monotonic() < deadline, f"{len(granted)} of {len(names)} granted after {written} micrographs"
            time.sleep(0.001)
    assert [other.returncode for other in others] == [0, 0]
    assert sorted(granted) == sorted(names)
    assert ledger.head == 40 + written
    assert not set(names) & set(ledger.known())


def test_requests_for_all_that_failed_and_for_the_unknown(ledger: Ledger) -> None:
    ledger.commit_picked("a", HANDLED, body)
    ledger.commit_failed("b", HANDLED, "not_mrc", "", "quarantined", body)
    ledger.commit_failed("c", HANDLED, "unreadable", "", "failed", body)
    assert request_requeue(ledger.file, states=["failed", "quarantined"]) == 2
    with pytest.raises(OutputError, match="expected a micrograph that it knows, found 'x'"):
        request_requeue(ledger.file, ["a", "x"])
    assert sorted(ledger.take_requests()) == ["b", "c"]
    assert states(ledger) == {"a": "picked", "b": "seen", "c": "seen"}
    assert ledger.take_requests() == {}


def test_a_change_of_the_model_may_requeue_all_that_is_picked_and_nobody_waits_for_that(ledger: Ledger) -> None:
    for key in ("a", "b"):
        ledger.commit_picked(key, HANDLED, body)
    ledger.commit_failed("c", HANDLED, "not_mrc", "", "quarantined", body)
    ledger.commit_document("model", body)
    assert ledger.take_requests() == {}
    ledger.commit_document("model", body, requeue=True)
    request_requeue(ledger.file, ["a"])
    assert ledger.take_requests() == {"b": False, "a": True}
    assert sorted(ledger.requeued()) == ["a", "b"]
    assert states(ledger) == {"a": "seen", "b": "seen", "c": "quarantined"}
    ledger.commit_picked("a", HANDLED, body)
    assert ledger.requeued() == ["b"]


def test_requests_survive_a_daemon_that_is_down(tmp_path: Path) -> None:
    first = Ledger(tmp_path / "l")
    first.commit_picked("a", HANDLED, body)
    first.close()
    assert request_requeue(tmp_path / "l", ["a"]) == 1
    second = Ledger(tmp_path / "l")
    assert second.take_requests() == {"a": True}
    second.close()


def test_readers_make_nothing_and_need_a_ledger(tmp_path: Path) -> None:
    for use in (LedgerReader, request_requeue):
        with pytest.raises(OutputError, match="expected a ledger, found none"):
            use(tmp_path / "none")
    assert list(tmp_path.iterdir()) == []


def test_the_history_of_a_micrograph_is_every_result_it_had(ledger: Ledger, tmp_path: Path) -> None:
    def made(epoch: str, seq: int, supersedes: int) -> bytes:
        return b'{"seq":%d,"supersedes":%d}' % (seq, supersedes)

    for path in ("a.mrc", "b.mrc", "a.mrc", "c.mrc", "a.mrc"):
        ledger.commit_picked(path, HANDLED, made)
    ledger.commit_failed("a.mrc", HANDLED, "truncated", "", "failed", body)  # is no result
    ledger.commit_failed("d.mrc", HANDLED, "truncated", "", "failed", body)
    ledger.mark_delivered(7)  # what is not out is not archived
    with LedgerReader(ledger.file) as reader:
        assert reader.history("a.mrc") == [(1, made("", 1, 0)), (3, made("", 3, 1)), (5, made("", 5, 3))]
        assert [seq for seq, _ in reader.history("b.mrc")] == [2]
        assert reader.history("d.mrc") == reader.history("unknown.mrc") == []
        archive(ledger.file, tmp_path / "archive", before=reader.document(3).committed_at)  # type: ignore[union-attr,arg-type]
        assert [seq for seq, _ in reader.history("a.mrc")] == [3, 5]
    with LedgerReader(tmp_path / "archive") as archived:
        assert [seq for seq, _ in archived.history("a.mrc")] == [1]


def test_what_is_asked_again_and_again_looks_at_no_whole_table(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    def made(epoch: str, seq: int, supersedes: int = 0) -> bytes:
        return b'{"seq":%d,"supersedes":%d}' % (seq, supersedes)

    for i in range(300):
        ledger.commit_picked(f"{i}.mrc", HANDLED, made, complete_at_unix=1.0)
    ledger.commit_document("model", made)
    statements: list[str] = []
    ledger._database.set_trace_callback(statements.append)
    with LedgerReader(ledger.file) as reader:
        reader._database.set_trace_callback(statements.append)
        # The daemon's, for each micrograph:
        ledger.commit_picked("300.mrc", HANDLED, made, score_map=b"m")
        ledger.commit_picked("7.mrc", HANDLED, made, score_map=b"m")
        ledger.commit_failed("301.mrc", HANDLED, "truncated", "", "failed", made)
        ledger.commit_revision(
            "7.mrc", 303, lambda epoch, seq: made(epoch, seq, 303), score_map=b"m", remember=("k", "v")
        )
        ledger.note([note("302.mrc")])
        ledger.note_gone(["5.mrc"])
        ledger.note_returned(["5.mrc"])
        ledger.restamp("6.mrc", HANDLED.stamp)
        ledger.mark_delivered(303)
        ledger.take_requests()
        ledger.fingerprint("9.mrc")
        ledger.first_with_result(["9.tif", "9.mrc"])
        ledger.attempts("9.mrc")
        assert ledger.missing() == []
        assert len(list(ledger.undelivered())) == 2
        # The page's, the stream's and those of ``frazil status`` and ``frazil ledger show``:
        reader.head(), reader.micrograph("9.mrc"), reader.document(9), reader.score_map(9)
        assert len(list(reader.documents(after=290, limit=5))) == 5
        assert len(reader.results_after(290, 5)) == 5
        assert len(reader.last_picked_results(9)) == 9
        assert len(reader.last_picked_times(9)) == 9
        assert reader.last_picked() is not None
        assert reader.neighbours("100.mrc") == (100, 102)
        assert len(reader.newest_changes(8)) == 1
        assert len(reader.newest_failures(8)) == 1
        assert len(list(reader.micrographs(["failed", "waiting"], limit=5))) == 1
        assert len(reader.history("7.mrc")) == 3
        assert reader.result("7.mrc") is not None
        assert reader.newest_result() is not None
        assert reader.next_result(after=200, until=300) is not None
        reader._database.set_trace_callback(None)
        ledger._database.set_trace_callback(None)
        asked = [s for s in statements if s.split()[0] in ("SELECT", "UPDATE", "DELETE", "INSERT")]
        assert len(asked) > 40
        for statement in asked:
            for *_, step in ledger._database.execute(f"EXPLAIN QUERY PLAN {statement}"):
                assert not re.match(r"SCAN (micrographs|documents|score_maps|d|s)\b", step) or statement.endswith(
                    _IN_ORDER
                ), f"{statement}: {step}"


_IN_ORDER = ("LIMIT 9", "LIMIT 1", "WHERE topic = 'picks'")
"""So end the statements that go along an index, from its end, for the few first that they find."""


# --- the archive ------------------------------------------------------------------------------------------------


def test_archived_results_leave_the_ledger_and_their_files_are_still_known(ledger: Ledger, tmp_path: Path) -> None:
    for i in range(1200):
        ledger.commit_picked(f"old/{i}", HANDLED, body, score_map=b"m" * 2000)
    ledger.commit_picked("new/0", HANDLED, body)
    ledger.mark_delivered(1201)
    ledger.commit_picked("old/late", HANDLED, body)  # committed, not yet delivered: it stays
    ledger.note_gone([f"old/{i}" for i in range(1000)])
    size = ledger.file.stat().st_size
    to = tmp_path / "archive"
    moved = archive(ledger.file, to, before=time.time() + 1, below="old/")
    assert (moved.results, moved.micrographs) == (1200, 1000)
    with LedgerReader(ledger.file) as reader, LedgerReader(to) as archived:
        assert [seq for seq, _ in reader.documents()] == [1201, 1202]
        assert [seq for seq, _ in archived.documents()] == list(range(1, 1201))
        assert archived.score_map(7) == b"m" * 2000
        assert (reader.epoch, reader.counts()) == (archived.epoch, {"picked": 202})
    assert "old/1100" in ledger.known()
    seq, _ = ledger.commit_picked("new/1", HANDLED, body)
    assert seq == 1203
    ledger.close()
    assert ledger.file.stat().st_size < size / 2
    again = Ledger(ledger.file)
    assert again.head == 1203
    again.close()


def test_a_ledger_whose_every_result_is_archived_counts_on(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "l")
    ledger.commit_picked("a", HANDLED, body)
    ledger.mark_delivered(1)
    assert archive(ledger.file, tmp_path / "archive", before=time.time() + 1).results == 1
    ledger.close()
    again = Ledger(tmp_path / "l")
    assert again.commit_picked("b", HANDLED, body)[0] == 2
    again.close()


def test_an_archive_takes_one_ledger_only_and_not_itself(ledger: Ledger, tmp_path: Path) -> None:
    ledger.commit_picked("a", HANDLED, body)
    ledger.mark_delivered(1)
    with pytest.raises(OutputError, match="expected another file than the ledger"):
        archive(ledger.file, ledger.file, before=time.time())
    other = Ledger(tmp_path / "other")
    other.commit_picked("a", HANDLED, body)
    other.mark_delivered(1)
    archive(other.file, tmp_path / "archive", before=time.time() + 1)
    other.close()
    with pytest.raises(OutputError, match="expected an archive of this ledger"):
        archive(ledger.file, tmp_path / "archive", before=time.time() + 1)


def test_an_archive_cut_off_in_the_middle_loses_nothing_and_is_finished_later(ledger: Ledger, tmp_path: Path) -> None:
    for i in range(1600):
        ledger.commit_picked(f"{i}", HANDLED, body, score_map=os.urandom(5000))
    ledger.mark_delivered(1600)
    program = "import sys, time; from pathlib import Path; from frazil.session.outbox.ledger import archive\n"
    program += "archive(Path(sys.argv[1]), Path(sys.argv[2]), before=time.time() + 1)"
    to = tmp_path / "archive"
    other = subprocess.Popen([sys.executable, "-c", program, ledger.file, to])
    with sqlite3.connect(ledger.file) as database:
        while database.execute("SELECT count(*) FROM documents").fetchone()[0] == 1600:
            assert other.poll() is None
    other.kill()
    other.wait()
    left = database.execute("SELECT count(*) FROM documents").fetchone()[0]
    database.close()
    assert archive(ledger.file, to, before=time.time() + 1).results == left
    with LedgerReader(to) as archived:
        assert [seq for seq, _ in archived.documents()] == list(range(1, 1601))


# --- ledgers of earlier releases, and large ones ----------------------------------------------------------------

LAYOUT_1 = """
CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE documents (seq INTEGER PRIMARY KEY, path TEXT NOT NULL, body BLOB NOT NULL);
CREATE TABLE micrographs (
    path TEXT PRIMARY KEY,
    size INTEGER NOT NULL,
    mtime_ns INTEGER NOT NULL,
    fingerprint TEXT NOT NULL,
    state TEXT NOT NULL CHECK (state IN ('picked', 'failed')),
    reason TEXT NOT NULL,
    seq INTEGER
) WITHOUT ROWID;
INSERT INTO meta VALUES ('layout', '1'), ('epoch', 'e1'), ('delivered', '2');
INSERT INTO documents VALUES (1, 'a', 'first'), (2, 'b', 'second'), (3, 'a', 'third');
INSERT INTO micrographs VALUES ('a', 10, 20, 'f', 'picked', '', 3), ('b', 10, 20, 'g', 'picked', '', 2),
    ('c', 5, 6, '', 'failed', 'truncated', NULL);
"""


def test_a_ledger_of_the_first_layout_is_taken_over_whole(tmp_path: Path) -> None:
    file = tmp_path / "l"
    with sqlite3.connect(file) as database:
        database.execute("PRAGMA journal_mode=WAL")
        database.executescript(LAYOUT_1)
    database.close()
    with pytest.raises(OutputError, match="frazil serve brings an older one up to date"):
        LedgerReader(file)
    for _ in range(2):  # and again, as it then is
        ledger = Ledger(file)
        assert (ledger.epoch, ledger.head) == ("e1", 3)
        assert ledger.known() == {
            "a": FileStamp(size=10, mtime_ns=20),
            "b": FileStamp(size=10, mtime_ns=20),
            "c": FileStamp(size=5, mtime_ns=6),
        }
        assert [seq for seq, _ in ledger.undelivered()] == [3]
        assert ledger.fingerprint("b") == "g"
        assert states(ledger) == {"a": "picked", "b": "picked", "c": "quarantined"}
        ledger.close()
    with sqlite3.connect(file) as database:
        assert database.execute("SELECT seq, superseded_by FROM documents").fetchall() == [(1, 3), (2, None), (3, None)]
        assert database.execute("PRAGMA auto_vacuum").fetchone()[0] == 2
    database.close()
    ledger = Ledger(file)
    assert ledger.commit_picked("d", HANDLED, body)[0] == 4
    ledger.close()


def test_a_migration_that_fails_leaves_the_old_ledger_as_it_was(tmp_path: Path) -> None:
    file = tmp_path / "l"
    with sqlite3.connect(file) as database:
        database.executescript(LAYOUT_1.replace("'c', 5", "'c', NULL").replace("size INTEGER NOT NULL", "size INTEGER"))
    database.close()
    with pytest.raises(OutputError, match="expected a frazil ledger"):
        Ledger(file)
    with sqlite3.connect(file) as database:
        assert database.execute("SELECT value FROM meta WHERE key = 'layout'").fetchone() == ("1",)
        assert database.execute("SELECT count(*) FROM micrographs").fetchone() == (3,)
    database.close()


def test_opening_a_large_ledger_costs_a_fraction_of_making_it(tmp_path: Path) -> None:
    """No document is loaded: what is known of 50,000 micrographs takes about as long as reading their names."""
    ledger = Ledger(tmp_path / "l")
    with sqlite3.connect(tmp_path / "l") as database:
        database.executemany(
            "INSERT INTO micrographs (path, state, size, mtime_ns, fingerprint, seq) VALUES (?, 'picked', 1, 2, ?, ?)",
            ((f"grid/{i:06}.mrc", "f" * 32, i + 1) for i in range(50_000)),
        )
        started = time.process_time()
        database.executemany(
            "INSERT INTO documents (seq, topic, path, body) VALUES (?, 'picks', ?, ?)",
            ((i + 1, f"grid/{i:06}.mrc", b"x" * 2000) for i in range(50_000)),
        )
    database.commit()
    made_seconds = time.process_time() - started
    database.close()
    ledger.close()
    started = time.process_time()
    ledger = Ledger(tmp_path / "l")
    assert len(ledger.known()) == 50_000
    assert ledger.head == 50_000
    opened_seconds = time.process_time() - started
    ledger.close()
    assert opened_seconds < max(2 * made_seconds, 2.0)


def test_every_key_that_the_ledger_remembers_is_listed_and_documented(repository: Path) -> None:
    recorded = repository / "tests" / "golden" / "recorded" / "ledger" / LEDGER_NAME
    listed = {getattr(meta_keys, name) for name in meta_keys.__all__ if name.endswith("_KEY")}
    with closing(sqlite3.connect(f"{recorded.as_uri()}?mode=ro&immutable=1", uri=True)) as database:
        remembered = {key for (key,) in database.execute("SELECT key FROM meta")}
    assert {"epoch", "daemon"} < remembered <= listed
    (row,) = re.findall(r"^\| `meta` .*", (repository / "docs/reference/ledger.md").read_text(), re.MULTILINE)
    assert listed <= set(re.findall(r"`(\w+)`", row))
    for source in (repository / "daemon" / "frazil").rglob("*.py"):
        assert not re.search(r"""\b(recall|remember|meta\(\)\.get)\(["']""", source.read_text()), source
