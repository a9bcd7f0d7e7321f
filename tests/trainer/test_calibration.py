"""Calibration: how probable a particle is at a score."""

import numpy as np
import pytest

from frazil.picking import Picks
from frazil_trainer.evaluation.calibration import fit_calibration
from frazil_trainer.evaluation.micrographs import ScoredMicrograph


def scored(score: list[float], *, hits: list[bool]) -> ScoredMicrograph:
    """Peaks 100 px apart, with a particle under each hit."""
    x = 100.0 * np.arange(len(score))
    y = np.zeros(len(score))
    under = np.array(hits)
    return ScoredMicrograph(
        name="a",
        folder="set",
        picks=Picks(y=y, x=x, score=np.array(score)),
        truth=Picks(y=y[under], x=x[under], score=np.ones(under.sum())),
        diameter_px=20,
        height_px=100,
    )


def test_probabilities_rise_with_the_score_and_are_the_fraction_of_particles_there() -> None:
    rng = np.random.default_rng(1)
    score = rng.uniform(0.05, 1, 4000)
    hits = rng.random(4000) < score**2

    curve = fit_calibration([scored(score.tolist(), hits=hits.tolist())])

    assert curve is not None
    assert np.all(np.diff(curve.probabilities) >= 0)
    for at in (0.3, 0.5, 0.8):
        assert np.interp(at, curve.scores, curve.probabilities) == pytest.approx(at**2, abs=0.06)
    assert curve.prior == pytest.approx(hits.mean(), abs=0.01)


def test_micrographs_count_the_same_however_many_peaks_they_have() -> None:
    crowded = scored([0.5] * 900 + [0.6], hits=[True] * 901)
    sparse = scored([0.5] * 100 + [0.6], hits=[False] * 101)

    curve = fit_calibration([crowded, sparse])

    assert curve is not None
    assert curve.prior == pytest.approx(0.5, abs=0.01)
    assert curve.probabilities[0] == pytest.approx(0.5, abs=0.01)


def test_without_peaks_there_is_no_calibration() -> None:
    assert fit_calibration([]) is None
    assert fit_calibration([scored([0.01, 0.015], hits=[False, False])]) is None
