"""Selection: which names in the watched tree can be micrographs, and why the others are passed over."""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Callable, Mapping, Sequence

from frazil.picking import MICROGRAPH_ENDINGS
from frazil.session.intake.passed_over import PassReason
from frazil.settings import ANY, COMPANIONS, LAYOUTS, Layout, LayoutName, LayoutSetting, ServeSettings

__all__ = ["Selection"]

_UNFINISHED_ENDINGS = (".tmp", ".temp", ".part", ".partial", ".filepart", ".crdownload", "~")
"""Endings that copying programs add to the names of unfinished files."""
_OTHER_IMAGE_ENDINGS = (
    *(".st", ".rec", ".ali", ".map", ".dm3", ".dm4", ".ser", ".emd", ".tvips", ".raw", ".bin"),
    *(".hdf", ".h5", ".hed", ".img", ".spi", ".em", ".mrc.xz", ".mrc.zst", ".mrc.bz", ".mrc.zip"),
)
"""Endings of images that frazil does not read: stacks, other formats."""
_MOVIE_ENDINGS = (".mrcs", ".eer", "_fractions.tif", "_fractions.tiff", ".frames.tif")
"""Endings of movies, whose averages are micrographs."""


class Selection:
    """Chooses files by glob patterns, and never takes a temporary name.

    A pattern without a slash is compared with the name alone: of a file, or (exclude, companions) of a folder. A
    pattern with a slash is compared with the whole path below the watched directory: there ``*`` and ``?`` match within
    one name, and ``**`` matches any number of folders. Case does not count. Dot files and dot folders are taken for
    unfinished copies (rsync's are ``.name.Xy12ab`` and ``.~tmp~/name``).

    The layout says which names are micrographs, unless the operator does. Where it is to be found (``auto``), the names
    that are given to `look` tell it; it holds from the next `settle` on, and is never changed after that.

    Args:
        include: the operator's patterns of micrographs; a file must match one of them. Without any, the layout's.
        exclude: patterns of files and folders to pass over, a folder with everything below it.
        companions: patterns of companions, passed over likewise. A pattern is ignored if it matches a pattern of
            `include` as text, such as ``*_noDW.mrc``. If the list is empty, a file beside another of the same exposure
            is taken, too.
        layout: whose tree it is.
        found: with ``auto``, the layout that was found earlier.

    Attributes:
        layout: the layout that holds.
    """

    def __init__(
        self,
        include: Sequence[str] = (),
        exclude: Sequence[str] = (),
        companions: Sequence[str] = COMPANIONS,
        layout: LayoutSetting = "any",
        found: LayoutName = "any",
    ) -> None:
        self._given = tuple(pattern for pattern in include if pattern)
        self._exclude = _Patterns(exclude)
        self._names_companions = any(companions)
        self._companions = _Patterns([p for p in companions if p and not self._is_asked_for(p)])
        self._signs: dict[LayoutName, _Patterns] = {}
        self._rank = len(LAYOUTS)
        self._adopt(_layout_of(found if layout == "auto" else layout))
        if layout == "auto" and self.layout is ANY:
            self._signs = {known.name: _Patterns(known.signs) for known in LAYOUTS}

    @classmethod
    def of(cls, settings: ServeSettings, found: LayoutName, include: Sequence[str] = ()) -> Selection:
        """As the settings say.

        Args:
            settings: of the session.
            found: the layout that was found earlier.
            include: patterns of micrographs; without any, the settings'.
        """
        return cls(include or settings.include, settings.exclude, settings.companions, settings.layout, found)

    def _is_asked_for(self, pattern: str) -> bool:
        return bool(fnmatch.filter([p.rpartition("/")[2].lower() for p in self._given], pattern.lower()))

    def _adopt(self, layout: Layout) -> None:
        self.layout = layout
        self._include = _Patterns(self.include)
        self._movies = _Patterns(layout.movies)
        endings = [e for e in layout.copies if self._names_companions and not self._is_asked_for(f"*{e}.*")]
        self._copies = [re.compile(rf"(.+){re.escape(ending)}(\..+)", re.IGNORECASE) for ending in endings]

    @property
    def include(self) -> tuple[str, ...]:
        """Patterns of micrographs: the operator's, else the layout's."""
        return self._given or self.layout.takes

    def look(self, key: str) -> None:
        """Look whether the name of a file or folder is a sign of a layout."""
        name = key.rpartition("/")[2]
        for rank, signs in enumerate(list(self._signs.values())[: self._rank]):
            if signs.match(key, name):
                self._rank = rank
                return

    def settle(self) -> bool:
        """Let the layout hold that was found, and look for no other; whether there is one that did not hold before."""
        if self._rank == len(LAYOUTS) or not self._signs:
            return False
        self._signs = {}
        self._adopt(LAYOUTS[self._rank])
        return True

    def why_not(self, key: str) -> PassReason | None:
        """The reason to pass over a file, by its own name; None if it can be a micrograph. Folders are not judged."""
        return self.judge(key)[0]

    def judge(self, key: str) -> tuple[PassReason | None, str]:
        """The reason to pass over a file, or None, and the pattern that decides; empty without one."""
        name = key.rpartition("/")[2]
        if name.startswith(".") or name.endswith(_UNFINISHED_ENDINGS):
            return "unfinished", ""
        if pattern := self._exclude.match(key, name):
            return "excluded", pattern
        small = name.lower()
        if self._given:
            if pattern := self._include.match(key, name):
                return ("companion", why) if (why := self._companions.match(key, name)) else (None, pattern)
            return _reason_of_ending(small, "not_included"), ""
        if pattern := self._movies.match(key, name):
            return "movie", pattern
        if not _EVERY_MRC.match(key, name):
            return _reason_of_ending(small, "not_included"), ""
        if pattern := self._companions.match(key, name):
            return "companion", pattern
        return (None, pattern) if (pattern := self._include.match(key, name)) else ("layout", "")

    def why_not_entered(self, key: str) -> PassReason | None:
        """The reason to pass over a folder, by its own name; None if it is entered."""
        return self.judge_folder(key)[0]

    def judge_folder(self, key: str) -> tuple[PassReason | None, str]:
        """The reason to pass over a folder, or None, and the pattern that decides; empty without one."""
        name = key.rpartition("/")[2]
        if name.startswith("."):
            return "unfinished", ""
        if pattern := self._exclude.match(key, name):
            return "excluded", pattern
        return ("companion", pattern) if (pattern := self._companions.match(key, name)) else (None, "")

    def lies_beside(self, key: str, is_there: Callable[[str], bool]) -> bool:
        """Whether a file shows the same exposure as another that is taken, such as ``x_DW.mrc`` beside ``x.mrc``.

        Args:
            key: path of the file below the watched directory.
            is_there: returns whether a file with a given key exists.
        """
        above, slash, name = key.rpartition("/")
        for copy in self._copies:
            if found := copy.fullmatch(name):
                other = f"{above}{slash}{found[1]}{found[2]}"
                if self.why_not(other) is None and is_there(other):
                    return True
        return False

    def takes(self, key: str) -> bool:
        """Whether a file can be a micrograph: its own name and every folder above it are taken."""
        above = key.rpartition("/")[0]
        while above:
            if self.why_not_entered(above):
                return False
            above = above.rpartition("/")[0]
        return self.why_not(key) is None


