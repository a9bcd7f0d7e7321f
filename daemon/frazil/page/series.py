"""Pick counts and scores over the session, or over a part of it, to be plotted."""

from __future__ import annotations

import msgspec
import numpy as np

from frazil.page.listing import Listing

__all__ = ["Plot", "plot_of"]

_MOST_POINTS = 240


class Plot(msgspec.Struct, frozen=True, kw_only=True):
    """Columns of equal length, one entry for each micrograph, or for each group of neighbours where there are many."""

    count: int
    """Micrographs in the session."""
    complete: bool
    """Whether all of the session is in it as yet; if not, it is worth asking again."""
    number: list[float]
    """Of a micrograph in the order of time, from 1; a group's middle."""
    seq: list[int]
    """Of a group's first result."""
    at: list[float]
    """In seconds of Unix time; a group's middle."""
    picks: list[float]
    """A group's median."""
    lowest: list[float]
    """A group's tenth percentile."""
    highest: list[float]
    """A group's ninetieth percentile."""
    score: list[float | None]
    """Mean figure of merit; None where there are no picks."""


def plot_of(listing: Listing, first: int = 1, last: int | None = None) -> Plot:
    """Plot what was read so far, or the micrographs of some numbers; the fewer, the finer."""
    results = listing.results()
    some = results[max(0, first - 1) : last]
    seq, at, picks, score = (some[name] for name in ("seq", "at", "picks", "score"))
    number = np.arange(len(some), dtype=np.float64) + max(1, first)
    groups = [group for group in np.array_split(np.arange(seq.size), min(_MOST_POINTS, max(1, seq.size))) if group.size]
    spread = [np.percentile(picks[group], [10, 50, 90]).tolist() for group in groups]
    scores = [score[group][np.isfinite(score[group])] for group in groups]
    return Plot(
        count=len(results),
        complete=listing.complete,
        number=[float(number[group].mean()) for group in groups],
        seq=[int(seq[group[0]]) for group in groups],
        at=[float(np.median(at[group])) for group in groups],
        picks=[median for _, median, _ in spread],
        lowest=[lowest for lowest, _, _ in spread],
        highest=[highest for _, _, highest in spread],
        score=[round(float(np.median(s)), 4) if s.size else None for s in scores],
    )
