"""Reading micrographs: what is in the file, or one line that says what is wrong with it."""

from __future__ import annotations

import contextlib
import gc
import gzip
import os
import socket
import threading
from collections.abc import Callable
from pathlib import Path

import mrcfile
import numpy as np
import pytest
import tifffile
from hypothesis import given
from hypothesis import strategies as st

from frazil.errors import IncompleteMicrograph, MicrographError
from frazil.picking import Micrograph, PixelMemory, check_complete, read_micrograph
from frazil.picking.rescale import Rescaling, rescale

Write = Callable[..., Path]
ASYMMETRIC = np.arange(35, dtype=np.float32).reshape(5, 7)


@pytest.mark.parametrize("dtype", ["<f4", ">f4", "<i2", ">i2", "<u2", "<f2", "i1"])
def test_rows_and_columns_come_out_as_stored(tmp_path: Path, write_mrc: Write, dtype: str) -> None:
    path = write_mrc(tmp_path / "a.mrc", ASYMMETRIC.astype(dtype))
    pixels = read_micrograph(path).pixels
    assert pixels.dtype == np.float32
    np.testing.assert_array_equal(pixels, ASYMMETRIC)


@pytest.mark.parametrize("ending", [".mrc", ".mrc.gz"])
@pytest.mark.parametrize(
    ("dtype", "kept"),
    [("<i2", "i2"), (">i2", "i2"), ("<u2", "u2"), ("i1", "i1"), ("<f2", "f4"), ("<f4", "f4"), (">f4", "f4")],
)
def test_whole_numbers_stay_what_they_are_if_wanted(
    tmp_path: Path, write_mrc: Write, ending: str, dtype: str, kept: str
) -> None:
    path = write_mrc(tmp_path / "a.mrc", ASYMMETRIC.astype(dtype))
    if ending == ".mrc.gz":
        path = Path(f"{path}.gz")
        path.write_bytes(gzip.compress(path.with_suffix("").read_bytes()))
    pixels = read_micrograph(path, as_stored=True).pixels
    assert pixels.dtype == np.dtype(kept)
    assert pixels.dtype.isnative
    np.testing.assert_array_equal(pixels, ASYMMETRIC)


def test_whole_numbers_as_stored_take_no_more_memory_than_in_the_file(tmp_path: Path, write_mrc: Write) -> None:
    stored = np.arange(4000 * 4000, dtype=np.int64).astype(np.int16).reshape(4000, 4000)
    path = write_mrc(tmp_path / "a.mrc", stored)
    limit = 2 * stored.size + (9 << 20)
    assert read_micrograph(path, as_stored=True, largest_bytes=limit).pixels.nbytes == stored.nbytes
    with pytest.raises(MicrographError, match="expected a micrograph that takes at most"):
        read_micrograph(path, largest_bytes=limit)


def test_micrographs_of_other_programs_are_read_as_mrcfile_reads_them(shared_data: Path) -> None:
    for path in sorted((shared_data / "formats").glob("*.mrc")):
        with mrcfile.open(path) as mrc:
            np.testing.assert_array_equal(read_micrograph(path).pixels, mrc.data)


def test_bytes_after_the_picture_do_no_harm(tmp_path: Path, write_mrc: Write) -> None:
    path = write_mrc(tmp_path / "a.mrc", ASYMMETRIC)
    with path.open("ab") as file:
        file.write(b"more")
    np.testing.assert_array_equal(read_micrograph(path).pixels, ASYMMETRIC)


def bad(tmp_path: Path, write_mrc: Write, kind: str) -> Path:
    path = tmp_path / f"{kind}.mrc"
    if kind == "empty":
        path.write_bytes(b"")
    elif kind == "truncated":
        write_mrc(path, ASYMMETRIC)
        path.write_bytes(path.read_bytes()[:-1])
    elif kind == "text":
        path.write_text("this is no MRC file, but it is long enough to hold a header\n" * 40)
    elif kind in ("stack", "volume"):
        with mrcfile.new(path) as mrc:
            mrc.set_data(np.ones((3, 5, 7), np.float32))
            if kind == "stack":
                mrc.set_image_stack()
    elif kind == "nan":
        pixels = ASYMMETRIC.copy()
        pixels[2, 3] = np.nan
        with pytest.warns(RuntimeWarning, match="NaN"):
            write_mrc(path, pixels)
    elif kind == "infinite":
        pixels = ASYMMETRIC.copy()
        pixels[2, 3:5] = np.inf
        with pytest.warns(RuntimeWarning):
            write_mrc(path, pixels)
    elif kind == "constant":
        write_mrc(path, np.full((5, 7), 3, np.float32))
    return path


