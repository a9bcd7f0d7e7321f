"""Files: opening of regular files only, atomic writing, and the formats of pick files."""

from __future__ import annotations

import contextlib
import os
import stat
import zlib
from io import FileIO
from pathlib import Path
from typing import Literal

from frazil.errors import MicrographError

__all__ = ["PickFileFormat", "open_regular", "sync_path", "write_atomically"]

PickFileFormat = Literal["star", "relion", "cryosparc", "box", "cbox", "topaz", "csv", "json"]
"""Formats of pick files. They stand here, since the command line needs them before it loads what writes such files."""

_KINDS = {
    stat.S_IFDIR: "a directory",
    stat.S_IFIFO: "a named pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}


def open_regular(path: Path) -> FileIO:
    """Open a regular file for reading. A named pipe or a device, which may block, is not opened.

    Raises:
        MicrographError: the path is no regular file.
        OSError: the file cannot be opened.
    """
    _check_regular(path, path.stat().st_mode)
    # The file may have been replaced since: it is opened without blocking, and checked again.
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


def write_atomically(path: Path, content: str | bytes) -> None:
    """Write a file so that a reader sees all of the new content or none of it, also after a crash.

    The content is written to another file beside it, flushed to disk, and renamed; then the folder is flushed.

    Raises:
        OSError: the file cannot be written; nothing of the new content is left.
    """
    data = content.encode() if isinstance(content, str) else content
    aside = path.with_name(_aside_name(path.name))
    try:
        with aside.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        aside.replace(path)
    except BaseException:
        with contextlib.suppress(OSError):
            aside.unlink()
        raise
    sync_path(path.parent)


def sync_path(path: Path) -> None:
    """Flush a file or a folder to disk. Renames in a folder are durable once it is flushed.

    Raises:
        OSError: the file or folder cannot be flushed.
    """
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _aside_name(name: str) -> str:
    """The temporary name of a file: always the same, and short enough to be allowed wherever the file's name is."""
    return f".{zlib.crc32(os.fsencode(name)) & 0xFFFFFF:06x}.tmp"
