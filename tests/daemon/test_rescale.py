"""Rescaling: where a pixel of the one grid is in the other."""

from __future__ import annotations

import threading

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from frazil.picking.rescale import Rescaling, RescalingAhead, rescale


def spot(shape: tuple[int, int], y: float, x: float, sigma: float) -> np.ndarray:
    rows, columns = np.mgrid[: shape[0], : shape[1]]
    return np.exp(-((rows - y) ** 2 + (columns - x) ** 2) / (2 * sigma**2)).astype(np.float32)


def centroid(picture: np.ndarray) -> tuple[float, float]:
    rows, columns = np.mgrid[: picture.shape[0], : picture.shape[1]]
    return float((rows * picture).sum() / picture.sum()), float((columns * picture).sum() / picture.sum())


@pytest.mark.parametrize("model_diameter_px", [10.0, 38.4, 70.0])
def test_a_spot_is_found_where_it_was_on_a_micrograph_that_is_not_square(model_diameter_px: float) -> None:
    rescaling = Rescaling.for_diameter((240, 350), 40.0, model_diameter_px)
    small = rescale(spot((240, 350), 70.3, 251.8, 9.0), rescaling)
    assert small.shape == rescaling.rescaled_shape
    y, x = centroid(small)
    assert rescaling.to_micrograph(np.array([y]), 0)[0] == pytest.approx(70.3, abs=0.1)
    assert rescaling.to_micrograph(np.array([x]), 1)[0] == pytest.approx(251.8, abs=0.1)


def test_shrinking_averages_areas() -> None:
    pixels = np.random.default_rng(1).normal(5, 1, (300, 399)).astype(np.float32)
    small = rescale(pixels, Rescaling.for_diameter((300, 399), 30, 10))
    assert small.shape == (100, 133)
    np.testing.assert_allclose(small[:, 0].mean(), pixels[:, :3].mean(), atol=0.03)
    assert small.std() == pytest.approx(1 / 3, rel=0.05)


@given(h=st.integers(1, 700), w=st.integers(1, 700), factor=st.floats(0.01, 1.0), seed=st.integers(0, 9))
def test_averages_are_those_of_opencv(h: int, w: int, factor: float, seed: int) -> None:
    pixels = np.random.default_rng(seed).normal(100, 10, (h, w)).astype(np.float32)
    rescaling = Rescaling.for_diameter((h, w), 1.0, factor)
    expected = cv2.resize(pixels, rescaling.rescaled_shape[::-1], interpolation=cv2.INTER_AREA)
    found = rescale(pixels, rescaling)
    assert (found.dtype, found.shape) == (np.float32, rescaling.rescaled_shape)
    # OpenCV adds up in float32: up to half a million pixels for one average.
    np.testing.assert_allclose(found, expected.reshape(found.shape), rtol=1e-5, atol=1e-4)


@given(
    h=st.integers(1, 400),
    w=st.integers(1, 400),
    factor=st.floats(0.01, 1.0),
    dtype=st.sampled_from([np.float32, np.int16, np.uint8]),
    steps=st.lists(st.integers(1, 200), max_size=20),
)
def test_what_is_rescaled_while_its_rows_come_is_what_is_rescaled_at_once(
    h: int, w: int, factor: float, dtype: type, steps: list[int]
) -> None:
    rescaling = Rescaling.for_diameter((h, w), 1.0, factor)
    whole = np.random.default_rng(0).normal(100, 10, (h, w)).astype(dtype)
    pixels = np.full((h, w), 77, dtype)
    with RescalingAhead(pixels, rescaling) as ahead:
        rows = 0
        for more in (*steps, h):
            pixels[rows : rows + more] = whole[rows : rows + more]
            rows = min(h, rows + more)
            ahead.advance(rows)
        rescaled = ahead.finish()
    assert rescaled.rescaling == rescaling
    assert rescaled.pixels.dtype == np.float32
    np.testing.assert_allclose(rescaled.pixels, rescale(whole, rescaling), rtol=1e-5)


@pytest.mark.parametrize("h", [62, 64])
def test_rows_are_rescaled_a_sixteenth_at_a_time_while_the_others_come(h: int) -> None:
    w, step = 2**16, 4  # so wide that each row of averages, of two pixels, is a block of its own
    rescaling = Rescaling.for_diameter((h, w), 2.0, 1.0)
    whole = np.random.default_rng(0).integers(1, 200, (h, w), np.uint8)
    expected = rescale(whole, rescaling)
    pixels = np.zeros_like(whole)
    with RescalingAhead(pixels, rescaling) as ahead:
        for first in range(0, h, step):
            last = min(first + step, h)
            ahead.advance(last - 1)
            ahead.finish()  # were these rows begun by now, they would be taken for zeros
            pixels[first:last] = whole[first:last]
            ahead.advance(last)
            new = slice(first // 2, last // 2)
            np.testing.assert_allclose(ahead.finish().pixels[new], expected[new], rtol=1e-5)


def test_a_micrograph_that_is_given_up_is_left_alone_at_once() -> None:
    """Its memory is given to another one next."""
    pixels = np.zeros((2000, 3000), np.float32)
    with RescalingAhead(pixels, Rescaling.for_diameter((2000, 3000), 2, 1)) as ahead:
        ahead.advance(1000)
        ahead.advance(len(pixels))
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("frazil-rescaling")]
    pixels[:] = 1  # seen by nobody
    assert ahead.finish().pixels.max() == 0


@pytest.mark.parametrize("values", [(1e300, 1e300), (np.inf, -np.inf), (np.nan, 1)])
def test_pixels_that_are_no_numbers_are_averaged_without_a_word(values: tuple[float, float]) -> None:
    """Whoever reads a micrograph looks at its pixels, and says so better than NumPy."""
    pixels = np.tile(values, (8, 4))
    with np.errstate(all="raise"):
        assert not np.isfinite(rescale(pixels, Rescaling.for_diameter((8, 8), 2, 1))).any()


@given(st.integers(1, 6000), st.integers(1, 6000), st.floats(5, 500), st.floats(5, 100), st.floats(-10, 7000))
def test_there_and_back_is_the_same_place(h: int, w: int, diameter: float, model: float, at: float) -> None:
    rescaling = Rescaling.for_diameter((h, w), diameter, model)
    for axis in (0, 1):
        there = rescaling.to_rescaled(np.array([at]), axis)
        assert rescaling.to_micrograph(there, axis)[0] == pytest.approx(at, abs=1e-6 * max(1, abs(at)))
