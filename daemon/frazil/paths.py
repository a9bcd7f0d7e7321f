"""Paths as their user knows them: links keep their own names, since RELION compares names letter by letter."""

from __future__ import annotations

import os
from pathlib import Path

__all__ = ["absolute_path", "is_same_file", "path_below"]


def absolute_path(path: Path) -> Path:
    """A path from the root, by the name under which it was given: no link in it is followed."""
    return Path(os.path.abspath(path.expanduser()))  # noqa: PTH100 - resolve() would follow links


def path_below(folder: Path, path: Path) -> Path | None:
    """A path as seen from a folder, by whichever names either is reached; None where it does not lie below.

    Links below the folder keep their names.
    """
    absolute, folder = absolute_path(path), absolute_path(folder)
    if absolute.is_relative_to(folder):
        return absolute.relative_to(folder)
    for above in reversed(absolute.parents):
        if is_same_file(above, folder):
            return absolute.relative_to(above)
    return None


def is_same_file(one: Path, other: Path) -> bool:
    """Whether two paths lead to the same file or directory; not if either leads nowhere."""
    try:
        return one.samefile(other)
    except OSError:
        return False
