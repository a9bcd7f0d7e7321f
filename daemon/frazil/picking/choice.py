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
    "LOWEST_PEAK",
    "PeakScores",
    "ThresholdChoice",
    "assess_threshold",
    "choose_threshold",
    "find_low_peaks",
]

LOWEST_PEAK = 0.02
"""Peaks below this are no evidence. No threshold is chosen below it."""
_LEAST_F1 = 0.65
"""Where no better F1 is to be expected, only picks that are sure are made, as where there are no particles at all."""
_SURE_PRECISION = 0.9
_LEAST_OF_PRIOR = 0.5
_EM_STEPS = 30
_LEAST_DOUBT = 1e-4
_DECIMALS = 3
"""Of a chosen threshold: people read it, and give it to others."""


PeakScores: TypeAlias = NDArray[np.float32]
"""(n,) scores of the peaks of one micrograph down to `LOWEST_PEAK`, within distance and edge margin, best first: all
that a choice needs of it."""


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
    probabilities = _probabilities(scores, calibration)
    threshold = contract_threshold
    if scores.size:
        threshold = _best_threshold(scores, probabilities, contract_threshold, target_precision, calibration)
    return _assess(scores, probabilities, threshold, len(evidence))


def assess_threshold(
    evidence: Sequence[PeakScores], threshold: float, *, calibration: Calibration | None = None
) -> ThresholdChoice:
    """What is expected of the picks at a threshold; arguments as for `choose_threshold`."""
    scores = _all_scores(evidence)
    return _assess(scores, _probabilities(scores, calibration), threshold, len(evidence))


def find_low_peaks(score_map: ScoreMap, limits: PickLimits, pixel_size_angstrom: float) -> Picks:
    """All peaks down to `LOWEST_PEAK`, within the distances of the limits, best first.

    A peak is suppressed by better ones only: those that reach a threshold are the picks at it.
    """
    return find_picks(score_map, LimitsPatch(threshold=LOWEST_PEAK).over(limits), pixel_size_angstrom)


def _best_threshold(
    scores: NDArray[np.float32],
    probabilities: NDArray[np.float64],
    contract_threshold: float,
    target_precision: float | None,
    calibration: Calibration | None,
) -> float:
    """The threshold of `choose_threshold` for the scores of a session, best first, of which there is at least one."""
    # Equal scores are picked together: only the last of them ends a set of picks.
    ends = np.flatnonzero(np.append(scores[:-1] > scores[1:], np.True_))
    hits, counts = np.cumsum(probabilities)[ends], ends + 1.0
    f1 = 2 * hits / (counts + probabilities.sum())
    best = int(np.argmax(f1))
    if target_precision is None and calibration is not None and f1[best] < _LEAST_F1:
        target_precision = _SURE_PRECISION
    if target_precision is not None:
        precise = np.flatnonzero(hits / counts >= target_precision)
        if not precise.size:
            return max(contract_threshold, _certain_score(calibration, target_precision))
        best = int(precise[-1])
    lowest = float(scores[ends[best]])
    below = float(scores[ends[best + 1]]) if best + 1 < ends.size else LOWEST_PEAK
    return _between(below, lowest)


def _assess(
    scores: NDArray[np.float32], probabilities: NDArray[np.float64], threshold: float, micrographs: int
) -> ThresholdChoice:
    picked = scores >= np.float32(threshold)
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


def _probabilities(scores: NDArray[np.float32], calibration: Calibration | None) -> NDArray[np.float64]:
    """(n,) scores of a session → (n,) probabilities of a particle.

    Where particles are rare, a score means less than where the calibration was made: the session's own fraction of
    particles among its peaks is found by expectation maximisation (Saerens, Latinne and Decaestecker, Neural
    Computation 14 (2002) 21), but never taken for less than half of the calibration's, nor for more than it.
    """
    if calibration is None:
        return scores.astype(np.float64)
    calibrated = np.interp(scores.astype(np.float64), calibration.scores, calibration.probabilities)
    if calibration.prior is None or not scores.size:
        return calibrated
    prior = calibration.prior
    odds = calibrated / np.maximum(1 - calibrated, _LEAST_DOUBT)
    fraction, probabilities = prior, calibrated
    for _ in range(_EM_STEPS):
        shifted = odds * (fraction / (1 - fraction)) * ((1 - prior) / prior)
        probabilities = shifted / (1 + shifted)
        fraction = float(np.clip(probabilities.mean(), _LEAST_OF_PRIOR * prior, prior))
    return probabilities


def _certain_score(calibration: Calibration | None, precision: float) -> float:
    """The lowest score at which a single peak has this probability."""
    if calibration is None:
        return precision
    certain = [
        score for score, value in zip(calibration.scores, calibration.probabilities, strict=True) if value >= precision
    ]
    return certain[0] if certain else 1.0


def _between(below: float, lowest: float) -> float:
    """A short number above the best score that is not picked, and not above the lowest one that is."""
    for decimals in range(_DECIMALS, 7):
        threshold = round((below + lowest) / 2, decimals)
        if np.float32(below) < np.float32(threshold) <= np.float32(lowest):
            return threshold
    return lowest
