"""TIFF as a micrograph: every kind of it gives the same picture, and what is none is refused by name."""

from __future__ import annotations

import itertools
import resource
import struct
import zlib
from io import FileIO
from pathlib import Path

import cv2
import imagecodecs
import numpy as np
import pytest
import tifffile

from frazil.errors import IncompleteMicrograph, MicrographError
from frazil.picking import check_complete, read_micrograph
from frazil.picking.formats import tiff_directory
from frazil.picking.micrograph import open_image

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
    assert str(read.value).startswith(f"{path}: expected ")
    return read.value


BYTE, ASCII, SHORT, LONG, RATIONAL, SIGNED_BYTE, SIGNED_LONG, IFD, LONG8, IFD8 = 1, 2, 3, 4, 5, 6, 9, 13, 16, 18
FIELDS = {BYTE: "B", ASCII: "B", SHORT: "H", LONG: "I", RATIONAL: "I", SIGNED_BYTE: "b", SIGNED_LONG: "i", IFD: "I"}
FIELDS |= {LONG8: "Q", IFD8: "Q"}
ORDERS = [("<", False), ("<", True), (">", False), (">", True)]
Fields = dict[int, tuple[int, list[int]] | None]
"""Tags of a directory with their types and values; None leaves one out."""


def craft(
    path: Path,
    changes: Fields | None = None,
    *,
    data: bytes | None = None,
    order: str = "<",
    big: bool = False,
    more: list[Fields] | None = None,
) -> Path:
    """Write a TIFF by hand: 8-bit pixels of 5 rows of 7, in one strip, but for some tags; and more directories."""
    data = bytes(range(35)) if data is None else data
    fields: Fields = {256: (SHORT, [7]), 257: (SHORT, [5]), 258: (SHORT, [8]), 273: (LONG, [16])}
    fields |= {279: (LONG, [len(data)])} | (changes or {})
    pointer, count_of_entries = ("Q", "Q") if big else ("I", "H")
    place = struct.calcsize(pointer)
    content = {"<": b"II", ">": b"MM"}[order] + struct.pack(f"{order}H", 43 if big else 42)
    content += struct.pack(f"{order}HH", 8, 0) if big else b""
    at = 16 + len(data)
    body = b""
    for number, directory in enumerate([fields, *(more or [])]):
        entries = [(tag, *field) for tag, field in sorted(directory.items()) if field is not None]
        after = at + struct.calcsize(f"{order}{count_of_entries}") + len(entries) * (4 + 2 * place) + place
        table, values_of_more = b"", b""
        for tag, kind, values in entries:
            packed = struct.pack(f"{order}{len(values)}{FIELDS[kind]}", *values)
            inline = packed.ljust(place, b"\0")
            if len(packed) > place:
                inline = struct.pack(order + pointer, after + len(values_of_more))
                values_of_more += packed
            count = len(values) // 2 if kind == RATIONAL else len(values)
            table += struct.pack(f"{order}HH{pointer}", tag, kind, count) + inline
        content += struct.pack(order + pointer, at) if number == 0 else b""
        at = after + len(values_of_more)
        following = at if number < len(more or []) else 0
        body += struct.pack(order + count_of_entries, len(entries)) + table
        body += struct.pack(order + pointer, following) + values_of_more
    path.write_bytes(content.ljust(16, b"\0") + data + body)
    return path


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
    begun = {
        "expected a TIFF header, found only zeros": bytes(len(whole)),
        # libtiff sets the directory's place last
        "expected a TIFF directory, found none as yet": whole[:4] + bytes(4) + whole[8:],
    }
    for message, content in begun.items():
        path.write_bytes(content)
        error = refusal(path)
        assert str(error) == f"{path}: {message}"
        assert error.reason == "truncated"
        assert isinstance(error, IncompleteMicrograph)
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
    assert str(error) == f"{path}: expected a last TIFF directory, found a loop"


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


SMALL = np.arange(35, dtype=np.float32).reshape(5, 7)[::-1]
ROWS_OF_ONE = {278: (SHORT, [1]), 273: (LONG, [16, 23, 30, 37, 44]), 279: (LONG, [7] * 5)}