class _Patterns:
    """Patterns, joined to one expression each for names and paths, of which a group tells the pattern that matched."""

    def __init__(self, patterns: Sequence[str]) -> None:
        cleaned = {p: p.removeprefix("./").rstrip("/") for p in patterns if p}
        self._names = _join({p: fnmatch.translate(c) for p, c in cleaned.items() if "/" not in c})
        self._paths = _join({p: _translate(c.lstrip("/")) for p, c in cleaned.items() if "/" in c})

    def match(self, key: str, name: str) -> str:
        """The first pattern that matches; empty if none does."""
        for (expression, patterns), text in ((self._names, name), (self._paths, key)):
            if expression is not None and (found := expression.fullmatch(text)):
                return patterns[(found.lastindex or 1) - 1]
        return ""


def _join(expressions: Mapping[str, str]) -> tuple[re.Pattern[str] | None, tuple[str, ...]]:
    joined = "|".join(f"({expression})" for expression in expressions.values())
    return re.compile(joined, re.IGNORECASE) if joined else None, tuple(expressions)


_EVERY_MRC = _Patterns(ANY.takes)


def _reason_of_ending(name: str, otherwise: PassReason) -> PassReason:
    """Why a file that no pattern takes is passed over, by its name in small letters."""
    if name.endswith(_MOVIE_ENDINGS):
        return "movie"
    if name.endswith(MICROGRAPH_ENDINGS):
        return otherwise
    return "other_format" if name.endswith(_OTHER_IMAGE_ENDINGS) else "not_an_image"


def _layout_of(name: LayoutName) -> Layout:
    return next((layout for layout in LAYOUTS if layout.name == name), ANY)


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
