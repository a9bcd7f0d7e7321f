"""The pipeline, one turn of a stage at a time: real files, model and ledger, a clock that stands, no thread."""

from __future__ import annotations

import dataclasses
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import prometheus_client
import pytest

from frazil.documents import Corrections, FailedDocument, MicrographDocument, columns_of, decode_document
from frazil.errors import IncompleteMicrograph, MicrographError
from frazil.health.heartbeat import Heartbeats
from frazil.health.metrics import Metrics
from frazil.limits import LimitsPatch
from frazil.model import load_model
from frazil.picking import Picker, PickingSettings, read_star
from frazil.record import MicrographReader
from frazil.session.correct import AddPick, DeletePick
from frazil.session.intake.intake import Arrival
from frazil.session.outbox.file_stamp import stamp_of
from frazil.session.outbox.ledger import Handled, Ledger, LedgerReader, leave_edits
from frazil.session.outbox.outbox import Outbox
from frazil.session.pick.doubts import Doubts
from frazil.session.pick.drift import DriftWatch
from frazil.session.pick.model_changes import Announcer
from frazil.session.pick.pipeline import Pipeline
from frazil.session.pick.serving import Serving
from frazil.session.retune import (
    Chooser,
    LimitsChange,
    Receiver,
    Reviser,
    RevisionProgress,
    count,
    preview,
    request_change,
)


@dataclass
class Sent:
    """Where documents are published to."""

    numbers: list[int] = field(default_factory=list)
    session: str = ""

    def publish(self, seq: int, topic: bytes, body: bytes) -> None:
        self.numbers.append(seq)


@dataclass
class Intake:
    """What the pipeline tells the intake of an arrival."""

    told: list[tuple[str, str]] = field(default_factory=list)

    def finish(self, arrival: Arrival, handled: Handled) -> None:
        self.told.append(("finished", arrival.key))

    def retry(self, arrival: Arrival, rest_seconds: float = 0.0) -> None:
        self.told.append((f"retried after {'a rest' if rest_seconds else 'no rest'}", arrival.key))

    def await_growth(self, arrival: Arrival, error: IncompleteMicrograph) -> None:
        self.told.append(("incomplete", arrival.key))


class Rig:
    """A pipeline whose stages are turned by hand."""

    def __init__(
        self, folder: Path, blob_model: Path, write_mrc: Callable[..., Path], *, chooses: bool = False
    ) -> None:
        self.now = 1000.0
        self.watch, self.out = folder / "watch", folder / "out"
        self.watch.mkdir()
        self._write_mrc = write_mrc
        self.metrics = Metrics(prometheus_client.CollectorRegistry())
        self.ledger = Ledger(folder / "ledger.sqlite")
        self.sent, self.intake, stopping = Sent(), Intake(), threading.Event()
        settings = PickingSettings(diameter_angstrom=48)
        outbox = Outbox(self.ledger, self.sent, self.metrics, self.watch, self.out, stopping)
        self.reviser = Reviser(self.ledger, outbox, settings, chooses=chooses)
        self.receiver = Receiver(self.ledger, outbox, self.reviser, settings, self.watch, keep_score_maps=True)
        picker = Picker(load_model(blob_model, "cpu", 1), settings)
        self.pipeline = Pipeline(
            Serving(picker, chooser=Chooser(chooses=chooses), probation_micrographs=0, faults_allowed=0.2),
            Announcer(self.ledger, outbox, self.metrics),
            self.ledger,
            outbox,
            self.reviser,
            self.receiver,
            self.metrics,
            DriftWatch(self.ledger),
            Doubts("dark"),
            stopping,
            MicrographReader(largest_bytes=1 << 30, timeout_seconds=60),
            watch=self.watch,
            max_attempts=2,
            keep_score_maps=True,
            heartbeats=Heartbeats(30),
            read_seconds=60,
            clock=lambda: self.now,
        )
        self.pipeline.connect(self.intake)

    def write(self, key: str, pixels: np.ndarray, *, backlog: bool = False) -> Arrival:
        path = self.watch / key
        path.parent.mkdir(parents=True, exist_ok=True)
        self._write_mrc(path, pixels)
        return Arrival(
            path=path,
            key=key,
            stamp=stamp_of(path),
            closed_at_monotonic=self.now - 2,
            complete_at_monotonic=self.now - 1,
            backlog=backlog,
        )

    def turn(self) -> None:
        for stage in (self.pipeline.read_one, self.pipeline.pick_one, self.pipeline.write_one):
            stage()

    def documents(self) -> list[object]:
        return [decode_document(stored.body) for stored in self.ledger.documents_after(0)]

    def states(self) -> dict[str, str]:
        with closing(LedgerReader(self.ledger.file)) as reader:
            return {record.path: record.state for record in reader.micrographs()}

    def close(self) -> None:
        self.receiver.close()
        self.reviser.close()
        self.ledger.close()


