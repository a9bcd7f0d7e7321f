"""The rule: a threshold from the scores of unlabelled micrographs."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from frazil.errors import ModelError
from frazil.model.contract import Calibration, ModelContract
from frazil.picking import LOWEST_PEAK, PeakScores, assess_threshold, choose_threshold

scores = st.lists(st.integers(1, 65535).map(lambda step: step / 65535), max_size=60)


def seen(*micrographs: list[float]) -> list[PeakScores]:
    return [np.array(sorted(one, reverse=True), np.float32) for one in micrographs]


def best_f1(probabilities: list[float]) -> float:
    """The greatest F1 to be expected of any number of the most probable ones."""
    ordered = sorted(probabilities, reverse=True)
    return max(2 * sum(ordered[:n]) / (n + sum(ordered)) for n in range(1, len(ordered) + 1))


def test_between_two_clouds_of_scores_lies_the_threshold() -> None:
    choice = choose_threshold(seen([0.9] * 50 + [0.1] * 100, [0.85] * 40 + [0.12] * 120), 0.5)
    assert 0.12 < choice.threshold <= 0.85
    assert choice.precision == pytest.approx((50 * 0.9 + 40 * 0.85) / 90, abs=1e-3)
    assert (choice.picks_per_micrograph, choice.micrographs) == (45, 2)


@given(micrographs=st.lists(scores, min_size=1, max_size=4))
def test_no_other_threshold_is_expected_to_have_a_better_f1(micrographs: list[list[float]]) -> None:
    peaks = [score for one in micrographs for score in one if np.float32(score) >= np.float32(LOWEST_PEAK)]
    choice = choose_threshold(seen(*micrographs), 0.5)
    if not peaks:
        assert (choice.threshold, choice.precision) == (0.5, None)
        return
    picked = [score for score in peaks if np.float32(score) >= np.float32(choice.threshold)]
    assert LOWEST_PEAK <= choice.threshold <= 1
    f1 = 2 * sum(picked) / (len(picked) + sum(peaks))
    assert f1 == pytest.approx(best_f1(peaks), rel=1e-5)
    assert choice.precision == pytest.approx(sum(picked) / len(picked), abs=1e-4)


@given(micrographs=st.lists(scores, min_size=1, max_size=4), target=st.floats(0, 1))
def test_for_a_precision_the_lowest_threshold_that_keeps_it_is_chosen(
    micrographs: list[list[float]], target: float
) -> None:
    evidence = seen(*micrographs)
    choice = choose_threshold(evidence, 0.5, target_precision=target)
    peaks = sorted({float(score) for one in evidence for score in one if score >= np.float32(LOWEST_PEAK)})
    kept = [t for t in peaks if (assess_threshold(evidence, t).precision or 0) >= target + 2e-4]
    if choice.precision is not None and kept:
        assert choice.precision >= target - 2e-4
        assert choice.threshold <= kept[0]


def test_the_order_of_the_micrographs_does_not_matter() -> None:
    evidence = seen([0.8, 0.5, 0.1], [0.7], [], [0.33, 0.3])
    assert choose_threshold(evidence, 0.5) == choose_threshold(evidence[::-1], 0.5)


def test_a_calibration_says_how_probable_a_particle_is() -> None:
    evidence = seen([0.6] * 10 + [0.5] * 10 + [0.4] * 10)
    bold = Calibration(scores=(0.39, 0.45), probabilities=(0.0, 1.0))
    choice = choose_threshold(evidence, 0.5, calibration=bold)
    assert (choice.threshold, choice.precision) == (0.45, 1.0)
    assert assess_threshold(evidence, 0.3, calibration=bold).precision == pytest.approx((2 + 1 / 6) / 3, abs=1e-3)


@pytest.mark.parametrize(
    "text",
    [
        "{",
        '{"scores": [], "probabilities": []}',
        '{"scores": [0.1, 0.1], "probabilities": [0, 1]}',
        '{"scores": [0, 1], "probabilities": [0.5, 0.4]}',
        '{"scores": [0, 1], "probabilities": [0]}',
        '{"scores": [0, 1], "probabilities": [0, 2]}',
    ],
)
def test_a_damaged_calibration_is_refused_with_its_model(make_contract: type[ModelContract], text: str) -> None:
    metadata = make_contract().to_metadata()
    assert "frazil.calibration" not in metadata  # as before there was any
    with pytest.raises(ModelError, match=r"expected frazil\.calibration as a curve in JSON"):
        ModelContract.from_metadata({**metadata, "frazil.calibration": text})
    good = '{"scores": [0, 1], "probabilities": [0, 0.5]}'
    contract = ModelContract.from_metadata({**metadata, "frazil.calibration": good})
    assert ModelContract.from_metadata(contract.to_metadata()) == contract


# Half of the peaks that it was fitted to were particles.
CURVE = Calibration(scores=(0.0, 0.2, 0.5, 0.9), probabilities=(0.0, 0.1, 0.6, 1.0), prior=0.5)


def test_where_particles_are_rare_a_score_means_less() -> None:
    without_prior = Calibration(scores=CURVE.scores, probabilities=CURVE.probabilities)
    rare = seen([0.8] * 20 + [0.45] * 10 + [0.2] * 400)

    shifted, plain = (assess_threshold(rare, 0.4, calibration=curve) for curve in (CURVE, without_prior))

    assert shifted.precision is not None
    assert plain.precision is not None
    assert shifted.precision < plain.precision
    # At 0.45 the odds are 0.52 : 0.48, at 0.8 they are 0.9 : 0.1; they fall to a third where a half becomes a quarter.
    odds = np.array([0.9 / 0.1] * 20 + [(0.1 + 0.5 * 0.25 / 0.3) / (0.9 - 0.5 * 0.25 / 0.3)] * 10) / 3
    assert shifted.precision == pytest.approx(float(np.mean(odds / (1 + odds))), abs=1e-3)


def test_crowds_do_not_make_a_score_mean_more() -> None:
    crowd = seen([0.9] * 300 + [0.45] * 50)
    without_prior = Calibration(scores=CURVE.scores, probabilities=CURVE.probabilities)

    choices = [choose_threshold(crowd, 0.5, calibration=curve) for curve in (CURVE, without_prior)]
    assert choices[0].threshold == choices[1].threshold


def test_on_noise_alone_only_sure_picks_are_made() -> None:
    noise = seen([0.9] + [0.25] * 300)

    choice = choose_threshold(noise, 0.5, calibration=CURVE)

    assert 0.25 < choice.threshold <= 0.9
    assert choice.picks_per_micrograph == 1


def test_on_noise_without_a_sure_pick_none_is_made() -> None:
    choice = choose_threshold(seen([0.3] * 200), 0.25, calibration=CURVE)

    assert choice.threshold == 0.9  # where a single peak would be sure
    assert choice.picks_per_micrograph == 0
