"""The statements of a settings file, each with its line. A broken statement does not hide those after it."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

__all__ = ["Statement", "read_statements"]

_GOES_ON = "at end of document"
"""Words of tomllib's message for a statement that goes on in the next line, such as a list."""
_MOST_LINES = 2000


@dataclass(frozen=True, slots=True, kw_only=True)
class Statement:
    """``key = value`` in a TOML file, or its fault."""

    line: int
    key: str = ""
    value: Any = None
    fault: str = ""


def read_statements(text: str) -> Iterator[Statement]:
    """Read a TOML file without tables.

    Args:
        text: content of the file.

    Yields:
        Each statement, in the order of the file; a key that is given twice comes twice. A table is a fault, and the
        last statement, since all after it would belong to the table.
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
    """Read the first statement: its keys and values, its fault, and the number of its lines."""
    first_fault = ""
    for length in range(1, len(lines) + 1):
        try:
            return tomllib.loads("\n".join(lines[:length]) + "\n"), "", length
        except tomllib.TOMLDecodeError as error:
            first_fault = first_fault or re.sub(r" \(at .*\)", "", str(error))
            if _GOES_ON not in str(error):
                break
    return {}, first_fault, 1
