"""Bootstrap: confidence intervals of figures over micrographs."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
import numpy as np

from frazil_trainer.evaluation.ranking import Tally

__all__ = ["DRAWS", "Interval", "Intervals", "best_coverage", "bootstrap"]

DRAWS = 2000
_SEED = 0
_PERCENTILES = (2.5, 97.5)


class Interval(msgspec.Struct, frozen=True, kw_only=True):
    """Ends of a 95 % interval."""

    low: float
    high: float


class Intervals(msgspec.Struct, frozen=True, kw_only=True):
    """Intervals of the pooled figures."""

    precision: Interval
    recall: Interval
    f1: Interval


def bootstrap(tallies: Sequence[Tally]) -> Intervals | None:
    """95 % percentile intervals of the pooled figures, from micrographs drawn with replacement; None for a single one.

    Whole micrographs are drawn, with all of their picks and particles. Micrographs differ in ice, defocus and crowding,
    so the particles of one are not independent; drawing single particles would overestimate the evidence. Drawing
    particles again within each drawn micrograph would count their scatter twice, since it is already in the differences
    between micrographs (Davison and Hinkley 1997, Bootstrap Methods and their Application, 3.8; Field
    and Welsh 2007, Journal of the Royal Statistical Society B 69, 369-390). `best_coverage` is the
    limit for few micrographs. All pickers on equally many micrographs get the same draws.
    """
    n = len(tallies)
    if n < 2:
        return None
    counts = np.array([(t.hits, t.misses, t.false_picks) for t in tallies])
    times_drawn = np.random.default_rng(_SEED).multinomial(n, np.full(n, 1 / n), size=DRAWS)
    drawn = [Tally(hits=h, misses=m, false_picks=f) for h, m, f in (times_drawn @ counts).tolist()]
    return Intervals(
        precision=_interval([t.precision for t in drawn]),
        recall=_interval([t.recall for t in drawn]),
        f1=_interval([t.f1 for t in drawn]),
    )


def best_coverage(micrographs: int) -> float:
    """Upper bound of an interval's coverage for few micrographs.

    Pooled figures always lie between those of the worst and the best micrograph, and n independent micrographs lie on
    both sides of their median with probability 1 - 2^(1 - n): 0.75 for three.
    """
    return 1.0 - 2.0 ** (1 - micrographs)


def _interval(values: Sequence[float]) -> Interval:
    low, high = np.percentile(values, _PERCENTILES)
    return Interval(low=round(float(low), 4), high=round(float(high), 4))
