"""Stamps and samples of files: a stamp shows quickly whether a file changed, a fingerprint whether its content did."""

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
    """Size and time of a file, which show quickly whether it has changed. Small, since each known file has one."""

    size: int
    mtime_ns: int


def stamp_of(path: Path) -> FileStamp:
    """Take the stamp of a file.

    Raises:
        OSError: the file is gone, or its status cannot be read.
    """
    status = path.stat()
    return FileStamp(size=status.st_size, mtime_ns=status.st_mtime_ns)


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """The result of reading blocks spread over a file."""

    fingerprint: str
    """Hash of the file's size and of the blocks. Equal content has an equal fingerprint."""
    has_empty_blocks: bool
    """Whether a block behind the first is all zeros, as in a file that is not yet filled."""


def sample(path: Path) -> Sample:
    """Read blocks of a file, spread evenly from its first byte to its last.

    Raises:
        MicrographError: the path is no regular file.
        OSError: the file cannot be read.
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
