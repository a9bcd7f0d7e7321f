"""How often each micrograph is drawn from, and by which generator.

Every example has a generator of its own, out of the run's seed, the update and its place in the batch. So no state has
to be kept between updates, and it does not matter which process draws which examples.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

from frazil_trainer.data.labelled import LabelledMicrograph

__all__ = ["draw_source", "generators", "set_shares"]


def generators(seed: int, update: int, examples: Iterable[int]) -> list[np.random.Generator]:
    """One generator for each example of an update's batch."""
    return [np.random.default_rng((seed, update, example)) for example in examples]


def draw_source(rng: np.random.Generator, shares: NDArray[np.float64]) -> int:
    """Draw which micrograph to take an example from."""
    return min(int(np.searchsorted(np.cumsum(shares), rng.random(), side="right")), shares.size - 1)


def set_shares(micrographs: Sequence[LabelledMicrograph]) -> NDArray[np.float64]:
    """(n,) probability of each micrograph.

    Every particle of a training set is drawn as often as any other, every set as often as its weight says.
    """
    particles_of_set: dict[str, int] = {}
    for one in micrographs:
        particles_of_set[one.source.folder] = particles_of_set.get(one.source.folder, 0) + len(one.centres)
    shares = np.array([m.source.weight * len(m.centres) / particles_of_set[m.source.folder] for m in micrographs])
    return np.asarray(shares / shares.sum(), np.float64)
