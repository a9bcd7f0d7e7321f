"""Completion: the proof that a file is whole, and what is the matter where there is none.

Proved: a file as long as its own header demands, without space that was set aside and never written. Not provable is
that nobody will still write over what is there: a writer may have filled the space with zeros first, or the file
system may not tell holes from zeros. Such a file betrays itself by blocks of nothing but zeros, which no detector
makes; it is given more time, not refused.
"""

from __future__ import annotations

import errno
import hashlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from frazil.errors import IncompleteMicrograph
from frazil.picking import check_complete, open_regular

__all__ = ["Sample", "check_written", "prove_complete", "sample"]

_SAMPLE_BYTES = 4096
_SAMPLES = 16


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """What blocks taken all over a file say."""

    fingerprint: str
    """Hash of the file's size and of the blocks: the same content has the same one."""
    has_empty_blocks: bool
    """Whether a block behind the first is nothing but zeros, as in a file that is still to be filled."""


def prove_complete(path: Path, *, shows_holes: bool = True) -> None:
    """Prove from its own header that a file is whole.

    Args:
        path: the file.
        shows_holes: whether the file system's holes mean "not yet written".

    Raises:
        IncompleteMicrograph: it is not, or not as yet.
        MicrographError: it is no micrograph.
        OSError: it cannot be read.
    """
    check_complete(path)
    if shows_holes:
        check_written(path)


def check_written(path: Path) -> None:
    """Make sure that no part of a file is space set aside that nobody has written to.

    Raises:
        IncompleteMicrograph: there is a hole.
        OSError: it cannot be read.
    """
    with open_regular(path) as file:
        size = os.fstat(file.fileno()).st_size
        try:
            hole = os.lseek(file.fileno(), 0, os.SEEK_HOLE)
        except OSError as error:
            if error.errno in (errno.EINVAL, errno.EOPNOTSUPP, errno.ENXIO):
                return  # the file system cannot say, or the file is empty
            raise
    if hole < size:
        raise IncompleteMicrograph(
            path, "truncated", f"expected {size} bytes of data, found a hole at byte {hole} that nobody has written to"
        )


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
