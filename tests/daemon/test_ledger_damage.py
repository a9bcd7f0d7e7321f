"""Ledgers whose files are really damaged: what is found, what is said, what is saved, what is never done."""

from __future__ import annotations

import contextlib
import random
import re
import shutil
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import msgspec
import pytest

import frazil
from frazil.documents import FailedDocument, MicrographDocument, encode_document
from frazil.errors import LedgerDamagedError, OutputError, RetuneError
from frazil.session.outbox.daemon_info import check_watch
from frazil.session.outbox.file_stamp import FileStamp
from frazil.session.outbox.ledger import (
    Handled,
    Ledger,
    LedgerReader,
    Witness,
    archive,
    check,
    rebuild,
    request_requeue,
)
from frazil.session.outbox.ledger.salvage import read_rows
from frazil.session.retune.limits import LimitsChange, decode_request
from frazil.session.retune.repick import read_document, recall_result

HANDLED = Handled(stamp=FileStamp(size=10, mtime_ns=20), fingerprint="f")
PAGE_BYTES = 4096
COUNT = 150
"""Documents of picked micrographs in the ledger that is damaged."""


class Original:
    """A whole ledger, closed, and all that is in it."""

    def __init__(self, folder: Path, make_document: Callable[..., MicrographDocument]) -> None:
        self.folder, self.file = folder, folder / "l"
        chosen = random.Random(7)
        with (
            closing(Witness(folder, watch=folder, ledger=self.file)) as witness,
            closing(Ledger(self.file, witness)) as one,
        ):
            for i in range(COUNT):
                path = f"grid{i % 7}/{chosen.randrange(100)}.mrc"
                document = msgspec.structs.replace(make_document(f"/data/{path}"), directory=path.partition("/")[0])
                _, _ = one.commit_picked(
                    path,
                    HANDLED,
                    lambda epoch, seq, older, document=document: encode_document(  # type: ignore[misc]
                        msgspec.structs.replace(document, epoch=epoch, seq=seq, supersedes=older)
                    ),
                    score_map=chosen.randbytes(chosen.choice([50, 3000, 40_000])),
                )
                if i % 10 == 0:
                    one.commit_failed(
                        f"bad/{i}.mrc", HANDLED, "not_mrc", "is text", "quarantined",
                        lambda epoch, seq, i=i: encode_document(failed(i, epoch, seq)),  # type: ignore[misc]
                    )  # fmt: skip
                one.note_given_out(one.head)
                one.mark_delivered(one.head)
            self.head, self.epoch = one.head, one.epoch
        with LedgerReader(self.file) as reader:
            self.documents = {stored.seq: stored.body for stored in reader.documents()}
            self.records = {record.path: record for record in reader.micrographs()}

    def page_of(self, seq: int) -> int:
        """Where a document lies; all of them are small."""
        found = [m.start() for m in re.finditer(rb'"seq":%d,"micrograph"' % seq, self.file.read_bytes())]
        return found[-1] // PAGE_BYTES


def failed(i: int, epoch: str, seq: int) -> FailedDocument:
    return FailedDocument(
        epoch=epoch,
        seq=seq,
        micrograph=f"{i}.mrc",
        path=f"/data/bad/{i}.mrc",
        directory="bad",
        reason="not_mrc",
        message="is text",
        kind="permanent",
        failed_at="2026-01-01T00:00:00.000+00:00",
    )


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory, make_document: Callable[..., MicrographDocument]) -> Original:
    return Original(tmp_path_factory.mktemp("original"), make_document)


@pytest.fixture
def copied(original: Original, tmp_path: Path) -> Path:
    for name in ("l", ".frazil-witness"):
        shutil.copy(original.folder / name, tmp_path / name)
    return tmp_path / "l"


def spoil(file: Path, seed: int) -> set[int]:
    """Damage a few pages chosen by chance, in one of the ways in which disks do; which ones, from 0."""
    chosen = random.Random(seed)
    content = bytearray(file.read_bytes())
    count = len(content) // PAGE_BYTES
    pages = set(chosen.sample(range(count), chosen.choice([1, 1, 2, 5, 20])))
    how = chosen.choice(["noise", "zeros", "bits", "sector", "cut"])
    if how == "cut":
        pages = set(range(min(pages), count))
        del content[min(pages) * PAGE_BYTES :]
    else:
        for page in pages:
            start, length = page * PAGE_BYTES, PAGE_BYTES
            if how == "sector":
                start, length = start + 512 * chosen.randrange(8), 512
            for at in [chosen.randrange(start, start + length) for _ in range(20)] if how == "bits" else [start]:
                content[at] ^= 1 << chosen.randrange(8)
            if how != "bits":
                content[start : start + length] = bytes(length) if how == "zeros" else chosen.randbytes(length)
    file.write_bytes(content)
    return pages


