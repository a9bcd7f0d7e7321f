"""RELION STAR files: a table of picks in one micrograph, or of the particles of many.

RELION's x is the column and its y the row, counted from the first pixel of the file; nothing is flipped. Columns that
change what the coordinates mean are applied, or the file is refused: docs/reference/formats.md lists them.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from frazil.errors import FrazilError, printable
from frazil.files import write_atomically
from frazil.picking.coordinates.syntax import StarTable, read_tables, spell
from frazil.picking.coordinates.table import (
    CoordinateTable,
    parse_numbers,
    parse_scores,
    refuse_movers,
    refuse_volume,
)
from frazil.picking.picks import Picks

__all__ = ["read_star", "read_star_table", "star_source", "write_star"]

_X, _Y, _Z = "rlnCoordinateX", "rlnCoordinateY", "rlnCoordinateZ"
_SCORE = "rlnAutopickFigureOfMerit"
_MICROGRAPH = "rlnMicrographName"
_OPTICS_GROUP = "rlnOpticsGroup"
_SOURCE = "# picked from "
_SOURCE_BYTES = 1 << 14
_HARMLESS = re.compile(
    r"rlnCoordinate[XYZ]|rlnOrigin[XYZ](Prior)?(Angst)?|rlnPhaseShift|rlnMicrographCoordinates", re.IGNORECASE
)
"""Columns with the name of one that moves particles, which are applied or move none."""


def write_star(path: Path, picks: Picks, *, micrograph: str | None = None, source: Path | None = None) -> None:
    """Write picks as a RELION coordinate STAR, whole or not at all.

    Args:
        path: the file.
        picks: of one micrograph.
        micrograph: its file name, for programs that want it in each row (Topaz); left out where it cannot be written.
        source: full path of the micrograph, for `star_source`; readers of STAR files see a comment.

    Raises:
        OSError: the file cannot be written.
    """
    name = _spelt(micrograph)
    columns = (_X, _Y, _SCORE, _MICROGRAPH) if name else (_X, _Y, _SCORE)
    rows = zip(picks.x.tolist(), picks.y.tolist(), picks.score.tolist(), strict=True)
    header = "\n# version 30001\n"
    header += f"{_SOURCE}{printable(str(source))}\n" if source is not None else ""
    header += "\ndata_\n\nloop_\n"
    header += "".join(f"_{column} #{i}\n" for i, column in enumerate(columns, start=1))
    end = f" {name}\n" if name else "\n"
    write_atomically(path, header + "".join(f"{x:12.3f} {y:12.3f} {score:12.6f}{end}" for x, y, score in rows) + "\n")


def star_source(path: Path) -> Path | None:
    """The micrograph that a STAR file says it was picked from; None if it does not, or there is no such file."""
    try:
        with path.open("rb") as file:
            lines = file.read(_SOURCE_BYTES).decode("utf-8", "replace").splitlines()
    except OSError:
        return None
    found = next((line.removeprefix(_SOURCE) for line in lines if line.startswith(_SOURCE)), "")
    return Path(found) if found else None


def _spelt(name: str | None) -> str:
    try:
        return spell(name) if name else ""
    except ValueError:
        return ""


def read_star(path: Path) -> Picks:
    """Read a RELION coordinate STAR; where it holds no figure of merit, scores are 1.

    Raises:
        FrazilError: the file is no STAR file, or holds no table with rlnCoordinateX and rlnCoordinateY, or several; a
            column changes what they mean and cannot be applied.
    """
    table = read_star_table(path)
    return table.placed(path, np.arange(len(table.picks)))


def read_star_table(path: Path) -> CoordinateTable:
    """Read a RELION STAR of coordinates or particles, with the micrographs' names where it has them.

    Raises:
        FrazilError: the file is no STAR file, or holds no table with rlnCoordinateX and rlnCoordinateY, or several; a
            column changes what they mean and cannot be applied.
    """
    tables = read_tables(path)
    with_places = [table for table in tables if _X in table.columns and _Y in table.columns]
    if not with_places:
        raise FrazilError(f"{path}: expected a table with {_X} and {_Y}, found none")
    if len(with_places) > 1:
        blocks = " and ".join(f"data_{table.block}" for table in with_places[:3])
        raise FrazilError(
            f"{path}: expected one table with {_X} and {_Y}, found {len(with_places)} ({blocks}): keep one"
        )
    columns = _with_optics(with_places[0], tables)
    refuse_volume(path, [name for name in columns if name.startswith("rlnTomo")], _Z, columns.get(_Z, ()))
    refuse_movers(path, [name for name in with_places[0].columns if not _HARMLESS.fullmatch(name)])
    names = columns.get(_MICROGRAPH)
    return CoordinateTable(
        picks=Picks(
            y=parse_numbers(path, _Y, columns[_Y]),
            x=parse_numbers(path, _X, columns[_X]),
            score=parse_scores(path, _SCORE, columns.get(_SCORE, [""] * len(columns[_X]))),
        ),
        micrographs=None if names is None else tuple(names),
        origins_angstrom=_origins(path, columns),
        pixel_sizes_angstrom=_sizes(path, columns, "rlnMicrographPixelSize"),
    )


def _with_optics(particles: StarTable, tables: Sequence[StarTable]) -> dict[str, list[str]]:
    """The columns of the particles, and those of their optics groups."""
    columns = dict(particles.columns)
    groups = columns.get(_OPTICS_GROUP)
    for table in tables:
        if groups is None or table is particles or _OPTICS_GROUP not in table.columns:
            continue
        place = {group: i for i, group in enumerate(table.columns[_OPTICS_GROUP])}
        for name, values in table.columns.items():
            columns.setdefault(name, [values[place[group]] if group in place else "" for group in groups])
    return columns


def _origins(path: Path, columns: Mapping[str, Sequence[str]]) -> NDArray[np.float64] | None:
    """(n, 2) y, x by which each particle lies before its coordinates, in Å; None where no column says so.

    RELION up to 3.0 gives them in pixels of the extracted particles, which may be binned.

    Raises:
        FrazilError: it is not known how large these pixels are.
    """
    angstrom, pixels = (("rlnOriginYAngst", "rlnOriginXAngst"), ("rlnOriginY", "rlnOriginX"))
    used = angstrom if any(name in columns for name in angstrom) else pixels
    if not any(name in columns for name in used):
        return None
    rows = len(columns[_X])
    origins = np.stack([parse_numbers(path, name, columns.get(name, ["0"] * rows)) for name in used], axis=1)
    if used is angstrom or not origins.any():
        return origins
    sizes = _sizes(path, columns, "rlnImagePixelSize")
    if sizes is None and {"rlnDetectorPixelSize", "rlnMagnification"} <= columns.keys():
        detector_um = parse_numbers(path, "rlnDetectorPixelSize", columns["rlnDetectorPixelSize"])
        with np.errstate(divide="ignore", invalid="ignore"):
            sizes = 1e4 * detector_um / parse_numbers(path, "rlnMagnification", columns["rlnMagnification"])
    if sizes is None or not (np.isfinite(sizes) & (sizes > 0)).all():
        raise FrazilError(
            f"{path}: rlnOriginX and rlnOriginY move particles by pixels of the extracted images; expected "
            "rlnDetectorPixelSize and rlnMagnification, or rlnImagePixelSize, to tell how large these are"
        )
    return origins * sizes[:, np.newaxis]


def _sizes(path: Path, columns: Mapping[str, Sequence[str]], name: str) -> NDArray[np.float64] | None:
    """(n,) column of pixel sizes in Å, not a number where one is missing; None where there is no such column."""
    if name not in columns:
        return None
    values = columns[name]
    known = np.array([value != "" for value in values], bool)
    sizes = np.full(len(values), np.nan)
    sizes[known] = parse_numbers(path, name, [value for value in values if value != ""])
    return sizes
