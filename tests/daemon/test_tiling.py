"""Tiling: every score is of the place it claims, and the whole picture but the margins is scored."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from frazil.picking import ModelContract
from frazil.picking.tiling import plan_tiling


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


@pytest.mark.parametrize("of", CONTRACTS, ids=lambda c: f"t{c.tile_px}g{c.grid}")
@given(h=st.integers(1, 150), w=st.integers(1, 150), margin=st.floats(0, 30))
def test_scores_reach_both_margins_without_a_hole(of: ModelContract, h: int, w: int, margin: float) -> None:
    tiling = plan_tiling((h, w), of, (margin, margin))
    if tiling is None:
        assert min(h, w) < 2 * margin
        return
    for axis, length in ((tiling.y, h), (tiling.x, w)):
        # Origins are whole pixels, so centres are off by up to half a pixel.
        assert axis.centres[0] <= margin - 0.5 + 0.5 + 1e-9
        assert axis.centres[-1] >= length - 0.5 - margin - 0.5 - of.step_px * 1e-6 - 1e-9
        gaps = np.diff(axis.centres)
        assert gaps.size == 0 or (gaps.min() >= of.step_px - 1 - 1e-9 and gaps.max() <= of.step_px + 1 + 1e-9)


@pytest.mark.parametrize("of", CONTRACTS, ids=lambda c: f"t{c.tile_px}g{c.grid}")
@pytest.mark.parametrize("largest", [1, 7, 10_000])
def test_each_score_comes_from_the_place_it_claims(of: ModelContract, largest: int) -> None:
    h, w = 90, 131
    rows, columns = np.mgrid[:h, :w].astype(np.float32)
    tiling = plan_tiling((h, w), of, (0.0, 0.0))
    assert tiling is not None
    places = []
    for picture in (rows, columns):
        batches = list(tiling.batches(picture, largest))
        assert max(len(b) for b in batches) <= largest
        tiles = np.concatenate(batches)
        assert tiles.shape == (tiling.count, 1, of.tile_px, of.tile_px)
        at = of.offset_px + of.step_px * np.arange(of.grid)
        low, high = np.floor(at).astype(int), np.ceil(at).astype(int)
        inside = tiles[:, 0]
        scores = (inside[:, low][:, :, low] + inside[:, high][:, :, high]) / 2
        places.append(tiling.assemble(scores.astype(np.float32)))
    y, x = np.meshgrid(tiling.y.centres, tiling.x.centres, indexing="ij")
    # Away from the edges, where the picture is mirrored, a tile's pixels are where it says.
    inner = (y > 1) & (y < h - 2) & (x > 1) & (x < w - 2)
    np.testing.assert_allclose(places[0][inner], y[inner], atol=0.5)
    np.testing.assert_allclose(places[1][inner], x[inner], atol=0.5)


def test_the_papers_windows_are_counted_right() -> None:
    tiling = plan_tiling((1456, 1456), CONTRACTS[0], (32.0, 32.0))
    assert tiling is not None
    assert tiling.count == 110 * 110  # 4096 px, stride 36, centres from 90 px on


def test_margins_that_leave_nothing_give_no_tiling() -> None:
    assert plan_tiling((50, 200), CONTRACTS[0], (30, 30)) is None


def test_a_picture_smaller_than_a_tile_is_mirrored() -> None:
    tiling = plan_tiling((20, 30), CONTRACTS[0], (0, 0))
    assert tiling is not None
    tiles = np.concatenate(list(tiling.batches(np.random.default_rng(0).random((20, 30), np.float32), 100)))
    assert np.isfinite(tiles).all()
