import itertools
from collections.abc import Callable

import msgspec
import numpy as np
import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from frazil.errors import FrazilError
from frazil_trainer.data.labelled import LabelledMicrograph
from frazil_trainer.examples.crops import CropSampler
from frazil_trainer.recipe import DrawnCrops

ROUNDING_PX = 0.5**0.5
"""A crop sits on whole pixels: half a pixel off on each axis."""


def coded_pixels(h: int, w: int) -> np.ndarray:
    """A picture whose every pixel tells its place."""
    return (np.arange(h)[:, None] * 1000.0 + np.arange(w)).astype(np.float32)


class Places:
    """Where a crop of a coded picture was cut, and how it was turned."""

    def __init__(self, pixels: np.ndarray, tile_px: int) -> None:
        half, t = tile_px // 2, tile_px
        padded = np.pad(pixels, half, mode="symmetric")
        self.places: dict[bytes, tuple[float, float]] = {}
        self.turns: dict[bytes, int] = {}
        for top, left in itertools.product(range(padded.shape[0] - t + 1), range(padded.shape[1] - t + 1)):
            window = padded[top : top + t, left : left + t]
            for turn in range(8):
                turned = np.rot90(window if turn < 4 else window.T, turn).tobytes()
                self.places.setdefault(turned, (top - half + (t - 1) / 2, left - half + (t - 1) / 2))
                self.turns.setdefault(turned, turn)

    def of(self, tile: np.ndarray) -> tuple[float, float]:
        return self.places[tile.tobytes()]

    def turn(self, tile: np.ndarray) -> int:
        return self.turns[tile.tobytes()]


DIAMETER_PX = 8.0


@pytest.fixture(scope="module")
def crops() -> DrawnCrops:
    return DrawnCrops(positive_offset_diameters=0.28, negative_offset_diameters=0.5)


def draw(
    micrographs: list[LabelledMicrograph], crops: DrawnCrops, seed: int, count: int, *, tile_px: int = 8
) -> tuple[np.ndarray, np.ndarray]:
    """(count, 1, t, t) crops and (count,) labels, every other one positive."""
    sampler = CropSampler(micrographs, crops, tile_px=tile_px, diameter_px=DIAMETER_PX)
    return sampler.draw(seed, 0, range(count))


@st.composite
def scenes(draw: st.DrawFn) -> tuple[int, int, list[tuple[float, float]]]:
    h, w = draw(st.integers(24, 34)), draw(st.integers(36, 52))
    if draw(st.booleans()):
        h, w = w, h
    particle = st.tuples(st.floats(0, h - 1), st.floats(0, w - 1))
    return h, w, draw(st.lists(particle, min_size=1, max_size=5))


@given(scene=scenes(), seed=st.integers(0, 2**31), tile_px=st.sampled_from([7, 8]))
@settings(max_examples=30, phases=set(Phase) - {Phase.shrink})  # shrinking takes minutes
def test_positives_lie_on_particles_and_negatives_away_from_them(
    crops: DrawnCrops,
    make_labelled: Callable[..., LabelledMicrograph],
    scene: tuple[int, int, list[tuple[float, float]]],
    seed: int,
    tile_px: int,
):
    h, w, centres = scene
    micrograph = make_labelled(coded_pixels(h, w), centres)
    tiles, labels = draw([micrograph], crops, seed, 40, tile_px=tile_px)
    places = Places(micrograph.picture.pixels, tile_px)
    for tile, label in zip(tiles[:, 0], labels, strict=True):
        y, x = places.of(tile)  # a KeyError here is a crop that is no part of the picture
        distance = np.hypot(*(micrograph.centres - (y, x)).T).min()
        if label:
            assert distance <= 0.28 * 8 + ROUNDING_PX + 1e-6
        else:
            assert distance >= 0.5 * 8 - ROUNDING_PX - 1e-6


def test_half_of_a_batch_is_positive(crops, make_labelled):
    tiles, labels = draw([make_labelled(coded_pixels(30, 50), [(15, 25)])], crops, 0, 64)
    assert (tiles.shape, tiles.dtype) == ((64, 1, 8, 8), np.float32)
    assert (labels.shape, labels.dtype) == ((64,), np.float32)
    assert sorted(labels.tolist()) == [0.0] * 32 + [1.0] * 32


def test_positives_spread_evenly_around_their_particle(crops, make_labelled):
    micrograph = make_labelled(coded_pixels(40, 60), [(20, 33)])
    recipe = msgspec.structs.replace(crops, positive_offset_diameters=1.0)
    tiles, labels = draw([micrograph], recipe, 1, 2000)
    places = Places(micrograph.picture.pixels, 8)
    offsets = np.array([places.of(tile) for tile in tiles[labels == 1, 0]]) - (20, 33)
    assert np.abs(offsets.mean(axis=0)).max() < 0.6
    assert np.median(np.hypot(*offsets.T)) == pytest.approx(8 * 0.5**0.5, abs=0.4)


