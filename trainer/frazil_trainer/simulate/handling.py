"""What becomes of a micrograph after the exposure: bad pixels, padding, other programs' filters and binning.

Every function takes (h, w) float32 pixels and gives as many, or fewer.
"""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

__all__ = ["draw_handling"]

_Array = NDArray[np.float32]


def draw_handling(pixels: _Array, diameter_px: float, rng: np.random.Generator) -> tuple[_Array, float]:
    """Handle a micrograph as some programs and people do.

    Most are left alone; some are filtered, binned or cut to eight bits, some have bad pixels or padding.

    Args:
        pixels: counts.
        diameter_px: of the particle.
        rng: generator.

    Returns:
        The pixels, and how many new pixels there are along one old one (1 or less).
    """
    factor = 1.0
    if rng.random() < 0.25:
        factor = float(rng.uniform(0.5, 0.95))
        pixels = _interpolated(pixels, factor)
    if rng.random() < 0.25:
        pixels = _with_bad_pixels(pixels, rng)
    if rng.random() < 0.3:
        pixels = _filtered(pixels, diameter_px * factor, rng)
    if rng.random() < 0.2:
        pixels = _in_eight_bits(pixels, equalised=rng.random() < 0.5)
    if rng.random() < 0.1:
        pixels = _padded(pixels, rng)
    return pixels, factor


def _interpolated(pixels: _Array, factor: float) -> _Array:
    """Binned by linear interpolation, which folds noise beyond Nyquist back; by means where it is half or less."""
    size = (round(pixels.shape[1] * factor), round(pixels.shape[0] * factor))
    return np.asarray(cv2.resize(pixels, size, interpolation=cv2.INTER_LINEAR), np.float32)


def _with_bad_pixels(pixels: _Array, rng: np.random.Generator) -> _Array:
    """Hot and dead pixels, and perhaps a bad column."""
    pixels = pixels.copy()
    count = int(rng.integers(1, 60))
    rows, columns = (rng.integers(0, n, count) for n in pixels.shape)
    mean, spread = float(pixels.mean()), float(pixels.std())
    pixels[rows, columns] = np.where(rng.random(count) < 0.6, mean + spread * rng.uniform(8, 60, count), 0)
    if rng.random() < 0.2:
        column = int(rng.integers(pixels.shape[1]))
        pixels[:, column] += np.float32(rng.normal(0, 1.5) * spread)
    return pixels


def _filtered(pixels: _Array, diameter_px: float, rng: np.random.Generator) -> _Array:
    """A low pass, a high pass, or both."""
    which = rng.integers(3)
    if which != 1:
        sigma = diameter_px * float(np.exp(rng.uniform(np.log(0.02), np.log(0.09))))
        pixels = np.asarray(cv2.GaussianBlur(pixels, (0, 0), sigma), np.float32)
    if which != 0:
        coarse = np.asarray(cv2.GaussianBlur(pixels, (0, 0), diameter_px * rng.uniform(0.8, 3.0)), np.float32)
        pixels = pixels - coarse
    filtered: _Array = pixels
    return filtered


def _in_eight_bits(pixels: _Array, *, equalised: bool) -> _Array:
    """As an 8-bit picture, with its contrast equalised locally or not (CLAHE, Zuiderveld, Graphics Gems IV (1994))."""
    low, high = np.percentile(pixels[::3, ::3], (0.1, 99.9))
    grey = np.clip((pixels - low) * (255 / max(float(high - low), 1e-12)), 0, 255).astype(np.uint8)
    if equalised:
        grey = np.asarray(cv2.createCLAHE(2.0, (8, 8)).apply(grey))
    levels: _Array = grey.astype(np.float32)
    return levels


def _padded(pixels: _Array, rng: np.random.Generator) -> _Array:
    """With one or two sides flat, as motion correction and padding leave them."""
    pixels = pixels.copy()
    value = np.float32(pixels.mean() if rng.random() < 0.6 else 0)
    for side in rng.choice(4, int(rng.integers(1, 3)), replace=False):
        turned = np.rot90(pixels, side)  # a view
        turned[: round(len(turned) * rng.uniform(0.02, 0.25))] = value
    return pixels
