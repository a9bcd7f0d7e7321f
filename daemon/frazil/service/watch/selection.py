"""Which names in the watched tree can be micrographs."""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Sequence

__all__ = ["Selection"]

_TEMPORARY_ENDINGS = (".tmp", ".temp", ".part", ".partial", ".filepart", ".crdownload", "~")
"""What copying programs put behind the name of a file that they have not finished."""


class Selection:
    """Chooses files by glob patterns, and never takes a temporary name.

    A pattern without a slash is compared with the name alone, of a file or (exclude) of a folder; one with a slash
    with the whole path below the watched directory. ``*`` stands for anything, slashes included, and case does not
    count. Dot files and dot folders are somebody's unfinished work (rsync's are ``.name.Xy12ab`` and ``.~tmp~/name``).

    Args:
        include: a file must match one of these.
        exclude: a file or folder that matches one of these is left alone, with all below it.
    """

    def __init__(self, include: Sequence[str] = ("*.mrc",), exclude: Sequence[str] = ()) -> None:
        self._include = _Patterns(include)
        self._exclude = _Patterns(exclude)

    def takes_name(self, relative: str) -> bool:
        """Whether a file can be a micrograph, by its own name; the folders above it are not judged."""
        name = relative.rpartition("/")[2]
        if name.startswith(".") or name.endswith(_TEMPORARY_ENDINGS):
            return False
        return self._include.match(relative, name) and not self._exclude.match(relative, name)

    def enters(self, relative: str) -> bool:
        """Whether a folder is looked into, by its own name."""
        name = relative.rpartition("/")[2]
        return not name.startswith(".") and not self._exclude.match(relative, name)

    def takes(self, relative: str) -> bool:
        """Whether a file can be a micrograph where it lies: its own name and every folder above it fit."""
        above = relative.rpartition("/")[0]
        while above:
            if not self.enters(above):
                return False
            above = above.rpartition("/")[0]
        return self.takes_name(relative)


class _Patterns:
    def __init__(self, patterns: Sequence[str]) -> None:
        self._names = _compile([p for p in patterns if "/" not in p])
        self._paths = _compile([p.lstrip("/") for p in patterns if "/" in p])

    def match(self, relative: str, name: str) -> bool:
        return bool(
            (self._names is not None and self._names.match(name))
            or (self._paths is not None and self._paths.match(relative))
        )


def _compile(patterns: Sequence[str]) -> re.Pattern[str] | None:
    return re.compile("|".join(fnmatch.translate(p) for p in patterns), re.IGNORECASE) if patterns else None
