"""Coordinate files: where particles are, as RELION, cryoSPARC, EMAN, crYOLO, Topaz or a plain table have it.

- ``read_coordinates(path)`` reads any of them; the file's ending says which it is.
- ``named_micrographs(path)`` lists the micrographs that a table of several names.
- ``read_star(path)`` and ``write_star(path, picks)`` speak RELION, one micrograph a file; ``write_box``,
  ``write_cbox``, ``write_topaz`` and ``write_csv`` write the other formats; ``star_text(picks)`` and the like give the
  text of such a file.
- ``coordinate_list(path)`` and ``particles_star(path)`` are tables that grow by one micrograph after the other.

In every format x is the column and y the row. `Picks` count rows from the first row of the file; a format that
counts from the last one is read with ``y_axis="up"``, one of smaller micrographs with their ``binning``.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Literal

from frazil.errors import FrazilError
from frazil.picking.coordinates.boxes import box_text, cbox_text, read_box, read_cbox, write_box, write_cbox
from frazil.picking.coordinates.cryosparc import read_cs
from frazil.picking.coordinates.delimited import csv_text, read_csv, read_topaz, topaz_text, write_csv, write_topaz
from frazil.picking.coordinates.growing import GrowingStar, coordinate_list, particles_star
from frazil.picking.coordinates.star import read_star, read_star_table, star_source, star_text, write_star
from frazil.picking.coordinates.table import CoordinateTable
from frazil.picking.picks import Picks

__all__ = [
    "CoordinateEnding",
    "GrowingStar",
    "YAxis",
    "box_text",
    "cbox_text",
    "coordinate_list",
    "csv_text",
    "may_be_together",
    "named_micrographs",
    "particles_star",
    "read_coordinates",
    "read_star",
    "star_source",
    "star_text",
    "topaz_text",
    "write_box",
    "write_cbox",
    "write_csv",
    "write_star",
    "write_topaz",
]

CoordinateEnding = Literal[".star", ".cs", ".box", ".cbox", ".txt", ".tsv", ".csv"]
"""Endings of the files that can be read: RELION, cryoSPARC, EMAN, crYOLO, Topaz (both tables), plain table."""

YAxis = Literal["down", "up"]
"""Whether y grows from the first row of the micrograph's file on, or from the last one."""

_TOGETHER = ".cs"
"""Files of this ending may say different things of the same particles."""

_READERS: dict[str, Callable[[Path], CoordinateTable]] = {
    ".star": read_star_table,
    _TOGETHER: lambda path: read_cs([path]),
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
    passthrough: Sequence[Path] = (),
    y_axis: YAxis = "down",
    binning: float = 1.0,
    height_px: int | None = None,
    width_px: int | None = None,
    pixel_size_angstrom: float | None = None,
    may_be_empty: bool = False,
) -> Picks:
    """Read the particles of one micrograph from a coordinate file of any known format.

    With ``y_axis="up"`` row y becomes (height_px - 1) - y: pixel centres are at whole numbers, so the first row and
    the last one, height_px - 1, change places. Boxes are given by a corner; their centre, corner + size / 2 as EMAN
    and RELION have it, is taken first and turned round then.

    Coordinates of a binned micrograph are multiplied by the binning, as ``topaz convert`` and RELION do. They are
    turned round in the binned micrograph, whose height may be no whole number of its pixels.

    Args:
        path: the file; its ending tells the format.
        stem: name of the micrograph without its ending, where the file holds several.
        passthrough: further files about the same particles (cryoSPARC only).
        y_axis: which way y grows.
        binning: how many times smaller the micrograph was, on each side, that the coordinates are of.
        height_px: of the micrograph; needed with ``y_axis="up"``.
        width_px: of the micrograph. With its height it serves where places are fractions of the micrograph
            (cryoSPARC), which may then be of another size than the file says; not needed otherwise.
        pixel_size_angstrom: of the micrograph; needed where particles have origins in Å (RELION after refinement).
        may_be_empty: take a file without particles for what a picker wrote that found none.

    Returns:
        The particles in the order of the file. Scores are as written (not every program's end at 1), and 1 where
        there are none.

    Raises:
        FrazilError: the ending is unknown; the file cannot be read, lacks a column or holds something else than
            numbers, or one that changes what coordinates mean and cannot be applied; it holds no particle though it
            must, none of this micrograph, several micrographs while no stem was given, or several of this stem.
        ValueError: y_axis is "up" and no height is given; the binning is not above 0.
    """
    if y_axis == "up" and height_px is None:
        raise ValueError("y_axis='up' needs the height of the micrograph")
    if not (binning > 0 and math.isfinite(binning)):
        raise ValueError(f"expected a binning above 0, found {binning:g}")
    table = _read_table(path, passthrough)
    if may_be_empty and len(table.picks) == 0:
        return table.picks
    picks = table.of_micrograph(
        path,
        stem,
        None if pixel_size_angstrom is None else pixel_size_angstrom * binning,
        None if height_px is None or width_px is None else (height_px / binning, width_px / binning),
    )
    y = picks.y
    if y_axis == "up" and height_px is not None:
        y = (height_px / binning - 1) - y
    return Picks(y=y * binning, x=picks.x * binning, score=picks.score)


def named_micrographs(path: Path, *, passthrough: Sequence[Path] = ()) -> frozenset[str]:
    """The stems of the micrographs that a coordinate file names; empty where its format, or the file, names none.

    Raises:
        FrazilError: as `read_coordinates`.
    """
    return _read_table(path, passthrough).stems


def may_be_together(paths: Sequence[Path]) -> bool:
    """Whether files may say different things of the same particles, as cryoSPARC's do."""
    return all(path.suffix.lower() == _TOGETHER for path in paths)


def _read_table(path: Path, passthrough: Sequence[Path]) -> CoordinateTable:
    paths = (path, *passthrough)
    if len(paths) > 1 and not may_be_together(paths):
        raise FrazilError(f"{path}: expected one file, or several of cryoSPARC's ({_TOGETHER}), found {len(paths)}")
    if path.suffix.lower() not in _READERS:
        known = ", ".join(_READERS)
        raise FrazilError(f"{path}: expected coordinates in a file ending in {known}; found {path.suffix!r}")
    try:
        stamps = tuple((one.stat().st_mtime_ns, one.stat().st_size) for one in paths)
    except OSError:
        return _read(paths)  # which says why not
    return _read_as_they_are(paths, stamps)


@lru_cache(maxsize=1)
def _read_as_they_are(paths: tuple[Path, ...], _stamps: tuple[tuple[int, int], ...]) -> CoordinateTable:
    """Read files once: a table of a whole data set is asked for one micrograph after the other."""
    return _read(paths)


def _read(paths: tuple[Path, ...]) -> CoordinateTable:
    return _READERS[paths[0].suffix.lower()](paths[0]) if len(paths) == 1 else read_cs(paths)
