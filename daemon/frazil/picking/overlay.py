"""A picture of a micrograph with its picks drawn on it."""

from __future__ import annotations

from collections.abc import Iterator

import cv2
import numpy as np
from numpy.typing import NDArray

from frazil.picking.picks import Picks
from frazil.picking.rescale import Rescaling, rescale

__all__ = ["draw_picks", "grey_picture"]

_CIRCLE_BGR = (60, 220, 255)
_CROSS_BGR = (255, 160, 60)
_STRETCH = 4.5
"""Median absolute deviations from the median to black and to white: 3 standard deviations of normal noise."""


def draw_picks(
    pixels: NDArray[np.generic],
    picks: Picks,
    diameter_px: float,
    *,
    other: Picks | None = None,
    longest_side_px: int = 1024,
) -> NDArray[np.uint8]:
    """Draw picks as circles on a micrograph, contrast stretched.

    Args:
        pixels: (h, w) micrograph.
        picks: drawn as yellow circles of the particle's diameter.
        diameter_px: of the particle, in pixels of the micrograph.
        other: drawn as small blue crosses: a truth to compare with.
        longest_side_px: size of the picture.

    Returns:
        (h', w', 3) uint8 picture, channels in OpenCV's order (blue, green, red).
    """
    factor = min(1.0, longest_side_px / max(pixels.shape))
    picture = cv2.cvtColor(grey_picture(pixels, diameter_px, longest_side_px=longest_side_px), cv2.COLOR_GRAY2BGR)
    bits = 4  # fixed-point fraction, so that circles sit at sub-pixel centres
    radius = max(2.0, diameter_px * factor / 2)
    for y, x in _positions(picks, factor):
        centre = (round(x * 2**bits), round(y * 2**bits))
        cv2.circle(picture, centre, round(radius * 2**bits), _CIRCLE_BGR, 1, cv2.LINE_AA, bits)
    if other is not None:
        for y, x in _positions(other, factor):
            cv2.drawMarker(picture, (round(x), round(y)), _CROSS_BGR, cv2.MARKER_CROSS, max(5, round(radius * 0.7)))
    return np.asarray(picture, np.uint8)


def grey_picture(pixels: NDArray[np.generic], diameter_px: float, *, longest_side_px: int = 1024) -> NDArray[np.uint8]:
    """Make a small picture of a micrograph for people to look at: smoothed a little, contrast stretched.

    Args:
        pixels: (h, w) micrograph.
        diameter_px: of the particle, in pixels of the micrograph.
        longest_side_px: size of the picture; a smaller micrograph keeps its own.

    Returns:
        (h', w') uint8 picture.
    """
    h, w = pixels.shape
    factor = min(1.0, longest_side_px / max(h, w))
    size = max(1, round(h * factor)), max(1, round(w * factor))
    small = rescale(pixels, Rescaling(shape=(h, w), rescaled_shape=size))
    small = np.asarray(cv2.GaussianBlur(small, (0, 0), max(0.3, diameter_px * factor / 25)), np.float32)
    # By median and median absolute deviation: an ice crystal, or a border of nothing, must not eat the contrast.
    middle = np.median(small)
    reach = _STRETCH * max(np.median(np.abs(small - middle)), 1e-30)
    low, high = middle - reach, middle + reach
    return np.asarray(np.clip((small - low) * (255 / max(high - low, 1e-30)), 0, 255), np.uint8)


def _positions(picks: Picks, factor: float) -> Iterator[tuple[float, float]]:
    """Rows and columns in a picture that is smaller by the factor."""
    for y, x in zip(picks.y.tolist(), picks.x.tolist(), strict=True):
        yield (y + 0.5) * factor - 0.5, (x + 0.5) * factor - 0.5
