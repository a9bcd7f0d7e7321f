"""Every threshold, average precision and the best threshold from one ranking."""

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from frazil.picking import Picks, hits_gained, match_picks
from frazil_trainer.evaluation.ranking import (
    Ranking,
    Tally,
    average_precision,
    sweep_thresholds,
    tally_matches,
)

whole = st.integers(0, 9)
places = st.lists(st.tuples(whole, whole), max_size=12)
scored_places = st.lists(st.tuples(whole, whole, st.integers(1, 5)), max_size=12)


def as_picks(rows: list[tuple[float, ...]]) -> Picks:
    array = np.array([(*row, 1.0)[:3] for row in rows], np.float64).reshape(-1, 3)
    return Picks(y=array[:, 0], x=array[:, 1], score=array[:, 2] / 10)


def ranking(scores: list[float], gained: list[int], particles: int) -> Ranking:
    return Ranking(score=np.array(scores, float), gained=np.array(gained, bool), particles=particles)


@given(picks=places, truth=places, reach=st.floats(0.5, 6))
def test_hits_gained_add_up_to_the_hits_of_each_first_few_picks_alone(picks, truth, reach):
    found, known = as_picks(picks), as_picks(truth)
    gained = hits_gained(found, known, reach)
    for k in range(len(found) + 1):
        alone = tally_matches(match_picks(found.select(np.arange(k)), known, reach), len(known))
        assert gained[:k].sum() == alone.hits


@given(picks=places, truth=places, reach=st.floats(0.5, 6))
def test_matching_is_what_taking_the_nearest_pair_over_and_over_gives(picks, truth, reach):
    found, known = as_picks(picks), as_picks(truth)
    apart = np.hypot(found.y[:, None] - known.y, found.x[:, None] - known.x)
    pairs = sorted((apart[i, j], i, j) for i in range(len(found)) for j in range(len(known)) if apart[i, j] <= reach)
    expected = np.full(len(found), -1)
    for _, i, j in pairs:
        if expected[i] < 0 and j not in expected:
            expected[i] = j
    assert match_picks(found, known, reach).tolist() == expected.tolist()


@given(picks=scored_places, truth=places, threshold=st.integers(0, 6))
def test_tally_of_a_ranking_is_that_of_the_picks_above_the_threshold(picks, truth, threshold):
    found, known = as_picks(picks), as_picks(truth)
    kept = found.select(np.argsort(-found.score, kind="stable"))
    kept = kept.select(kept.score >= threshold / 10)
    tally = Ranking.of_micrograph(found, known, 2.0).tally(threshold / 10)
    assert tally == tally_matches(match_picks(kept, known, 2.0), len(known))


def test_no_threshold_counts_all_picks():
    assert ranking([9, 3, -2], [1, 0, 1], 4).tally(None) == Tally(hits=2, misses=2, false_picks=1)


def test_pooled_picks_keep_their_hits_and_are_ranked_together():
    pooled = Ranking.pooled([ranking([0.9, 0.3], [1, 0], 1), ranking([0.5], [1], 3)])
    assert pooled.score.tolist() == [0.9, 0.5, 0.3]
    assert pooled.gained.tolist() == [True, True, False]
    assert pooled.particles == 4
    assert Ranking.pooled([]).tally(None) == Tally()


def test_average_precision_by_hand():
    # Recall 1/4 at precision 1/1, 2/4 at 2/3, 3/4 at 3/4; the fourth particle is never found.
    one = ranking([0.9, 0.8, 0.7, 0.6], [1, 0, 1, 1], 4)
    assert average_precision(one) == pytest.approx((1 + 2 / 3 + 3 / 4) / 4)


def test_picks_of_equal_score_are_one_step_in_whatever_order():
    forth, back = ranking([0.9, 0.5, 0.5], [1, 1, 0], 2), ranking([0.9, 0.5, 0.5], [1, 0, 1], 2)
    assert average_precision(forth) == average_precision(back) == pytest.approx((1 + 2 / 3) / 2)


@pytest.mark.parametrize(
    ("one", "expected"),
    [(ranking([], [], 5), 0), (ranking([0.9, 0.8], [1, 1], 2), 1), (ranking([0.9], [0], 0), 0)],
)
def test_average_precision_of_nothing_and_of_all(one, expected):
    assert average_precision(one) == expected


@given(picks=scored_places, truth=places)
def test_average_precision_lies_between_none_and_the_recall_reached_and_false_picks_at_the_end_change_nothing(
    picks, truth
):
    one = Ranking.of_micrograph(as_picks(picks), as_picks(truth), 2.0)
    average = average_precision(one)
    assert 0 <= average <= one.tally(None).recall + 1e-12
    longer = ranking([*one.score, 0.01], [*one.gained, 0], one.particles)
    assert average_precision(longer) == pytest.approx(average)


@given(picks=scored_places, truth=places)
def test_sweep_passes_through_the_figures_at_every_threshold(picks, truth):
    one = Ranking.of_micrograph(as_picks(picks), as_picks(truth), 2.0)
    sweep = sweep_thresholds(one)
    assert sweep.threshold.tolist() == sorted(set(one.score.tolist()), reverse=True)
    for threshold, precision, recall, f1 in zip(sweep.threshold, sweep.precision, sweep.recall, sweep.f1, strict=True):
        tally = one.tally(threshold)
        assert (precision, recall, f1) == pytest.approx((tally.precision, tally.recall, tally.f1))


def test_new_pick_may_take_a_particle_but_costs_no_hit(make_picks: Callable[..., Picks]):
    # The weak pick is nearer: it takes the particle of the strong one, which finds no other.
    picks, truth = make_picks((0, 3, 0.9), (0, 1, 0.2)), make_picks((0, 0))
    assert hits_gained(picks, truth, 5).tolist() == [True, False]
    assert match_picks(picks, truth, 5).tolist() == [-1, 0]


@pytest.mark.parametrize(("scores", "has"), [([1, 1, 1], False), ([1, 1, 0.5], True), ([1], True), ([], True)])
def test_equal_scores_of_several_picks_are_none(scores, has):
    assert ranking(scores, [0] * len(scores), 2).has_scores == has