@pytest.mark.parametrize(
    ("kind", "reason", "says"),
    [
        ("empty", "truncated", "expected an MRC header of 1024 bytes, found an empty file"),
        ("truncated", "truncated", "expected 1164 bytes for 7 x 5 pixels of float32, found 1163"),
        ("text", "not_mrc", "expected an MRC file, found no valid MRC header"),
        ("stack", "stack", "expected one image, found a stack of 3 images (raw movies must be motion-corrected"),
        ("volume", "stack", "expected one image, found a volume of 3 sections"),
        ("nan", "not_finite", "expected finite pixels, found 1 that are NaN or infinite"),
        ("infinite", "not_finite", "expected finite pixels, found 2 that are NaN or infinite"),
        ("constant", "constant", "expected a picture, found every pixel equal to 3"),
        ("missing", "unreadable", "No such file"),
    ],
)
def test_bad_files_say_what_was_expected_and_found(
    tmp_path: Path, write_mrc: Write, kind: str, reason: str, says: str
) -> None:
    path = bad(tmp_path, write_mrc, kind)
    with pytest.raises(MicrographError) as refused:
        read_micrograph(path)
    assert str(refused.value).startswith(f"{path}: ")
    assert says in str(refused.value)
    assert refused.value.reason == reason


def test_a_header_that_claims_terabytes_allocates_nothing(tmp_path: Path, write_mrc: Write) -> None:
    path = write_mrc(tmp_path / "a.mrc", ASYMMETRIC)
    content = bytearray(path.read_bytes())
    content[0:8] = (65_000).to_bytes(4, "little") * 2
    path.write_bytes(content)
    with pytest.raises(IncompleteMicrograph, match="expected 16900001024 bytes"):
        read_micrograph(path)


def test_completeness_is_proved_at_the_last_byte(tmp_path: Path, write_mrc: Write) -> None:
    whole = write_mrc(tmp_path / "whole.mrc", ASYMMETRIC).read_bytes()
    growing = tmp_path / "growing.mrc"
    for length in (0, 500, 1024, 1025, len(whole) - 1):
        growing.write_bytes(whole[:length])
        with pytest.raises(IncompleteMicrograph):
            check_complete(growing)
    growing.write_bytes(whole)
    check_complete(growing)


def test_further_images_behind_the_one_in_the_header_are_waited_for(tmp_path: Path, write_mrc: Write) -> None:
    path = write_mrc(tmp_path / "a.mrc", ASYMMETRIC)
    with path.open("ab") as file:
        file.write(bytes(ASYMMETRIC.nbytes - 1))
    check_complete(path)
    with path.open("ab") as file:
        file.write(b"x")
    with pytest.raises(IncompleteMicrograph, match="found 1304: further images") as incomplete:
        check_complete(path)
    assert str(incomplete.value).startswith(f"{path}: expected 1164 bytes for the one image ")
    assert incomplete.value.reason == "stack"