@pytest.mark.parametrize(("order", "big"), ORDERS)
@pytest.mark.parametrize("kind", [SHORT, LONG, IFD, LONG8, IFD8])
def test_numbers_may_be_of_any_unsigned_type(tmp_path: Path, order: str, big: bool, kind: int) -> None:
    sides: Fields = {256: (kind, [7]), 257: (kind, [5]), 258: (BYTE, [8]), 277: (kind, [1])}
    path = craft(tmp_path / "a.tif", sides, order=order, big=big)
    np.testing.assert_array_equal(read_micrograph(path).pixels, SMALL)
    strips: Fields = {278: (kind, [1]), 273: (kind, [16, 23, 30, 37, 44]), 279: (kind, [7] * 5)}
    path = craft(path, sides | strips, order=order, big=big)
    check_complete(path)
    np.testing.assert_array_equal(read_micrograph(path).pixels, SMALL)


@pytest.mark.parametrize(
    ("changes", "reason", "found"),
    [
        ({256: None}, "corrupt", "expected tag 256 in the directory, found none"),
        ({273: None}, "corrupt", "expected tag 273 in the directory, found none"),
        ({279: None}, "corrupt", "expected tag 279 in the directory, found none"),
        ({256: (ASCII, [7])}, "corrupt", "expected 1 unsigned numbers in tag 256, found 1 of type 2"),
        ({256: (SIGNED_BYTE, [7])}, "corrupt", "found 1 of type 6"),
        ({256: (SIGNED_LONG, [7])}, "corrupt", "found 1 of type 9"),
        ({256: (SHORT, [7, 7])}, "corrupt", "expected 1 unsigned numbers in tag 256, found 2 of type 3"),
        ({256: (SHORT, [])}, "corrupt", "found 0 of type 3"),
        ({278: (SHORT, [2])}, "corrupt", "expected 3 unsigned numbers in tag 273, found 1"),
        ({256: (SHORT, [0])}, "corrupt", "expected sides of 1 to 65536 px, found 0 x 5"),
        ({257: (SHORT, [0])}, "corrupt", "expected sides of 1 to 65536 px, found 7 x 0"),
        ({256: (LONG, [65_537])}, "corrupt", "expected sides of 1 to 65536 px, found 65537 x 5"),
        ({257: (LONG, [65_537])}, "corrupt", "expected sides of 1 to 65536 px, found 7 x 65537"),
        ({278: (SHORT, [0])}, "corrupt", "expected strips or tiles of 1 to 65536 px, found 7 x 0"),
        ({322: (SHORT, [0]), 323: (SHORT, [16])}, "corrupt", "expected strips or tiles of 1 to 65536 px, found 0 x 16"),
        ({322: (SHORT, [16]), 323: (SHORT, [0])}, "corrupt", "expected strips or tiles of 1 to 65536 px, found 16 x 0"),
        ({322: (LONG, [65_537]), 323: (SHORT, [16])}, "corrupt", "found 65537 x 16"),
        ({322: (SHORT, [16]), 323: (LONG, [65_537])}, "corrupt", "found 16 x 65537"),
        ({322: (SHORT, [16])}, "corrupt", "expected tag 323 in the directory, found none"),
        ({324: (SHORT, [16])}, "corrupt", "expected tag 323 in the directory, found none"),
        ({273: (LONG8, [2**63])}, "corrupt", "expected numbers below 2^63 in tag 273, found larger ones"),
        ({279: (LONG8, [2**64 - 1])}, "corrupt", "expected numbers below 2^63 in tag 279, found larger ones"),
        ({273: (LONG8, [2**63 - 1])}, "truncated", "expected strip 1 of 1 to end at byte 9223372036854775842, found"),
        ({279: (LONG8, [2**63 - 1])}, "truncated", "expected strip 1 of 1 to end at byte 9223372036854775823, found"),
        ({273: (LONG, [0])}, "truncated", "expected the place of each strip, found one not yet set"),
        ({279: (LONG, [0])}, "truncated", "expected the place of each strip, found one not yet set"),
        (ROWS_OF_ONE | {273: (LONG, [16, 23, 0, 37, 44])}, "truncated", "found one not yet set"),
        (ROWS_OF_ONE | {279: (LONG, [7, 7, 7, 7, 0])}, "truncated", "found one not yet set"),
        (
            ROWS_OF_ONE | {273: (LONG, [16, 9999, 30, 9990, 44])},
            "truncated",
            "expected strip 4 of 5 to end at byte 9997",
        ),
        ({277: (SHORT, [2])}, "unsupported", "expected a grey picture, found colours (2 samples, photometric"),
        ({277: (SHORT, [0])}, "unsupported", "expected a grey picture, found colours (0 samples, photometric"),
        ({262: (SHORT, [2])}, "unsupported", "colours (1 samples, photometric interpretation 2)"),
        ({262: (SHORT, [0])}, "unsupported", "expected larger values to be brighter, found the opposite (photometric"),
        (
            {258: (SHORT, [64])},
            "unsupported",
            "expected integers of 8, 16 or 32 bits or floats of 16 or 32, found 64 bits",
        ),
        ({258: None}, "unsupported", "found 1 bits, sample format 1"),
        ({339: (SHORT, [4])}, "unsupported", "found 8 bits, sample format 4"),
        ({259: (SHORT, [2])}, "unsupported", "expected no compression, LZW, deflate or PackBits, found compression 2"),
        ({259: (SHORT, [6])}, "unsupported", "found compression 6"),
        ({317: (SHORT, [0])}, "unsupported", "expected predictor 1, 2 or (for floats) 3, found predictor 0"),
        ({317: (SHORT, [3])}, "unsupported", "expected predictor 1, 2 or (for floats) 3, found predictor 3"),
        ({317: (SHORT, [4])}, "unsupported", "found predictor 4"),
        ({266: (SHORT, [2])}, "unsupported", "expected fill order 1, found another"),
        (
            {256: (LONG, [65_536]), 257: (LONG, [65_536]), 322: (SHORT, [48]), 323: (SHORT, [64])},
            "unsupported",
            "expected at most 1048576 strips or tiles, found 1398784",
        ),
        (
            {256: (LONG, [65_536]), 257: (LONG, [65_536]), 322: (SHORT, [64]), 323: (SHORT, [64]), 324: (SHORT, [16])},
            "corrupt",
            "expected 1048576 unsigned numbers in tag 324, found 1",
        ),
    ],
)
def test_a_claim_that_cannot_be_is_refused_with_what_was_found(
    tmp_path: Path, changes: Fields, reason: str, found: str
) -> None:
    for order, big in (("<", False), (">", True)):
        error = refusal(craft(tmp_path / "a.tif", changes, order=order, big=big))
        assert found in str(error)
        assert error.reason == reason
        assert isinstance(error, IncompleteMicrograph) == (reason == "truncated")


