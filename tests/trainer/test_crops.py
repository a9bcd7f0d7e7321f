import itertools
from collections.abc import Callable

import msgspec
import numpy as np
import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from frazil.errors import FrazilError
from frazil_trainer.crops import CropSampler
from frazil_trainer.labelled import LabelledMicrograph
from frazil_trainer.recipe import Recipe

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


@pytest.fixture(scope="module")
def crop_recipe(tiny_recipe: Recipe) -> Recipe:
    return msgspec.structs.replace(
        tiny_recipe, tile_px=8, diameter_px=8.0, positive_offset_diameters=0.28, negative_offset_diameters=0.5
    )


@st.composite
def scenes(draw: st.DrawFn) -> tuple[int, int, list[tuple[float, float]]]:
    h, w = draw(st.integers(24, 34)), draw(st.integers(36, 52))
    if draw(st.booleans()):
        h, w = w, h
    particle = st.tuples(st.floats(0, h - 1), st.floats(0, w - 1))
    return h, w, draw(st.lists(particle, min_size=1, max_size=5))


@given(scene=scenes(), seed=st.integers(0, 2**31), tile_px=st.sampled_from([7, 8]))
@settings(deadline=None, max_examples=30, phases=set(Phase) - {Phase.shrink})  # shrinking takes minutes
def test_positives_lie_on_particles_and_negatives_away_from_them(
    crop_recipe: Recipe,
    make_labelled: Callable[..., LabelledMicrograph],
    scene: tuple[int, int, list[tuple[float, float]]],
    seed: int,
    tile_px: int,
):
    h, w, centres = scene
    micrograph = make_labelled(coded_pixels(h, w), centres)
    recipe = msgspec.structs.replace(crop_recipe, tile_px=tile_px)
    tiles, labels = CropSampler([micrograph], recipe, seed).draw(40)
    places = Places(micrograph.picture.pixels, tile_px)
    for tile, label in zip(tiles[:, 0], labels, strict=True):
        y, x = places.of(tile)  # a KeyError here is a crop that is no part of the picture
        distance = np.hypot(*(micrograph.centres - (y, x)).T).min()
        if label:
            assert distance <= 0.28 * 8 + ROUNDING_PX + 1e-6
        else:
            assert distance >= 0.5 * 8 - ROUNDING_PX - 1e-6


def test_half_of_a_batch_is_positive(crop_recipe, make_labelled):
    sampler = CropSampler([make_labelled(coded_pixels(30, 50), [(15, 25)])], crop_recipe, 0)
    tiles, labels = sampler.draw(64)
    assert (tiles.shape, tiles.dtype) == ((64, 1, 8, 8), np.float32)
    assert (labels.shape, labels.dtype) == ((64,), np.float32)
    assert sorted(labels.tolist()) == [0.0] * 32 + [1.0] * 32


def test_positives_spread_evenly_around_their_particle(crop_recipe, make_labelled):
    micrograph = make_labelled(coded_pixels(40, 60), [(20, 33)])
    recipe = msgspec.structs.replace(crop_recipe, positive_offset_diameters=1.0)
    tiles, labels = CropSampler([micrograph], recipe, 1).draw(2000)
    places = Places(micrograph.picture.pixels, 8)
    offsets = np.array([places.of(tile) for tile in tiles[labels == 1, 0]]) - (20, 33)
    assert np.abs(offsets.mean(axis=0)).max() < 0.6
    assert np.median(np.hypot(*offsets.T)) == pytest.approx(8 * 0.5**0.5, abs=0.4)


def test_crops_are_turned_and_mirrored_in_all_eight_ways(crop_recipe, make_labelled):
    micrograph = make_labelled(coded_pixels(30, 50), [(15, 25)])
    places = Places(micrograph.picture.pixels, 8)
    tiles, labels = CropSampler([micrograph], crop_recipe, 2).draw(400)
    seen = np.bincount([places.turn(tile) for tile in tiles[labels == 1, 0]], minlength=8)
    assert seen.min() > 8