@pytest.fixture
def rig(tmp_path: Path, blob_model: Path, write_mrc: Callable[..., Path]) -> Iterator[Rig]:
    made = Rig(tmp_path, blob_model, write_mrc)
    yield made
    made.close()


def test_an_arrival_becomes_a_result_a_file_and_a_message(rig: Rig, make_scene: Callable[..., object]) -> None:
    scene = make_scene()
    rig.pipeline.accept(rig.write("square/a.mrc", scene.pixels))  # type: ignore[attr-defined]
    rig.turn()
    (document,) = rig.documents()
    assert isinstance(document, MicrographDocument)
    assert (document.seq, document.directory, document.micrograph) == (1, "square", "a.mrc")
    assert len(read_star(rig.out / "square" / "a_picks.star")) == len(document.picks.score) >= 10
    assert rig.sent.numbers == [1]
    assert rig.intake.told == [("finished", "square/a.mrc")]
    assert rig.states() == {"square/a.mrc": "picked"}
    assert rig.metrics.registry.get_sample_value("frazil_latency_seconds_sum") == 2.0


def test_new_files_come_before_the_backlog_and_each_kind_keeps_its_order(
    rig: Rig, make_scene: Callable[..., object]
) -> None:
    pixels = make_scene().pixels  # type: ignore[attr-defined]
    again = dataclasses.replace(rig.write("again.mrc", pixels, backlog=True), requeued=True)
    rig.pipeline.accept(again)
    rig.turn()
    rig.pipeline.accept(again)
    for name in ("a", "b", "c"):
        rig.pipeline.accept(rig.write(f"{name}.mrc", pixels, backlog=True))
    rig.turn()
    for name in ("x", "y"):
        rig.pipeline.accept(rig.write(f"{name}.mrc", pixels))
    assert rig.pipeline.state.read == 5
    for _ in range(5):
        rig.turn()
    told = [key for _, key in rig.intake.told]
    assert told == ["again.mrc", "a.mrc", "x.mrc", "y.mrc", "b.mrc", "c.mrc", "again.mrc"]


def test_a_file_that_changed_while_it_was_read_is_looked_at_again(rig: Rig, make_scene: Callable[..., object]) -> None:
    arrival = rig.write("a.mrc", make_scene().pixels)  # type: ignore[attr-defined]
    with arrival.path.open("ab") as file:
        file.write(b"more")
    rig.pipeline.accept(arrival)
    rig.turn()
    assert rig.intake.told == [("retried after no rest", "a.mrc")]
    assert rig.documents() == []


def test_a_file_that_is_found_incomplete_goes_back_to_wait(rig: Rig, make_scene: Callable[..., object]) -> None:
    arrival = rig.write("a.mrc", make_scene().pixels)  # type: ignore[attr-defined]
    with arrival.path.open("r+b") as file:
        file.truncate(5000)
    rig.pipeline.accept(arrival)
    rig.turn()
    assert rig.intake.told == [("incomplete", "a.mrc")]
    assert rig.documents() == []


