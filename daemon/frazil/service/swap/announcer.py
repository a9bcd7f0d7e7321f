"""Announcements: what happened to models goes to the ledger, and from there to subscribers, log and metrics."""

from __future__ import annotations

import logging
import threading
from datetime import UTC, datetime

import msgspec

from frazil.documents import MODEL_TOPIC, ModelDocument, encode_document
from frazil.model import Refusal, ServingRecord
from frazil.service.delivery import Delivery
from frazil.service.ledger import Ledger
from frazil.service.logs import event
from frazil.service.metrics import Metrics
from frazil.service.swap.change import Change

__all__ = ["Announcer"]

log = logging.getLogger(__name__)

_STANDING_KEY = "standing"


class Announcer:
    """Commits each change as one document, together with where the daemon then stands.

    Args:
        ledger: where documents and the standing are kept.
        delivery: sends what was committed.
        metrics: counts.

    Attributes:
        standing: as last committed; None where models cannot be swapped.
    """

    def __init__(self, ledger: Ledger, delivery: Delivery, metrics: Metrics) -> None:
        self._ledger = ledger
        self._delivery = delivery
        self._metrics = metrics
        self.standing: ServingRecord | None = None
        self._lock = threading.Lock()
        """Held from where the standing is read to where what became of it is remembered."""

    def announce(self, change: Change) -> None:
        """Commit a change and tell whoever wants to know.

        Raises:
            ToldToStopError: it could not be committed before the daemon was told to stop.
        """
        at = datetime.now(UTC).isoformat(timespec="milliseconds")
        document = ModelDocument(
            epoch="",
            seq=0,
            model=change.model,
            event=change.event,
            reason=change.message,
            at=at,
        )
        with self._lock:
            standing = None if self.standing is None else _standing_after(change, self.standing, at)
            remember = None if standing is None else (_STANDING_KEY, msgspec.json.encode(standing).decode())
            self._delivery.patience.insist(
                str(self._ledger.file),
                lambda: self._ledger.commit_document(
                    MODEL_TOPIC.decode(),
                    lambda epoch, seq: encode_document(msgspec.structs.replace(document, epoch=epoch, seq=seq)),
                    remember=remember,
                ),
            )
            self.standing = standing
        self._metrics.model_changes.labels(event=change.event, reason=change.reason).inc()
        if change.placement is not None:
            self._metrics.show_model(change.model, change.placement)
        told = event(f"model_{change.event}", model=change.model.short, reason=change.reason)
        if change.event == "loaded":
            provider = change.placement and change.placement.provider
            log.info(
                "model %s serves from here on, on %s in %s", change.model, provider, change.model.precision, extra=told
            )
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
        self._delivery.catch_up()

    def recall_standing(self) -> ServingRecord | None:
        """Where an earlier run of the daemon stood; None where that is not known."""
        kept = self._ledger.recall(_STANDING_KEY)
        try:
            return msgspec.json.decode(kept, type=ServingRecord) if kept else None
        except ValueError as error:
            log.warning("passed over what the ledger knows of the last model, which is damaged: %s", error)
            return None

    def begin(self, standing: ServingRecord) -> None:
        """Remember where this run begins.

        Raises:
            sqlite3.Error: the ledger cannot be written; the standing stays as it was.
        """
        self._ledger.remember(_STANDING_KEY, msgspec.json.encode(standing).decode())
        self.standing = standing

    def note_trial(self, trying: Refusal | None) -> None:
        """Remember which version is about to be tried, as it is refused if this process ends meanwhile; None after it.

        Raises:
            sqlite3.Error: the ledger cannot be written.
        """
        with self._lock:
            if self.standing is not None and self.standing.trying != trying:
                self.begin(msgspec.structs.replace(self.standing, trying=trying))


def _standing_after(change: Change, standing: ServingRecord, at: str) -> ServingRecord:
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