@pytest.mark.parametrize(
    "changes",
    [
        {278: (SHORT, [5])},
        {278: (LONG, [2**32 - 1])},  # "all rows", as the standard has it
        {277: (SHORT, [1]), 339: (SHORT, [1]), 259: (SHORT, [1]), 317: (SHORT, [1]), 266: (SHORT, [1])},
        {262: (SHORT, [1])},
        ROWS_OF_ONE,
        {254: (LONG, [1])},
    ],
)
def test_a_claim_that_can_be_is_taken(tmp_path: Path, changes: Fields) -> None:
    path = craft(tmp_path / "a.tif", changes)
    check_complete(path)
    np.testing.assert_array_equal(read_micrograph(path).pixels, SMALL)


@pytest.mark.parametrize(("h", "w"), [(65_536, 1), (1, 65_536)])
@pytest.mark.parametrize("tiled", [False, True])
def test_sides_and_tiles_may_be_as_long_as_the_limit(tmp_path: Path, h: int, w: int, tiled: bool) -> None:
    stored = (np.arange(65_536) % 251).astype(np.uint8)
    changes: Fields = {256: (LONG, [w]), 257: (LONG, [h])}
    if tiled:
        changes |= {322: (LONG, [w]), 323: (LONG, [h]), 324: (LONG, [16]), 325: (LONG, [65_536])}
    path = craft(tmp_path / "a.tif", changes, data=stored.tobytes())
    np.testing.assert_array_equal(read_micrograph(path).pixels, stored.reshape(h, w)[::-1])


