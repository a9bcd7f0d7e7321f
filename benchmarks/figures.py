"""What is made of measurements: times, summaries, and tables in Markdown."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterable, Mapping, Sequence

__all__ = ["fill_tables", "markdown_table", "seconds_of", "summary"]


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


def fill_tables(text: str, tables: Mapping[str, str]) -> str:
    """A page in Markdown with each table between the marks of its name.

    Raises:
        ValueError: the page has no place for one of them.
    """
    for name, content in tables.items():
        start, end = f"<!-- {name} -->\n", f"<!-- end of {name} -->"
        if start not in text or end not in text:
            raise ValueError(f"expected a place for the table {name}, found none")
        before, _, rest = text.partition(start)
        _, _, after = rest.partition(end)
        text = f"{before}{start}\n{content}\n\n{end}{after}"
    return text
