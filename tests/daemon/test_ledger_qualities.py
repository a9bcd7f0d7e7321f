"""Assessments in the ledger: a ledger of the layout before gets room for them; archive, rebuild and check know them."""

from __future__ import annotations

import gzip
import sqlite3
import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import msgspec
import prometheus_client
import pytest

from frazil.documents import CtfFit, MicrographDocument, PickColumns, QualityDocument, decode_document
from frazil.errors import MicrographError
from frazil.health.metrics import Metrics
from frazil.session.outbox.file_stamp import FileStamp
from frazil.session.outbox.ledger import Handled, Ledger, LedgerReader, archive, check, rebuild
from frazil.session.outbox.outbox import Outbox

ROOT = Path("/watched")
FIT = CtfFit(
    defocus_u_angstrom=15500.0,
    defocus_v_angstrom=15000.0,
    defocus_angle_deg=31.0,
    resolution_angstrom=4.2,
    correlation=0.31,
    voltage_kv=300.0,
    cs_mm=2.7,
    amplitude_contrast=0.1,
)


class Nowhere:
    session = ""

    def publish(self, seq: int, topic: bytes, body: bytes) -> None:
        """Nobody listens."""


class Rig:
    def __init__(self, folder: Path, make_document: Callable[..., MicrographDocument]) -> None:
        self.file, self.folder, self.make_document = folder / "ledger.sqlite", folder, make_document
        self.open()

    def open(self) -> None:
        self.ledger = Ledger(self.file)
        self.outbox = Outbox(
            self.ledger,
            Nowhere(),
            Metrics(prometheus_client.CollectorRegistry()),
            ROOT,
            self.folder / "out",
            threading.Event(),
        )

    def pick(self, key: str, fingerprint: str = "f") -> int:
        document = msgspec.structs.replace(
            self.make_document(key), path=str(ROOT / key), directory=str(Path(key).parent).strip(".")
        )
        handled = Handled(stamp=FileStamp(size=1, mtime_ns=1), fingerprint=fingerprint)
        return self.outbox.commit(document, key=key, handled=handled)

    def assess(self, key: str, of: int, *, supersedes: int = 0, **changes: object) -> int:
        document = QualityDocument(
            epoch="",
            seq=0,
            micrograph=Path(key).name,
            path=str(ROOT / key),
            directory=str(Path(key).parent).strip("."),
            of=of,
            supersedes=supersedes,
            grade="good",
            picks=1,
            usable_fraction=0.9,
            pixel_size_angstrom=1.5,
            ctf=FIT,
            assessed_at="2026-11-28T12:00:00.000+00:00",
        )
        changed = msgspec.structs.replace(document, **changes)
        return self.outbox.commit(changed, key=key, fingerprint="f")

    def close(self) -> None:
        self.ledger.close()


@pytest.fixture
def rig(tmp_path: Path, make_document: Callable[..., MicrographDocument]) -> Iterator[Rig]:
    made = Rig(tmp_path, make_document)
    yield made
    made.close()


@pytest.fixture
def of_layout_4(tmp_path: Path) -> Path:
    """As frazil made it before there were assessments: picks of a, c, grid/b and of a file that is gone, and a failure;
    those of a were revised.
    """
    file = tmp_path / "ledger.sqlite"
    file.write_bytes(gzip.decompress((Path(__file__).parent / "recorded" / "ledger-layout-4.sqlite.gz").read_bytes()))
    return file


def waiting(file: Path) -> list[tuple[str, int]]:
    """What waits to be assessed, the newest first."""
    found = []
    with LedgerReader(file) as reader:
        before = 2**63 - 1
        while (one := reader.next_unassessed(before=before)) is not None:
            found.append((one.path, one.seq))
            before = one.seq
        assert len(found) == reader.unassessed()
    return found


def test_a_ledger_of_layout_4_is_read_as_it_is(of_layout_4: Path) -> None:
    with LedgerReader(of_layout_4) as reader:
        assert reader.meta()["layout"] == "4"
        assert (list(reader.qualities()), reader.quality("a.mrc"), reader.grades()) == ([], None, {})
        assert (reader.next_unassessed(), reader.unassessed()) == (None, 0)
        assert len(list(reader.documents())) == 6


def test_a_ledger_of_layout_4_is_brought_up_to_date_and_what_was_picked_is_to_be_assessed(of_layout_4: Path) -> None:
    with LedgerReader(of_layout_4) as reader:
        before = [(stored.seq, stored.body) for stored in reader.documents()]
    with closing(Ledger(of_layout_4)):
        assert waiting(of_layout_4) == [("a.mrc", 5), ("c.mrc", 3), ("grid/b.mrc", 2)]
        with LedgerReader(of_layout_4) as reader:
            assert reader.meta()["layout"] == "5"
            assert [(stored.seq, stored.body) for stored in reader.documents()] == before
    assert check(of_layout_4).faults == []


def test_an_assessment_is_a_document_and_a_row_with_what_it_says(rig: Rig) -> None:
    of = rig.pick("grid/a.mrc")
    assert waiting(rig.file) == [("grid/a.mrc", 1)]
    seq = rig.assess("grid/a.mrc", of, grade="bad", category="carbon", relative_ice_thickness=0.25)
    with LedgerReader(rig.file) as reader:
        record = reader.quality("grid/a.mrc")
        assert record is not None
        assert (record.seq, record.of, record.fingerprint) == (seq, of, "f")
        assert (record.grade, record.category, record.relative_ice_thickness) == ("bad", "carbon", 0.25)
        assert (record.defocus_u_angstrom, record.ctf_resolution_angstrom, record.voltage_kv) == (15500.0, 4.2, 300.0)
        assert record.assessed_at == 1795867200.0
        assert list(reader.qualities()) == reader.last_qualities(9) == [record]
        assert list(reader.qualities(below="grid/")) == [record]
        assert list(reader.qualities(below="other/")) == []
        assert reader.grades() == {("bad", "carbon"): 1}
        stored = reader.document(seq)
        assert stored is not None
        assert (stored.topic, stored.path) == ("quality", "grid/a.mrc")
    assert waiting(rig.file) == []


