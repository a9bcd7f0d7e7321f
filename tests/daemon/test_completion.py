"""Completion: no part of a file that nobody has written to goes unseen, wherever it lies and however small it is."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import numpy as np
import pytest

from frazil.errors import IncompleteMicrograph, MicrographError
from frazil.session.intake.completeness import check_written, prove_complete
from frazil.session.outbox.file_stamp import sample

BLOCK_BYTES = 4096
"""The smallest hole that file systems keep."""
BLOCKS = 40


@pytest.fixture
def holed(tmp_path: Path) -> Path:
    """A file whose size is set and in which nothing was written as yet."""
    path = tmp_path / "a.mrc"
    with path.open("wb") as file:
        file.truncate(BLOCKS * BLOCK_BYTES)
        if os.lseek(file.fileno(), 0, os.SEEK_HOLE) != 0:
            pytest.skip("the file system of the temporary folder shows no holes")
    return path


def write_all_but(path: Path, block: int | None, filling: bytes = b"\x01") -> None:
    with path.open("r+b") as file:
        for i in range(BLOCKS):
            if i != block:
                file.seek(i * BLOCK_BYTES)
                file.write(filling * BLOCK_BYTES)


@pytest.mark.parametrize("block", [0, 1, BLOCKS // 2, BLOCKS - 2, BLOCKS - 1])
def test_a_single_block_that_nobody_has_written_is_seen_wherever_it_is(holed: Path, block: int) -> None:
    write_all_but(holed, block)
    assert holed.stat().st_size == BLOCKS * BLOCK_BYTES
    with pytest.raises(IncompleteMicrograph, match=f"found a hole at byte {block * BLOCK_BYTES} that") as found:
        check_written(holed)
    assert found.value.reason == "truncated"
    assert str(holed) in str(found.value)


def test_a_hole_that_does_not_end_with_a_block_is_seen(holed: Path) -> None:
    write_all_but(holed, BLOCKS - 1)
    os.truncate(holed, BLOCKS * BLOCK_BYTES - 1000)
    with pytest.raises(IncompleteMicrograph, match=f"expected {BLOCKS * BLOCK_BYTES - 1000} bytes"):
        check_written(holed)


def test_a_file_that_was_written_to_its_last_byte_is_whole(holed: Path) -> None:
    write_all_but(holed, None)
    check_written(holed)
    holed.write_bytes(b"\x01")
    check_written(holed)
    holed.write_bytes(b"")
    check_written(holed)


def test_a_hole_counts_only_where_the_file_system_means_one(holed: Path, tmp_path: Path, write_mrc: object) -> None:
    whole = write_mrc(tmp_path / "b.mrc", np.ones((128, 96), np.float32)).read_bytes()  # type: ignore[operator]
    with holed.open("wb") as file:
        file.write(whole[:1024])
        file.truncate(len(whole))
    with pytest.raises(IncompleteMicrograph, match="hole"):
        prove_complete(holed)
    prove_complete(holed, shows_holes=False)


@pytest.mark.parametrize("block", [1, BLOCKS - 1])
def test_a_sampled_block_of_zeros_is_noticed_to_the_last_one(holed: Path, block: int) -> None:
    write_all_but(holed, None)
    assert not sample(holed).has_empty_blocks
    with holed.open("r+b") as file:
        # The second of the sixteen samples, and the last, which ends with the file.
        file.seek((BLOCKS - 1) * BLOCK_BYTES // 15 if block == 1 else block * BLOCK_BYTES)
        file.write(bytes(BLOCK_BYTES))
    assert sample(holed).has_empty_blocks


def test_zeros_in_the_first_block_alone_are_no_sign(holed: Path) -> None:
    write_all_but(holed, None)
    with holed.open("r+b") as file:
        file.write(bytes(BLOCK_BYTES))
    assert not sample(holed).has_empty_blocks


def test_the_fingerprint_tells_first_and_last_byte_and_the_size(holed: Path) -> None:
    write_all_but(holed, None)
    prints = {sample(holed).fingerprint}
    assert prints == {sample(holed).fingerprint}
    for offset in (0, BLOCKS * BLOCK_BYTES - 1, BLOCKS * BLOCK_BYTES):
        with holed.open("r+b") as file:
            file.seek(offset)
            file.write(b"\x02")
        prints.add(sample(holed).fingerprint)
    assert len(prints) == 4


def test_a_file_shorter_than_a_sample_is_sampled_whole(tmp_path: Path) -> None:
    path = tmp_path / "a.mrc"
    prints = set()
    for content in (b"", b"\x01", b"\x01\x01", b"\x01\x02", b"\x01" * (BLOCK_BYTES - 1)):
        path.write_bytes(content)
        prints.add(sample(path).fingerprint)
        assert not content or not sample(path).has_empty_blocks
    assert len(prints) == 5


def test_a_file_system_that_knows_no_holes_proves_nothing_against_a_file(
    holed: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No file system here fails so; those of some cameras' shares do."""

    def fails_with(number: int) -> None:
        def lseek(*_: int) -> int:
            raise OSError(number, os.strerror(number))

        monkeypatch.setattr(os, "lseek", lseek)

    for number in (errno.EINVAL, errno.EOPNOTSUPP, errno.ENXIO):
        fails_with(number)
        check_written(holed)
    fails_with(errno.EIO)
    with pytest.raises(OSError, match="Input/output"):
        check_written(holed)


def test_what_is_no_file_is_not_sampled(tmp_path: Path) -> None:
    with pytest.raises(MicrographError, match="a directory"):
        sample(tmp_path)
