"""The exposure: from the phase of the specimen to contrast, and from expected to counted electrons."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import fft

from frazil_trainer.simulate.ctf import ContrastTransfer, gaussian_transfer, motion_transfer, squared_frequencies

__all__ = ["count_electrons", "form_contrast"]

_Array = NDArray[np.float32]

_FFT_WORKERS = 2
_COARSE_SIGMA_ANGSTROM = 15.0
"""Size of the unordered matter that makes coarse noise; by comparison with EMPIAR-10017 and apoferritin."""


def form_contrast(
    phase: _Array,
    noise: _Array,
    transfer: ContrastTransfer,
    *,
    pixel_size_angstrom: float,
    atom_sigma_angstrom: float,
    ice_noise_rad_angstrom: float,
    ice_sigma_angstrom: float,
    coarse_noise_rad_angstrom: float,
    blur_px: float,
    drift_angstrom: tuple[float, float] = (0.0, 0.0),
) -> _Array:
    """Contrast 2 φ ⊗ CTF of a weak phase, blurred by a Gaussian and by even motion.

    Args:
        phase: (h, w) float32 rad, with molecules as points.
        noise: (h, w) float32 white noise of 1 rad Å.
        transfer: the microscope.
        pixel_size_angstrom: side of a pixel.
        atom_sigma_angstrom: the Gaussian shape of each point in `phase`.
        ice_noise_rad_angstrom: strength of `noise` as noise of ice.
        ice_sigma_angstrom: the Gaussian blur of that.
        coarse_noise_rad_angstrom: strength of `noise` as noise of coarser unordered matter.
        blur_px: the Gaussian blur of the contrast.
        drift_angstrom: y, x by which the specimen moves during the exposure, evenly.

    Returns:
        (h, w) float32 contrast; its borders wrap around like those of the input.
    """
    s2 = squared_frequencies(phase.shape, pixel_size_angstrom)
    wave = fft.rfft2(phase, workers=_FFT_WORKERS)
    wave *= gaussian_transfer(s2, atom_sigma_angstrom)
    shape = np.float32(ice_noise_rad_angstrom) * gaussian_transfer(s2, ice_sigma_angstrom)
    shape += np.float32(coarse_noise_rad_angstrom) * gaussian_transfer(s2, _COARSE_SIGMA_ANGSTROM)
    noise_wave = fft.rfft2(noise, workers=_FFT_WORKERS)
    noise_wave *= shape
    wave += noise_wave
    del noise_wave, shape
    wave *= transfer.evaluate(phase.shape, pixel_size_angstrom)
    wave *= gaussian_transfer(s2, blur_px * pixel_size_angstrom)
    if any(drift_angstrom):
        wave *= motion_transfer(phase.shape, pixel_size_angstrom, drift_angstrom)
    contrast: _Array = fft.irfft2(wave, phase.shape, overwrite_x=True, workers=_FFT_WORKERS)
    contrast *= 2
    return contrast


def count_electrons(expected: _Array, *, spread_px: float, rng: np.random.Generator) -> _Array:
    """Draw Poisson counts and let each electron's charge spread over pixels by a Gaussian.

    The spread blurs signal and shot noise alike. Blur of the signal alone, by electrons counted in the wrong pixel,
    belongs into `expected`.

    Args:
        expected: (h, w) float32 expected counts; below 0 counts as 0.
        spread_px: standard deviation of the spread; 0 keeps the counts integers.
        rng: generator.

    Returns:
        (h, w) float32 counts.
    """
    counts = np.empty_like(expected)
    # In blocks, since numpy's counts take twice the memory of ours.
    rows_at_once = max(1, 2**20 // expected.shape[1])
    for top in range(0, len(expected), rows_at_once):
        rows = slice(top, top + rows_at_once)
        counts[rows] = rng.poisson(np.maximum(expected[rows], 0))
    if not spread_px:
        return counts
    wave = fft.rfft2(counts, workers=_FFT_WORKERS)
    wave *= gaussian_transfer(squared_frequencies(counts.shape, 1.0), spread_px)
    spread: _Array = fft.irfft2(wave, counts.shape, overwrite_x=True, workers=_FFT_WORKERS)
    return spread