@pytest.mark.parametrize("seed", range(16))
def test_a_damaged_ledger_is_noticed_and_rebuilt_from_all_that_can_be_read(
    seed: int, original: Original, copied: Path
) -> None:
    survive(seed, original, copied)


@pytest.mark.timeout(900)
def test_so_it_is_hundreds_of_times(request: pytest.FixtureRequest, original: Original, tmp_path: Path) -> None:
    if not request.config.getoption("--long"):
        pytest.skip("needs --long")
    for seed in range(16, 350):
        folder = tmp_path / str(seed)
        folder.mkdir()
        for name in ("l", ".frazil-witness"):
            shutil.copy(original.folder / name, folder / name)
        try:
            survive(seed, original, folder / "l")
        except BaseException as error:
            error.add_note(f"seed {seed}")
            raise
        shutil.rmtree(folder)


def survive(seed: int, original: Original, copied: Path) -> None:
    damaged = spoil(copied, seed)

    # It is noticed, or there is nothing to notice.
    try:
        faults = check(copied).faults
        with LedgerReader(copied) as reader:
            read = {stored.seq: stored.body for stored in reader.documents() if stored.decode() is not None}
    except OutputError as error:
        faults, read = [str(error)], {}
    assert faults or read == original.documents
    assert read.items() <= original.documents.items(), "no other document passes for one that was committed"

    # The daemon starts and commits, or refuses; nothing else, and no wait.
    with contextlib.suppress(OutputError), closing(Ledger(copied)) as ledger:
        with contextlib.suppress(sqlite3.Error):
            ledger.known()
            ledger.commit_document("model", lambda *_: b"{}")
        assert ledger.fault is None or isinstance(ledger.fault, LedgerDamagedError)
    shutil.copy(original.file, copied)
    assert spoil(copied, seed) == damaged
    for ending in ("-wal", "-shm"):
        copied.with_name(copied.name + ending).unlink(missing_ok=True)

    # All that lies in whole pages is saved, as it was.
    built = rebuild(copied)
    with LedgerReader(copied) as reader:
        saved = {stored.seq: stored.body for stored in reader.documents()}
        records = {record.path: record for record in reader.micrographs()}
        assert reader.epoch == original.epoch
    assert saved.items() <= original.documents.items()
    lost = original.documents.keys() - saved.keys()
    assert {original.page_of(seq) for seq in lost} <= damaged, "a document was lost that lies in a whole page"
    assert built.lost.count() == len(lost)
    assert built.aside is not None
    assert built.aside.is_file()

    # The new one is whole, agrees with itself, and gives no number out twice.
    assert check(copied).faults == []
    newest = {stored_path: seq for stored_path, seq in _newest(original).items() if seq in saved}
    for path, record in records.items():
        if record.state == "picked":
            assert record.seq in saved, f"{path} counts as picked, and its result is lost"
            assert record.seq == original.records[path].seq  # a record has no checksum: a bit of its times may differ
    assert newest.keys() <= records.keys(), "a result is there, and its micrograph unknown"
    with (
        closing(Witness(copied.parent, watch=original.file.parent, ledger=copied)) as witness,
        closing(Ledger(copied, witness)) as new,
    ):
        assert new.commit_document("model", lambda *_: b"{}") > original.head


def _newest(original: Original) -> dict[str, int]:
    return {path: record.seq for path, record in original.records.items() if record.seq is not None}


