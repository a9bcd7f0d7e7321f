"""Box files: EMAN's ``.box`` and crYOLO's ``.cbox``, which give a particle by a corner and a size.

The corner is the box's pixel with the lowest x and y. The centre is corner + size / 2, EMAN's and RELION's
convention: in a box of 180 px it is pixel 90 of 0 to 179.
"""

from __future__ import annotations

from pathlib import Path

from frazil.errors import FrazilError
from frazil.picking.coordinates.star import read_cif
from frazil.picking.coordinates.table import CoordinateTable, parse_numbers, parse_scores, read_text
from frazil.picking.picks import Picks

__all__ = ["read_box", "read_cbox"]

_CBOX_BLOCK = "cryolo"
_CBOX_COLUMNS = ("CoordinateX", "CoordinateY", "Width", "Height")
_CBOX_SCORE = "Confidence"


def read_box(path: Path) -> CoordinateTable:
    """Read an EMAN box file: corner x, corner y, width, height and perhaps a score, between blanks or tabs.

    Raises:
        FrazilError: it cannot be read, a row has less than four columns, or a value is no number.
    """
    rows = [line.split() for line in read_text(path).splitlines() if line.strip() and not line.startswith("#")]
    for row in rows:
        if len(row) < 4:
            found = " ".join(row)[:60]
            raise FrazilError(f"{path}: expected corner x, corner y, width, height in each row, found {found!r}")
    return CoordinateTable(
        picks=_centres(path, [[row[i] for row in rows] for i in range(4)], [(*row, "")[4] for row in rows])
    )


def read_cbox(path: Path) -> CoordinateTable:
    """Read a crYOLO box file: a loop of corners, sizes and perhaps confidences in the block ``cryolo``.

    Raises:
        FrazilError: it cannot be read, lacks the block or one of its columns, or a value is no number.
    """
    block = read_cif(path, "CBOX").find_block(_CBOX_BLOCK)
    if block is None:
        raise FrazilError(f"{path}: expected a block data_{_CBOX_BLOCK}, found none")
    table = block.find("_", [*_CBOX_COLUMNS, f"?{_CBOX_SCORE}"])
    if table.width() == 0:
        columns = ", ".join(f"_{name}" for name in _CBOX_COLUMNS)
        raise FrazilError(f"{path}: expected a table with {columns} in data_{_CBOX_BLOCK}, found none")
    scores = list(table.column(4)) if table.has_column(4) else [""] * len(table)
    return CoordinateTable(picks=_centres(path, [list(table.column(i)) for i in range(4)], scores))


def _centres(path: Path, columns: list[list[str]], scores: list[str]) -> Picks:
    """Centres of boxes given by corner x, corner y, width and height."""
    names = ("corner x", "corner y", "width", "height")
    x, y, width, height = (parse_numbers(path, name, column) for name, column in zip(names, columns, strict=True))
    return Picks(y=y + height / 2, x=x + width / 2, score=parse_scores(path, "score", scores))
