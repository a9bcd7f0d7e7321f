"""Files as they lie on disk: regular ones only."""

from __future__ import annotations

import os
import stat
from io import FileIO
from pathlib import Path

from frazil.errors import MicrographError

__all__ = ["open_regular"]

_KINDS = {
    stat.S_IFDIR: "a directory",
    stat.S_IFIFO: "a named pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}


def open_regular(path: Path) -> FileIO:
    """Open a file for reading; a named pipe or a device, on which that may block for ever, is not opened.

    Raises:
        MicrographError: it is not a regular file.
        OSError: it cannot be opened.
    """
    _check_regular(path, path.stat().st_mode)
    # It may have been replaced since: opening never waits, and what was opened is looked at again.
    file = FileIO(path, opener=lambda name, flags: os.open(name, flags | os.O_NONBLOCK | os.O_NOCTTY))
    try:
        _check_regular(path, os.fstat(file.fileno()).st_mode)
    except MicrographError:
        file.close()
        raise
    return file


def _check_regular(path: Path, mode: int) -> None:
    if not stat.S_ISREG(mode):
        kind = _KINDS.get(stat.S_IFMT(mode), "something else")
        raise MicrographError(path, "not_a_file", f"expected a regular file, found {kind}")