def test_what_fails_for_a_reason_of_its_own_is_quarantined_and_the_next_is_picked(
    rig: Rig, make_scene: Callable[..., object]
) -> None:
    bad = rig.write("bad.mrc", np.full((64, 64), 7, np.float32))
    good = rig.write("good.mrc", make_scene().pixels)  # type: ignore[attr-defined]
    for arrival in (bad, good):
        rig.pipeline.accept(arrival)
    rig.turn()
    rig.turn()
    failed, picked = rig.documents()
    assert isinstance(failed, FailedDocument)
    assert (failed.reason, failed.kind) == ("constant", "permanent")
    assert isinstance(picked, MicrographDocument)
    assert rig.states() == {"bad.mrc": "quarantined", "good.mrc": "picked"}
    assert rig.intake.told == [("finished", "bad.mrc"), ("finished", "good.mrc")]


def test_what_may_pass_is_tried_again_as_often_as_the_settings_say(rig: Rig, make_scene: Callable[..., object]) -> None:
    arrival = rig.write("a.mrc", make_scene().pixels)  # type: ignore[attr-defined]
    for _ in range(2):
        rig.pipeline.refuse(arrival, MicrographError(arrival.path, "unreadable", "cannot be read"))
        rig.pipeline.write_one()
    assert rig.intake.told == [("retried after a rest", "a.mrc"), ("finished", "a.mrc")]
    assert [getattr(one, "kind", "") for one in rig.documents()] == ["transient", "permanent"]
    assert rig.states() == {"a.mrc": "quarantined"}


def test_two_micrographs_whose_pick_file_would_be_one_are_not_mixed(
    rig: Rig, make_scene: Callable[..., object]
) -> None:
    pixels = make_scene().pixels  # type: ignore[attr-defined]
    rig.pipeline.accept(rig.write("a.mrc", pixels))
    rig.turn()
    rig.pipeline.accept(rig.write("a.mrcs", pixels))
    rig.turn()
    assert [getattr(one, "reason", "") for one in rig.documents()] == ["", "name"]
    assert rig.states() == {"a.mrc": "picked", "a.mrcs": "quarantined"}


def test_what_was_picked_before_a_threshold_changed_is_committed_as_it_was_picked_and_revised_after_all_that_waits(
    tmp_path: Path, blob_model: Path, write_mrc: Callable[..., Path], make_scene: Callable[..., object]
) -> None:
    rig = Rig(tmp_path, blob_model, write_mrc, chooses=True)
    try:
        for number in range(3):
            scene, rng = make_scene(seed=number, count=25), np.random.default_rng(number)
            pixels = rng.normal(100, 10, (320, 448)).astype(np.float32)
            y, x = np.mgrid[:320, :448]
            for cy, cx, depth in zip(scene.truth.y, scene.truth.x, np.linspace(4, 9, 25), strict=True):  # type: ignore[attr-defined]
                pixels[np.hypot(y - cy, x - cx) <= 12] -= depth if number else 30.0
            rig.pipeline.accept(rig.write(f"{number}.mrc", pixels))
            rig.pipeline.read_one()
            rig.pipeline.pick_one()  # all are picked before the first is written
        for _ in range(12):
            rig.pipeline.write_one()
        documents = [d for d in rig.documents() if isinstance(d, MicrographDocument)]
        picked, revised = documents[:3], documents[3:]
        assert [d.micrograph for d in picked] == ["0.mrc", "1.mrc", "2.mrc"]
        thresholds = [d.threshold for d in picked]
        assert thresholds[0] > thresholds[-1]
        assert {d.micrograph for d in revised} == {d.micrograph for d in picked if d.threshold != thresholds[-1]}
        assert {d.threshold for d in revised} == {thresholds[-1]}
        assert rig.pipeline.state.threshold.value == thresholds[-1]
        assert rig.sent.numbers == list(range(1, len(documents) + 1))
        for document in [*picked, *revised]:
            newest = [d for d in documents if d.micrograph == document.micrograph][-1]
            star = read_star(rig.out / f"{Path(document.micrograph).stem}_picks.star")
            assert len(star) == len(newest.picks.score)
    finally:
        rig.close()