def test_crops_are_turned_and_mirrored_in_all_eight_ways(crops, make_labelled):
    micrograph = make_labelled(coded_pixels(30, 50), [(15, 25)])
    places = Places(micrograph.picture.pixels, 8)
    tiles, labels = draw([micrograph], crops, 2, 400)
    seen = np.bincount([places.turn(tile) for tile in tiles[labels == 1, 0]], minlength=8)
    assert seen.min() > 8


def test_a_fraction_of_the_negatives_lies_near_particles(crops, make_labelled):
    micrograph = make_labelled(coded_pixels(60, 90), [(30, 45)])
    places = Places(micrograph.picture.pixels, 8)

    def near(fraction: float) -> float:
        recipe = msgspec.structs.replace(crops, near_negatives=fraction)
        tiles, labels = draw([micrograph], recipe, 3, 600)
        found = np.array([places.of(tile) for tile in tiles[labels == 0, 0]]) - (30, 45)
        return float((np.hypot(*found.T) <= 8 + ROUNDING_PX).mean())

    assert near(1.0) == 1.0
    assert near(0.0) < 0.1
    assert 0.35 < near(0.5) < 0.7


def test_negatives_lie_inside_the_border(crops, make_labelled):
    micrograph = make_labelled(coded_pixels(40, 60), [(12, 12), (30, 50)], border_px=10)
    places = Places(micrograph.picture.pixels, 8)
    tiles, labels = draw([micrograph], crops, 4, 400)
    found = np.array([places.of(tile) for tile in tiles[labels == 0, 0]])
    assert found.min() >= 9.5
    assert found[:, 0].max() <= 30.5
    assert found[:, 1].max() <= 50.5
    assert found[:, 1].max() > 45


def test_particle_at_the_edge_is_seen_as_in_picking_with_the_picture_mirrored(crops, make_labelled):
    micrograph = make_labelled(coded_pixels(30, 50), [(0, 49)])
    recipe = msgspec.structs.replace(crops, positive_offset_diameters=0.0)
    tiles, labels = draw([micrograph], recipe, 5, 20)
    places = Places(micrograph.picture.pixels, 8)
    assert {places.of(tile) for tile in tiles[labels == 1, 0]} <= {(y, x) for y in (-0.5, 0.5) for x in (48.5, 49.5)}


def test_an_example_depends_on_seed_update_and_its_place_in_the_batch_alone(crops, make_labelled):
    micrographs = [make_labelled(coded_pixels(30, 50), [(15, 25), (5, 40)])]
    sampler = CropSampler(micrographs, crops, tile_px=8, diameter_px=DIAMETER_PX)

    def batch(seed: int, update: int, examples: range) -> np.ndarray:
        return sampler.draw(seed, update, examples)[0]

    whole = batch(9, 4, range(16))
    np.testing.assert_array_equal(batch(9, 4, range(16)), whole)
    np.testing.assert_array_equal(batch(9, 4, range(6, 12)), whole[6:12])
    assert not np.array_equal(batch(10, 4, range(16)), whole)
    assert not np.array_equal(batch(9, 5, range(16)), whole)


def test_sets_are_drawn_by_weight_and_particles_of_a_set_alike(crops, make_labelled):
    # Each micrograph is flat and of its own grey.
    one, three = [(15, 25)], [(15, 10), (15, 25), (15, 40)]
    micrographs = [
        make_labelled(np.full((30, 50), 1), one, folder="light"),
        make_labelled(np.full((30, 50), 2), one, folder="heavy", weight=3),
        make_labelled(np.full((30, 50), 3), three, folder="heavy", weight=3),
    ]
    tiles, labels = draw(micrographs, crops, 6, 8000)
    for label in (0, 1):
        grey = tiles[labels == label, 0, 0, 0].astype(int)
        assert np.bincount(grey, minlength=4)[1:] / grey.size == pytest.approx([1 / 4, 3 / 16, 9 / 16], abs=0.03)


def test_micrograph_without_room_for_a_negative_is_an_error_that_asks_for_the_diameter(crops, make_labelled):
    crowd = [(y, x) for y in range(0, 24, 2) for x in range(0, 30, 2)]
    with pytest.raises(FrazilError, match="made: no place for a negative crop; is the diameter right"):
        draw([make_labelled(coded_pixels(24, 30), crowd)], crops, 0, 8)


def test_no_negative_is_drawn_where_there_is_no_data(
    make_labelled: Callable[..., LabelledMicrograph], crops: DrawnCrops
) -> None:
    pixels, blank = coded_pixels(60, 90), np.zeros((60, 90), np.bool_)
    blank[:, 40:] = True
    micrograph = make_labelled(pixels, [(30, 20)], blank=blank)
    tiles, labels = draw([micrograph], crops, 1, 120)
    places = Places(pixels, 8)
    columns = [places.of(tile[0])[1] for tile in tiles[labels == 0]]
    assert len(columns) == 60
    assert max(columns) <= 40 + ROUNDING_PX
