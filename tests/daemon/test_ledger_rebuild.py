"""Rebuilding: what is read is put back as it was, in agreement with itself, and no number is used again."""

from __future__ import annotations

import os
import shutil
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import msgspec
import pytest

from frazil.documents import FailedDocument, MicrographDocument, encode_document
from frazil.errors import OutputError
from frazil.session.outbox.file_stamp import FileStamp
from frazil.session.outbox.ledger import Handled, Ledger, LedgerReader, Note, Witness, archive, check, checksum, rebuild

HANDLED = Handled(stamp=FileStamp(size=10, mtime_ns=20), fingerprint="f")
TABLES = ("documents", "score_maps", "micrographs", "requests")

Make = Callable[..., MicrographDocument]


def directory_of(path: str) -> str:
    return path.rpartition("/")[0]


class Session:
    """A ledger and what is committed to it."""

    def __init__(self, file: Path, make: Make, witness: Witness | None = None) -> None:
        self.make = make
        self.ledger = Ledger(file, witness)
        self.file = file

    def pick(self, path: str, *, score_map: bytes | None = None, root: str = "/data") -> int:
        one = msgspec.structs.replace(self.make(f"{root}/{path}"), directory=directory_of(path))
        return self.ledger.commit_picked(
            path,
            HANDLED,
            lambda epoch, seq, older: encode_document(
                msgspec.structs.replace(one, epoch=epoch, seq=seq, supersedes=older)
            ),
            score_map=score_map,
            complete_at_unix=7.5,
        )[0]

    def fail(self, path: str) -> int:
        failed = FailedDocument(
            epoch="", seq=0, micrograph=Path(path).name, path=f"/data/{path}", directory=directory_of(path),
            reason="not_mrc", message="is text", kind="permanent", failed_at="2026-01-01T00:00:00.000+00:00",
        )  # fmt: skip
        return self.ledger.commit_failed(
            path, HANDLED, "not_mrc", "is text", "quarantined",
            lambda epoch, seq: encode_document(msgspec.structs.replace(failed, epoch=epoch, seq=seq)),
        )  # fmt: skip


@pytest.fixture
def session(tmp_path: Path, make_document: Make) -> Iterator[Session]:
    made = Session(tmp_path / "l", make_document)
    yield made
    made.ledger.close()


def change(file: Path, *statements: str) -> None:
    with closing(sqlite3.connect(file)) as database, database:
        for statement in statements:
            assert database.execute(statement).rowcount, statement


def content(file: Path) -> dict[str, list[tuple[object, ...]]]:
    with closing(sqlite3.connect(file)) as database:
        return {table: list(database.execute(f"SELECT * FROM {table} ORDER BY 1")) for table in TABLES}


def records(file: Path) -> dict[str, tuple[str, int | None]]:
    with LedgerReader(file) as reader:
        return {record.path: (record.state, record.seq) for record in reader.micrographs()}


def test_a_whole_ledger_is_rebuilt_as_it_was(session: Session) -> None:
    for path in ("a.mrc", "grid/b.mrc", "a.mrc", "c.mrc"):
        session.pick(path, score_map=path.encode() * 3)
    session.fail("grid/d.mrc")
    session.ledger.note([Note(key="e.mrc", stamp=HANDLED.stamp, state="waiting", reason="short", message="e: short")])
    session.ledger.note_gone(["c.mrc"])
    session.ledger.mark_delivered(2)
    session.ledger.remember("tuned", "something")
    session.ledger.close()
    change(session.file, "INSERT INTO requests (path, made_at) VALUES ('c.mrc', 5.5), ('a.mrc', 6)")
    before = content(session.file)
    with LedgerReader(session.file) as reader:
        meta, generations = reader.meta(), reader.generations()
    built = rebuild(session.file)
    assert (built.documents, built.micrographs, built.score_maps, built.from_copies) == (5, 5, 3, 0)
    assert (built.again, built.lost.all) == ([], [])
    assert content(session.file) == before
    with LedgerReader(session.file) as reader:
        assert reader.meta() == meta
        assert reader.generations()[:-1] == generations
        assert (reader.generations()[-1].first, reader.ever_given_out()) == (6, 5)
    assert built.aside is not None
    assert built.aside.suffix == ".damaged"
    assert content(built.aside) == before


