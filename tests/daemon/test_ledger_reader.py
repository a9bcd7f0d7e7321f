"""Reading a ledger, and leaving requests in it, beside the daemon that writes to it."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import msgspec
import pytest

from frazil.documents import MicrographDocument, encode_document
from frazil.errors import LedgerDamagedError, OutputError
from frazil.session.outbox.file_stamp import FileStamp
from frazil.session.outbox.ledger import (
    BASELINE_KEY,
    Handled,
    Ledger,
    LedgerReader,
    Note,
    StoredDocument,
    Witness,
    archive,
    check,
    checksum,
    ledger_file,
    request_baseline,
    request_requeue,
    update_remembered,
)
from frazil.session.outbox.ledger.check import Ranges

HANDLED = Handled(stamp=FileStamp(size=10, mtime_ns=20), fingerprint="f")


def made(epoch: str, seq: int, supersedes: int = 0) -> bytes:
    return b'{"seq":%d,"supersedes":%d}' % (seq, supersedes)


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    opened = Ledger(tmp_path / "l")
    yield opened
    opened.close()


@pytest.fixture
def reader(ledger: Ledger) -> Iterator[LedgerReader]:
    """Of that ledger, opened while it is empty."""
    with LedgerReader(ledger.file) as opened:
        yield opened


def numbers(stored: list[StoredDocument]) -> list[int]:
    return [one.seq for one in stored]


def change(file: Path, statement: str, *values: object) -> None:
    with closing(sqlite3.connect(file)) as database, database:
        assert database.execute(statement, values).rowcount


def test_an_empty_ledger_answers_every_question(reader: LedgerReader) -> None:
    assert (reader.head(), reader.oldest(), reader.ever_given_out(), reader.counts()) == (0, 0, 0, {})
    assert (reader.micrograph("a"), reader.result("a"), reader.document(1), reader.score_map(1)) == (None,) * 4
    assert (reader.newest_result(), reader.last_picked(), reader.next_result(after=0, until=9)) == (None,) * 3
    assert reader.neighbours("a") == (None, None)
    assert reader.search("a", limit=5) == (0, [])
    assert reader.count_since(0.0) == (0, 0)
    for every in (reader.micrographs(), reader.documents()):
        assert list(every) == []  # type: ignore[call-overload]
    for found in (reader.history("a"), reader.results(), reader.integrity(5), reader.without_document()):
        assert found == []
    for last in (reader.last_picked_results, reader.last_picked_times, reader.newest_changes, reader.newest_failures):
        assert last(5) == []
    assert reader.results_after(0, 5) == []


def test_micrographs_are_found_by_words_states_and_place(ledger: Ledger, reader: LedgerReader) -> None:
    for path in ("grid1/Foil_1.mrc", "grid1/foil_2.mrc", "grid2/foil_3.mrc"):
        ledger.commit_picked(path, HANDLED, made)
    ledger.commit_failed("grid2/bad.mrc", HANDLED, "not_mrc", "is text", "quarantined", made)
    ledger.note([Note(key="grid2/new.mrc", stamp=HANDLED.stamp, state="seen")])

    def found(*arguments: object, **options: object) -> tuple[int, list[str]]:
        count, records = reader.search(*arguments, **options)  # type: ignore[arg-type]
        return count, [record.path for record in records]

    every = ["grid2/new.mrc", "grid2/foil_3.mrc", "grid2/bad.mrc", "grid1/foil_2.mrc", "grid1/Foil_1.mrc"]
    assert found("", limit=9) == (5, every)
    assert found("", offset=1, limit=2) == (5, every[1:3])
    assert found("FOIL", limit=9) == (3, ["grid2/foil_3.mrc", "grid1/foil_2.mrc", "grid1/Foil_1.mrc"])
    assert found("foil", ["picked"], limit=1) == (3, ["grid2/foil_3.mrc"])
    assert found("grid2", ["quarantined", "seen"], limit=9) == (2, ["grid2/new.mrc", "grid2/bad.mrc"])
    assert found("foil", ["seen"], limit=9) == found("%", limit=9) == (0, [])
    assert [record.path for record in reader.micrographs(below="grid2/", limit=2)] == every[2:0:-1]
    assert [record.path for record in reader.micrographs(["seen", "quarantined"])] == every[2::-2]
    bad = reader.micrograph("grid2/bad.mrc")
    assert bad is not None
    assert (bad.state, bad.reason, bad.message, bad.attempts, bad.size) == ("quarantined", "not_mrc", "is text", 1, 10)
    assert reader.results() == ["grid1/Foil_1.mrc", "grid1/foil_2.mrc", "grid2/foil_3.mrc"]


def test_documents_are_found_by_number_topic_and_time(ledger: Ledger, reader: LedgerReader) -> None:
    for path in ("a", "b", "c"):
        ledger.commit_picked(path, HANDLED, made, complete_at_unix=3.5)
    ledger.commit_document("model", made)
    ledger.commit_failed("d", HANDLED, "not_mrc", "", "quarantined", made)
    ledger.commit_picked("a", HANDLED, made, complete_at_unix=4.5)
    ledger.commit_document("model", made)
    for path, at in (("b", 10.0), ("c", 20.0), ("a", 30.0)):
        change(ledger.file, "UPDATE micrographs SET picked_at = ?, seen_at = ? WHERE path = ?", at, at, path)
    change(ledger.file, "UPDATE micrographs SET seen_at = 15 WHERE path = 'd'")
    assert numbers(list(reader.documents())) == [1, 2, 3, 4, 5, 6, 7]
    assert [s.topic for s in reader.documents()] == ["picks", "picks", "picks", "model", "failed", "picks", "model"]
    assert [s.path for s in reader.documents()] == ["a", "b", "c", "", "d", "a", ""]
    assert numbers(reader.newest_changes(9)) == [7, 4]
    assert numbers(reader.newest_changes(1)) == [7]
    assert numbers(reader.results_after(1, 9)) == [2, 3, 6]
    assert numbers(reader.results_after(1, 2)) == [2, 3]
    assert numbers(reader.last_picked_results(9)) == [6, 3, 2]
    assert numbers(reader.last_picked_results(2)) == [6, 3]
    assert reader.last_picked_times(2) == [(4.5, 30.0), (3.5, 20.0)]
    last = reader.last_picked()
    assert last is not None
    assert last.path == "a"
    assert [reader.neighbours(path) for path in "abcd"] == [(3, None), (None, 3), (2, 6), (None, None)]
    assert (reader.head(), reader.oldest(), reader.ever_given_out()) == (7, 1, 7)
    assert [reader.count_since(at) for at in (0.0, 15.0, 20.0, 20.5, 31.0)] == [(3, 1), (2, 1), (2, 0), (1, 0), (0, 0)]
    assert [record.path for record in reader.newest_failures(5)] == ["d"]


def test_failures_are_read_newest_first(ledger: Ledger, reader: LedgerReader) -> None:
    for path, at in (("a", 1), ("b", 3), ("c", 2), ("d", 2)):
        ledger.commit_failed(path, HANDLED, "unreadable", "", "failed" if path == "a" else "quarantined", made)
        change(ledger.file, "UPDATE micrographs SET seen_at = ? WHERE path = ?", at, path)
    assert [record.path for record in reader.newest_failures(9)] == ["b", "d", "c", "a"]
    assert [record.path for record in reader.newest_failures(2)] == ["b", "d"]


def test_a_result_is_read_with_its_scores_until_a_later_one_supersedes_it(ledger: Ledger, reader: LedgerReader) -> None:
    ledger.commit_picked("a", HANDLED, made, score_map=b"one")
    ledger.commit_picked("b", HANDLED, made)
    ledger.commit_document("model", made)
    seq = ledger.commit_revision("a", 1, lambda e, s: made(e, s, 1), score_map=b"two", remember=("key", "value"))
    assert (seq, ledger.recall("key")) == (4, "value")
    result = reader.result("a")
    assert result is not None
    assert (result.path, result.seq, result.body, result.score_map) == ("a", 4, made("", 4, 1), b"two")
    assert result.checksum == checksum(made("", 4, 1))
    first = reader.next_result(after=0, until=4)
    assert first is not None
    assert (first.seq, first.score_map) == (2, None)
    then = reader.next_result(after=2, until=4)
    assert then is not None
    assert then.seq == 4
    assert reader.next_result(after=2, until=3) is reader.next_result(after=4, until=9) is None
    assert [s.superseded_by for s in reader.documents()] == [4, None, None, None]
    assert [s.topic for s in reader.documents()] == ["picks", "picks", "model", "picks"]
    assert [number for number, _ in reader.history("a")] == [1, 4]
    assert (reader.score_map(1), reader.score_map(4)) == (None, b"two")


def test_the_newest_result_is_the_newest_that_is_whole(
    ledger: Ledger, reader: LedgerReader, make_document: Callable[..., MicrographDocument]
) -> None:
    for path in ("a", "b", "c"):
        one = make_document(path)
        ledger.commit_picked(
            path,
            HANDLED,
            lambda epoch, seq, _, one=one: encode_document(msgspec.structs.replace(one, epoch=epoch, seq=seq)),  # type: ignore[misc]
            score_map=path.encode(),
        )
    change(ledger.file, "UPDATE documents SET body = CAST('{}' AS BLOB) WHERE seq = 3")
    newest = reader.newest_result()
    assert newest is not None
    assert (newest.seq, newest.score_map) == (2, b"b")
    # One of an earlier frazil has no checksum: it is whole if it can be read.
    change(ledger.file, "UPDATE documents SET checksum = NULL")
    newest = reader.newest_result()
    assert newest is not None
    assert (newest.seq, newest.checksum) == (2, None)
    assert [stored.is_whole() for stored in reader.documents()] == [True, True, False]
    for damage in ("[" * 100_000, '{"type":"heartbeat"}', "\xff", ""):
        change(ledger.file, "UPDATE documents SET body = CAST(? AS BLOB) WHERE seq = 2", damage)
        newest = reader.newest_result()
        assert newest is not None
        assert newest.seq == 1
    change(ledger.file, "UPDATE documents SET body = (SELECT body FROM documents WHERE seq = 1) WHERE seq = 2")
    assert [stored.is_whole() for stored in reader.documents()] == [True, False, False], "one passes for another"


def test_a_history_ends_though_documents_are_damaged_or_name_one_another(ledger: Ledger, reader: LedgerReader) -> None:
    for _ in range(3):
        ledger.commit_picked("a", HANDLED, made)
    assert [number for number, _ in reader.history("a")] == [1, 2, 3]
    change(ledger.file, "UPDATE documents SET body = CAST(? AS BLOB) WHERE seq = 2", '{"supersedes":3}')
    assert [number for number, _ in reader.history("a")] == [1, 2, 3]
    change(ledger.file, "UPDATE documents SET body = CAST(? AS BLOB) WHERE seq = 2", "{")
    assert [number for number, _ in reader.history("a")] == [1, 2, 3]
    # Documents of the first layout do not say what they supersede.
    change(ledger.file, "UPDATE documents SET body = CAST(? AS BLOB)", "{}")
    assert [number for number, _ in reader.history("a")] == [3]
    change(ledger.file, "INSERT INTO meta VALUES ('migrated_at', '1.0')")
    assert [number for number, _ in reader.history("a")] == [1, 2, 3]


def test_a_reader_sees_that_others_wrote(ledger: Ledger, reader: LedgerReader) -> None:
    before = reader.changes()
    assert reader.changes() == before
    ledger.remember("key", "value")
    assert reader.changes() != before


def test_a_history_is_common_up_to_where_one_run_ended(tmp_path: Path) -> None:
    generations = []
    for count in (3, 0, 2):
        with closing(Ledger(tmp_path / "l")) as ledger:
            generations.append(ledger.generation)
            for i in range(count):
                ledger.commit_picked(f"{count}-{i}", HANDLED, made)
    with LedgerReader(tmp_path / "l") as reader:
        assert [reader.common(generation, 9) for generation in generations] == [3, 3, 5]
        assert [reader.common(generation, 2) for generation in generations] == [2, 2, 2]
        assert reader.common("unheard of", 2) is None
        assert [(g.id, g.first) for g in reader.generations()] == list(zip(generations, [1, 4, 4], strict=True))


@pytest.mark.parametrize("name", ["a ledger?mode=rw#1%20", "l"])
def test_a_ledger_may_have_any_name(tmp_path: Path, name: str) -> None:
    with closing(Ledger(tmp_path / name)) as ledger:
        ledger.commit_picked("a", HANDLED, made)
        ledger.look()
        with LedgerReader(tmp_path / name) as reader:
            assert reader.head() == 1
    assert {file.name for file in tmp_path.iterdir()} == {name, f"{name}.lock"}


def test_a_path_means_a_ledger_or_the_directory_that_it_lies_in(tmp_path: Path) -> None:
    assert ledger_file(tmp_path) == tmp_path / "frazil-ledger.sqlite"
    assert ledger_file(tmp_path / "l") == tmp_path / "l"


def test_a_ledger_of_a_later_frazil_is_not_read(ledger: Ledger) -> None:
    change(ledger.file, "UPDATE meta SET value = '6' WHERE key = 'layout'")
    with pytest.raises(OutputError, match="expected ledger layout 5, found 6"):
        LedgerReader(ledger.file)
    change(ledger.file, "UPDATE meta SET value = 'three' WHERE key = 'layout'")
    with pytest.raises(OutputError, match="l: expected a frazil ledger that can be read: it does not say its layout"):
        LedgerReader(ledger.file)


def test_text_that_is_none_is_damage_and_the_file_is_named(ledger: Ledger, reader: LedgerReader) -> None:
    ledger.commit_picked("a", HANDLED, made)
    change(ledger.file, "UPDATE documents SET path = CAST(X'ff41' AS TEXT)")
    with pytest.raises(LedgerDamagedError, match=rf"{ledger.file}: expected a frazil ledger, found it damaged"):
        list(reader.documents())
    assert "cannot be read to the end: documents" in check(ledger.file).faults


# --- the check ------------------------------------------------------------------------------------------------------


def test_a_check_counts_what_there_is_and_names_what_is_lacking(
    ledger: Ledger, make_document: Callable[..., MicrographDocument]
) -> None:
    one = make_document("/data/a")
    for i in range(8):
        ledger.commit_picked(
            f"{i}",
            HANDLED,
            lambda epoch, seq, _: encode_document(msgspec.structs.replace(one, epoch=epoch, seq=seq)),
        )
    ledger.note([Note(key="new", stamp=HANDLED.stamp, state="seen")])
    found = check(ledger.file)
    assert (found.documents, found.head, found.generations, found.missing.all, found.faults) == (8, 8, 1, [], [])
    assert found.counts == {"picked": 8, "seen": 1}
    change(ledger.file, "DELETE FROM documents WHERE seq IN (1, 4, 5, 8)")
    change(ledger.file, "UPDATE documents SET checksum = 5 WHERE seq IN (2, 3, 6)")
    change(ledger.file, "INSERT INTO generations VALUES (7, 'g', 9), (8, 'h', 2)")
    found = check(ledger.file)
    assert (found.documents, found.head, found.generations) == (4, 8, 3)
    assert found.missing.all == [(1, 1), (4, 5), (8, 8)]
    assert found.faults == [
        "3 documents are damaged: 2-3, 6",
        "4 micrographs have lost their result, such as 0",
        "its generations are not in order",
    ]


def test_a_check_tells_an_older_copy_by_the_witness(tmp_path: Path) -> None:
    with (
        closing(Witness(tmp_path, watch=tmp_path, ledger=tmp_path / "l")) as witness,
        closing(Ledger(tmp_path / "l", witness)) as ledger,
    ):
        ledger.note_given_out(ledger.commit_document("model", lambda epoch, seq: made(epoch, seq)))
        assert not any("older copy" in fault for fault in check(ledger.file).faults)
        ledger.note_given_out(2)
        older = "numbers up to 2 were given out, and it knows of 1: it is an older copy"
        assert older in check(ledger.file).faults
        ledger.remember("daemon", f'{{"out":"{tmp_path / "elsewhere"}"}}')
        assert older not in check(ledger.file).faults


def test_ranges_of_numbers_are_joined_counted_and_cut_short() -> None:
    ranges = Ranges()
    assert (str(ranges), ranges.count()) == ("", 0)
    for first, last in ((1, 1), (3, 2), (2, 4), (6, 6), (8, 10)):
        ranges.add(first, last)
    assert (ranges.all, str(ranges), ranges.count()) == ([(1, 4), (6, 6), (8, 10)], "1-4, 6, 8-10", 8)
    for number in range(12, 45, 2):
        ranges.add(number, number)
    assert len(ranges.all) == 20
    assert str(ranges).endswith(", 42, 44")
    ranges.add(46, 46)
    assert str(ranges).endswith(", 42, 44 ...")


# --- requests -------------------------------------------------------------------------------------------------------


def test_a_request_for_what_is_not_known_says_how_many_and_asks_for_nothing(ledger: Ledger) -> None:
    ledger.commit_picked("a", HANDLED, made)
    for paths, said in ((["x"], "'x'$"), (["a", "x", "y"], "'x' and 1 more$"), (["x", "y", "z"], "'x' and 2 more$")):
        with pytest.raises(OutputError, match=f"l: expected a micrograph that it knows, found {said}"):
            request_requeue(ledger.file, paths)
    assert ledger.take_requests() == {}
    assert request_requeue(ledger.file, ["a", "a"]) == 1
    assert ledger.take_requests() == {"a": True}


def test_a_micrograph_that_is_asked_for_is_as_if_never_seen(ledger: Ledger, reader: LedgerReader) -> None:
    ledger.commit_picked("a", HANDLED, made)
    ledger.commit_failed("b", HANDLED, "not_mrc", "is text", "quarantined", made)
    request_requeue(ledger.file, ["b"], ["picked"])
    assert list(ledger.take_requests()) == ["b", "a"]
    for record in reader.micrographs():
        assert (record.state, record.reason, record.message, record.attempts) == ("seen", "", "", 0)
        assert record.fingerprint == ""
    assert ledger.known() == {}
    assert [ledger.fingerprint(path) for path in ("a", "b", "unknown")] == [None, None, None]


def test_what_is_remembered_is_changed_by_others_and_granted_unless_it_was_added_to(ledger: Ledger) -> None:
    update_remembered(ledger.file, "asked", lambda text: f"{text}a")
    update_remembered(ledger.file, "asked", lambda text: f"{text}b")
    assert ledger.recall("asked") == "ab"
    ledger.grant(("asked", "a"), ("made", "first"))
    assert (ledger.recall("asked"), ledger.recall("made")) == ("ab", "first")
    ledger.grant(("asked", "ab"), ("made", "second"))
    assert (ledger.recall("asked"), ledger.recall("made")) == ("", "second")


def test_a_baseline_is_asked_for_by_the_time(ledger: Ledger) -> None:
    before = time.time()
    request_baseline(ledger.file)
    assert before <= float(ledger.recall(BASELINE_KEY)) <= time.time()


def test_requests_name_a_ledger_that_cannot_take_them(ledger: Ledger, tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="none: expected a ledger, found none"):
        request_baseline(tmp_path / "none")
    ledger.commit_picked("a", HANDLED, made)
    with closing(sqlite3.connect(ledger.file)) as database:
        for table in ("meta", "requests"):
            database.execute(
                f"CREATE TRIGGER no_{table} BEFORE INSERT ON {table} BEGIN SELECT RAISE(ABORT, 'not now'); END"
            )
    for request in (request_baseline, lambda file: request_requeue(file, ["a"])):
        with pytest.raises(OutputError, match=f"{ledger.file}: the request cannot be left in the ledger: not now"):
            request(ledger.file)
    assert ledger.take_requests() == {}


# --- the archive ----------------------------------------------------------------------------------------------------


def tables(file: Path) -> dict[str, list[tuple[object, ...]]]:
    with closing(sqlite3.connect(file)) as database:
        return {
            table: list(database.execute(f"SELECT * FROM {table} ORDER BY 1"))
            for table in ("documents", "score_maps", "micrographs")
        }


def test_ledger_and_archive_together_are_what_the_ledger_was(ledger: Ledger, tmp_path: Path) -> None:
    for i in range(1100):
        ledger.commit_picked(f"{i % 1050}", HANDLED, made, score_map=b"%d" % i)
    ledger.commit_document("model", made)
    for state in ("gone", "failed"):
        ledger.commit_failed(state, HANDLED, "unreadable", state, "failed", made)
    ledger.note_gone(["gone", *(f"{i}" for i in range(600))])
    ledger.mark_delivered(1103)
    ledger.commit_picked("late", HANDLED, made)
    change(ledger.file, "UPDATE documents SET committed_at = seq")
    change(ledger.file, "UPDATE micrographs SET seen_at = 1000")
    whole = tables(ledger.file)
    files = (ledger.file, tmp_path / "archive")
    moved = [archive(*files, before=before) for before in (1, 700, 700.5, 1e9, 1e9)]
    assert [m.results for m in moved] == [0, 699, 1, 403, 0]
    left, archived = map(tables, files)
    for table in ("documents", "score_maps"):
        assert sorted(left[table] + archived[table]) == sorted(whole[table])
    assert [row[0] for row in left["documents"]] == [1104]
    assert {row[0] for row in archived["micrographs"]} >= {row[2] for row in archived["documents"]} - {""}
    gone = {row[0] for row in whole["micrographs"] if row[1] == "gone"}
    assert {row[0] for row in left["micrographs"]} == {row[0] for row in whole["micrographs"]} - gone
    assert {row[0]: row for row in archived["micrographs"]}.items() >= {
        row[0]: row for row in whole["micrographs"] if row[0] in gone
    }.items()
    assert sum(m.micrographs for m in moved) == len(gone)
    with LedgerReader(ledger.file) as reader:
        assert (reader.oldest(), reader.ever_given_out(), reader.meta()["archived"]) == (1104, 1104, "1103")
    assert check(ledger.file).missing.all == [(1, 1103)]


def test_what_is_below_another_place_stays(ledger: Ledger, tmp_path: Path) -> None:
    for path in ("grid1/a", "grid1/gone", "grid10/a", "grid2/gone", "grid2/other"):
        ledger.commit_picked(path, HANDLED, made)
    ledger.note_gone(["grid1/gone", "grid2/gone"])
    ledger.mark_delivered(5)
    moved = archive(ledger.file, tmp_path / "archive", before=1e12, below="grid1/")
    assert (moved.results, moved.micrographs) == (2, 1)
    assert [row[0] for row in tables(ledger.file)["documents"]] == [3, 4, 5]
    assert [row[0] for row in tables(ledger.file)["micrographs"]] == [
        "grid1/a",
        "grid10/a",
        "grid2/gone",
        "grid2/other",
    ]
    assert set(ledger.known()) == {"grid1/a", "grid10/a", "grid2/gone", "grid2/other"}


def test_an_archive_that_cannot_be_made_is_named_and_nothing_moved(ledger: Ledger, tmp_path: Path) -> None:
    ledger.commit_picked("a", HANDLED, made)
    ledger.mark_delivered(1)
    (tmp_path / "file").write_text("x" * 200)
    for to, said in (
        (tmp_path / "missing" / "archive", "archive: "),
        (tmp_path / "file" / "archive", "archive: "),
        (tmp_path / "file", "file: expected a frazil ledger"),
    ):
        with pytest.raises(OutputError, match=said):
            archive(ledger.file, to, before=1e12)
    with pytest.raises(OutputError, match="none: expected a ledger, found none"):
        archive(tmp_path / "none", tmp_path / "archive", before=1e12)
    assert not (tmp_path / "archive").exists()
    assert len(tables(ledger.file)["documents"]) == 1
