"""The threshold of a session, chosen from the scores of its own micrographs, without labels.

The choice rests on the peaks of the score maps, down to a low floor. Nothing else is known of it: who asks keeps the
evidence, decides when it is enough, and which change is worth while.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from frazil.limits import LimitsPatch, PickLimits
from frazil.model.contract import Calibration
from frazil.picking.picks import Picks, ScoreMap, find_picks

__all__ = [
    "ALIKE",
    "LOWEST_PEAK",
    "PeakScores",
    "ThresholdChoice",
    "assess_threshold",
    "choose_threshold",
    "find_low_peaks",
]

LOWEST_PEAK = 0.02
"""Peaks below this are no evidence. No threshold is chosen below it."""
_LEAST_F1 = 0.7
"""Where no better F1 is to be expected, only picks that are sure are made, as where there are no particles at all."""
_SURE_PRECISION = 0.9
ALIKE, _FALL = 12, 2.0
"""As far as so many micrographs of the calibration reach, by their distance; there they count by exp(-2)."""
_LEAST_REACH = 1e-6
_FEW_PEAKS = 50
"""A micrograph with fewer peaks counts by as much less; else all count the same."""
_NO_PEAKS = 1e-12
_DECIMALS = 3
"""Of a chosen threshold: people read it, and give it to others."""


PeakScores: TypeAlias = NDArray[np.float32]
"""(n,) scores of the peaks of one micrograph down to `LOWEST_PEAK`, within distance and edge margin, best first: all
that a choice needs of it."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Curve:
    """Probability of a particle over the score, straight between its points."""

    scores: NDArray[np.float64]
    probabilities: NDArray[np.float64]

    def at(self, scores: NDArray[np.float32]) -> NDArray[np.float64]:
        """(n,) scores → (n,) probabilities."""
        return np.interp(scores, self.scores, self.probabilities)

    def score_of(self, probability: float) -> float:
        """The lowest score with this probability; 1 where there is none."""
        return float(np.interp(probability, self.probabilities, self.scores, right=1.0))


@dataclass(frozen=True, slots=True, kw_only=True)
class ThresholdChoice:
    """A threshold, and what is expected of the picks that reach it."""

    threshold: float
    precision: float | None
    """Estimated fraction of the picks that are particles; None without picks."""
    picks_per_micrograph: float
    micrographs: int
    """Number of micrographs that it rests on."""


def choose_threshold(
    evidence: Sequence[PeakScores],
    contract_threshold: float,
    *,
    target_precision: float | None = None,
    calibration: Calibration | None = None,
) -> ThresholdChoice:
    """The threshold with the best F1 that is to be expected, or the lowest that keeps a precision.

    A calibrated score is taken for the probability that there is a particle. The expected number of hits among the
    picks is then the sum of their probabilities, and that of all particles the sum over all peaks. Where no good F1
    is to be expected, as on empty ice, only sure picks are made.

    Args:
        evidence: of each micrograph.
        contract_threshold: the model's own, which holds where there is no peak at all. Where none is sure enough, the
            score at which one would be holds, if it is higher.
        target_precision: precision that the picks should have at least. Default: that of the best F1.
        calibration: of the model's scores. Default: they are probabilities.
    """
    scores = _all_scores(evidence)
    curve = _curve(scores, calibration)
    threshold = contract_threshold
    if scores.size:
        least_f1 = 0.0 if calibration is None else _LEAST_F1
        threshold = _best_threshold(scores, curve, contract_threshold, target_precision, least_f1)
    return _assess(scores, curve, threshold, len(evidence))


def assess_threshold(
    evidence: Sequence[PeakScores], threshold: float, *, calibration: Calibration | None = None
) -> ThresholdChoice:
    """What is expected of the picks at a threshold; arguments as for `choose_threshold`."""
    scores = _all_scores(evidence)
    return _assess(scores, _curve(scores, calibration), threshold, len(evidence))


def find_low_peaks(score_map: ScoreMap, limits: PickLimits, pixel_size_angstrom: float) -> Picks:
    """All peaks down to `LOWEST_PEAK`, within the distances of the limits, best first.

    A peak is suppressed by better ones only: those that reach a threshold are the picks at it.
    """
    return find_picks(score_map, LimitsPatch(threshold=LOWEST_PEAK).over(limits), pixel_size_angstrom)


