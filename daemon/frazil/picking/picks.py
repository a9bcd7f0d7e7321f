"""Picks: where particles are in one micrograph, and how they are found in the scores of the model."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from frazil.limits import PickLimits

__all__ = [
    "SCORE_STEPS",
    "Picks",
    "ScoreMap",
    "find_peaks",
    "find_picks",
    "in_steps",
]


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

    def rows(self) -> Iterator[tuple[float, float, float]]:
        """x, y and score of each, in the order in which files have them."""
        return zip(self.x.tolist(), self.y.tolist(), self.score.tolist(), strict=True)

    def reaching(self, threshold: float) -> NDArray[np.bool_]:
        """(n,) whether each reaches a threshold, compared in single precision as picks are."""
        reach: NDArray[np.bool_] = self.score.astype(np.float32) >= np.float32(threshold)
        return reach

    def select(self, chosen: NDArray[np.bool_] | NDArray[np.intp]) -> Picks:
        """The picks at the given indices or where the mask is true, in that order."""
        return Picks(y=self.y[chosen], x=self.x[chosen], score=self.score[chosen])


SCORE_STEPS = 65535
"""Scores are rounded to this many steps, so that the kept map takes two bytes a score and loses nothing."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ScoreMap:
    """Scores of one micrograph on a grid. A kept map can be thresholded again without the model."""

    scores: NDArray[np.float32]
    """(gy, gx) probabilities, rounded by `in_steps`."""
    y_px: NDArray[np.float64]
    """(gy,) row of each line of scores, in pixels of the micrograph."""
    x_px: NDArray[np.float64]
    """(gx,) column of each row's scores, in pixels of the micrograph."""
    shape: tuple[int, int]
    """(h, w) of the micrograph."""
    margin_px: float | None = None
    """Width of the border without scores; None where it is not known."""


def in_steps(scores: NDArray[np.float32]) -> NDArray[np.float32]:
    """(gy, gx) scores, each rounded to a multiple of 1 / `SCORE_STEPS`.

    Picks are made from rounded scores, so a kept map gives the very same picks.
    """
    steps: NDArray[np.float32] = np.round(scores * np.float32(SCORE_STEPS))
    return steps / np.float32(SCORE_STEPS)


def find_picks(score_map: ScoreMap, limits: PickLimits, pixel_size_angstrom: float) -> Picks:
    """The picks of a score map within the limits, best first."""
    return find_peaks(
        score_map,
        threshold=limits.threshold,
        min_distance_px=limits.min_distance_angstrom / pixel_size_angstrom,
        edge_margin_px=limits.edge_margin_angstrom / pixel_size_angstrom,
    )


def find_peaks(score_map: ScoreMap, *, threshold: float, min_distance_px: float, edge_margin_px: float) -> Picks:
    """Find particles in a score map.

    A pick is a local maximum of the map (among its eight neighbours) at or above the threshold, moved to the
    centroid of the scores around it. Of two picks nearer than the minimum distance, the better one stays; none stays
    that is nearer to an edge than the margin. Where the score is zero, as in blank parts of a micrograph, there is no
    pick, whatever the threshold.

    Returns:
        Picks, best first.
    """
    scores = score_map.scores
    if scores.size == 0:
        nothing = np.zeros(0)
        return Picks(y=nothing, x=nothing, score=nothing)
    highest_around = cv2.dilate(scores, np.ones((3, 3), np.uint8))
    rows, columns = np.nonzero((scores >= highest_around) & (scores >= threshold) & (scores > 0))
    refined_rows, refined_columns, around = _centroids(scores, rows, columns)
    y = np.interp(refined_rows, np.arange(score_map.y_px.size), score_map.y_px)
    x = np.interp(refined_columns, np.arange(score_map.x_px.size), score_map.x_px)
    found = Picks(y=y, x=x, score=scores[rows, columns].astype(np.float64))
    h, w = score_map.shape
    low, high_y, high_x = edge_margin_px - 0.5, h - 0.5 - edge_margin_px, w - 0.5 - edge_margin_px
    inside = (y >= low) & (y <= high_y) & (x >= low) & (x <= high_x)
    found, around = found.select(inside), around[inside]
    # Ties are broken by the scores around, which are best in the middle where a model is sure of a whole patch, and
    # then by position, so that the same map always gives the same picks.
    found = found.select(np.lexsort((found.x, found.y, -around, -found.score)))
    return found.select(_keep_apart(found, min_distance_px))


def _centroids(
    scores: NDArray[np.float32], rows: NDArray[np.intp], columns: NDArray[np.intp]
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """(n,) grid positions → (n,) positions of the centroid of the 3 x 3 scores around each, and the sum of these."""
    padded = np.pad(scores, 1, mode="edge").astype(np.float64)
    offsets = np.arange(3)
    around = padded[rows[:, None, None] + offsets[:, None], columns[:, None, None] + offsets]  # (n, 3, 3)
    weights = around - around.min(axis=(1, 2), keepdims=True)
    total = weights.sum(axis=(1, 2))
    flat = total <= 0
    total[flat] = 1.0
    shift_rows = (weights[:, 2].sum(axis=1) - weights[:, 0].sum(axis=1)) / total
    shift_columns = (weights[:, :, 2].sum(axis=1) - weights[:, :, 0].sum(axis=1)) / total
    return rows + shift_rows, columns + shift_columns, around.sum(axis=(1, 2))


def _keep_apart(picks: Picks, min_distance_px: float) -> NDArray[np.intp]:
    """Indices of picks, best first, after dropping each that is too near a better one."""
    # Cells at least as wide as the distance: what is too near lies in the same cell or one of the eight around it.
    cell = max(min_distance_px, 1.0)
    kept_in_cell: dict[tuple[int, int], list[int]] = {}
    kept = []
    ys, xs = picks.y.tolist(), picks.x.tolist()
    for i, (y, x) in enumerate(zip(ys, xs, strict=True)):
        cell_y, cell_x = int(y // cell), int(x // cell)
        around = (
            j
            for near_y in (cell_y - 1, cell_y, cell_y + 1)
            for near_x in (cell_x - 1, cell_x, cell_x + 1)
            for j in kept_in_cell.get((near_y, near_x), ())
        )
        if all(math.hypot(ys[j] - y, xs[j] - x) >= min_distance_px for j in around):
            kept_in_cell.setdefault((cell_y, cell_x), []).append(i)
            kept.append(i)
    return np.array(kept, np.intp)
