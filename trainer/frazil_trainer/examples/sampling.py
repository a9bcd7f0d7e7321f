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
    return _by_weight(micrographs, [len(one.centres) for one in micrographs])


def micrograph_probabilities(micrographs: Sequence[LabelledMicrograph]) -> NDArray[np.float64]:
    """(n,) probability of each micrograph, with or without particles.

    All micrographs of a training set are equally likely, and sets are as likely as their weights.
    """
    return _by_weight(micrographs, [1] * len(micrographs))


def _by_weight(micrographs: Sequence[LabelledMicrograph], shares: Sequence[int]) -> NDArray[np.float64]:
    """(n,) probabilities that divide the weight of each set by the shares of its micrographs."""
    of_set: dict[str, int] = {}
    for one, share in zip(micrographs, shares, strict=True):
        of_set[one.source.folder] = of_set.get(one.source.folder, 0) + share
    weights = np.array(
        [m.source.weight * share / of_set[m.source.folder] for m, share in zip(micrographs, shares, strict=True)]
    )
    return np.asarray(weights / weights.sum(), np.float64)
