"""Discovery: which directories below a microscope's root are sessions, and when each changed last."""

from __future__ import annotations

import fnmatch
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from frazil.paths import is_utf8

__all__ = ["FoundSession", "find_sessions", "last_change"]

_DEPTH_LOOKED_AT = 2
"""Folders of so many levels below a session's directory are looked at for changes. A new grid square shows in them; a
file in a folder deeper down does not, and an open session sees that by itself."""
_FOLDERS_LOOKED_AT = 200


@dataclass(frozen=True, slots=True)
class FoundSession:
    """A directory that matches the pattern."""

    name: str
    """Its path below the root, up to the last part of the pattern that has a wildcard."""
    directory: Path


def find_sessions(root: Path, pattern: str) -> Iterator[FoundSession]:
    """Find session directories.

    A hidden directory matches only a pattern that begins with a dot. Links to directories are followed: who put them
    there meant them.

    Args:
        root: directory of the microscope.
        pattern: glob pattern, below the root, of session directories.

    Raises:
        OSError: the root cannot be read, such as while it is not mounted.
    """
    parts = PurePosixPath(pattern).parts
    named = max((index + 1 for index, part in enumerate(parts) if _is_pattern(part)), default=len(parts))

    def below(folder: Path, matched: tuple[str, ...]) -> Iterator[FoundSession]:
        if len(matched) == len(parts):
            yield FoundSession("/".join(matched[:named]), folder)
            return
        part = parts[len(matched)]
        if not _is_pattern(part):
            if (folder / part).is_dir():
                yield from below(folder / part, (*matched, part))
            return
        for name in sorted(_folders(folder, raises=not matched)):
            if fnmatch.fnmatchcase(name, part) and (not name.startswith(".") or part.startswith(".")):
                yield from below(folder / name, (*matched, name))

    yield from below(root, ())


def last_change(directory: Path) -> float:
    """When something was last added, renamed or deleted in a directory or in the folders near its top.

    Returns:
        Seconds of Unix time; 0 if the directory cannot be seen.
    """
    newest, waiting, looked_at = 0.0, [(directory, 0)], 0
    while waiting and looked_at < _FOLDERS_LOOKED_AT:
        folder, depth = waiting.pop(0)
        looked_at += 1
        try:
            newest = max(newest, folder.stat().st_mtime)
            if depth < _DEPTH_LOOKED_AT:
                waiting.extend((folder / name, depth + 1) for name in _folders(folder, raises=False))
        except OSError:
            continue
    return newest


def _is_pattern(part: str) -> bool:
    return any(sign in part for sign in "*?[")


def _folders(folder: Path, *, raises: bool) -> list[str]:
    try:
        with os.scandir(folder) as entries:
            return [entry.name for entry in entries if is_utf8(entry.name) and entry.is_dir()]
    except OSError:
        if raises:
            raise
        return []
