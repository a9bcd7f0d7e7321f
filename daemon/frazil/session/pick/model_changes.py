"""Announcements: what happened to models goes to the ledger, and from there to subscribers, log and metrics."""

from __future__ import annotations

import contextlib
import logging
import threading
from dataclasses import dataclass
from typing import Literal

import msgspec

from frazil.documents import ModelDocument, ModelStamp, now_rfc3339
from frazil.health.logs import event
from frazil.health.metrics import Metrics
from frazil.models import Refusal, Standing
from frazil.picking import ModelIdentity
from frazil.picking.provider import Placement
from frazil.session.outbox.ledger import STANDING_KEY, Ledger
from frazil.session.outbox.outbox import Outbox
from frazil.settings import Precision

__all__ = ["Announcer", "ModelChange"]

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelChange:
    """A change of models, in its place between two micrographs."""

    event: Literal["loaded", "refused", "rolled_back"]
    """``loaded`` and ``rolled_back``: `model` serves from here on. ``refused``: it does not."""
    model: ModelIdentity
    placement: Placement | None = None
    """Where `model` runs, if it serves."""
    precision: Precision = "float32"
    """In which `model` computes, if it serves."""
    withdrawn: ModelIdentity | None = None
    """The model that served until it was rolled back."""
    reason: str = ""
    """Of a refusal or a roll-back, in one word."""
    message: str = ""
    """The same in one line."""
    current: str = ""
    """Stamp of the ``CURRENT`` that asked for what was refused or rolled back."""


class Announcer:
    """Commits each change as one document, together with where the daemon then stands.

    Args:
        ledger: where documents and the standing are kept.
        outbox: commits and delivers documents.
        metrics: counts.

    Attributes:
        standing: as last committed; None where models cannot be swapped.
    """

    def __init__(self, ledger: Ledger, outbox: Outbox, metrics: Metrics) -> None:
        self._ledger = ledger
        self._outbox = outbox
        self._metrics = metrics
        self.standing: Standing | None = None
        self._lock = threading.Lock()
        """Held from where the standing is read to where what became of it is remembered."""

    def announce(self, change: ModelChange) -> None:
        """Commit a change and tell whoever wants to know.

        Raises:
            Stopped: the daemon is to stop.
        """
        at = now_rfc3339()
        document = ModelDocument(
            epoch="",
            seq=0,
            model=_stamp(change),
            event=change.event,
            reason=change.message,
            at=at,
        )
        with contextlib.ExitStack() as held:
            held.enter_context(self._lock)
            standing = None if self.standing is None else _standing_after(change, self.standing, at)
            remember = None if standing is None else (STANDING_KEY, msgspec.json.encode(standing).decode())

            def committed(_seq: int) -> None:
                self.standing = standing
                held.close()  # delivering may wait for a disk, and nobody for that
                self._tell(change)

            self._outbox.commit(document, remember=remember, on_commit=committed)

    def recall_standing(self) -> Standing | None:
        """Where an earlier run of the daemon stood; None where that is not known."""
        kept = self._ledger.recall(STANDING_KEY)
        try:
            return msgspec.json.decode(kept, type=Standing) if kept else None
        except ValueError as error:
            log.warning("passed over what the ledger knows of the last model, which is damaged: %s", error)
            return None

    def begin(self, standing: Standing) -> None:
        """Remember where this run begins.

        Raises:
            sqlite3.Error: the ledger cannot be written; the standing stays as it was.
        """
        self._ledger.remember(STANDING_KEY, msgspec.json.encode(standing).decode())
        self.standing = standing

    def note_trial(self, trying: Refusal | None) -> None:
        """Remember which version is about to be tried, as it is refused if this process ends meanwhile; None after it.

        Raises:
            sqlite3.Error: the ledger cannot be written.
        """
        with self._lock:
            if self.standing is not None and self.standing.trying != trying:
                self.begin(msgspec.structs.replace(self.standing, trying=trying))

    def _tell(self, change: ModelChange) -> None:
        """Count and log a change."""
        self._metrics.model_changes.labels(event=change.event, reason=change.reason).inc()
        if change.placement is not None:
            self._metrics.show_model(change.model, change.placement, change.precision)
        told = event(f"model_{change.event}", model=change.model.short, reason=change.reason)
        if change.event == "loaded":
            provider = change.placement and change.placement.provider
            log.info("model %s serves from here on, on %s in %s", change.model, provider, change.precision, extra=told)
        elif change.event == "rolled_back":
            log.warning("rolled back (%s) to model %s: %s", change.reason, change.model, change.message, extra=told)
        else:
            log.warning(
                "refused (%s) model %s, the old one goes on: %s",
                change.reason,
                change.model,
                change.message,
                extra=told,
            )


def _standing_after(change: ModelChange, standing: Standing, at: str) -> Standing:
    if change.event != "refused":
        standing = standing.serve(change.model.version, change.model.sha256, at)
    if change.event == "loaded":
        return standing
    refused = change.withdrawn or change.model
    return standing.refuse(
        Refusal(
            version=refused.version,
            sha256=refused.sha256,
            reason=change.reason,
            message=change.message,
            at=at,
            current=change.current,
        )
    )


def _stamp(change: ModelChange) -> ModelStamp:
    model = change.model
    return ModelStamp(name=model.name, version=model.version, sha256=model.sha256, precision=change.precision)
