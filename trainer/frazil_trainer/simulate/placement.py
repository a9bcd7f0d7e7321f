"""Where particles lie: random centres that mostly keep their distance, away from carbon and contamination."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

__all__ = ["place_particles"]

_Points = NDArray[np.float64]

_ATTEMPTS_PER_PARTICLE = 40
"""A crowded micrograph gets fewer particles than wanted rather than an endless search."""


def place_particles(
    count: int,
    *,
    shape: tuple[int, int],
    rim_px: float,
    distance_px: float,
    overlap_distance_px: float,
    overlap_fraction: float,
    is_free: Callable[[_Points, _Points], NDArray[np.bool_]],
    rng: np.random.Generator,
) -> _Points:
    """Draw centres of particles at random, as many as wanted inside the micrograph where there is room.

    Args:
        count: particles wanted within the micrograph.
        shape: rows and columns of the micrograph.
        rim_px: particles are also placed, equally dense, this far beyond its borders.
        distance_px: least distance between centres.
        overlap_distance_px: least distance of those that may overlap others.
        overlap_fraction: share of those, 0 to 1.
        is_free: tells for y and x, each (n,), which points may hold a particle.
        rng: where randomness comes from.

    Returns:
        (n, 2) float64 centres, columns y, x, in pixels of the micrograph; some lie on the rim outside it. Centres
        within the micrograph are at 0 or above, and at most at the last row and column.
    """
    last = np.array(shape) - 1.0
    placed = np.empty((0, 2))

    def place(wanted: int, candidates: _Points) -> None:
        nonlocal placed
        goal = len(placed) + wanted
        may_overlap = rng.random(goal) < overlap_fraction
        for candidate in candidates[is_free(candidates[:, 0], candidates[:, 1])]:
            if len(placed) == goal:
                break
            least = overlap_distance_px if may_overlap[len(placed)] else distance_px
            apart = placed - candidate
            if not np.any(np.einsum("ij,ij->i", apart, apart) < least * least):
                placed = np.append(placed, candidate[None], axis=0)

    place(count, rng.uniform(0, last, (_ATTEMPTS_PER_PARTICLE * count, 2)))
    # As dense beyond the borders as within.
    on_rim = round(len(placed) * float(np.prod((last + 2 * rim_px) / last) - 1))
    around = rng.uniform(-rim_px, last + rim_px, (_ATTEMPTS_PER_PARTICLE * (count + on_rim), 2))
    place(on_rim, around[np.any((around < 0) | (around > last), axis=1)])
    return placed
