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

import math
import statistics
from collections.abc import Callable
from typing import Literal

import msgspec

__all__ = [
    "BASELINE_MICROGRAPHS",
    "DIRECTIONS",
    "LAST_MICROGRAPHS",
    "QUANTITIES",
    "Chart",
    "Direction",
    "Drift",
    "Quantity",
]

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
_RECENT = LAST_MICROGRAPHS

Direction = Literal["down", "up"]
Quantity = Literal["picks", "score"]
DIRECTIONS: tuple[Direction, ...] = ("down", "up")
QUANTITIES: tuple[Quantity, ...] = ("picks", "score")


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
    sums: dict[Direction, float] = msgspec.field(default_factory=lambda: dict.fromkeys(DIRECTIONS, 0.0))
    drifting: dict[Direction, bool] = msgspec.field(default_factory=lambda: dict.fromkeys(DIRECTIONS, False))

    def evidence(self, direction: Direction) -> float:
        """The sum of departures, as a fraction of the limit at which drift begins."""
        return self.sums[direction] / self.limit

    def note(self, value: float, *, learn: bool = True) -> list[Direction]:
        """Add the value of a micrograph; return the directions in which drift has now begun or ended.

        Args:
            value: value of the quantity in the micrograph.
            learn: whether the value may join the baseline.
        """
        self.recent = [*self.recent[1 - _RECENT :], value]
        # Values that may be drift are kept out of the baseline.
        if learn and len(self.baseline) < _MOST_BASELINE and max(self.sums.values()) < self.limit / 2:
            self._learn(value)
        if self.centre is None:
            return []
        departure = max(-_MOST, min(_MOST, (value - self.centre) / self.spread))
        changed = []
        for direction in DIRECTIONS:
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


class Drift(msgspec.Struct, kw_only=True):
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
