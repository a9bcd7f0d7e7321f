"""Results that are handed over to the daemon become revisions once, or are refused for a reason."""

from __future__ import annotations

import os
import sqlite3
import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import msgspec
import prometheus_client
import pytest

from frazil.documents import MicrographDocument
from frazil.health.metrics import Metrics
from frazil.limits import LimitsPatch
from frazil.model import load_model
from frazil.picking import Picker, PickingSettings, PixelMemory
from frazil.record import MicrographReader, record_picks
from frazil.session.outbox.file_stamp import sample, stamp_of
from frazil.session.outbox.handover import HandedOver, Handover, HandoverRun, Verdict, handover_file
from frazil.session.outbox.ledger import Handled, Ledger, LedgerReader, request_requeue
from frazil.session.outbox.outbox import Outbox
from frazil.session.retune import LimitsChange, LimitsRequest, Receiver, Reviser
from frazil.session.retune.repick import pack_score_map


class Sent:
    session = ""

    def publish(self, seq: int, topic: bytes, body: bytes) -> None:
        pass


class Rig:
    """A session's ledger with one result, as its writing thread has it, and the handover beside it."""

    KEY = "grid/a.mrc"

    def __init__(self, folder: Path, model: Path, write_mrc: Callable[..., Path], make_scene: Callable[..., object]):
        self.watch = folder / "watch"
        self.file = self.watch / self.KEY
        self.file.parent.mkdir(parents=True)
        write_mrc(self.file, make_scene(seed=1).pixels, 2.0)  # type: ignore[attr-defined]
        self.settings = PickingSettings(diameter_angstrom=48)
        self.picker = Picker(load_model(model, "cpu", 1), self.settings)
        self.ledger = Ledger(folder / "ledger.sqlite")
        metrics = Metrics(prometheus_client.CollectorRegistry())
        self.outbox = Outbox(self.ledger, Sent(), metrics, self.watch, folder / "out", threading.Event())
        self.reviser = Reviser(self.ledger, self.outbox, self.settings)
        self.receiver = self.make_receiver()
        self.handover = Handover(handover_file(self.ledger.file))
        self.begin()
        self.commit()

    def make_receiver(self) -> Receiver:
        return Receiver(self.ledger, self.outbox, self.reviser, self.settings, self.watch, keep_score_maps=True)

    def begin(self, **changes: str) -> None:
        given = {"epoch": self.ledger.epoch, "settings": msgspec.json.encode(self.settings).decode(), "run": "a"}
        self.handover.begin(HandoverRun(**(given | changes)))

    def pick(self) -> tuple[MicrographDocument, bytes, Handled]:
        read = MicrographReader(largest_bytes=1 << 30, timeout_seconds=60)
        micrograph = read(self.file, PixelMemory(), self.picker.rescaling)
        record = record_picks(self.picker, micrograph, read_seconds=0.0, since=0.0)
        handled = Handled(stamp=stamp_of(self.file), fingerprint=sample(self.file).fingerprint)
        return record.document, pack_score_map(record.score_map), handled

    def commit(self) -> None:
        document, score_map, handled = self.pick()
        self.outbox.commit(document, key=self.KEY, handled=handled, score_map=score_map)

    def put(self, key: str = KEY) -> None:
        """Hand over a result, as `frazil repick` does with what a worker gives it."""
        document, score_map, handled = self.pick()
        with closing(LedgerReader(self.ledger.file)) as reader:
            record = reader.micrograph(key)
        self.handover.put(
            HandedOver(
                key=key,
                picked_at=record and record.picked_at,
                handled=handled,
                document=msgspec.structs.replace(document, path="/elsewhere/a.mrc", session="other"),
                score_map=score_map,
            )
        )

    def take(self) -> list[Verdict]:
        self.receiver._next_look = 0.0
        self.receiver.take_next()
        return self.handover.verdicts()

    def results(self) -> list[MicrographDocument]:
        with closing(LedgerReader(self.ledger.file)) as reader:
            found = [stored.decode() for stored in reader.documents()]
        return [one for one in found if isinstance(one, MicrographDocument)]

    def close(self) -> None:
        for one in (self.receiver, self.handover, self.reviser, self.ledger):
            one.close()


@pytest.fixture
def rig(
    tmp_path: Path, blob_model: Path, write_mrc: Callable[..., Path], make_scene: Callable[..., object]
) -> Iterator[Rig]:
    made = Rig(tmp_path, blob_model, write_mrc, make_scene)
    yield made
    made.close()


def test_a_result_becomes_a_revision_with_the_names_of_the_session(rig: Rig) -> None:
    rig.put()
    with closing(LedgerReader(rig.ledger.file)) as reader:
        before = reader.micrograph(rig.KEY)
        (verdict,) = rig.take()
        after = reader.micrograph(rig.KEY)
        kept = reader.result(rig.KEY)
    first, second = rig.results()
    assert verdict == Verdict(key=rig.KEY, picks=len(second.picks.score), refused="")
    assert (second.seq, second.supersedes, second.session) == (2, 1, "")
    assert (second.path, second.directory, second.micrograph) == (str(rig.file), "grid", "a.mrc")
    assert second.picks == first.picks
    assert kept is not None
    assert kept.score_map is not None
    assert before is not None
    assert after == msgspec.structs.replace(before, seq=2, published_at=after and after.published_at)
    assert rig.take() == []
    assert rig.handover.waiting() == set()


