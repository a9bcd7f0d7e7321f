"""How often each micrograph is drawn from."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from frazil_trainer.labelled import LabelledMicrograph

__all__ = ["set_shares"]


def set_shares(micrographs: Sequence[LabelledMicrograph]) -> NDArray[np.float64]:
    """(n,) probability of each micrograph.

    Every particle of a training set is drawn as often as any other, every set as often as its weight says.
    """
    particles_of_set: dict[str, int] = {}
    for one in micrographs:
        particles_of_set[one.source.folder] = particles_of_set.get(one.source.folder, 0) + len(one.centres)
    shares = np.array([m.source.weight * len(m.centres) / particles_of_set[m.source.folder] for m in micrographs])
    return np.asarray(shares / shares.sum(), np.float64)