def test_edits_hold_through_retuning_and_when_a_file_is_picked_again(
    rig: Rig, make_scene: Callable[..., object]
) -> None:
    rig.pipeline.accept(rig.write("a.mrc", make_scene().pixels))  # type: ignore[attr-defined]
    rig.turn()
    (first,) = rig.documents()
    assert isinstance(first, MicrographDocument)
    y, x = first.picks.y[0], first.picks.x[0]
    edits = [
        DeletePick(id="edit-00001", path="a.mrc", y=y, x=x),
        AddPick(id="edit-00002", path="a.mrc", y=3.0, x=4.0),
    ]
    assert leave_edits(rig.ledger.file, edits).accepted == 2
    rig.pipeline.write_one()
    with LedgerReader(rig.ledger.file) as reader:
        request_change(reader, LimitsPatch(threshold=0.1))
    deadline = time.monotonic() + 120
    while len(rig.documents()) < 3:
        assert time.monotonic() < deadline
        rig.turn()
    rig.pipeline.accept(rig.write("a.mrc", make_scene().pixels))  # type: ignore[attr-defined]
    rig.turn()
    documents = [one for one in rig.documents()[1:] if isinstance(one, MicrographDocument)]
    assert [(one.seq, one.supersedes) for one in documents] == [(2, 1), (3, 2), (4, 3)]
    assert [one.threshold for one in documents][1:] == [0.1, 0.1]
    for one in documents:
        places = set(zip(one.picks.y, one.picks.x, strict=True))
        assert (3.0, 4.0) in places
        assert (y, x) not in places
        assert isinstance(one.corrections, Corrections)
        assert (one.corrections.added, one.corrections.deleted) == ([0], 1)
    assert len(read_star(rig.out / "a_picks.star")) == len(documents[-1].picks.score)
    with LedgerReader(rig.ledger.file) as reader:
        assert columns_of(preview(reader, "a.mrc", LimitsPatch()).picks) == documents[-1].picks
        (counted,) = count(reader, LimitsChange())
    assert counted.before == counted.after == len(documents[-1].picks.score)


def test_a_result_that_is_corrected_before_its_turn_is_retuned_nevertheless(
    rig: Rig, make_scene: Callable[..., object]
) -> None:
    for name in ("a.mrc", "b.mrc"):
        rig.pipeline.accept(rig.write(name, make_scene().pixels))  # type: ignore[attr-defined]
        rig.turn()
    with LedgerReader(rig.ledger.file) as reader:
        request_change(reader, LimitsPatch(threshold=0.1))
    rig.reviser.grant(rig.reviser.next_request())  # type: ignore[arg-type]
    edit = AddPick(id="edit-00001", path="b.mrc", y=3.0, x=4.0)
    assert leave_edits(rig.ledger.file, [edit]).accepted == 1
    granter = rig.pipeline._granter
    granter.grant_next()
    for _ in range(4):
        rig.reviser.revise_next(is_busy=False)
    with LedgerReader(rig.ledger.file) as reader:
        for name in ("a.mrc", "b.mrc"):
            kept = reader.result(name)
            assert kept is not None
            document = decode_document(kept.body)
            assert isinstance(document, MicrographDocument)
            assert (document.threshold, (3.0, 4.0) in zip(document.picks.y, document.picks.x, strict=True)) == (
                0.1,
                name == "b.mrc",
            )
        tuned = RevisionProgress.decode(reader.meta()["tuned"])
    assert tuned is not None
    assert tuned.is_done
    assert tuned.revised == 2
