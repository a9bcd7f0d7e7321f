"""TIFF as a micrograph: every kind of it gives the same picture, and what is none is refused by name."""

from __future__ import annotations

import itertools
import struct
from pathlib import Path

import cv2
import numpy as np
import pytest
import tifffile

from frazil.errors import IncompleteMicrograph, MicrographError
from frazil.picking import check_complete, read_micrograph

DTYPES = ("u1", "i1", "u2", "i2", "u4", "i4", "f2", "f4")


def golden(shape: tuple[int, int] = (37, 53), dtype: str = "f4") -> np.ndarray:
    """Not square, and nowhere like a turned or mirrored copy of itself."""
    values = np.arange(shape[0] * shape[1]).reshape(shape) % 113
    return (values - (0 if dtype[0] == "u" else 50)).astype(dtype)


def write(path: Path, pixels: np.ndarray, **options: object) -> Path:
    tifffile.imwrite(path, pixels, photometric=options.pop("photometric", "minisblack"), metadata=None, **options)
    return path


def patch(path: Path, tag: int, value: int) -> Path:
    """Set the number of a tag in the first directory of a little-endian classic TIFF."""
    with tifffile.TiffFile(path) as tiff:
        entry = tiff.pages[0].tags[tag]
        offset = entry.offset + 8
    content = bytearray(path.read_bytes())
    content[offset : offset + 4] = struct.pack("<I", value)
    path.write_bytes(content)
    return path


def refusal(path: Path) -> MicrographError:
    """The error that looking and reading agree on."""
    with pytest.raises(MicrographError) as looked:
        check_complete(path)
    with pytest.raises(MicrographError) as read:
        read_micrograph(path)
    assert str(looked.value) == str(read.value)
    return read.value


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("compression", [None, "lzw", "zlib", "packbits"])
def test_rows_come_out_last_first_in_every_layout(tmp_path: Path, dtype: str, compression: str | None) -> None:
    layouts = [{}, {"rowsperstrip": 7}, {"tile": (16, 32)}]
    predictors = (False, True) if compression in ("lzw", "zlib") else (False,)
    stored = golden(dtype=dtype)
    for layout, predictor, (order, big) in itertools.product(layouts, predictors, (("<", False), (">", True))):
        options = {"compression": compression, "predictor": predictor, "byteorder": order, "bigtiff": big, **layout}
        path = write(tmp_path / "a.tif", stored, **options)
        check_complete(path)
        pixels = read_micrograph(path).pixels
        assert pixels.dtype == np.float32
        np.testing.assert_array_equal(pixels[::-1], stored, err_msg=str(options))


@pytest.mark.parametrize("shape", [(37, 53), (38, 53), (37, 54), (1, 3), (3, 1), (2, 1)])
@pytest.mark.parametrize("compression", ["lzw", "packbits"])
def test_bytes_of_odd_number_are_unpacked_to_the_last(tmp_path: Path, shape: tuple[int, int], compression: str) -> None:
    for order, big in (("<", True), (">", False)):
        path = write(tmp_path / "a.tif", golden(shape, "u1"), compression=compression, byteorder=order, bigtiff=big)
        np.testing.assert_array_equal(read_micrograph(path).pixels[::-1], golden(shape, "u1"))


@pytest.mark.parametrize("compression", [1, 5, 8, 32946, 32773])
def test_files_of_libtiff_are_read(tmp_path: Path, compression: int) -> None:
    for dtype in ("u1", "u2", "f4"):
        stored = golden(dtype=dtype)
        path = tmp_path / "a.TIFF"
        assert cv2.imwrite(str(path), stored, [cv2.IMWRITE_TIFF_COMPRESSION, compression])
        check_complete(path)
        np.testing.assert_array_equal(read_micrograph(path).pixels[::-1], stored)


def test_the_orientation_tag_changes_nothing_as_in_relion(tmp_path: Path) -> None:
    path = write(tmp_path / "a.tif", golden(), extratags=[(274, 3, 1, 4, True)])
    np.testing.assert_array_equal(read_micrograph(path).pixels[::-1], golden())


