"""Drift: whether picks per micrograph, or their scores, differ from those at the beginning of the session.

The baseline is made of a session's first micrographs, without those that may be drift. The departure of each micrograph
from the baseline is added to a cumulative sum chart (Page, Biometrika 41, 100, 1954): a small lasting change is noticed
as surely as a large one, only later. The departure of one micrograph is limited (winsorising: Hawkins, Journal of
Quality Technology 25, 248, 1993), and median and median absolute deviation replace mean and standard deviation: empty
squares, carbon and a bad start are part of every session, and are not yet drift.

Before there is a baseline, only one coarse change is reported: each of the last ten micrographs has hardly any picks in
comparison with those before them, or the session has had none.
"""

from __future__ import annotations

import contextlib
import logging
import math
import sqlite3
import statistics
import time
from collections.abc import Callable
from functools import partial
from typing import Literal

import msgspec

from frazil.documents import MicrographDocument, QualityDocument
from frazil.health.state import QUALITIES, ChartState, Departure, DriftState, Quality
from frazil.session.outbox.ledger import BASELINE_KEY, DRIFT_KEY, QUALITY_DRIFT_KEY, Ledger, Remembered

__all__ = ["BASELINE_MICROGRAPHS", "LAST_MICROGRAPHS", "Direction", "Drift", "DriftWatch", "QualityDrift"]

log = logging.getLogger(__name__)

_FEW_FRACTION = 0.15
"""Before there is a baseline, picks are few if they are below this fraction of the median before."""
LAST_MICROGRAPHS = 10
"""Number of micrographs that must all have few picks. A group of neighbouring holes, which may all be empty, is seldom
larger."""
_LEAST_MICROGRAPHS = 3
"""Smallest number of micrographs for a comparison, and for the report that all are empty."""
BASELINE_MICROGRAPHS = 30
"""Smallest number of micrographs in a baseline. Drift is not reported before."""
_MOST_BASELINE = 200
"""Largest number of micrographs in a baseline. The first grid square alone is not typical of all."""
_MOST = 2.0
"""Largest departure of one micrograph, in spreads."""
_SLACK = 1.0
"""Departure, in spreads, that adds nothing to the sum. So one micrograph adds at most 1."""
_LIMIT_PICKS = 23.0
_LIMIT_SCORE = 17.0
_LEAST_SPREAD_PICKS = 0.9
"""Smallest spread of the logarithm of picks: a factor of 2.5 is no drift, a factor of 6 counts in full."""
_LEAST_SPREAD_SCORE = 0.03
_EPSILON = 1e-6
"""Tolerance for the rounding of sums."""
_SCORED_PICKS = 5
"""Smallest number of picks from which a micrograph's mean score is used."""
_PAUSE_SECONDS = 6 * 3600.0
"""After this time without a micrograph the next one begins another session, with a baseline of its own."""
_NAMES = {"picks": "picks per micrograph", "score": "mean scores"}

_LIMIT_QUALITY, _LIMIT_MEANS = 12.0, 17.0
_MEAN_OF = 10
"""Of so many micrographs the mean is charted where one says little: a session goes through several defoci, and a
micrograph is bad or not. Means that overlap are alike, which takes more evidence."""
_MEANS: tuple[Quality, ...] = ("defocus", "bad")

Direction = Literal["down", "up"]
Quantity = Literal["picks", "score"]
_DIRECTIONS: tuple[Direction, ...] = ("down", "up")
_LEAST_SPREADS: dict[Quality, float] = {"defocus": 0.2, "resolution": 0.15, "ice": 0.08, "junk": 0.06, "bad": 0.2}
"""Smallest spreads: of the defocus in µm, the logarithm of the resolution, the ice in mean free paths, and shares."""


