"""The assessor, one step at a time: real files, ledger and model, a clock that stands, no thread."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import msgspec
import numpy as np
import prometheus_client
import pytest

from frazil.documents import MicrographDocument, QualityDocument, decode_document
from frazil.health.heartbeat import Heartbeats
from frazil.health.metrics import Metrics
from frazil.model import Model, load_model
from frazil.picking import Micrograph, Picker, PickingSettings, read_micrograph
from frazil.quality.assessment import Optics
from frazil.quality.facility import FacilityTables
from frazil.quality.grade import QualityRules
from frazil.record import MicrographReader, record_picks
from frazil.session.assess import Assessed, Assessor, QualityWriter
from frazil.session.outbox.file_stamp import sample, stamp_of
from frazil.session.outbox.ledger import Handled, Ledger, LedgerReader
from frazil.session.outbox.outbox import Outbox
from frazil.session.retune.repick import pack_score_map


@dataclass
class Sent:
    """Where documents are published to."""

    topics: list[str] = field(default_factory=list)
    session: str = ""

    def publish(self, seq: int, topic: bytes, body: bytes) -> None:
        self.topics.append(topic.decode())


class Rig:
    """Micrographs that are picked at once, and an assessor that is turned by hand."""

    def __init__(self, folder: Path, model: Model, write_mrc: Callable[..., Path]) -> None:
        self.now = 1000.0
        self.folder, self.watch = folder, folder / "watch"
        self.watch.mkdir(exist_ok=True)
        self.write_mrc = write_mrc
        self.picker = Picker(model, PickingSettings(diameter_angstrom=48))
        self.metrics = Metrics(prometheus_client.CollectorRegistry())
        self.sent, self.stopping = Sent(), threading.Event()
        self.busy, self.sees = False, True
        self.reads: list[str] = []
        self.open()

    def open(self) -> None:
        """As at the start of a daemon."""
        self.ledger = Ledger(self.folder / "ledger.sqlite")
        self.outbox = Outbox(self.ledger, self.sent, self.metrics, self.watch, self.folder / "out", self.stopping)
        self.committed: list[QualityDocument] = []
        self.writer = QualityWriter(self.outbox, self.metrics, self.committed.append)
        self.assessor = Assessor(
            self.ledger,
            self._read,  # type: ignore[arg-type]
            self.write,
            watch=self.watch,
            optics=Optics(),
            # The spectrum of discs looks like rings of a CTF, and is none.
            rules=QualityRules(worst_resolution_angstrom=100.0, most_drift=1.0),
            tables=FacilityTables(paths=[self.folder / "micrographs_ctf.star"]),
            thinner_is_brighter=True,
            model=lambda: self.picker.model,
            is_busy=lambda: self.busy,
            sees=lambda: self.sees,
            stopping=self.stopping,
            heartbeats=Heartbeats(30),
            metrics=self.metrics,
            read_seconds=60,
            clock=lambda: self.now,
        )

    def _read(self, path: Path) -> Micrograph:
        self.reads.append(path.name)
        return MicrographReader(largest_bytes=1 << 30, timeout_seconds=60)(path)

    def write(self, assessed: Assessed) -> None:
        self.writer.write(assessed)

    def pick(self, name: str, pixels: np.ndarray) -> tuple[int, Micrograph, str]:
        path = self.watch / name
        self.write_mrc(path, pixels)
        return self.pick_file(path)

    def pick_file(self, path: Path) -> tuple[int, Micrograph, str]:
        micrograph = read_micrograph(path, as_stored=True)
        record = record_picks(self.picker, micrograph, read_seconds=0, since=0)
        fingerprint = sample(path).fingerprint
        seq = self.outbox.commit(
            record.document,
            key=path.name,
            handled=Handled(stamp=stamp_of(path), fingerprint=fingerprint),
            score_map=pack_score_map(record.score_map),
        )
        return seq, micrograph, fingerprint

    def steps(self, count: int = 1) -> None:
        for _ in range(count):
            self.now += 35  # longer than a rest
            self.assessor.step()

    def qualities(self) -> dict[str, tuple[int, int]]:
        """Of each assessed micrograph the number of its assessment and of the picks."""
        with LedgerReader(self.ledger.file) as reader:
            return {one.path: (one.seq, one.of) for one in reader.qualities()}

    def waiting(self) -> int:
        with LedgerReader(self.ledger.file) as reader:
            return reader.unassessed()

    def close(self) -> None:
        self.ledger.close()


@pytest.fixture(scope="module")
def blob(blob_model: Path) -> Model:
    return load_model(blob_model, "cpu", 1)


@pytest.fixture
def rig(tmp_path: Path, blob: Model, write_mrc: Callable[..., Path]) -> Iterator[Rig]:
    made = Rig(tmp_path, blob, write_mrc)
    yield made
    made.close()


@pytest.fixture
def pixels(make_scene: Callable[..., object]) -> np.ndarray:
    found: np.ndarray = make_scene().pixels  # type: ignore[attr-defined]
    return found


def test_what_was_just_picked_is_assessed_from_the_pixels_in_memory_and_follows_on_the_stream(
    rig: Rig, pixels: np.ndarray
) -> None:
    seq, micrograph, fingerprint = rig.pick("a.mrc", pixels)
    offer = rig.assessor.reserve(micrograph, others_wait=False)
    assert offer is not None
    rig.assessor.accept(offer, "a.mrc", seq, fingerprint)
    rig.steps()
    assert rig.reads == []
    (quality,) = rig.committed
    assert (quality.seq, quality.of, quality.supersedes, quality.micrograph) == (2, 1, 0, "a.mrc")
    assert (quality.grade, quality.usable_fraction, quality.picks >= 10) == ("good", 1.0, True)
    assert rig.sent.topics == ["picks/", "quality/"]
    stored = rig.ledger.documents_after(1)[0]
    assert decode_document(stored.body) == msgspec.structs.replace(quality, epoch=rig.ledger.epoch)
    assert rig.waiting() == 0
    assert rig.metrics.registry.get_sample_value("frazil_assessed_micrographs_total", {"grade": "good", "category": ""})


def test_while_others_wait_few_are_assessed_and_what_was_passed_over_follows_newest_first(
    rig: Rig, pixels: np.ndarray
) -> None:
    rig.busy = True
    for number in range(12):
        seq, micrograph, fingerprint = rig.pick(f"{number:02}.mrc", pixels)
        if (offer := rig.assessor.reserve(micrograph, others_wait=True)) is not None:
            rig.assessor.accept(offer, f"{number:02}.mrc", seq, fingerprint)
        rig.steps()
    assert sorted(rig.qualities()) == ["00.mrc", "10.mrc"]
    assert rig.reads == []
    rig.busy = False
    rig.steps(11)
    assert rig.reads == ["11.mrc", *(f"{number:02}.mrc" for number in range(9, 0, -1))]
    assert len(rig.qualities()) == 12
    assert rig.waiting() == 0


def test_only_one_more_micrograph_waits_with_its_pixels(rig: Rig, pixels: np.ndarray) -> None:
    seq, micrograph, fingerprint = rig.pick("a.mrc", pixels)
    offer = rig.assessor.reserve(micrograph, others_wait=False)
    assert offer is not None
    assert rig.assessor.reserve(micrograph, others_wait=False) is None
    rig.assessor.release()  # its picks could not be committed
    offer = rig.assessor.reserve(micrograph, others_wait=False)
    assert offer is not None
    rig.assessor.accept(offer, "a.mrc", seq, fingerprint)
    assert rig.assessor.reserve(micrograph, others_wait=False) is None
    rig.steps()
    assert rig.assessor.reserve(micrograph, others_wait=False) is not None


def test_what_a_run_left_when_it_was_killed_is_assessed_by_the_next(rig: Rig, pixels: np.ndarray) -> None:
    rig.pick("a.mrc", pixels)  # committed, and the process ends
    rig.close()
    rig.open()
    rig.steps(2)
    assert rig.qualities() == {"a.mrc": (2, 1)}
    rig.steps(5)
    assert len(rig.ledger.documents_after(0)) == 2  # once


def test_other_picks_of_the_same_file_are_graded_without_reading_it(rig: Rig, pixels: np.ndarray) -> None:
    rig.pick("a.mrc", pixels)
    rig.steps(2)
    assert rig.reads == ["a.mrc"]
    before = rig.committed[-1]
    kept = rig.ledger.result("a.mrc")
    assert kept is not None
    document = decode_document(kept.body)
    assert isinstance(document, MicrographDocument)
    few = msgspec.structs.replace(
        document.picks, y=document.picks.y[:2], x=document.picks.x[:2], score=document.picks.score[:2]
    )
    rig.outbox.commit(
        msgspec.structs.replace(document, picks=few, supersedes=1), key="a.mrc", revises=1, score_map=kept.score_map
    )
    rig.steps(2)
    after = rig.committed[-1]
    assert rig.reads == ["a.mrc"]
    assert (after.of, after.supersedes, after.picks) == (3, before.seq, 2)
    assert (after.usable_fraction, after.mean_counts) == (before.usable_fraction, before.mean_counts)
    assert rig.metrics.registry.get_sample_value("frazil_reassessed_micrographs_total") == 1


def test_a_file_that_was_written_again_is_read_again(rig: Rig, pixels: np.ndarray) -> None:
    rig.pick("a.mrc", pixels)
    rig.steps(2)
    rig.pick("a.mrc", pixels + 50)
    rig.steps(2)
    assert rig.reads == ["a.mrc", "a.mrc"]
    first, second = rig.committed
    assert first.mean_counts is not None
    assert second.mean_counts == pytest.approx(first.mean_counts + 50, abs=1)


def test_what_cannot_be_assessed_is_left_alone_after_three_attempts_and_holds_up_no_other(
    rig: Rig, pixels: np.ndarray
) -> None:
    rig.pick("a.mrc", pixels)
    rig.pick("b.mrc", pixels)
    (rig.watch / "b.mrc").write_bytes(b"damaged since")
    rig.steps(2)
    assert rig.reads == ["b.mrc", "a.mrc"]
    assert sorted(rig.qualities()) == ["a.mrc"]
    rig.steps(12)
    assert rig.reads.count("b.mrc") == 3
    assert rig.waiting() == 0
    assert rig.metrics.registry.get_sample_value("frazil_assessment_failures_total") == 3
    rig.pick("b.mrc", pixels)  # picked anew, it has another chance
    rig.steps(2)
    assert sorted(rig.qualities()) == ["a.mrc", "b.mrc"]


def test_a_file_that_is_gone_is_given_up_at_once_but_not_while_the_directory_is_not_seen(
    rig: Rig, pixels: np.ndarray
) -> None:
    rig.pick("a.mrc", pixels)
    (rig.watch / "a.mrc").unlink()
    rig.sees = False
    rig.steps(8)
    assert (rig.reads, rig.waiting()) == ([], 1)
    rig.sees = True
    rig.steps(8)
    assert (rig.reads, rig.waiting()) == (["a.mrc"], 0)


def test_an_assessment_that_fails_in_an_unforeseen_way_ends_there(
    rig: Rig, pixels: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise ZeroDivisionError("unforeseen")

    monkeypatch.setattr("frazil.session.assess.assessor.measure", fail)
    seq, micrograph, fingerprint = rig.pick("a.mrc", pixels)
    offer = rig.assessor.reserve(micrograph, others_wait=False)
    assert offer is not None
    rig.assessor.accept(offer, "a.mrc", seq, fingerprint)
    rig.steps()
    assert rig.committed == []
    monkeypatch.undo()
    rig.steps(8)
    assert rig.qualities() == {"a.mrc": (2, 1)}


def test_what_people_change_in_the_picks_does_not_change_the_grade(rig: Rig, pixels: np.ndarray) -> None:
    from frazil.session.correct import MarkMicrograph
    from frazil.session.correct.applying import uncorrected_picks
    from frazil.session.outbox.ledger import leave_edits

    for name in ("a", "b", "c", "d", "e", "f"):
        rig.pick(f"{name}.mrc", pixels)
    rig.steps(8)
    left = leave_edits(rig.ledger.file, [MarkMicrograph(id="edit-00001", path="a.mrc", mark="bad")])
    assert left.accepted == 1
    kept = rig.ledger.result("a.mrc")
    assert kept is not None
    document = decode_document(kept.body)
    assert isinstance(document, MicrographDocument)
    rig.outbox.commit(
        msgspec.structs.replace(document, picks=uncorrected_picks(document, None), supersedes=kept.seq),
        key="a.mrc",
        revises=kept.seq,
        score_map=kept.score_map,
    )
    rig.steps(2)
    assert (rig.committed[-1].micrograph, rig.committed[-1].picks, rig.committed[-1].grade) == ("a.mrc", 0, "good")


def test_the_estimated_precision_comes_from_the_scores_of_the_micrograph(
    rig: Rig, pixels: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    from frazil.model.contract import Calibration

    calibration = Calibration.make((0.0, 0.5, 1.0), np.array([[100, 100]]), np.array([[0, 90]]))
    monkeypatch.setattr("frazil.session.assess.assessor.read_calibration", lambda _: calibration)
    rig.pick("a.mrc", pixels)
    rig.steps(2)
    precision = rig.committed[-1].estimated_precision
    assert precision is not None
    assert 0.8 <= precision <= 0.95


def test_score_maps_that_were_not_kept_leave_the_precision_unknown(rig: Rig, pixels: np.ndarray) -> None:
    rig.pick("a.mrc", pixels)
    rig.steps(2)
    assert rig.committed[-1].estimated_precision is None  # the model has no calibration, and frazil chose nothing


def test_a_fit_of_another_program_is_taken_in_place_of_our_own(
    rig: Rig, pixels: np.ndarray, caplog: pytest.LogCaptureFixture
) -> None:
    record = "1 15512.25 15003.5 31.25 0.0 0.21 4.2\n"  # micrograph, defocus 1 and 2, azimuth, phase, score, resolution
    heading = (
        "# Output from CTFFind version 4.1.14, run on 2026-11-28 12:00:00\n"
        "# Input file: a.mrc ; Number of micrographs: 1\n"
        "# Pixel size: 2.000 Angstroms ; acceleration voltage: 200.0 keV ; spherical aberration: 1.40 mm ; "
        "amplitude contrast: 0.07\n"
        "# Box size: 512 pixels ; min. res.: 30.0 Angstroms ; max. res.: 5.0 Angstroms ; min. def.: 5000.0 um; "
        "max. def. 50000.0 um\n"
        "# Columns: #1 - micrograph number; #2 - defocus 1 [Angstroms]; #3 - defocus 2; #4 - azimuth of astigmatism; "
        "#5 - additional phase shift [radians]; #6 - cross correlation; #7 - spacing (in Angstroms) up to which CTF "
        "rings were fit successfully\n"
    )
    (rig.watch / "a.txt").write_text(heading + record)
    (rig.folder / "micrographs_ctf.star").write_text("this is no table")
    rig.pick("a.mrc", pixels)
    rig.pick("b.mrc", pixels)
    rig.steps(3)
    b, a = rig.committed
    assert not isinstance(a.ctf, msgspec.UnsetType)
    assert (a.ctf.source, a.ctf.defocus_u_angstrom, a.ctf.resolution_angstrom) == ("ctffind", 15512.2, 4.2)
    assert a.ctf.voltage_kv == 200.0
    assert not isinstance(b.ctf, msgspec.UnsetType)
    assert b.ctf.source == "frazil"
    (said,) = [one.message for one in caplog.records if "CTF of other programs" in one.message]
    assert "micrographs_ctf.star" in said
