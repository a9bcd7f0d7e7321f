"""One picture, saved in each format, is one micrograph: not square, unlike any turned or mirrored copy."""

from __future__ import annotations

import bz2
import gzip
import math
import os
from collections.abc import Callable
from io import FileIO
from pathlib import Path

import numpy as np
import pytest
import tifffile
from hypothesis import given
from hypothesis import strategies as st

from frazil.errors import MicrographError
from frazil.files import open_regular
from frazil.picking import MICROGRAPH_ENDINGS, check_complete, micrograph_stem, read_micrograph
from frazil.picking.formats import BLOCK_BYTES, PixelSize, file_size, judge_pixel_size, read_into
from frazil.picking.micrograph import open_image

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


class Dripping:
    """Gives so many bytes at a time."""

    def __init__(self, content: bytes, steps: list[int], end: int | None) -> None:
        self._content = content
        self._steps = iter(steps)
        self._end = end

    def readinto(self, buffer: memoryview, /) -> int | None:
        part = self._content[: min(len(buffer), next(self._steps, len(buffer)))]
        self._content = self._content[len(part) :]
        buffer[: len(part)] = part
        return len(part) or self._end


@given(st.binary(max_size=60), st.lists(st.integers(1, 9)), st.integers(0, 60), st.sampled_from([0, None]))
def test_a_buffer_is_filled_however_little_comes_at_a_time(
    content: bytes, steps: list[int], wanted: int, end: int | None
) -> None:
    buffer = bytearray(wanted)
    found = read_into(Dripping(content, steps, end), memoryview(buffer))
    assert found == min(wanted, len(content))
    assert buffer == content[:found] + bytes(wanted - found)


def test_a_regular_file_is_opened_to_be_read(tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_bytes(b"some bytes")
    with open_regular(path) as file:
        assert file_size(file) == 10
        assert file.read() == b"some bytes"
        assert not file.writable()


class Replaced(type(Path())):  # type: ignore[misc]
    """The path of a file that a named pipe takes the place of, right after it was looked at."""

    def stat(self, *, follow_symlinks: bool = True) -> os.stat_result:
        found: os.stat_result = super().stat(follow_symlinks=follow_symlinks)
        self.unlink()
        os.mkfifo(self)
        return found


def test_a_pipe_that_takes_the_place_of_a_file_is_not_waited_for(tmp_path: Path) -> None:
    path = Replaced(tmp_path / "a.mrc")
    path.touch()
    before = len(list(Path("/proc/self/fd").iterdir()))
    with pytest.raises(MicrographError, match="expected a regular file, found a named pipe") as refused:
        open_regular(path)
    assert refused.value.reason == "not_a_file"
    assert str(refused.value).startswith(f"{path}: ")
    assert len(list(Path("/proc/self/fd").iterdir())) == before