def test_a_ledger_of_layout_2_is_rebuilt_into_one_of_this_layout(session: Session) -> None:
    session.pick("a.mrc", score_map=b"m")
    session.pick("a.mrc", score_map=b"n")
    session.ledger.close()
    before = content(session.file)
    change(session.file, "ALTER TABLE documents DROP COLUMN checksum", "DROP TABLE generations")
    change(session.file, "UPDATE meta SET value = '2' WHERE key = 'layout'")
    rebuild(session.file)
    assert content(session.file) == before
    assert check(session.file).faults == []


def test_a_document_that_was_superseded_is_so_again_though_only_the_newer_one_says_it(session: Session) -> None:
    for path in ("first.mrc", "a.mrc", "a.mrc", "a.mrc"):
        session.pick(path, score_map=b"m")
    session.fail("b.mrc")
    session.ledger.close()
    change(
        session.file,
        "UPDATE documents SET superseded_by = NULL",
        "INSERT INTO score_maps VALUES (2, CAST('old' AS BLOB))",
    )
    rebuild(session.file)
    assert [row[5] for row in content(session.file)["documents"]] == [None, 3, 4, None, None]
    assert [row[0] for row in content(session.file)["score_maps"]] == [1, 4]


def test_numbers_stay_as_they_are_and_gaps_are_told(session: Session, tmp_path: Path) -> None:
    for i in range(12):
        session.pick(f"{i}.mrc")
    session.ledger.mark_delivered(12)
    session.ledger.close()
    with LedgerReader(session.file) as reader:
        third = reader.document(4).committed_at  # type: ignore[union-attr]
    assert third is not None
    archive(session.file, tmp_path / "archive", before=third)
    change(session.file, "DELETE FROM documents WHERE seq IN (5, 8, 9, 12)")
    built = rebuild(session.file)
    assert built.lost.all == [(5, 5), (8, 9), (12, 12)]
    assert built.again == ["11.mrc", "4.mrc", "7.mrc", "8.mrc"]
    assert records(session.file) == {
        **{f"{i}.mrc": ("picked", i + 1) for i in (0, 1, 2, 3, 5, 6, 9, 10)},  # those archived are no loss
        **{f"{i}.mrc": ("seen", 12 if i == 11 else i + 1) for i in (4, 7, 8, 11)},
    }
    with closing(Ledger(session.file)) as again:
        assert again.head == 12
        assert set(again.known()) == {f"{i}.mrc" for i in (0, 1, 2, 3, 5, 6, 9, 10)}


def test_a_micrograph_whose_newest_result_is_lost_is_new_again(session: Session) -> None:
    session.pick("a.mrc")
    session.fail("b.mrc")
    session.pick("b.mrc")
    session.ledger.close()
    change(session.file, "DELETE FROM documents WHERE seq = 3", "UPDATE micrographs SET attempts = 4, message = 'm'")
    assert rebuild(session.file).again == ["b.mrc"]
    with LedgerReader(session.file) as reader:
        record = reader.micrograph("b.mrc")
    assert record is not None
    assert (record.state, record.attempts, record.message, record.fingerprint) == ("seen", 0, "", "")
    assert record.size == 10


def test_of_a_record_that_is_there_twice_the_newer_one_counts(session: Session) -> None:
    """A page that was let go may still hold how a record was; a row is told by its shape, in whatever table it lies."""
    for path in ("a.mrc", "a.mrc", "b.mrc", "c.mrc"):
        session.pick(path)
    session.ledger.close()
    change(
        session.file,
        "UPDATE micrographs SET seen_at = 5",
        "CREATE TABLE twice AS SELECT * FROM micrographs",
        "UPDATE twice SET state = 'gone'",
        "UPDATE twice SET seq = 1, seen_at = 9 WHERE path = 'a.mrc'",
        "UPDATE twice SET seen_at = 6 WHERE path = 'b.mrc'",
        "UPDATE twice SET seen_at = NULL WHERE path = 'c.mrc'",
    )
    rebuild(session.file)
    assert records(session.file) == {"a.mrc": ("picked", 2), "b.mrc": ("gone", 3), "c.mrc": ("picked", 4)}


