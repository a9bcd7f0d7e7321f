"""The stamp of a file, which tells at a glance whether it has changed, and samples of what it holds."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, NamedTuple

from frazil.files import open_regular

__all__ = ["FileStamp", "Sample", "sample", "stamp_of"]

_SAMPLE_BYTES = 4096
_SAMPLES = 16


class FileStamp(NamedTuple):
    """What tells at a glance whether a file has changed. Small and quickly made: there is one for each known file."""

    size: int
    mtime_ns: int


def stamp_of(path: Path) -> FileStamp:
    """Size and time of a file.

    Raises:
        OSError: it is gone or cannot be looked at.
    """
    status = path.stat()
    return FileStamp(size=status.st_size, mtime_ns=status.st_mtime_ns)


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """What blocks taken all over a file say."""

    fingerprint: str
    """Hash of the file's size and of the blocks: the same content has the same one."""
    has_empty_blocks: bool
    """Whether a block behind the first is nothing but zeros, as in a file that is still to be filled."""


def sample(path: Path) -> Sample:
    """Look at blocks of a file from its first byte to its last.

    Raises:
        MicrographError: it is no regular file.
        OSError: it cannot be read.
    """
    digest = hashlib.blake2b(digest_size=16)
    with open_regular(path) as file:
        size = os.fstat(file.fileno()).st_size
        digest.update(size.to_bytes(8, "little"))
        empty = False
        for i, block in enumerate(_blocks(file, size)):
            digest.update(block)
            empty = empty or (i > 0 and not any(block))
    return Sample(fingerprint=digest.hexdigest(), has_empty_blocks=empty)


def _blocks(file: IO[bytes], size: int) -> Iterator[bytes]:
    for i in range(_SAMPLES):
        file.seek(max(0, size - _SAMPLE_BYTES) * i // (_SAMPLES - 1))
        yield file.read(_SAMPLE_BYTES)
