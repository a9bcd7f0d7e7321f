"""Retries: a write that fails because of a full disk or a broken mount is retried until it works, with a warning."""

from __future__ import annotations

import logging
import sqlite3
import threading
from collections.abc import Callable
from typing import TypeVar

from frazil.faults import is_of_one_record, reason_of
from frazil.health.heartbeat import Beat, no_heartbeat
from frazil.health.logs import event
from frazil.session.outbox.ledger import is_fatal

__all__ = ["Retries", "Stopped"]

log = logging.getLogger(__name__)

_RETRY_SECONDS = 1.0

T = TypeVar("T")


class Stopped(Exception):
    """The daemon stops before a write or a delivery succeeded. The next start makes up for it."""


class Retries:
    """Retries writing until it works. Picking waits meanwhile: the queues before it fill, and nothing is dropped.

    Args:
        stop: ends the retries.
        beat: called after each failed attempt.

    Attributes:
        waits_for: the file that cannot be written at present, and why, in one line; empty while nothing is blocked.
    """

    def __init__(self, stop: threading.Event, beat: Beat = no_heartbeat) -> None:
        self._stop = stop
        self._beat = beat
        self.waits_for = ""

    def until_stopped(self, what: str, write: Callable[[], T]) -> T:
        """Write, and retry until it works.

        Args:
            what: name of the file that is written, for the log.
            write: writes everything or nothing; raises `OSError` only if waiting may help.

        Returns:
            The result of `write`.

        Raises:
            Stopped: the daemon is stopping, or must stop because the ledger is damaged or gone.
            sqlite3.Error: this record cannot be written, but others can.
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
                self._beat()
                if self._stop.wait(_RETRY_SECONDS):
                    raise Stopped from error
            else:
                if blocked:
                    log.info("can write %s again: picking goes on", what, extra=event("output_free", file=what))
                    self.waits_for = ""
                return written
