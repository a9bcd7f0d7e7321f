"""Junk: where a micrograph shows what no particle can be picked in, as outlines that anyone can apply.

A model says how probable junk is at each place of a coarse picture. The outlines *are* the mask: a place is junk if it
lies inside an odd number of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from frazil.errors import ModelError
from frazil.model import Contrast, MicrographSize
from frazil.model.model import Model
from frazil.picking.micrograph import Micrograph
from frazil.picking.picture import Picture, normalise
from frazil.picking.rescale import Rescaling, rescale

__all__ = ["MOST_CORNERS", "MOST_OUTLINES", "JunkFinder", "JunkMask", "Outlines", "lie_inside", "trace"]

Outlines = Sequence[Sequence[tuple[float, float]]]
"""Closed outlines as corners y, x; what lies inside an odd number of them is meant."""

MOST_OUTLINES, MOST_CORNERS = 200, 5000
"""Of one micrograph, the largest outlines first."""
_LARGEST_DIAMETER_PX = 24.0
"""Of the particle in the picture of such a model: with a larger one it would be no coarse picture."""
_SMALLEST_FRACTION = 0.5
"""Of a particle's area: smaller specks are no junk, and smaller holes no ice."""
_GAP_DIAMETERS = 0.5
_STRAIGHT_PX = 0.25
"""Corners that lie nearer than this to a straight line are left out, in coarse pixels."""
_DECIMALS = 1
_SIDES_AT_ONCE = 256


@dataclass(frozen=True, slots=True, kw_only=True)
class JunkMask:
    """Where the junk of a micrograph is."""

    outlines: list[list[tuple[float, float]]]
    """Corners y, x in pixels of the micrograph, the largest outline first."""
    fraction: float
    """Of the micrograph's area that is junk, 0 to 1."""


class JunkFinder:
    """Finds the junk of micrographs.

    Args:
        model: scores how probable junk is.
        contrast: how particles look in the micrographs.

    Raises:
        ModelError: the model finds something else, or wants a picture that is not coarse.
    """

    def __init__(self, model: Model, contrast: Contrast) -> None:
        contract = model.contract
        contract.check_finds("junk")
        if contract.diameter_px > _LARGEST_DIAMETER_PX:
            raise ModelError(
                f"expected a model of junk for particles of at most {_LARGEST_DIAMETER_PX:g} px, "
                f"found {contract.diameter_px:g} px",
                "contract",
            )
        self.model = model
        self._inverts = contrast != contract.contrast

    def find(self, micrograph: Micrograph, picture: Picture) -> JunkMask:
        """Find the junk.

        Args:
            micrograph: as read.
            picture: as the picker prepared it; says how large the particle is, and what holds no data.

        Raises:
            ModelError: the network gave other than finite scores.
        """
        contract = self.model.contract
        coarse = Rescaling.for_diameter(picture.rescaling.shape, picture.diameter_px, contract.diameter_px)
        blank = None if picture.blank is None else picture.blank.rescaled(coarse)
        pixels = normalise(
            _rescale(micrograph, picture, coarse),
            contract.normalisation,
            contract.diameter_px,
            invert=self._inverts,
            blank=None if picture.blank is None or picture.blank.is_negligible else blank,
        )
        junk = _without_specks(self._score(pixels, picture) >= contract.threshold, contract.diameter_px)
        if blank is not None:
            junk &= ~blank
        outlines = trace(junk)
        fraction = abs(sum(map(_signed_area, outlines))) / junk.size
        return JunkMask(
            outlines=[_in_micrograph(outline, coarse) for outline in outlines],
            fraction=round(min(1.0, fraction), 4),
        )

    def _score(self, pixels: NDArray[np.float32], picture: Picture) -> NDArray[np.float32]:
        """(h, w) coarse picture → (h, w) how probable junk is, straight between the scores."""
        size = MicrographSize(shape=picture.rescaling.shape, diameter_px=picture.diameter_px, margin_px=0.0)
        tiling = self.model.plan(size)
        if tiling is None:  # only a margin leaves nothing
            raise AssertionError("expected a tiling without a margin")
        scores = tiling.assemble(self.model.score_picture(pixels, tiling))
        rows, columns = (
            np.interp(np.arange(n), axis.centres, np.arange(axis.centres.size)).astype(np.float32)
            for n, axis in zip(pixels.shape, (tiling.y, tiling.x), strict=True)
        )
        across, down = np.meshgrid(columns, rows)
        return np.asarray(cv2.remap(scores, across, down, cv2.INTER_LINEAR), np.float32)