def test_a_later_assessment_replaces_the_earlier_one_and_newer_picks_wait_again(rig: Rig) -> None:
    first = rig.assess("a.mrc", rig.pick("a.mrc"))
    rig.pick("a.mrc")
    assert waiting(rig.file) == [("a.mrc", 3)]
    rig.assess("a.mrc", 1, supersedes=first)  # of the picks before
    assert waiting(rig.file) == [("a.mrc", 3)]
    rig.assess("a.mrc", 3, supersedes=4)
    assert waiting(rig.file) == []
    with LedgerReader(rig.file) as reader:
        assert [record.seq for record in reader.qualities()] == [5]
        superseded = {stored.seq: stored.superseded_by for stored in reader.documents()}
    assert superseded == {1: 3, 2: 4, 3: None, 4: 5, 5: None}


def test_an_archive_gets_the_assessments_and_the_ledger_keeps_those_of_files_that_are_there(rig: Rig) -> None:
    rig.assess("a.mrc", rig.pick("a.mrc"))
    rig.assess("gone.mrc", rig.pick("gone.mrc"), grade="doubtful")
    rig.pick("not-assessed.mrc")
    rig.ledger.note_gone(["gone.mrc"])
    to = rig.folder / "archive"
    archive(rig.file, to, before=2e9)
    with LedgerReader(rig.file) as reader:
        assert [record.path for record in reader.qualities()] == ["a.mrc"]
    with LedgerReader(to) as reader:
        assert [(record.path, record.grade) for record in reader.qualities()] == [
            ("a.mrc", "good"),
            ("gone.mrc", "doubtful"),
        ]
    assert waiting(rig.file) == []  # its picks are not here any more
    assert check(rig.file).faults == []
    assert check(to).faults == []


def test_a_rebuilt_ledger_has_the_newest_assessments_and_knows_what_lacks_one(rig: Rig) -> None:
    rig.assess("a.mrc", rig.pick("a.mrc"))
    rig.assess("grid/b.mrc", rig.pick("grid/b.mrc"), grade="bad", category="empty")
    rig.pick("c.mrc")
    rig.pick("a.mrc", fingerprint="other")
    with LedgerReader(rig.file) as reader:
        before = list(reader.qualities())
    rig.close()
    rebuild(rig.file)
    with LedgerReader(rig.file) as reader:
        after = list(reader.qualities())
    # That the file of a was another one when it was assessed is not known any more: it is looked at anew.
    assert after == [msgspec.structs.replace(before[0], fingerprint=""), before[1]]
    assert waiting(rig.file) == [("a.mrc", 6), ("c.mrc", 5)]
    assert check(rig.file).faults == []
    rig.open()


def test_a_rebuilt_ledger_keeps_the_assessments_whose_documents_were_archived(rig: Rig) -> None:
    rig.assess("a.mrc", rig.pick("a.mrc"))
    archive(rig.file, rig.folder / "archive", before=2e9)
    rig.assess("b.mrc", rig.pick("b.mrc"))
    with LedgerReader(rig.file) as reader:
        before = list(reader.qualities())
    rig.close()
    rebuild(rig.file)
    with LedgerReader(rig.file) as reader:
        assert list(reader.qualities()) == before
    assert waiting(rig.file) == []
    rig.open()


def test_the_check_finds_an_assessment_whose_document_is_lost(rig: Rig) -> None:
    seq = rig.assess("a.mrc", rig.pick("a.mrc"))
    assert (check(rig.file).qualities, check(rig.file).faults) == (1, [])
    with closing(sqlite3.connect(rig.file)) as database, database:
        database.execute("DELETE FROM documents WHERE seq = ?", (seq,))
    assert check(rig.file).faults == ["1 assessments have lost their document, such as that of a.mrc"]


def test_a_failure_of_a_micrograph_is_nothing_to_assess(rig: Rig) -> None:
    handled = Handled(stamp=FileStamp(size=1, mtime_ns=1), fingerprint="f")
    rig.outbox.fail(MicrographError(ROOT / "a.mrc", "not_mrc", "is text"), "a.mrc", handled, max_attempts=1)
    assert waiting(rig.file) == []


def test_assessments_do_not_stand_in_the_way_of_the_picks(rig: Rig) -> None:
    """Whoever looks for results by number or as the newest finds picks, and no assessment of them."""
    rig.assess("a.mrc", rig.pick("a.mrc"))
    with LedgerReader(rig.file) as reader:
        newest = reader.newest_result()
        assert newest is not None
        assert newest.seq == 1
        assert [stored.seq for stored in reader.results_after(0, 9)] == [1]
        assert reader.next_result(after=1, until=2) is None
        record = reader.micrograph("a.mrc")
        assert record is not None
        assert (record.seq, record.state) == (1, "picked")
        (picks,) = [decode_document(body) for _, body in reader.history("a.mrc")]
        assert isinstance(picks, MicrographDocument)
        assert isinstance(picks.picks, PickColumns)
