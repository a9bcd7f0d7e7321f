"""Files as they lie on disk: regular ones, read in blocks, whatever becomes of them meanwhile."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from frazil.errors import MicrographError
from frazil.files import open_regular
from frazil.picking.formats.source import file_size, read_into


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
