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


def wide(picture: np.ndarray) -> np.ndarray:
    return normalise(picture.astype(np.float32), "wide-01", 8.0, invert=False)


@pytest.mark.parametrize(("scale", "offset"), [(1000, 0), (1, 30_000), (1e-4, 2)])
def test_wide_counts_of_any_scale_and_offset_look_the_same(scale: float, offset: float) -> None:
    np.testing.assert_allclose(wide(PICTURE * np.float32(scale) + np.float32(offset)), wide(PICTURE), atol=0.01)


@pytest.mark.parametrize("share", [0.2, 0.45])
def test_a_wide_picture_keeps_the_level_of_a_film_and_the_contrast_of_the_ice(share: float) -> None:
    ice = slice(round(share * PICTURE.shape[1]) + 20, None)
    film = PICTURE.copy()
    film[:, : ice.start - 20] -= 12
    ice_level, film_level = np.median(wide(film)[:, ice]), np.median(wide(film)[:, : ice.start - 40])
    assert ice_level == pytest.approx(0.5, abs=0.07)
    assert film_level == pytest.approx(0.25, abs=0.07)
    assert wide(film)[:, ice].std() == pytest.approx(wide(PICTURE)[:, ice].std(), rel=0.15)


def test_blank_parts_of_a_wide_picture_are_background_and_shift_nothing() -> None:
    blank = np.zeros(PICTURE.shape, bool)
    blank[:, :40] = True
    padded = np.where(blank, 1e4, PICTURE).astype(np.float32)
    out = normalise(padded, "wide-01", 8.0, invert=False, blank=blank)
    assert (out[blank] == 0.5).all()
    np.testing.assert_allclose(out[~blank], wide(PICTURE)[~blank], atol=0.01)


def test_the_micrograph_itself_is_left_alone() -> None:
    before = PICTURE.copy()
    flat(PICTURE)
    np.testing.assert_array_equal(PICTURE, before)


def test_an_unknown_name_is_refused_with_the_known_ones() -> None:
    with pytest.raises(ModelError, match="among flat-01, wide-01; found 'zscore'"):
        normalise(PICTURE, "zscore", 20.0, invert=False)


def test_every_normalisation_that_a_contract_may_state_is_implemented_and_no_other() -> None:
    assert set(NORMALISERS) == set(NORMALISATIONS)
