"""Times measured in turns, and what is told of them: median, extremes, and ratios made within each turn."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

import msgspec

__all__ = ["Rounds", "Spread", "rounds_within", "spread"]

T = TypeVar("T")
_LEAST_ROUNDS = 3
_REST_SECONDS = 0.05
"""Before each step: threads of ONNX Runtime that may spin do so for some 35 ms after a run, on a core that the next
step would be measured without."""


class Spread(msgspec.Struct, frozen=True, kw_only=True):
    """Many measurements of one thing."""

    median: float
    least: float
    most: float
    runs: int


def spread(values: Sequence[float]) -> Spread:
    """Median and extremes, to four significant digits."""
    middle, least, most = (float(f"{v:.4g}") for v in (statistics.median(values), min(values), max(values)))
    return Spread(median=middle, least=least, most=most, runs=len(values))


class Rounds:
    """Seconds by name, a value for each round."""

    def __init__(self) -> None:
        self.seconds: dict[str, list[float]] = {}

    def time(self, name: str, step: Callable[[], T]) -> T:
        """Run a step, after a short rest, and keep how long it took."""
        time.sleep(_REST_SECONDS)
        started = time.perf_counter()
        result = step()
        self.add(name, time.perf_counter() - started)
        return result

    def add(self, name: str, seconds: float) -> None:
        """Keep a time that was measured elsewhere."""
        self.seconds.setdefault(name, []).append(seconds)

    def total(self, name: str, parts: Sequence[str]) -> None:
        """Keep the sum of what the parts took in this round."""
        self.add(name, sum(self.seconds[part][-1] for part in parts))

    def spread(self, name: str) -> Spread:
        """Over all rounds."""
        return spread(self.seconds[name])

    def spreads(self) -> dict[str, Spread]:
        """Of everything."""
        return {name: spread(values) for name, values in self.seconds.items()}

    def ratio(self, name: str, other: str, scale: float = 1.0) -> Spread:
        """Of one to another, made within each round, times a number."""
        return spread([scale * a / b for a, b in zip(self.seconds[name], self.seconds[other], strict=True)])


def rounds_within(most: int, budget_seconds: float) -> Iterator[int]:
    """Count rounds until there are enough or the time is up; three at least, or as many as are wanted."""
    started = time.perf_counter()
    for number in range(most):
        if number >= _LEAST_ROUNDS and time.perf_counter() - started > budget_seconds:
            return
        yield number
