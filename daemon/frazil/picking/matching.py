"""Matching two sets of picks in one micrograph: those of two models, or a model's with known particles."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from frazil.picking.picks import Picks

__all__ = ["HitCount", "hits_gained", "match_picks"]

_ROWS_AT_ONCE = 256


@dataclass(slots=True)
class HitCount:
    """Picks beside known particles, over any number of micrographs."""

    hits: int = 0
    picks: int = 0
    particles: int = 0

    def add(self, picks: Picks, truth: Picks, diameter_px: float) -> None:
        """Count a micrograph; a pick within half a diameter of a particle hits it."""
        self.hits += int((match_picks(picks, truth, diameter_px / 2) >= 0).sum())
        self.picks += len(picks)
        self.particles += len(truth)

    @property
    def f1(self) -> float:
        """Twice the hits over picks and particles, 0 to 1; 1 where there are neither."""
        total = self.picks + self.particles
        return 2 * self.hits / total if total else 1.0


def match_picks(picks: Picks, truth: Picks, max_distance_px: float) -> NDArray[np.intp]:
    """Match picks and particles one to one, nearest pairs first.

    Returns:
        (n,) index of the particle that each pick hit, or -1.
    """
    matched, _ = _match(picks, truth, max_distance_px)
    return matched


def hits_gained(picks: Picks, truth: Picks, max_distance_px: float) -> NDArray[np.bool_]:
    """Which picks, taken one by one in their order, add a hit to the hits of those before them.

    The sum over the first k is the number of hits that `match_picks` gives the first k picks alone: with picks best
    first, one call serves every threshold. Nearest pairs first is the one stable matching of picks and particles that
    all prefer the nearest (Gale and Shapley 1962, American Mathematical Monthly 69, 9-15); in it a new pick may take
    a particle from a farther one, which looks for another, but no hit is ever lost.

    Returns:
        (n,) whether the pick adds a hit.
    """
    _, gained = _match(picks, truth, max_distance_px)
    return gained


def _match(picks: Picks, truth: Picks, max_distance_px: float) -> tuple[NDArray[np.intp], NDArray[np.bool_]]:
    """(n,) particle of each pick or -1, and (n,) whether the pick added a hit to those before it."""
    matched, gained = np.full(len(picks), -1, np.intp), np.zeros(len(picks), bool)
    near = _near_pairs(picks, truth, max_distance_px)
    within_reach: list[list[tuple[int, int]]] = [[] for _ in range(len(picks))]  # rank of the pair, particle
    for rank, (i, j) in enumerate(near.tolist()):
        within_reach[i].append((rank, j))
    untried = [iter(pairs) for pairs in within_reach]
    held: dict[int, tuple[int, int]] = {}  # particle: rank of the pair, pick
    for newcomer in range(len(picks)):
        seeking: int | None = newcomer
        while seeking is not None and (pair := next(untried[seeking], None)):
            rank, j = pair
            holder_rank, holder = held.get(j, (len(near), None))
            if rank < holder_rank:
                held[j], seeking = (rank, seeking), holder
                gained[newcomer] |= holder is None
    for j, (_, i) in held.items():
        matched[i] = j
    return matched, gained


def _near_pairs(picks: Picks, truth: Picks, max_distance_px: float) -> NDArray[np.intp]:
    """(k, 2) pick and particle of every pair that is near enough, nearest first."""
    pairs, distances = [np.zeros((0, 2), np.intp)], [np.zeros(0, np.float64)]
    for start in range(0, len(picks), _ROWS_AT_ONCE):  # in parts, to bound memory
        part = slice(start, start + _ROWS_AT_ONCE)
        distance = np.hypot(picks.y[part, np.newaxis] - truth.y, picks.x[part, np.newaxis] - truth.x)
        i, j = np.nonzero(distance <= max_distance_px)
        pairs.append(np.stack([i + start, j], axis=1))
        distances.append(distance[i, j])
    found = np.concatenate(pairs)
    return found[np.lexsort((found[:, 1], found[:, 0], np.concatenate(distances)))]
