"""Heartbeats: signs of life of the threads that do the work, and which of them hangs.

A thread beats when it has made progress, and when it has waited in vain: for work, for room in a queue, for a disk
that is full. A thread that stays in a single piece of work beyond a limit does neither: it hangs.
"""

from __future__ import annotations

import threading
import time
from typing import Protocol

__all__ = ["Beat", "Heartbeat", "Heartbeats", "no_heartbeat"]


class Beat(Protocol):
    """The type of `Heartbeat.beat`, for parts that need nothing else of a heartbeat."""

    def __call__(self, doing: str = "", *, more_seconds: float = 0.0) -> None:
        """Report that the thread is alive, and its next piece of work."""


def no_heartbeat(doing: str = "", *, more_seconds: float = 0.0) -> None:
    """Do nothing: the default of parts that run without a watchdog."""


class Heartbeat:
    """The heartbeat of one thread. Only this thread calls `beat`.

    Args:
        name: name of the thread, for the log.
        limit_seconds: longest time between two beats.
    """

    def __init__(self, name: str, limit_seconds: float) -> None:
        self.name = name
        self._limit_seconds = limit_seconds
        self._state = ("", time.monotonic(), limit_seconds)

    @property
    def doing(self) -> str:
        """The thread's present work; empty while it waits."""
        return self._state[0]

    def beat(self, doing: str = "", *, more_seconds: float = 0.0) -> None:
        """Report that the thread is alive, and its next piece of work.

        Args:
            doing: the next piece of work; empty for waiting.
            more_seconds: time that this work may take beyond the limit.
        """
        self._state = doing, time.monotonic(), self._limit_seconds + more_seconds

    def hangs(self, now: float) -> str | None:
        """The work that has exceeded its limit by `now`, on the monotonic clock, in one line; None if none has."""
        doing, since, limit_seconds = self._state
        seconds = now - since
        return f"{self.name} at {doing or 'waiting'} for {seconds:.0f} s" if seconds > limit_seconds else None


class Heartbeats:
    """The heartbeats of all threads.

    Args:
        limit_seconds: longest time between two beats of one thread.
    """

    def __init__(self, limit_seconds: float) -> None:
        self._limit_seconds = limit_seconds
        self._heartbeats: dict[str, Heartbeat] = {}
        self._lock = threading.Lock()

    def of(self, thread: str) -> Heartbeat:
        """The heartbeat of a thread. The first call begins it: from then on the thread must beat."""
        with self._lock:
            return self._heartbeats.setdefault(thread, Heartbeat(thread, self._limit_seconds))

    def hanging(self, now: float) -> str | None:
        """A thread that hangs by `now`, on the monotonic clock, and its work, in one line; None if none hangs."""
        with self._lock:
            heartbeats = list(self._heartbeats.values())
        return next((hangs for heartbeat in heartbeats if (hangs := heartbeat.hangs(now))), None)
