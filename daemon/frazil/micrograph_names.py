"""The micrographs that a user means, named one by one: those below a directory, of a pattern, or of a STAR file.

However many they are, they are never held in memory. Every pass over them gives the same names, and those that came.
"""

from __future__ import annotations

import glob
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import NamedTuple

from frazil.errors import FrazilError, printable
from frazil.paths import absolute_path, path_below
from frazil.picking import MICROGRAPH_ENDINGS
from frazil.picking.coordinates.star import split_row
from frazil.session.intake.passed_over import Inventory
from frazil.session.intake.scan import Scanner
from frazil.session.intake.selection import Selection
from frazil.settings import ANY

__all__ = ["Named", "Names", "Source", "list_micrographs"]

_COLUMN = "_rlnMicrographName"
_NAMES_SHOWN = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """Where the names come from."""

    root: Path
    """The directory below which all micrographs are, by the name that the user gave it: keys are paths below it."""
    include: tuple[str, ...] = ()
    """Patterns of paths below the root; without any, the settings say what is taken."""
    star: Path | None = None
    """A STAR file that names them."""
    project: Path = Path("/")
    """The directory from which a STAR file's names are counted."""

    @classmethod
    def of(cls, given: str, session: Path | None) -> Source:
        """The source that a user means.

        Args:
            given: a directory, a glob pattern of micrographs or of directories, or a STAR file.
            session: the watched directory of a session, part of which is meant if it lies above all that is given.

        Raises:
            FrazilError: there is no such directory, or no micrographs are named by the file.
        """
        path = absolute_path(Path(given))
        if path.suffix.lower() == ".star" and path.is_file():
            project = _project_of(path)
            return cls(root=session or project, star=path, project=project)
        if path.is_dir() or not glob.has_magic(given):
            below = None if session is None else path_below(session, path)
            if session is None or below is None or below == Path():
                return cls(root=path)
            return cls(root=session, include=tuple(_of_folder(glob.escape(str(below)))))
        plain = next(i for i, part in enumerate(path.parts) if glob.has_magic(part))
        root, pattern = Path(*path.parts[:plain]), "/".join(path.parts[plain:])
        below = None if session is None else path_below(session, root)
        if session is not None and below is not None:
            root = session
            pattern = f"{glob.escape(str(below))}/{pattern}" if below != Path() else pattern
        names_files = pattern.lower().endswith(MICROGRAPH_ENDINGS)
        # A pattern with a slash is one of paths; a name alone would be taken in every folder.
        return cls(root=root, include=(f"/{pattern}",) if names_files else tuple(_of_folder(pattern)))


@dataclass(slots=True, kw_only=True)
class Names:
    """The names of a source, as often as they are asked for.

    Args:
        source: where they come from.
        selection: which names are taken below a directory.
        link_roots: directories that links may lead to; without any, they may lead anywhere.

    Attributes:
        inventory: what the last pass took and passed over; empty with a STAR file.
    """

    source: Source
    selection: Selection
    link_roots: Sequence[Path] = ()
    inventory: Inventory = field(default_factory=Inventory)
    _scanner: Scanner | None = None

    def count(self) -> int:
        """The number of names. Below a directory, this finds the layout as well.

        Raises:
            FrazilError: the directory is not there, or the STAR file cannot be read.
        """
        if self.source.star is None:
            if not self.source.root.is_dir():
                raise FrazilError(f"{self.source.root}: expected a directory with micrographs, found none")
            self._scanner = Scanner(self.source.root.resolve(), self.selection, {}, link_roots=self.link_roots)
            self.inventory = self._scanner.scan_names()
            return self.inventory.taken
        return sum(1 for _ in self)

    def __iter__(self) -> Iterator[str]:
        """The keys: paths below the root, folder after folder."""
        if self.source.star is not None:
            yield from self._of_star(self.source.star)
        elif self._scanner is not None:
            root = self.source.root.resolve()
            for path in self._scanner.walk():
                yield str(path)[len(str(root).rstrip("/")) + 1 :]
            self.inventory = self._scanner.sum_up()

    def _of_star(self, star: Path) -> Iterator[str]:
        for name in _named_in(star):
            below = path_below(self.source.root, self.source.project / name)
            if below is None:
                raise FrazilError(
                    printable(
                        f"{star}: expected micrographs below {self.source.root}, found {name}: give another --out"
                    )
                )
            yield str(below)


class Named(NamedTuple):
    """A micrograph that a user means."""

    path: Path
    key: str
    """Path below the directory that was given, or below the project of a STAR file; else the file's name."""


def list_micrographs(given: Path) -> tuple[list[Named], list[str]]:
    """The micrographs that a user means by a file, a directory or a STAR file, in the order of their names.

    Returns:
        The micrographs, and what is passed over in a directory, a line for each reason. Whether a file is there is left
        to its reader.

    Raises:
        FrazilError: the STAR file cannot be read, or no micrograph that it names is found.
    """
    if not given.is_dir() and given.suffix.lower() != ".star":
        return [Named(given, given.name)], []
    source = Source.of(str(given), None)
    names = Names(source=source, selection=Selection(source.include, layout="auto"))
    names.count()
    found = [Named(source.root / key, key) for key in sorted(names)]
    return found, names.inventory.passed_over_lines(_NAMES_SHOWN)


def _of_folder(pattern: str) -> Iterator[str]:
    """Patterns of the micrographs below folders."""
    return (f"{pattern}/**/{name}" for name in ANY.takes)


def _project_of(star: Path) -> Path:
    """The directory from which the names in a STAR file are counted: RELION's project, where the first one is found.

    Raises:
        FrazilError: there is no such directory, or no name.
    """
    first = next(_named_in(star), None)
    if first is None:
        raise FrazilError(f"{star}: expected a table with {_COLUMN[1:]}, found none")
    if Path(first).is_absolute():
        return Path("/")
    for above in star.parents:
        if (above / first).is_file():
            return above
    raise FrazilError(
        printable(f"{star}: expected {first} below the folder of this file, or one above it; found it in none of them")
    )


def _named_in(star: Path) -> Iterator[str]:
    """The names of micrographs in a STAR file, read line by line.

    Raises:
        FrazilError: the file cannot be read, or a row has too few values.
    """
    column, columns, in_header = -1, 0, False
    try:
        with star.open(encoding="utf-8", errors="surrogateescape", newline="\n") as lines:
            for number, line in enumerate(chain(lines), 1):
                values = split_row(line.rstrip("\r\n"))
                if not values:
                    continue
                if values[0].startswith("data_") and len(values) == 1:
                    column, columns, in_header = -1, 0, False
                elif values[0] == "loop_":
                    in_header = True
                elif in_header and values[0].startswith("_"):
                    column = columns if values[0] == _COLUMN else column
                    columns += 1
                elif column >= 0:
                    in_header = False
                    if len(values) < columns:
                        raise FrazilError(
                            f"{star}: line {number}: expected {columns} values in a row, found {len(values)}"
                        )
                    yield values[column]
    except OSError as error:
        raise FrazilError(f"{star}: cannot be read: {error.strerror}") from error