def test_every_row_is_read_page_by_page_as_sqlite_reads_it(tmp_path: Path) -> None:
    """Large rows, deleted ones, an archive taken out, the newest still in the write-ahead log."""
    chosen = random.Random(3)
    with closing(Ledger(tmp_path / "l")) as ledger:
        for _ in range(150):
            ledger.commit_picked(
                f"{chosen.randrange(80)}.mrc",
                HANDLED,
                lambda *_: b"x" * chosen.choice([10, 500, 5000, 30_000]),
                score_map=chosen.randbytes(chosen.choice([10, 3000, 100_000])),
            )
        ledger.mark_delivered(100)
        archive(tmp_path / "l", tmp_path / "a", before=1e12, below="1")
        for _ in range(5):
            ledger.commit_picked("new.mrc", HANDLED, lambda *_: b"new")
        assert (tmp_path / "l-wal").stat().st_size > 0
        rows = set(read_rows(tmp_path / "l"))
        with sqlite3.connect(tmp_path / "l") as database:
            for table in ("documents", "score_maps", "micrographs", "meta", "generations"):
                stored = set(database.execute(f"SELECT * FROM {table}"))
                assert stored <= rows
                if table in ("documents", "micrographs"):
                    assert {row for row in rows if len(row) == len(next(iter(stored)))} == stored
        database.close()


def test_what_only_a_copy_still_has_is_taken_from_it(original: Original, copied: Path) -> None:
    shutil.copy(original.file, f"{copied}.20260101T000000.bak")
    copied.write_bytes(b"")
    built = rebuild(copied)
    assert (built.documents, built.from_copies) == (len(original.documents), len(original.documents))
    copied.unlink()  # it need not be there at all
    assert rebuild(copied).documents == len(original.documents)
    assert check(copied).faults == []


def test_an_archive_and_a_ledger_in_use_are_whole(original: Original, copied: Path, tmp_path: Path) -> None:
    archive(copied, tmp_path / "archive", before=1e12, below="grid1")
    assert check(tmp_path / "archive").faults == []
    with closing(Ledger(copied)):
        found = check(copied)
    assert found.faults == []
    assert found.missing.count() == sum(b"/data/grid1/" in body for body in original.documents.values())
    assert found.documents + found.missing.count() == found.head == original.head


def test_there_must_be_something_to_rebuild_from_and_no_daemon(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match=r"expected a ledger to rebuild, or a copy of it .*found neither"):
        rebuild(tmp_path / "l")
    with closing(Ledger(tmp_path / "l")), pytest.raises(OutputError, match="in use by another frazil daemon"):
        rebuild(tmp_path / "l")


def test_a_micrograph_whose_record_is_lost_is_known_by_its_file_if_that_is_older_than_the_result(
    tmp_path: Path,
    make_document: Callable[..., MicrographDocument],
    write_mrc: Callable[..., Path],
    make_scene: Callable[..., object],
) -> None:
    pixels = make_scene(shape=(64, 96), count=1, diameter_px=24.0).pixels  # type: ignore[attr-defined]
    old, changed = (write_mrc(tmp_path / name, pixels, 2.0) for name in ("old.mrc", "changed.mrc"))
    with closing(Ledger(tmp_path / "l")) as ledger:
        for file in (old, changed, tmp_path / "deleted.mrc"):
            one = make_document(str(file))
            ledger.commit_picked(
                file.name,
                HANDLED,
                lambda epoch, seq, _, one=one: encode_document(msgspec.structs.replace(one, epoch=epoch, seq=seq)),  # type: ignore[misc]
            )
    with closing(sqlite3.connect(tmp_path / "l")) as database, database:
        database.execute("DELETE FROM micrographs")
        database.execute("UPDATE documents SET committed_at = 5.0 WHERE path = 'changed.mrc'")
    assert rebuild(tmp_path / "l").again == ["changed.mrc"]
    with LedgerReader(tmp_path / "l") as reader:
        assert {r.path: (r.state, r.seq) for r in reader.micrographs()} == {
            "old.mrc": ("picked", 1),
            "changed.mrc": ("seen", 2),
            "deleted.mrc": ("gone", 3),
        }
    with closing(Ledger(tmp_path / "l")) as ledger:
        assert ledger.known()["old.mrc"].size == old.stat().st_size


# --- one damaged document -------------------------------------------------------------------------------------------


@pytest.fixture(params=["{", '{"type":"micrograph"}', "a digit"])
def with_damage(request: pytest.FixtureRequest, open_stream: Callable[..., object]) -> object:
    """A stream whose ledger holds ten documents, the fifth of them damaged."""
    daemon = open_stream()
    for i in range(10):
        daemon.commit(f"{i}.mrc")  # type: ignore[attr-defined]
    daemon.wait_published()  # type: ignore[attr-defined]
    spoil_document(daemon.ledger.file, 5, request.param)  # type: ignore[attr-defined]
    return daemon


