"""Files that appear whole or not at all."""

from __future__ import annotations

import contextlib
import os
import zlib
from pathlib import Path

__all__ = ["write_text", "write_whole"]


def write_text(path: Path, text: str) -> None:
    """Write a text as `write_whole` does, in UTF-8.

    Raises:
        OSError: the file cannot be written.
    """
    write_whole(path, text.encode())


def write_whole(path: Path, content: bytes) -> None:
    """Write beside the file's place, flush it to disk and rename it, so that a reader never sees half of it.

    Raises:
        OSError: the file cannot be written; nothing of it is left.
    """
    aside = path.with_name(_aside_name(path.name))
    try:
        with aside.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        aside.replace(path)
    except BaseException:
        with contextlib.suppress(OSError):
            aside.unlink()
        raise
    descriptor = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(descriptor)  # makes the rename durable
    finally:
        os.close(descriptor)


def _aside_name(name: str) -> str:
    """A name for the time being: always the same for a file, and short, so that it is possible where the file's is."""
    return f".{zlib.crc32(os.fsencode(name)) & 0xFFFFFF:06x}.tmp"
