"""One simulated micrograph: specimen, microscope and detector."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import cv2
import mrcfile
import numpy as np
from numpy.typing import NDArray
from scipy import fft

from frazil.files import write_atomically
from frazil.picking.picks import Picks
from frazil_trainer.simulate.ctf import (
    ContrastTransfer,
    interaction_rad_per_volt_angstrom,
    wavelength_angstrom,
)
from frazil_trainer.simulate.density import DensityModel
from frazil_trainer.simulate.exposure import count_electrons, form_contrast
from frazil_trainer.simulate.imaginary import IMAGINARY, imagine_molecule
from frazil_trainer.simulate.molecules import MODEL_NAMES, density_model
from frazil_trainer.simulate.scene import CarbonFilm, Contamination, Frame
from frazil_trainer.simulate.settings import SimulationSettings
from frazil_trainer.simulate.specimen import draw_specimen, lay_junk, lay_noise, lay_phase, lay_transmission
from frazil_trainer.simulate.surroundings import Surroundings

__all__ = [
    "JUNK_ENDING",
    "SimulatedMicrograph",
    "series_seed",
    "simulate_micrograph",
    "write_junk",
    "write_micrograph",
    "write_pixels",
]

JUNK_ENDING = ".junk.png"
"""Of the mask beside a micrograph, which says what lies at each pixel as `SimulatedMicrograph.junk` does."""

_DELOCALISATION_RESOLUTION_ANGSTROM = 6.0
"""Finer detail beyond the border of the micrograph is left out."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class SimulatedMicrograph:
    """A micrograph and its contents."""

    pixels: NDArray[np.float32]
    """(h, w) float32 counts; integers if the detector does not blur its noise."""
    truth: Picks
    """Projected centres of mass inside the micrograph; score 1."""
    model: str
    """Name of the molecule."""
    diameter_angstrom: float
    """Diameter of the molecule."""
    pixel_size_angstrom: float
    """Side of a pixel on the specimen."""
    transfer: ContrastTransfer
    """Defocus, astigmatism, and what else the microscope did."""
    dose_e_per_a2: float
    """Electrons per Å²."""
    carbon: CarbonFilm | None
    """The carbon film, if its edge crosses the micrograph."""
    contamination: tuple[Contamination, ...]
    """Ice crystals and dirt; they may lie on the film, or partly outside."""
    junk: NDArray[np.uint8]
    """(h, w) what of `JUNK_KINDS` lies at each pixel, counted from 1; 0 where there is none."""

    @property
    def defocus_um(self) -> float:
        """Mean underfocus."""
        return (self.transfer.defocus_u_angstrom + self.transfer.defocus_v_angstrom) / 2e4


def series_seed(seed: int, index: int) -> np.random.SeedSequence:
    """The seed of micrograph `index` of the series of `seed`, as `SeedSequence(seed).spawn` would give it."""
    return np.random.SeedSequence(seed, spawn_key=(index,))


def simulate_micrograph(
    settings: SimulationSettings,
    seed: int | np.random.SeedSequence,
    molecule: DensityModel | None = None,
    surroundings: Surroundings | None = None,
) -> SimulatedMicrograph:
    """Simulate one micrograph; the same settings and seed always give the same one.

    Projected potentials of molecules, film and dirt and the noise of amorphous matter add up to the phase φ of
    the specimen. Contrast is 2 φ ⊗ CTF (weak phase). Counts are Poisson around dose · transmission ·
    (1 + contrast).

    Args:
        settings: description of the micrograph.
        seed: an integer, or a seed sequence, which stays unchanged.
        molecule: of the particles. Default: that of the settings.
        surroundings: what lies around the particles beside film and dirt. Default: nothing.
    """
    rng = np.random.default_rng(seed)
    model = molecule or _draw_molecule(settings, rng)
    pixel_size = settings.pixel_size_angstrom
    transfer = _draw_transfer(settings, rng)
    specimen = draw_specimen(settings, model, surroundings or Surroundings(), rng)

    frame = _padded_frame(settings, model.diameter_angstrom, transfer)
    contrast = form_contrast(
        lay_phase(
            specimen,
            frame,
            pixel_size_angstrom=pixel_size,
            interaction_rad_per_volt_angstrom=interaction_rad_per_volt_angstrom(settings.voltage_kv),
            rng=rng,
        ),
        lay_noise(specimen, frame, pixel_size_angstrom=pixel_size, rng=rng),
        transfer,
        pixel_size_angstrom=pixel_size,
        atom_sigma_angstrom=model.sigma_angstrom,
        ice_noise_rad_angstrom=settings.ice_noise_rad_angstrom,
        ice_sigma_angstrom=settings.ice_sigma_angstrom,
        coarse_noise_rad_angstrom=rng.uniform(*settings.coarse_noise_range_rad_angstrom),
        # The part of the blur, in variance, that does not act on the noise.
        blur_px=settings.detector_blur_px * float(np.sqrt(1 - settings.noise_blur_share)),
        drift_angstrom=settings.drift_angstrom,
    )
    top, left = -frame.origin[0], -frame.origin[1]
    expected = contrast[top : top + settings.shape[0], left : left + settings.shape[1]].copy()
    del contrast
    expected *= np.float32(rng.uniform(*settings.elastic_share_range))
    expected += 1
    clear = Frame(origin=(0, 0), shape=settings.shape)
    expected *= lay_transmission(specimen, clear, ice_gradient=settings.ice_gradient, rng=rng)
    expected *= np.float32(settings.dose_e_per_a2 * pixel_size**2)
    pixels = count_electrons(
        expected, spread_px=settings.detector_blur_px * float(np.sqrt(settings.noise_blur_share)), rng=rng
    )

    centres = specimen.centres
    seen = np.all((centres >= 0) & (centres <= np.array(settings.shape) - 1), axis=1)
    return SimulatedMicrograph(
        pixels=pixels,
        truth=Picks(y=centres[seen, 0], x=centres[seen, 1], score=np.ones(np.count_nonzero(seen))),
        model=model.name,
        diameter_angstrom=model.diameter_angstrom,
        pixel_size_angstrom=pixel_size,
        transfer=transfer,
        dose_e_per_a2=settings.dose_e_per_a2,
        carbon=specimen.carbon,
        contamination=specimen.contamination,
        junk=lay_junk(specimen, clear, pixel_size_angstrom=pixel_size),
    )


