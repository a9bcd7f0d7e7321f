"""Kept score maps: small, and the same picks come out of them."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from frazil.picking import ScoreMap, find_peaks
from frazil.picking.picks import in_steps
from frazil.session.retune.repick import pack_score_map, unpack_score_map


def blobs(shape: tuple[int, int]) -> ScoreMap:
    rng = np.random.default_rng(3)
    y, x = np.mgrid[: shape[0], : shape[1]]
    scores = rng.random(shape) * 0.05
    for cy, cx in rng.uniform(0, shape, (60, 2)):
        scores += rng.uniform(0.3, 0.9) * np.exp(-((y - cy) ** 2 + (x - cx) ** 2) / 8)
    return ScoreMap(
        scores=np.clip(scores, 0, 1).astype(np.float32),
        y_px=np.arange(shape[0]) * 15.7 + 3.25,
        x_px=np.arange(shape[1]) * 15.9 + 7.5,
        shape=(1300, 1900),
    )


def test_a_map_comes_back_to_within_a_step_and_gives_the_same_picks() -> None:
    score_map = blobs((80, 117))
    packed = pack_score_map(score_map)
    again = unpack_score_map(packed)
    assert len(packed) < 0.6 * score_map.scores.nbytes
    assert again.shape == score_map.shape
    assert np.array_equal(again.y_px, score_map.y_px)
    assert np.array_equal(again.x_px, score_map.x_px)
    assert np.abs(again.scores - score_map.scores).max() <= 0.5 / 65535 + 1e-7
    for threshold in (0.3, 0.5):
        kept, fresh = (
            find_peaks(m, threshold=threshold, min_distance_px=40, edge_margin_px=20) for m in (again, score_map)
        )
        assert len(kept) == len(fresh) > 10
        assert np.allclose(kept.y, fresh.y, atol=0.01)
        assert np.allclose(kept.x, fresh.x, atol=0.01)


def test_an_empty_map_is_kept_too() -> None:
    nothing = np.zeros(0)
    empty = ScoreMap(scores=np.zeros((0, 0), np.float32), y_px=nothing, x_px=nothing, shape=(10, 20))
    assert unpack_score_map(pack_score_map(empty)).scores.shape == (0, 0)


@pytest.mark.parametrize("packed", [b"", b"nonsense", b"\x80"])
def test_what_is_no_map_is_refused(packed: bytes) -> None:
    with pytest.raises(ValueError, match="expected a score map"):
        unpack_score_map(packed)


def test_a_map_in_steps_comes_back_as_it_was() -> None:
    made = blobs((80, 117))
    made = dataclasses.replace(made, scores=in_steps(made.scores), margin_px=20.25)
    again = unpack_score_map(pack_score_map(made))
    assert np.array_equal(again.scores, made.scores)
    assert again.margin_px == 20.25
