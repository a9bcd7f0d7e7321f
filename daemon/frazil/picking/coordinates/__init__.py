"""Coordinate files: where particles are, as RELION, EMAN, crYOLO, Topaz or a plain table have it.

- ``read_coordinates(path)`` reads any of them; the file's ending says which it is.
- ``named_micrographs(path)`` lists the micrographs that a table of several names.
- ``read_star(path)`` and ``write_star(path, picks)`` speak RELION, one micrograph a file; ``write_box``,
  ``write_cbox`` and ``write_csv`` write the other formats.
- ``coordinate_list(path)`` and ``particles_star(path)`` are tables that grow by one micrograph after the other.

In every format x is the column and y the row. `Picks` count rows from the first row of the file; a format that
counts from the last one is read with ``y_axis="up"``.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import Literal

from frazil.errors import FrazilError
from frazil.picking.coordinates.boxes import read_box, read_cbox, write_box, write_cbox
from frazil.picking.coordinates.delimited import read_csv, read_topaz, write_csv
from frazil.picking.coordinates.growing import GrowingStar, coordinate_list, particles_star
from frazil.picking.coordinates.star import read_star, read_star_table, star_source, write_star
from frazil.picking.coordinates.table import CoordinateTable
from frazil.picking.picks import Picks

__all__ = [
    "CoordinateEnding",
    "GrowingStar",
    "YAxis",
    "coordinate_list",
    "named_micrographs",
    "particles_star",
    "read_coordinates",
    "read_star",
    "star_source",
    "write_box",
    "write_cbox",
    "write_csv",
    "write_star",
]

CoordinateEnding = Literal[".star", ".box", ".cbox", ".txt", ".tsv", ".csv"]
"""Endings of the files that can be read: RELION, EMAN, crYOLO, Topaz (both tables), plain table."""

YAxis = Literal["down", "up"]
"""Whether y grows from the first row of the micrograph's file on, or from the last one."""

_READERS: dict[str, Callable[[Path], CoordinateTable]] = {
    ".star": read_star_table,
    ".box": read_box,
    ".cbox": read_cbox,
    ".txt": read_topaz,
    ".tsv": read_topaz,
    ".csv": read_csv,
}


def read_coordinates(
    path: Path,
    *,
    stem: str | None = None,
    y_axis: YAxis = "down",
    height_px: int | None = None,
    pixel_size_angstrom: float | None = None,
    may_be_empty: bool = False,
) -> Picks:
    """Read the particles of one micrograph from a coordinate file of any known format.

    With ``y_axis="up"`` row y becomes (height_px - 1) - y: pixel centres are at whole numbers, so the first row and
    the last one, height_px - 1, change places. Boxes are given by a corner; their centre, corner + size / 2 as EMAN
    and RELION have it, is taken first and turned round then.

    Args:
        path: the file; its ending tells the format.
        stem: name of the micrograph without its ending, where the file holds several.
        y_axis: which way y grows.
        height_px: of the micrograph; needed with ``y_axis="up"`` only.
        pixel_size_angstrom: of the micrograph; needed where particles have origins in Å (RELION after refinement).
        may_be_empty: take a file without particles for what a picker wrote that found none.

    Returns:
        The particles in the order of the file. Scores are as written (not every program's end at 1), and 1 where
        there are none.

    Raises:
        FrazilError: the ending is unknown; the file cannot be read, lacks a column or holds something else than
            numbers, or one that changes what coordinates mean and cannot be applied; it holds no particle though it
            must, none of this micrograph, several micrographs while no stem was given, or several of this stem.
        ValueError: y_axis is "up" and no height is given.
    """
    if y_axis == "up" and height_px is None:
        raise ValueError("y_axis='up' needs the height of the micrograph")
    table = _read_table(path)
    picks = (
        table.picks if may_be_empty and len(table.picks) == 0 else table.of_micrograph(path, stem, pixel_size_angstrom)
    )
    if y_axis == "up" and height_px is not None:
        return Picks(y=(height_px - 1) - picks.y, x=picks.x, score=picks.score)
    return picks


def named_micrographs(path: Path) -> frozenset[str]:
    """The stems of the micrographs that a coordinate file names; empty where its format, or the file, names none.

    Raises:
        FrazilError: as `read_coordinates`.
    """
    return _read_table(path).stems


def _read_table(path: Path) -> CoordinateTable:
    try:
        read = _READERS[path.suffix.lower()]
    except KeyError:
        known = ", ".join(_READERS)
        raise FrazilError(f"{path}: expected coordinates in a file ending in {known}; found {path.suffix!r}") from None
    try:
        status = path.stat()
    except OSError:
        return read(path)  # which says why not
    return _read_as_it_is(read, path, status.st_mtime_ns, status.st_size)


@lru_cache(maxsize=1)
def _read_as_it_is(read: Callable[[Path], CoordinateTable], path: Path, _mtime_ns: int, _size: int) -> CoordinateTable:
    """Read a file once: a table of a whole data set is asked for one micrograph after the other."""
    return read(path)
