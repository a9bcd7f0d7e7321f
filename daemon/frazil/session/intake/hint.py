"""What the watcher tells the intake: here is a file that may be a new micrograph."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

__all__ = ["FoundBy", "Hint"]

FoundBy = Literal["event", "scan"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Hint:
    """A file to look at."""

    path: Path
    closed: bool = False
    """Whether its writer is known to have finished: it was closed after writing, or renamed into place."""
    backlog: bool = False
    """Whether it lay there when the daemon started: such a file stands behind all that appear later."""
    by: FoundBy = "scan"
