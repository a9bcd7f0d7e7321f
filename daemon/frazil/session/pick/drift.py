"""Drift: whether picks per micrograph, or their scores, have left what they were when the session began.

A session's first micrographs, while nothing speaks against them, are its baseline. Each one is compared with it, and
what it departs by is added up, as in a cumulative sum chart (Page, Biometrika 41, 100, 1954): a small change that stays
is noticed as surely as a large one, only later. No micrograph counts for more than a few spreads, however odd it is
(winsorising: Hawkins, Journal of Quality Technology 25, 248, 1993), and median and median absolute deviation stand for
mean and standard deviation: empty squares, carbon and a bad start are part of every session, and are not yet drift.

While there is no baseline as yet, only the coarsest is told: each of the last ten micrographs has hardly any picks
beside those before them, or the session has had none.
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

_FEW_SHARE = 0.15
"""Before there is a baseline: picks are few where they are below this share of the median before."""
LAST_MICROGRAPHS = 10
"""In each of the last so many: a group of neighbouring holes, all of which may be empty, is seldom larger."""
_LEAST_MICROGRAPHS = 3
"""With so many at least they are compared, and of so many at least it is said that all are empty."""
BASELINE_MICROGRAPHS = 30
"""Before so many there is no word of drift."""
_MOST_BASELINE = 200
"""Micrographs in it at the end: the first grid square alone does not tell what squares are like."""
_MOST = 2.0
"""Spreads by which one micrograph departs at most."""
_SLACK = 1.0
"""Spreads by which micrographs may depart for ever. So one of the oddest adds 1 to the sum."""
_LIMIT_PICKS = 23.0
_LIMIT_SCORE = 17.0
_LEAST_SPREAD_PICKS = 0.9
"""Of the logarithm: picks that are 2.5 times as many or as few are no drift, those 6 times as few count in full."""
_LEAST_SPREAD_SCORE = 0.03
_EPSILON = 1e-6
"""What rounding may take from a sum."""
_SCORED_PICKS = 5
"""With fewer picks a micrograph's mean score says nothing."""
_RECENT = LAST_MICROGRAPHS

Direction = Literal["down", "up"]
Quantity = Literal["picks", "score"]
DIRECTIONS: tuple[Direction, ...] = ("down", "up")
QUANTITIES: tuple[Quantity, ...] = ("picks", "score")


class Chart(msgspec.Struct, kw_only=True):
    """What one quantity was, and what has added up since."""

    least_spread: float
    limit: float
    """Sum, in spreads, at which drift begins."""
    baseline: list[float] = []
    """Values of the first micrographs."""
    centre: float | None = None
    """Median of the baseline; None before there is enough of it."""
    spread: float = 0.0
    """Robust standard deviation of the baseline."""
    recent: list[float] = []
    """Values of the last few."""
    sums: dict[Direction, float] = msgspec.field(default_factory=lambda: dict.fromkeys(DIRECTIONS, 0.0))
    drifting: dict[Direction, bool] = msgspec.field(default_factory=lambda: dict.fromkeys(DIRECTIONS, False))

    def evidence(self, direction: Direction) -> float:
        """What has added up, as a share of that at which drift begins."""
        return self.sums[direction] / self.limit

    def note(self, value: float, *, learn: bool = True) -> list[Direction]:
        """Take in a micrograph's value; the directions in which drift has now begun or ended.

        Args:
            value: of the micrograph.
            learn: whether it may join the baseline.
        """
        self.recent = [*self.recent[1 - _RECENT :], value]
        # What may be drift is kept out of the baseline.
        if learn and len(self.baseline) < _MOST_BASELINE and max(self.sums.values()) < self.limit / 2:
            self._learn(value)
        if self.centre is None:
            return []
        departure = max(-_MOST, min(_MOST, (value - self.centre) / self.spread))
        changed = []
        for direction in DIRECTIONS:
            added = (departure if direction == "up" else -departure) - _SLACK
            # It never adds up to more than the limit, so that drift that is over is soon seen to be over.
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
    """The charts of one session, picked in one way. It can be written down and taken up again."""

    picked_by: str = ""
    """What picks: model and threshold. Another model, or another threshold, has other picks and other scores."""
    asked: str = ""
    """Which request for a new baseline it was that this one granted."""
    noted_at: float = 0.0
    """When the last micrograph was noted, in seconds of Unix time."""
    picks: Chart = msgspec.field(default_factory=lambda: Chart(least_spread=_LEAST_SPREAD_PICKS, limit=_LIMIT_PICKS))
    """Of log(1 + picks)."""
    score: Chart = msgspec.field(default_factory=lambda: Chart(least_spread=_LEAST_SPREAD_SCORE, limit=_LIMIT_SCORE))
    """Of the mean figure of merit."""
    few: bool = False
    """Whether, before there is a baseline, micrographs have hardly any picks beside those before, or none."""

    def chart(self, quantity: Quantity) -> Chart:
        """The chart of a quantity."""
        return self.picks if quantity == "picks" else self.score

    def note(self, picks: int, mean_score: float) -> list[tuple[Quantity, Direction]]:
        """Take in a micrograph; the quantities and directions in which drift has now begun or ended.

        Args:
            picks: in the micrograph.
            mean_score: of the picks; not looked at where there are few.
        """
        value = math.log1p(picks)
        doubtful = self._note_few(value)
        changed: list[tuple[Quantity, Direction]] = [("picks", d) for d in self.picks.note(value, learn=not doubtful)]
        if picks >= _SCORED_PICKS:
            changed += [("score", d) for d in self.score.note(mean_score)]
        return changed

    def _note_few(self, value: float) -> bool:
        """Tell whether picks are few; whether the last micrographs may be, which is enough to not learn from them."""
        known, limit = [*self.picks.recent, value], _FEW_SHARE * (self.before or 0.0)

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
        """Median picks of what there is of a baseline; None before there is enough to compare with."""
        known = self.picks.baseline
        return math.expm1(statistics.median(known)) if len(known) >= _LEAST_MICROGRAPHS else None

    def describe_few(self) -> str:
        """What is few beside what, in one line."""
        last = self.picks.recent
        before = "" if self.before is None else f", {self.before:.3g} in those before"
        return f"median {math.expm1(statistics.median(last)):.3g} in the last {len(last)} micrographs{before}"

    def usual(self, quantity: Quantity) -> float:
        """Median picks, or mean figure of merit, of the baseline's micrographs; NaN before there is enough of it."""
        centre = self.chart(quantity).centre
        return math.nan if centre is None else _value(quantity, centre)

    def recent(self, quantity: Quantity) -> float:
        """The same of the last few micrographs."""
        return _value(quantity, statistics.median(self.chart(quantity).recent))


def _value(quantity: Quantity, charted: float) -> float:
    return math.expm1(charted) if quantity == "picks" else charted