def _rescale(micrograph: Micrograph, picture: Picture, coarse: Rescaling) -> NDArray[np.float32]:
    """(h, w) coarse picture of a micrograph, by way of the picker's, which is there and much smaller.

    It is the same whether or not the micrograph was rescaled while it was read.
    """
    finer = picture.rescaling
    if (
        finer.enlarges
        or coarse.enlarges
        or any(n < m for n, m in zip(finer.rescaled_shape, coarse.rescaled_shape, strict=True))
    ):
        return rescale(micrograph.pixels, coarse)
    ahead = micrograph.rescaled
    pixels = ahead.pixels if ahead is not None and ahead.rescaling == finer else rescale(micrograph.pixels, finer)
    return rescale(pixels, Rescaling(shape=finer.rescaled_shape, rescaled_shape=coarse.rescaled_shape))


def _without_specks(junk: NDArray[np.bool_], diameter_px: float) -> NDArray[np.bool_]:
    """(h, w) mask → (h, w) mask whose small gaps are closed, without specks and holes too small to matter."""
    if not junk.any():
        return junk
    side = 2 * round(_GAP_DIAMETERS * diameter_px / 2) + 1
    window = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (side, side))
    closed = cv2.morphologyEx(junk.astype(np.uint8), cv2.MORPH_CLOSE, window)
    least_px = _SMALLEST_FRACTION * np.pi / 4 * diameter_px**2
    for part in (0, 1):  # holes, then specks
        count, labels, statistics, _ = cv2.connectedComponentsWithStats(
            (closed == part).astype(np.uint8), connectivity=4
        )
        small = statistics[:count, cv2.CC_STAT_AREA] < least_px
        small[0] = False  # all else
        closed[small[labels]] = 1 - part
    return np.asarray(closed, np.bool_)


def trace(junk: NDArray[np.bool_]) -> list[NDArray[np.float64]]:
    """(h, w) mask → (n, 2) corners y, x of each outline, in its pixels, the largest first.

    Outlines run along the edges of pixels, and are straightened by so little that every pixel's centre stays on its
    side. There are at most `MOST_OUTLINES`: what is smaller is left out. A hole is smaller than what it is in, so that
    none is left without that. Where they would have more than `MOST_CORNERS` in all, they are straightened by more.
    """
    h, w = junk.shape
    # Pixels, their edges and their corners, of a picture of 2 h + 1 lines: contours then run along edges.
    closed = np.zeros((2 * h + 1, 2 * w + 1), np.uint8)
    closed[1::2, 1::2] = junk
    closed = np.asarray(cv2.dilate(closed, np.ones((3, 3), np.uint8)), np.uint8)
    contours, _ = cv2.findContours(closed, cv2.RETR_LIST, cv2.CHAIN_APPROX_SIMPLE)
    largest = sorted(contours, key=cv2.contourArea, reverse=True)[:MOST_OUTLINES]
    tolerance_px = _STRAIGHT_PX
    while True:
        straightened = (
            np.asarray(cv2.approxPolyDP(one, 2 * tolerance_px, True), np.float64)[:, 0, ::-1] / 2 - 0.5
            for one in largest
        )
        outlines = [one for one in straightened if len(one) >= 3]
        if sum(map(len, outlines)) <= MOST_CORNERS:
            return sorted(outlines, key=lambda one: -abs(_signed_area(one)))
        tolerance_px *= 2


def _in_micrograph(outline: NDArray[np.float64], coarse: Rescaling) -> list[tuple[float, float]]:
    """(n, 2) corners in the coarse picture → corners y, x in the micrograph."""
    y, x = (
        np.round(coarse.to_micrograph(outline[:, axis], axis), _DECIMALS).tolist() for axis in range(outline.shape[1])
    )
    return list(zip(y, x, strict=True))


def _signed_area(outline: NDArray[np.float64]) -> float:
    """Area of (n, 2) corners; that of a hole has the other sign."""
    return float(cv2.contourArea(outline[:, ::-1].astype(np.float32), oriented=True))


def lie_inside(outlines: Outlines, y: NDArray[np.float64], x: NDArray[np.float64]) -> NDArray[np.bool_]:
    """(n,) rows and (n,) columns → (n,) whether each place lies inside an odd number of outlines.

    It does where a ray from it crosses their sides an odd number of times.
    """
    inside = np.zeros(y.size, np.bool_)
    for outline in outlines:
        corners = np.array(outline, np.float64).reshape(-1, 2)
        others = np.roll(corners, -1, axis=0)
        for first in range(0, len(corners), _SIDES_AT_ONCE):
            (y0, x0), (y1, x1) = (part[first : first + _SIDES_AT_ONCE].T for part in (corners, others))
            side, place = np.nonzero((y0[:, np.newaxis] > y) != (y1[:, np.newaxis] > y))
            slope = (x1[side] - x0[side]) * (y[place] - y0[side]) / (y1[side] - y0[side])
            crossed = place[x[place] < slope + x0[side]]
            inside ^= np.bincount(crossed, minlength=y.size) % 2 == 1
    return inside
