"""Headers: what a file claims, checked before anything is allocated."""

from __future__ import annotations

import os
import struct
from collections.abc import Callable
from io import FileIO
from pathlib import Path

import mrcfile
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from frazil.errors import IncompleteMicrograph, MicrographError
from frazil.picking import read_micrograph
from frazil.picking.formats.mrc import HEADER_BYTES, open_mrc, parse_header

IMOD_STAMP = 1146047817

Write = Callable[..., Path]


def head_of(path: Path) -> bytes:
    return path.read_bytes()[:HEADER_BYTES]


@pytest.mark.parametrize("dtype", ["int8", "int16", "float32", "uint16", "float16"])
def test_header_demands_the_size_that_mrcfile_wrote(tmp_path: Path, write_mrc: Write, dtype: str) -> None:
    path = write_mrc(tmp_path / "a.mrc", np.ones((30, 50), dtype), 1.77)
    header = parse_header(path, head_of(path))
    assert header.file_bytes == path.stat().st_size
    assert header.shape == (30, 50)
    assert header.dtype == np.dtype(dtype)
    assert header.pixel_size.angstrom == pytest.approx(1.77, abs=1e-5)


def test_extended_header_counts(tmp_path: Path) -> None:
    path = tmp_path / "a.mrc"
    with mrcfile.new(path) as mrc:
        mrc.set_data(np.ones((4, 6), np.float32))
        mrc.set_extended_header(np.zeros(768, "V1"))
    header = parse_header(path, head_of(path))
    assert header.data_offset == HEADER_BYTES + 768
    assert header.file_bytes == path.stat().st_size


def test_big_endian_header_is_understood(tmp_path: Path) -> None:
    path = tmp_path / "a.mrc"
    with mrcfile.new(path) as mrc:
        mrc.set_data(np.ones((4, 6), ">f4"))
    header = parse_header(path, head_of(path))
    assert (header.shape, header.dtype) == ((4, 6), np.dtype(">f4"))


def with_words(path: Path, order: str = "<", **words: int | float) -> bytes:
    """The header of a file with some of its 4-byte words changed; ``w7=1`` sets the eighth."""
    head = bytearray(head_of(path))
    for name, value in words.items():
        struct.pack_into(order + ("f" if isinstance(value, float) else "i"), head, 4 * int(name[1:]), value)
    return bytes(head)


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize(
    ("words", "dtype"),
    [
        ({"w38": IMOD_STAMP, "w39": 1}, "i1"),
        ({"w38": IMOD_STAMP, "w39": 13}, "i1"),
        ({"w38": IMOD_STAMP, "w39": 0}, "u1"),
        ({"w38": IMOD_STAMP, "w39": 12}, "u1"),
        ({"w38": 0, "w19": -5.0, "w20": 90.0}, "i1"),
        ({"w38": 0, "w19": 0.0, "w20": 90.0}, "i1"),
        ({"w38": 0, "w19": 0.0, "w20": 127.0}, "i1"),
        ({"w38": 0, "w19": 0.0, "w20": 128.0}, "u1"),
        ({"w38": 0, "w19": 0.0, "w20": 200.0}, "u1"),
        ({"w38": 0, "w19": 0.0, "w20": 255.0}, "u1"),
        ({"w38": 0, "w19": 0.0, "w20": 256.0}, "i1"),
        ({"w38": 0, "w19": -1.0, "w20": 255.0}, "i1"),
        ({"w38": 0, "w19": -5.0, "w20": 200.0}, "i1"),
    ],
)
def test_bytes_are_signed_unless_imod_or_their_range_says_otherwise(
    tmp_path: Path, order: str, words: dict[str, int | float], dtype: str
) -> None:
    path = tmp_path / "a.mrc"
    with mrcfile.new(path) as mrc:
        mrc.set_data(np.ones((4, 6), f"{order}i2"))
    head = with_words(path, order, w3=0, **words)
    assert parse_header(path, head).dtype == np.dtype(dtype)