def test_killed_between_the_commit_and_its_note_it_is_not_committed_again(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise sqlite3.OperationalError("killed")

    rig.put()
    with monkeypatch.context() as broken:
        broken.setattr(Handover, "decide", fail)
        assert rig.take() == []
    assert len(rig.results()) == 2
    assert rig.handover.waiting() == {rig.KEY}
    rig.receiver.close()
    rig.receiver = rig.make_receiver()
    (verdict,) = rig.take()
    assert (verdict.refused, len(rig.results())) == ("", 2)
    rig.put()  # another one of the same micrograph is another result
    assert [verdict.refused for verdict in rig.take()] == [""]
    assert [one.supersedes for one in rig.results()] == [0, 1, 2]


def test_a_file_that_has_changed_is_refused(rig: Rig) -> None:
    rig.put()
    os.utime(rig.file, (1, 1))
    (verdict,) = rig.take()
    assert verdict.refused == "its file has changed since it was picked"
    assert len(rig.results()) == 1


def test_what_the_daemon_has_picked_meanwhile_or_is_about_to_pick_is_refused(rig: Rig) -> None:
    rig.put()
    rig.commit()
    (verdict,) = rig.take()
    assert verdict.refused == "the daemon has picked it meanwhile"
    rig.put()
    request_requeue(rig.ledger.file, [rig.KEY])
    rig.ledger.take_requests()
    (verdict,) = rig.take()
    assert verdict.refused == "the daemon has no result of it, or is about to pick it itself"
    rig.put("grid/unknown.mrc")
    (verdict,) = rig.take()
    assert verdict.refused == "the daemon has no result of it, or is about to pick it itself"
    assert len(rig.results()) == 2


def test_picks_are_made_within_the_limits_in_force_and_a_retuned_result_is_no_newer_one(rig: Rig) -> None:
    rig.put()
    sha256 = rig.picker.model.identity.sha256
    scores = sorted(rig.results()[0].picks.score)
    threshold = scores[len(scores) // 2]
    change = LimitsChange.of(LimitsPatch(threshold=threshold), sha256)
    rig.reviser.grant(LimitsRequest(text="", change=change))
    rig.reviser.revise_next(is_busy=False)
    assert len(rig.results()) == 2
    (verdict,) = rig.take()
    assert verdict.refused == ""
    _, tuned, taken = rig.results()
    assert taken.supersedes == tuned.seq
    assert taken.threshold == threshold
    assert taken.picks == tuned.picks
    assert 0 < verdict.picks == len(taken.picks.score) < len(scores)


@pytest.mark.parametrize(
    ("change", "refusal"),
    [
        ({"epoch": "another"}, "expected results for the ledger"),
        ({"settings": '{"diameter_angstrom": 52}'}, "diameter 48 (found 52.0)"),
        ({"settings": "?"}, "expected settings of picking"),
    ],
)
def test_a_run_for_another_session_or_with_other_settings_is_refused(
    rig: Rig, change: dict[str, str], refusal: str
) -> None:
    rig.put()
    rig.begin(**change)
    rig.put()
    assert rig.take() == []
    answer, said = rig.handover.answer()
    assert answer == rig.ledger.generation
    assert refusal in said
    assert len(rig.results()) == 1
    rig.begin()
    assert rig.handover.answer() == ("", "")
    rig.put()
    assert [verdict.refused for verdict in rig.take()] == [""]


def test_what_is_no_result_is_refused_and_a_damaged_handover_passed_over(
    rig: Rig, caplog: pytest.LogCaptureFixture
) -> None:
    rig.put()
    with closing(sqlite3.connect(rig.handover.file)) as database, database:
        database.execute("UPDATE results SET document = ?", (b"{",))
    assert [verdict.refused for verdict in rig.take()] == ["it is damaged"]
    rig.put()
    rig.receiver.close()
    Handover.discard(rig.handover.file)
    rig.handover.file.write_bytes(b"no database" * 1000)
    rig.receiver = rig.make_receiver()
    for _ in range(3):
        rig.receiver._next_look = 0.0
        rig.receiver.take_next()
    assert [record.message for record in caplog.records if "cannot be taken" in record.message] == [
        f"{rig.handover.file}: the results of frazil repick cannot be taken: file is not a database"
    ]
    assert len(rig.results()) == 1


def test_a_handover_of_another_layout_is_not_read(tmp_path: Path) -> None:
    file = tmp_path / "handover.sqlite"
    Handover(file).close()
    Handover(file).close()
    with closing(sqlite3.connect(file)) as database, database:
        database.execute("PRAGMA user_version=2")
    with pytest.raises(sqlite3.DatabaseError, match="expected a handover of layout 1, found 2"):
        Handover(file)
