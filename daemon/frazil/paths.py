"""Paths as the user gives them: links are not resolved, since RELION compares names letter by letter."""

from __future__ import annotations

import os
from pathlib import Path

__all__ = ["absolute_path", "is_same_file", "is_utf8", "path_below"]


def absolute_path(path: Path) -> Path:
    """The absolute path, with links not resolved."""
    return Path(os.path.abspath(path.expanduser()))  # noqa: PTH100 - resolve() would follow links


def path_below(folder: Path, path: Path) -> Path | None:
    """The path relative to a folder, under whatever names both are reached; None if it is not below the folder.

    Links below the folder are not resolved.
    """
    absolute, folder = absolute_path(path), absolute_path(folder)
    if absolute.is_relative_to(folder):
        return absolute.relative_to(folder)
    for above in reversed(absolute.parents):
        if is_same_file(above, folder):
            return absolute.relative_to(above)
    return None


def is_same_file(one: Path, other: Path) -> bool:
    """Whether two paths lead to the same file or directory; False if either leads nowhere."""
    try:
        return one.samefile(other)
    except OSError:
        return False


def is_utf8(path: str) -> bool:
    """Whether a path is valid UTF-8. The ledger can hold no other."""
    try:
        path.encode()
    except UnicodeEncodeError:
        return False
    return True
