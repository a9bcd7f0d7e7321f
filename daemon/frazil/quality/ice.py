"""Ice: how thick it is beside the thinnest of the session, and whether it is crystalline."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

__all__ = ["ice_ring", "mean_counts", "relative_ice_thickness"]

_MOST_SAMPLED = 1 << 20
_MOST_NEGATIVE = 0.001
"""Fraction of pixels that interpolation may have taken below no electron."""
_FANO = (0.02, 200.0)
"""Variance over mean of what may be counts: 1 for electrons that are counted, less after interpolation, more where an
electron gives many units, as of an integrating camera."""
_LARGEST_OF_8_BITS = 255

_RING_ANGSTROM = (3.6, 3.95)
"""The strongest rings of hexagonal and of cubic ice lie at 3.90, 3.67 and 3.66 Å (Dubochet et al., Quarterly Reviews of
Biophysics 21, 129, 1988)."""
_BESIDE_ANGSTROM = (4.1, 4.6), (3.3, 3.55)
_FEWEST_BINS = 3


def mean_counts(pixels: NDArray[np.generic], usable: NDArray[np.bool_]) -> float | None:
    """Mean of the pixels where they are counts of electrons.

    Electrons are never fewer than none, and their shot noise has a variance in proportion to their number. A picture
    that was filtered or normalised has a mean near 0, and one of 8 bits was stretched to be looked at.

    Args:
        pixels: (h, w) micrograph, as stored.
        usable: (h', w') whether each pixel of a coarse grid over it counts.

    Returns:
        None where they are no counts, as far as can be told, or nothing is usable.
    """
    h, w = pixels.shape
    every = max(1, math.isqrt(math.ceil(h * w / _MOST_SAMPLED)))
    samples = pixels[::every, : w - 1 : every].astype(np.float64)
    beside = pixels[::every, 1::every][:, : samples.shape[1]].astype(np.float64)
    rows = np.minimum(np.arange(0, h, every) * usable.shape[0] // h, usable.shape[0] - 1)
    columns = np.minimum(np.arange(0, w - 1, every) * usable.shape[1] // w, usable.shape[1] - 1)
    kept = usable[rows[:, np.newaxis], columns]
    samples, beside = samples[kept], beside[kept]
    if samples.size == 0 or np.count_nonzero(samples < 0) > _MOST_NEGATIVE * samples.size:
        return None
    if samples.max() <= _LARGEST_OF_8_BITS and (samples == np.rint(samples)).all():
        return None
    mean = float(samples.mean())
    if mean <= 0:
        return None
    fano = float(np.square(samples - beside).mean()) / 2 / mean
    return mean if _FANO[0] <= fano <= _FANO[1] else None


def relative_ice_thickness(counts: float, thinnest: float) -> float:
    """Thickness of ice beyond that of the thinnest, in mean free paths of the electrons; not below 0.

    Electrons that are scattered inelastically, or far to the side, do not reach a camera behind an energy filter or an
    aperture: what is transmitted falls exponentially with the thickness (Rice et al., Journal of Structural Biology
    204, 38, 2018, who found mean free paths of some 300 to 400 nm at 300 kV). Without a picture of the empty beam,
    thicknesses are known beside each other.

    Args:
        counts: mean counts of the micrograph.
        thinnest: those of the thinnest micrographs of the session, of the same exposure.
    """
    return max(0.0, math.log(thinnest / counts))


def ice_ring(power: NDArray[np.floating], frequency_per_angstrom: NDArray[np.floating]) -> float | None:
    """Strength of the ring of crystalline ice over the spectrum beside it; near 1 where there is none.

    Args:
        power: (n,) rotational average of the power spectrum.
        frequency_per_angstrom: (n,) its spatial frequencies.

    Returns:
        None where the spectrum does not reach it.
    """

    def values(band: tuple[float, float]) -> NDArray[np.floating]:
        shortest, longest = band
        return power[(frequency_per_angstrom >= 1 / longest) & (frequency_per_angstrom <= 1 / shortest)]

    ring, (before, behind) = values(_RING_ANGSTROM), (values(band) for band in _BESIDE_ANGSTROM)
    if min(ring.size, before.size, behind.size) < _FEWEST_BINS:
        return None
    level = 0.5 * float(np.median(before)) + 0.5 * float(np.median(behind))
    return float(ring.max()) / level if level > 0 else None
