"""Simulated micrographs to learn from, made in memory within seconds: what a user has who has no others.

They are small, with molecules of all kinds and sizes at the scale of the model, and their labels are exact.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np

from frazil.picking import Micrograph, make_picture
from frazil_trainer.data.labelled import LabelledMicrograph
from frazil_trainer.recipe import TrainingSet
from frazil_trainer.simulate import (
    IMAGINARY,
    MODEL_NAMES,
    SimulationSettings,
    density_model,
    imagine_molecule,
    series_seed,
    simulate_micrograph,
)

__all__ = ["SIMULATED_FOLDER", "simulate_labelled"]

SIMULATED_FOLDER = "(simulated)"
"""Stands for the folder of a training set; no folder is so named."""

_SIDE_PX = 700
_PIXELS_PER_DIAMETER = 30
_IMAGINARY_FRACTION = 0.5
_DIAMETERS_ANGSTROM = (90.0, 350.0)
_DOSES_E_PER_A2 = (20.0, 60.0)
_COVERAGE = (0.02, 0.5)


def simulate_labelled(
    count: int,
    *,
    seed: int,
    diameter_px: float,
    normalisation: str,
    weight: float = 1.0,
    side_px: int = _SIDE_PX,
    progress: Callable[[str], None] = lambda _: None,
) -> list[LabelledMicrograph]:
    """Simulate labelled micrographs for a model; the same arguments always give the same ones.

    Args:
        count: of micrographs, each with another molecule.
        seed: of the series.
        diameter_px: of the particle in the model's pictures.
        normalisation: of the model's pictures, by name.
        weight: of all of them together, as one training set.
        side_px: of a micrograph, some 30 px for each diameter of its molecule.
        progress: receives a line for each.
    """
    made = []
    for index in range(count):
        one = _simulate_one(seed, index, diameter_px, normalisation, weight, side_px)
        if len(one.centres):
            made.append(one)
        progress(f"simulating {index + 1} of {count}")
    return made


def _simulate_one(
    seed: int, index: int, diameter_px: float, normalisation: str, weight: float, side_px: int
) -> LabelledMicrograph:
    described, drawn = series_seed(seed, index).spawn(2)
    rng = np.random.default_rng(described)
    if rng.random() < _IMAGINARY_FRACTION:
        name = IMAGINARY
        molecule = imagine_molecule(float(np.exp(rng.uniform(*np.log(_DIAMETERS_ANGSTROM)))), rng)
    else:
        name = str(rng.choice(MODEL_NAMES))
        molecule = density_model(name)
    diameter = molecule.diameter_angstrom
    settings = SimulationSettings(
        shape=(side_px, side_px),
        pixel_size_angstrom=diameter / _PIXELS_PER_DIAMETER,
        model=name,
        dose_e_per_a2=float(np.exp(rng.uniform(*np.log(_DOSES_E_PER_A2)))),
        coverage_range=_COVERAGE,
    )
    simulated = simulate_micrograph(settings, drawn, molecule)
    name = f"simulated_{index + 1:04d}"
    micrograph = Micrograph(path=Path(name), pixels=simulated.pixels, pixel_size_angstrom=simulated.pixel_size_angstrom)
    picture = make_picture(
        micrograph,
        diameter_angstrom=diameter,
        pixel_size_angstrom=None,
        model_diameter_px=diameter_px,
        normalisation=normalisation,
        invert=False,
    )
    rescaling, truth = picture.rescaling, simulated.truth
    return LabelledMicrograph(
        name=name,
        picture=picture,
        centres=np.stack([rescaling.to_rescaled(truth.y, 0), rescaling.to_rescaled(truth.x, 1)], axis=1),
        border_px=0.0,
        source=TrainingSet(folder=SIMULATED_FOLDER, diameter_angstrom=diameter, weight=weight),
    )
