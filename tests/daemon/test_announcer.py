"""Announcements: what happened to models is in the ledger, the stream, the log and the metrics, and in the standing."""

from __future__ import annotations

import dataclasses
import logging
import sqlite3
import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import prometheus_client
import pytest

from frazil.documents import MODEL_TOPIC, ModelDocument, decode_document
from frazil.health.metrics import Metrics
from frazil.model import ModelIdentity, Refusal, ServingRecord
from frazil.model.runtime import Placement
from frazil.session.outbox.ledger import Ledger
from frazil.session.outbox.outbox import Outbox
from frazil.session.outbox.stream import Stream
from frazil.session.pick.model_changes import Announcer, ModelChange

OLD = ModelIdentity(name="blob", version=1, sha256="1a" * 32)
NEW = ModelIdentity(name="blob", version=2, sha256="2b" * 32, precision="int8")
ON_CPU = Placement(nodes={"CPUExecutionProvider": 7}, heavy_on_cpu=frozenset({"Conv"}))
LOADED = ModelChange(event="loaded", model=NEW, placement=ON_CPU, current="c")
REFUSED = ModelChange(event="refused", model=NEW, reason="hash", message="it is another", current="c")
ROLLED_BACK = ModelChange(
    event="rolled_back",
    model=OLD,
    placement=ON_CPU,
    withdrawn=NEW,
    reason="few_picks",
    message="it found nothing",
    current="c",
)
LONG_AGO = "2020-01-01T00:00:00.000+00:00"
STANDING = ServingRecord(folder="/models/blob", host="h", watch="/w", version=1, sha256=OLD.sha256, since=LONG_AGO)
TRYING = Refusal(version=2, sha256=NEW.sha256, reason="interrupted", message="killed", at=LONG_AGO, current="c")


class Rig:
    def __init__(self, folder: Path) -> None:
        self.ledger = Ledger(folder / "ledger")
        self.metrics = Metrics(prometheus_client.CollectorRegistry())
        self.stream = Stream("tcp://127.0.0.1:0", metrics=self.metrics)
        channel = self.stream.add("", ledger=self.ledger.file, epoch=self.ledger.epoch, published=0)
        self.outbox = Outbox(self.ledger, channel, self.metrics, folder, folder / "out", threading.Event())
        self.announcer = Announcer(self.ledger, self.outbox, self.metrics)

    def announced(self) -> list[ModelDocument]:
        stored = self.ledger.documents_after(0)
        assert {one.topic for one in stored} <= {MODEL_TOPIC.decode()}
        documents = [decode_document(one.body) for one in stored]
        return [document for document in documents if isinstance(document, ModelDocument)]

    def recalled(self) -> ServingRecord | None:
        """What the next start finds."""
        return Announcer(self.ledger, self.outbox, self.metrics).recall_standing()


@pytest.fixture
def rig(tmp_path: Path) -> Iterator[Rig]:
    made = Rig(tmp_path)
    yield made
    made.stream.close()
    made.ledger.close()


def is_now(at: str) -> bool:
    return abs(datetime.now(UTC) - datetime.fromisoformat(at)) < timedelta(minutes=5)


def test_each_change_is_a_document_and_is_delivered_at_once(rig: Rig, caplog: pytest.LogCaptureFixture) -> None:
    for change in (LOADED, REFUSED, ROLLED_BACK):
        rig.announcer.announce(change)
        assert list(rig.ledger.undelivered()) == []
    loaded, refused, rolled_back = rig.announced()
    assert [document.seq for document in (loaded, refused, rolled_back)] == [1, 2, 3]
    assert {document.epoch for document in (loaded, refused, rolled_back)} == {rig.ledger.epoch}
    assert loaded.model == NEW
    assert (loaded.event, loaded.reason) == ("loaded", "")
    assert (refused.event, refused.model.version, refused.reason) == ("refused", 2, "it is another")
    assert (rolled_back.event, rolled_back.model.version, rolled_back.reason) == ("rolled_back", 1, "it found nothing")
    assert is_now(loaded.at)
    assert datetime.fromisoformat(loaded.at).microsecond % 1000 == 0
    assert rig.announcer.standing is None  # models cannot be swapped: there is nothing to come back to
    assert rig.recalled() is None
    assert "damaged" not in caplog.text


