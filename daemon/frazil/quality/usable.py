"""The usable area of a micrograph: neither junk nor without data; and how picks lie on it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from frazil.picking import Outlines, find_blank

__all__ = ["UsableArea", "clumping", "find_usable", "outline_length", "perimeter_px"]

_STEPS_PER_DIAMETER = 8
_LONGEST_SIDE = 1024
"""Of the coarse picture: the area needs no more, however small the particle."""
_SUBPIXEL_BITS = 4
_FEWEST_PICKS = 8
_MOST_COMPARED = 2000
"""Picks whose nearest ones are sought; of more, these are sample enough."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class UsableArea:
    """Which parts of a micrograph are usable, on a coarse grid."""

    junk: NDArray[np.bool_]
    """(h', w') whether each coarse pixel is junk."""
    blank: NDArray[np.bool_]
    """(h', w') whether it holds no data."""

    @property
    def usable(self) -> NDArray[np.bool_]:
        """(h', w') whether each coarse pixel is usable."""
        return ~(self.junk | self.blank)

    @property
    def fraction(self) -> float:
        """Of the micrograph's area, 0 to 1."""
        return float(self.usable.mean())


def find_usable(pixels: NDArray[np.generic], diameter_px: float, outlines: Outlines = ()) -> UsableArea:
    """The usable area of a micrograph.

    Args:
        pixels: (h, w) micrograph.
        diameter_px: of the particle, in its pixels.
        outlines: of junk, corners y, x in its pixels; what lies inside an odd number of them is junk.
    """
    h, w = pixels.shape
    step = max(1.0, diameter_px / _STEPS_PER_DIAMETER, max(h, w) / _LONGEST_SIDE)
    shape = max(1, round(h / step)), max(1, round(w / step))
    junk = np.zeros(shape, np.uint8)
    scale = 1 << _SUBPIXEL_BITS
    drawn = [
        np.rint(((np.array(outline, np.float64)[:, ::-1] + 0.5) / step - 0.5) * scale).astype(np.int32)
        for outline in outlines
        if len(outline) >= 3
    ]
    if drawn:
        cv2.fillPoly(junk, drawn, 1, shift=_SUBPIXEL_BITS)  # even-odd, as the outlines are meant
    blank = np.zeros(shape, bool)
    if (found := find_blank(pixels, diameter_px)) is not None:
        blank = cv2.resize(found.samples.astype(np.uint8), shape[::-1], interpolation=cv2.INTER_NEAREST) > 0
    return UsableArea(junk=junk > 0, blank=blank)


def perimeter_px(shape: tuple[int, int], outlines: Outlines) -> float:
    """Length of the edges of the usable area: those of an (h, w) micrograph, and those of junk."""
    return 2.0 * sum(shape) + sum(outline_length(outline) for outline in outlines)


def clumping(y: NDArray[np.float64], x: NDArray[np.float64], *, area_px: float, perimeter_px: float) -> float | None:
    """Mean distance from a pick to the nearest other one over that of as many scattered at random.

    After Clark and Evans, Ecology 35, 445 (1954), with the correction for edges of Donnelly (Simulation methods in
    archaeology, in Hodder (ed.), Simulation studies in archaeology, 1978, 91). Below 1 they clump; picks that keep a
    distance lie somewhat above 1.

    Args:
        y: (n,) rows, in pixels.
        x: (n,) columns, likewise.
        area_px: area on which they may lie, in square pixels.
        perimeter_px: length of its edges, in pixels.

    Returns:
        None for fewer than 8 picks, or without an area.
    """
    n = y.size
    if n < _FEWEST_PICKS or area_px <= 0:
        return None
    expected = 0.5 * math.sqrt(area_px / n) + (0.0514 + 0.041 / math.sqrt(n)) * perimeter_px / n
    return _mean_nearest(y, x) / expected


def _mean_nearest(y: NDArray[np.float64], x: NDArray[np.float64]) -> float:
    """Mean distance of picks to their nearest others."""
    every = max(1, math.ceil(y.size / _MOST_COMPARED))
    nearest = []
    for i in range(0, y.size, every):
        squared = np.square(y - y[i]) + np.square(x - x[i])
        squared[i] = np.inf
        nearest.append(squared.min())
    return float(np.sqrt(nearest).mean())


def outline_length(outline: Sequence[tuple[float, float]]) -> float:
    """Of a closed outline, in pixels."""
    return sum(math.dist(a, b) for a, b in zip(outline, (*outline[1:], *outline[:1]), strict=True))
