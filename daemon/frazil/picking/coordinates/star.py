"""RELION STAR files: their syntax, and tables of picks in one micrograph or of the particles of many.

RELION's x is the column and its y the row, counted from the first pixel of the file; nothing is flipped. Columns that
change what the coordinates mean are applied, or the file is refused: docs/reference/formats.md lists them.

RELION takes a line for a row and splits it at blanks; a value in quotes may hold blanks. CIF, where STAR comes from,
keeps some words and characters at the start of a bare value for itself (``data_``, ``_`` ...), which RELION does not
know: its files hold such names bare. So everything is read as RELION reads it, and what CIF would take for something
else is written in quotes.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from frazil.errors import FrazilError, printable
from frazil.files import write_atomically
from frazil.picking.coordinates.table import (
    CoordinateTable,
    parse_numbers,
    parse_scores,
    read_text,
    refuse_movers,
    refuse_volume,
)
from frazil.picking.picks import Picks

__all__ = [
    "StarTable",
    "parse_tables",
    "read_star",
    "read_star_table",
    "read_tables",
    "spell",
    "spell_without_quotes",
    "split_row",
    "star_source",
    "star_text",
    "with_optics",
    "write_star",
]

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

_BLANKS = re.compile(r"[ \t]+")
# A quote ends a value only before a blank. RELION writes an alarm (\a) before one that does not end it.
_TOKEN = re.compile(
    r"""
      "(?P<double>(?:\a"|"(?![ \t]|$)|[^"])*)"(?=[ \t]|$)
    | '(?P<single>(?:'(?![ \t]|$)|[^'])*)'(?=[ \t]|$)
    | (?P<comment>\#.*)
    | (?P<bare>[^ \t]+)
    """,
    re.VERBOSE,
)
_BLOCK = re.compile(r"data_(\S*)", re.IGNORECASE)
_RESERVED = re.compile(r"""[_\#$'"\[\];]|data_|save_|(loop_|stop_|global_|\?|\.)$""", re.IGNORECASE)
_PLAIN = re.compile(r'[!"$-~]+')  # printable ASCII; a # within a value is a comment to pandas, and so to starfile
_FOUND_LETTERS = 60


def star_text(picks: Picks, *, micrograph: str | None = None, source: Path | None = None) -> str:
    """Picks as a RELION coordinate STAR.

    The file name of the micrograph stands in each row, for programs that want it (Topaz), if RELION can read it.

    Args:
        picks: of one micrograph.
        micrograph: its file name.
        source: full path of the micrograph, for `star_source`; readers of STAR files see a comment.
    """
    name = _spelt(micrograph)
    columns = (_X, _Y, _SCORE, _MICROGRAPH) if name else (_X, _Y, _SCORE)
    header = "\n# version 30001\n"
    header += f"{_SOURCE}{printable(str(source))}\n" if source is not None else ""
    header += "\ndata_\n\nloop_\n"
    header += "".join(f"_{column} #{i}\n" for i, column in enumerate(columns, start=1))
    end = f" {name}\n" if name else "\n"
    return header + "".join(f"{x:12.3f} {y:12.3f} {score:12.6f}{end}" for x, y, score in picks.rows()) + "\n"


def write_star(path: Path, picks: Picks, *, micrograph: str | None = None, source: Path | None = None) -> None:
    """Write picks as a RELION coordinate STAR, whole or not at all, as `star_text` has it.

    Raises:
        OSError: the file cannot be written.
    """
    write_atomically(path, star_text(picks, micrograph=micrograph, source=source))


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
    columns = with_optics(with_places[0], tables)
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


def with_optics(particles: StarTable, tables: Sequence[StarTable]) -> dict[str, list[str]]:
    """The columns of particles or micrographs, and those of their optics groups."""
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


@dataclass(frozen=True, slots=True)
class StarTable:
    """A table of a STAR file, or the single values of a block as a table of one row."""

    block: str
    """Its name after ``data_``."""
    columns: dict[str, list[str]]
    """By their names without the underscore before them; all of one length."""


def read_tables(path: Path, kind: str = "STAR") -> list[StarTable]:
    """Read every table of a STAR file, which is called by its kind in messages.

    Raises:
        FrazilError: it cannot be read; a line is no part of a table, or a row has too many values or too few.
    """
    try:
        return list(parse_tables(read_text(path)))
    except ValueError as error:
        raise FrazilError(f"{path}: cannot be read as a {kind} file ({error})") from None


def parse_tables(text: str) -> Iterator[StarTable]:
    """Every table of the text of a STAR file.

    Raises:
        ValueError: a line is no part of a table, or a row has too many values or too few.
    """
    block: str | None = None
    part: Literal["labels", "rows", "single values", ""] = ""
    names: list[str] = []
    rows: list[list[str]] = []
    row: list[str] = []
    after_blank = False

    def table() -> list[StarTable]:
        values = [list(column) for column in zip(*rows, strict=True)] if rows else [[] for _ in names]
        return [StarTable(block or "", dict(zip(names, values, strict=True)))] if names else []

    for number, line in enumerate(text.split("\n"), start=1):
        values = split_row(line)
        if not values:
            after_blank = after_blank or not line.strip(" \t")
            continue
        first = line.lstrip(" \t")[: len(values[0])]  # with its quote, if it has one
        is_name, after_blank, follows = first.startswith("_"), False, not after_blank
        # Until an empty line, RELION takes any line below the labels for a row.
        is_row = (
            follows and len(row) + len(values) == len(names) and (part == "rows" or (part == "labels" and not is_name))
        )
        alone = len(values) == 1 and not is_row and not row
        if alone and (header := _BLOCK.fullmatch(first)):
            yield from table()
            block, part, names, rows = header[1], "", [], []
        elif block is None:
            raise ValueError(f"line {number}: expected data_ and a name, found {_shown(line)}")
        elif alone and first.lower() == "loop_":
            yield from table()
            part, names, rows = "labels", [], []
        elif part == "labels" and alone and is_name:
            if first[1:] in names:
                raise ValueError(f"line {number}: expected each column once, found {first} again")
            names.append(first[1:])
        elif is_name and len(values) == 2 and not is_row and not row and part != "labels":
            if part != "single values":
                yield from table()
                part, names, rows = "single values", [], [[]]
            names.append(first[1:])
            rows[0].append(values[1])
        elif names and part != "single values":
            part = "rows"
            row += values  # CIF lets a row go on in the next line
            if len(row) > len(names):
                raise ValueError(f"line {number}: expected {len(names)} values, found {len(row)} in {_shown(line)}")
            if len(row) == len(names):
                rows.append(row)
                row = []
        else:
            raise ValueError(f"line {number}: expected a table (loop_), found {_shown(line)}")
    if row:
        raise ValueError(f"last row: expected {len(names)} values, found {len(row)}: {_shown(' '.join(row))}")
    yield from table()


def split_row(line: str) -> list[str]:
    """The values of a line; none of an empty one, or of a comment."""
    if '"' not in line and "'" not in line and "#" not in line:
        is_plain = line.isascii() and line.isprintable()  # split() takes more for blanks than RELION does
        return line.split() if is_plain else [value for value in _BLANKS.split(line) if value]
    values = []
    for token in _TOKEN.finditer(line):
        if token["comment"] is not None:
            break
        quoted = token["double"] if token["double"] is not None else token["single"]
        values.append(token["bare"] if quoted is None else quoted.replace("\a", ""))
    return values


def spell(value: str) -> str:
    """A value as it is written into a table: bare, or in quotes where CIF would take it for something else.

    Raises:
        ValueError: RELION could not read it: it has no quotes for it, or reads something else.
    """
    if not value or "  " in value or any(ord(c) < 0x20 or ord(c) == 0x7F for c in value):
        raise ValueError(
            f"expected a name that can stand in a STAR file, found '{printable(value)}': RELION changes control "
            "characters and two blanks in a row"
        )
    if _PLAIN.fullmatch(value) and not _RESERVED.match(value):
        return value
    for quote in ('"', "'"):
        if quote not in value:
            return f"{quote}{value}{quote}"
    for quote in ('"', "'"):
        if f"{quote} " not in value:
            return f"{quote}{value}{quote}"
    raise ValueError(f"expected a name that can stand in a STAR file, found both quotes before blanks in {value!r}")


def spell_without_quotes(name: str) -> str:
    """A path as it is written for programs that know no quotes: ``./`` before it hides what CIF keeps for itself.

    Raises:
        ValueError: it has to be quoted after all, and RELION could not read it.
    """
    name = f"./{name}" if _RESERVED.match(name) else name
    is_split = "#" in name or any(c.isspace() or not c.isprintable() for c in name)
    return spell(name) if is_split else name


def _shown(line: str) -> str:
    return repr(" ".join(line.split())[:_FOUND_LETTERS])
