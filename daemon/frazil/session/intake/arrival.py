"""Hints at files that may be new, arrivals that are complete and new, and the queue of arrivals."""

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
    """A file that may be a new micrograph."""

    path: Path
    closed: bool = False
    """Whether its writer is known to have finished: the file was closed after writing, or renamed into place."""
    backlog: bool = False
    """Whether it was there when the daemon started. Files that appear later go first."""
    by: FoundBy = "scan"


@dataclass(frozen=True, slots=True, kw_only=True)
class Arrival:
    """A micrograph that is complete and new."""

    path: Path
    key: str
    """Path below the watched directory: the micrograph's name in the ledger."""
    stamp: FileStamp
    closed_at_monotonic: float
    """Last known activity of its writer: when the file changed or was closed."""
    complete_at_monotonic: float
    """When the file was known to be complete."""
    settled_at_monotonic: float = 0.0
    """Earliest time of the last look at the file, after it was read."""
    backlog: bool = False
    """Whether it was there when the daemon started."""


class PickQueue:
    """Arrivals in the order in which they are picked: new files before the backlog.

    The microscope's operator looks at the newest micrograph, a camera leaves time between two, and the backlog only
    shrinks. The queue is not bounded, since it holds names and no pixels.
    """

    def __init__(self) -> None:
        self._live: deque[Arrival] = deque()
        self._backlog: deque[Arrival] = deque()
        self._changed = threading.Condition()

    def put(self, arrival: Arrival) -> None:
        """Add an arrival behind the others of its kind: the new ones, or the backlog."""
        with self._changed:
            (self._backlog if arrival.backlog else self._live).append(arrival)
            self._changed.notify()

    def take(self, timeout_seconds: float) -> Arrival | None:
        """Take the next arrival; None if none comes within the time."""
        with self._changed:
            if not self._changed.wait_for(lambda: self._live or self._backlog, timeout_seconds):
                return None
            return (self._live or self._backlog).popleft()

    def __len__(self) -> int:
        return len(self._live) + len(self._backlog)


def is_utf8(key: str) -> bool:
    """Whether a key is valid UTF-8. The ledger can hold no other."""
    try:
        key.encode()
    except UnicodeEncodeError:
        return False
    return True