def spoil_document(file: Path, seq: int, how: str) -> None:
    with closing(sqlite3.connect(file)) as database, database:
        if how == "a digit":  # it is a document still, but not that which was committed
            database.execute(
                "UPDATE documents SET body = CAST(replace(body, '0.9', '0.8') AS BLOB) WHERE seq = ?", (seq,)
            )
        else:
            database.execute("UPDATE documents SET body = CAST(? AS BLOB) WHERE seq = ?", (how, seq))
        assert database.total_changes == 1


def test_a_replay_passes_over_a_damaged_document_and_says_so(with_damage, caplog: pytest.LogCaptureFixture) -> None:  # type: ignore[no-untyped-def]
    for _ in range(2):
        with frazil.PickStream(with_damage.address, since=1) as stream:
            taken = []
            while len(taken) < 9:
                document = stream.receive(20.0)
                assert document is not None
                taken.append(document.seq)
            assert taken == [1, 2, 3, 4, 6, 7, 8, 9, 10]
            assert stream.missing == [(5, 5)]
    with_damage.wait_sample("frazil_damaged_documents_total", 1)
    assert len([r for r in caplog.records if "document 5 (4.mrc) is damaged" in r.message]) == 1
    assert with_damage.stream.dead_thread() is None


def test_the_check_names_a_damaged_document_and_its_micrograph_can_be_picked_again(with_damage) -> None:  # type: ignore[no-untyped-def]
    file = with_damage.ledger.file
    assert check(file).faults == ["1 documents are damaged: 5"]
    with LedgerReader(file) as reader:
        assert reader.newest_result().seq == 10
        with pytest.raises(RetuneError, match=r"4\.mrc: result 5"):
            read_document(recall_result(reader, "4.mrc"))
    assert request_requeue(file, ["4.mrc"]) == 1
    with_damage.commit("4.mrc")
    with_damage.close()
    assert rebuild(file).lost.all == [(5, 5)]
    assert check(file).faults == []


def test_a_ledger_that_turns_malformed_is_said_by_whoever_meets_it(original: Original, copied: Path) -> None:
    content = bytearray(copied.read_bytes())
    page = original.page_of(100) * PAGE_BYTES
    content[page : page + PAGE_BYTES] = b"\x55" * PAGE_BYTES
    copied.write_bytes(content)
    with closing(Ledger(copied)) as ledger:
        with pytest.raises(sqlite3.DatabaseError, match="malformed"):
            ledger.documents_after(90)
        assert isinstance(ledger.fault, LedgerDamagedError)
        with pytest.raises(sqlite3.DatabaseError):  # no number is given out from it any more
            ledger.commit_document("model", lambda *_: b"{}")
        with pytest.raises(LedgerDamagedError, match="frazil ledger rebuild"):
            ledger.look()
    with LedgerReader(copied) as reader, pytest.raises(LedgerDamagedError):
        list(reader.documents())


def test_what_is_remembered_by_name_may_be_damaged_too(
    tmp_path: Path, make_document: Callable[..., MicrographDocument], caplog: pytest.LogCaptureFixture
) -> None:
    with closing(Ledger(tmp_path / "l")) as ledger:
        one = make_document("/data/a.mrc")
        ledger.commit_picked(
            "a.mrc", HANDLED, lambda epoch, seq, _: encode_document(msgspec.structs.replace(one, epoch=epoch, seq=seq))
        )
        for key in ("delivered", "retune", "standing", "drift", "tuned", "daemon"):
            ledger.remember(key, "\x00{")
    with closing(Ledger(tmp_path / "l")) as ledger:
        assert [seq for seq, _ in ledger.undelivered()] == [1]
        assert decode_request(ledger.recall("retune")) == LimitsChange()
        assert "a request to tune that is damaged" in caplog.text
        check_watch(ledger, tmp_path)
    with closing(sqlite3.connect(tmp_path / "l")) as database, database:
        database.execute("DELETE FROM meta WHERE key = 'epoch'")
    with pytest.raises(LedgerDamagedError, match="does not say its epoch"):
        Ledger(tmp_path / "l")
    rebuild(tmp_path / "l")
    with closing(Ledger(tmp_path / "l")) as ledger:
        assert ledger.epoch  # its documents say it
