"""The granter: takes edits that people left in the ledger, and commits a revision of each micrograph with them."""

from __future__ import annotations

import logging
import sqlite3
import time

import msgspec

from frazil.errors import RetuneError
from frazil.health.logs import event
from frazil.session.correct.applying import uncorrected_picks
from frazil.session.outbox.ledger import TUNED_KEY, KeptResult, Ledger
from frazil.session.outbox.outbox import Outbox
from frazil.session.retune import Reviser
from frazil.session.retune.repick import read_document

__all__ = ["Granter"]

log = logging.getLogger(__name__)

_LOOK_SECONDS = 0.25
"""Between looks for edits, while none wait."""


class Granter:
    """Grants edits one micrograph after the other, all that wait of each in one transaction with the revision.

    So after a crash at any moment each edit is in one revision. Everything belongs to the thread that writes results.

    Args:
        ledger: holds the edits.
        outbox: applies them, as to every result, and commits and delivers the revision.
        reviser: may have the same result still to revise within other limits.
    """

    def __init__(self, ledger: Ledger, outbox: Outbox, reviser: Reviser) -> None:
        self._ledger = ledger
        self._outbox = outbox
        self._reviser = reviser
        self._next_look = 0.0

    def wait_seconds(self, longest: float) -> float:
        """Time until the next look is due, at most `longest`."""
        return min(longest, max(0.0, self._next_look - time.monotonic()))

    def grant_next(self) -> None:
        """Grant the edits of one micrograph, if any wait.

        Raises:
            Stopped: the daemon is to stop.
            sqlite3.Error: the ledger cannot be read at present.
        """
        now = time.monotonic()
        if now < self._next_look:
            return
        self._next_look = now + _LOOK_SECONDS
        key = self._ledger.next_to_correct()
        kept = None if key is None else self._ledger.result(key)
        if kept is not None:
            self._grant(kept)
            self._next_look = 0.0  # more may wait

    def _grant(self, kept: KeptResult) -> None:
        try:
            document = read_document(kept)
            picks = uncorrected_picks(document, self._ledger.uncorrected(kept.seq))
            progress = self._reviser.include(kept.seq)
            seq = self._outbox.commit(
                msgspec.structs.replace(document, supersedes=document.seq, picks=picks),
                key=kept.path,
                revises=kept.seq,
                score_map=kept.score_map,
                remember=None if progress is None else (TUNED_KEY, progress.encode()),
                on_commit=lambda _: None if progress is None else self._reviser.take(progress),
            )
        except (RetuneError, sqlite3.Error) as error:  # this one's alone; the outbox retries all others
            number = self._ledger.edits(kept.path)[-1].number
            self._ledger.set_edits_aside(kept.path, kept.seq, number)
            log.warning(
                "%s: its edits cannot be applied: %s; frazil requeue picks it anew, with the edits", kept.path, error
            )
            return
        log.info(
            "corrected %s (sequence number %d)", kept.path, seq, extra=event("corrected", micrograph=kept.path, seq=seq)
        )
