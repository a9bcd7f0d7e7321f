"""RELION coordinate STAR files: one table of picks in one micrograph.

RELION's x is the column and its y the row, counted from the first pixel of the file; nothing is flipped.
"""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
from gemmi import cif

from frazil.errors import FrazilError
from frazil.picking.picks import Picks

__all__ = ["read_star", "write_star"]

_PREFIX = "_rln"
_COLUMNS = ("CoordinateX", "CoordinateY", "AutopickFigureOfMerit")


def write_star(path: Path, picks: Picks) -> None:
    """Write picks as a RELION coordinate STAR, whole or not at all.

    The table is written beside its place, flushed to disk and renamed, so that a reader never sees half of it.

    Raises:
        OSError: the file cannot be written.
    """
    rows = zip(picks.x.tolist(), picks.y.tolist(), picks.score.tolist(), strict=True)
    header = "\n# version 30001\n\ndata_\n\nloop_\n"
    header += "".join(f"{_PREFIX}{name} #{i}\n" for i, name in enumerate(_COLUMNS, start=1))
    body = "".join(f"{x:12.3f} {y:12.3f} {score:12.6f}\n" for x, y, score in rows)
    aside = path.with_name(f".{path.name}.tmp")
    with aside.open("w", encoding="ascii") as file:
        file.write(header + body + "\n")
        file.flush()
        os.fsync(file.fileno())
    aside.replace(path)
    _sync_directory(path.parent)


def read_star(path: Path) -> Picks:
    """Read a RELION coordinate STAR; where it holds no figure of merit, scores are 1.

    Raises:
        FrazilError: the file is no STAR file, or holds no table with rlnCoordinateX and rlnCoordinateY.
    """
    try:
        blocks = cif.read_file(str(path))
    except (OSError, RuntimeError, ValueError) as error:
        raise FrazilError(f"{path}: cannot be read as a STAR file ({error})") from error
    for block in blocks:
        table = block.find(_PREFIX, [*_COLUMNS[:2], "?" + _COLUMNS[2]])
        if table.width() == 0:
            continue
        try:
            values = np.array(
                [(float(r[0]), float(r[1]), float(r[2]) if r.has(2) else 1.0) for r in table], np.float64
            ).reshape(-1, 3)
        except ValueError as error:
            raise FrazilError(f"{path}: expected numbers as coordinates ({error})") from error
        return Picks(y=values[:, 1], x=values[:, 0], score=values[:, 2])
    raise FrazilError(f"{path}: expected a table with rlnCoordinateX and rlnCoordinateY, found none")


def _sync_directory(directory: Path) -> None:
    """Make a rename in the directory durable."""
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
