"""The watch for drift in the daemon: takes every micrograph, and logs when drift begins and ends."""

from __future__ import annotations

import contextlib
import logging
import math
import sqlite3
import time

import msgspec

from frazil.documents import MicrographDocument
from frazil.health.state import ChartState, Departure, DriftState
from frazil.session.outbox.ledger import BASELINE_KEY, DRIFT_KEY, Ledger
from frazil.session.pick.drift import DIRECTIONS, Direction, Drift, Quantity

__all__ = ["DriftWatch"]

log = logging.getLogger(__name__)

_PAUSE_SECONDS = 6 * 3600.0
"""After this time without a micrograph the next one begins another session, with a baseline of its own."""
_NAMES = {"picks": "picks per micrograph", "score": "mean scores"}


class DriftWatch:
    """Keeps the charts of the running session. The ledger keeps them over a restart of the daemon.

    A new baseline begins on request, after a long pause, and with another model, threshold or diameter. `note` belongs
    to one thread.

    Args:
        ledger: remembers the charts.

    Attributes:
        state: the present charts. May be read from any thread.
    """

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        try:
            self._drift = msgspec.json.decode(ledger.recall(DRIFT_KEY, "{}"), type=Drift)
        except msgspec.DecodeError:  # written by a later frazil, perhaps
            self._drift = Drift()
        self.state = _state_of(self._drift)

    def note(self, document: MicrographDocument) -> None:
        """Add a picked micrograph."""
        now, picked_by, asked = time.time(), _what_picks(document), self._drift.asked
        with contextlib.suppress(sqlite3.Error):  # the request is read with the next micrograph
            asked = self._ledger.recall(BASELINE_KEY)
        if (picked_by, asked) != (
            self._drift.picked_by,
            self._drift.asked,
        ) or now > self._drift.noted_at + _PAUSE_SECONDS:
            if self._drift.noted_at:
                log.info("the next micrographs become the baseline: another model, setting or session, or by request")
            self._drift = Drift(picked_by=picked_by, asked=asked)
        self._drift.noted_at = now
        scores, were_few = document.picks.score, self._drift.few
        for quantity, direction in self._drift.note(len(scores), sum(scores) / len(scores) if scores else 0.0):
            self._log(quantity, direction)
        if self._drift.few and not were_few:
            log.warning("picks are few: %s", self._drift.describe_few())
        self.state = _state_of(self._drift)
        with contextlib.suppress(sqlite3.Error):  # useful after a restart, but not needed
            self._ledger.remember(DRIFT_KEY, msgspec.json.encode(self._drift).decode())

    def _log(self, quantity: Quantity, direction: Direction) -> None:
        usual, recent = self._drift.usual(quantity), self._drift.recent(quantity)
        compared = f"median {recent:.3g} in the last micrographs, {usual:.3g} in the session's baseline"
        if self._drift.chart(quantity).drifting[direction]:
            fell = "have fallen" if direction == "down" else "have risen"
            log.warning("%s %s: %s", _NAMES[quantity], fell, compared)
        else:
            log.warning("%s are again as they were: %s", _NAMES[quantity], compared)


def _state_of(drift: Drift) -> DriftState:
    def chart_state(quantity: Quantity) -> ChartState:
        chart, usual = drift.chart(quantity), drift.usual(quantity)
        down, up = (
            Departure(evidence=chart.evidence(direction), drifting=chart.drifting[direction])
            for direction in DIRECTIONS
        )
        return ChartState(
            baseline_micrographs=len(chart.baseline),
            usual=None if math.isnan(usual) else usual,
            down=down,
            up=up,
        )

    return DriftState(few=drift.few, picks=chart_state("picks"), score=chart_state("score"))


def _what_picks(document: MicrographDocument) -> str:
    diameter_angstrom = document.diameter_px * document.pixel_size_angstrom
    return f"{document.model.sha256} {document.threshold:g} {diameter_angstrom:.4g}"