@pytest.mark.parametrize("kind", ["a named pipe", "a socket", "a device", "a directory"])
def test_what_is_no_regular_file_is_refused_and_not_waited_for(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "a.mrc"
    if kind == "a named pipe":
        os.mkfifo(path)
    elif kind == "a device":
        path.symlink_to("/dev/zero")
    elif kind == "a directory":
        path.mkdir()
    with contextlib.ExitStack() as stack:
        if kind == "a socket":
            listener = stack.enter_context(socket.socket(socket.AF_UNIX))
            stack.enter_context(contextlib.chdir(tmp_path))  # the name of a socket may not be long
            listener.bind("a.mrc")
        for look in (check_complete, read_micrograph):
            with pytest.raises(MicrographError, match=f"expected a regular file, found {kind}") as refused:
                look(path)
            assert refused.value.reason == "not_a_file"
            assert str(refused.value).startswith(f"{path}: ")


def test_a_micrograph_that_takes_more_memory_than_allowed_is_refused_before_it_is_taken(
    tmp_path: Path, write_mrc: Write
) -> None:
    path = write_mrc(tmp_path / "a.mrc", ASYMMETRIC)
    with path.open("r+b") as file:
        file.write((65_000).to_bytes(4, "little") * 2)
        file.truncate(1024 + 65_000 * 65_000 * 4)
    with pytest.raises(MicrographError, match=r"\(max_micrograph_bytes\), found 65000 x 65000 pixels") as refused:
        read_micrograph(path)
    assert refused.value.reason == "too_large"


def test_the_largest_detectors_are_within_the_default_limit(tmp_path: Path, write_mrc: Write) -> None:
    path = write_mrc(tmp_path / "a.mrc", ASYMMETRIC)
    for w, h in ((11_520, 8184), (16_384, 16_384)):
        content = bytearray(path.read_bytes()[:1024])
        content[:8] = w.to_bytes(4, "little") + h.to_bytes(4, "little")
        path.write_bytes(content)
        with path.open("r+b") as file:
            file.truncate(1024 + w * h * 4)
        with pytest.raises(MicrographError, match="read_timeout") as refused:  # it has room, and is cut off at once
            read_micrograph(path, cut_off=lambda: True)
        assert refused.value.reason == "too_slow"


def test_reading_that_takes_too_long_is_cut_off_between_blocks(tmp_path: Path, write_mrc: Write) -> None:
    pixels = np.zeros((3000, 2000), np.float32)
    path = write_mrc(tmp_path / "a.mrc", pixels)
    asked = []
    with pytest.raises(MicrographError, match=r"expected 6000000 pixels .* found 260000 by then"):
        read_micrograph(path, cut_off=lambda: bool(asked.append(1)) or len(asked) == 2)


@pytest.mark.parametrize("ending", ["mrc", "mrc.gz", "tif"])
def test_a_micrograph_is_rescaled_while_it_is_read(tmp_path: Path, write_mrc: Write, ending: str) -> None:
    pixels = np.random.default_rng(0).normal(5, 1, (900, 700)).astype(np.float32)
    path = tmp_path / f"a.{ending}"
    if ending == "tif":
        tifffile.imwrite(path, pixels)
    else:
        content = write_mrc(tmp_path / "plain.mrc", pixels, 2.0).read_bytes()
        path.write_bytes(gzip.compress(content) if ending == "mrc.gz" else content)
    asked = []

    def rescaling(shape: tuple[int, int], pixel_size_angstrom: float | None) -> Rescaling:
        asked.append((shape, pixel_size_angstrom))
        return Rescaling.for_diameter(shape, 40.0, 10.0)

    micrograph = read_micrograph(path, rescaling=rescaling)
    if ending == "tif":  # its last row comes first
        assert micrograph.rescaled is None
        return
    assert asked == [((900, 700), 2.0)]
    assert micrograph.rescaled is not None
    expected = rescale(pixels, micrograph.rescaled.rescaling)
    np.testing.assert_allclose(micrograph.rescaled.pixels, expected, rtol=1e-5)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_what_is_rescaled_while_it_is_read_is_refused_like_any_other(
    tmp_path: Path, write_mrc: Write, bad: float
) -> None:
    pixels = np.random.default_rng(0).normal(5, 1, (900, 700)).astype(np.float32)
    path = write_mrc(tmp_path / "a.mrc", pixels)
    content = bytearray(path.read_bytes())
    at = 1024 + 4 * (300 * 700 + 200)
    content[at : at + 4] = np.float32(bad).tobytes()
    path.write_bytes(content)
    with pytest.raises(MicrographError, match="found 1 that are NaN or infinite"):
        read_micrograph(path, rescaling=lambda shape, _: Rescaling.for_diameter(shape, 40.0, 10.0))
    path.write_bytes(path.read_bytes()[:-4])
    with pytest.raises(IncompleteMicrograph):
        read_micrograph(path, rescaling=lambda shape, _: Rescaling.for_diameter(shape, 40.0, 10.0))


def test_enlarging_is_left_to_the_picker(tmp_path: Path, write_mrc: Write) -> None:
    path = write_mrc(tmp_path / "a.mrc", ASYMMETRIC)
    micrograph = read_micrograph(path, rescaling=lambda shape, _: Rescaling.for_diameter(shape, 10.0, 40.0))
    assert micrograph.rescaled is None


def test_unknown_pixel_size_needs_a_configured_one(tmp_path: Path, write_mrc: Write) -> None:
    micrograph = read_micrograph(write_mrc(tmp_path / "a.mrc", ASYMMETRIC, 1.0))
    with pytest.raises(MicrographError, match="--pixel-size") as refused:
        micrograph.resolve_pixel_size(None)
    assert refused.value.reason == "pixel_size"
    assert micrograph.resolve_pixel_size(1.5) == 1.5


def test_configured_pixel_size_beats_the_header(tmp_path: Path, write_mrc: Write) -> None:
    micrograph = read_micrograph(write_mrc(tmp_path / "a.mrc", ASYMMETRIC, 2.0))
    assert micrograph.resolve_pixel_size(None) == 2.0
    assert micrograph.resolve_pixel_size(1.5) == 1.5


PIXELS = np.random.default_rng(0).integers(0, 200, (900, 700)).astype(np.int16)


def halve(shape: tuple[int, int], _: float | None) -> Rescaling:
    return Rescaling.for_diameter(shape, 20.0, 10.0)


def read_halved(path: Path, cut_off: Callable[[], bool] = lambda: False) -> Micrograph:
    return read_micrograph(path, as_stored=True, rescaling=halve, cut_off=cut_off)


def test_it_comes_as_it_is_stored_and_rescaled(tmp_path: Path, write_mrc: Callable[..., Path]) -> None:
    path = write_mrc(tmp_path / "a.mrc", PIXELS)
    seen: list[str] = []

    def look() -> bool:
        seen.extend(thread.name for thread in threading.enumerate())
        return False

    micrograph = read_halved(path, look)
    np.testing.assert_array_equal(micrograph.pixels, PIXELS)
    assert micrograph.pixels.dtype == np.int16
    assert micrograph.rescaled is not None
    np.testing.assert_allclose(micrograph.rescaled.pixels, rescale(PIXELS, halve(PIXELS.shape, None)), rtol=1e-5)
    assert any(name.startswith("frazil-rescaling") for name in seen)


@pytest.mark.parametrize("given_up", [True, False])
def test_no_thread_is_left(tmp_path: Path, write_mrc: Callable[..., Path], given_up: bool) -> None:
    path = write_mrc(tmp_path / "a.mrc", PIXELS)
    if given_up:
        with pytest.raises(MicrographError, match="read_timeout_seconds"):
            read_halved(path, lambda: True)
    else:
        read_halved(path)
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("frazil-rescaling")]


