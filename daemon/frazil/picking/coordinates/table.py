"""Rows of a coordinate file, as they stand there."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import numpy as np
from numpy.typing import NDArray

from frazil.errors import FrazilError
from frazil.picking.picks import Picks

__all__ = ["CoordinateTable", "parse_numbers", "parse_scores", "read_text", "stem_of"]

_IMAGE_ENDINGS = (".mrc", ".tif", ".tiff", ".png", ".jpg", ".jpeg")
_NO_SCORE = ("", "?", ".", "<NA>", "nan", "None")


@dataclass(frozen=True, slots=True, kw_only=True)
class CoordinateTable:
    """Particles of one or more micrographs; y as written, whichever way it grows."""

    picks: Picks
    micrographs: tuple[str, ...] | None = None
    """Stem of each particle's micrograph; None where the file names none."""

    def of_micrograph(self, path: Path, stem: str | None) -> Picks:
        """The particles of one micrograph; of the only one, where no stem is given.

        Args:
            path: the file, for messages.
            stem: name of the micrograph without its ending.

        Raises:
            FrazilError: there is no particle, or it is not clear whose they are.
        """
        if len(self.picks) == 0:
            raise FrazilError(f"{path}: expected particles inside the micrograph, found none (the table is empty)")
        if self.micrographs is None:
            return self.picks
        names = sorted(set(self.micrographs))
        if stem is None:
            if len(names) > 1:
                raise FrazilError(f"{path}: expected particles of one micrograph, found those of {_listed(names)}")
            return self.picks
        chosen = np.array([name == stem for name in self.micrographs], bool)
        if not chosen.any():
            raise FrazilError(f"{path}: expected particles of the micrograph {stem}, found those of {_listed(names)}")
        return self.picks.select(chosen)


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
    path = PurePosixPath(name)
    return path.stem if path.suffix.lower() in _IMAGE_ENDINGS else path.name


def _listed(names: Sequence[str]) -> str:
    """Up to three names, and how many more there are."""
    shown = ", ".join(names[:3])
    return shown if len(names) <= 3 else f"{shown} and {len(names) - 3} more"
