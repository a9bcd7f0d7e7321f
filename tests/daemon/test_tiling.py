"""Tiling: every score is of the place it claims, and the whole picture but the margins is scored."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from frazil.model import ModelContract
from frazil.model.tiling import Batches, Tiling, plan_tiling


def contract(tile_px: int, grid: int, step_px: float, offset_px: float) -> ModelContract:
    return ModelContract(
        architecture="any",
        tile_px=tile_px,
        grid=grid,
        step_px=step_px,
        offset_px=offset_px,
        diameter_px=10,
        normalisation="flat-01",
        contrast="dark",
        threshold=0.5,
        training_set_sha256="",
        validation="{}",
    )


CONTRACTS = [
    contract(64, 1, 12.8, 31.5),  # the paper's window
    contract(9, 1, 1.0, 4.0),
    contract(32, 4, 4.0, 9.5),  # dense, with a halo
    contract(16, 16, 1.0, 0.0),  # dense, without
]
OPEN = [
    (contract(32, 4, 4.0, 9.5), 60**2),
    (contract(32, 4, 4.0, 9.5), 15**2),  # room for less than the least tile
    (contract(104, 9, 8.0, 19.5), 104**2),  # windows of 40 px that share their features
]
"""Dense, of any sides, with the most pixels in a tile."""
KINDS = [*((of, 0) for of in CONTRACTS), *OPEN]
ids = [f"t{of.tile_px}g{of.grid}" + (f"up-to-{most}" if most else "") for of, most in KINDS]


def pixels_at_scores(tiling: Tiling, picture: np.ndarray, of: ModelContract, largest: int) -> np.ndarray:
    """A score map whose scores are the pixels, in the tiles, that they belong to."""
    tiles = np.concatenate([batch.copy() for batch in tiling.batches(picture, largest)])
    assert tiles.shape == (tiling.count, 1, *tiling.tile_shape)
    at_y, at_x = (of.offset_px + of.step_px * np.arange(axis.grid) for axis in (tiling.y, tiling.x))
    inside = tiles[:, 0]
    scores = sum(inside[:, r(at_y).astype(int)][:, :, r(at_x).astype(int)] for r in (np.floor, np.ceil)) / 2
    return tiling.assemble(scores.astype(np.float32))


@pytest.mark.parametrize(("of", "most"), KINDS, ids=ids)
@given(h=st.integers(1, 150), w=st.integers(1, 150), margin=st.floats(0, 30))
def test_scores_reach_both_margins_without_a_hole(of: ModelContract, most: int, h: int, w: int, margin: float) -> None:
    tiling = plan_tiling((h, w), of, (margin, margin), largest_tile_pixels=most)
    if tiling is None:
        assert min(h, w) < 2 * margin
        return
    for axis, length in ((tiling.y, h), (tiling.x, w)):
        # Origins are whole pixels, so centres are off by up to half a pixel.
        assert axis.centres[0] <= margin - 0.5 + 0.5 + 1e-9
        assert axis.centres[-1] >= length - 0.5 - margin - 0.5 - of.step_px * 1e-6 - 1e-9
        gaps = np.diff(axis.centres)
        assert gaps.size == 0 or (gaps.min() >= of.step_px - 1 - 1e-9 and gaps.max() <= of.step_px + 1 + 1e-9)


@pytest.mark.parametrize(("of", "most"), KINDS, ids=ids)
@pytest.mark.parametrize("largest", [1, 7, 10_000])
def test_each_score_comes_from_the_place_it_claims(of: ModelContract, most: int, largest: int) -> None:
    h, w = 90, 131
    rows, columns = np.mgrid[:h, :w].astype(np.float32)
    tiling = plan_tiling((h, w), of, (0.0, 0.0), largest_tile_pixels=most)
    assert tiling is not None
    places = []
    for picture in (rows, columns):
        sizes = [len(batch) for batch in tiling.batches(picture, largest)]
        assert max(sizes) <= largest
        announced = Batches(count=len(sizes), tiles=sum(sizes), room=len(sizes) * largest)
        assert tiling.count_batches(largest) == announced
        assert sum(sizes) == tiling.count
        places.append(pixels_at_scores(tiling, picture, of, largest))
    y, x = np.meshgrid(tiling.y.centres, tiling.x.centres, indexing="ij")
    # Away from the edges, where the picture is mirrored, a tile's pixels are where it says.
    inner = (y > 1) & (y < h - 2) & (x > 1) & (x < w - 2)
    np.testing.assert_allclose(places[0][inner], y[inner], atol=0.5)
    np.testing.assert_allclose(places[1][inner], x[inner], atol=0.5)


@pytest.mark.parametrize(("of", "most"), KINDS, ids=ids)
@given(h=st.integers(1, 150), w=st.integers(1, 150), margin=st.floats(0, 30), parts=st.integers(1, 20))
def test_parts_of_a_tiling_make_up_the_whole(
    of: ModelContract, most: int, h: int, w: int, margin: float, parts: int
) -> None:
    picture = np.random.default_rng(0).random((h, w), np.float32)
    tiling = plan_tiling((h, w), of, (margin, margin), largest_tile_pixels=most)
    if tiling is None:
        return
    divided = tiling.split(parts)
    assert len(divided) == min(parts, tiling.y.origins.size)
    whole = pixels_at_scores(tiling, picture, of, 7)
    np.testing.assert_array_equal(np.vstack([pixels_at_scores(part, picture, of, 7) for part in divided]), whole)
    np.testing.assert_array_equal(np.concatenate([part.y.centres for part in divided]), tiling.y.centres)
    assert all(part.x is tiling.x for part in divided)


@pytest.mark.parametrize(("of", "most"), OPEN, ids=ids[len(CONTRACTS) :])
@given(h=st.integers(1, 400), w=st.integers(1, 400))
def test_tiles_of_any_side_are_no_larger_than_the_picture_needs(of: ModelContract, most: int, h: int, w: int) -> None:
    tiling = plan_tiling((h, w), of, (0.0, 0.0), largest_tile_pixels=most)
    assert tiling is not None
    least = of.tile_px - (of.grid - 1) * of.step_px
    for axis, length in ((tiling.y, h), (tiling.x, w)):
        assert axis.tile_px == least + (axis.grid - 1) * of.step_px
        # No more than one step beyond for each tile.
        assert axis.centres.size * of.step_px < length + of.step_px * (axis.origins.size + 1)
    assert tiling.y.tile_px * tiling.x.tile_px <= max(most, least**2)
    # Tiles are split only where one that covers both would be too large.
    if tiling.count > 1:
        y, x = (axis.tile_px + (axis.origins.size > 1) * axis.grid * of.step_px for axis in (tiling.y, tiling.x))
        assert y * x > most


def test_the_papers_windows_are_counted_right() -> None:
    tiling = plan_tiling((1456, 1456), CONTRACTS[0], (32.0, 32.0))
    assert tiling is not None
    assert tiling.count == 110 * 110  # 4096 px, stride 36, centres from 90 px on


def test_margins_that_leave_nothing_give_no_tiling_and_those_that_leave_a_line_one_row() -> None:
    assert plan_tiling((50, 200), CONTRACTS[0], (30, 30)) is None
    line = plan_tiling((60, 200), CONTRACTS[0], (30, 30))
    assert line is not None
    assert line.y.centres.tolist() == pytest.approx([29.5], abs=0.5)


def test_a_model_of_one_tile_size_gets_tiles_of_it() -> None:
    tiling = plan_tiling((90, 131), CONTRACTS[2], (0, 0))
    assert tiling is not None
    assert tiling.tile_shape == (32, 32)


def test_a_tile_may_have_just_as_many_pixels_as_it_may() -> None:
    of, _ = OPEN[0]
    whole = plan_tiling((90, 131), of, (0, 0), largest_tile_pixels=10**9)
    assert whole is not None
    pixels = whole.tile_shape[0] * whole.tile_shape[1]
    counts = [
        tiling.count
        for most in (pixels, pixels - 1)
        if (tiling := plan_tiling((90, 131), of, (0, 0), largest_tile_pixels=most))
    ]
    assert counts == [1, 2]


def test_batches_add_up() -> None:
    assert Batches(count=1, tiles=2, room=3) + Batches(count=10, tiles=20, room=30) == Batches(
        count=11, tiles=22, room=33
    )


def test_a_picture_smaller_than_a_tile_is_mirrored() -> None:
    tiling = plan_tiling((20, 30), CONTRACTS[0], (0, 0))
    assert tiling is not None
    picture = np.random.default_rng(0).random((20, 30), np.float32)
    tiles = np.concatenate([batch.copy() for batch in tiling.batches(picture, 100)])[:, 0]
    around = np.pad(picture, 64, mode="symmetric")
    corners = [(64 + y, 64 + x) for y in tiling.y.origins for x in tiling.x.origins]
    np.testing.assert_array_equal(tiles, [around[y : y + 64, x : x + 64] for y, x in corners])


@pytest.mark.parametrize("across", [False, True])
def test_tiles_need_room_for_little_more_than_the_picture(across: bool) -> None:
    h, w = (300, 5000) if across else (5000, 300)
    tiling = plan_tiling((h, w), CONTRACTS[0], (0, 0))
    assert tiling is not None
    picture = np.zeros((h, w), np.float32)
    tracemalloc.start()
    try:
        next(tiling.batches(picture, 1))
        _, most = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert most < 1.6 * picture.nbytes