def test_a_file_may_end_with_its_last_strip(tmp_path: Path) -> None:
    path = craft(tmp_path / "a.tif")
    size = path.stat().st_size
    with path.open("ab") as file:
        file.write(bytes(range(35)))
    patch(path, 273, size)
    check_complete(path)
    np.testing.assert_array_equal(read_micrograph(path).pixels, SMALL)
    path.write_bytes(path.read_bytes()[:-1])
    error = refusal(path)
    assert isinstance(error, IncompleteMicrograph)
    assert f"expected strip 1 of 1 to end at byte {size + 35}, found {size + 34} bytes" in str(error)


def test_strips_may_lie_in_any_order_side_by_side(tmp_path: Path) -> None:
    turned = SMALL.astype(np.uint8).tobytes()
    changes: Fields = {278: (SHORT, [1]), 273: (LONG, [44, 37, 30, 23, 16]), 279: (LONG, [7] * 5)}
    path = craft(tmp_path / "a.tif", changes, data=turned)
    np.testing.assert_array_equal(read_micrograph(path).pixels, SMALL)


@pytest.mark.parametrize(("order", "big"), ORDERS)
def test_a_directory_cut_anywhere_is_incomplete(tmp_path: Path, order: str, big: bool) -> None:
    path = craft(tmp_path / "a.tif", ROWS_OF_ONE, order=order, big=big, more=[{254: (LONG, [1])}])
    whole = path.read_bytes()
    check_complete(path)
    for length in range(len(whole)):
        path.write_bytes(whole[:length])
        with pytest.raises(IncompleteMicrograph, match=rf" of TIFF directory at byte .*, found {length} bytes") as cut:
            check_complete(path)
        assert cut.value.reason == "truncated"
        assert str(cut.value).startswith(f"{path}: expected ")


def test_of_two_entries_with_one_tag_the_first_counts_as_in_libtiff(tmp_path: Path) -> None:
    path = craft(tmp_path / "a.tif", {262: (SHORT, [3])})
    content = path.read_bytes()
    path.write_bytes(content.replace(struct.pack("<HHI", 262, SHORT, 1), struct.pack("<HHI", 257, SHORT, 1)))
    np.testing.assert_array_equal(read_micrograph(path).pixels, SMALL)


@pytest.mark.parametrize(
    "head",
    [
        b"II\x2c\0" + struct.pack("<I", 51),
        b"MM\0\x2c" + struct.pack(">I", 51),
        b"IM\x2a\0" + struct.pack("<I", 51),
        b"II\0\x2a" + struct.pack("<I", 51),
        b"II\x2b\0\x04\0\0\0" + struct.pack("<Q", 51),
        b"MM\0\x2b\0\x10\0\0" + struct.pack(">Q", 51),
    ],
)
def test_other_heads_are_no_tiff(tmp_path: Path, head: bytes) -> None:
    path = craft(tmp_path / "a.tif")
    path.write_bytes(head + path.read_bytes()[len(head) :])
    error = refusal(path)
    assert error.reason == "not_tiff"
    assert "expected a TIFF file, found no TIFF header" in str(error)


@pytest.mark.parametrize("length", [0, 1, 7])
def test_a_file_shorter_than_a_head_is_incomplete(tmp_path: Path, length: int) -> None:
    path = craft(tmp_path / "a.tif")
    path.write_bytes(path.read_bytes()[:length])
    error = refusal(path)
    assert isinstance(error, IncompleteMicrograph)
    assert error.reason == "truncated"
    assert f"expected 8 bytes of TIFF directory at byte 0, found {length} bytes" in str(error)


@pytest.mark.parametrize("big", [False, True])
def test_the_number_of_entries_has_limits(tmp_path: Path, big: bool) -> None:
    path = craft(tmp_path / "a.tif", dict.fromkeys(range(1000, 1000 + 4091), (SHORT, [0])), big=big)
    check_complete(path)
    path = craft(path, dict.fromkeys(range(1000, 1000 + 4092), (SHORT, [0])), big=big)
    error = refusal(path)
    assert error.reason == "corrupt"
    assert "expected 1 to 4096 entries in the TIFF directory, found 4097" in str(error)
    path.write_bytes(path.read_bytes()[:51] + bytes(8) + path.read_bytes()[59:])
    assert "found 0" in str(refusal(path))


