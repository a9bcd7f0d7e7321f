"""Rankings: picks by falling score with the hits that they add, so that any threshold is one look-up."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from frazil.picking import Picks, hits_gained

__all__ = ["Ranking", "Sweep", "Tally", "average_precision", "sweep_thresholds", "tally_matches"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Tally:
    """Numbers of hits, misses and false picks; tallies can be added."""

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
        """Fraction of the picks that are hits; 0 without picks."""
        return self.hits / max(1, self.hits + self.false_picks)

    @property
    def recall(self) -> float:
        """Fraction of the particles that are hit; 0 without particles."""
        return self.hits / max(1, self.hits + self.misses)

    @property
    def f1(self) -> float:
        """Harmonic mean of precision and recall."""
        return 2 * self.hits / max(1, 2 * self.hits + self.misses + self.false_picks)


def tally_matches(matched: NDArray[np.intp], truth_count: int) -> Tally:
    """Count the result of `match_picks`."""
    hits = int((matched >= 0).sum())
    return Tally(hits=hits, misses=truth_count - hits, false_picks=matched.size - hits)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Ranking:
    """Picks of one or more micrographs by falling score, and the number of particles."""

    score: NDArray[np.float64]
    """(n,) in falling order."""
    gained: NDArray[np.bool_]
    """(n,) whether the pick adds a hit to those of better picks in its micrograph; see `hits_gained`."""
    particles: int

    @classmethod
    def of_micrograph(cls, picks: Picks, truth: Picks, max_distance_px: float) -> Ranking:
        """Rank the picks of one micrograph; picks of equal score keep their order."""
        ranked = picks.select(np.argsort(-picks.score, kind="stable"))
        return cls(score=ranked.score, gained=hits_gained(ranked, truth, max_distance_px), particles=len(truth))

    @classmethod
    def pooled(cls, rankings: Iterable[Ranking]) -> Ranking:
        """One ranking over the picks of several micrographs."""
        several = list(rankings)
        score = np.concatenate([np.zeros(0), *(one.score for one in several)])
        gained = np.concatenate([np.zeros(0, bool), *(one.gained for one in several)])
        order = np.argsort(-score, kind="stable")
        return cls(score=score[order], gained=gained[order], particles=sum(one.particles for one in several))

    @property
    def has_scores(self) -> bool:
        """Whether scores differ. A picker without scores is read as one with equal scores."""
        return self.score.size < 2 or bool(self.score[0] > self.score[-1])

    def tally(self, threshold: float | None) -> Tally:
        """Hits, misses and false picks among the picks at and above a threshold; None counts all picks."""
        count = self.score.size if threshold is None else int(np.count_nonzero(self.score >= threshold))
        hits = int(self.gained[:count].sum())
        return Tally(hits=hits, misses=self.particles - hits, false_picks=count - hits)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Sweep:
    """Precision, recall and F1 at every occurring score as the threshold, highest first."""

    threshold: NDArray[np.float64]
    """(k,) in falling order."""
    precision: NDArray[np.float64]
    recall: NDArray[np.float64]
    f1: NDArray[np.float64]


def sweep_thresholds(ranking: Ranking) -> Sweep:
    """Lower the threshold from the best pick's score to the worst one's.

    The precision-recall curve connects these points. They agree with the figures of a table at one threshold, since
    picks are matched nearest first among those at and above the threshold. (Detection challenges match in order of
    score, so that a better pick takes a particle from a nearer one, and curve and table disagree.)
    """
    last_of_tie = np.flatnonzero(np.diff(ranking.score, append=-np.inf))
    hits, picks = np.cumsum(ranking.gained)[last_of_tie], last_of_tie + 1
    return Sweep(
        threshold=ranking.score[last_of_tie],
        precision=hits / picks,
        recall=hits / max(1, ranking.particles),
        f1=2 * hits / np.maximum(1, picks + ranking.particles),
    )


def average_precision(ranking: Ranking) -> float:
    """Average precision of ranked picks, 0 to 1.

    The sum over thresholds, highest first, of the gain in recall times the precision there: the area under the
    precision-recall curve in steps, without interpolation, as in information retrieval and scikit-learn's
    ``average_precision_score``. Neither the interpolation of PASCAL VOC (Everingham et al. 2010, International Journal
    of Computer Vision 88, 303-338) nor straight lines between points (too optimistic: Davis and Goadrich 2006,
    ICML) is used. Picks of equal score count as one step. A picker that leaves out its weak picks loses the recall that
    they would have added.
    """
    sweep = sweep_thresholds(ranking)
    return float(np.sum(np.diff(sweep.recall, prepend=0.0) * sweep.precision))
