"""What is made of measurements: times, summaries, and tables in Markdown."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterable, Sequence

__all__ = ["markdown_table", "seconds_of", "summary"]


def seconds_of(work: Callable[[], object]) -> float:
    """How long something takes."""
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def summary(values: Sequence[float]) -> dict[str, float]:
    """Median and extremes."""
    found = {"median": statistics.median(values), "least": min(values), "most": max(values)}
    return {name: round(value, 3) for name, value in found.items()}


def markdown_table(head: Sequence[str], rows: Iterable[Sequence[str]], right: int = 0) -> str:
    """A table whose last columns, so many, are aligned to the right."""
    rule = ["---"] * (len(head) - right) + ["---:"] * right
    return "\n".join(f"| {' | '.join(row)} |" for row in (head, rule, *rows))
