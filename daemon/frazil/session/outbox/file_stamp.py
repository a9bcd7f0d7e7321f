"""The stamp of a file: what tells at a glance whether it has changed."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

__all__ = ["FileStamp", "stamp_of"]


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
