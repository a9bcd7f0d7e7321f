"""Rows of a coordinate file, as they stand there."""

from __future__ import annotations

import posixpath
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from frazil.errors import FrazilError
from frazil.picking.formats import MICROGRAPH_ENDINGS, micrograph_stem
from frazil.picking.picks import Picks

__all__ = [
    "CoordinateTable",
    "parse_numbers",
    "parse_scores",
    "read_text",
    "refuse_movers",
    "refuse_volume",
    "stem_of",
]

_IMAGE_ENDINGS = (*MICROGRAPH_ENDINGS, ".mrcs", ".eer", ".png", ".jpg", ".jpeg")
_NO_SCORE = ("", "?", ".", "<NA>", "nan", "None")
_MOVER = re.compile(r"coordinate|origin(?!al)|shift|offset|translation|recent(er|re)|binning", re.IGNORECASE)
"""In the name of a column that may say where particles lie, or in which unit."""
_LARGEST_SIZE_DIFFERENCE = 0.05
"""Pixel sizes that differ by less are the same pixels, measured twice."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class CoordinateTable:
    """Particles of one or more micrographs; y as written, whichever way it grows."""

    picks: Picks
    """Where the coordinates say, before origins are applied."""
    micrographs: tuple[str, ...] | None = None
    """Name of each particle's micrograph, as written; None where the file names none."""
    origins_angstrom: NDArray[np.float64] | None = None
    """(n, 2) y, x to take from the coordinates of each particle to get its centre."""
    pixel_sizes_angstrom: NDArray[np.float64] | None = None
    """(n,) pixel size of each particle's micrograph, as the file says; not a number where it does not."""

    @property
    def stems(self) -> frozenset[str]:
        """The stems of the micrographs that are named."""
        return frozenset(map(stem_of, set(self.micrographs or ())))

    def of_micrograph(self, path: Path, stem: str | None, pixel_size_angstrom: float | None = None) -> Picks:
        """The particles of one micrograph; of the only one, where no stem is given.

        Args:
            path: the file, for messages.
            stem: name of the micrograph without its ending.
            pixel_size_angstrom: of the micrograph.

        Raises:
            FrazilError: there is no particle, or it is not clear whose they are, or where they lie in the micrograph.
        """
        if len(self.picks) == 0:
            raise FrazilError(f"{path}: expected particles inside the micrograph, found none (the table is empty)")
        rows = np.arange(len(self.picks))
        if self.micrographs is not None:
            stems = sorted(self.stems)
            if stem is None and len(stems) > 1:
                raise FrazilError(f"{path}: expected particles of one micrograph, found those of {_listed(stems)}")
            stem = stems[0] if stem is None else stem
            of_stem = {name for name in set(self.micrographs) if stem_of(name) == stem}
            rows = np.flatnonzero([name in of_stem for name in self.micrographs])
            if len(rows) == 0:
                found = _listed(stems)
                raise FrazilError(f"{path}: expected particles of the micrograph {stem}, found those of {found}")
            names = sorted(set(map(posixpath.normpath, of_stem)))
            if len(names) > 1:
                raise FrazilError(
                    f"{path}: {stem} stands for {' and '.join(names[:3])}; keep the particles of one of them, or give "
                    "each micrograph a name and labels of its own"
                )
        return self.placed(path, rows, pixel_size_angstrom)

    def placed(self, path: Path, rows: NDArray[np.intp], pixel_size_angstrom: float | None = None) -> Picks:
        """Particles of one micrograph, at their centres.

        Raises:
            FrazilError: the coordinates are in pixels of another size; there are origins, and no pixel size is known.
        """
        picks = self.picks.select(rows)
        if self.pixel_sizes_angstrom is not None:
            said = np.unique(self.pixel_sizes_angstrom[rows])
            said = said[np.isfinite(said)]
            own = pixel_size_angstrom or (said[0] if len(said) else None)
            if own is not None and (np.abs(said / own - 1) > _LARGEST_SIZE_DIFFERENCE).any():
                found = " and ".join(f"{size:g} Å" for size in said)
                raise FrazilError(
                    f"{path}: expected coordinates in pixels of {own:g} Å, as the micrograph's, found "
                    f"rlnMicrographPixelSize {found}: were they picked on binned micrographs? scale them, or "
                    "correct the pixel size"
                )
            pixel_size_angstrom = own
        if self.origins_angstrom is None or not self.origins_angstrom[rows].any():
            return picks
        if pixel_size_angstrom is None:
            raise FrazilError(
                f"{path}: particles have origins in Å (rlnOriginXAngst); expected a pixel size to apply them"
            )
        y, x = self.origins_angstrom[rows].T / pixel_size_angstrom
        return Picks(y=picks.y - y, x=picks.x - x, score=picks.score)


def refuse_movers(path: Path, columns: Iterable[str]) -> None:
    """Refuse columns that are not known, and whose names are those of columns that move particles.

    Raises:
        FrazilError: there is one.
    """
    movers = [name for name in columns if _MOVER.search(name)]
    if movers:
        raise FrazilError(
            f"{path}: expected no other columns that say where particles lie, found {_listed(movers)}: move the "
            "coordinates by them if they should be, and take them out"
        )


def refuse_volume(path: Path, marks: Sequence[str], name: str, heights: Iterable[str]) -> None:
    """Refuse positions in a tomogram: marks are columns that only tomograms have, heights a third coordinate.

    Raises:
        FrazilError: there is such a mark, or a third coordinate other than 0.
    """
    high = parse_numbers(path, name, [value for value in heights if value not in _NO_SCORE]).any()
    if marks or high:
        raise FrazilError(
            f"{path}: expected particles in a micrograph, found positions in a volume ({name if high else marks[0]})"
        )


def parse_numbers(path: Path, name: str, values: Sequence[str]) -> NDArray[np.float64]:
    """(n,) column of a table as finite numbers.

    Raises:
        FrazilError: a value is none.
    """
    numbers = np.empty(len(values), np.float64)
    for row, value in enumerate(values):
        try:
            numbers[row] = float(value)
        except ValueError:
            numbers[row] = np.nan
        if not np.isfinite(numbers[row]):
            raise FrazilError(f"{path}: expected numbers as coordinates, found {name} {value!r} in row {row + 1}")
    return numbers


def parse_scores(path: Path, name: str, values: Iterable[str | None]) -> NDArray[np.float64]:
    """(n,) column of scores, 1 where there is none.

    Raises:
        FrazilError: a value is no number.
    """
    return parse_numbers(path, name, ["1" if value is None or value in _NO_SCORE else value for value in values])


def read_text(path: Path) -> str:
    """The content of a text file.

    Raises:
        FrazilError: it cannot be read, or is no text.
    """
    try:
        return path.read_text("utf-8-sig")
    except OSError as error:
        raise FrazilError(f"{path}: expected coordinates, cannot read them: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise FrazilError(f"{path}: expected coordinates as text, found other bytes") from error


def stem_of(name: str) -> str:
    """A micrograph's name without its folder and, if it has that of an image, its ending (a stem may hold dots)."""
    name = posixpath.basename(name)
    return micrograph_stem(name) if name.lower().endswith(_IMAGE_ENDINGS) else name


def _listed(names: Sequence[str]) -> str:
    """Up to three names, and how many more there are."""
    shown = ", ".join(names[:3])
    return shown if len(names) <= 3 else f"{shown} and {len(names) - 3} more"
