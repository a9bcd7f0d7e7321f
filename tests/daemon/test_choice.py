"""The rule: a threshold from the scores of unlabelled micrographs."""

from __future__ import annotations

import itertools

import msgspec
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


EDGES = (0.02, 0.1, 0.3, 0.5, 0.7, 1.0)


def counted(*micrographs: tuple[list[int], list[int]]) -> Calibration:
    """A calibration from the numbers of peaks and of particles among them, in each micrograph and bin of scores."""
    peaks, particles = (np.array(rows) for rows in zip(*micrographs, strict=True))
    return Calibration.make(EDGES, peaks, particles)


FULL = ([5, 40, 60, 40, 5], [1, 30, 55, 40, 5])
"""A field full of faint particles."""
SPARSE = ([100, 60, 10, 20, 30], [0, 1, 4, 19, 30])
EMPTY = ([200, 90, 5, 0, 0], [0, 0, 0, 0, 0])


def test_a_calibration_says_how_probable_a_particle_is() -> None:
    evidence = seen([0.6] * 10 + [0.4] * 10 + [0.2] * 10)
    bold = counted(([0, 100, 100, 100, 0], [0, 0, 90, 100, 0]))
    choice = choose_threshold(evidence, 0.5, calibration=bold)
    assert choice.threshold == pytest.approx(0.3, abs=1e-3)
    assert choice.precision == pytest.approx(0.95)
    assert assess_threshold(evidence, 0.2, calibration=bold).precision == pytest.approx(1.9 / 3, abs=1e-3)


@given(
    rows=st.lists(st.lists(st.tuples(st.integers(0, 50), st.floats(0, 1)), min_size=5, max_size=5), min_size=1),
    micrographs=st.lists(scores, min_size=1, max_size=3),
)
def test_a_better_score_never_means_a_less_probable_particle(
    rows: list[list[tuple[int, float]]], micrographs: list[list[float]]
) -> None:
    peaks = [[1 + n for n, _ in row] for row in rows]
    particles = [[round((1 + n) * fraction) for n, fraction in row] for row in rows]
    calibration = counted(*zip(peaks, particles, strict=True))
    evidence = seen(*micrographs)
    precise = [assess_threshold(evidence, t, calibration=calibration).precision for t in (0.02, 0.3, 0.6, 0.9)]
    known = [one for one in precise if one is not None]
    assert known == sorted(known)
    assert all(0 <= one <= 1 for one in known)


GOOD = msgspec.json.encode(counted(FULL, EMPTY)).decode()


@pytest.mark.parametrize(
    "text",
    [
        "{",
        '{"scores": [0, 1], "probabilities": [0, 0.5]}',
        '{"edges": [0, 1], "micrographs": 1, "peaks_uint16": "", "particles_uint16": ""}',
        '{"edges": [0, 1], "micrographs": 99999999, "peaks_uint16": "", "particles_uint16": ""}',
        GOOD.replace("[0.02,", "[0.5,"),
        GOOD.replace('"micrographs":2', '"micrographs":3'),
        GOOD.replace('"peaks', '"x').replace('"particles', '"peaks').replace('"x', '"particles'),
    ],
)
def test_a_damaged_calibration_is_refused_with_its_model(make_contract: type[ModelContract], text: str) -> None:
    metadata = make_contract().to_metadata()
    assert "frazil.calibration" not in metadata  # as before there was any
    with pytest.raises(ModelError, match=r"expected frazil\.calibration as counts of peaks in JSON"):
        ModelContract.from_metadata({**metadata, "frazil.calibration": text})
    contract = ModelContract.from_metadata({**metadata, "frazil.calibration": GOOD})
    assert ModelContract.from_metadata(contract.to_metadata()) == contract


def like(micrograph: tuple[list[int], list[int]]) -> list[PeakScores]:
    """A session with peaks as in a micrograph of the calibration."""
    middles = [(a + b) / 2 for a, b in itertools.pairwise(EDGES)]
    return seen([score for score, n in zip(middles, micrograph[0], strict=True) for _ in range(n)])


@pytest.mark.parametrize("micrograph", [FULL, SPARSE])
def test_what_a_score_means_depends_on_how_the_scores_of_the_session_are_distributed(
    micrograph: tuple[list[int], list[int]],
) -> None:
    # So many of each kind, since a dozen like the session count.
    calibration = counted(*[FULL, SPARSE, EMPTY] * 15)
    peaks, particles = (np.array(row) for row in micrograph)

    for first, threshold in enumerate(EDGES[:-1]):
        choice = assess_threshold(like(micrograph), threshold, calibration=calibration)
        assert choice.precision == pytest.approx(particles[first:].sum() / peaks[first:].sum(), abs=0.02)


def test_in_a_field_full_of_faint_particles_lower_scores_are_picked() -> None:
    calibration = counted(*[FULL, SPARSE, EMPTY] * 15)
    full, sparse = (choose_threshold(like(one), 0.5, calibration=calibration) for one in (FULL, SPARSE))
    assert full.threshold < 0.2 < sparse.threshold


def test_on_noise_alone_only_sure_picks_are_made() -> None:
    noise = seen([0.9] + [0.2] * 90 + [0.05] * 200)

    choice = choose_threshold(noise, 0.45, calibration=counted(*[EMPTY, SPARSE] * 15))

    assert 0.2 < choice.threshold <= 0.9
    assert choice.picks_per_micrograph <= 1


def test_on_noise_without_a_sure_pick_none_is_made() -> None:
    choice = choose_threshold(like(EMPTY), 0.25, calibration=counted(*[EMPTY] * 15))

    assert choice.threshold == 1.0  # no score is known to be sure
    assert choice.picks_per_micrograph == 0
