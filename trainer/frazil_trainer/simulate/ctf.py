"""The microscope: electron wavelength, strength of interaction, contrast transfer function."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import fft

__all__ = [
    "ContrastTransfer",
    "gaussian_transfer",
    "interaction_rad_per_volt_angstrom",
    "motion_transfer",
    "squared_frequencies",
    "wavelength_angstrom",
]

_REST_ENERGY_KV = 510.99895
"""Rest energy of the electron over its charge."""
_ANGSTROM_PER_MM = 1e7


def wavelength_angstrom(voltage_kv: float) -> float:
    """The relativistic wavelength of an electron, in Å.

    λ = h c / √(eV (2 m c² + eV)), with h c = 12.398 keV Å; 0.0197 Å at 300 kV.
    Source: E. J. Kirkland, Advanced Computing in Electron Microscopy, 2nd ed. (2010), equation 2.5.
    """
    return float(12.398419843 / np.sqrt(voltage_kv * (2 * _REST_ENERGY_KV + voltage_kv)))


def interaction_rad_per_volt_angstrom(voltage_kv: float) -> float:
    """The phase that an electron gains per projected potential, in rad/(V Å); 6.5e-4 at 300 kV.

    σ = 2π / (λ V) · (m c² + eV) / (2 m c² + eV).
    Source: E. J. Kirkland, Advanced Computing in Electron Microscopy, 2nd ed. (2010), equation 5.6.
    """
    relativistic = (_REST_ENERGY_KV + voltage_kv) / (2 * _REST_ENERGY_KV + voltage_kv)
    return 2 * np.pi / (wavelength_angstrom(voltage_kv) * voltage_kv * 1e3) * relativistic


def squared_frequencies(shape: tuple[int, int], pixel_size_angstrom: float) -> NDArray[np.float32]:
    """(h, w // 2 + 1) float32 squared spatial frequencies in 1/Å², in the order of `scipy.fft.rfft2`."""
    fy, fx = _frequencies(shape, pixel_size_angstrom)
    squared: NDArray[np.float32] = fy * fy + fx * fx
    return squared


def gaussian_transfer(s2: NDArray[np.float32], sigma_angstrom: float) -> NDArray[np.float32]:
    """The transform exp(−2π²σ²s²) of a Gaussian of unit sum, at squared frequencies in 1/Å²."""
    transfer: NDArray[np.float32] = np.exp(np.float32(-2 * np.pi**2 * sigma_angstrom**2) * s2)
    return transfer


def motion_transfer(
    shape: tuple[int, int], pixel_size_angstrom: float, motion_angstrom: tuple[float, float]
) -> NDArray[np.float32]:
    """(h, w // 2 + 1) float32 transform of even motion by y, x: sin(π s·m) / (π s·m)."""
    fy, fx = _frequencies(shape, pixel_size_angstrom)
    transfer: NDArray[np.float32] = np.sinc(np.float32(motion_angstrom[0]) * fy + np.float32(motion_angstrom[1]) * fx)
    return transfer


@dataclass(frozen=True, slots=True, kw_only=True)
class ContrastTransfer:
    """How the microscope turns the phase of the specimen into contrast.

    The function is CTF(s) = −sin(χ(s) + asin A) · exp(−B s² / 4), with
    χ(s, α) = π λ s² (Δf(α) − ½ λ² s² Cs) and
    Δf(α) = ½ (U + V + (U − V) cos 2(α − angle)).
    Source: A. Rohou and N. Grigorieff, CTFFIND4, J. Struct. Biol. 192 (2015) 216, equations 1 to 4.

    Contrast is 2 φ ⊗ CTF for a weak phase φ. Underfocus is positive, so protein is darker
    than the ice around it.
    """

    voltage_kv: float
    cs_mm: float
    """Spherical aberration."""
    amplitude_contrast: float
    """Fraction A of amplitude contrast."""
    defocus_u_angstrom: float
    """Underfocus along the axis of astigmatism."""
    defocus_v_angstrom: float
    """Underfocus across it."""
    astigmatism_angle_deg: float = 0.0
    """From the x axis (columns) towards the y axis (rows)."""
    b_factor_a2: float = 0.0
    """Decay of the envelope."""

    def evaluate(self, shape: tuple[int, int], pixel_size_angstrom: float) -> NDArray[np.float32]:
        """(h, w // 2 + 1) float32 transfer at the frequencies of `scipy.fft.rfft2` of an (h, w) array."""
        fy, fx = _frequencies(shape, pixel_size_angstrom)
        s2 = fy * fy + fx * fx
        # s² cos 2(α − angle), without the angle α of each pixel.
        turn = np.deg2rad(2 * self.astigmatism_angle_deg)
        s2_cos = np.float32(np.cos(turn)) * (fx * fx - fy * fy) + np.float32(2 * np.sin(turn)) * (fy * fx)
        wavelength = wavelength_angstrom(self.voltage_kv)
        mean = np.float32(np.pi * wavelength * (self.defocus_u_angstrom + self.defocus_v_angstrom) / 2)
        half_difference = np.float32(np.pi * wavelength * (self.defocus_u_angstrom - self.defocus_v_angstrom) / 2)
        spherical = np.float32(np.pi / 2 * wavelength**3 * self.cs_mm * _ANGSTROM_PER_MM)
        phase = mean * s2 + half_difference * s2_cos - spherical * s2 * s2
        phase += np.float32(np.arcsin(self.amplitude_contrast))
        transfer: NDArray[np.float32] = -np.sin(phase)
        if self.b_factor_a2:
            transfer *= np.exp(np.float32(-self.b_factor_a2 / 4) * s2)
        return transfer


def _frequencies(shape: tuple[int, int], pixel_size_angstrom: float) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """(h, 1) and (1, w // 2 + 1) frequencies in 1/Å along y and x."""
    fy = fft.fftfreq(shape[0], pixel_size_angstrom).astype(np.float32)[:, None]
    fx = fft.rfftfreq(shape[1], pixel_size_angstrom).astype(np.float32)[None, :]
    return fy, fx