class Chart(msgspec.Struct, kw_only=True):
    """The baseline of one quantity, and the sums of departures from it."""

    least_spread: float
    limit: float
    """Sum, in spreads, at which drift begins."""
    baseline: list[float] = []
    """Values of the micrographs in the baseline."""
    centre: float | None = None
    """Median of the baseline; None before the baseline is complete."""
    spread: float = 0.0
    """Robust standard deviation of the baseline."""
    recent: list[float] = []
    """Values of the last micrographs."""
    sums: dict[Direction, float] = msgspec.field(default_factory=lambda: dict.fromkeys(_DIRECTIONS, 0.0))
    drifting: dict[Direction, bool] = msgspec.field(default_factory=lambda: dict.fromkeys(_DIRECTIONS, False))

    def evidence(self, direction: Direction) -> float:
        """The sum of departures, as a fraction of the limit at which drift begins."""
        return self.sums[direction] / self.limit

    def note(self, value: float, *, learn: bool = True) -> list[Direction]:
        """Add the value of a micrograph; return the directions in which drift has now begun or ended.

        Args:
            value: value of the quantity in the micrograph.
            learn: whether the value may join the baseline.
        """
        self.recent = [*self.recent[1 - LAST_MICROGRAPHS :], value]
        # Values that may be drift are kept out of the baseline.
        if learn and len(self.baseline) < _MOST_BASELINE and max(self.sums.values()) < self.limit / 2:
            self._learn(value)
        if self.centre is None:
            return []
        departure = max(-_MOST, min(_MOST, (value - self.centre) / self.spread))
        changed = []
        for direction in _DIRECTIONS:
            added = (departure if direction == "up" else -departure) - _SLACK
            # The sum never exceeds the limit, so that the end of drift is soon noticed.
            self.sums[direction] = max(0.0, min(self.limit, self.sums[direction] + added))
            was = self.drifting[direction]
            self.drifting[direction] = self.sums[direction] > (self.limit / 2 if was else self.limit - _EPSILON)
            if self.drifting[direction] != was:
                changed.append(direction)
        return changed

    def _learn(self, value: float) -> None:
        self.baseline = [*self.baseline, value]
        if len(self.baseline) >= BASELINE_MICROGRAPHS:
            self.centre = statistics.median(self.baseline)
            deviation = statistics.median([abs(known - self.centre) for known in self.baseline])
            self.spread = max(1.4826 * deviation, self.least_spread)


class Drift(msgspec.Struct, Remembered, kw_only=True):
    """The charts of one session with one model and one set of limits. The ledger keeps them over a restart."""

    picked_by: str = ""
    """Model, threshold and diameter. With others, picks and scores cannot be compared."""
    asked: str = ""
    """The request for a new baseline that this baseline granted."""
    noted_at: float = 0.0
    """When the last micrograph was noted, in seconds of Unix time."""
    picks: Chart = msgspec.field(default_factory=lambda: Chart(least_spread=_LEAST_SPREAD_PICKS, limit=_LIMIT_PICKS))
    """Chart of log(1 + picks)."""
    score: Chart = msgspec.field(default_factory=lambda: Chart(least_spread=_LEAST_SPREAD_SCORE, limit=_LIMIT_SCORE))
    """Chart of the mean figure of merit."""
    few: bool = False
    """Whether, before there is a baseline, the last micrographs have few picks in comparison with earlier ones, or
    none."""

    def chart(self, quantity: Quantity) -> Chart:
        """The chart of a quantity."""
        return self.picks if quantity == "picks" else self.score

    def note(self, picks: int, mean_score: float) -> list[tuple[Quantity, Direction]]:
        """Add a micrograph; return the quantities and directions in which drift has now begun or ended.

        Args:
            picks: number of picks in the micrograph.
            mean_score: mean score of the picks; ignored if there are too few picks.
        """
        value = math.log1p(picks)
        doubtful = self._note_few(value)
        changed: list[tuple[Quantity, Direction]] = [("picks", d) for d in self.picks.note(value, learn=not doubtful)]
        if picks >= _SCORED_PICKS:
            changed += [("score", d) for d in self.score.note(mean_score)]
        return changed

    def _note_few(self, value: float) -> bool:
        """Set `few`; return whether the last micrographs may have few picks, so that they do not join the baseline."""
        known, limit = [*self.picks.recent, value], _FEW_FRACTION * (self.before or 0.0)

        def are_few(values: list[float], typical: Callable[[list[float]], float]) -> bool:
            return not any(values) or math.expm1(typical(values)) < limit

        doubtful = (
            self.picks.centre is None
            and len(known) >= _LEAST_MICROGRAPHS
            and are_few(known[-_LEAST_MICROGRAPHS:], statistics.median)
        )
        self.few = doubtful and (self.few or are_few(known[-LAST_MICROGRAPHS:], max))
        return doubtful

    @property
    def before(self) -> float | None:
        """Median picks of the baseline so far; None before there is enough of it to compare with."""
        known = self.picks.baseline
        return math.expm1(statistics.median(known)) if len(known) >= _LEAST_MICROGRAPHS else None

    def describe_few(self) -> str:
        """The few picks, and those they are compared with, in one line."""
        last = self.picks.recent
        before = "" if self.before is None else f", {self.before:.3g} in those before"
        return f"median {math.expm1(statistics.median(last)):.3g} in the last {len(last)} micrographs{before}"

    def usual(self, quantity: Quantity) -> float:
        """Median picks, or mean figure of merit, of the baseline's micrographs; NaN before the baseline is complete."""
        centre = self.chart(quantity).centre
        return math.nan if centre is None else _value(quantity, centre)

    def recent(self, quantity: Quantity) -> float:
        """Median picks, or mean figure of merit, of the last micrographs."""
        return _value(quantity, statistics.median(self.chart(quantity).recent))