def test_the_machine_stamp_decides_where_both_byte_orders_make_sense(tmp_path: Path, write_mrc: Write) -> None:
    path = write_mrc(tmp_path / "a.mrc", np.zeros((256, 256), np.int8))
    head = bytearray(head_of(path))
    assert parse_header(path, bytes(head)).shape == (256, 256)
    for word in (0, 1, 2, 3, 23):
        head[4 * word : 4 * word + 4] = head[4 * word : 4 * word + 4][::-1]
    head[212:216] = b"\x11\x11\0\0"
    assert parse_header(path, bytes(head)).shape == (256, 256)


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("stamp", [b"\0\0\0\0", b"\x44\x44\0\0", b"\x44\x41\0\0", b"\x11\x11\0\0"])
def test_a_stamp_that_is_missing_or_wrong_does_no_harm_where_one_byte_order_makes_sense(
    tmp_path: Path, order: str, stamp: bytes
) -> None:
    pixels = np.arange(24).reshape(4, 6)
    path = tmp_path / "a.mrc"
    with mrcfile.new(path) as mrc:
        mrc.set_data(pixels.astype(f"{order}i2"))
    content = path.read_bytes()
    path.write_bytes(content[:212] + stamp + content[216:])
    np.testing.assert_array_equal(read_micrograph(path).pixels, pixels)


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize(
    "words",
    [
        {"w0": 0},
        {"w0": -1},
        {"w0": 65_537},
        {"w1": 0},
        {"w1": -1},
        {"w1": 65_537},
        {"w2": 0},
        {"w2": -1},
        {"w3": -1},
        {"w3": 5},
        {"w3": 7},
        {"w3": 102},
        {"w23": -1},
    ],
)
def test_a_claim_that_cannot_be_is_no_header(tmp_path: Path, order: str, words: dict[str, int]) -> None:
    path = tmp_path / "a.mrc"
    with mrcfile.new(path) as mrc:
        mrc.set_data(np.ones((4, 6), f"{order}f4"))
    with pytest.raises(MicrographError) as refused:
        parse_header(path, with_words(path, order, **words))
    assert str(refused.value) == f"{path}: expected an MRC file, found no valid MRC header"
    assert refused.value.reason == "not_mrc"
    assert not isinstance(refused.value, IncompleteMicrograph)


@pytest.mark.parametrize(
    "words", [{"w0": 1}, {"w0": 65_536}, {"w1": 1}, {"w1": 65_536}, {"w23": 0}, {"w23": 2**31 - 1}]
)
def test_a_claim_at_a_limit_is_a_header(tmp_path: Path, write_mrc: Write, words: dict[str, int]) -> None:
    path = write_mrc(tmp_path / "a.mrc", np.ones((4, 6), np.float32))
    w, h, extended = (words.get(word, known) for word, known in (("w0", 6), ("w1", 4), ("w23", 0)))
    header = parse_header(path, with_words(path, **words))
    assert (header.shape, header.file_bytes) == ((h, w), HEADER_BYTES + extended + 4 * h * w)


@pytest.mark.parametrize("kind", ["FEI1", "FEI2", "SERI", "AGAR"])
def test_extended_headers_are_skipped_by_their_size(tmp_path: Path, kind: str) -> None:
    pixels = np.random.default_rng(0).normal(size=(5, 7)).astype(np.float32)
    path = tmp_path / "a.mrc"
    with mrcfile.new(path) as mrc:
        mrc.set_data(pixels)
        mrc.set_extended_header(np.frombuffer(np.random.default_rng(1).bytes(888), "V1"))
        mrc.header.exttyp = kind
    np.testing.assert_array_equal(read_micrograph(path).pixels, pixels)


