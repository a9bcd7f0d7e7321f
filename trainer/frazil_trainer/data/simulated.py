"""Simulated micrographs to learn from, made in memory within seconds: what a user has who has no others.

Each is a world of its own: another molecule, microscope and specimen. Their labels are exact.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path

import numpy as np

from frazil.errors import MicrographError
from frazil.picking import Micrograph, make_picture
from frazil_trainer.data.labelled import LabelledMicrograph
from frazil_trainer.recipe import TrainingSet
from frazil_trainer.simulate import series_seed
from frazil_trainer.simulate.worlds import World, simulate_world

__all__ = ["SIMULATED_FOLDER", "simulate_labelled"]

SIMULATED_FOLDER = "(simulated)"
"""Stands for the folder of a training set; no folder is so named."""


def simulate_labelled(
    count: int,
    *,
    seed: int,
    diameter_px: float,
    normalisation: str,
    weight: float = 1.0,
    progress: Callable[[str], None] = lambda _: None,
) -> list[LabelledMicrograph]:
    """Simulate labelled micrographs for a model; the same arguments always give the same ones.

    Args:
        count: of micrographs, some of which hold no particle.
        seed: of the series.
        diameter_px: of the particle in the model's pictures.
        normalisation: of the model's pictures, by name.
        weight: of all of them together, as one training set.
        progress: receives a line for each.
    """
    made: list[LabelledMicrograph] = []
    for index in itertools.count():
        if len(made) == count:
            return made
        try:
            made.append(
                _as_labelled(simulate_world(series_seed(seed, index)), index, diameter_px, normalisation, weight)
            )
        except MicrographError:  # a particle too small to be picked, as may happen: another world takes its place
            continue
        progress(f"simulating {len(made)} of {count}")
    return made


def _as_labelled(world: World, index: int, diameter_px: float, normalisation: str, weight: float) -> LabelledMicrograph:
    name = f"world_{index + 1:04d}"
    picture = make_picture(
        Micrograph(path=Path(name), pixels=world.pixels, pixel_size_angstrom=world.pixel_size_angstrom),
        diameter_angstrom=world.diameter_angstrom,
        pixel_size_angstrom=None,
        model_diameter_px=diameter_px,
        normalisation=normalisation,
        invert=False,
    )
    rescaling, truth, blank = picture.rescaling, world.truth, picture.blank
    return LabelledMicrograph(
        name=name,
        picture=picture,
        centres=np.stack([rescaling.to_rescaled(truth.y, 0), rescaling.to_rescaled(truth.x, 1)], axis=1),
        border_px=0.0,
        source=TrainingSet(folder=SIMULATED_FOLDER, diameter_angstrom=world.diameter_angstrom, weight=weight),
        blank=None if blank is None or blank.is_negligible else blank.rescaled(rescaling),
    )
