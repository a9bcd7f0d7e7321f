"""Calibration: how probable a particle is at a score."""

import numpy as np
import pytest

from frazil.picking import Picks, assess_threshold
from frazil_trainer.evaluation.calibration import extend_calibration, fit_calibration
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


def test_peaks_and_the_particles_among_them_are_counted_by_score_in_each_micrograph() -> None:
    few = scored([0.9, 0.5, 0.03, 0.03, 0.01], hits=[True, False, False, True, True])
    many = scored([0.5] * 300, hits=[True] * 200 + [False] * 100)

    calibration = fit_calibration([few, many])

    assert calibration is not None
    at = [int(np.searchsorted(calibration.edges, score, side="right")) - 1 for score in (0.03, 0.5, 0.9)]
    peaks, particles = calibration.counts()
    assert peaks[:, at].tolist() == [[2, 1, 1], [0, 300, 0]]
    assert particles[:, at].tolist() == [[1, 0, 1], [0, 200, 0]]
    assert (peaks.sum(), particles.sum()) == (304, 202)  # nothing else, and nothing below the lowest peak


def test_a_choice_takes_what_was_fitted() -> None:
    rng = np.random.default_rng(1)
    score = rng.uniform(0.05, 1, 4000)
    hits = rng.random(4000) < score**2

    calibration = fit_calibration([scored(score.tolist(), hits=hits.tolist())])

    for threshold in (0.3, 0.5, 0.8):
        choice = assess_threshold([score.astype(np.float32)], threshold, calibration=calibration)
        assert choice.precision == pytest.approx(hits[score >= threshold].mean(), abs=0.03)


def test_micrographs_without_peaks_say_nothing() -> None:
    assert fit_calibration([]) is None
    low = scored([0.01, 0.015], hits=[False, False])
    assert fit_calibration([low]) is None
    both = fit_calibration([low, scored([0.5], hits=[True])])
    assert both is not None
    assert both.micrographs == 1


def test_sessions_like_the_further_micrographs_learn_from_them_and_others_do_not() -> None:
    rng = np.random.default_rng(2)

    def session(low: float, high: float, hit: float) -> ScoredMicrograph:
        score = rng.uniform(low, high, 300)
        return scored(score.tolist(), hits=(rng.random(300) < hit).tolist())

    worlds = fit_calibration([session(0.3, 0.9, 0.8) for _ in range(20)] + [session(0.05, 0.4, 0.1) for _ in range(20)])
    assert worlds is not None
    labelled = [session(0.05, 0.4, 0.7), session(0.05, 0.4, 0.7)]

    extended = extend_calibration(worlds, labelled)

    faint, clear = ([session(low, high, 0).picks.score.astype(np.float32)] for low, high in ((0.05, 0.4), (0.3, 0.9)))
    before, after = (assess_threshold(faint, 0.02, calibration=one).precision for one in (worlds, extended))
    assert before == pytest.approx(0.1, abs=0.05)
    assert after is not None
    assert after > 0.3
    before, after = (assess_threshold(clear, 0.02, calibration=one).precision for one in (worlds, extended))
    assert after == pytest.approx(before, abs=0.01)
    assert extend_calibration(worlds, [scored([0.01], hits=[True])]) == worlds