def test_numbers_of_which_only_the_archive_has_documents_are_not_given_out_again(
    session: Session, tmp_path: Path
) -> None:
    for i in range(3):
        session.pick(f"{i}.mrc")
    session.ledger.note_gone([f"{i}.mrc" for i in range(3)])
    session.ledger.mark_delivered(3)
    session.ledger.close()
    archive(session.file, tmp_path / "archive", before=1e12)
    change(session.file, "DELETE FROM generations")
    assert rebuild(session.file).lost.all == []
    with closing(Ledger(session.file)) as again:
        assert again.head == 3
        made = again.generation
    rebuild(session.file)
    with LedgerReader(session.file) as reader:
        assert [(g.id == made, g.first) for g in reader.generations()] == [(False, 4), (True, 4), (False, 4)]


def test_what_the_witness_knows_was_given_out_is_not_given_out_again(tmp_path: Path, make_document: Make) -> None:
    out = tmp_path / "out"
    out.mkdir()
    with closing(Witness(out, watch=tmp_path, ledger=tmp_path / "l")) as witness:
        session = Session(tmp_path / "l", make_document, witness)
        epoch = session.ledger.epoch
        for i in range(5):
            session.ledger.note_given_out(session.pick(f"{i}.mrc"))
        session.ledger.close()
    change(tmp_path / "l", "DELETE FROM documents WHERE seq > 3", "DELETE FROM micrographs WHERE seq > 3")
    change(tmp_path / "l", "DELETE FROM meta WHERE key = 'delivered'")
    shutil.copy(tmp_path / "l", tmp_path / "l.bak")
    assert rebuild(tmp_path / "l").lost.all == []  # the witness is elsewhere, and nothing says where
    shutil.copy(tmp_path / "l.bak", tmp_path / "l")
    change(tmp_path / "l", f"INSERT INTO meta VALUES ('daemon', '{{\"out\":\"{out}\"}}')")
    assert rebuild(tmp_path / "l").lost.all == [(4, 5)]
    shutil.copy(tmp_path / "l.bak", tmp_path / "l")
    assert rebuild(tmp_path / "l", out=out).lost.all == [(4, 5)]
    with closing(Ledger(tmp_path / "l")) as ledger:
        assert (ledger.epoch, ledger.head, ledger.delivered()) == (epoch, 5, 5)


def test_a_ledger_of_which_nothing_is_left_is_that_of_the_witness(tmp_path: Path, make_document: Make) -> None:
    with closing(Witness(tmp_path, watch=tmp_path, ledger=tmp_path / "l")) as witness:
        session = Session(tmp_path / "l", make_document, witness)
        session.ledger.note_given_out(session.pick("a.mrc"))
        epoch = session.ledger.epoch
        session.ledger.close()
    (tmp_path / "l").write_bytes(b"\0" * 8192)
    built = rebuild(tmp_path / "l")
    assert (built.documents, built.micrographs, built.lost.all) == (0, 0, [(1, 1)])
    with closing(Ledger(tmp_path / "l")) as ledger:
        assert (ledger.epoch, ledger.head) == (epoch, 1)


def test_without_its_epoch_a_ledger_has_that_of_most_documents(session: Session) -> None:
    for i in range(4):
        session.pick(f"{i}.mrc")
    session.ledger.close()
    with closing(sqlite3.connect(session.file)) as database, database:
        (body,) = database.execute("SELECT body FROM documents WHERE seq = 2").fetchone()
        body = bytes(body).replace(session.ledger.epoch.encode(), b"other")
        database.execute("UPDATE documents SET body = ?, checksum = ? WHERE seq = 2", (body, checksum(body)))
        database.execute("DELETE FROM meta WHERE key = 'epoch'")
    built = rebuild(session.file)
    assert built.lost.all == [(2, 2)], "a document of another ledger is none of this one"
    with closing(Ledger(session.file)) as ledger:
        assert ledger.epoch == session.ledger.epoch


# --- copies ---------------------------------------------------------------------------------------------------------


