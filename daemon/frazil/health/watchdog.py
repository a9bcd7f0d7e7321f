"""Supervision: the service manager sees the daemon start, work, reload, hang and stop."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

from frazil.health.logs import event
from frazil.health.systemd import Notifier

__all__ = ["Supervision"]

log = logging.getLogger(__name__)

_BEATS_PER_DEADLINE = 3
_STATUS_SECONDS = 1.0


class Supervision:
    """Speaks to the service manager for the daemon.

    The watchdog is fed only while every thread beats: a thread that hangs stops it, and the manager then ends this
    process and starts another.

    Args:
        notifier: reaches the manager.
        find_hanging: finds a thread that hangs by a time on the monotonic clock, and its work, in one line.
    """

    def __init__(self, notifier: Notifier, find_hanging: Callable[[float], str | None]) -> None:
        self._notifier = notifier
        self._find_hanging = find_hanging
        self._hanging = False
        self._fed_at = self._told_at = float("-inf")
        self._told = ""

    def ready(self, describe: Callable[[], str]) -> None:
        """The daemon runs; from now on `look` is called. What `describe` says is the status."""
        self._describe = describe
        self._notifier.ready()
        self.look(time.monotonic())

    def look(self, now: float) -> None:
        """Feed the watchdog, if nothing hangs, and tell the status, each when it is due.

        Args:
            now: on the monotonic clock.
        """
        hanging = self._find_hanging(now)
        if hanging and not self._hanging:
            log.error(
                "%s hangs: the watchdog is no longer fed, and systemd restarts the daemon where it watches",
                hanging,
                extra=event("hangs"),
            )
        elif self._hanging and not hanging:
            log.warning("nothing hangs any more")
        self._hanging = hanging is not None
        every_seconds = self._notifier.watchdog_seconds
        if every_seconds is not None and not hanging and now - self._fed_at >= every_seconds / _BEATS_PER_DEADLINE:
            self._fed_at = now
            self._notifier.alive()
        if hanging or now - self._told_at >= _STATUS_SECONDS:
            self._told_at = now
            self._tell(f"HANGS: {hanging}" if hanging else self._describe())

    def longest_rest(self, seconds: float) -> float:
        """How long to rest until the next `look`: so long, or less where the watchdog wants to hear earlier."""
        every_seconds = self._notifier.watchdog_seconds
        return seconds if every_seconds is None else min(seconds, every_seconds / _BEATS_PER_DEADLINE / 2)

    def _tell(self, status: str) -> None:
        if status != self._told:
            self._told = status
            self._notifier.status(status)
