"""STAR's syntax: how values stand in a table so that RELION, CIF readers and frazil read the same ones.

RELION takes a line for a row and splits it at blanks; a value in quotes may hold blanks. CIF, where STAR comes from,
keeps some words and characters at the start of a bare value for itself (``data_``, ``_`` ...), which RELION does not
know: its files hold such names bare. So everything is read as RELION reads it, and what CIF would take for something
else is written in quotes.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from frazil.errors import FrazilError, printable
from frazil.picking.coordinates.table import read_text

__all__ = ["StarTable", "read_tables", "spell", "spell_without_quotes", "split_row"]

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


@dataclass(frozen=True, slots=True)
class StarTable:
    """A table of a STAR file, or the single values of a block as a table of one row."""

    block: str
    """Its name after ``data_``."""
    columns: dict[str, list[str]]
    """By their names without the underscore before them; all of one length."""


def read_tables(path: Path, kind: str = "STAR") -> list[StarTable]:
    """Read every table of a STAR file.

    Args:
        path: the file.
        kind: what it should be, for messages.

    Raises:
        FrazilError: it cannot be read; a line is no part of a table, or a row has too many values or too few.
    """
    try:
        return list(_tables(read_text(path)))
    except ValueError as error:
        raise FrazilError(f"{path}: cannot be read as a {kind} file ({error})") from None


def _tables(text: str) -> Iterator[StarTable]:
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
