"""Matching picks with known particles, and the figures that follow."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from frazil.picking import hits_gained, match_picks

__all__ = ["Tally", "hits_gained", "match_picks", "tally_matches"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Tally:
    """Hits, misses and false picks; tallies add up."""

    hits: int = 0
    misses: int = 0
    false_picks: int = 0

    def __add__(self, other: Tally) -> Tally:
        return Tally(
            hits=self.hits + other.hits,
            misses=self.misses + other.misses,
            false_picks=self.false_picks + other.false_picks,
        )

    @property
    def precision(self) -> float:
        """Hits among the picks; 0 where there are none."""
        return self.hits / max(1, self.hits + self.false_picks)

    @property
    def recall(self) -> float:
        """Hits among the particles; 0 where there are none."""
        return self.hits / max(1, self.hits + self.misses)

    @property
    def f1(self) -> float:
        """Harmonic mean of precision and recall."""
        return 2 * self.hits / max(1, 2 * self.hits + self.misses + self.false_picks)


def tally_matches(matched: NDArray[np.intp], truth_count: int) -> Tally:
    """Count what `match_picks` found."""
    hits = int((matched >= 0).sum())
    return Tally(hits=hits, misses=truth_count - hits, false_picks=matched.size - hits)
