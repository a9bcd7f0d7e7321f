"""Sources of bytes: files, or what is unpacked from them, read in blocks."""

from __future__ import annotations

import os
from io import FileIO
from typing import Protocol

__all__ = ["BLOCK_BYTES", "Source", "file_size", "read_into"]

BLOCK_BYTES = 1 << 19
"""Pixels are read in blocks of about this size: small enough to be looked at while they are in the caches."""


class Source(Protocol):
    """Something that bytes are read from."""

    def readinto(self, buffer: memoryview, /) -> int | None:
        """Read into the front of a buffer; how many bytes, 0 at the end."""


def file_size(file: FileIO) -> int:
    """Size of an open file in bytes."""
    return os.fstat(file.fileno()).st_size


def read_into(file: Source, buffer: memoryview) -> int:
    """Fill a buffer of bytes; how many there were, fewer only at the end of the file."""
    filled = 0
    while filled < len(buffer):
        count = file.readinto(buffer[filled:])
        if not count:
            break
        filled += count
    return filled
