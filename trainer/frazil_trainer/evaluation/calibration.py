"""Calibration: how probable a particle is at a score, from micrographs that the model was not trained on."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from frazil.model.contract import Calibration
from frazil_trainer.evaluation.micrographs import ScoredMicrograph

__all__ = ["SCORE_BINS", "fit_calibration"]

SCORE_BINS = (0.02, 0.04, 0.06, 0.08, 0.1, 0.13, 0.16, *(n / 20 for n in range(4, 19)), 1.0)
"""Their edges. Finer where scores of particles unlike those of the training lie."""


def fit_calibration(scored: Sequence[ScoredMicrograph]) -> Calibration | None:
    """Count the peaks of each micrograph, and the particles among them, by their scores; None without peaks."""
    rankings = [one.rank() for one in scored]
    peaks = np.array([np.histogram(one.score, SCORE_BINS)[0] for one in rankings])
    particles = np.array([np.histogram(one.score[one.gained], SCORE_BINS)[0] for one in rankings])
    seen = np.array([row.any() for row in peaks], bool)
    return Calibration.make(SCORE_BINS, peaks[seen], particles[seen]) if seen.any() else None
