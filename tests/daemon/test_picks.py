"""Peaks: local maxima above a threshold, kept apart, off the edges."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from frazil.picking import SCORE_STEPS, ScoreMap, find_peaks
from frazil.picking.picks import in_steps


def score_map(scores: np.ndarray, step: float = 10.0) -> ScoreMap:
    gy, gx = scores.shape
    return ScoreMap(
        scores=scores.astype(np.float32),
        y_px=step * np.arange(gy) + step / 2,
        x_px=step * np.arange(gx) + step / 2,
        shape=(round(gy * step), round(gx * step)),
    )


def bump(shape: tuple[int, int], y: float, x: float, height: float = 0.9, sigma: float = 1.2) -> np.ndarray:
    rows, columns = np.mgrid[: shape[0], : shape[1]]
    return height * np.exp(-((rows - y) ** 2 + (columns - x) ** 2) / (2 * sigma**2))


def test_a_peak_between_grid_points_is_found_between_them() -> None:
    picks = find_peaks(score_map(bump((20, 31), 7.4, 22.2)), threshold=0.5, min_distance_px=20, edge_margin_px=0)
    assert len(picks) == 1
    assert picks.y[0] == pytest.approx(79, abs=2.5)
    assert picks.x[0] == pytest.approx(227, abs=2.5)
    assert picks.score[0] == pytest.approx(0.9, abs=0.15)


def test_refinement_is_better_than_the_grid() -> None:
    rng = np.random.default_rng(0)
    errors, plain = [], []
    for y, x in rng.uniform(5, 15, (200, 2)):
        found = find_peaks(score_map(bump((20, 20), y, x)), threshold=0.4, min_distance_px=50, edge_margin_px=0)
        errors.append(np.hypot(found.y[0] - (10 * y + 5), found.x[0] - (10 * x + 5)))
        plain.append(10 * np.hypot(y - round(y), x - round(x)))
    assert np.mean(errors) < 0.7 * np.mean(plain)


def test_of_two_that_are_too_near_the_better_stays() -> None:
    scores = np.maximum(bump((20, 20), 8, 8, 0.8), bump((20, 20), 8, 11, 0.9))
    near = find_peaks(score_map(scores), threshold=0.5, min_distance_px=40, edge_margin_px=0)
    assert len(near) == 1
    assert near.score[0] == pytest.approx(0.9)
    assert len(find_peaks(score_map(scores), threshold=0.5, min_distance_px=20, edge_margin_px=0)) == 2


def test_a_plateau_is_one_particle() -> None:
    scores = np.zeros((20, 20))
    scores[8:11, 8:11] = 1.0
    assert len(find_peaks(score_map(scores), threshold=0.5, min_distance_px=30, edge_margin_px=0)) == 1


def test_a_score_of_zero_is_no_pick_and_the_least_above_it_is() -> None:
    scores = np.zeros((20, 20))
    scores[8, 8] = 1 / SCORE_STEPS
    picks = find_peaks(score_map(scores), threshold=0, min_distance_px=0, edge_margin_px=0)
    assert (picks.y.tolist(), picks.x.tolist()) == ([85], [85])


def test_an_empty_map_gives_no_picks() -> None:
    empty = ScoreMap(scores=np.zeros((0, 0), np.float32), y_px=np.zeros(0), x_px=np.zeros(0), shape=(100, 100))
    assert len(find_peaks(empty, threshold=0.5, min_distance_px=10, edge_margin_px=0)) == 0


@pytest.mark.parametrize("margin", [0, 1, 3, 3.5])
def test_the_edge_margin_is_exact_to_the_pixel_on_all_four_sides(margin: float) -> None:
    """Pixel 0 begins at -0.5: with a margin of m the first centre that is allowed is m - 0.5 or behind it."""
    h, w = 15, 22
    scores = np.zeros((h, w))
    single = {"threshold": 0.5, "min_distance_px": 0, "edge_margin_px": margin}

    def is_picked(y: int, x: int) -> bool:
        scores[:] = 0
        scores[y, x] = 1.0
        of = ScoreMap(scores=scores.astype(np.float32), y_px=np.arange(h) * 1.0, x_px=np.arange(w) * 1.0, shape=(h, w))
        return len(find_peaks(of, **single)) == 1  # type: ignore[arg-type]

    first = int(np.ceil(margin - 0.5))
    middle_y, middle_x = h // 2, w // 2
    assert [y for y in range(h) if is_picked(y, middle_x)] == list(range(first, h - first))
    assert [x for x in range(w) if is_picked(middle_y, x)] == list(range(first, w - first))


@pytest.mark.parametrize(("apart", "count"), [(5.0, 2), (5.0001, 1)])
def test_two_picks_may_be_just_as_near_as_the_minimum_distance(apart: float, count: int) -> None:
    scores = np.zeros((12, 16))
    scores[4, 4], scores[7, 8] = 0.9, 0.8  # 3 and 4 apart, so 5
    of = ScoreMap(scores=scores.astype(np.float32), y_px=np.arange(12) * 1.0, x_px=np.arange(16) * 1.0, shape=(12, 16))
    assert len(find_peaks(of, threshold=0.5, min_distance_px=apart, edge_margin_px=0)) == count


@pytest.mark.parametrize(("threshold", "count"), [(0.75, 1), (0.7500001, 0)])
def test_a_peak_at_the_threshold_is_a_pick(threshold: float, count: int) -> None:
    scores = np.zeros((9, 9))
    scores[4, 4] = 0.75
    assert len(find_peaks(score_map(scores), threshold=threshold, min_distance_px=0, edge_margin_px=0)) == count


@pytest.mark.parametrize("step", [(0, 2), (2, 0), (2, 2), (2, -2), (1, 2), (2, 1)])
def test_a_lower_maximum_that_is_no_neighbour_is_a_peak_of_its_own(step: tuple[int, int]) -> None:
    scores = np.zeros((11, 13))
    scores[5, 6], scores[5 + step[0], 6 + step[1]] = 0.9, 0.8
    assert len(find_peaks(score_map(scores), threshold=0.5, min_distance_px=0, edge_margin_px=0)) == 2
    scores[:] = 0
    scores[5, 6], scores[5 - step[0], 6 - step[1]] = 0.9, 0.8
    assert len(find_peaks(score_map(scores), threshold=0.5, min_distance_px=0, edge_margin_px=0)) == 2


def test_a_weak_peak_lies_where_a_strong_one_of_its_shape_does() -> None:
    strong = bump((20, 31), 7.3, 22.4)
    of = [find_peaks(score_map(strong * k), threshold=0.05, min_distance_px=50, edge_margin_px=0) for k in (1.0, 0.1)]
    assert [len(picks) for picks in of] == [1, 1]
    assert of[1].y[0] == pytest.approx(of[0].y[0], abs=0.01)
    assert of[1].x[0] == pytest.approx(of[0].x[0], abs=0.01)


def test_a_minimum_distance_below_one_pixel_counts() -> None:
    scores = np.zeros((9, 9))
    scores[4, 3], scores[4, 5] = 0.9, 0.8  # two steps apart, so 0.8 pixels
    for apart, count in ((0.7, 2), (0.9, 1)):
        assert len(find_peaks(score_map(scores, 0.4), threshold=0.5, min_distance_px=apart, edge_margin_px=0)) == count


@pytest.mark.parametrize(("y", "x"), [(0, 6), (10, 6), (5, 0), (5, 12)])
def test_a_peak_at_the_border_of_the_map_is_not_drawn_inwards(y: int, x: int) -> None:
    of = score_map(bump((11, 13), y, x))
    picks = find_peaks(of, threshold=0.5, min_distance_px=0, edge_margin_px=0)
    assert picks.y == pytest.approx([of.y_px[y]])
    assert picks.x == pytest.approx([of.x_px[x]])


MAPS = arrays(
    np.float32,
    st.tuples(st.integers(1, 25), st.integers(1, 25)),
    elements=st.floats(0, 1, width=32),
)


@given(MAPS, st.floats(0, 1), st.floats(0, 60), st.floats(0, 50))
def test_picks_keep_every_promise(scores: np.ndarray, threshold: float, apart: float, margin: float) -> None:
    of = score_map(scores)
    picks = find_peaks(of, threshold=threshold, min_distance_px=apart, edge_margin_px=margin)
    h, w = of.shape
    assert (picks.score >= np.float32(threshold)).all()
    assert (np.diff(picks.score) <= 0).all()
    for positions, length in ((picks.y, h), (picks.x, w)):
        assert (positions >= margin - 0.5 - 1e-9).all()
        assert (positions <= length - 0.5 - margin + 1e-9).all()
    distances = np.hypot(picks.y[:, None] - picks.y, picks.x[:, None] - picks.x)
    np.fill_diagonal(distances, np.inf)
    assert len(picks) == 0 or distances.min() >= apart * (1 - 1e-9)


@given(MAPS, st.floats(0, 0.9), st.floats(0, 60))
def test_a_higher_threshold_only_drops_picks(scores: np.ndarray, low: float, apart: float) -> None:
    of = score_map(scores)
    loose = find_peaks(of, threshold=low, min_distance_px=apart, edge_margin_px=0)
    strict = find_peaks(of, threshold=low + 0.1, min_distance_px=apart, edge_margin_px=0)
    kept = loose.select(loose.score >= np.float32(low + 0.1))
    np.testing.assert_array_equal(strict.y, kept.y)
    np.testing.assert_array_equal(strict.x, kept.x)


def test_where_a_model_is_sure_of_a_small_patch_its_middle_is_picked() -> None:
    patch = np.zeros((15, 21))
    patch[5:8, 12:15] = 1.0
    picks = find_peaks(score_map(patch), threshold=0.5, min_distance_px=80, edge_margin_px=0)
    assert [(y, x) for y, x in zip(picks.y, picks.x, strict=True)] == [(65.0, 135.0)]


def test_two_peaks_in_one_place_are_one_pick_however_small_the_distance_is() -> None:
    corner = np.zeros((4, 4))
    corner[1, 1] = corner[2, 2] = 0.87
    picks = find_peaks(score_map(corner), threshold=0.5, min_distance_px=1e-246, edge_margin_px=0)
    assert len({(y, x) for y, x in zip(picks.y, picks.x, strict=True)}) == len(picks)


def test_scores_in_steps_stay_where_they_are() -> None:
    scores = np.random.default_rng(0).random((50, 60)).astype(np.float32)
    steps = in_steps(scores)
    assert steps.dtype == np.float32
    assert np.abs(steps - scores).max() <= 0.5 / SCORE_STEPS + 1e-7
    assert np.array_equal(in_steps(steps), steps)
