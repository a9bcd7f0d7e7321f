"""Headers: what a file claims, checked before anything is allocated."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import mrcfile
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from frazil.errors import IncompleteMicrograph, MicrographError
from frazil.picking.mrc import HEADER_BYTES, parse_header

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
    assert header.pixel_size_angstrom == pytest.approx(1.77, abs=1e-5)


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


@pytest.mark.parametrize("pixel_size", [0.0, 1.0])
def test_pixel_size_of_0_or_1_is_unknown(tmp_path: Path, write_mrc: Write, pixel_size: float) -> None:
    path = write_mrc(tmp_path / "a.mrc", np.ones((4, 6), np.float32), pixel_size)
    assert parse_header(path, head_of(path)).pixel_size_angstrom is None


def test_headers_of_other_programs_are_understood(shared_data: Path) -> None:
    shapes = {}
    for path in sorted((shared_data / "formats").glob("*.mrc")):
        header = parse_header(path, head_of(path))
        assert header.file_bytes == path.stat().st_size
        assert header.pixel_size_angstrom is None
        shapes[path.name] = header.shape
    assert shapes["Ucsf_stack_1142_DW.mrc"] == (927, 959)
    assert len(shapes) == 3


@pytest.mark.parametrize("length", [0, 1, 1023])
def test_a_file_shorter_than_a_header_is_incomplete(length: int) -> None:
    with pytest.raises(IncompleteMicrograph, match="1024 bytes"):
        parse_header(Path("a.mrc"), b"x" * length)


def test_a_header_of_zeros_is_incomplete() -> None:
    with pytest.raises(IncompleteMicrograph, match="only zeros"):
        parse_header(Path("a.mrc"), bytes(HEADER_BYTES))


@pytest.mark.parametrize(("mode", "named"), [(3, "complex"), (4, "Fourier"), (101, "4-bit")])
def test_modes_that_are_no_image_are_refused_by_name(tmp_path: Path, write_mrc: Write, mode: int, named: str) -> None:
    path = write_mrc(tmp_path / "a.mrc", np.ones((4, 6), np.float32))
    content = bytearray(path.read_bytes())
    content[12:16] = mode.to_bytes(4, "little")
    with pytest.raises(MicrographError, match=named) as refused:
        parse_header(path, bytes(content[:HEADER_BYTES]))
    assert refused.value.reason == "unsupported"


@given(st.binary(min_size=HEADER_BYTES, max_size=HEADER_BYTES))
def test_random_bytes_are_refused_or_give_a_sane_header(head: bytes) -> None:
    try:
        header = parse_header(Path("a.mrc"), head)
    except MicrographError:
        return
    assert min(header.shape) > 0
    assert header.file_bytes >= HEADER_BYTES
