import numpy as np
import pytest

from frazil_trainer.simulate.placement import place_particles
from frazil_trainer.simulate.scene import Frame, draw_carbon, draw_contamination, ice_transmission


def place(count: int, overlap_fraction: float = 0.0, **changes: object) -> np.ndarray:
    values: dict[str, object] = {
        "shape": (600, 900),
        "rim_px": 0.0,
        "distance_px": 30.0,
        "overlap_distance_px": 10.0,
        "is_free": lambda y, x: np.ones(y.shape, bool),
        "rng": np.random.default_rng(0),
    }
    return place_particles(count, overlap_fraction=overlap_fraction, **(values | changes))


def nearest(centres: np.ndarray) -> np.ndarray:
    distance = np.hypot(*(centres[:, None] - centres[None]).transpose(2, 0, 1))
    np.fill_diagonal(distance, np.inf)
    return distance.min(1)


def test_particles_keep_their_distance_and_fill_a_micrograph_that_is_not_square():
    centres = place(250)
    assert len(centres) == 250
    assert nearest(centres).min() >= 30
    assert centres[:, 0].max() == pytest.approx(599, abs=30)
    assert centres[:, 1].max() == pytest.approx(899, abs=30)


def test_some_particles_overlap_where_that_is_allowed():
    gaps = nearest(place(250, overlap_fraction=0.5))
    assert gaps.min() >= 10
    assert 5 < np.count_nonzero(gaps < 30) < 250


def test_a_crowded_micrograph_gets_fewer_particles_and_never_hangs():
    assert 80 < len(place(400, distance_px=60.0)) < 180


def test_particles_beyond_the_border_come_on_top_of_those_within():
    centres = place(150, rim_px=60.0)
    inside = np.all((centres >= 0) & (centres <= [599, 899]), axis=1)
    assert np.count_nonzero(inside) == 150
    assert 30 < np.count_nonzero(~inside) < 90
    assert centres.min() >= -60


def test_contamination_is_a_blob_of_irregular_outline_at_its_place():
    (blob,) = draw_contamination(1, (500, 700), 60.0, np.random.default_rng(2))
    assert blob.radius >= 60
    frame = Frame(origin=(0, 0), shape=(500, 700))
    thickness = blob.thickness(*frame.coordinates())
    assert thickness.min() == 0
    angle = np.linspace(0, 2 * np.pi, 60)
    outline = [
        np.count_nonzero(
            blob.depth(
                blob.y + np.arange(400) * np.sin(a),
                blob.x + np.arange(400) * np.cos(a),
            )
            > 0
        )
        for a in angle
    ]
    assert np.std(outline) > 0.03 * np.mean(outline)
    assert max(outline) < blob.reach_px


def test_window_cuts_what_a_blob_needs_out_of_a_frame():
    frame = Frame(origin=(-20, -30), shape=(200, 300))
    rows, columns, part = frame.window(5.0, 260.0, 40.0)
    assert (rows, columns) == (slice(0, 66), slice(250, 300))
    assert part == Frame(origin=(-20, 220), shape=(66, 50))
    _, _, nothing = frame.window(1000.0, 1000.0, 10.0)
    assert nothing.shape == (0, 0)


@pytest.mark.parametrize("seed", range(8))
def test_carbon_crosses_the_micrograph_and_leaves_its_middle_free(seed):
    film = draw_carbon((900, 1300), 1.77, np.random.default_rng(seed))
    depth = film.depth(*Frame(origin=(0, 0), shape=(900, 1300)).coordinates())
    assert depth.shape == (900, 1300)
    assert depth[450, 650] < 0
    assert 0.0 < np.mean(depth > 0) < 0.7


def test_ice_is_even_on_average_and_departs_by_no_more_than_the_gradient():
    ice = ice_transmission((300, 500), 0.06, np.random.default_rng(1))
    assert ice.mean() == pytest.approx(1, abs=1e-4)
    assert 0.01 < np.abs(ice - 1).max() <= 0.0601
