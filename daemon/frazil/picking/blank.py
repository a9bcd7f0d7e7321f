"""Blank areas: parts of a micrograph that hold no data, such as padding, a mask, a beam stop, or bare metal film.

Shot noise is everywhere in a picture of electrons, so a part with hardly any noise is no picture of them. It is told by
its standard deviation in small windows, beside that of the rest of the micrograph.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from frazil.picking.rescale import Rescaling

__all__ = ["MOST_BLANK", "BlankArea", "find_blank"]

MOST_BLANK = 0.95
"""A micrograph with a larger blank fraction is refused."""

_SAMPLES_PER_DIAMETER = 12
_NARROW_DIAMETERS, _NARROW_NOISE = 1.0, 0.2
"""A window of so many diameters with less than this share of the usual noise is blank. It holds a particle."""
_WIDE_DIAMETERS, _WIDE_NOISE = 2.0, 0.5
"""The same for larger windows, whose noise is known better: film that stops most electrons, but not all. Filtered
micrographs have a third of their usual noise in single narrow windows, without being blank there."""
_SUSPECT_NOISE = 0.5
_SMALLEST_WINDOW = 5
_LEAST_COUNTED = 0.5
_USUAL_PERCENTILE = 65
"""Of the windows' noise. Up to a third of the picture may be ice crystals or carbon that are noisier than the ice."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class BlankArea:
    """Where a micrograph holds no data."""

    samples: NDArray[np.bool_]
    """Every `step`-th pixel of every `step`-th row: whether it is blank."""
    step: int

    @property
    def fraction(self) -> float:
        """Of the micrograph, 0 to 1."""
        return float(self.samples.mean())

    def rescaled(self, rescaling: Rescaling) -> NDArray[np.bool_]:
        """(h', w') which pixels of the rescaled picture are blank, or average over some that are."""
        h, w = rescaling.rescaled_shape
        y, x = (
            np.clip(rescaling.to_micrograph(np.arange(n, dtype=np.float64), axis) / self.step, 0, count - 1)
            for axis, (n, count) in enumerate(zip((h, w), self.samples.shape, strict=True))
        )
        near = self.samples[np.rint(y).astype(np.intp)[:, np.newaxis], np.rint(x).astype(np.intp)]
        # The edge lies somewhere between two samples, and a rescaled pixel has a width of its own.
        reach = [int(np.ceil((0.5 * self.step + 0.5) * factor)) for factor in rescaling.factors]
        kernel = np.ones((2 * reach[0] + 1, 2 * reach[1] + 1), np.uint8)
        return cv2.dilate(near.astype(np.uint8), kernel).astype(np.bool_)


def find_blank(pixels: NDArray[np.generic], diameter_px: float) -> BlankArea | None:
    """Find the parts of a micrograph that hold no data; None where there are none.

    Args:
        pixels: (h, w) micrograph.
        diameter_px: of the particle, in its pixels; parts that could not hold one are not looked for.
    """
    step = max(1, int(diameter_px / _SAMPLES_PER_DIAMETER))
    diameter = diameter_px / step
    narrow, wide = (_odd(diameters * diameter) for diameters in (_NARROW_DIAMETERS, _WIDE_DIAMETERS))
    if min(pixels.shape) < narrow * step or not _may_hold_blank(pixels[:: 2 * step, :: 2 * step], _odd(diameter / 2)):
        return None
    samples = pixels[::step, ::step].astype(np.float32)
    levels = _levels(samples)
    noise = _window_noise(levels, narrow)
    square = np.ones((narrow, narrow), np.uint8)
    constant = cv2.erode(samples, square) == cv2.dilate(samples, square)
    constant &= np.isfinite(noise)
    varied = noise[~constant & np.isfinite(noise)]
    if varied.size == 0:
        return None
    usual = _usual(varied)
    blank = _cover(constant | (noise < _NARROW_NOISE * usual), narrow)
    if min(samples.shape) >= wide:
        # Of what is left: windows that reach from a part without any noise into the ice are not blank all over.
        blank |= _cover(_window_noise(levels, wide, without=blank) < _WIDE_NOISE * usual, wide)
    return BlankArea(samples=blank, step=step) if blank.any() else None


def _may_hold_blank(pixels: NDArray[np.generic], side: int) -> bool:
    """Whether to look closely: few micrographs have anything like a blank part, and looking takes its time."""
    if min(pixels.shape) < side:
        return True
    half = side // 2
    noise = _window_noise(_levels(pixels.astype(np.float32)), side)[half:-half, half:-half]
    return bool(noise.min() <= max(_SUSPECT_NOISE * _usual(noise[::2, ::2]), 1e-6 * noise.max()))


def _levels(samples: NDArray[np.float32]) -> NDArray[np.float64]:
    """(h, w) around zero and without hot pixels: these would take the precision of all that is computed in windows."""
    lowest, middle, highest = np.percentile(samples[::2, ::2], (0.05, 50, 99.95))
    return np.clip(samples, lowest, highest).astype(np.float64) - middle


def _usual(noise: NDArray[np.float64]) -> float:
    return float(np.percentile(noise, _USUAL_PERCENTILE))


def _odd(side: float) -> int:
    return max(_SMALLEST_WINDOW, 2 * round((side - 1) / 2) + 1)


def _window_noise(
    levels: NDArray[np.float64], side: int, *, without: NDArray[np.bool_] | None = None
) -> NDArray[np.float64]:
    """(h, w) → (h, w) standard deviation in the window around each place; infinite where that is not whole.

    Places that are left out count in no window; it is infinite, too, where these are half of it or more.
    """
    mean, square = cv2.blur(levels, (side, side)), cv2.blur(levels * levels, (side, side))
    if without is not None and without.any():
        counted = np.where(without, 0.0, 1.0)
        share, mean, square = (cv2.blur(v, (side, side)) for v in (counted, levels * counted, levels**2 * counted))
        share[share <= _LEAST_COUNTED] = np.nan
        mean, square = mean / share, square / share
    half = side // 2
    inside = np.s_[half : levels.shape[0] - half, half : levels.shape[1] - half]
    noise = np.full(levels.shape, np.inf)
    noise[inside] = np.nan_to_num(np.sqrt(np.maximum(square - mean * mean, 0)[inside]), nan=np.inf)
    return noise


def _cover(centres: NDArray[np.bool_], side: int) -> NDArray[np.bool_]:
    """(h, w) windows' centres → (h, w) what the windows cover: up to the very edge of a part that is large enough."""
    return cv2.dilate(centres.astype(np.uint8), np.ones((side, side), np.uint8)).astype(np.bool_)
