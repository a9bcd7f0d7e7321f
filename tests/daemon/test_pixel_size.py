"""Pixel sizes as files tell them: one that can be used, none, or a doubt."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from frazil.picking.formats.pixel_size import PixelSize, judge_pixel_size


@pytest.mark.parametrize(
    ("x", "y", "angstrom"),
    [
        (0.01, 0.01, 0.01),
        (1000.0, 1000.0, 1000.0),
        (1.5, 0.0, 1.5),
        (100.0, 101.0, 100.0),
        (100.0, 99.0, 100.0),
        (1.23456789, 1.23456789, 1.234568),
        (0.0, 0.0, None),
        (0.0, 5.0, None),
    ],
)
def test_a_pixel_size_that_can_be_is_that_of_x(x: float, y: float, angstrom: float | None) -> None:
    assert judge_pixel_size(x, y) == PixelSize(angstrom)


@pytest.mark.parametrize(
    ("x", "y", "doubt"),
    [
        (0.0099, 0.0099, "0.0099 Å, which is no pixel size of a micrograph"),
        (1000.1, 1000.1, "1000.1 Å, which is no pixel size of a micrograph"),
        (-2.0, -2.0, "-2 Å, which is no pixel size of a micrograph"),
        (math.nan, 2.0, "nan Å, which is no pixel size of a micrograph"),
        (2.0, 2.021, "2 Å along x and 2.021 Å along y, which must be equal within 1 %"),
        (2.0, 1.979, "2 Å along x and 1.979 Å along y, which must be equal within 1 %"),
        (2.0, -2.0, "2 Å along x and -2 Å along y, which must be equal within 1 %"),
        (2.0, math.nan, "2 Å along x and nan Å along y, which must be equal within 1 %"),
    ],
)
def test_one_that_cannot_be_is_told_in_a_doubt(x: float, y: float, doubt: str) -> None:
    assert judge_pixel_size(x, y) == PixelSize(None, doubt)


@given(st.floats(), st.floats())
def test_whatever_a_file_says_a_size_is_one_of_a_micrograph_or_none(x: float, y: float) -> None:
    found = judge_pixel_size(x, y)
    assert found.angstrom is None or 0.01 <= found.angstrom <= 1000
    assert (found.angstrom is None) >= bool(found.doubt)
    assert found == PixelSize() or bool(found.doubt) == (found.angstrom is None)
