"""One picture, saved in each format, is one micrograph: not square, unlike any turned or mirrored copy."""

from __future__ import annotations

import bz2
import gzip
from collections.abc import Callable
from io import FileIO
from pathlib import Path

import numpy as np
import pytest
import tifffile

from frazil.errors import MicrographError
from frazil.picking import MICROGRAPH_ENDINGS, check_complete, micrograph_stem, read_micrograph
from frazil.picking.formats import open_image
from frazil.picking.formats.source import BLOCK_BYTES

# Row 0 of an MRC is the bottom of the picture; the mark stands at the bottom left, in row 1 and column 2.
GOLDEN = np.add.outer(np.arange(5), np.zeros(9)).astype(np.float32)
GOLDEN[1, 2] = 100


@pytest.mark.parametrize("ending", MICROGRAPH_ENDINGS)
def test_one_picture_has_one_set_of_coordinates_in_every_format(
    tmp_path: Path, write_mrc: Callable[..., Path], ending: str
) -> None:
    path = tmp_path / f"a{ending}"
    mrc = write_mrc(tmp_path / "source.mrc", GOLDEN, 1.5).read_bytes()
    match ending:
        case ".mrc":
            path.write_bytes(mrc)
        case ".mrc.gz":
            path.write_bytes(gzip.compress(mrc))
        case ".mrc.bz2":
            path.write_bytes(bz2.compress(mrc))
        case _:  # the first row of a TIFF is the top of the picture
            per_cm = 1e8 / 1.5
            tifffile.imwrite(path, GOLDEN[::-1], resolution=(per_cm, per_cm), resolutionunit="CENTIMETER")
    check_complete(path)
    micrograph = read_micrograph(path)
    np.testing.assert_array_equal(micrograph.pixels, GOLDEN)
    assert np.unravel_index(micrograph.pixels.argmax(), micrograph.pixels.shape) == (1, 2)
    assert micrograph.pixel_size_angstrom == pytest.approx(1.5)


@pytest.mark.parametrize(
    ("name", "stem"),
    [
        ("a.b.mrc", "a.b"),
        ("a.MRC.GZ", "a"),
        ("a.mrc.bz2", "a"),
        ("a.Tiff", "a"),
        ("a.gz", "a"),
        (".mrc", ".mrc"),
        ("a.mrc.gz.tif", "a.mrc.gz"),
        ("a.b.c", "a.b"),
        ("a", "a"),
    ],
)
def test_a_stem_is_the_name_without_its_whole_ending(name: str, stem: str) -> None:
    assert micrograph_stem(name) == stem


def save(path: Path, pixels: np.ndarray, mrc: bytes) -> Path:
    """Save one picture in the format of the path's name."""
    match path.suffix:
        case ".gz":
            path.write_bytes(gzip.compress(mrc, 1))
        case ".bz2":
            path.write_bytes(bz2.compress(mrc, 1))
        case ".tif" | ".tiff":
            tifffile.imwrite(path, pixels[::-1], byteorder=">" if pixels.dtype.byteorder == ">" else "<")
        case _:
            path.write_bytes(mrc)
    return path


@pytest.mark.parametrize("stored", ["<f4", ">i2", "i1"])
@pytest.mark.parametrize("ending", MICROGRAPH_ENDINGS)
def test_pixels_come_in_blocks_of_half_a_mib_each_once(
    tmp_path: Path, write_mrc: Callable[..., Path], ending: str, stored: str
) -> None:
    pixels = np.random.default_rng(0).integers(0, 120, (301, 1100)).astype(stored)
    path = save(tmp_path / f"a{ending}", pixels, write_mrc(tmp_path / "source.mrc", pixels).read_bytes())
    for wanted in (np.dtype(stored), np.dtype(np.float32)):
        with FileIO(path) as file:
            image = open_image(path, file)
            assert (image.shape, image.dtype) == (pixels.shape, pixels.dtype)
            image.prove_complete()
            filled = np.full(pixels.shape, 121, wanted)
            rows = 0
            for block in image.fill(filled):
                assert np.shares_memory(block, filled)
                assert block.size * pixels.itemsize <= BLOCK_BYTES
                rows += len(block)
                if image.rows_in_order:
                    np.testing.assert_array_equal(filled[:rows], pixels[:rows])
                    assert (filled[rows:] == 121).all()
        assert rows == 301
        np.testing.assert_array_equal(filled, pixels)


@pytest.mark.parametrize("name", ["a.mrc", "a.MRC", "a", "a.map", "a.b"])
def test_what_has_no_other_ending_is_read_as_mrc(tmp_path: Path, write_mrc: Callable[..., Path], name: str) -> None:
    path = write_mrc(tmp_path / name, GOLDEN)
    np.testing.assert_array_equal(read_micrograph(path).pixels, GOLDEN)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("a.gz", "a gzip file"),
        ("a.MRC.GZ", "a gzip file"),
        ("a.mrc.bz2", "a bzip2 file"),
        ("a.Bz2", "a bzip2 file"),
        ("a.tif", "a TIFF file"),
        ("a.TIFF", "a TIFF file"),
        ("a.eer", "a TIFF file"),
        ("a.tif.mrc", "an MRC file"),
    ],
)
def test_the_name_says_what_is_expected(tmp_path: Path, name: str, expected: str) -> None:
    path = tmp_path / name
    path.write_text("this is a text\n" * 200)
    with pytest.raises(MicrographError, match=f"expected {expected}, found n") as refused:
        check_complete(path)
    assert str(refused.value).startswith(f"{path}: ")