def test_only_what_is_lacking_is_taken_from_copies_the_newest_first(session: Session, tmp_path: Path) -> None:
    for i in range(4):
        session.pick(f"{i}.mrc", score_map=b"as it is")
        session.ledger.remember("tuned", f"{i}")
        if i in (1, 2):
            with closing(sqlite3.connect(session.file)) as database:
                database.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
            shutil.copy(session.file, tmp_path / f"l.2026010{i}T000000.bak")
    session.ledger.close()
    change(tmp_path / "l.20260101T000000.bak", "UPDATE micrographs SET state = 'gone'")
    change(tmp_path / "l.20260102T000000.bak", "UPDATE score_maps SET body = CAST('copy' AS BLOB)")
    change(session.file, "DELETE FROM documents WHERE seq IN (1, 3)", "DELETE FROM score_maps WHERE seq = 1")
    change(session.file, "DELETE FROM micrographs WHERE path = '0.mrc'")
    built = rebuild(session.file)
    assert (built.documents, built.from_copies, built.lost.all, built.again) == (4, 2, [], [])
    assert records(session.file) == {f"{i}.mrc": ("picked", i + 1) for i in range(4)}
    assert [row[1] for row in content(session.file)["score_maps"]] == [b"copy", b"as it is", b"as it is", b"as it is"]
    with LedgerReader(session.file) as reader:
        assert reader.meta()["tuned"] == "3"


def test_a_copy_of_another_ledger_is_left_alone(session: Session, tmp_path: Path, make_document: Make) -> None:
    session.pick("a.mrc")
    session.ledger.close()
    other = Session(tmp_path / "other", make_document)
    for i in range(3):
        other.pick(f"other{i}.mrc")
    other.ledger.close()
    shutil.copy(tmp_path / "other", tmp_path / "l.bak")
    assert rebuild(session.file).documents == 1
    assert records(session.file) == {"a.mrc": ("picked", 1)}


# --- records that are damaged or lost -------------------------------------------------------------------------------


def test_a_record_under_a_damaged_path_gives_way_to_the_path_that_the_document_says(session: Session) -> None:
    session.pick("grid/a.mrc")
    session.pick("grid/b.mrc")
    session.fail("grid/c.mrc")
    session.ledger.close()
    change(session.file, "UPDATE micrographs SET path = 'grid/x.mrc' WHERE path = 'grid/a.mrc'")
    change(session.file, "UPDATE documents SET path = 'grid/y.mrc' WHERE path = 'grid/b.mrc'")
    rebuild(session.file)
    assert records(session.file) == {
        "grid/a.mrc": ("gone", 1),  # there is no such file
        "grid/b.mrc": ("picked", 2),
        "grid/c.mrc": ("quarantined", None),
    }
    assert [row[2] for row in content(session.file)["documents"]] == ["grid/a.mrc", "grid/b.mrc", "grid/c.mrc"]


DAMAGE = [
    "UPDATE documents SET body = CAST('{}' AS BLOB) WHERE seq = 2",
    "UPDATE documents SET checksum = 1 WHERE seq = 2",
    "UPDATE documents SET topic = CAST('x' AS BLOB) WHERE seq = 2",
    "UPDATE documents SET seq = 1000000000000 WHERE seq = 2",
]


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_document_is_left_out_and_its_micrograph_picked_again(session: Session, damage: str) -> None:
    for path in ("a.mrc", "b.mrc", "c.mrc"):
        session.pick(path)
    session.ledger.close()
    change(session.file, damage)
    built = rebuild(session.file)
    assert (built.lost.all, built.again) == ([(2, 2)], ["b.mrc"])
    assert check(session.file).faults == []
    with closing(Ledger(session.file)) as ledger:
        assert ledger.head == 3


def test_what_is_damaged_beside_a_whole_document_is_forgotten(session: Session) -> None:
    session.pick("a.mrc")
    session.ledger.close()
    change(session.file, "UPDATE documents SET superseded_by = 'x', committed_at = 'then'")
    assert rebuild(session.file).lost.all == []
    with LedgerReader(session.file) as reader:
        stored = reader.document(1)
    assert stored is not None
    assert (stored.superseded_by, stored.committed_at) == (None, None)