@pytest.mark.parametrize(("order", "big"), ORDERS)
@pytest.mark.parametrize(
    ("kinds", "frames"),
    [
        ([1], 1),
        ([1, 1, 3], 1),
        ([0], 2),
        ([2], 2),
        ([None], 2),
        ([1, None, 1, 2], 3),
    ],
)
def test_directories_count_as_frames_unless_they_are_previews(
    tmp_path: Path, order: str, big: bool, kinds: list[int | None], frames: int
) -> None:
    sides: Fields = {256: (SHORT, [7]), 257: (SHORT, [5])}
    more = [sides if kind is None else sides | {254: (LONG, [kind])} for kind in kinds]
    path = craft(tmp_path / "a.tif", order=order, big=big, more=more)
    if frames == 1:
        np.testing.assert_array_equal(read_micrograph(path).pixels, SMALL)
        return
    error = refusal(path)
    assert error.reason == "stack"
    assert f"expected one image, found a movie of {frames} frames (it must be motion-corrected" in str(error)


def test_directories_without_end_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tiff_directory, "_MOST_FRAMES", 5)
    path = craft(tmp_path / "a.tif", more=[{256: (SHORT, [7])}] * 5)
    assert "a movie of 6 frames" in str(refusal(path))
    error = refusal(craft(path, more=[{256: (SHORT, [7])}] * 6))
    assert "expected at most 5 TIFF directories, found more" in str(error)
    assert error.reason == "corrupt"


INCH, CENTIMETRE = 2, 3
TWO_ANGSTROM_PER_INCH, TWO_ANGSTROM_PER_CM = [127_000_000, 1], [100_000_000, 2]


@pytest.mark.parametrize(
    ("changes", "angstrom"),
    [
        ({}, None),
        (
            {282: (RATIONAL, TWO_ANGSTROM_PER_INCH), 283: (RATIONAL, TWO_ANGSTROM_PER_INCH)},
            2.0,
        ),  # inch, if none is said
        ({282: (RATIONAL, TWO_ANGSTROM_PER_INCH), 296: (SHORT, [INCH])}, 2.0),
        ({282: (RATIONAL, TWO_ANGSTROM_PER_CM), 296: (SHORT, [CENTIMETRE])}, 2.0),
        ({282: (RATIONAL, TWO_ANGSTROM_PER_CM), 296: (SHORT, [1])}, None),
        ({283: (RATIONAL, TWO_ANGSTROM_PER_INCH)}, None),
        ({282: (RATIONAL, [127_000_000, 0]), 283: (RATIONAL, TWO_ANGSTROM_PER_INCH)}, None),
        ({282: (RATIONAL, TWO_ANGSTROM_PER_INCH), 283: (RATIONAL, [127_000_000, 0])}, 2.0),
        ({282: (RATIONAL, [0, 1]), 283: (RATIONAL, [0, 1])}, None),
        ({282: (LONG, [127_000_000]), 283: (LONG, [127_000_000])}, None),
    ],
)
def test_a_resolution_counts_as_far_as_it_is_said(tmp_path: Path, changes: Fields, angstrom: float | None) -> None:
    for order, big in (("<", False), (">", True)):
        micrograph = read_micrograph(craft(tmp_path / "a.tif", changes, order=order, big=big))
        assert micrograph.pixel_size_angstrom == angstrom
        assert micrograph.pixel_size_doubt == ""


LZW, DEFLATE, PACKBITS = 5, 8, 32773
PACK = {LZW: imagecodecs.lzw_encode, DEFLATE: zlib.compress, PACKBITS: imagecodecs.packbits_encode}