def write_micrograph(path: Path, simulated: SimulatedMicrograph) -> None:
    """Write the pixels as an MRC of mode 2 with the pixel size in its header, in one atomic step.

    The file is written under a temporary name, flushed to disk and renamed.

    Raises:
        OSError: the file cannot be written.
    """
    write_pixels(path, simulated.pixels, simulated.pixel_size_angstrom)


def write_pixels(path: Path, pixels: NDArray[np.float32], pixel_size_angstrom: float) -> None:
    """The same for any pixels, (h, w) float32."""
    aside = path.with_name(f".{path.name}.tmp")
    try:
        with mrcfile.new(aside, overwrite=True) as mrc:
            mrc.set_data(pixels)
            mrc.voxel_size = pixel_size_angstrom
            # mrcfile's own label holds the time: without it, the same seed gives the same bytes.
            mrc.header.nlabl = 0
            mrc.header.label[:] = b""
        with aside.open("rb") as file:
            os.fsync(file.fileno())
        aside.replace(path)
    finally:
        aside.unlink(missing_ok=True)


def write_junk(micrograph: Path, junk: NDArray[np.uint8]) -> None:
    """Write the junk of a micrograph, (h, w) uint8, beside it as ``<stem>.junk.png``.

    Raises:
        OSError: the file cannot be written.
    """
    _, png = cv2.imencode(".png", junk)
    write_atomically(micrograph.with_suffix(JUNK_ENDING), png.tobytes())


def _draw_molecule(settings: SimulationSettings, rng: np.random.Generator) -> DensityModel:
    name = settings.model if settings.model is not None else str(rng.choice(MODEL_NAMES))
    return imagine_molecule(settings.imaginary_diameter_angstrom, rng) if name == IMAGINARY else density_model(name)


def _draw_transfer(settings: SimulationSettings, rng: np.random.Generator) -> ContrastTransfer:
    defocus = 1e4 * rng.uniform(*settings.defocus_range_um)
    astigmatism = 1e4 * rng.uniform(*settings.astigmatism_range_um)
    return ContrastTransfer(
        voltage_kv=settings.voltage_kv,
        cs_mm=settings.cs_mm,
        amplitude_contrast=settings.amplitude_contrast,
        defocus_u_angstrom=defocus + astigmatism / 2,
        defocus_v_angstrom=defocus - astigmatism / 2,
        astigmatism_angle_deg=float(rng.uniform(0, 180)),
        b_factor_a2=float(rng.uniform(*settings.b_factor_range_a2)),
    )


def _padded_frame(settings: SimulationSettings, diameter_angstrom: float, transfer: ContrastTransfer) -> Frame:
    """A frame around the micrograph that holds every particle and keeps the FFT's far side away."""
    # The transfer function displaces detail of spatial frequency s by about λ Δf s.
    resolution = max(_DELOCALISATION_RESOLUTION_ANGSTROM, 2 * settings.pixel_size_angstrom)
    displaced = wavelength_angstrom(settings.voltage_kv) * transfer.defocus_u_angstrom / resolution
    margin = int((diameter_angstrom + displaced) / settings.pixel_size_angstrom) + 4
    height, width = (int(fft.next_fast_len(side + 2 * margin, real=True)) for side in settings.shape)
    return Frame(origin=(-margin, -margin), shape=(height, width))