@pytest.mark.parametrize(
    ("resolution", "unit", "pixel_size"),
    [
        ((1e8 / 1.25, 1e8 / 1.25), "CENTIMETER", 1.25),
        ((2.54e8 / 2, 2.54e8 / 2), "INCH", 2.0),
        ((300, 300), "INCH", None),
        ((1e8 / 1.25, 1e8 / 1.25), "NONE", None),
        ((1, 1), "CENTIMETER", None),
        ((2.54e8 / 2, 2.54e8 / 2.01), "INCH", 2.0),
        ((2.54e8 / 2, 2.54e8 / 2.1), "INCH", None),
        ((2.54e8 / 2, 300), "INCH", None),
        ((0, 2.54e8 / 2), "INCH", None),
    ],
)
def test_pixel_size_comes_from_a_resolution_that_is_one_of_an_image(
    tmp_path: Path, resolution: tuple[float, float], unit: str, pixel_size: float | None
) -> None:
    path = write(tmp_path / "a.tif", golden(), resolution=resolution, resolutionunit=unit)
    found = read_micrograph(path).pixel_size_angstrom
    assert found == (None if pixel_size is None else pytest.approx(pixel_size, rel=1e-6))


@pytest.mark.parametrize("layout", [{}, {"rowsperstrip": 5}, {"tile": (16, 16)}])
@pytest.mark.parametrize("compression", [None, "lzw", "zlib"])
def test_a_file_cut_anywhere_is_incomplete(tmp_path: Path, layout: dict[str, object], compression: str | None) -> None:
    path = write(tmp_path / "a.tif", golden(), compression=compression, **layout)
    whole = path.read_bytes()
    with tifffile.TiffFile(path) as tiff:
        page = tiff.pages[0]
        end = max(a + b for a, b in zip(page.dataoffsets, page.databytecounts, strict=True))
    for length in (0, 4, 8, 20, 100, end // 2, end - 1):
        path.write_bytes(whole[:length])
        with pytest.raises(IncompleteMicrograph) as incomplete:
            check_complete(path)
        assert incomplete.value.reason == "truncated"
        with pytest.raises(IncompleteMicrograph):
            read_micrograph(path)
    path.write_bytes(whole[:end])
    check_complete(path)


def test_a_file_whose_writer_has_only_begun_is_incomplete(tmp_path: Path) -> None:
    path = write(tmp_path / "a.tif", golden())
    whole = path.read_bytes()
    path.write_bytes(bytes(len(whole)))
    assert "only zeros" in str(refusal(path))
    path.write_bytes(whole[:4] + bytes(4) + whole[8:])  # libtiff sets the directory's place last
    assert "no TIFF directory" in str(refusal(path)) or "found none as yet" in str(refusal(path))
    path.write_bytes(whole)
    assert "not yet set" in str(refusal(patch(path, 273, 0)))
    assert isinstance(refusal(path), IncompleteMicrograph)


def test_a_movie_is_refused_with_its_frames(tmp_path: Path) -> None:
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, np.stack([golden()] * 3), photometric="minisblack", metadata=None)
    error = refusal(path)
    assert error.reason == "stack"
    assert "found a movie of 3 frames (it must be motion-corrected" in str(error)


def test_a_preview_beside_the_image_does_no_harm(tmp_path: Path) -> None:
    path = tmp_path / "a.tif"
    with tifffile.TiffWriter(path) as tiff:
        tiff.write(golden(), photometric="minisblack", metadata=None)
        tiff.write(golden()[::4, ::4], photometric="minisblack", subfiletype=1, metadata=None)
    np.testing.assert_array_equal(read_micrograph(path).pixels[::-1], golden())


@pytest.mark.parametrize("compression", [65000, 65001, 65002])
def test_eer_is_refused_by_name(tmp_path: Path, compression: int) -> None:
    path = write(tmp_path / "a.eer", golden(), bigtiff=False)
    error = refusal(patch(path, 259, compression))
    assert error.reason == "stack"
    assert "a raw movie in EER" in str(error)


