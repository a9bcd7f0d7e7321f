"""What came of the squares of a session: read from its assessments, and told in documents that follow them."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

from frazil.documents import Advice, AdviceDocument, PromisedSquare, SquareDocument, now_rfc3339
from frazil.grid import Exposure, Promise, Square, Squares, order_squares, rank, skippable
from frazil.session.outbox.ledger import SQUARES_KEY, Ledger, LedgerReader
from frazil.session.outbox.ledger.qualities import QualityRecord
from frazil.session.outbox.outbox import Outbox

__all__ = ["SessionSquares", "SquareWriter"]

_LOOK_SECONDS = 2.0
_TELL_SECONDS = 30.0
"""Between two documents of one square, and between two pieces of advice."""
_MOST_AT_ONCE = 10
"""Documents of squares: each takes some milliseconds, in which no picks are written."""
_LONGEST_REASON = 2000
_FIRST = 3
"""Squares at the head of the order whose change is worth advice."""


class SessionSquares:
    """The squares of a session, out of the assessments in its ledger.

    Args:
        file: the ledger.
    """

    def __init__(self, file: Path) -> None:
        self._reader = LedgerReader(file)
        self.squares = Squares()
        self.seq = 0
        """Of the newest assessment that was taken in."""
        self._unplaced: set[str] = set()

    @property
    def unplaced(self) -> int:
        """Number of assessed micrographs of which no square is known."""
        return len(self._unplaced)

    def update(self) -> set[tuple[str, str]]:
        """Take in what was assessed since; grid and name of the squares that have changed.

        Raises:
            OutputError: the ledger cannot be read.
        """
        changed: set[tuple[str, str]] = set()
        for record in self._reader.qualities_after(self.seq):
            (self._unplaced.discard if record.square else self._unplaced.add)(record.path)
            changed |= self.squares.note(record.path, _exposure_of(record))
            self.seq = record.seq
        return changed

    def close(self) -> None:
        """Close the ledger."""
        self._reader.close()


class SquareWriter:
    """Tells what came of squares whenever that changes, and advice if that is wanted. Of the thread that writes.

    Args:
        ledger: of the session.
        outbox: commits and delivers documents.
        advises: whether advice is published.
        clock: the monotonic clock.
    """

    def __init__(
        self, ledger: Ledger, outbox: Outbox, *, advises: bool, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._outbox = outbox
        self._advises = advises
        self._clock = clock
        self._kept = SessionSquares(ledger.file)
        told = ledger.recall(SQUARES_KEY)
        self._told = int(told) if told.isdecimal() else 0
        """Up to this assessment, an earlier run told everything."""
        self._told_of: dict[tuple[str, str], int] = {}
        self._rests_until: dict[tuple[str, str], float] = {}
        self._pending: set[tuple[str, str]] = set()
        self._look_at = self._advise_at = 0.0
        self._advised: tuple[list[str], list[str]] = [], []

    def close(self) -> None:
        """Close the ledger."""
        self._kept.close()

    def write_due(self, *, is_last: bool = False) -> None:
        """Commit the documents of squares that have changed and were not told of lately.

        Args:
            is_last: whether none will follow: then all that have changed are told.

        Raises:
            Stopped: the daemon is to stop; the next one tells what is left.
            OutputError: the ledger cannot be read.
        """
        now = self._clock()
        if now < self._look_at and not is_last:
            return
        self._look_at = now + _LOOK_SECONDS
        squares = self._kept.squares
        for key in self._kept.update():
            if squares.newest(*key) > self._told:
                self._pending.add(key)
        ready = sorted(key for key in self._pending if is_last or self._rests_until.get(key, now) <= now)
        if not ready:
            return
        ready = ready if is_last else ready[:_MOST_AT_ONCE]
        promises = rank(squares.all())
        by_key = {(one.square.grid, one.square.name): one for one in promises}
        for key in ready:
            is_all = self._pending == {key}
            document = self._document(squares.square(*key), by_key.get(key), since=self._told_of.get(key, self._told))
            self._outbox.commit(document, remember=(SQUARES_KEY, str(self._kept.seq)) if is_all else None)
            self._pending.discard(key)
            self._told_of[key], self._rests_until[key] = self._kept.seq, now + _TELL_SECONDS
        if self._advises and now >= self._advise_at:
            self._advise_at = now + _TELL_SECONDS
            self._advise(promises)

    def _advise(self, promises: list[Promise]) -> None:
        """Publish what is to be skipped if that has changed, and the order of all others if they or its head have."""
        skipped = skippable(promises)
        names = {one.promise.square.name for one in skipped}
        order = [one for one in promises if one.square.name not in names]
        first, before = order_squares(order)[:_FIRST], self._advised
        self._advised = first, sorted(names)
        if order and self._advised != before:
            taken = sum(len(one.square.exposures) for one in promises)
            reason = f"{len(promises)} squares by the particles of {taken} micrographs; single exposures scatter more"
            self._outbox.commit(_advice("microscope.control.reorder_gridsquares", order, reason))
        if names and sorted(names) != before[1]:
            reason = "; ".join(f"{one.promise.square.name}: {one.reason}" for one in skipped)
            self._outbox.commit(
                _advice(
                    "microscope.control.skip_gridsquares", [one.promise for one in skipped], reason[:_LONGEST_REASON]
                )
            )

    def _document(self, square: Square, promise: Promise | None, *, since: int) -> SquareDocument:
        stage = square.stage_um
        return SquareDocument(
            epoch="",
            seq=0,
            grid=square.grid,
            square=square.name,
            stage_x_um=None if stage is None else stage[0],
            stage_y_um=None if stage is None else stage[1],
            micrographs=len(square.exposures),
            good=square.count("good"),
            doubtful=square.count("doubtful"),
            bad=square.count("bad"),
            particles=square.particles,
            relative_ice_thickness=square.relative_ice_thickness,
            ctf_resolution_angstrom=square.ctf_resolution_angstrom,
            holes=list(square.holes(since)),
            expected_particles=None if promise is None else round(promise.particles, 1),
            expected_particles_error=None if promise is None else round(promise.error, 1),
            at=now_rfc3339(),
        )


def _exposure_of(record: QualityRecord) -> Exposure | None:
    """An assessed micrograph as an exposure; None where its square is not known."""
    if not record.square:
        return None
    return Exposure(**{name: getattr(record, name) for name in Exposure.__struct_fields__})


def _advice(advice: Advice, promises: list[Promise], reason: str) -> AdviceDocument:
    return AdviceDocument(
        epoch="",
        seq=0,
        advice=advice,
        squares=[
            PromisedSquare(
                square=one.square.name,
                grid=one.square.grid,
                expected_particles=round(one.particles, 1),
                expected_particles_error=round(one.error, 1),
            )
            for one in promises
        ],
        reason=reason,
        at=now_rfc3339(),
    )
