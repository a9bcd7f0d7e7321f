"""Compressed MRC: whole to the last checksum, and never a byte more than the header demands."""

from __future__ import annotations

import bz2
import gzip
import resource
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from frazil.errors import IncompleteMicrograph, MicrographError
from frazil.picking import check_complete, read_micrograph
from frazil.picking.formats import compressed

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


def test_padding_after_the_stream_does_no_harm(tmp_path: Path, whole: bytes) -> None:
    path = tmp_path / "a.mrc.gz"
    path.write_bytes(gzip.compress(whole) + bytes(512))
    check_complete(path)
    np.testing.assert_array_equal(read_micrograph(path).pixels, GOLDEN)


def test_a_file_cut_anywhere_is_incomplete_by_look_and_by_read(tmp_path: Path, whole: bytes, ending: str) -> None:
    packed = PACKS[ending](whole)
    path = tmp_path / f"a{ending}"
    for length in (0, 1, 5, 300, len(packed) // 2, len(packed) - 8, len(packed) - 1):
        path.write_bytes(packed[:length])
        for look in (check_complete, read_micrograph):
            with pytest.raises(IncompleteMicrograph) as incomplete:
                look(path)
            assert incomplete.value.reason == "truncated"


def test_members_that_are_missing_show_when_the_file_is_read(tmp_path: Path, whole: bytes, ending: str) -> None:
    half = len(whole) // 2
    path = tmp_path / f"a{ending}"
    path.write_bytes(PACKS[ending](whole[:half]))
    with pytest.raises(IncompleteMicrograph, match="pixels, found"):
        read_micrograph(path)


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
    path.write_bytes(bytes(5000))
    with pytest.raises(IncompleteMicrograph, match="only zeros"):
        check_complete(path)


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
    with pytest.raises(MicrographError, match="incorrect data check"):
        read_micrograph(path)


def test_a_bomb_stops_at_the_first_byte_past_what_the_header_demands(tmp_path: Path, whole: bytes, ending: str) -> None:
    path = tmp_path / f"a{ending}"
    path.write_bytes(PACKS[ending](whole + bytes(48 << 20)))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(MicrographError, match=f"expected {len(whole)} bytes from .*, found more") as refused:
        read_micrograph(path)
    assert refused.value.reason == "corrupt"
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
    assert refused.value.reason == "stack"


def test_an_extended_header_is_skipped(tmp_path: Path, whole: bytes, ending: str) -> None:
    path = tmp_path / f"a{ending}"
    head = whole[:92] + (700).to_bytes(4, "little") + whole[96:1024]
    path.write_bytes(PACKS[ending](head + b"x" * 700 + whole[1024:]))
    check_complete(path)
    np.testing.assert_array_equal(read_micrograph(path).pixels, GOLDEN)


def test_raw_deflate_without_gzip_is_refused(tmp_path: Path, whole: bytes) -> None:
    path = tmp_path / "a.mrc.gz"
    path.write_bytes(zlib.compress(whole))
    with pytest.raises(MicrographError, match="expected a gzip file"):
        read_micrograph(path)