FLOAT32 = np.dtype(np.float32)


def place(array: np.ndarray) -> int:
    return int(array.__array_interface__["data"][0])


def test_memory_that_nobody_holds_is_used_again() -> None:
    memory = PixelMemory()
    first = memory.take((30, 40), FLOAT32)
    was = place(first)
    del first
    again = memory.take((40, 30), FLOAT32)
    assert (place(again), again.shape) == (was, (40, 30))
    assert place(memory.take((30, 40), FLOAT32)) != was


@pytest.mark.parametrize(
    "hold",
    [
        lambda array: array,
        lambda array: array[5:7, ::3],
        lambda array: array.T.view(np.uint32)[1:],
        lambda array: memoryview(array),
        lambda array: Micrograph(path=Path("a.mrc"), pixels=array, pixel_size_angstrom=None),
    ],
    ids=["itself", "a view", "a view of a view", "a buffer", "a micrograph"],
)
def test_memory_that_somebody_holds_is_left_alone(hold) -> None:
    memory = PixelMemory()
    array = memory.take((30, 40), FLOAT32)
    was, held = place(array), hold(array)
    del array
    assert place(memory.take((30, 40), FLOAT32)) != was
    memory.release()
    del held


@given(st.lists(st.tuples(st.sampled_from([(8, 16), (16, 8), (4, 4)]), st.integers(0, 9)), max_size=60))
def test_no_two_arrays_in_use_share_memory(steps: list[tuple[tuple[int, int], int]]) -> None:
    memory = PixelMemory()
    held: list[tuple[np.ndarray, int]] = []
    for number, (shape, drop) in enumerate(steps):
        array = memory.take(shape, FLOAT32)
        array[:] = number
        held.append((array, number))
        del array
        if drop < len(held):
            del held[drop]
        assert all((kept == wrote).all() for kept, wrote in held)


def test_memory_of_another_size_is_given_back() -> None:
    memory = PixelMemory()
    for side in range(1, 200):
        array = memory.take((side, 1000), FLOAT32)
        del array
    gc.collect()
    assert len(memory._free) <= 2
    memory.release()
    assert not memory._free
