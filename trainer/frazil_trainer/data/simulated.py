"""Simulated micrographs to learn from, made in memory within seconds: what a user has who has no others.

Each is a world of its own: another molecule, microscope and specimen. Their labels are exact.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path

from frazil.errors import MicrographError
from frazil.picking import Micrograph
from frazil_trainer.data.labelled import LabelledMicrograph, lay_labels
from frazil_trainer.recipe import TrainingSet
from frazil_trainer.simulate import series_seed
from frazil_trainer.simulate.worlds import simulate_world

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
        world, name = simulate_world(series_seed(seed, index)), f"world_{index + 1:04d}"
        source = TrainingSet(folder=SIMULATED_FOLDER, diameter_angstrom=world.diameter_angstrom, weight=weight)
        micrograph = Micrograph(path=Path(name), pixels=world.pixels, pixel_size_angstrom=world.pixel_size_angstrom)
        try:
            made.append(
                lay_labels(name, source, micrograph, world.truth, diameter_px=diameter_px, normalisation=normalisation)
            )
        except MicrographError:  # a particle too small to be picked, as may happen: another world takes its place
            continue
        progress(f"simulating {len(made)} of {count}")
    return made
