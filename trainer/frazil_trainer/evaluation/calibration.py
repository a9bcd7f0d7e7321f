"""Calibration: how probable a particle is at a score, from micrographs that the model was not trained on."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from frazil.model.contract import Calibration
from frazil.picking.choice import ALIKE
from frazil_trainer.evaluation.micrographs import ScoredMicrograph

__all__ = ["SCORE_BINS", "extend_calibration", "fit_calibration"]

SCORE_BINS = (0.02, 0.04, 0.06, 0.08, 0.1, 0.13, 0.16, *(n / 20 for n in range(4, 19)), 1.0)
"""Their edges. Finer where scores of particles unlike those of the training lie."""


def fit_calibration(scored: Sequence[ScoredMicrograph], edges: tuple[float, ...] = SCORE_BINS) -> Calibration | None:
    """Count the peaks of each micrograph, and the particles among them, by their scores; None without peaks."""
    rankings = [one.rank() for one in scored]
    peaks = np.array([np.histogram(one.score, edges)[0] for one in rankings])
    particles = np.array([np.histogram(one.score[one.gained], edges)[0] for one in rankings])
    seen = np.array([row.any() for row in peaks], bool)
    return Calibration.make(edges, peaks[seen], particles[seen]) if seen.any() else None


def extend_calibration(calibration: Calibration, scored: Sequence[ScoredMicrograph]) -> Calibration:
    """A calibration with further micrographs, in as many copies as a choice needs of those that are like a session.

    So a session like these takes from these alone what a score means.
    """
    further = fit_calibration(scored, calibration.edges)
    if further is None:
        return calibration
    copies = -(-ALIKE // further.micrographs)
    peaks, particles = (
        np.concatenate([known, np.repeat(new, copies, axis=0)])
        for known, new in zip(calibration.counts(), further.counts(), strict=True)
    )
    return Calibration.make(calibration.edges, peaks, particles)