@pytest.mark.parametrize("pixel_size", [0.0, 1.0])
def test_pixel_size_of_0_or_1_is_unknown(tmp_path: Path, write_mrc: Write, pixel_size: float) -> None:
    path = write_mrc(tmp_path / "a.mrc", np.ones((4, 6), np.float32), pixel_size)
    assert parse_header(path, head_of(path)).pixel_size.angstrom is None


@pytest.mark.parametrize(
    ("cell", "pixel_size"),
    [
        ((4.0, 6.0), None),
        ((4.0, 0.0), None),
        ((np.nextafter(np.float32(4), 0), np.nextafter(np.float32(6), 7)), None),
        ((4.0001, 6.0), 1.000025),
        ((4.0, 6.03), 1.0),
    ],
)
def test_1_is_unknown_up_to_the_last_digit_and_along_both_sides(
    tmp_path: Path, write_mrc: Write, cell: tuple[float, float], pixel_size: float | None
) -> None:
    path = write_mrc(tmp_path / "a.mrc", np.ones((6, 4), np.float32))
    content = bytearray(head_of(path))
    content[40:48] = struct.pack("<2f", *cell)
    found = parse_header(path, bytes(content)).pixel_size
    assert found.angstrom == (None if pixel_size is None else pytest.approx(pixel_size, abs=1e-6))
    assert found.doubt == ""


@pytest.mark.parametrize(
    ("cell", "grid", "found"),
    [
        ((4.0e-10, 6.0e-10), (4, 6), "1e-10 Å, which is no pixel size"),
        ((4.0e4, 6.0e4), (4, 6), "10000 Å, which is no pixel size"),
        ((-8.0, -12.0), (4, 6), "-2 Å, which is no pixel size"),
        ((np.inf, 12.0), (4, 6), "inf Å, which is no pixel size"),
        ((np.nan, 12.0), (4, 6), "nan Å, which is no pixel size"),
        ((1e-45, 12.0), (4, 6), "Å, which is no pixel size"),
        ((8.0, 12.2), (4, 6), "2 Å along x and 2.03333 Å along y, which must be equal within 1 %"),
        ((8.0, np.nan), (4, 6), "2 Å along x and nan Å along y"),
        ((4.0, 12.0), (4, 6), "1 Å along x and 2 Å along y"),
        ((8.0, 12.0), (0, 6), ""),
        ((0.0, 12.0), (4, 6), ""),
        ((8.0, 12.0), (-4, 6), ""),
    ],
)
def test_a_pixel_size_that_cannot_be_is_refused_with_what_was_found(
    tmp_path: Path, write_mrc: Write, cell: tuple[float, float], grid: tuple[int, int], found: str
) -> None:
    path = write_mrc(tmp_path / "a.mrc", np.arange(24, dtype=np.float32).reshape(6, 4))
    content = bytearray(path.read_bytes())
    content[28:36] = struct.pack("<2i", *grid)
    content[40:48] = struct.pack("<2f", *cell)
    path.write_bytes(content)
    micrograph = read_micrograph(path)
    with pytest.raises(MicrographError, match=r"expected a pixel size in the header, found .*--pixel-size") as refused:
        micrograph.resolve_pixel_size(None)
    assert refused.value.reason == "pixel_size"
    assert (found or "0 or 1.0 (unknown)") in str(refused.value)
    assert micrograph.resolve_pixel_size(1.5) == 1.5


@pytest.mark.parametrize("cell", [(8.0, 12.0), (8.0, 12.1), (8.0, 0.0), (0.06, 0.09), (4000.0, 6000.0)])
def test_a_pixel_size_need_not_be_the_same_to_the_last_digit(
    tmp_path: Path, write_mrc: Write, cell: tuple[float, float]
) -> None:
    path = write_mrc(tmp_path / "a.mrc", np.ones((6, 4), np.float32))
    content = bytearray(head_of(path))
    content[40:48] = struct.pack("<2f", *cell)
    assert parse_header(path, bytes(content)).pixel_size.angstrom == pytest.approx(cell[0] / 4)


