"""The command line: ``frazil ...``."""

from __future__ import annotations

import sys

from frazil.errors import FrazilError, error_lines

__all__ = ["complain", "named"]


def complain(error: FrazilError) -> None:
    """Tell the user of an error, in plain lines on stderr."""
    for line in error_lines("frazil", error):
        print(line, file=sys.stderr, flush=True)  # noqa: T201


def named(text: str) -> tuple[str, str]:
    """Name and value of ``NAME=VALUE``; a value without a name is its own."""
    name, equals, value = text.partition("=")
    return (name, value) if name and equals and "/" not in name else (text, text)