@pytest.mark.parametrize("compression", PACK)
@pytest.mark.parametrize(
    ("h", "w", "missing"),
    [(37, 54, 1), (36, 53, 1), (37, 53, 2), (37, 53, 700), (1, 2, 1), (1201, 2002, 1), (1202, 2001, 1)],
)
def test_a_strip_that_unpacks_to_too_little_is_refused(
    tmp_path: Path, compression: int, h: int, w: int, missing: int
) -> None:
    stored = np.random.default_rng(0).integers(0, 256, h * w, np.uint8).tobytes()
    changes: Fields = {256: (SHORT, [w]), 257: (SHORT, [h]), 259: (SHORT, [compression])}
    path = craft(tmp_path / "a.tif", changes, data=PACK[compression](stored))
    check_complete(path)
    np.testing.assert_array_equal(read_micrograph(path).pixels[::-1].astype(np.uint8).tobytes(), stored)
    path = craft(path, changes, data=PACK[compression](stored[:-missing]))
    with pytest.raises(MicrographError) as refused:
        read_micrograph(path)
    assert refused.value.reason == "corrupt"
    expected, found = {
        LZW: ("whole LZW data", "damage or too little"),
        DEFLATE: (f"{h * w} bytes", f"{h * w - missing}"),
        PACKBITS: ("whole PACKBITS data", "damage or too little"),
    }[compression]
    assert str(refused.value) == f"{path}: expected {expected} in strip 1 of 1, found {found}"


@pytest.mark.parametrize(("h", "w"), [(1201, 2002), (1202, 2001)])
def test_the_last_byte_of_a_large_strip_counts(tmp_path: Path, h: int, w: int) -> None:
    changes: Fields = {256: (SHORT, [w]), 257: (SHORT, [h]), 259: (SHORT, [LZW])}
    stored = golden((h, w), "u1").tobytes()
    read_micrograph(craft(tmp_path / "a.tif", changes, data=imagecodecs.lzw_encode(stored)))
    path = craft(tmp_path / "a.tif", changes, data=imagecodecs.lzw_encode(stored[:-1]))
    with pytest.raises(MicrographError, match="whole LZW data"):
        read_micrograph(path)


@pytest.mark.parametrize("compression", [1, *PACK])
def test_a_tile_at_the_edge_is_whole_or_refused(tmp_path: Path, compression: int) -> None:
    stored = golden((37, 53), "u1")
    padded = np.pad(stored, ((0, 11), (0, 11)))
    tiles = [padded[y : y + 16, x : x + 16].tobytes() for y in range(0, 48, 16) for x in range(0, 64, 16)]
    pack = PACK.get(compression, bytes)

    def write_tiles() -> Path:
        packed = [pack(tile) for tile in tiles]
        starts = np.cumsum([16, *map(len, packed[:-1])]).tolist()
        sides: Fields = {256: (SHORT, [53]), 257: (SHORT, [37]), 322: (SHORT, [16]), 323: (SHORT, [16])}
        places: Fields = {324: (LONG, starts), 325: (LONG, [len(tile) for tile in packed])}
        changes = sides | places | {259: (SHORT, [compression]), 273: None, 279: None}
        return craft(tmp_path / "a.tif", changes, data=b"".join(packed))

    np.testing.assert_array_equal(read_micrograph(write_tiles()).pixels[::-1], stored)
    tiles[9] = tiles[9][:-1]  # of the row that is padded below the picture
    with pytest.raises(MicrographError, match=r"in tile 10 of 12, found (damage|255)") as refused:
        read_micrograph(write_tiles())
    assert refused.value.reason == "corrupt"


@pytest.mark.parametrize("kind", ["strip", "tile"])
def test_places_that_are_not_there_are_named(tmp_path: Path, kind: str) -> None:
    layout: dict[str, object] = {"tile": (16, 16)} if kind == "tile" else {"rowsperstrip": 5}
    path = write(tmp_path / "a.tif", golden(), **layout)
    with tifffile.TiffFile(path) as tiff:
        places = tiff.pages[0].tags[324 if kind == "tile" else 273]
        count, offset, tail = len(places.value), places.valueoffset, tiff.pages[0].databytecounts[-1]
    content = bytearray(path.read_bytes())
    struct.pack_into("<I", content, offset + 4 * (count - 1), len(content) - 1)
    path.write_bytes(content)
    error = refusal(path)
    end, size = len(content) - 1 + tail, len(content)
    assert f"expected {kind} {count} of {count} to end at byte {end}, found {size} bytes" in str(error)
    struct.pack_into("<I", content, offset + 4 * (count - 1), 0)
    path.write_bytes(content)
    assert f"expected the place of each {kind}, found one not yet set" in str(refusal(path))


