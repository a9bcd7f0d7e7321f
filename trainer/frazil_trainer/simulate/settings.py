"""Settings of a simulation."""

from __future__ import annotations

import math
from dataclasses import dataclass

from frazil.errors import SettingsError
from frazil_trainer.simulate.imaginary import IMAGINARY
from frazil_trainer.simulate.molecules import MODEL_NAMES

__all__ = ["SimulationSettings"]

_Range = tuple[float, float]

_RANGES = (
    "defocus_range_um",
    "astigmatism_range_um",
    "b_factor_range_a2",
    "elastic_share_range",
    "coverage_range",
    "fragments_per_particle_range",
    "coarse_noise_range_rad_angstrom",
    "contamination_range",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class SimulationSettings:
    """Settings of simulated micrographs. Ranges are drawn from uniformly, for each micrograph.

    Raises:
        SettingsError: a setting is impossible; the message names it, what was expected and what was found.
    """

    shape: tuple[int, int] = (4096, 4096)
    """Rows and columns of the micrograph."""
    pixel_size_angstrom: float = 1.77
    """Side of a pixel on the specimen."""
    model: str | None = None
    """Name of the molecule. For each micrograph, None draws one of `MODEL_NAMES`, and `IMAGINARY` makes a new one."""
    imaginary_diameter_angstrom: float = 180.0
    """Diameter of imaginary molecules."""

    voltage_kv: float = 300.0
    """Acceleration voltage."""
    cs_mm: float = 2.7
    """Spherical aberration of the objective."""
    amplitude_contrast: float = 0.1
    """Fraction of amplitude contrast."""
    defocus_range_um: _Range = (1.2, 2.8)
    """Mean underfocus."""
    astigmatism_range_um: _Range = (0.0, 0.05)
    """Difference between the greatest and the least defocus."""
    b_factor_range_a2: _Range = (100.0, 500.0)
    """Decay of the envelope exp(−B s² / 4): coherence, drift, the thickness of the ice."""
    elastic_share_range: _Range = (0.5, 0.9)
    """Fraction of the contrast that inelastic scattering in thick ice leaves."""

    dose_e_per_a2: float = 40.0
    """Electrons per Å² behind even ice."""
    detector_blur_px: float = 0.5
    """Standard deviation of the Gaussian by which the detector blurs the signal."""
    drift_angstrom: tuple[float, float] = (0.0, 0.0)
    """Even motion y, x of the specimen during the exposure."""
    noise_blur_share: float = 0.2
    """Fraction of that blur, in variance, that also acts on the shot noise."""

    particles_per_micrograph: tuple[int, int] | None = None
    """Least and greatest number of particles; None takes `coverage_range` instead."""
    coverage_range: _Range = (0.06, 0.4)
    """Area of all particles' discs over the area of the micrograph."""
    minimum_distance_diameters: float = 0.85
    """Least distance between centres, in diameters of the molecule."""
    overlap_fraction: float = 0.06
    """Fraction of the particles whose least distance is a third of that."""
    fragments_per_particle_range: _Range = (0.0, 0.5)
    """Broken pieces of the molecule per particle; they do not count as particles."""

    ice_gradient: float = 0.06
    """Greatest relative deviation of the mean counts by thickness of the ice."""
    ice_noise_rad_angstrom: float = 0.06
    """Strength of the phase noise of amorphous ice, in rad Å: rad per pixel of 1 Å."""
    ice_sigma_angstrom: float = 3.0
    """Gaussian blur of that noise, by the motion of water (McMullan, Vinothkumar, Henderson, Ultramicroscopy 158 (2015)
    26). With the default, with which the shipped models' micrographs were made, its rings end at about 10 Å."""
    coarse_noise_range_rad_angstrom: _Range = (0.4, 1.8)
    """Strength in rad Å of the coarser phase noise of denatured protein and other unordered matter."""
    carbon_probability: float = 0.25
    """Probability that the edge of the carbon film crosses the micrograph."""
    contamination_range: tuple[int, int] = (0, 4)
    """Least and greatest number of ice crystals and other dark dirt."""

    def __post_init__(self) -> None:
        self._demand("shape", min(self.shape) >= 64, "two sides of at least 64 pixels")
        known = (*MODEL_NAMES, IMAGINARY)
        self._demand("model", self.model is None or self.model in known, f"one of {', '.join(known)}")
        self._demand(
            "imaginary_diameter_angstrom", 60 <= self.imaginary_diameter_angstrom <= 500, "a number from 60 to 500"
        )
        for name in ("pixel_size_angstrom", "voltage_kv", "dose_e_per_a2", "minimum_distance_diameters"):
            self._demand(name, 0 < getattr(self, name) < math.inf, "a number above 0")
        for name in ("cs_mm", "detector_blur_px", "ice_noise_rad_angstrom", "ice_sigma_angstrom"):
            self._demand(name, 0 <= getattr(self, name) < math.inf, "a number of at least 0")
        for name in ("amplitude_contrast", "overlap_fraction", "carbon_probability", "noise_blur_share"):
            self._demand(name, 0 <= getattr(self, name) <= 1, "a number from 0 to 1")
        self._demand("ice_gradient", 0 <= self.ice_gradient < 0.5, "a number from 0 to below 0.5")
        for name in _RANGES:
            self._demand_range(name, getattr(self, name))
        if self.particles_per_micrograph is not None:
            self._demand_range("particles_per_micrograph", self.particles_per_micrograph)

    def _demand_range(self, name: str, values: tuple[float, float]) -> None:
        ordered = len(values) == 2 and 0 <= values[0] <= values[1] < math.inf
        self._demand(name, ordered, "two numbers of at least 0, the lesser first")

    def _demand(self, name: str, holds: bool, expected: str) -> None:
        if not holds:
            raise SettingsError(f"{name}: expected {expected}, found {getattr(self, name)!r}")
