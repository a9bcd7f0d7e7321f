"""RELION STAR files: a table of picks in one micrograph, or of the particles of many.

RELION's x is the column and its y the row, counted from the first pixel of the file; nothing is flipped.
"""

from __future__ import annotations

from pathlib import Path

from gemmi import cif

from frazil.errors import FrazilError
from frazil.picking.coordinates.files import write_text
from frazil.picking.coordinates.table import CoordinateTable, parse_numbers, parse_scores, stem_of
from frazil.picking.picks import Picks

__all__ = ["read_cif", "read_star", "read_star_table", "write_star"]

_PREFIX = "_rln"
_COLUMNS = ("CoordinateX", "CoordinateY", "AutopickFigureOfMerit")
_MICROGRAPH = "MicrographName"


def write_star(path: Path, picks: Picks) -> None:
    """Write picks as a RELION coordinate STAR, whole or not at all.

    Raises:
        OSError: the file cannot be written.
    """
    rows = zip(picks.x.tolist(), picks.y.tolist(), picks.score.tolist(), strict=True)
    header = "\n# version 30001\n\ndata_\n\nloop_\n"
    header += "".join(f"{_PREFIX}{name} #{i}\n" for i, name in enumerate(_COLUMNS, start=1))
    body = "".join(f"{x:12.3f} {y:12.3f} {score:12.6f}\n" for x, y, score in rows)
    write_text(path, header + body + "\n")


def read_star(path: Path) -> Picks:
    """Read a RELION coordinate STAR; where it holds no figure of merit, scores are 1.

    Raises:
        FrazilError: the file is no STAR file, or holds no table with rlnCoordinateX and rlnCoordinateY.
    """
    return read_star_table(path).picks


def read_star_table(path: Path) -> CoordinateTable:
    """Read a RELION STAR of coordinates or particles, with the micrographs' names where it has them.

    Raises:
        FrazilError: the file is no STAR file, or holds no table with rlnCoordinateX and rlnCoordinateY.
    """
    for block in read_cif(path, "STAR"):
        table = block.find(_PREFIX, [*_COLUMNS[:2], f"?{_COLUMNS[2]}", f"?{_MICROGRAPH}"])
        if table.width() == 0:
            continue
        scores = list(table.column(2)) if table.has_column(2) else [None] * len(table)
        picks = Picks(
            y=parse_numbers(path, f"rln{_COLUMNS[1]}", list(table.column(1))),
            x=parse_numbers(path, f"rln{_COLUMNS[0]}", list(table.column(0))),
            score=parse_scores(path, f"rln{_COLUMNS[2]}", scores),
        )
        names = tuple(stem_of(cif.as_string(name)) for name in table.column(3)) if table.has_column(3) else None
        return CoordinateTable(picks=picks, micrographs=names)
    raise FrazilError(f"{path}: expected a table with rlnCoordinateX and rlnCoordinateY, found none")


def read_cif(path: Path, kind: str) -> cif.Document:
    """Read a file in CIF's syntax, which STAR is, too.

    Args:
        path: the file.
        kind: what it should be, for messages.

    Raises:
        FrazilError: it cannot be read.
    """
    try:
        return cif.read_file(str(path))
    except (OSError, RuntimeError, ValueError) as error:
        raise FrazilError(f"{path}: cannot be read as a {kind} file ({error})") from error
