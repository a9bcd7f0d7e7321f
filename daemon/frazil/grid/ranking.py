"""Which squares promise most particles: the mean of each square's exposures, drawn to the grid's where they are few.

A random-effects model: exposures scatter about the mean of their square, and squares about that of the grid. The
variance between squares is estimated by moments (DerSimonian and Laird, Controlled Clinical Trials 1986), and each
square's mean shrinks by it (Efron and Morris, JASA 1975). A line through the ice of the squares, in place of one mean,
orders simulated sessions no better (``benchmarks/squares.py``): what ice does shows in the particles themselves.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

from frazil.grid.squares import Square

__all__ = [
    "Hindsight",
    "Promise",
    "Skipped",
    "between_variance",
    "hindsight",
    "order_squares",
    "rank",
    "rank_correlation",
    "skippable",
    "within_variance",
]

_FEWEST_SQUARES = 3
"""With fewer nothing is known of how squares differ."""
_POOR, _SURE = 0.5, 0.95
"""A square is poor if it promises less than this fraction of the grid's mean; it is skipped if that is this sure."""
_FEWEST_EXPOSURES_TO_SKIP = 5
_FEWEST_LATER = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Promise:
    """What the next exposure in a square is expected to give."""

    square: Square
    particles: float
    error: float
    """Standard error of that, of the square's mean: single exposures scatter more."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Skipped:
    """A square that is not worth more exposures."""

    promise: Promise
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Hindsight:
    """How the ranking did: what it would have said halfway, against what came after."""

    correlation: float
    """Spearman's, between the promise of each square and the mean of its later exposures, -1 to 1."""
    squares: int
    exposures: int
    """That came after."""


def rank(squares: Sequence[Square]) -> list[Promise]:
    """The squares of a grid with what they promise, the best first; none while fewer than three have exposures."""
    known = [square for square in squares if square.exposures]
    if len(known) < _FEWEST_SQUARES:
        return []
    particles = [np.array([one.particles for one in square.exposures], np.float64) for square in known]
    counts = np.array([len(one) for one in particles], np.float64)
    means = np.array([one.mean() for one in particles])
    within = within_variance(particles, means, counts)
    between = between_variance(means, counts / within)
    weights = 1 / (between + within / counts)
    grid_mean = float((weights * means).sum() / weights.sum())
    trust = between * weights
    expected = np.maximum(grid_mean + trust * (means - grid_mean), 0)
    errors = np.sqrt(trust * within / counts + (1 - trust) ** 2 / weights.sum())
    promises = [
        Promise(square=square, particles=float(one), error=float(error))
        for square, one, error in zip(known, expected, errors, strict=True)
    ]
    return sorted(promises, key=lambda promise: -promise.particles)


def order_squares(promises: Sequence[Promise]) -> list[str]:
    """Names of the squares in the order in which they promise most."""
    return [promise.square.name for promise in promises]


def skippable(promises: Sequence[Promise]) -> list[Skipped]:
    """Squares that surely promise less than half of the grid's mean, after at least five exposures."""
    if not promises:
        return []
    poor = _POOR * sum(promise.particles for promise in promises) / len(promises)
    found = []
    for promise in promises:
        error = max(promise.error, 1e-9)
        sure = NormalDist(promise.particles, error).cdf(poor)
        taken = len(promise.square.exposures)
        if taken >= _FEWEST_EXPOSURES_TO_SKIP and sure >= _SURE:
            reason = (
                f"{promise.particles:.0f} ± {promise.error:.0f} particles a micrograph after {taken}, "
                f"and half of the grid's mean is {poor:.0f}"
            )
            found.append(Skipped(promise=promise, reason=reason))
    return found


def hindsight(squares: Sequence[Square]) -> Hindsight | None:
    """Rank by the first half of the session's exposures, and compare with the second; None where too little came."""
    order = sorted(one.seq for square in squares for one in square.exposures)
    if not order:
        return None
    halfway = order[len(order) // 2]
    earlier = [
        Square(grid=square.grid, name=square.name, exposures=[one for one in square.exposures if one.seq < halfway])
        for square in squares
    ]
    later = {
        (square.grid, square.name): [one.particles for one in square.exposures if one.seq >= halfway]
        for square in squares
    }
    pairs = [
        (promise.particles, found)
        for promise in rank(earlier)
        if len(found := later[promise.square.grid, promise.square.name]) >= _FEWEST_LATER
    ]
    if len(pairs) < _FEWEST_SQUARES:
        return None
    promised = np.array([one for one, _ in pairs])
    came = np.array([np.mean(found) for _, found in pairs])
    return Hindsight(
        correlation=rank_correlation(promised, came),
        squares=len(pairs),
        exposures=sum(len(found) for _, found in pairs),
    )


def rank_correlation(first: NDArray[np.floating], second: NDArray[np.floating]) -> float:
    """Spearman's rank correlation of two (n,) arrays; 0 where all of one are equal."""
    ranks = [_ranks(values) - (len(values) - 1) / 2 for values in (first, second)]
    scale = math.sqrt(float((ranks[0] ** 2).sum() * (ranks[1] ** 2).sum()))
    return float((ranks[0] * ranks[1]).sum()) / scale if scale else 0.0


def _ranks(values: NDArray[np.floating]) -> NDArray[np.float64]:
    """Ranks from 0; equal values share their mean."""
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    shared: NDArray[np.float64] = (last - (counts + 1) / 2)[inverse]
    return shared


def within_variance(
    particles: Sequence[NDArray[np.float64]], means: NDArray[np.float64], counts: NDArray[np.float64]
) -> float:
    """Of single exposures about the mean of their square; of all about one mean where no square has two."""
    freedom = float((counts - 1).sum())
    if freedom:
        total = sum(float(((one - mean) ** 2).sum()) for one, mean in zip(particles, means, strict=True))
        variance = total / freedom
    else:
        variance = float(np.concatenate(particles).var(ddof=1))
    return max(variance, 1.0)  # a count is never known better


def between_variance(means: NDArray[np.float64], weights: NDArray[np.float64]) -> float:
    """Of squares about the mean of the grid, by moments."""
    mean = float((weights * means).sum() / weights.sum())
    excess = float((weights * (means - mean) ** 2).sum()) - (len(means) - 1)
    scale = float(weights.sum() - (weights**2).sum() / weights.sum())
    return max(excess / scale, 1e-6) if scale > 0 else 1e-6
