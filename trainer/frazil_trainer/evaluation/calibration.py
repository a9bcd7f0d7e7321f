"""Calibration: how probable a particle is at a score, from micrographs that the model was not trained on."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import isotonic_regression

from frazil.model.contract import Calibration
from frazil.picking.choice import LOWEST_PEAK
from frazil_trainer.evaluation.micrographs import ScoredMicrograph

__all__ = ["fit_calibration"]

_POINTS = 33
_LEAST_PEAKS = 50
"""A micrograph with fewer peaks counts by as much less."""
_DECIMALS = 4


def fit_calibration(scored: Sequence[ScoredMicrograph]) -> Calibration | None:
    """Fit a curve that never falls to whether peaks are particles, by their scores; None without peaks.

    Every micrograph counts the same, however many peaks it has. Source: isotonic regression for calibration,
    Zadrozny and Elkan, KDD 2002.
    """
    rankings = [one.rank() for one in scored]
    peaks = [(one.score[counts], one.gained[counts]) for one in rankings if (counts := one.score >= LOWEST_PEAK).any()]
    if not peaks:
        return None
    score = np.concatenate([score for score, _ in peaks])
    is_hit = np.concatenate([hits for _, hits in peaks]).astype(np.float64)
    weight = np.concatenate([np.full(hits.size, 1 / max(hits.size, _LEAST_PEAKS)) for _, hits in peaks])
    order = np.argsort(score, kind="stable")
    fitted = isotonic_regression(is_hit[order], weights=weight[order]).x
    return Calibration(
        prior=round(float(np.average(is_hit, weights=weight)), _DECIMALS), **_thinned(score[order], fitted)
    )


def _thinned(score: NDArray[np.float64], probability: NDArray[np.float64]) -> dict[str, tuple[float, ...]]:
    """A few points of a rising curve, evenly spread over the scores."""
    edges = np.linspace(score[0], score[-1], _POINTS)
    points: dict[float, float] = {}
    for at, value in zip(edges, np.interp(edges, score, probability), strict=True):
        points.setdefault(round(float(at), _DECIMALS), round(float(value), _DECIMALS))
    return {"scores": tuple(points), "probabilities": tuple(points.values())}
