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
    "without_uid",
]

_IMAGE_ENDINGS = (*MICROGRAPH_ENDINGS, ".mrcs", ".eer", ".png", ".jpg", ".jpeg")
_NO_SCORE = ("", "?", ".", "<NA>", "nan", "None")
_MOVER = re.compile(r"coordinate|origin(?!al)|shift|offset|translation|recent(er|re)|binning", re.IGNORECASE)
"""In the name of a column that may say where particles lie, or in which unit."""
_LARGEST_SIZE_DIFFERENCE = 0.05
"""Pixel sizes that differ by less are the same pixels, measured twice."""
_LARGEST_PROPORTION_DIFFERENCE = 0.01
"""Sides of a binned micrograph are rounded to whole pixels."""
_CRYOSPARC_UID = re.compile(r"\d{21}_(?=.)")
"""Before the name of a micrograph that cryoSPARC imported or made."""


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
    pixel_size_name: str = "rlnMicrographPixelSize"
    """How the file calls it."""
    fractions_of_px: NDArray[np.float64] | None = None
    """(n, 2) h, w of each particle's micrograph, if `picks` are fractions of them; not a number where the file does
    not say. None if `picks` are in pixels."""

    @property
    def stems(self) -> frozenset[str]:
        """The stems of the micrographs that are named; those with cryoSPARC's prefix also without it."""
        stems = frozenset(map(stem_of, set(self.micrographs or ())))
        return stems | frozenset(map(without_uid, stems))

    def of_micrograph(
        self,
        path: Path,
        stem: str | None,
        pixel_size_angstrom: float | None = None,
        shape: tuple[float, float] | None = None,
    ) -> Picks:
        """The particles of one micrograph; of the only one, where no stem is given.

        Args:
            path: the file, for messages.
            stem: name of the micrograph without its ending.
            pixel_size_angstrom: of the micrograph.
            shape: h, w of the micrograph.

        Raises:
            FrazilError: there is no particle, or it is not clear whose they are, or where they lie in the micrograph.
        """
        if len(self.picks) == 0:
            raise FrazilError(f"{path}: expected particles inside the micrograph, found none (the table is empty)")
        rows = np.arange(len(self.picks))
        if self.micrographs is not None:
            stems = {name: stem_of(name) for name in set(self.micrographs)}
            own = sorted(set(stems.values()))
            if stem is None and len(own) > 1:
                raise FrazilError(f"{path}: expected particles of one micrograph, found those of {_listed(own)}")
            stem = own[0] if stem is None else stem
            of_stem = {name for name, its in stems.items() if its == stem}
            of_stem = of_stem or {name for name, its in stems.items() if without_uid(its) == stem}
            rows = np.flatnonzero([name in of_stem for name in self.micrographs])
            if len(rows) == 0:
                found = _listed(own)
                raise FrazilError(f"{path}: expected particles of the micrograph {stem}, found those of {found}")
            names = sorted(set(map(posixpath.normpath, of_stem)))
            if len(names) > 1:
                raise FrazilError(
                    f"{path}: {stem} stands for {' and '.join(names[:3])}; keep the particles of one of them, or give "
                    "each micrograph a name and labels of its own"
                )
        return self.placed(path, rows, pixel_size_angstrom, shape)

    def placed(
        self,
        path: Path,
        rows: NDArray[np.intp],
        pixel_size_angstrom: float | None = None,
        shape: tuple[float, float] | None = None,
    ) -> Picks:
        """Particles of one micrograph, at their centres, in its pixels.

        Raises:
            FrazilError: the coordinates are in pixels of another size, or fractions of a micrograph of other
                proportions, or of unknown size; there are origins, and no pixel size is known.
        """
        picks, smaller = self._in_pixels(path, rows, shape)
        if self.pixel_sizes_angstrom is not None:
            said = np.unique(self.pixel_sizes_angstrom[rows])
            said = said[np.isfinite(said)] * smaller
            own = pixel_size_angstrom or (said[0] if len(said) else None)
            if own is not None and (np.abs(said / own - 1) > _LARGEST_SIZE_DIFFERENCE).any():
                found = f"{self.pixel_size_name} {' and '.join(f'{size:g} Å' for size in said)}"
                if self.fractions_of_px is not None:
                    raise FrazilError(
                        f"{path}: expected a micrograph with pixels of {own:g} Å, found {found} for one of this size: "
                        "correct the pixel size"
                    )
                raise FrazilError(
                    f"{path}: expected coordinates in pixels of {own:g} Å, as the micrograph's, found {found}: were "
                    "they picked on binned micrographs? give their binning (labels_binning in a recipe), or correct "
                    "the pixel size"
                )
            pixel_size_angstrom = own
        if self.origins_angstrom is None or not self.origins_angstrom[rows].any():
            return picks
        if pixel_size_angstrom is None:
            raise FrazilError(
                f"{path}: particles have origins in Å (rlnOriginXAngst, alignments3D/shift); expected a pixel size to "
                "apply them"
            )
        y, x = self.origins_angstrom[rows].T / pixel_size_angstrom
        return Picks(y=picks.y - y, x=picks.x - x, score=picks.score)

    def _in_pixels(self, path: Path, rows: NDArray[np.intp], shape: tuple[float, float] | None) -> tuple[Picks, float]:
        """Particles in pixels of a micrograph, and how many times smaller it is than what the file says of its size."""
        picks = self.picks.select(rows)
        if self.fractions_of_px is None:
            return picks, 1.0
        sizes = self.fractions_of_px[rows]
        said = np.unique(sizes[np.isfinite(sizes).all(axis=1)], axis=0)
        if len(said) > 1:
            raise FrazilError(
                f"{path}: expected one size of the micrograph, found {_size(said[0])} and {_size(said[1])}"
            )
        if shape is None and len(said) == 0:
            raise FrazilError(f"{path}: expected location/micrograph_shape, of which places are fractions, found none")
        h, w = said[0] if shape is None else shape
        smaller = 1.0
        if len(said):
            by_rows, by_columns = said[0] / (h, w)
            if abs(by_rows / by_columns - 1) > _LARGEST_PROPORTION_DIFFERENCE:
                raise FrazilError(
                    f"{path}: expected places in a micrograph of {_size(np.array((h, w)))}, or of one binned from the "
                    f"same, found those in one of {_size(said[0])}"
                )
            smaller = float(np.sqrt(by_rows * by_columns))
        return Picks(y=picks.y * h, x=picks.x * w, score=picks.score), smaller


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


def without_uid(stem: str) -> str:
    """A stem without the identifier that cryoSPARC puts before the names of micrographs."""
    return stem[found.end() :] if (found := _CRYOSPARC_UID.match(stem)) else stem


def _size(shape: NDArray[np.float64]) -> str:
    h, w = shape
    return f"{w:g} x {h:g} px"


def _listed(names: Sequence[str]) -> str:
    """Up to three names, and how many more there are."""
    shown = ", ".join(names[:3])
    return shown if len(names) <= 3 else f"{shown} and {len(names) - 3} more"
