"""Changes of models: committed to the ledger as documents, sent to subscribers, logged and counted."""

from __future__ import annotations

import contextlib
import logging
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import msgspec

from frazil.documents import ModelDocument, now_rfc3339
from frazil.health.logs import event
from frazil.health.metrics import Metrics
from frazil.model import ModelIdentity, Refusal, ServingRecord
from frazil.model.contract import Finds
from frazil.model.runtime import Placement
from frazil.session.outbox.ledger import STANDING_KEY, Ledger
from frazil.session.outbox.outbox import Outbox

__all__ = ["Announcer", "ModelChange"]

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelChange:
    """A change of models, between two micrographs."""

    event: Literal["loaded", "refused", "rolled_back"]
    """``loaded`` and ``rolled_back``: `model` serves from here on. ``refused``: it does not."""
    model: ModelIdentity
    placement: Placement | None = None
    """Where `model` runs, if it serves."""
    finds: Finds = "particles"
    """What `model` finds."""
    withdrawn: ModelIdentity | None = None
    """The model that served until it was rolled back."""
    reason: str = ""
    """Reason of a refusal or a roll-back, in one word."""
    message: str = ""
    """Reason of a refusal or a roll-back, in one line."""
    current: str = ""
    """Token of the ``CURRENT`` that promoted the model that was refused or rolled back."""
    folder: str = ""
    """Folder of the model that was refused; empty where its identity tells it."""


class Announcer:
    """Commits each change as one document, together with the daemon's new standing.

    Args:
        ledger: keeps documents and the standing.
        outbox: commits and delivers documents.
        metrics: counts changes, and shows the serving model.
        folder_of: the folder of a model. Default: that of the standing.
        requeues: whether all that is picked is picked again once another model serves.

    Attributes:
        standing: the standing as last committed; None if models cannot be swapped.
    """

    def __init__(
        self,
        ledger: Ledger,
        outbox: Outbox,
        metrics: Metrics,
        folder_of: Callable[[ModelIdentity], str] = lambda _: "",
        *,
        requeues: bool = False,
    ) -> None:
        self._requeues = requeues
        self._folder_of = folder_of
        self._ledger = ledger
        self._outbox = outbox
        self._metrics = metrics
        self.standing: ServingRecord | None = None
        self._lock = threading.Lock()
        """Held from reading the standing to remembering its next state."""

    def announce(self, change: ModelChange) -> None:
        """Commit, deliver, count and log a change.

        Raises:
            Stopped: the daemon is stopping.
        """
        at = now_rfc3339()
        document = ModelDocument(
            epoch="",
            seq=0,
            model=change.model,
            event=change.event,
            finds="junk" if change.finds == "junk" else msgspec.UNSET,
            reason=change.message,
            at=at,
        )
        with contextlib.ExitStack() as held:
            held.enter_context(self._lock)
            standing = None
            if self.standing is not None and change.finds == "particles":
                standing = self._standing_after(change, self.standing, at)
            remember = None if standing is None else (STANDING_KEY, msgspec.json.encode(standing).decode())

            def committed(_seq: int) -> None:
                self.standing = standing or self.standing
                held.close()  # the delivery may wait for a disk, and the lock must not
                self._count(change)

            # In one transaction with the change: killed at any moment, all is requeued or nothing has changed.
            requeue = self._requeues and change.finds == "particles" and change.event != "refused"
            self._outbox.commit(document, remember=remember, requeue=requeue, on_commit=committed)

    def recall_standing(self) -> ServingRecord | None:
        """The standing of an earlier run of the daemon; None if it is not known."""
        kept = self._ledger.recall(STANDING_KEY)
        try:
            return msgspec.json.decode(kept, type=ServingRecord) if kept else None
        except ValueError as error:
            log.warning("ignored the ledger's record of the last model, which is damaged: %s", error)
            return None

    def begin(self, standing: ServingRecord) -> None:
        """Remember the first standing of this run.

        Raises:
            sqlite3.Error: the ledger cannot be written; the standing stays as it was.
        """
        self._ledger.remember(STANDING_KEY, msgspec.json.encode(standing).decode())
        self.standing = standing

    def note_check(self, trying: Refusal | None) -> None:
        """Remember the version that is about to be checked.

        Args:
            trying: the refusal that holds if this process ends during the check; None after the check.

        Raises:
            sqlite3.Error: the ledger cannot be written.
        """
        with self._lock:
            if self.standing is not None and self.standing.trying != trying:
                self.begin(msgspec.structs.replace(self.standing, trying=trying))

    def _standing_after(self, change: ModelChange, standing: ServingRecord, at: str) -> ServingRecord:
        if change.event != "refused":
            model = change.model
            standing = standing.serve(self._folder_of(model) or standing.folder, model.version, model.sha256, at)
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
                folder=change.folder or self._folder_of(refused) or standing.folder,
            )
        )

    def _count(self, change: ModelChange) -> None:
        """Count and log a change."""
        self._metrics.model_changes.labels(event=change.event, reason=change.reason).inc()
        fields = event(f"model_{change.event}", model=change.model.short, reason=change.reason)
        if change.finds == "junk" and change.event == "refused":
            log.warning("refused (%s) model %s of junk: %s", change.reason, change.model, change.message, extra=fields)
        elif change.finds == "junk":
            log.info("model %s finds junk from here on", change.model, extra=fields)
        elif change.event == "loaded":
            provider = change.placement and change.placement.provider
            log.info(
                "model %s serves from here on, on %s in %s",
                change.model,
                provider,
                change.model.precision,
                extra=fields,
            )
        elif change.event == "rolled_back":
            log.warning("rolled back (%s) to model %s: %s", change.reason, change.model, change.message, extra=fields)
        else:
            log.warning(
                "refused (%s) model %s, the old one goes on: %s",
                change.reason,
                change.model,
                change.message,
                extra=fields,
            )
