"""A picture of a micrograph with its picks drawn on it."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from frazil.picking.picks import Picks

__all__ = ["draw_picks"]

_CIRCLE_BGR = (60, 220, 255)
_OTHER_BGR = (255, 120, 60)


def draw_picks(
    pixels: NDArray[np.float32],
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
        other: drawn as smaller blue circles: a truth to compare with.
        longest_side_px: size of the picture.

    Returns:
        (h', w', 3) uint8 picture, channels in OpenCV's order (blue, green, red).
    """
    h, w = pixels.shape
    factor = min(1.0, longest_side_px / max(h, w))
    size = (max(1, round(w * factor)), max(1, round(h * factor)))
    small = cv2.resize(pixels, size, interpolation=cv2.INTER_AREA)
    small = cv2.GaussianBlur(small, (0, 0), max(0.3, diameter_px * factor / 25))
    low, high = np.percentile(small, [0.5, 99.5])
    stretched = np.clip((small - low) * (255 / max(high - low, 1e-30)), 0, 255).astype(np.uint8)
    picture = cv2.cvtColor(stretched, cv2.COLOR_GRAY2BGR)
    radius = diameter_px * factor / 2
    _circles(picture, picks, factor, radius, _CIRCLE_BGR)
    if other is not None:
        _circles(picture, other, factor, radius * 0.4, _OTHER_BGR)
    return np.asarray(picture, np.uint8)


def _circles(
    picture: cv2.typing.MatLike, picks: Picks, factor: float, radius: float, colour: tuple[int, int, int]
) -> None:
    bits = 4  # fixed-point fraction, so that circles sit at sub-pixel centres
    scale = 2**bits
    for y, x in zip(picks.y.tolist(), picks.x.tolist(), strict=True):
        centre = (round(((x + 0.5) * factor - 0.5) * scale), round(((y + 0.5) * factor - 0.5) * scale))
        cv2.circle(picture, centre, max(scale, round(radius * scale)), colour, 1, cv2.LINE_AA, bits)