def test_damaged_records_generations_and_requests_are_left_out(session: Session) -> None:
    for path in ("a.mrc", "b.mrc", "c.mrc", "d.mrc"):
        session.pick(path)
    session.ledger.close()
    change(
        session.file,
        "UPDATE micrographs SET seq = 1000000000000 WHERE path = 'b.mrc'",
        "UPDATE micrographs SET picked_at = 'then' WHERE path = 'c.mrc'",
        "UPDATE micrographs SET reason = CAST('x' AS BLOB) WHERE path = 'd.mrc'",
        "INSERT INTO generations VALUES (7, '0123456789ab', 1000000000000), (8, 'no name', 3)",
        "INSERT INTO requests (path, made_at) VALUES ('', 1), ('a.mrc', 'then'), ('a.mrc', 2)",
    )
    rebuild(session.file)
    assert records(session.file) == {f"{x}.mrc": ("picked" if x == "a" else "gone", i) for i, x in enumerate("abcd", 1)}
    with closing(Ledger(session.file)) as ledger:
        assert ledger.head == 4
        assert list(ledger.take_requests()) == ["a.mrc"]


@pytest.mark.parametrize("is_older", [True, False])
def test_a_lost_record_is_made_from_the_result_and_the_file(
    session: Session,
    tmp_path: Path,
    write_mrc: Callable[..., Path],
    make_scene: Callable[..., object],
    is_older: bool,
) -> None:
    pixels = make_scene(shape=(64, 96), count=1, diameter_px=24.0).pixels  # type: ignore[attr-defined]
    file = write_mrc(tmp_path / "a.mrc", pixels, 2.0)
    session.pick("a.mrc", root=str(tmp_path))
    session.ledger.close()
    committed_at = content(session.file)["documents"][0][4]
    assert isinstance(committed_at, float)
    at = committed_at + (-1 if is_older else 1)
    os.utime(file, (at, at))
    change(session.file, "DELETE FROM micrographs")
    assert rebuild(session.file).again == ([] if is_older else ["a.mrc"])
    with LedgerReader(session.file) as reader:
        record = reader.micrograph("a.mrc")
    assert record is not None
    assert (record.state, record.size, record.seq) == ("picked" if is_older else "seen", file.stat().st_size, 1)
    assert (record.seen_at, record.picked_at) == (committed_at, committed_at)
    assert (record.complete_at, record.published_at, record.attempts) == (None, None, 1)
    assert (bool(record.fingerprint), record.reason, record.message) == (is_older, "", "")
    with closing(Ledger(session.file)) as ledger:
        assert ledger.known() == ({"a.mrc": FileStamp(*_stamp(file))} if is_older else {})


def test_a_lost_record_of_a_file_that_cannot_be_read_is_new_again(session: Session, tmp_path: Path) -> None:
    session.pick("a.mrc", root=str(tmp_path))
    session.ledger.close()
    (tmp_path / "a.mrc").mkdir()
    os.utime(tmp_path / "a.mrc", (5, 5))
    change(session.file, "DELETE FROM micrographs")
    assert rebuild(session.file).again == ["a.mrc"]
    assert records(session.file) == {"a.mrc": ("seen", 1)}


def _stamp(file: Path) -> tuple[int, int]:
    return file.stat().st_size, file.stat().st_mtime_ns


# --- files ----------------------------------------------------------------------------------------------------------


def test_the_log_of_the_damaged_ledger_is_kept_with_it_and_nothing_else_is_left(
    session: Session, tmp_path: Path
) -> None:
    session.pick("a.mrc")
    folder = tmp_path / "copied"
    folder.mkdir()
    for ending in ("", "-wal"):
        shutil.copy(f"{session.file}{ending}", folder / f"l{ending}")
    other = Session(tmp_path / "other", session.make)
    other.pick("other.mrc")
    for ending in ("-wal", "-shm"):  # of a rebuild that was cut off
        shutil.copy(tmp_path / f"other{ending}", folder / f"l.rebuilt{ending}")
    (folder / "l.rebuilt").touch()
    other.ledger.close()
    built = rebuild(folder / "l")
    assert built.documents == 1
    assert built.aside is not None
    names = {file.name for file in folder.iterdir()}
    assert names == {"l", "l.lock", built.aside.name, f"{built.aside.name}-wal"}
    assert records(folder / "l") == {"a.mrc": ("picked", 1)}


def test_a_rebuild_that_cannot_be_written_leaves_the_damaged_ledger_where_it_is(session: Session) -> None:
    session.pick("a.mrc")
    session.ledger.close()
    before = session.file.read_bytes()
    session.file.with_name("l.rebuilt").mkdir()
    with pytest.raises(OutputError, match="l: cannot be rebuilt: Is a directory"):
        rebuild(session.file)
    assert session.file.read_bytes() == before