def _best_threshold(
    scores: NDArray[np.float32],
    curve: _Curve,
    contract_threshold: float,
    target_precision: float | None,
    least_f1: float,
) -> float:
    """The threshold of `choose_threshold` for the scores of a session, best first, of which there is at least one."""
    probabilities = curve.at(scores)
    # Equal scores are picked together: only the last of them ends a set of picks.
    ends = np.flatnonzero(np.append(scores[:-1] > scores[1:], np.True_))
    hits, counts = np.cumsum(probabilities)[ends], ends + 1.0
    f1 = 2 * hits / (counts + probabilities.sum())
    best = int(np.argmax(f1))
    if target_precision is None and f1[best] < least_f1:
        target_precision = _SURE_PRECISION
    if target_precision is not None:
        precise = np.flatnonzero(hits / counts >= target_precision)
        if not precise.size:
            return max(contract_threshold, curve.score_of(target_precision))
        best = int(precise[-1])
    lowest = float(scores[ends[best]])
    below = float(scores[ends[best + 1]]) if best + 1 < ends.size else LOWEST_PEAK
    return _between(below, lowest)


def _assess(scores: NDArray[np.float32], curve: _Curve, threshold: float, micrographs: int) -> ThresholdChoice:
    picked, probabilities = scores >= np.float32(threshold), curve.at(scores)
    return ThresholdChoice(
        threshold=threshold,
        precision=round(float(probabilities[picked].mean()), 4) if picked.any() else None,
        picks_per_micrograph=round(int(np.count_nonzero(picked)) / micrographs, 2) if micrographs else 0.0,
        micrographs=micrographs,
    )


def _all_scores(evidence: Sequence[PeakScores]) -> NDArray[np.float32]:
    """(n,) scores of all micrographs, best first."""
    if not evidence:
        return np.zeros(0, np.float32)
    scores = np.concatenate(evidence)
    ordered: NDArray[np.float32] = np.sort(scores[scores >= np.float32(LOWEST_PEAK)])[::-1]
    return ordered


def _curve(scores: NDArray[np.float32], calibration: Calibration | None) -> _Curve:
    """How probable a particle is at a score in the session with these (n,) scores.

    A score means less where there is nothing but ice, and more where particles fill the field. Those micrographs of
    the calibration count whose scores are distributed like the session's, by the Hellinger distance, as in estimates of
    an unknown prior (González-Castro, Alaiz-Rodríguez and Alegre, Information Sciences 218 (2013) 146).
    """
    if calibration is None:
        return _Curve(scores=np.array([0.0, 1.0]), probabilities=np.array([0.0, 1.0]))
    edges, (peaks, particles) = np.array(calibration.edges), calibration.counts()
    total = peaks.sum(axis=1)
    seen = np.sqrt(np.histogram(scores, edges)[0] / max(1, scores.size))
    squared = np.square(np.sqrt(peaks / total[:, np.newaxis]) - seen).sum(axis=1)
    reach = np.sort(squared)[min(ALIKE, squared.size) - 1]
    weight = np.exp(-_FALL * squared / max(reach, _LEAST_REACH)) / np.maximum(total, _FEW_PEAKS)
    return _Curve(scores=(edges[:-1] + edges[1:]) / 2, probabilities=_rising(weight @ particles, weight @ peaks))


def _rising(hits: NDArray[np.float64], counts: NDArray[np.float64]) -> NDArray[np.float64]:
    """(b,) hits of (b,) counts → (b,) fractions that never fall, with the least squared error (isotonic regression)."""
    pools: list[tuple[float, float, int]] = []  # hits, counts, bins
    for hit, count in zip(hits.tolist(), counts.tolist(), strict=True):
        pool = (hit, count, 1)
        # Adjacent bins that fall are pooled. Without peaks a bin joins the one below.
        while pools and pools[-1][0] * pool[1] >= pool[0] * pools[-1][1]:
            below = pools.pop()
            pool = (below[0] + pool[0], below[1] + pool[1], below[2] + pool[2])
        pools.append(pool)
    return np.concatenate([np.full(bins, hit / max(count, _NO_PEAKS)) for hit, count, bins in pools])


def _between(below: float, lowest: float) -> float:
    """A short number above the best score that is not picked, and not above the lowest one that is."""
    for decimals in range(_DECIMALS, 7):
        threshold = round((below + lowest) / 2, decimals)
        if np.float32(below) < np.float32(threshold) <= np.float32(lowest):
            return threshold
    return lowest
