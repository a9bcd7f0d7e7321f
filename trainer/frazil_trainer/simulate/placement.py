"""Placement of particles: random centres, mostly at a distance from each other, away from carbon and contamination."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

__all__ = ["place_particles"]

_Points = NDArray[np.float64]

_ATTEMPTS_PER_PARTICLE = 40
"""Limit of the search, so that a crowded micrograph gets fewer particles."""


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
    """Draw centres of particles at random, as many as there is room for.

    Args:
        count: largest number of particles within the micrograph.
        shape: rows and columns of the micrograph.
        rim_px: width of the rim around the micrograph, which gets particles of the same density.
        distance_px: least distance between centres.
        overlap_distance_px: least distance of particles that may overlap others.
        overlap_fraction: fraction of particles that may overlap others.
        is_free: whether each of some points, y and x of shape (n,), may hold a particle.
        rng: generator.

    Returns:
        (n, 2) float64 centres, columns y, x, in pixels of the micrograph; some lie on the rim outside it. Centres
        within the micrograph are at 0 or above, and at most at the last row and column.
    """
    last = np.array(shape) - 1.0
    placed = np.empty((0, 2))

    def place(more: int, candidates: _Points) -> None:
        nonlocal placed
        goal = len(placed) + more
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
