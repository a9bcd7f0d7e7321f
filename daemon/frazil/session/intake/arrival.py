"""Hints at files that may be new, arrivals that are complete and new, and the line in which they wait to be picked."""

from __future__ import annotations

import threading
from collections import deque
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from frazil.session.outbox.file_stamp import FileStamp

__all__ = ["Arrival", "FoundBy", "Hint", "PickQueue", "is_utf8"]

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


@dataclass(frozen=True, slots=True, kw_only=True)
class Arrival:
    """A micrograph that is whole and new."""

    path: Path
    key: str
    """Its name in the ledger: the path below the watched directory."""
    stamp: FileStamp
    closed_at_monotonic: float
    """When its writer was last known to be at it, by the monotonic clock."""
    complete_at_monotonic: float
    """When it was known to be complete, by the monotonic clock."""
    settled_at_monotonic: float = 0.0
    """The last look at it, after it was read, is to come no sooner, by the monotonic clock."""
    backlog: bool = False
    """Whether it lay there when the daemon started."""


class PickQueue:
    """Arrivals in the order in which they are picked.

    What appears while the daemon runs comes before what lay there at the start: the microscope's operator looks at
    the newest micrograph, a camera leaves time between two, and the backlog only shrinks. It holds names, not
    pictures, so it need not be bounded.
    """

    def __init__(self) -> None:
        self._live: deque[Arrival] = deque()
        self._backlog: deque[Arrival] = deque()
        self._changed = threading.Condition()

    def put(self, arrival: Arrival) -> None:
        """Add an arrival at the end of its part of the line."""
        with self._changed:
            (self._backlog if arrival.backlog else self._live).append(arrival)
            self._changed.notify()

    def take(self, timeout_seconds: float) -> Arrival | None:
        """The next arrival; None when none came within the time."""
        with self._changed:
            if not self._changed.wait_for(lambda: self._live or self._backlog, timeout_seconds):
                return None
            return (self._live or self._backlog).popleft()

    def __len__(self) -> int:
        return len(self._live) + len(self._backlog)


def is_utf8(key: str) -> bool:
    """Whether a name can stand in the ledger; one that is no UTF-8 cannot."""
    try:
        key.encode()
    except UnicodeEncodeError:
        return False
    return True
