"""Tables between tabs or commas, with a header: Topaz's, of many micrographs, and plain CSV, of one."""

from __future__ import annotations

import csv
from pathlib import Path

from frazil.errors import FrazilError, printable
from frazil.files import write_atomically
from frazil.picking.coordinates.table import (
    CoordinateTable,
    parse_numbers,
    parse_scores,
    read_text,
    refuse_movers,
    refuse_volume,
    stem_of,
)
from frazil.picking.picks import Picks

__all__ = ["csv_text", "read_csv", "read_topaz", "topaz_text", "write_csv", "write_topaz"]

_MICROGRAPH = ("micrograph", "micrograph_name", "micrographname", "image_name", "image", "filename", "file")
"""How plain tables call the column with the micrograph's name."""


def read_topaz(path: Path) -> CoordinateTable:
    """Read Topaz's table: image_name, x_coord, y_coord and perhaps score, between tabs.

    Raises:
        FrazilError: it cannot be read, lacks a column, or a coordinate is no number.
    """
    columns = _read_columns(path, "\t", ("image_name", "x_coord", "y_coord"))
    refuse_volume(path, (), "z_coord", columns.get("z_coord", ()))
    refuse_movers(path, columns)
    names = columns["image_name"]
    if "source" in columns:  # Topaz's name for what holds images of the same names
        names = [f"{source}/{name}" for source, name in zip(columns["source"], names, strict=True)]
    return CoordinateTable(picks=_picks(path, columns, "x_coord", "y_coord"), micrographs=tuple(names))


def read_csv(path: Path) -> CoordinateTable:
    """Read a table x, y and perhaps score and the micrograph's name, between commas.

    Raises:
        FrazilError: it cannot be read, lacks a column, or a coordinate is no number.
    """
    columns = _read_columns(path, ",", ("x", "y"))
    refuse_volume(path, (), "z", columns.get("z", ()))
    refuse_movers(path, columns)
    names = next((columns[name] for name in _MICROGRAPH if name in columns), None)
    return CoordinateTable(picks=_picks(path, columns, "x", "y"), micrographs=None if names is None else tuple(names))


def csv_text(picks: Picks) -> str:
    """Picks as a table x, y, score, between commas."""
    return "x,y,score\n" + "".join(f"{x:.3f},{y:.3f},{score:.6f}\n" for x, y, score in picks.rows())


def topaz_text(picks: Picks, micrograph: str) -> str:
    """Picks as Topaz's table: image_name, x_coord, y_coord, score, between tabs.

    Coordinates are whole pixels, as Topaz's own are. Topaz calls an image by its file's name without the ending.

    Args:
        picks: of one micrograph.
        micrograph: its file name.

    Raises:
        ValueError: the name cannot stand in a line of Topaz's table.
    """
    name = stem_of(micrograph)
    if not name.isprintable() or '"' in name:
        raise ValueError(
            f"expected a name that can stand in Topaz's table, found '{printable(name)}': tabs, other control "
            "characters and double quotes part its values"
        )
    rows = (f"{name}\t{round(x)}\t{round(y)}\t{score:.6f}\n" for x, y, score in picks.rows())
    return "image_name\tx_coord\ty_coord\tscore\n" + "".join(rows)


def write_csv(path: Path, picks: Picks) -> None:
    """Write a table x, y, score, between commas, whole or not at all.

    Raises:
        OSError: it cannot be written.
    """
    write_atomically(path, csv_text(picks))


def write_topaz(path: Path, picks: Picks, micrograph: str) -> None:
    """Write Topaz's table, whole or not at all, as `topaz_text` has it.

    Raises:
        OSError: it cannot be written.
        ValueError: the name cannot stand in a line of Topaz's table.
    """
    write_atomically(path, topaz_text(picks, micrograph))


def _picks(path: Path, columns: dict[str, list[str]], x: str, y: str) -> Picks:
    scores = columns.get("score", [""] * len(columns[x]))
    return Picks(
        y=parse_numbers(path, y, columns[y]),
        x=parse_numbers(path, x, columns[x]),
        score=parse_scores(path, "score", scores),
    )


def _read_columns(path: Path, delimiter: str, required: tuple[str, ...]) -> dict[str, list[str]]:
    """Columns by their names in the header; a row that is cut short has empty values."""
    try:
        lines = list(csv.reader(read_text(path).splitlines(), delimiter=delimiter))
    except csv.Error as error:
        raise FrazilError(f"{path}: expected a table, cannot read it: {error}") from error
    header, *rows = lines or [[]]
    names = [name.strip().lower() for name in header]
    missing = [name for name in required if name not in names]
    if missing:
        found = delimiter.join(header)[:60]
        raise FrazilError(f"{path}: expected a header with {', '.join(required)}; found {found!r}")
    return {
        name: [row[i].strip() if i < len(row) else "" for row in rows if row] for i, name in enumerate(names) if name
    }
