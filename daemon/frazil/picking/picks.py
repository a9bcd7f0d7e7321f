"""Picks: where particles are in one micrograph, and how sure the model is."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

__all__ = ["Picks"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Picks:
    """Picks in one micrograph, best first where a picker made them.

    Positions are in pixels of the micrograph as stored in its file; pixel centres are at integers.
    """

    y: NDArray[np.float64]
    """(n,) row positions."""
    x: NDArray[np.float64]
    """(n,) column positions."""
    score: NDArray[np.float64]
    """(n,) figures of merit, 0 to 1."""

    def __post_init__(self) -> None:
        if not (self.y.shape == self.x.shape == self.score.shape and self.y.ndim == 1):
            raise ValueError(f"y, x, score differ in shape: {self.y.shape}, {self.x.shape}, {self.score.shape}")

    def __len__(self) -> int:
        return self.y.size

    def reaching(self, threshold: float) -> NDArray[np.bool_]:
        """(n,) whether each reaches a threshold, compared in single precision as picks are."""
        reach: NDArray[np.bool_] = self.score.astype(np.float32) >= np.float32(threshold)
        return reach

    def select(self, chosen: NDArray[np.bool_] | NDArray[np.intp]) -> Picks:
        """The picks at the given indices or where the mask is true, in that order."""
        return Picks(y=self.y[chosen], x=self.x[chosen], score=self.score[chosen])
