"""The reviser: takes requests for other limits, and revises the results that exist while picking goes on."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

import msgspec

from frazil.documents import MicrographDocument, Seconds, columns_of, now_rfc3339
from frazil.errors import RetuneError
from frazil.junk_area import MaybeJunk
from frazil.limits import PickLimits
from frazil.picking import PickingSettings, Picks, ScoreMap
from frazil.session.outbox.ledger import RETUNE_KEY, TUNED_KEY, KeptResult, Ledger, LedgerReader
from frazil.session.outbox.outbox import Outbox
from frazil.session.retune.chooser import is_of_diameter
from frazil.session.retune.limits import LimitsChange, LimitsRequest, RevisionProgress, decode_request
from frazil.session.retune.repick import read_document, read_score_map, repick_with_junk

__all__ = ["Reviser"]

log = logging.getLogger(__name__)

_LOOK_SECONDS = 0.5
"""Between looks for a request."""
_REST = 9.0
"""Rest after a revision while micrographs are being picked, as a multiple of the time that it took."""
_NAMED = 3
"""Number of unrevisable results that are named in the log."""


class Reviser:
    """Revises results one by one, each in one transaction that also records the progress.

    A result is revised if its document has other limits than those in force: only then can its picks differ. After a
    crash at any moment the next run continues behind the last commit, so each result is revised once.

    All but `change` belongs to the thread that writes results.

    Args:
        ledger: where results are committed.
        outbox: commits and delivers them.
        settings: of the operator.
        chooses: whether frazil chooses the threshold where the operator has not said otherwise.

    Attributes:
        change: the change of limits in force.
    """

    def __init__(self, ledger: Ledger, outbox: Outbox, settings: PickingSettings, *, chooses: bool = False) -> None:
        self._ledger = ledger
        self._outbox = outbox
        self._reader = LedgerReader(ledger.file)
        self._passed_on = ""
        """The last request that was passed on and is not granted yet."""
        self._unrevisable: list[str] = []
        self._next_look = self._next_turn = 0.0
        kept = RevisionProgress.decode(ledger.recall(TUNED_KEY))
        if kept is not None and kept.settings != settings:
            if kept.change.is_tuned:
                log.warning("the settings have changed: they hold again, and not what was %s", kept.describe())
            else:
                log.info("the settings have changed: no threshold that was chosen before holds any more")
            kept = None
        elif kept is not None:
            log.info("%s", kept.describe())
        if kept is not None:
            change = _without_unasked(kept.change, chooses=chooses)
            kept = msgspec.structs.replace(kept, change=change) if change != LimitsChange() else None
        self._progress = kept or RevisionProgress(
            settings=settings, change=LimitsChange(), since=now_rfc3339(), until_seq=0
        )
        self.change = self._progress.change
        ledger.remember(TUNED_KEY, kept.encode() if kept else "")

    def close(self) -> None:
        """Close its view of the ledger."""
        self._reader.close()

    def next_request(self) -> LimitsRequest | None:
        """The request that came since the last look; None where there is none."""
        now = time.monotonic()
        if now < self._next_look:
            return None
        self._next_look = now + _LOOK_SECONDS
        text = self._ledger.recall(RETUNE_KEY)
        if text in ("", self._passed_on):
            return None
        self._passed_on = text
        return LimitsRequest(text=text, change=decode_request(text).over(self.change))

    def grant(self, request: LimitsRequest) -> None:
        """Begin to revise all results committed so far; those to come are picked within the new limits already.

        Raises:
            Stopped: the daemon is to stop.
        """
        change, head = request.change, self._ledger.head
        begun = RevisionProgress(settings=self._progress.settings, change=change, since=now_rfc3339(), until_seq=head)
        self._outbox.grant((RETUNE_KEY, request.text), (TUNED_KEY, begun.encode()))
        if self._passed_on == request.text:
            self._passed_on = ""
        self._unrevisable = []
        self._progress, self.change = begun, change
        self._next_turn = 0.0
        if request.text:
            log.info("tuned: %s, from here on and for the results up to number %d", change.describe(), head)
        else:
            for sha256, chosen in change.chosen.items():
                log.info("threshold %g for model %s, %s", chosen.threshold, sha256[:8], chosen.describe())

    def include(self, older: int) -> RevisionProgress | None:
        """The progress where somebody else revises a result before its turn: then the revision has its turn as well.

        To be remembered with the revision, and taken once that is committed, which is the next thing to be committed.

        Args:
            older: sequence number of the result.

        Returns:
            None where the result needs no revision any more.
        """
        progress = self._progress
        if not progress.done_seq < older <= progress.until_seq:
            return None
        return msgspec.structs.replace(progress, until_seq=self._ledger.head + 1)

    def take(self, progress: RevisionProgress) -> None:
        """Go on with a progress that was made by `include`."""
        self._progress = progress

    def wait_seconds(self, longest: float) -> float:
        """Time until the next revision may begin, at most `longest`."""
        return longest if self._progress.is_done else min(longest, max(0.0, self._next_turn - time.monotonic()))

    def revise_next(self, *, is_busy: bool) -> None:
        """Revise one result, if any is left and it is time.

        Args:
            is_busy: whether micrographs are being picked, which come first.

        Raises:
            Stopped: the daemon is to stop.
        """
        started = time.monotonic()
        progress = self._progress
        if progress.is_done or started < self._next_turn:
            return
        kept = self._reader.next_result(after=progress.done_seq, until=progress.until_seq)
        if kept is not None:
            self._revise(kept)
        if kept is None or self._progress.is_done:
            self._finish()
        now = time.monotonic()
        self._next_turn = now + (now - started) * _REST if is_busy else now

    def within_limits(self, document: MicrographDocument, score_map: Callable[[], ScoreMap]) -> MicrographDocument:
        """A result with its picks within the limits in force; the document itself where they are so already.

        Raises:
            RetuneError: there is no score map, or it does not reach to the edge margin.
        """
        sha256 = document.model.sha256
        patch, chosen = self.change.for_model(sha256), self.change.chosen_for(sha256)
        if chosen is not None and not is_of_diameter(document, self._progress.settings.diameter_angstrom):
            # It was chosen for another particle.
            patch, chosen = msgspec.structs.replace(patch, threshold=None), None
        limits = patch.over(document.limits)
        if limits == document.limits:
            return document
        started = time.monotonic()
        picks, junk = repick_with_junk(document, score_map(), limits)
        revision = _make_revision(document, limits, picks, junk, time.monotonic() - started)
        if patch.threshold is not None:
            revision = msgspec.structs.replace(revision, chosen=chosen.basis if chosen else msgspec.UNSET)
        return revision

    def _revise(self, kept: KeptResult) -> None:
        after = msgspec.structs.replace(self._progress, done_seq=kept.seq)
        try:
            document = read_document(kept)
            revision = self.within_limits(document, lambda: read_score_map(kept))
            if revision is document:
                self._progress = after
                return
        except RetuneError as error:
            log.debug("cannot be tuned (%s): %s", error.reason, error)
            self._unrevisable = [*self._unrevisable, f"{kept.path} ({error.reason})"][:_NAMED]
            self._progress = msgspec.structs.replace(after, unrevisable=after.unrevisable + 1)
            return
        after = msgspec.structs.replace(after, revised=after.revised + 1)

        def committed(seq: int) -> None:
            self._progress = after
            log.debug("revised %s: %d picks (sequence number %d)", kept.path, len(revision.picks.score), seq)

        self._outbox.commit(
            msgspec.structs.replace(revision, supersedes=kept.seq),
            key=kept.path,
            revises=kept.seq,
            score_map=kept.score_map,
            remember=(TUNED_KEY, after.encode()),
            on_commit=committed,
        )

    def _finish(self) -> None:
        done = msgspec.structs.replace(self._progress, done_seq=self._progress.until_seq)
        self._outbox.remember(TUNED_KEY, done.encode())
        self._progress = done
        log.info("%s", done.describe())
        if done.unrevisable:
            log.warning(
                "%d results could not be tuned and stay as they are, such as %s; frazil retune names them all",
                done.unrevisable,
                ", ".join(self._unrevisable) or "some that were met before a restart",
            )


def _without_unasked(change: LimitsChange, *, chooses: bool) -> LimitsChange:
    """A change without the choices of an earlier run that nobody wants any more."""
    wanted = {sha256: one for sha256, one in change.chosen.items() if chooses or sha256 in change.thresholds}
    return msgspec.structs.replace(change, chosen=wanted)


def _make_revision(
    document: MicrographDocument, limits: PickLimits, picks: Picks, junk: MaybeJunk, seconds: float
) -> MicrographDocument:
    return msgspec.structs.replace(
        document,
        **msgspec.structs.asdict(limits),
        picks=columns_of(picks),
        junk=junk,
        seconds=Seconds(read=0.0, prepare=0.0, infer=0.0, peaks=seconds, total=seconds),
        picked_at=now_rfc3339(),
    )
