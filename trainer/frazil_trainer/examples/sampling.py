"""How often each micrograph is drawn, and from which generator.

Every example has a generator of its own, seeded by the run's seed, the update and the example's place in the batch. So
nothing needs to be saved between updates, and any process can draw any example.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

from frazil_trainer.data.labelled import LabelledMicrograph

__all__ = ["draw_source", "generators", "micrograph_probabilities", "source_probabilities"]


def generators(seed: int, update: int, examples: Iterable[int]) -> list[np.random.Generator]:
    """One generator for each example of an update's batch."""
    return [np.random.default_rng((seed, update, example)) for example in examples]


def draw_source(rng: np.random.Generator, probabilities: NDArray[np.float64]) -> int:
    """Draw the index of a micrograph."""
    return min(int(np.searchsorted(np.cumsum(probabilities), rng.random(), side="right")), probabilities.size - 1)


def source_probabilities(micrographs: Sequence[LabelledMicrograph]) -> NDArray[np.float64]:
    """(n,) probability of each micrograph.

    All particles of a training set are equally likely, and sets are as likely as their weights.
    """
    particles_of_set: dict[str, int] = {}
    for one in micrographs:
        particles_of_set[one.source.folder] = particles_of_set.get(one.source.folder, 0) + len(one.centres)
    weights = np.array([m.source.weight * len(m.centres) / particles_of_set[m.source.folder] for m in micrographs])
    return np.asarray(weights / weights.sum(), np.float64)


def micrograph_probabilities(micrographs: Sequence[LabelledMicrograph]) -> NDArray[np.float64]:
    """(n,) probability of each micrograph, with or without particles.

    All micrographs of a training set are equally likely, and sets are as likely as their weights.
    """
    count_of_set: dict[str, int] = {}
    for one in micrographs:
        count_of_set[one.source.folder] = count_of_set.get(one.source.folder, 0) + 1
    weights = np.array([m.source.weight / count_of_set[m.source.folder] for m in micrographs])
    return np.asarray(weights / weights.sum(), np.float64)
