"""Blank parts of a micrograph: those that hold no data, such as padding, a mask, a beam stop, or bare metal film.

Shot noise is everywhere in a picture of electrons, so a part with hardly any noise holds no data. Noise is measured by
the differences between neighbouring samples, in small windows, and compared with that of the rest of the micrograph.
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

_NEGLIGIBLE = 0.01
"""A smaller blank fraction changes no statistic of the micrograph, if its levels are not far from those of the rest."""
_SAMPLES_PER_DIAMETER = 12
_NARROW, _NARROW_NOISE = 5, 0.2
"""Side of a window in samples, half a diameter; and the fraction of the usual noise below which it is blank."""
_NARROW_OF_PIXELS = 7
"""Side where every pixel is a sample: the noise of neighbouring pixels is correlated."""
_WIDE, _WIDE_NOISE = 23, 0.5
"""The same for larger windows, whose noise is better known: film that stops most electrons, but not all."""
_EDGE_NOISE = 0.65
"""The same fraction for narrow windows on the edge of such film: half of one, half of the other."""
_LAG = 2
"""Distance, in samples, between two that are compared."""
_LEAST_COUNTED = 0.5
_USUAL_PERCENTILE = 65
"""Of the windows' noise: up to a third of the picture may be ice crystals or carbon, noisier than the ice."""
_LARGEST_SAMPLE = 2**14
_STEP_PERCENTILE, _STEP_NOISE = 80, 4.0
"""A difference of this many times this percentile is a step, perhaps from a blank part to the ice."""
_ROUNDING = 1e-12
"""Fraction of the largest noise that rounding gives to windows without noise."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class BlankArea:
    """Where a micrograph holds no data."""

    samples: NDArray[np.bool_]
    """Every `step`-th pixel of every `step`-th row: whether it is blank."""
    step: int
    is_negligible: bool
    """Whether it changes no statistic of the rest: then the picture is made as if it held data, to the bit."""

    @property
    def fraction(self) -> float:
        """Of the micrograph, 0 to 1."""
        return float(self.samples.mean())

    def rescaled(self, rescaling: Rescaling) -> NDArray[np.bool_]:
        """(h', w') whether each pixel of the rescaled picture is blank, or averages over some that are."""
        y, x = (
            np.clip(rescaling.to_micrograph(np.arange(n, dtype=np.float64), axis) / self.step, 0, count - 1)
            for axis, (n, count) in enumerate(zip(rescaling.rescaled_shape, self.samples.shape, strict=True))
        )
        near = self.samples[np.rint(y).astype(np.intp)[:, np.newaxis], np.rint(x).astype(np.intp)]
        # The edge lies somewhere between two samples, and a rescaled pixel has a width of its own.
        height, width = (2 * int(np.ceil(0.5 * (self.step + 1) * factor)) + 1 for factor in rescaling.factors)
        return _dilate(near, np.ones((height, width), np.uint8))


def find_blank(pixels: NDArray[np.generic], diameter_px: float) -> BlankArea | None:
    """Find the parts of a micrograph that hold no data; None where there are none.

    Args:
        pixels: (h, w) micrograph.
        diameter_px: of the particle, in its pixels; parts narrower than about two thirds of it are not looked for.
    """
    step = max(1, round(diameter_px / _SAMPLES_PER_DIAMETER))
    narrow = _NARROW if step > 1 else _NARROW_OF_PIXELS
    samples = pixels[::step, ::step].astype(np.float32)
    if min(samples.shape) <= narrow + _LAG:
        return None
    differences = np.abs(samples[:-_LAG, _LAG:] - samples[:-_LAG, :-_LAG])
    differences += np.abs(samples[_LAG:, :-_LAG] - samples[:-_LAG, :-_LAG])
    noise = _window_means(differences, narrow)
    usual = _percentile(noise[np.isfinite(noise)], _USUAL_PERCENTILE)
    if np.count_nonzero(noise < _WIDE_NOISE * usual) < _WIDE**2 // 4 and noise.min() > _NARROW_NOISE * usual:
        return None  # as nearly always
    # Windows with a step in them have more than noise, and there are many where blank parts have long edges.
    is_step = differences > _STEP_NOISE * _percentile(differences, _STEP_PERCENTILE)
    usual = _percentile(noise[np.isfinite(noise) & ~_cover(is_step, narrow)], _USUAL_PERCENTILE)
    empty = _cover(noise <= _NARROW_NOISE * usual, narrow)
    # A difference is that of a sample to one below it and one to its right.
    blank = _dilate(np.pad(empty, ((0, _LAG), (0, _LAG))), np.ones((_LAG + 1, _LAG + 1), np.uint8), (_LAG, _LAG))
    if min(samples.shape) > _WIDE + _LAG:
        # Of what is left: windows that reach from an empty part into the ice are not blank all over.
        quiet = _cover(_window_means(differences, _WIDE, without=empty) < _WIDE_NOISE * usual, _WIDE)
        quiet &= cv2.blur(differences, (narrow, narrow)) < _EDGE_NOISE * usual
        blank |= np.pad(quiet, _LAG // 2, mode="edge")
    if not blank.any():
        return None
    return BlankArea(
        samples=blank, step=step, is_negligible=bool(blank.mean() < _NEGLIGIBLE) and not _is_far(samples, blank)
    )


def _percentile(noise: NDArray[np.float32], percent: float) -> float:
    """Percentile of an array of any shape without its values of no noise; 0 if none is left."""
    varied = noise[noise > _ROUNDING * noise.max(initial=0)]
    if varied.size == 0:
        return 0.0
    return float(np.percentile(varied[:: 1 + varied.size // _LARGEST_SAMPLE], percent))


def _is_far(samples: NDArray[np.float32], blank: NDArray[np.bool_]) -> bool:
    """Whether the blank part's levels are so far from the rest that they would spoil the pixels around it."""
    lowest, highest = np.percentile(samples[~blank][::4], (0.05, 99.95))
    reach = highest - lowest
    return bool(samples[blank].min() < lowest - reach or samples[blank].max() > highest + reach)


def _window_means(
    values: NDArray[np.float32], side: int, *, without: NDArray[np.bool_] | None = None
) -> NDArray[np.float32]:
    """(h, w) → (h, w) mean in the window around each place; infinite where the window is not whole.

    Places in `without` count in no window; the mean is also infinite where they are half of the window or more.
    """
    h, w = values.shape
    half = side // 2
    means = np.full((h, w), np.inf, np.float32)
    inside = np.s_[half : h - half, half : w - half]
    if without is None:
        means[inside] = cv2.blur(values, (side, side))[inside]
        return means
    total = cv2.blur(np.where(without, np.float32(0), values), (side, side))[inside]
    counted = cv2.blur((~without).astype(np.float32), (side, side))[inside]
    np.divide(total, counted, out=means[inside], where=counted > _LEAST_COUNTED)
    return means


def _cover(centres: NDArray[np.bool_], side: int) -> NDArray[np.bool_]:
    """(h, w) windows' centres → (h, w) pixels that the windows cover, up to the very edge of a large enough part."""
    return _dilate(centres, np.ones((side, side), np.uint8))


def _dilate(
    places: NDArray[np.bool_], kernel: NDArray[np.uint8], anchor: tuple[int, int] = (-1, -1)
) -> NDArray[np.bool_]:
    return np.asarray(cv2.dilate(places.astype(np.uint8), kernel, anchor=anchor), np.bool_)