BLOCKS = np.random.default_rng(0).normal(100, 10, (401, 1000)).astype("<f4")
BLOCKS_CLAIM: Fields = {256: (SHORT, [1000]), 257: (SHORT, [401]), 258: (SHORT, [32]), 339: (SHORT, [3])}
DEFLATED: Fields = BLOCKS_CLAIM | {259: (SHORT, [DEFLATE])}


def test_a_strip_of_several_blocks_is_read_whole(tmp_path: Path) -> None:
    for changes, data in ((BLOCKS_CLAIM, BLOCKS.tobytes()), (DEFLATED, zlib.compress(BLOCKS.tobytes(), 1))):
        path = craft(tmp_path / "a.tif", changes, data=data)
        np.testing.assert_array_equal(read_micrograph(path).pixels[::-1], BLOCKS)


def test_a_strip_that_ends_in_a_later_block_is_refused_with_what_was_there(tmp_path: Path) -> None:
    path = craft(tmp_path / "a.tif", DEFLATED, data=zlib.compress(BLOCKS.tobytes()[:-1003], 1))
    with pytest.raises(MicrographError, match=r"expected 1604000 bytes in strip 1 of 1, found 1602997$"):
        read_micrograph(path)


def test_damage_in_deflate_data_is_named(tmp_path: Path) -> None:
    packed = bytearray(zlib.compress(BLOCKS.tobytes(), 1))
    packed[-1] ^= 1  # of the checksum
    path = craft(tmp_path / "a.tif", DEFLATED, data=bytes(packed))
    with pytest.raises(
        MicrographError, match="expected deflate data in strip 1 of 1, found damage: Error -3 "
    ) as refused:
        read_micrograph(path)
    assert refused.value.reason == "corrupt"


def test_a_deflate_bomb_is_unpacked_no_further_than_the_picture(tmp_path: Path) -> None:
    path = craft(tmp_path / "a.tif", DEFLATED, data=zlib.compress(BLOCKS.tobytes() + bytes(64 << 20), 1))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    np.testing.assert_array_equal(read_micrograph(path).pixels[::-1], BLOCKS)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 24 << 10


@pytest.mark.parametrize("compression", [1, *PACK])
def test_a_file_that_shrinks_while_it_is_read_is_incomplete(tmp_path: Path, compression: int) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (5, 7), np.uint8)
    packed = PACK.get(compression, bytes)(pixels.tobytes())
    path = craft(tmp_path / "a.tif", {259: (SHORT, [compression])}, data=packed)
    with FileIO(path) as file:
        image = open_image(path, file)
        path.write_bytes(path.read_bytes()[:20])
        with pytest.raises(
            IncompleteMicrograph, match=f"expected {len(packed)} bytes at byte 16, found 4$"
        ) as incomplete:
            list(image.fill(np.empty((5, 7), np.float32)))
    assert incomplete.value.reason == "truncated"
    assert str(incomplete.value).startswith(f"{path}: ")


def test_a_strip_that_opencv_cannot_hold_is_refused(tmp_path: Path) -> None:
    sides: Fields = {256: (LONG, [65_536]), 257: (LONG, [65_536]), 259: (SHORT, [LZW])}
    path = craft(tmp_path / "a.tif", sides, data=imagecodecs.lzw_encode(bytes(1000)))
    with FileIO(path) as file:
        pixels = np.broadcast_to(np.uint8(0), (65_536, 65_536))  # as large as it claims, and in no memory
        with pytest.raises(MicrographError, match="expected whole LZW data in strip 1 of 1, found") as refused:
            list(open_image(path, file).fill(pixels))
    assert refused.value.reason == "corrupt"


def test_opencv_says_nothing_of_damage(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    path = craft(tmp_path / "a.tif", {259: (SHORT, [LZW])}, data=b"\xff" * 35)
    with pytest.raises(MicrographError, match="whole LZW data"):
        read_micrograph(path)
    assert capfd.readouterr() == ("", "")
