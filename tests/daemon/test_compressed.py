"""Compressed MRC: whole to the last checksum, and never a byte more than the header demands."""

from __future__ import annotations

import bz2
import gzip
import os
import resource
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from frazil.errors import IncompleteMicrograph, MicrographError
from frazil.picking import check_complete, read_micrograph
from frazil.picking.formats import BLOCK_BYTES, compressed

Pack = Callable[[bytes], bytes]
PACKS: dict[str, Pack] = {".mrc.gz": gzip.compress, ".mrc.bz2": bz2.compress}
ROWS, COLUMNS = 37, 53
GOLDEN = np.random.default_rng(0).normal(100, 10, (ROWS, COLUMNS)).astype(np.float32)


@pytest.fixture
def whole(tmp_path: Path, write_mrc: Callable[..., Path]) -> bytes:
    return write_mrc(tmp_path / "whole.mrc", GOLDEN, 1.5).read_bytes()


@pytest.fixture(params=sorted(PACKS))
def ending(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def no_decompression(*_: object) -> None:
    raise AssertionError("a look must not decompress the file")


def test_rows_and_columns_come_out_as_stored(tmp_path: Path, whole: bytes, ending: str) -> None:
    path = tmp_path / f"a{ending.upper()}"
    path.write_bytes(PACKS[ending](whole))
    check_complete(path)
    micrograph = read_micrograph(path)
    np.testing.assert_array_equal(micrograph.pixels, GOLDEN)
    assert micrograph.pixel_size_angstrom == 1.5


def test_several_members_are_one_picture(tmp_path: Path, whole: bytes, ending: str) -> None:
    path = tmp_path / f"a{ending}"
    path.write_bytes(b"".join(PACKS[ending](whole[i : i + 999]) for i in range(0, len(whole), 999)))
    check_complete(path)
    np.testing.assert_array_equal(read_micrograph(path).pixels, GOLDEN)


def test_endless_empty_members_are_refused(
    tmp_path: Path, whole: bytes, ending: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(compressed, "_MOST_MEMBERS", 100)
    path = tmp_path / f"a{ending}"
    pack = PACKS[ending]
    path.write_bytes(pack(whole[:2000]) + pack(b"") * 99 + pack(whole[2000:]))
    with pytest.raises(MicrographError, match=r"expected at most 100 members of \w+, found more") as refused:
        read_micrograph(path)
    assert refused.value.reason == "corrupt"
    assert str(refused.value).startswith(f"{path}: ")
    path.write_bytes(pack(whole[:2000]) + pack(b"") * 98 + pack(whole[2000:]))
    np.testing.assert_array_equal(read_micrograph(path).pixels, GOLDEN)


def as_long_as_one_input(content: bytes) -> bytes:
    """A member of gzip that its name makes as long as what is read of the file at once."""
    packed = bytearray(gzip.compress(content, mtime=0))
    packed[3] |= 8
    packed[10:10] = b"a" * (compressed._INPUT_BYTES - len(packed) - 1) + b"\0"
    assert len(packed) == compressed._INPUT_BYTES
    return bytes(packed)


def test_a_member_may_end_where_a_block_of_input_does(tmp_path: Path, whole: bytes) -> None:
    first = as_long_as_one_input(whole[:3000])
    path = tmp_path / "a.mrc.gz"
    for rest in (gzip.compress(whole[3000:]), gzip.compress(whole[3000:]) + bytes(100)):
        path.write_bytes(first + rest)
        np.testing.assert_array_equal(read_micrograph(path).pixels, GOLDEN)
    path.write_bytes(first + bytes(100))
    with pytest.raises(IncompleteMicrograph, match="pixels, found"):
        read_micrograph(path)


def test_padding_after_the_stream_does_no_harm(tmp_path: Path, whole: bytes) -> None:
    path = tmp_path / "a.mrc.gz"
    path.write_bytes(gzip.compress(whole) + bytes(512))
    check_complete(path)
    np.testing.assert_array_equal(read_micrograph(path).pixels, GOLDEN)


@pytest.mark.parametrize("pack", [gzip.compress, as_long_as_one_input, bz2.compress])
def test_a_long_padding_is_not_taken_into_memory(tmp_path: Path, whole: bytes, pack: Pack) -> None:
    path = tmp_path / ("a.mrc.bz2" if pack is bz2.compress else "a.mrc.gz")
    path.write_bytes(pack(whole))
    os.truncate(path, 256 << 20)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    np.testing.assert_array_equal(read_micrograph(path).pixels, GOLDEN)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 24 << 10


def test_a_file_cut_anywhere_is_incomplete_by_look_and_by_read(tmp_path: Path, whole: bytes, ending: str) -> None:
    packed = PACKS[ending](whole)
    path = tmp_path / f"a{ending}"
    for length in (0, 1, 5, 300, len(packed) // 2, len(packed) - 8, len(packed) - 1):
        path.write_bytes(packed[:length])
        for look in (check_complete, read_micrograph):
            with pytest.raises(IncompleteMicrograph) as incomplete:
                look(path)
            assert incomplete.value.reason == "truncated"
            assert str(incomplete.value).startswith(f"{path}: expected ")


def test_a_stream_without_its_end_is_incomplete_though_every_pixel_is_there(
    tmp_path: Path, whole: bytes, ending: str
) -> None:
    path = tmp_path / f"a{ending}"
    path.write_bytes(PACKS[ending](whole)[:-1])
    with pytest.raises(IncompleteMicrograph) as incomplete:
        read_micrograph(path)
    if ending == ".mrc.gz":
        ends = "expected the end of the gzip stream, found the end of the file"
        assert str(incomplete.value) == f"{path}: {ends}"
    assert incomplete.value.reason == "truncated"


def test_a_look_at_gzip_compares_the_length_at_its_end(tmp_path: Path, whole: bytes) -> None:
    path = tmp_path / "a.mrc.gz"
    packed = gzip.compress(whole)
    for said in (len(whole) + 1, 2**32 - 1):
        path.write_bytes(packed[:-4] + said.to_bytes(4, "little"))
        with pytest.raises(IncompleteMicrograph) as incomplete:
            check_complete(path)
        end = f"expected {len(whole)} bytes by the end mark of gzip, found {said}"
        assert str(incomplete.value) == f"{path}: {end}"
        assert incomplete.value.reason == "truncated"
    for said in (len(whole) - 1, 0):  # as of the last of several members
        path.write_bytes(packed[:-4] + said.to_bytes(4, "little"))
        with pytest.raises(MicrographError, match=r"found damage after \d+ bytes: .*incorrect length check") as refused:
            check_complete(path)
        assert refused.value.reason == "corrupt"


def test_the_length_at_the_end_of_gzip_has_32_bits(tmp_path: Path, whole: bytes) -> None:
    side = (65_536).to_bytes(4, "little")
    head = side + side + whole[8:12] + bytes(4) + whole[16:]  # mode 0: 2^32 pixels of one byte
    path = tmp_path / "a.mrc.gz"
    path.write_bytes(gzip.compress(head)[:-4] + (1024).to_bytes(4, "little"))
    check_complete(path)


def test_what_several_members_hold_is_proved_by_a_look(tmp_path: Path, whole: bytes) -> None:
    path = tmp_path / "a.mrc.gz"
    half = len(whole) // 2
    path.write_bytes(gzip.compress(whole[:half]) + gzip.compress(whole[half:-1]))
    with pytest.raises(IncompleteMicrograph, match="more bytes, found the end of the gzip data") as incomplete:
        check_complete(path)
    assert incomplete.value.reason == "truncated"
    assert str(incomplete.value).startswith(f"{path}: expected ")
    path.write_bytes(gzip.compress(whole[:half]) + gzip.compress(whole[half:] + b"x"))
    with pytest.raises(
        MicrographError, match=f"expected {len(whole)} bytes from gzip, as the header demands, found more"
    ):
        check_complete(path)
    path.write_bytes(gzip.compress(whole[:half]) + gzip.compress(whole[half:]))
    check_complete(path)


def test_the_end_mark_of_bzip2_is_found_at_every_bit(tmp_path: Path, whole: bytes) -> None:
    path = tmp_path / "a.mrc.bz2"
    marks = set()
    for more in range(40):
        packed = bz2.compress(whole[:92] + more.to_bytes(4, "little") + whole[96:1024] + b"x" * more + whole[1024:])
        end = int.from_bytes(packed[-11:], "big")
        marks |= {fill for fill in range(8) if end >> 32 + fill & 2**48 - 1 == 0x177245385090}
        path.write_bytes(packed)
        check_complete(path)
        for cut in (packed[:-1], packed + b"x", packed[:-10] + bytes(10)):
            path.write_bytes(cut)
            with pytest.raises(IncompleteMicrograph, match=r"mark of bzip2, found none$") as incomplete:
                check_complete(path)
            assert incomplete.value.reason == "truncated"
            assert str(incomplete.value).startswith(f"{path}: ")
    assert marks == set(range(8))


def test_members_that_are_missing_show_when_the_file_is_read(tmp_path: Path, whole: bytes, ending: str) -> None:
    half = len(whole) // 2
    path = tmp_path / f"a{ending}"
    path.write_bytes(PACKS[ending](whole[:half]))
    with pytest.raises(IncompleteMicrograph, match="pixels, found") as incomplete:
        read_micrograph(path)
    assert str(incomplete.value).startswith(f"{path}: expected ")


def test_a_look_at_a_whole_file_decompresses_its_header_only(
    tmp_path: Path, whole: bytes, ending: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / f"a{ending}"
    path.write_bytes(PACKS[ending](whole))
    monkeypatch.setattr(compressed.CompressedMrcImage, "_skip", no_decompression)
    monkeypatch.setattr(compressed, "fill_rows", no_decompression)
    check_complete(path)
    path.write_bytes(path.read_bytes() + b"\xff" * 16)
    with pytest.raises(IncompleteMicrograph, match="end mark"):
        check_complete(path)


def test_space_not_yet_written_is_incomplete(tmp_path: Path, ending: str) -> None:
    path = tmp_path / f"a{ending}"
    kind = {".mrc.gz": "gzip", ".mrc.bz2": "bzip2"}[ending]
    for content, found in ((bytes(5000), "only zeros"), (b"", "an empty file")):
        path.write_bytes(content)
        with pytest.raises(IncompleteMicrograph) as incomplete:
            check_complete(path)
        assert str(incomplete.value) == f"{path}: expected a {kind} file, found {found}"
        assert incomplete.value.reason == "truncated"


def test_what_is_not_compressed_or_damaged_is_refused(
    tmp_path: Path, whole: bytes, ending: str, write_mrc: Callable[..., Path]
) -> None:
    path = tmp_path / f"a{ending}"
    path.write_bytes(whole)
    with pytest.raises(MicrographError, match="found none") as refused:
        check_complete(path)
    assert refused.value.reason == "corrupt"
    # Blocks of bzip2 hold up to 900 kB; the first one, with the header, stays whole.
    noise = np.random.default_rng(1).normal(100, 10, (700, 600)).astype(np.float32)
    packed = bytearray(PACKS[ending](write_mrc(tmp_path / "larger.mrc", noise).read_bytes()))
    packed[len(packed) * 3 // 4] ^= 255
    path.write_bytes(packed)
    check_complete(path)
    # A damaged block may also unpack to more than the header demands, before its checksum tells.
    with pytest.raises(MicrographError, match=r"found (damage|more)") as refused:
        read_micrograph(path)
    assert refused.value.reason == "corrupt"
    assert not isinstance(refused.value, IncompleteMicrograph)


def test_a_wrong_checksum_is_refused(tmp_path: Path, whole: bytes) -> None:
    packed = bytearray(gzip.compress(whole))
    packed[-8] ^= 1
    path = tmp_path / "a.mrc.gz"
    path.write_bytes(packed)
    with pytest.raises(MicrographError) as refused:
        read_micrograph(path)
    found = "found damage after 1024 bytes: Error -3 while decompressing data: incorrect data check"
    assert str(refused.value) == f"{path}: expected whole gzip data, {found}"
    assert refused.value.reason == "corrupt"


def test_a_bomb_stops_at_the_first_byte_past_what_the_header_demands(tmp_path: Path, whole: bytes, ending: str) -> None:
    path = tmp_path / f"a{ending}"
    path.write_bytes(PACKS[ending](whole + bytes(48 << 20)))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(MicrographError, match=f"expected {len(whole)} bytes from .*, found more") as refused:
        read_micrograph(path)
    assert refused.value.reason == "corrupt"
    assert str(refused.value).startswith(f"{path}: ")
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 24 << 10


def test_a_header_that_claims_more_than_memory_allows_is_refused_before_it_is_taken(
    tmp_path: Path, whole: bytes, ending: str
) -> None:
    side = (65_536).to_bytes(4, "little")
    path = tmp_path / f"a{ending}"
    path.write_bytes(PACKS[ending](side + side + whole[8:]))
    with pytest.raises(MicrographError, match="max_micrograph_bytes") as refused:
        read_micrograph(path)
    assert refused.value.reason == "too_large"


def test_stacks_are_refused_by_name(tmp_path: Path, whole: bytes, ending: str) -> None:
    path = tmp_path / f"a{ending}"
    path.write_bytes(PACKS[ending](whole[:8] + (40).to_bytes(4, "little") + whole[12:]))
    with pytest.raises(MicrographError, match=r"a (stack|volume) of 40") as refused:
        check_complete(path)
    assert str(refused.value).startswith(f"{path}: expected ")
    assert refused.value.reason == "stack"


def test_an_extended_header_is_skipped(tmp_path: Path, whole: bytes, ending: str) -> None:
    path = tmp_path / f"a{ending}"
    head = whole[:92] + (700).to_bytes(4, "little") + whole[96:1024]
    path.write_bytes(PACKS[ending](head + b"x" * 700 + whole[1024:]))
    check_complete(path)
    np.testing.assert_array_equal(read_micrograph(path).pixels, GOLDEN)


def test_a_long_extended_header_is_skipped_and_reading_can_be_cut_off_meanwhile(
    tmp_path: Path, whole: bytes, ending: str
) -> None:
    path = tmp_path / f"a{ending}"
    size = 3 * BLOCK_BYTES + 5
    head = whole[:92] + size.to_bytes(4, "little") + whole[96:1024]
    path.write_bytes(PACKS[ending](head + bytes(size) + whole[1024:]))
    asked: list[int] = []
    np.testing.assert_array_equal(read_micrograph(path, cut_off=lambda: bool(asked.append(1))).pixels, GOLDEN)
    assert len(asked) == 4
    with pytest.raises(MicrographError, match="within read_timeout_seconds, found 0 by then"):
        read_micrograph(path, cut_off=lambda: True)
    path.write_bytes(PACKS[ending](head + bytes(size - BLOCK_BYTES)))
    with pytest.raises(IncompleteMicrograph, match=f"expected {BLOCK_BYTES + 5} more bytes, found the end of the"):
        read_micrograph(path)


def test_raw_deflate_without_gzip_is_refused(tmp_path: Path, whole: bytes) -> None:
    path = tmp_path / "a.mrc.gz"
    path.write_bytes(zlib.compress(whole))
    with pytest.raises(MicrographError, match="expected a gzip file"):
        read_micrograph(path)