def test_share_of_the_negatives_lies_near_particles(crop_recipe, make_labelled):
    micrograph = make_labelled(coded_pixels(60, 90), [(30, 45)])
    places = Places(micrograph.picture.pixels, 8)

    def near(share: float) -> float:
        recipe = msgspec.structs.replace(crop_recipe, near_negatives=share)
        tiles, labels = CropSampler([micrograph], recipe, 3).draw(600)
        found = np.array([places.of(tile) for tile in tiles[labels == 0, 0]]) - (30, 45)
        return float((np.hypot(*found.T) <= 8 + ROUNDING_PX).mean())

    assert near(1.0) == 1.0
    assert near(0.0) < 0.1
    assert 0.35 < near(0.5) < 0.7


def test_negatives_lie_inside_the_border(crop_recipe, make_labelled):
    micrograph = make_labelled(coded_pixels(40, 60), [(12, 12), (30, 50)], border_px=10)
    places = Places(micrograph.picture.pixels, 8)
    tiles, labels = CropSampler([micrograph], crop_recipe, 4).draw(400)
    found = np.array([places.of(tile) for tile in tiles[labels == 0, 0]])
    assert found.min() >= 9.5
    assert found[:, 0].max() <= 30.5
    assert found[:, 1].max() <= 50.5
    assert found[:, 1].max() > 45


def test_particle_at_the_edge_is_seen_as_in_picking_with_the_picture_mirrored(crop_recipe, make_labelled):
    micrograph = make_labelled(coded_pixels(30, 50), [(0, 49)])
    recipe = msgspec.structs.replace(crop_recipe, positive_offset_diameters=0.0)
    tiles, labels = CropSampler([micrograph], recipe, 5).draw(20)
    places = Places(micrograph.picture.pixels, 8)
    assert {places.of(tile) for tile in tiles[labels == 1, 0]} <= {(y, x) for y in (-0.5, 0.5) for x in (48.5, 49.5)}


def test_same_seed_draws_the_same_crops_and_another_seed_others(crop_recipe, make_labelled):
    micrograph = make_labelled(coded_pixels(30, 50), [(15, 25), (5, 40)])

    def draw(seed: int) -> np.ndarray:
        sampler = CropSampler([micrograph], crop_recipe, seed)
        return np.concatenate([sampler.draw(16)[0] for _ in range(3)])

    np.testing.assert_array_equal(draw(9), draw(9))
    assert not np.array_equal(draw(9), draw(10))


def test_batches_of_one_sampler_differ(crop_recipe, make_labelled):
    sampler = CropSampler([make_labelled(coded_pixels(30, 50), [(15, 25)])], crop_recipe, 0)
    assert not np.array_equal(sampler.draw(16)[0], sampler.draw(16)[0])


def test_sets_are_drawn_by_weight_and_particles_of_a_set_alike(crop_recipe, make_labelled):
    # Each micrograph is flat and of its own grey.
    one, three = [(15, 25)], [(15, 10), (15, 25), (15, 40)]
    micrographs = [
        make_labelled(np.full((30, 50), 1), one, folder="light"),
        make_labelled(np.full((30, 50), 2), one, folder="heavy", weight=3),
        make_labelled(np.full((30, 50), 3), three, folder="heavy", weight=3),
    ]
    tiles, labels = CropSampler(micrographs, crop_recipe, 6).draw(8000)
    for label in (0, 1):
        grey = tiles[labels == label, 0, 0, 0].astype(int)
        assert np.bincount(grey, minlength=4)[1:] / grey.size == pytest.approx([1 / 4, 3 / 16, 9 / 16], abs=0.03)


def test_micrograph_without_room_for_a_negative_is_an_error_that_asks_for_the_diameter(crop_recipe, make_labelled):
    crowd = [(y, x) for y in range(0, 24, 2) for x in range(0, 30, 2)]
    sampler = CropSampler([make_labelled(coded_pixels(24, 30), crowd)], crop_recipe, 0)
    with pytest.raises(FrazilError, match="made: no place for a negative crop; is the diameter right"):
        sampler.draw(8)
