"""Counts the picks of a session within other limits, in a process of its own, so that picking does not wait for it.

``python -m frazil.page.counting LEDGER SHA256 LIMITS`` prints lines of JSON, each with the sums so far. The first
ones are of a sample of the whole session, since its micrographs are counted in several passes.
"""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

import msgspec

from frazil.limits import LimitsPatch
from frazil.session.outbox.ledger import LedgerReader
from frazil.session.retune import LimitsChange, count

__all__ = ["Sums", "main"]

_LINE_SECONDS = 0.3
_NICENESS = 10


class Sums(msgspec.Struct, kw_only=True):
    """Sums over the micrographs that were counted so far."""

    all: int
    """Number of micrographs with a result."""
    counted: int = 0
    """Number of those counted so far."""
    before: int = 0
    """Their picks now."""
    after: int = 0
    """Their picks within the other limits."""
    unrevisable: int = msgspec.field(default=0, name="untold")
    """Number of those whose picks would stay as they are."""


def main(ledger: str, model_sha256: str, limits: str) -> None:
    """Count, and print."""
    os.nice(_NICENESS)
    change = LimitsChange.of(msgspec.json.decode(limits, type=LimitsPatch), model_sha256)
    with LedgerReader(Path(ledger)) as reader:
        keys = reader.results()
        sums = Sums(all=len(keys))
        last = time.monotonic()
        for one in count(reader, change, keys=keys):
            sums.counted += 1
            sums.before += one.before
            sums.after += one.after
            sums.unrevisable += bool(one.unrevisable)
            if time.monotonic() - last > _LINE_SECONDS:
                last = time.monotonic()
                _print(sums)
        _print(sums)


def _print(sums: Sums) -> None:
    sys.stdout.buffer.write(msgspec.json.encode(sums) + b"\n")
    sys.stdout.buffer.flush()


if __name__ == "__main__":
    main(*sys.argv[1:])