def test_a_pixel_size_is_the_cell_over_the_grid_and_not_over_the_picture(tmp_path: Path, write_mrc: Write) -> None:
    path = write_mrc(tmp_path / "a.mrc", np.ones((6, 4), np.float32))
    for grid, angstrom in ((1, 12.0), (2, 6.0), (24, 0.5)):
        head = with_words(path, w7=grid, w8=grid, w10=12.0, w11=12.0)
        assert parse_header(path, head).pixel_size.angstrom == angstrom


def test_headers_of_other_programs_are_understood(shared_data: Path) -> None:
    shapes = {}
    for path in sorted((shared_data / "formats").glob("*.mrc")):
        header = parse_header(path, head_of(path))
        assert header.file_bytes == path.stat().st_size
        assert header.pixel_size.angstrom is None
        shapes[path.name] = header.shape
    assert shapes["Ucsf_stack_1142_DW.mrc"] == (927, 959)
    assert len(shapes) == 3


@pytest.mark.parametrize(("length", "found"), [(0, "an empty file"), (1, "1 bytes"), (1023, "1023 bytes")])
def test_a_file_shorter_than_a_header_is_incomplete(length: int, found: str) -> None:
    with pytest.raises(IncompleteMicrograph) as incomplete:
        parse_header(Path("a.mrc"), b"x" * length)
    assert str(incomplete.value) == f"a.mrc: expected an MRC header of 1024 bytes, found {found}"
    assert incomplete.value.reason == "truncated"


def test_a_header_of_zeros_is_incomplete() -> None:
    with pytest.raises(IncompleteMicrograph) as incomplete:
        parse_header(Path("a.mrc"), bytes(HEADER_BYTES))
    assert str(incomplete.value) == "a.mrc: expected an MRC header, found only zeros"
    assert incomplete.value.reason == "truncated"


@pytest.mark.parametrize(
    ("mode", "named"),
    [(3, "complex int16"), (4, "complex float32 (a Fourier transform)"), (16, "RGB colours"), (101, "packed 4-bit")],
)
def test_modes_that_are_no_image_are_refused_by_name(tmp_path: Path, write_mrc: Write, mode: int, named: str) -> None:
    path = write_mrc(tmp_path / "a.mrc", np.ones((4, 6), np.float32))
    with pytest.raises(MicrographError) as refused:
        parse_header(path, with_words(path, w3=mode))
    expected = "expected a real image (MRC mode 0, 1, 2, 6 or 12)"
    assert str(refused.value) == f"{path}: {expected}, found mode {mode}: {named}"
    assert refused.value.reason == "unsupported"


@pytest.mark.parametrize("stored", ["<f4", "<i2", ">i2"])
@pytest.mark.parametrize("left", [0, 1, 2999, 1_500_001])
def test_a_file_that_shrinks_while_it_is_read_is_incomplete(
    tmp_path: Path, write_mrc: Write, stored: str, left: int
) -> None:
    pixels = np.ones((700, 1100), stored)
    path = write_mrc(tmp_path / "a.mrc", pixels)
    left = min(left, pixels.nbytes - 1)
    with FileIO(path) as file:
        image = open_mrc(path, file)
        os.truncate(path, HEADER_BYTES + left)
        with pytest.raises(IncompleteMicrograph) as incomplete:
            list(image.fill(np.empty(pixels.shape, np.float32)))
    there = f"expected 770000 pixels, found {left // pixels.itemsize}: the file ends before its image does"
    assert str(incomplete.value) == f"{path}: {there}"
    assert incomplete.value.reason == "truncated"


@given(st.binary(min_size=HEADER_BYTES, max_size=HEADER_BYTES))
def test_random_bytes_are_refused_or_give_a_sane_header(head: bytes) -> None:
    try:
        header = parse_header(Path("a.mrc"), head)
    except MicrographError:
        return
    assert min(header.shape) > 0
    assert header.file_bytes >= HEADER_BYTES
