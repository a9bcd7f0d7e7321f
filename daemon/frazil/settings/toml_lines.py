"""A settings file as statements: each with its line, and a broken one does not hide those after it."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

__all__ = ["Statement", "read_statements"]

_GOES_ON = "at end of document"
"""How tomllib says that a statement wants more lines, such as those of a list."""
_MOST_LINES = 2000


@dataclass(frozen=True, slots=True, kw_only=True)
class Statement:
    """``key = value`` in a TOML file, or what is wrong with it."""

    line: int
    key: str = ""
    value: Any = None
    fault: str = ""


def read_statements(text: str) -> Iterator[Statement]:
    """Read a TOML file without tables.

    Args:
        text: of the file.

    Yields:
        What each statement says, in the order of the file; a key given twice comes twice. A table is a fault, and ends
        it: what follows would belong to the table.
    """
    lines = text.splitlines()
    if len(lines) > _MOST_LINES:
        yield Statement(line=_MOST_LINES + 1, fault=f"expected at most {_MOST_LINES} lines, found {len(lines)}")
        return
    start = 0
    while start < len(lines):
        parsed, fault, length = _read_one(lines[start:])
        line = start + 1
        start += length
        if fault:
            yield Statement(line=line, fault=f"expected TOML, found otherwise: {fault}")
        for key, value in parsed.items():
            if isinstance(value, dict):
                yield Statement(line=line, fault=f"expected settings alone, found the table {key!r}")
                if lines[line - 1].lstrip().startswith("["):
                    return
            else:
                yield Statement(line=line, key=key, value=value)


def _read_one(lines: list[str]) -> tuple[dict[str, Any], str, int]:
    """What the first statement says, what is wrong with it, and how many lines it has."""
    first_fault = ""
    for length in range(1, len(lines) + 1):
        try:
            return tomllib.loads("\n".join(lines[:length]) + "\n"), "", length
        except tomllib.TOMLDecodeError as error:
            first_fault = first_fault or re.sub(r" \(at .*\)", "", str(error))
            if _GOES_ON not in str(error):
                break
    return {}, first_fault, 1
