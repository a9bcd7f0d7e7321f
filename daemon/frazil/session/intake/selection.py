"""Selection: which names in the watched tree can be micrographs, and why the others are passed over."""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Callable, Sequence

from frazil.picking import MICROGRAPH_ENDINGS
from frazil.session.intake.passed_over import PassReason
from frazil.settings import COMPANIONS

__all__ = ["Selection"]

_UNFINISHED_ENDINGS = (".tmp", ".temp", ".part", ".partial", ".filepart", ".crdownload", "~")
"""Endings that copying programs add to the names of unfinished files."""
_OTHER_IMAGE_ENDINGS = (
    *(".mrcs", ".st", ".rec", ".ali", ".map", ".eer", ".dm3", ".dm4", ".ser", ".emd", ".tvips", ".raw", ".bin"),
    *(".hdf", ".h5", ".hed", ".img", ".spi", ".em", ".mrc.xz", ".mrc.zst", ".mrc.bz", ".mrc.zip"),
)
"""Endings of images that frazil does not read: stacks, movies, other formats."""
_BESIDE_ENDINGS = ("_DW", "_doseweighted", "_fractions")
"""Endings of a stem that mark the same exposure as the file without the ending, if both are in one folder."""


class Selection:
    """Chooses files by glob patterns, and never takes a temporary name.

    A pattern without a slash is compared with the name alone: of a file, or (exclude, companions) of a folder. A
    pattern with a slash is compared with the whole path below the watched directory: there ``*`` and ``?`` match within
    one name, and ``**`` matches any number of folders. Case does not count. Dot files and dot folders are taken for
    unfinished copies (rsync's are ``.name.Xy12ab`` and ``.~tmp~/name``).

    Args:
        include: patterns of micrographs; a file must match one of them.
        exclude: patterns of files and folders to pass over, a folder with everything below it.
        companions: patterns of companions, passed over likewise. A pattern is ignored if it matches a pattern of
            `include` as text, such as ``*_noDW.mrc``. If the list is empty, a file beside another of the same exposure
            is taken, too.

    Attributes:
        include: the patterns as given.
    """

    def __init__(
        self,
        include: Sequence[str] = ("*.mrc",),
        exclude: Sequence[str] = (),
        companions: Sequence[str] = COMPANIONS,
    ) -> None:
        self.include = tuple(include)
        self._include = _Patterns(include)
        self._exclude = _Patterns(exclude)
        asked_for = [pattern.rpartition("/")[2].lower() for pattern in include]

        def is_asked_for(pattern: str) -> bool:
            return bool(fnmatch.filter(asked_for, pattern.lower()))

        companions = [pattern for pattern in companions if pattern]
        self._companions = _Patterns([pattern for pattern in companions if not is_asked_for(pattern)])
        endings = [ending for ending in _BESIDE_ENDINGS if companions and not is_asked_for(f"*{ending}.*")]
        self._beside = re.compile(rf"(.+)(?:{'|'.join(endings)})(\..+)", re.IGNORECASE) if endings else None

    def why_not(self, key: str) -> PassReason | None:
        """The reason to pass over a file, by its own name; None if it can be a micrograph. Folders are not judged."""
        name = key.rpartition("/")[2]
        if name.startswith(".") or name.endswith(_UNFINISHED_ENDINGS):
            return "unfinished"
        if self._exclude.match(key, name):
            return "excluded"
        if not self._include.match(key, name):
            name = name.lower()
            if name.endswith(MICROGRAPH_ENDINGS):
                return "not_included"
            return "other_format" if name.endswith(_OTHER_IMAGE_ENDINGS) else "not_an_image"
        return "companion" if self._companions.match(key, name) else None

    def why_not_entered(self, key: str) -> PassReason | None:
        """The reason to pass over a folder, by its own name; None if it is entered."""
        name = key.rpartition("/")[2]
        if name.startswith("."):
            return "unfinished"
        if self._exclude.match(key, name):
            return "excluded"
        return "companion" if self._companions.match(key, name) else None

    def lies_beside(self, key: str, is_there: Callable[[str], bool]) -> bool:
        """Whether a file shows the same exposure as another that is taken, such as ``x_DW.mrc`` beside ``x.mrc``.

        Args:
            key: path of the file below the watched directory.
            is_there: returns whether a file with a given key exists.
        """
        if self._beside is None:
            return False
        above, slash, name = key.rpartition("/")
        found = self._beside.fullmatch(name)
        if found is None:
            return False
        other = f"{above}{slash}{found[1]}{found[2]}"
        return self.why_not(other) is None and is_there(other)

    def takes(self, key: str) -> bool:
        """Whether a file can be a micrograph: its own name and every folder above it are taken."""
        above = key.rpartition("/")[0]
        while above:
            if self.why_not_entered(above):
                return False
            above = above.rpartition("/")[0]
        return self.why_not(key) is None


class _Patterns:
    def __init__(self, patterns: Sequence[str]) -> None:
        patterns = [pattern.removeprefix("./").rstrip("/") for pattern in patterns if pattern]
        self._names = _join([fnmatch.translate(p) for p in patterns if "/" not in p])
        self._paths = _join([_translate(p.lstrip("/")) for p in patterns if "/" in p])

    def match(self, key: str, name: str) -> bool:
        return bool(
            (self._names is not None and self._names.match(name))
            or (self._paths is not None and self._paths.fullmatch(key))
        )


def _join(expressions: Sequence[str]) -> re.Pattern[str] | None:
    return re.compile("|".join(expressions), re.IGNORECASE) if expressions else None


def _translate(pattern: str) -> str:
    """Translate a pattern for a path to a regular expression. No wildcard but ``**`` matches a slash."""
    *folders, last = pattern.split("/")
    expression = "".join(r"(?:[^/]+/)*" if part == "**" else f"{_translate_name(part)}/" for part in folders)
    return f"(?:{expression}{'.+' if last == '**' else _translate_name(last)})"


def _translate_name(pattern: str) -> str:
    return "".join(_translate_piece(piece) for piece in re.split(r"(\*+|\?|\[!?\]?[^\]]*\])", pattern))


def _translate_piece(piece: str) -> str:
    if piece.startswith("*"):
        return "[^/]*"
    if piece == "?":
        return "[^/]"
    if piece.startswith("[") and piece.endswith("]"):
        return f"(?!/){fnmatch.translate(piece)}".replace(r"\Z", "")
    return re.escape(piece)
