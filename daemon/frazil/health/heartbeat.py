"""Pulses: signs of life of the threads that do the work, and which of them hangs.

A thread beats when it has made progress, and when it has waited in vain: for work, for room in a queue, for a disk
that is full. One that stays in a single piece of work beyond a limit does neither: it hangs.
"""

from __future__ import annotations

import threading
import time
from typing import Protocol

__all__ = ["Beat", "Pulse", "Pulses", "unwatched"]


class Beat(Protocol):
    """`Pulse.beat`, for a part that need know no more of it."""

    def __call__(self, doing: str = "", *, more_seconds: float = 0.0) -> None:
        """Say that all is well, and what comes next."""


def unwatched(doing: str = "", *, more_seconds: float = 0.0) -> None:
    """A beat that nobody hears."""


class Pulse:
    """The sign of life of one thread, which alone calls `beat`.

    Args:
        name: of the thread, for the log.
        limit_seconds: longest time between two beats.
    """

    def __init__(self, name: str, limit_seconds: float) -> None:
        self.name = name
        self._limit_seconds = limit_seconds
        self._state = ("", time.monotonic(), limit_seconds)

    @property
    def doing(self) -> str:
        """What the thread is at; empty while it waits."""
        return self._state[0]

    def beat(self, doing: str = "", *, more_seconds: float = 0.0) -> None:
        """Say that all is well, and what comes next.

        Args:
            doing: what comes next; empty for waiting.
            more_seconds: time that it may take beyond the limit.
        """
        self._state = doing, time.monotonic(), self._limit_seconds + more_seconds

    def hangs(self, now: float) -> str | None:
        """What the thread has been at for too long by `now`, on the monotonic clock; None while all is well."""
        doing, since, limit_seconds = self._state
        seconds = now - since
        return f"{self.name} at {doing or 'waiting'} for {seconds:.0f} s" if seconds > limit_seconds else None


class Pulses:
    """The pulses of all threads.

    Args:
        limit_seconds: longest time between two beats of one.
    """

    def __init__(self, limit_seconds: float) -> None:
        self._limit_seconds = limit_seconds
        self._pulses: dict[str, Pulse] = {}
        self._lock = threading.Lock()

    def of(self, thread: str) -> Pulse:
        """The pulse of a thread; from the first time that it is asked for, the thread must beat."""
        with self._lock:
            return self._pulses.setdefault(thread, Pulse(thread, self._limit_seconds))

    def hanging(self, now: float) -> str | None:
        """Which thread hangs by `now`, on the monotonic clock, and at what; None while all are well."""
        with self._lock:
            pulses = list(self._pulses.values())
        return next((hangs for pulse in pulses if (hangs := pulse.hangs(now))), None)
