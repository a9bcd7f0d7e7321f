"""A picture of a micrograph with its picks drawn on it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import cv2
import numpy as np
from numpy.typing import NDArray

from frazil.picking.junk import Outlines
from frazil.picking.picks import Picks
from frazil.picking.rescale import Rescaling, rescale

__all__ = ["contrast_range", "draw_curve", "draw_picks", "grey_picture", "small_picture"]

_CIRCLE_BGR = (60, 220, 255)
_CROSS_BGR = (255, 160, 60)
_JUNK_BGR = (90, 90, 255)
_STRETCH = 4.5
"""Median absolute deviations from the median to black and to white: 3 standard deviations of normal noise."""


_LARGEST_SAMPLE = 2**16
_SAMPLE_STRIDE = 3
"""Of more pixels, every third of every third row tells the contrast as well."""


def draw_picks(
    pixels: NDArray[np.generic],
    picks: Picks,
    diameter_px: float,
    *,
    other: Picks | None = None,
    junk: Outlines = (),
    longest_side_px: int = 1024,
) -> NDArray[np.uint8]:
    """Draw picks as circles on a micrograph, contrast stretched, and the outlines of its junk.

    Args:
        pixels: (h, w) micrograph.
        picks: drawn as yellow circles of the particle's diameter.
        diameter_px: of the particle, in pixels of the micrograph.
        other: drawn as small blue crosses: a truth to compare with.
        junk: corners y, x in pixels of the micrograph, drawn as red lines.
        longest_side_px: size of the picture.

    Returns:
        (h', w', 3) uint8 picture, channels in OpenCV's order (blue, green, red).
    """
    factor = min(1.0, longest_side_px / max(pixels.shape))
    picture = cv2.cvtColor(grey_picture(pixels, diameter_px, longest_side_px=longest_side_px), cv2.COLOR_GRAY2BGR)
    bits = 4  # fixed-point fraction, so that circles sit at sub-pixel centres
    for outline in junk:
        corners = ((np.array(outline, np.float64)[:, ::-1] + 0.5) * factor - 0.5) * 2**bits
        cv2.polylines(picture, [np.rint(corners).astype(np.int32)], True, _JUNK_BGR, 2, cv2.LINE_AA, bits)
    radius = max(2.0, diameter_px * factor / 2)
    for y, x in _positions(picks, factor):
        centre = (round(x * 2**bits), round(y * 2**bits))
        cv2.circle(picture, centre, round(radius * 2**bits), _CIRCLE_BGR, 1, cv2.LINE_AA, bits)
    if other is not None:
        for y, x in _positions(other, factor):
            cv2.drawMarker(picture, (round(x), round(y)), _CROSS_BGR, cv2.MARKER_CROSS, max(5, round(radius * 0.7)))
    return np.asarray(picture, np.uint8)


def draw_curve(
    points: Sequence[tuple[float, float]], span: tuple[float, float], shape: tuple[int, int]
) -> NDArray[np.uint8]:
    """Draw a curve over the logarithm of its abscissa.

    Args:
        points: abscissa above 0 and ordinate from 0 to 1, at least two.
        span: part of the abscissa that is shaded.
        shape: (h, w) of the picture.

    Returns:
        (h, w, 3) uint8 picture, channels in OpenCV's order (blue, green, red).
    """
    h, w = shape
    edge = 40
    picture = np.full((h, w, 3), 24, np.uint8)
    across, up = (np.array(values, np.float64) for values in zip(*points, strict=True))

    def place(at: NDArray[np.float64], height: NDArray[np.float64]) -> NDArray[np.int32]:
        fraction = np.log(at / across[0]) / np.log(across[-1] / across[0])
        rows = h - edge - np.clip(height, 0, 1) * (h - 2 * edge)
        columns = edge + np.clip(fraction, 0, 1) * (w - 2 * edge)
        return np.asarray(np.rint(np.stack([columns, rows], 1)), np.int32)

    (left, bottom), (right, top) = place(np.array(span), np.array([0.0, 1.0])).tolist()
    cv2.rectangle(picture, (left, top), (right, bottom), (56, 56, 56), cv2.FILLED)
    cv2.rectangle(picture, (edge, edge), (w - edge, h - edge), (160, 160, 160), 1)
    cv2.polylines(picture, [place(across, up)], False, _CIRCLE_BGR, 2, cv2.LINE_AA)
    for label, (x, y) in zip(across[::2], place(across, np.zeros_like(across))[::2].tolist(), strict=True):
        cv2.putText(picture, f"{label:.0f}", (x - 14, y + 20), cv2.FONT_HERSHEY_SIMPLEX, 0.45, (220, 220, 220), 1)
    return picture


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
    return _stretch(np.asarray(cv2.GaussianBlur(small, (0, 0), max(0.3, diameter_px * factor / 25)), np.float32))


def small_picture(pixels: NDArray[np.float32], *, longest_side_px: int) -> NDArray[np.uint8]:
    """(h, w) picture at any scale → (h', w') uint8 picture that is no larger, contrast stretched."""
    factor = min(1.0, longest_side_px / max(pixels.shape))
    size = max(1, round(pixels.shape[1] * factor)), max(1, round(pixels.shape[0] * factor))
    return _stretch(np.asarray(cv2.resize(pixels, size, interpolation=cv2.INTER_AREA), np.float32))


def _stretch(pixels: NDArray[np.float32]) -> NDArray[np.uint8]:
    """(h, w) → (h, w) uint8 picture whose contrast shows what is in it."""
    low, high = contrast_range(pixels)
    return np.asarray(np.clip((pixels - np.float32(low)) * np.float32(255 / (high - low)), 0, 255), np.uint8)


def contrast_range(pixels: NDArray[np.float32]) -> tuple[float, float]:
    """Values of (h, w) pixels that are shown black and white; the second is the larger one.

    By median and median absolute deviation: an ice crystal, or a border of nothing, must not eat the contrast.
    """
    sample = pixels if pixels.size < _LARGEST_SAMPLE else pixels[::_SAMPLE_STRIDE, ::_SAMPLE_STRIDE]
    middle = float(np.median(sample))
    reach = _STRETCH * float(np.median(np.abs(sample - np.float32(middle))))
    reach = max(reach, 1e-30, abs(middle) * 1e-6)
    return middle - reach, middle + reach


def _positions(picks: Picks, factor: float) -> Iterator[tuple[float, float]]:
    """Rows and columns in a picture that is smaller by the factor."""
    for y, x in zip(picks.y.tolist(), picks.x.tolist(), strict=True):
        yield (y + 0.5) * factor - 0.5, (x + 0.5) * factor - 0.5
