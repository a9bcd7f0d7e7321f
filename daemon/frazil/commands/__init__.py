"""The command line: ``frazil ...``."""

from __future__ import annotations

import sys

from frazil.errors import FrazilError, error_lines

__all__ = ["complain"]


def complain(error: FrazilError) -> None:
    """Tell the user of an error, in plain lines on stderr."""
    for line in error_lines("frazil", error):
        print(line, file=sys.stderr, flush=True)  # noqa: T201