def _value(quantity: Quantity, charted: float) -> float:
    return math.expm1(charted) if quantity == "picks" else charted


def _quality_charts() -> dict[Quality, Chart]:
    return {
        which: Chart(least_spread=_LEAST_SPREADS[which], limit=_LIMIT_MEANS if which in _MEANS else _LIMIT_QUALITY)
        for which in QUALITIES
    }


class QualityDrift(msgspec.Struct, Remembered, kw_only=True):
    """The charts of what assessments say of one session, whatever picks. The ledger keeps them over a restart."""

    asked: str = ""
    noted_at: float = 0.0
    """As of `Drift`."""
    last: dict[Quality, list[float]] = {}
    """Values of the last micrographs whose mean is charted."""
    charts: dict[Quality, Chart] = msgspec.field(default_factory=_quality_charts)

    def note(self, document: QualityDocument) -> list[tuple[Quality, Direction]]:
        """Add a micrograph; return the quantities and directions in which drift has now begun or ended."""
        values: dict[Quality, float | None] = {
            "ice": document.relative_ice_thickness,
            "junk": document.junk_fraction,
            "bad": float(document.grade == "bad"),
        }
        ctf = document.ctf
        if not isinstance(ctf, msgspec.UnsetType) and ctf.is_reliable:
            values["defocus"] = 0.5e-4 * (ctf.defocus_u_angstrom + ctf.defocus_v_angstrom)
            resolution = ctf.resolution_angstrom or 0.0
            values["resolution"] = math.log(resolution) if resolution > 0 else None
        return [
            (which, direction)
            for which, value in values.items()
            if value is not None and (charted := self._charted(which, value)) is not None
            for direction in self.charts[which].note(charted)
        ]

    def _charted(self, which: Quality, value: float) -> float | None:
        """What is charted of a value: itself, or its mean with those before; None while these are too few."""
        if which not in _MEANS:
            return value
        self.last[which] = last = [*self.last.get(which, [])[1 - _MEAN_OF :], value]
        return statistics.fmean(last) if len(last) == _MEAN_OF else None

    def describe(self, which: Quality, direction: Direction) -> str:
        """That a quantity has drifted, or is as it was, in one line."""
        chart = self.charts[which]
        recent, usual = (
            _quality_value(which, value) for value in (statistics.median(chart.recent), chart.centre or 0.0)
        )
        what, unit = _QUALITY_NAMES[which]
        compared = f"median {recent:.3g}{unit} in the last micrographs, {usual:.3g}{unit} in the session's baseline"
        if not chart.drifting[direction]:
            return f"{what} is again as it was: {compared}"
        return f"{what} has {'fallen' if direction == 'down' else 'risen'}: {compared}"


_QUALITY_NAMES: dict[Quality, tuple[str, str]] = {
    "defocus": ("the defocus", " µm"),
    "resolution": ("the resolution to which the CTF fits", " Å"),
    "ice": ("the thickness of the ice", " mean free paths"),
    "junk": ("the share of junk", ""),
    "bad": ("the share of bad micrographs", ""),
}


