"""The power spectrum of a micrograph: averaged over tiles of one size in Å, whatever the pixel size."""

from __future__ import annotations

import math
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

__all__ = ["PowerSpectrum", "measure_spectrum"]

_TILE_ANGSTROM = 800.0
"""Side of a tile: the rings of 3 µm at 4 Å are 2.7 steps of frequency apart."""
_FINEST_ANGSTROM = 3.0
"""Finest detail that is kept."""
_COARSEST_ANGSTROM, _LEAST_STEPS = 30.0, 24
"""So many steps of frequency must lie between this detail and the finest."""
_LARGEST_TILE_PX = 2048
_MOST_TILES = 100
_MOST_MASKED = 0.02
"""Fraction of a tile's area that may be masked."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class PowerSpectrum:
    """The mean power of tiles, as the half plane of frequencies y and x, x ≥ 0.

    Zero frequency is at ``power[len(power) // 2, 0]``. Rows go from negative to positive y, in the order of the
    micrograph's rows.
    """

    power: NDArray[np.float32]
    """(2k + 1, k + 1), above 0. Its mean is 1. The axes hold their neighbours' values, since the readout of a detector
    leaves lines there."""
    step_per_angstrom: float
    """Frequency between two neighbours, in 1/Å."""
    tiles: int
    """That were averaged; half of each overlaps with its neighbours."""

    @property
    def finest_angstrom(self) -> float:
        """The finest detail that it holds."""
        return 1.0 / (self.step_per_angstrom * float(self.power.shape[1] - 1))

    def frequencies(self) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """(2k + 1, 1) and (1, k + 1) frequencies along y and x, in 1/Å."""
        k = self.power.shape[1] - 1
        y = np.arange(-k, k + 1, dtype=np.float32) * np.float32(self.step_per_angstrom)
        return y[:, np.newaxis], y[np.newaxis, k:]

    def radii(self) -> NDArray[np.intp]:
        """(2k + 1, k + 1) distance from zero frequency in steps, rounded; those off the largest circle are k + 1."""
        k = self.power.shape[1] - 1
        steps = np.arange(-k, k + 1, dtype=np.float32)
        r = np.rint(np.hypot(steps[:, np.newaxis], steps[np.newaxis, k:])).astype(np.intp)
        radii: NDArray[np.intp] = np.minimum(r, k + 1)
        return radii

    def rotational_average(self) -> NDArray[np.float64]:
        """(k + 1,) mean power at each distance from zero frequency, in steps."""
        r = self.radii().ravel()
        counts = np.bincount(r)
        return (np.bincount(r, self.power.ravel()) / np.maximum(counts, 1))[: self.power.shape[1]]


def measure_spectrum(
    pixels: NDArray[np.generic], pixel_size_angstrom: float, masked: NDArray[np.bool_] | None = None
) -> PowerSpectrum | None:
    """Average the power of overlapping tiles of about 800 Å, each under a Hann window, down to detail of 3 Å.

    Source of the method: P. D. Welch, IEEE Trans. Audio Electroacoust. 15 (1967) 70. Fine pixels are averaged in blocks
    first. Each tile counts the same whatever its contrast.

    Args:
        pixels: (h, w) micrograph of any real type.
        pixel_size_angstrom: side of a pixel.
        masked: (h, w), or the same shape made smaller, true where pixels are left out: without data, or junk.

    Returns:
        The spectrum; None where no tile has data, or where pixels are too coarse or too few for one.
    """
    bin_px = max(1, int(_FINEST_ANGSTROM / 2 / pixel_size_angstrom))
    shape = (pixels.shape[0] // bin_px, pixels.shape[1] // bin_px)
    side = _tile_px(shape, pixel_size_angstrom * bin_px)
    if not side:
        return None
    step = 1 / (side * pixel_size_angstrom * bin_px)
    k = min(side // 2 - 1, int(1 / (_FINEST_ANGSTROM * step)))
    if k - 1 / (_COARSEST_ANGSTROM * step) < _LEAST_STEPS:
        return None
    window = np.outer(*[np.hanning(side + 1)[:-1].astype(np.float32)] * 2)
    total = np.zeros((2 * k + 1, k + 1), np.float32)
    tiles = 0
    for top, left in _corners(shape, side):
        rows = slice(top * bin_px, (top + side) * bin_px)
        columns = slice(left * bin_px, (left + side) * bin_px)
        is_masked = None if masked is None else _part(masked, pixels.shape, rows, columns)
        if is_masked is not None and is_masked.mean() > _MOST_MASKED:
            continue
        tile = np.asarray(pixels[rows, columns], np.float32)
        if bin_px > 1:
            tile = np.asarray(cv2.resize(tile, (side, side), interpolation=cv2.INTER_AREA), np.float32)
        if is_masked is not None and is_masked.any():
            hidden = cv2.resize(is_masked.astype(np.uint8), (side, side), interpolation=cv2.INTER_NEAREST) > 0
            tile = np.where(hidden, tile[~hidden].mean(), tile)
        with np.errstate(over="ignore", invalid="ignore"):  # such a tile is left out
            power = _power(tile, window, k)
            mean = float(power.mean())
        if 0 < mean < math.inf:
            total += power / np.float32(mean)
            tiles += 1
    if not tiles:
        return None
    return PowerSpectrum(power=np.maximum(total / tiles, np.float32(1e-12)), step_per_angstrom=step, tiles=tiles)


def _tile_px(shape: tuple[int, int], pixel_size_angstrom: float) -> int:
    """The even side of a tile: a length of which the Fourier transform is quick."""
    wanted = min(_TILE_ANGSTROM / pixel_size_angstrom, _LARGEST_TILE_PX, *shape)
    quick = [2**a * 3**b * 5**c for a in range(1, 12) for b in range(7) for c in range(5)]
    return max((one for one in quick if one <= wanted * 1.03 and one <= min(shape)), default=0)


def _corners(shape: tuple[int, int], side: int) -> list[tuple[int, int]]:
    """Upper left corners of tiles that cover a picture and overlap by half; fewer where that would be many."""
    counts = [1 + math.ceil((length - side) / (side / 2)) for length in shape]
    thinned = max(1.0, math.sqrt(counts[0] * counts[1] / _MOST_TILES))
    tops, lefts = (
        np.linspace(0, length - side, max(1, round(count / thinned))).astype(int).tolist()
        for length, count in zip(shape, counts, strict=True)
    )
    return [(top, left) for top in tops for left in lefts]


def _part(masked: NDArray[np.bool_], shape: tuple[int, ...], rows: slice, columns: slice) -> NDArray[np.bool_]:
    """What a mask of any size says of a part of the picture."""
    y, x = masked.shape[0] / shape[0], masked.shape[1] / shape[1]
    return masked[
        int(rows.start * y) : max(int(rows.start * y) + 1, math.ceil(rows.stop * y)),
        int(columns.start * x) : max(int(columns.start * x) + 1, math.ceil(columns.stop * x)),
    ]


def _power(tile: NDArray[np.float32], window: NDArray[np.float32], k: int) -> NDArray[np.float32]:
    """(side, side) tile → (2k + 1, k + 1) power."""
    wave = cv2.dft((tile - tile.mean()) * window)  # packed: real and imaginary parts in turn, from x = 1 on
    half = wave[:, 1 : 2 * k + 1]
    half = np.concatenate([half[-k:], half[: k + 1]])
    half *= half
    power = np.empty((2 * k + 1, k + 1), np.float32)
    np.add(half[:, 0::2], half[:, 1::2], out=power[:, 1:])
    power[:, 0] = power[:, 1]
    power[k, 1:] = (power[k - 1, 1:] + power[k + 1, 1:]) / 2
    power[k - 1 : k + 2, :2] = power[k + 2, 2]
    return power
