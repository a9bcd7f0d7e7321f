import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from frazil.picking import Picks, match_picks
from frazil_trainer.evaluation.ranking import Tally, tally_matches

coordinates = st.lists(st.tuples(st.floats(0, 60, width=32), st.floats(0, 90, width=32)), max_size=14)


def as_picks(rows: list[tuple[float, float]]) -> Picks:
    array = np.array(rows, np.float64).reshape(-1, 2)
    return Picks(y=array[:, 0], x=array[:, 1], score=np.ones(len(array)))


def distances(picks: Picks, truth: Picks) -> np.ndarray:
    return np.hypot(picks.y[:, None] - truth.y, picks.x[:, None] - truth.x)


@given(picks=coordinates, truth=coordinates, reach=st.floats(0.1, 40))
def test_picks_match_particles_one_to_one_and_never_beyond_the_distance(picks, truth, reach):
    found, known = as_picks(picks), as_picks(truth)
    matched = match_picks(found, known, reach)
    assert matched.shape == (len(found),)
    hit = np.flatnonzero(matched >= 0)
    assert len(set(matched[hit].tolist())) == len(hit)
    assert np.all(distances(found, known)[hit, matched[hit]] <= reach * (1 + 1e-9))


@given(picks=coordinates, truth=coordinates, reach=st.floats(0.1, 40))
def test_no_pick_and_particle_within_reach_are_both_left_over(picks, truth, reach):
    found, known = as_picks(picks), as_picks(truth)
    matched = match_picks(found, known, reach)
    free = np.setdiff1d(np.arange(len(known)), matched)
    assert np.all(distances(found, known)[np.ix_(matched < 0, free)] > reach * (1 - 1e-9))


@given(picks=coordinates, truth=coordinates, reach=st.floats(0.1, 40))
def test_picks_and_particles_can_change_places(picks, truth, reach):
    found, known = as_picks(picks), as_picks(truth)
    near = np.sort(distances(found, known).ravel())
    assume(near.size < 2 or np.diff(near).min() > 1e-9)  # equal distances may be matched either way
    forth, back = match_picks(found, known, reach), match_picks(known, found, reach)
    assert [(i, j) for i, j in enumerate(forth) if j >= 0] == sorted((j, i) for i, j in enumerate(back) if j >= 0)
    there, here = tally_matches(forth, len(known)), tally_matches(back, len(found))
    assert (there.hits, there.misses, there.false_picks) == (here.hits, here.false_picks, here.misses)
    assert there.f1 == here.f1
    assert there.precision == here.recall


def test_nearest_pair_is_matched_first_whatever_the_order(make_picks):
    truth = make_picks((10, 10))
    assert match_picks(make_picks((13, 10), (11, 10), (10, 12)), truth, 5).tolist() == [-1, 0, -1]


def test_pick_that_lost_its_particle_takes_the_next(make_picks):
    truth = make_picks((0, 0), (0, 6))
    assert match_picks(make_picks((0, 2), (0, 1)), truth, 5).tolist() == [1, 0]


def test_pick_exactly_on_a_particle_is_a_hit(make_picks):
    assert match_picks(make_picks((5, 7)), make_picks((50, 70), (5, 7)), 3).tolist() == [1]


def test_rows_and_columns_are_not_mixed_up(make_picks):
    assert match_picks(make_picks((10, 80)), make_picks((80, 10)), 20).tolist() == [-1]


@pytest.mark.parametrize(("offset", "hit"), [(4.999, True), (5.0, True), (5.001, False)])
def test_distance_itself_still_counts(make_picks, offset, hit):
    assert (match_picks(make_picks((0, offset)), make_picks((0, 0)), 5)[0] == 0) == hit


def test_nothing_matches_nothing(make_picks):
    assert match_picks(make_picks(), make_picks((1, 1)), 5).tolist() == []
    assert match_picks(make_picks((1, 1), (2, 2)), make_picks(), 5).tolist() == [-1, -1]


def test_many_picks_match_too(make_picks):
    rng = np.random.default_rng(0)
    y, x = (axis.ravel() * 10.0 for axis in np.mgrid[:40, :60])
    order = rng.permutation(y.size)
    truth = make_picks(*zip(y, x, strict=True))
    picks = make_picks(*zip(y[order] + rng.uniform(-2, 2, y.size), x[order] + rng.uniform(-2, 2, y.size), strict=True))
    np.testing.assert_array_equal(match_picks(picks, truth, 4), order)


def test_tally_counts_hits_misses_and_false_picks():
    tally = tally_matches(np.array([2, -1, 0, -1, -1]), 6)
    assert tally == Tally(hits=2, misses=4, false_picks=3)
    assert tally.precision == pytest.approx(2 / 5)
    assert tally.recall == pytest.approx(2 / 6)
    assert tally.f1 == pytest.approx(2 * (2 / 5) * (2 / 6) / (2 / 5 + 2 / 6))


counts = st.integers(0, 1000)
tallies = st.builds(Tally, hits=counts, misses=counts, false_picks=counts)


@given(tallies=st.lists(tallies, max_size=5))
def test_tallies_add_up(tallies):
    total = sum(tallies, Tally())
    assert total.hits == sum(t.hits for t in tallies)
    assert total.misses == sum(t.misses for t in tallies)
    assert total.false_picks == sum(t.false_picks for t in tallies)


@given(tally=tallies)
def test_f1_is_the_harmonic_mean_of_precision_and_recall(tally):
    p, r = tally.precision, tally.recall
    assert 0 <= p <= 1
    assert 0 <= r <= 1
    assert tally.f1 == pytest.approx(2 * p * r / (p + r) if p + r else 0.0)


def test_figures_of_an_empty_tally_are_zero():
    assert (Tally().precision, Tally().recall, Tally().f1) == (0, 0, 0)