def test_pictures_that_are_not_grey_or_of_other_types_are_refused_by_name(tmp_path: Path) -> None:
    path = tmp_path / "a.tif"
    colours = np.zeros((20, 30, 3), np.uint8)
    for stored, options, found in (
        (colours, {"photometric": "rgb"}, "colours (3 samples"),
        (golden(), {"photometric": "miniswhite"}, "the opposite"),
        (golden(dtype="f8"), {}, "64 bits, sample format 3"),
        (golden(dtype="u1"), {"compression": "jpeg"}, "compression 7"),
        (golden(), {"compression": "zstd"}, "compression 50000"),
    ):
        error = refusal(write(path, stored, **options))
        assert error.reason == "unsupported"
        assert found in str(error)


def test_text_is_no_tiff(tmp_path: Path) -> None:
    path = tmp_path / "a.tif"
    path.write_text("this is no TIFF file\n" * 40)
    assert refusal(path).reason == "not_tiff"


def test_a_loop_of_directories_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "a.tif", golden())
    content = bytearray(path.read_bytes())
    (first,) = struct.unpack_from("<I", content, 4)
    (count,) = struct.unpack_from("<H", content, first)
    struct.pack_into("<I", content, first + 2 + 12 * count, first)
    path.write_bytes(content)
    error = refusal(path)
    assert error.reason == "corrupt"
    assert "found a loop" in str(error)


def test_sides_and_tables_that_the_file_cannot_hold_are_refused_before_memory_is_taken(tmp_path: Path) -> None:
    path = write(tmp_path / "a.tif", golden(), rowsperstrip=1)
    assert refusal(patch(path, 256, 2**31)).reason == "corrupt"
    path = write(path, golden(), rowsperstrip=1)
    with tifffile.TiffFile(path) as tiff:
        where = tiff.pages[0].tags[273].offset + 4
    content = bytearray(path.read_bytes())
    struct.pack_into("<I", content, where, 2**31)
    path.write_bytes(content)
    assert "2147483648" in str(refusal(path))


def test_strips_that_overlap_are_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "a.tif", golden(), rowsperstrip=1, compression="zlib")
    with tifffile.TiffFile(path) as tiff:
        page = tiff.pages[0]
        offsets, counts = (page.tags[tag].valueoffset for tag in (273, 279))
        start, width = page.dataoffsets[0], 2 if page.tags[279].dtype == 3 else 4
    content = bytearray(path.read_bytes())
    size = len(content)
    for i in range(37):
        struct.pack_into("<I", content, offsets + 4 * i, start)
        content[counts + width * i : counts + width * (i + 1)] = (size - start).to_bytes(width, "little")
    path.write_bytes(content)
    assert "some that overlap" in str(refusal(path))


@pytest.mark.parametrize("compression", ["lzw", "zlib"])
@pytest.mark.parametrize("shape", [(36, 53), (37, 53), (37, 54)])
def test_damaged_strips_are_refused_without_a_word_from_opencv(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], compression: str, shape: tuple[int, int]
) -> None:
    noise = np.random.default_rng(0).integers(0, 256, shape).astype(np.uint8)
    path = write(tmp_path / "a.tif", noise, compression=compression)
    with tifffile.TiffFile(path) as tiff:
        start, count = tiff.pages[0].dataoffsets[0], tiff.pages[0].databytecounts[0]
    content = bytearray(path.read_bytes())
    content[start + 400 : start + 800] = b"\xff" * 400
    assert count > 1000
    path.write_bytes(content)
    check_complete(path)
    with pytest.raises(MicrographError, match="in strip 1 of 1") as refused:
        read_micrograph(path)
    assert refused.value.reason == "corrupt"
    assert capfd.readouterr() == ("", "")


def test_strips_with_too_few_bytes_are_refused(tmp_path: Path) -> None:
    for compression in (None, "zlib", "lzw"):
        path = write(tmp_path / "a.tif", golden(), compression=compression)
        with tifffile.TiffFile(path) as tiff:
            count = tiff.pages[0].databytecounts[0]
        patch(path, 279, count // 2)
        with pytest.raises(MicrographError) as refused:
            read_micrograph(path)
        assert refused.value.reason == "corrupt"
