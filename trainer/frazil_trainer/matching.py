"""Matching picks with known particles, and the figures that follow."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from frazil.picking import Picks

__all__ = ["Tally", "hits_gained", "match_picks", "tally_matches"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Tally:
    """Hits, misses and false picks; tallies add up."""

    hits: int = 0
    misses: int = 0
    false_picks: int = 0

    def __add__(self, other: Tally) -> Tally:
        return Tally(
            hits=self.hits + other.hits,
            misses=self.misses + other.misses,
            false_picks=self.false_picks + other.false_picks,
        )

    @property
    def precision(self) -> float:
        """Hits among the picks; 0 where there are none."""
        return self.hits / max(1, self.hits + self.false_picks)

    @property
    def recall(self) -> float:
        """Hits among the particles; 0 where there are none."""
        return self.hits / max(1, self.hits + self.misses)

    @property
    def f1(self) -> float:
        """Harmonic mean of precision and recall."""
        return 2 * self.hits / max(1, 2 * self.hits + self.misses + self.false_picks)


def match_picks(picks: Picks, truth: Picks, max_distance_px: float) -> NDArray[np.intp]:
    """Match picks and particles one to one, nearest pairs first.

    Returns:
        (n,) index of the particle that each pick hit, or -1.
    """
    matched, _ = _match(picks, truth, max_distance_px)
    return matched


def hits_gained(picks: Picks, truth: Picks, max_distance_px: float) -> NDArray[np.bool_]:
    """Tell which picks, taken one by one in their order, add a hit to what those before them have.

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
    if len(picks) == 0 or len(truth) == 0:
        return matched, gained
    tree = cKDTree(np.stack([truth.y, truth.x], axis=1))
    near = cKDTree(np.stack([picks.y, picks.x], axis=1)).sparse_distance_matrix(
        tree, max_distance_px, output_type="ndarray"
    )
    near = near[np.lexsort((near["j"], near["i"], near["v"]))]
    within_reach: list[list[tuple[int, int]]] = [[] for _ in range(len(picks))]  # rank of the pair, particle
    for rank, (i, j) in enumerate(zip(near["i"].tolist(), near["j"].tolist(), strict=True)):
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


def tally_matches(matched: NDArray[np.intp], truth_count: int) -> Tally:
    """Count what `match_picks` found."""
    hits = int((matched >= 0).sum())
    return Tally(hits=hits, misses=truth_count - hits, false_picks=matched.size - hits)
