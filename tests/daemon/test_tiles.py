"""Tiles: pieces of a micrograph at every scale, and the values of single pixels."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import msgspec
import numpy as np
import pytest
from numpy.typing import NDArray

from frazil.documents import MicrographDocument
from frazil.page.pictures import PictureError
from frazil.page.session import Result
from frazil.page.tiles import Tiles
from frazil.picking import read_micrograph

SHAPE = (700, 1100)
Write = Callable[..., Path]


@pytest.fixture
def pixels() -> NDArray[np.float32]:
    """A ramp with noise, not square and no multiple of a tile."""
    rows, columns = np.mgrid[: SHAPE[0], : SHAPE[1]]
    noise = np.random.default_rng(3).normal(0, 20, SHAPE)
    return np.asarray(rows * 0.05 + columns * 0.02 + noise, np.float32)


@pytest.fixture
def result(
    tmp_path: Path, write_mrc: Write, make_document: Callable[..., MicrographDocument], pixels: NDArray[np.float32]
) -> Result:
    file = write_mrc(tmp_path / "a.mrc", pixels, 2.0)
    document = msgspec.structs.replace(
        make_document(str(file)), shape=SHAPE, pixel_size_angstrom=2.0, diameter_px=40.0, path=str(file)
    )
    return Result(seq=1, path="a.mrc", document=document, superseded_by=None, older=None, newer=None)


def decoded(tile: bytes) -> NDArray[np.float64]:
    return np.asarray(cv2.imdecode(np.frombuffer(tile, np.uint8), cv2.IMREAD_GRAYSCALE), np.float64)


def test_at_the_finest_level_a_pixel_of_a_tile_is_one_of_the_file(result: Result, pixels: NDArray[np.float32]) -> None:
    tiles = Tiles(read_micrograph)
    shown = {(row, column): decoded(tiles.tile(result, 0, row, column, 0)) for row in (0, 1) for column in (0, 1, 2)}
    assert [shown[0, column].shape for column in range(3)] == [(512, 512), (512, 512), (512, 76)]
    assert shown[1, 2].shape == (188, 76)
    whole = np.vstack([np.hstack([shown[row, column] for column in range(3)]) for row in range(2)])
    inside = (whole > 8) & (whole < 247)  # neither black nor white, where values are cut off
    slope, offset = np.polyfit(pixels[inside], whole[inside], 1)
    # One contrast for all tiles: what is left is the rounding of the JPEG.
    assert np.abs(whole - (slope * pixels + offset))[inside].mean() < 2
    assert inside.mean() > 0.95


def test_a_pixel_of_a_coarser_tile_is_the_mean_of_those_below_it(result: Result, pixels: NDArray[np.float32]) -> None:
    shown = decoded(Tiles(read_micrograph).tile(result, 2, 0, 0, 0))
    assert shown.shape == (175, 275)
    means = pixels.reshape(175, 4, 275, 4).mean((1, 3))
    assert np.corrcoef(shown.ravel(), means.ravel())[0, 1] > 0.99


def test_a_low_pass_leaves_no_seam_between_tiles(result: Result, pixels: NDArray[np.float32]) -> None:
    tiles = Tiles(read_micrograph)
    left, right = (decoded(tiles.tile(result, 0, 0, column, 40)) for column in (0, 1))
    sigma_px = 0.1874 * 40 / 2.0
    smooth = cv2.GaussianBlur(pixels, (0, 0), sigma_px, borderType=cv2.BORDER_REFLECT)[:512, :1024]
    shown = np.hstack([left, right])
    assert np.corrcoef(shown[:, 480:544].ravel(), smooth[:, 480:544].ravel())[0, 1] > 0.99
    steps = np.abs(np.diff(shown, axis=1)).mean(0)
    assert steps[511] < 2 * np.median(steps) + 1


def test_the_value_of_a_pixel_is_the_files(result: Result, pixels: NDArray[np.float32]) -> None:
    tiles = Tiles(read_micrograph)
    for y, x in ((0, 0), (699, 1099), (123, 456)):
        assert tiles.value(result, y, x) == pixels[y, x]


def test_what_is_outside_or_gone_is_said(result: Result, tmp_path: Path) -> None:
    tiles = Tiles(read_micrograph)
    with pytest.raises(PictureError, match="expected a tile in its 1100 x 700 pixels"):
        tiles.tile(result, 0, 2, 0, 0)
    with pytest.raises(PictureError, match="expected a pixel in its 1100 x 700 pixels, found 1100, 3"):
        tiles.value(result, 3, 1100)
    (tmp_path / "a.mrc").unlink()
    with pytest.raises(PictureError, match="the file is gone"):
        tiles.value(result, 3, 3)


def test_few_micrographs_are_kept_and_the_last_one_always(
    result: Result, monkeypatch: pytest.MonkeyPatch, pixels: NDArray[np.float32]
) -> None:
    reads: list[Any] = []

    def read(path: Path) -> Any:
        reads.append(path)
        return read_micrograph(path)

    monkeypatch.setattr("frazil.page.tiles._KEPT_BYTES", 2 * pixels.nbytes)
    tiles = Tiles(read)
    for seq in (1, 2, 1, 2, 3, 3, 1):
        tiles.value(msgspec.structs.replace(result, seq=seq), 0, 0)
    assert len(reads) == 4  # 1, 2, 3, and 1 again
