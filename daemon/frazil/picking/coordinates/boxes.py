"""Box files: EMAN's ``.box`` and crYOLO's ``.cbox``, which give a particle by a corner and a size.

The corner is the box's pixel with the lowest x and y. The centre is corner + size / 2, EMAN's and RELION's
convention: in a box of 180 px it is pixel 90 of 0 to 179.
"""

from __future__ import annotations

from pathlib import Path

from frazil.errors import FrazilError
from frazil.files import write_atomically
from frazil.picking.coordinates.star import read_tables
from frazil.picking.coordinates.table import (
    CoordinateTable,
    parse_numbers,
    parse_scores,
    read_text,
    refuse_movers,
    refuse_volume,
)
from frazil.picking.picks import Picks

__all__ = ["box_text", "cbox_text", "read_box", "read_cbox", "write_box", "write_cbox"]

_CBOX_BLOCK = "cryolo"
_CBOX_COLUMNS = ("CoordinateX", "CoordinateY", "Width", "Height")
_CBOX_SCORE = "Confidence"
_CBOX_WRITTEN = (
    *("CoordinateX", "CoordinateY", "CoordinateZ", "Width", "Height", "Depth", "EstWidth", "EstHeight"),
    *(_CBOX_SCORE, "NumBoxes", "Angle"),
)
_HELIX_MARKS = (["-1"], ["-2"])
"""Fifth column of EMAN 1's boxes at the two ends of a filament."""


def read_box(path: Path) -> CoordinateTable:
    """Read an EMAN box file: corner x, corner y, width, height and perhaps a score, between blanks or tabs.

    Raises:
        FrazilError: it cannot be read, a row has less than four columns, a value is no number, or boxes are the ends of
            filaments.
    """
    rows = [line.split() for line in read_text(path).splitlines() if line.strip() and not line.startswith("#")]
    for row in rows:
        if len(row) < 4:
            found = " ".join(row)[:60]
            raise FrazilError(f"{path}: expected corner x, corner y, width, height in each row, found {found!r}")
        if row[4:5] in _HELIX_MARKS:
            raise FrazilError(f"{path}: expected a box for each particle, found EMAN's ends of filaments ({row[4]})")
    return CoordinateTable(
        picks=_centres(path, [[row[i] for row in rows] for i in range(4)], [(*row, "")[4] for row in rows])
    )


def read_cbox(path: Path) -> CoordinateTable:
    """Read a crYOLO box file: a loop of corners, sizes and perhaps confidences in the block ``cryolo``.

    Raises:
        FrazilError: it cannot be read, lacks the block or one of its columns, or a value is no number.
    """
    tables = [table.columns for table in read_tables(path, "CBOX") if table.block == _CBOX_BLOCK]
    if not tables:
        raise FrazilError(f"{path}: expected a block data_{_CBOX_BLOCK}, found none")
    columns = next((one for one in tables if all(name in one for name in _CBOX_COLUMNS)), None)
    if columns is None:
        names = ", ".join(f"_{name}" for name in _CBOX_COLUMNS)
        raise FrazilError(f"{path}: expected a table with {names} in data_{_CBOX_BLOCK}, found none")
    refuse_volume(path, (), "CoordinateZ", columns.get("CoordinateZ", ()))
    refuse_movers(path, columns.keys() - {*_CBOX_WRITTEN})
    scores = columns.get(_CBOX_SCORE, [""] * len(columns[_CBOX_COLUMNS[0]]))
    return CoordinateTable(picks=_centres(path, [columns[name] for name in _CBOX_COLUMNS], scores))


def box_text(picks: Picks, box_size_px: int) -> str:
    """Picks as an EMAN box file: corner x, corner y, width, height, score, in whole pixels."""
    return "".join(
        f"{round(x)}\t{round(y)}\t{box_size_px}\t{box_size_px}\t{score:.6f}\n"
        for x, y, score in _corners(picks, box_size_px).rows()
    )


def cbox_text(picks: Picks, box_size_px: int, *, diameter_px: float) -> str:
    """Picks as a crYOLO box file."""
    names = "".join(f"_{name} #{i}\n" for i, name in enumerate(_CBOX_WRITTEN, start=1))
    size = f"{box_size_px:.1f} {box_size_px:.1f} <NA> {diameter_px:.3f} {diameter_px:.3f}"
    rows = (f"{x:.3f} {y:.3f} <NA> {size} {score:.6f} 1 <NA>\n" for x, y, score in _corners(picks, box_size_px).rows())
    text = f"data_global\n\n_cbox_format_version 1.0\n\ndata_{_CBOX_BLOCK}\n\nloop_\n{names}{''.join(rows)}\n"
    return f"{text}data_cryolo_include\n\nloop_\n_slice_index #1\n"


def write_box(path: Path, picks: Picks, box_size_px: int) -> None:
    """Write an EMAN box file, whole or not at all, as `box_text` has it.

    Raises:
        OSError: it cannot be written.
    """
    write_atomically(path, box_text(picks, box_size_px))


def write_cbox(path: Path, picks: Picks, box_size_px: int, *, diameter_px: float) -> None:
    """Write a crYOLO box file, whole or not at all.

    Raises:
        OSError: it cannot be written.
    """
    write_atomically(path, cbox_text(picks, box_size_px, diameter_px=diameter_px))


def _corners(picks: Picks, box_size_px: int) -> Picks:
    return Picks(y=picks.y - box_size_px / 2, x=picks.x - box_size_px / 2, score=picks.score)


def _centres(path: Path, columns: list[list[str]], scores: list[str]) -> Picks:
    """Centres of boxes given by corner x, corner y, width and height."""
    names = ("corner x", "corner y", "width", "height")
    x, y, width, height = (parse_numbers(path, name, column) for name, column in zip(names, columns, strict=True))
    return Picks(y=y + height / 2, x=x + width / 2, score=parse_scores(path, "score", scores))
