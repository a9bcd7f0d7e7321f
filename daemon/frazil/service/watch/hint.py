"""What the watcher tells the intake: here is a file that may be a new micrograph."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple

__all__ = ["FileStamp", "FoundBy", "Hint", "stamp_of"]

FoundBy = Literal["event", "scan"]


class FileStamp(NamedTuple):
    """What tells at a glance whether a file has changed. Small and quickly made: there is one for each known file."""

    size: int
    mtime_ns: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Hint:
    """A file to look at."""

    path: Path
    closed: bool = False
    """Whether its writer is known to have finished: it was closed after writing, or renamed into place."""
    backlog: bool = False
    """Whether it lay there when the daemon started: such a file stands behind all that appear later."""
    by: FoundBy = "scan"


def stamp_of(path: Path) -> FileStamp:
    """Size and time of a file.

    Raises:
        OSError: it is gone or cannot be looked at.
    """
    status = path.stat()
    return FileStamp(size=status.st_size, mtime_ns=status.st_mtime_ns)
