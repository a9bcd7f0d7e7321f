"""Intervals from micrographs drawn with replacement."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from frazil_trainer.evaluation.bootstrap import best_coverage, bootstrap
from frazil_trainer.evaluation.ranking import Tally

counts = st.integers(0, 500)
tallies = st.builds(Tally, hits=st.integers(1, 500), misses=counts, false_picks=counts)


def test_one_micrograph_says_nothing_of_others():
    assert bootstrap([Tally(hits=5, misses=1, false_picks=2)]) is None
    assert bootstrap([]) is None


@given(members=st.lists(tallies, min_size=2, max_size=8))
@settings(max_examples=20)
def test_intervals_stay_between_the_worst_and_the_best_micrograph(members):
    intervals = bootstrap(members)
    assert intervals is not None
    for name in ("precision", "recall", "f1"):
        values = [getattr(one, name) for one in members]
        interval = getattr(intervals, name)
        assert min(values) - 1e-4 <= interval.low <= interval.high <= max(values) + 1e-4


def test_equal_micrographs_leave_no_doubt():
    intervals = bootstrap([Tally(hits=8, misses=2, false_picks=2)] * 4)
    assert intervals is not None
    assert intervals.recall.low == intervals.recall.high == 0.8


def test_two_micrographs_span_from_one_to_the_other():
    # Each is drawn twice in a quarter of all draws, far more often than in 2.5 of 100.
    intervals = bootstrap([Tally(hits=9, misses=1, false_picks=0), Tally(hits=5, misses=5, false_picks=0)])
    assert intervals is not None
    assert (intervals.recall.low, intervals.recall.high) == (0.5, 0.9)


def test_interval_is_that_of_all_possible_draws():
    members = [Tally(hits=hits, misses=100 - hits) for hits in (60, 70, 75, 90, 95)]
    every = [sum(drawn, Tally()).recall for drawn in itertools.product(members, repeat=5)]
    intervals = bootstrap(members)
    assert intervals is not None
    assert intervals.recall.low == pytest.approx(np.percentile(every, 2.5), abs=0.015)
    assert intervals.recall.high == pytest.approx(np.percentile(every, 97.5), abs=0.015)


def test_the_same_micrographs_give_the_same_interval():
    members = [Tally(hits=hits, misses=9, false_picks=hits % 7) for hits in (30, 41, 77)]
    assert bootstrap(members) == bootstrap(members)


def test_large_micrographs_weigh_more():
    large, small = Tally(hits=900, misses=100), Tally(hits=1, misses=9)
    intervals = bootstrap([large] * 5 + [small] * 5)
    assert intervals is not None
    assert intervals.recall.low > 0.8


@pytest.mark.parametrize(("micrographs", "coverage"), [(1, 0), (2, 0.5), (3, 0.75), (6, 0.96875)])
def test_few_micrographs_cannot_promise_much(micrographs, coverage):
    assert best_coverage(micrographs) == coverage
