"""The reviser: takes what was asked for, and brings the results that there are to it while picking goes on."""

from __future__ import annotations

import logging
import time

import msgspec

from frazil.documents import MicrographDocument, Seconds, columns_of, now_rfc3339
from frazil.errors import RetuneError
from frazil.picking import PickingSettings, PickLimits, Picks
from frazil.session.outbox.ledger import RETUNE_KEY, KeptResult, Ledger, LedgerReader
from frazil.session.outbox.outbox import Outbox
from frazil.session.retune.limits import Asked, Wanted, limits_of
from frazil.session.retune.progress import TUNED_KEY, Tuned
from frazil.session.retune.repick import pick_again, read_document, read_score_map
from frazil.session.retune.request import decode_wanted

__all__ = ["Reviser"]

log = logging.getLogger(__name__)

_LOOK_SECONDS = 0.5
"""Between looks for what was asked for."""
_REST = 9.0
"""While micrographs are being picked, a revision is followed by a rest of so many times its own time."""
_NAMED = 3
"""So many of the results that cannot be revised are named in the log."""


class Reviser:
    """Revises results one by one, each in one transaction that also says how far it has come.

    A result is revised if its document says other limits than those wanted: its picks can differ only then. Killed at
    any moment, the next run goes on behind the last one committed, so each result is revised once.

    All but `wanted` belongs to the thread that writes results.

    Args:
        ledger: where results are committed.
        outbox: commits and delivers them.
        settings: of the operator.

    Attributes:
        wanted: what is tuned.
    """

    def __init__(self, ledger: Ledger, outbox: Outbox, settings: PickingSettings) -> None:
        self._ledger = ledger
        self._outbox = outbox
        self._reader = LedgerReader(ledger.file)
        self._asked = ""
        self._untold: list[str] = []
        self._next_look = self._next_turn = 0.0
        tuned = Tuned.decode(ledger.recall(TUNED_KEY))
        if tuned is not None and tuned.settings != settings:
            log.warning("the settings have changed: they hold again, and not what was %s", tuned.describe())
            tuned = None
        elif tuned is not None:
            log.info("%s", tuned.describe())
        self._tuned = tuned or Tuned(settings=settings, wanted=Wanted(), since=now_rfc3339(), until_seq=0)
        self.wanted = self._tuned.wanted
        ledger.remember(TUNED_KEY, self._tuned.encode() if tuned else "")

    def close(self) -> None:
        """Close its view of the ledger."""
        self._reader.close()

    def asked(self) -> Asked | None:
        """What has been asked for since the last look; None for nothing new."""
        now = time.monotonic()
        if now < self._next_look:
            return None
        self._next_look = now + _LOOK_SECONDS
        text = self._ledger.recall(RETUNE_KEY)
        if text in ("", self._asked):
            return None
        self._asked = text
        return Asked(text=text, wanted=decode_wanted(text).over(self.wanted))

    def grant(self, asked: Asked) -> None:
        """Have all results that are committed so far brought to what was asked for; those to come are picked so.

        Raises:
            Stopped: the daemon is to stop.
        """
        wanted = asked.wanted
        tuned = Tuned(settings=self._tuned.settings, wanted=wanted, since=now_rfc3339(), until_seq=self._ledger.head)
        self._outbox.grant((RETUNE_KEY, asked.text), (TUNED_KEY, tuned.encode()))
        if self._asked == asked.text:
            self._asked = ""
        self._untold = []
        self._tuned, self.wanted = tuned, wanted
        self._next_turn = 0.0
        log.info("tuned: %s, from here on and for the results up to number %d", wanted.describe(), tuned.until_seq)

    def wait_seconds(self, longest: float) -> float:
        """Time until it may be its turn."""
        return longest if self._tuned.is_done else min(longest, max(0.0, self._next_turn - time.monotonic()))

    def revise_next(self, *, is_busy: bool) -> None:
        """Deal with one result, if any is left and it is its turn.

        Args:
            is_busy: whether micrographs are being picked, which come first.

        Raises:
            Stopped: the daemon is to stop.
        """
        started = time.monotonic()
        if self._tuned.is_done or started < self._next_turn:
            return
        kept = self._reader.next_result(after=self._tuned.done_seq, until=self._tuned.until_seq)
        if kept is not None:
            self._deal_with(kept)
        if kept is None or self._tuned.is_done:
            self._finish()
        now = time.monotonic()
        self._next_turn = now + (now - started) * _REST if is_busy else now

    def _deal_with(self, kept: KeptResult) -> None:
        after = msgspec.structs.replace(self._tuned, done_seq=kept.seq)
        try:
            document = read_document(kept)
            limits = self.wanted.for_model(document.model.sha256).over(limits_of(document))
            if limits == limits_of(document):
                self._tuned = after
                return
            started = time.monotonic()
            picks = pick_again(document, read_score_map(kept), limits)
        except RetuneError as error:
            log.debug("cannot be tuned (%s): %s", error.reason, error)
            self._untold = [*self._untold, f"{kept.path} ({error.reason})"][:_NAMED]
            self._tuned = msgspec.structs.replace(after, untold=after.untold + 1)
            return
        after = msgspec.structs.replace(after, revised=after.revised + 1)
        revised = _revise(document, limits, picks, time.monotonic() - started)

        def committed(seq: int) -> None:
            self._tuned = after
            log.debug("revised %s: %d picks (sequence number %d)", kept.path, len(picks), seq)

        self._outbox.commit(
            revised,
            key=kept.path,
            revises=kept.seq,
            score_map=kept.score_map,
            remember=(TUNED_KEY, after.encode()),
            on_commit=committed,
        )

    def _finish(self) -> None:
        tuned = msgspec.structs.replace(self._tuned, done_seq=self._tuned.until_seq)
        self._outbox.remember(TUNED_KEY, tuned.encode())
        self._tuned = tuned
        log.info("%s", tuned.describe())
        if tuned.untold:
            log.warning(
                "%d results could not be tuned and stay as they are, such as %s; frazil retune names them all",
                tuned.untold,
                ", ".join(self._untold) or "some that were met before a restart",
            )


def _revise(document: MicrographDocument, limits: PickLimits, picks: Picks, seconds: float) -> MicrographDocument:
    return msgspec.structs.replace(
        document,
        supersedes=document.seq,
        threshold=limits.threshold,
        min_distance_angstrom=limits.min_distance_angstrom,
        edge_margin_angstrom=limits.edge_margin_angstrom,
        picks=columns_of(picks),
        seconds=Seconds(read=0.0, prepare=0.0, infer=0.0, peaks=seconds, total=seconds),
        picked_at=now_rfc3339(),
    )
