"""The processor time that replays may take beside picking."""

from __future__ import annotations

import time

__all__ = ["BUSY_SHARE", "SAVED_SECONDS", "Allowance"]

BUSY_SHARE = 0.04
"""Of one core's time, for replays while picking is busy; what clients do with the answers costs about as much again."""
SAVED_SECONDS = 0.5
"""Time of that share that is saved up while nobody asks, so that a client that lacks little does not wait."""


class Allowance:
    """Processor time for replays: a token bucket, filled while picking is busy; without a bound while it is not."""

    def __init__(self) -> None:
        self._left = SAVED_SECONDS
        self._spent = time.thread_time()
        self._at = time.monotonic()

    def debt_seconds(self, *, is_busy: bool) -> float:
        """How long to rest, after what this thread has done since it was last asked."""
        spent, at = time.thread_time(), time.monotonic()
        earned = BUSY_SHARE * (at - self._at)
        self._left = min(SAVED_SECONDS, self._left + earned - (spent - self._spent)) if is_busy else SAVED_SECONDS
        self._spent, self._at = spent, at
        return max(0.0, -self._left / BUSY_SHARE)
