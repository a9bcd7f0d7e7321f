"""Retries: what a full disk or a broken mount forbids is tried until it works, and said from the start."""

from __future__ import annotations

import logging
import sqlite3
import threading
from collections.abc import Callable
from typing import TypeVar

from frazil.faults import is_of_one_record, reason_of
from frazil.health.heartbeat import Beat, no_heartbeat
from frazil.health.logs import event
from frazil.health.metrics import Metrics
from frazil.session.outbox.ledger import is_fatal

__all__ = ["Retries", "Stopped"]

log = logging.getLogger(__name__)

_RETRY_SECONDS = 1.0

T = TypeVar("T")


class Stopped(Exception):
    """The daemon is to stop before something could be written or delivered. The next start does it."""


class Retries:
    """Retries writing until it works. Picking waits meanwhile: the queues before it fill, and nothing is dropped.

    Args:
        metrics: shows that something is blocked.
        stop: ends the waiting.
        beat: is called after each failed try.

    Attributes:
        waits_for: what cannot be written at present, and why; empty while nothing is waited for.
    """

    def __init__(self, metrics: Metrics, stop: threading.Event, beat: Beat = no_heartbeat) -> None:
        self._metrics = metrics
        self._stop = stop
        self._beat = beat
        self.waits_for = ""

    def until_stopped(self, what: str, write: Callable[[], T]) -> T:
        """Write, and retry until it works.

        Args:
            what: is written, for the log.
            write: does all of it or nothing; raises `OSError` only where waiting may help.

        Raises:
            Stopped: the daemon is to stop, or stops by itself: the ledger is damaged or gone.
            sqlite3.Error: this record cannot be written, others can.
        """
        blocked = False
        while True:
            try:
                written = write()
            except (OSError, sqlite3.Error) as error:
                if is_fatal(error):
                    raise Stopped from error
                if is_of_one_record(error):
                    raise
                reason = reason_of(error) if isinstance(error, OSError) else str(error)
                if not blocked:
                    log.warning(
                        "cannot write %s (%s): picking waits until it can",
                        what,
                        reason,
                        extra=event("output_blocked", file=what, reason=reason),
                    )
                blocked = True
                self.waits_for = f"cannot write {what} ({reason}): picking waits until it can"
                self._metrics.output_blocked.set(1)
                self._beat()
                if self._stop.wait(_RETRY_SECONDS):
                    raise Stopped from error
            else:
                if blocked:
                    log.info("can write %s again: picking goes on", what, extra=event("output_free", file=what))
                    self.waits_for = ""
                    self._metrics.output_blocked.set(0)
                return written