def _quality_value(which: Quality, charted: float) -> float:
    return math.exp(charted) if which == "resolution" else charted


class DriftWatch:
    """Keeps the charts of the running session. The ledger keeps them over a restart of the daemon.

    A new baseline begins on request, after a long pause, and, of picks and scores, with another model, threshold or
    diameter. `note` and `note_quality` belong to one thread.

    Args:
        ledger: remembers the charts.

    Attributes:
        state: the present charts. May be read from any thread.
    """

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self._drift = Drift.decode(ledger.recall(DRIFT_KEY)) or Drift()
        self._quality = QualityDrift.decode(ledger.recall(QUALITY_DRIFT_KEY)) or QualityDrift()
        self.state = _state_of(self._drift, self._quality)

    def note(self, document: MicrographDocument) -> None:
        """Add a picked micrograph."""
        now, picked_by, asked = time.time(), _what_picks(document), self._asked(self._drift.asked)
        is_other = (picked_by, asked) != (self._drift.picked_by, self._drift.asked)
        if is_other or now > self._drift.noted_at + _PAUSE_SECONDS:
            if self._drift.noted_at:
                log.info("the next micrographs become the baseline: another model, setting or session, or by request")
            self._drift = Drift(picked_by=picked_by, asked=asked)
        self._drift.noted_at = now
        scores, were_few = document.picks.score, self._drift.few
        for quantity, direction in self._drift.note(len(scores), sum(scores) / len(scores) if scores else 0.0):
            self._log(quantity, direction)
        if self._drift.few and not were_few:
            log.warning("picks are few: %s", self._drift.describe_few())
        self.state = _state_of(self._drift, self._quality)
        with contextlib.suppress(sqlite3.Error):  # useful after a restart, but not needed
            self._ledger.remember(DRIFT_KEY, self._drift.encode())

    def note_quality(self, document: QualityDocument) -> None:
        """Add an assessed micrograph; one that was assessed again is not another."""
        if document.supersedes:
            return
        now, asked = time.time(), self._asked(self._quality.asked)
        if asked != self._quality.asked or now > self._quality.noted_at + _PAUSE_SECONDS:
            self._quality = QualityDrift(asked=asked)
        self._quality.noted_at = now
        for which, direction in self._quality.note(document):
            log.warning("%s", self._quality.describe(which, direction))
        self.state = _state_of(self._drift, self._quality)
        with contextlib.suppress(sqlite3.Error):
            self._ledger.remember(QUALITY_DRIFT_KEY, self._quality.encode())

    def _asked(self, before: str) -> str:
        """The newest request for another baseline."""
        with contextlib.suppress(sqlite3.Error):  # the request is read with the next micrograph
            return self._ledger.recall(BASELINE_KEY)
        return before

    def _log(self, quantity: Quantity, direction: Direction) -> None:
        usual, recent = self._drift.usual(quantity), self._drift.recent(quantity)
        compared = f"median {recent:.3g} in the last micrographs, {usual:.3g} in the session's baseline"
        if self._drift.chart(quantity).drifting[direction]:
            fell = "have fallen" if direction == "down" else "have risen"
            log.warning("%s %s: %s", _NAMES[quantity], fell, compared)
        else:
            log.warning("%s are again as they were: %s", _NAMES[quantity], compared)


def _state_of(drift: Drift, quality: QualityDrift) -> DriftState:
    def chart_state(chart: Chart, value: Callable[[float], float]) -> ChartState:
        down, up = (
            Departure(evidence=chart.evidence(direction), drifting=chart.drifting[direction])
            for direction in _DIRECTIONS
        )
        usual = None if chart.centre is None else value(chart.centre)
        return ChartState(baseline_micrographs=len(chart.baseline), usual=usual, down=down, up=up)

    return DriftState(
        few=drift.few,
        picks=chart_state(drift.picks, partial(_value, "picks")),
        score=chart_state(drift.score, partial(_value, "score")),
        quality={which: chart_state(chart, partial(_quality_value, which)) for which, chart in quality.charts.items()},
    )


def _what_picks(document: MicrographDocument) -> str:
    diameter_angstrom = document.diameter_px * document.pixel_size_angstrom
    return f"{document.model.sha256} {document.threshold:g} {diameter_angstrom:.4g}"
