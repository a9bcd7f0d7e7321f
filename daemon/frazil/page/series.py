"""Pick counts and scores over the whole session, to be plotted."""

from __future__ import annotations

from array import array
from bisect import bisect_left

import msgspec
import numpy as np

from frazil.page.session import Session, glance

__all__ = ["Plot", "Series"]

_AT_ONCE = 500
_MOST_POINTS = 240


class Plot(msgspec.Struct, frozen=True, kw_only=True):
    """Columns of equal length, one entry for each micrograph, or for each group of neighbours where there are many."""

    count: int
    """Micrographs."""
    complete: bool
    """Whether all of the session is in it as yet."""
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


class Series:
    """Remembers a few numbers of each result, so that each document is read once. Used from one thread."""

    def __init__(self) -> None:
        # Not lists: a number takes eight bytes here, and is turned into numpy's at once.
        self._seq = array("q")
        self._at = array("d")
        self._picks = array("q")
        self._score = array("d")
        self._replaced: set[int] = set()
        """Places in the lists whose result was replaced."""
        self._read = 0
        self.complete = False

    def advance(self, session: Session) -> None:
        """Read some of what was committed since; `complete` tells whether that was all."""
        results = session.reader.results_after(self._read, _AT_ONCE)
        for result in results:
            self._read = result.seq
            short = glance(result)
            if short is None:
                continue  # it is damaged
            at = result.committed_at
            if short.supersedes:
                place = bisect_left(self._seq, short.supersedes)
                if place < len(self._seq) and self._seq[place] == short.supersedes:
                    self._replaced.add(place)
                    at = self._at[place]  # a micrograph keeps its place in the session
            self._seq.append(result.seq)
            self._at.append(at or 0.0)
            self._picks.append(short.picks)
            self._score.append(np.nan if short.score is None else short.score)
        self.complete = len(results) < _AT_ONCE

    def plot(self) -> Plot:
        """What was read so far, in the order of time."""
        kept = np.ones(len(self._seq), np.bool_)
        kept[list(self._replaced)] = False
        seq, at = np.array(self._seq, np.int64)[kept], np.array(self._at, np.float64)[kept]
        order = np.argsort(at, kind="stable")
        seq, at = seq[order], at[order]
        picks = np.array(self._picks, np.float64)[kept][order]
        score = np.array(self._score, np.float64)[kept][order]
        groups = [
            group for group in np.array_split(np.arange(seq.size), min(_MOST_POINTS, max(1, seq.size))) if group.size
        ]
        spread = [np.percentile(picks[group], [10, 50, 90]).tolist() for group in groups]
        scores = [score[group][np.isfinite(score[group])] for group in groups]
        return Plot(
            count=int(seq.size),
            complete=self.complete,
            seq=[int(seq[group[0]]) for group in groups],
            at=[float(np.median(at[group])) for group in groups],
            picks=[median for _, median, _ in spread],
            lowest=[lowest for lowest, _, _ in spread],
            highest=[highest for _, _, highest in spread],
            score=[round(float(np.median(s)), 4) if s.size else None for s in scores],
        )
