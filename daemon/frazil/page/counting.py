"""Counts the picks of a session within other limits, in a process of its own, so that picking does not wait for it.

``python -m frazil.page.counting LEDGER SHA256 LIMITS`` prints lines of JSON, each with the sums so far. The
first ones already speak for the whole session, since its micrographs are gone through in several passes.
"""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

import msgspec

from frazil.picking import Tuning
from frazil.session.outbox.ledger import LedgerReader
from frazil.session.retune import Wanted, count

__all__ = ["Sums", "main"]

_LINE_SECONDS = 0.3
_NICENESS = 10


class Sums(msgspec.Struct, kw_only=True):
    """Sums over the micrographs that were counted so far."""

    all: int
    """Micrographs with a result."""
    counted: int = 0
    before: int = 0
    """Their picks now."""
    after: int = 0
    """Their picks within the other limits."""
    untold: int = 0
    """Those of which it cannot be told: their picks stay as they are."""


def main(ledger: str, model_sha256: str, limits: str) -> None:
    """Count, and print."""
    os.nice(_NICENESS)
    wanted = Wanted.of(msgspec.json.decode(limits, type=Tuning), model_sha256)
    with LedgerReader(Path(ledger)) as reader:
        paths = reader.results()
        sums = Sums(all=len(paths))
        last = time.monotonic()
        for one in count(reader, wanted, paths=paths):
            sums.counted += 1
            sums.before += one.before
            sums.after += one.after
            sums.untold += bool(one.untold)
            if time.monotonic() - last > _LINE_SECONDS:
                last = time.monotonic()
                _print(sums)
        _print(sums)


def _print(sums: Sums) -> None:
    sys.stdout.buffer.write(msgspec.json.encode(sums) + b"\n")
    sys.stdout.buffer.flush()


if __name__ == "__main__":
    main(*sys.argv[1:])