def test_a_change_that_cannot_be_committed_waits_and_the_ledger_is_named(
    rig: Rig, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("frazil.session.outbox.outbox._RETRY_SECONDS", 0.01)
    commit, faults = rig.ledger.commit_document, [sqlite3.OperationalError("database or disk is full")]

    def commit_after_a_while(*arguments: Any, **named: Any) -> int:
        if faults:
            raise faults.pop()
        return commit(*arguments, **named)

    monkeypatch.setattr(rig.ledger, "commit_document", commit_after_a_while)
    rig.announcer.announce(LOADED)
    assert len(rig.announced()) == 1
    (waits,) = (record.message for record in caplog.records if record.levelname == "WARNING")
    assert str(rig.ledger.file) in waits


@pytest.mark.parametrize(
    ("change", "version", "refused"), [(LOADED, 2, None), (REFUSED, 1, "hash"), (ROLLED_BACK, 1, "few_picks")]
)
def test_the_standing_after_a_change_is_what_the_next_start_recalls(
    rig: Rig, change: ModelChange, version: int, refused: str | None
) -> None:
    rig.announcer.begin(STANDING)
    rig.announcer.note_check(TRYING)
    rig.announcer.announce(change)
    standing = rig.announcer.standing
    assert standing is not None
    assert rig.recalled() == standing
    assert (standing.version, standing.sha256) == (version, (OLD, NEW)[version - 1].sha256)
    assert (standing.since == LONG_AGO) is (change is REFUSED)
    assert standing.trying is None
    refusal = standing.refusal_of(2)
    assert (refusal and refusal.reason) == refused
    if refusal is not None:
        assert (refusal.sha256, refusal.message, refusal.current) == (NEW.sha256, change.message, "c")
        assert is_now(refusal.at)


@pytest.mark.parametrize(
    ("change", "level", "says"),
    [
        (LOADED, "INFO", f"model {NEW} serves from here on, on CPUExecutionProvider in int8"),
        (REFUSED, "WARNING", f"refused (hash) model {NEW}, the old one goes on: it is another"),
        (ROLLED_BACK, "WARNING", f"rolled back (few_picks) to model {OLD}: it found nothing"),
    ],
)
def test_each_change_is_said_and_counted(
    rig: Rig, caplog: pytest.LogCaptureFixture, change: ModelChange, level: str, says: str
) -> None:
    caplog.set_level(logging.INFO)
    rig.announcer.announce(change)
    (said,) = (record for record in caplog.records if record.name == "frazil.session.pick.model_changes")
    assert (said.levelname, said.message) == (level, says)
    assert said.event == {  # type: ignore[attr-defined]
        "event": f"model_{change.event}",
        "model": change.model.short,
        "reason": change.reason,
    }
    sample = rig.metrics.registry.get_sample_value
    assert sample("frazil_model_changes_total", {"event": change.event, "reason": change.reason}) == 1


def test_a_trial_is_noted_before_it_begins_and_forgotten_after_it(rig: Rig) -> None:
    rig.announcer.note_check(TRYING)
    assert rig.recalled() is None  # models cannot be swapped
    rig.announcer.begin(STANDING)
    assert rig.recalled() == STANDING
    rig.announcer.note_check(TRYING)
    recalled = rig.recalled()
    assert recalled is not None
    assert recalled.trying == TRYING
    rig.announcer.note_check(None)
    assert rig.recalled() == STANDING


def test_a_standing_that_is_damaged_is_passed_over_and_said(rig: Rig, caplog: pytest.LogCaptureFixture) -> None:
    rig.ledger.remember("standing", "{")
    assert rig.recalled() is None
    assert "ignored the ledger's record of the last model, which is damaged: Input data was truncated" in caplog.text
    assert "None" not in caplog.text


def test_a_change_of_the_model_of_junk_leaves_the_standing_and_the_picks_of_the_picker_as_they_are(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    announcer = Announcer(rig.ledger, rig.outbox, rig.metrics, requeues=True)
    announcer.begin(STANDING)
    requeued: list[bool] = []
    commit = rig.outbox.commit

    def note(*given: Any, requeue: bool = False, **others: Any) -> int:
        requeued.append(requeue)
        return commit(*given, requeue=requeue, **others)

    monkeypatch.setattr(rig.outbox, "commit", note)
    for change in (LOADED, REFUSED):
        announcer.announce(dataclasses.replace(change, finds="junk"))
    assert [(one.event, one.finds) for one in rig.announced()] == [("loaded", "junk"), ("refused", "junk")]
    assert announcer.standing == rig.recalled() == STANDING
    assert requeued == [False, False]
    announcer.announce(LOADED)
    assert requeued[-1]
    assert announcer.standing is not None
    assert announcer.standing.version == 2
