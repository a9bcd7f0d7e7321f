"""Normalisation: the model sees the same picture, whatever the counts, the contrast and the ice."""

from __future__ import annotations

import numpy as np
import pytest

from frazil.errors import ModelError
from frazil.model.contract import NORMALISATIONS
from frazil.picking.picture import NORMALISERS, normalise

RNG = np.random.default_rng(3)
PICTURE = RNG.normal(0, 1, (200, 260)).astype(np.float32)
PICTURE[90:110, 130:150] -= 3


def flat(picture: np.ndarray, *, invert: bool = False) -> np.ndarray:
    return normalise(picture.astype(np.float32), "flat-01", 20.0, invert=invert)


def test_values_fill_0_to_1_around_a_half() -> None:
    out = flat(PICTURE)
    assert out.dtype == np.float32
    assert out.min() >= 0
    assert out.max() <= 1
    assert np.median(out) == pytest.approx(0.5, abs=0.01)
    assert out.std() == pytest.approx(1 / 8, rel=0.2)


@pytest.mark.parametrize(("scale", "offset"), [(1000, 0), (1, 30_000), (1e-4, 2), (50, 1e6)])
def test_counts_of_any_scale_and_offset_look_the_same(scale: float, offset: float) -> None:
    np.testing.assert_allclose(flat(PICTURE * np.float32(scale) + np.float32(offset)), flat(PICTURE), atol=0.02)


def test_an_ice_gradient_goes() -> None:
    rows, columns = np.mgrid[:200, :260]
    gradient = (rows / 20 + columns / 13).astype(np.float32)  # 30 times the noise from corner to corner
    inside = np.s_[30:-30, 30:-30]
    np.testing.assert_allclose(flat(PICTURE + gradient)[inside], flat(PICTURE)[inside], atol=0.12)


def test_declared_inverted_contrast_looks_the_same() -> None:
    np.testing.assert_allclose(flat(-PICTURE, invert=True), flat(PICTURE), atol=1e-6)


def test_hot_pixels_do_not_shift_the_rest() -> None:
    hot = PICTURE.copy()
    hot[50, 60] = hot[120, 30] = 1e6
    away = np.ones(PICTURE.shape, bool)
    away[20:80, 30:90] = away[90:150, 0:60] = False
    np.testing.assert_allclose(flat(hot)[away], flat(PICTURE)[away], atol=0.01)


def test_the_micrograph_itself_is_left_alone() -> None:
    before = PICTURE.copy()
    flat(PICTURE)
    np.testing.assert_array_equal(PICTURE, before)


def test_an_unknown_name_is_refused_with_the_known_ones() -> None:
    with pytest.raises(ModelError, match="among flat-01; found 'zscore'"):
        normalise(PICTURE, "zscore", 20.0, invert=False)


def test_every_normalisation_that_a_contract_may_state_is_implemented_and_no_other() -> None:
    assert set(NORMALISERS) == set(NORMALISATIONS)
