"""What happens at the sockets, counted until it is reported to the daemon."""

from __future__ import annotations

import threading

from frazil.session.outbox.stream.messages import Report

__all__ = ["Reports"]


class Reports:
    """What happened, counted by both threads until it is reported."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._now = Report()

    def count(self, **counts: int) -> None:
        """Add to the counts of these names."""
        with self._lock:
            for name, count in counts.items():
                setattr(self._now, name, getattr(self._now, name) + count)

    def count_request(self, outcome: str) -> None:
        """Count a replay request."""
        with self._lock:
            self._now.requests[outcome] = self._now.requests.get(outcome, 0) + 1

    def set_subscribers(self, connections: int) -> None:
        """Note how many are connected."""
        with self._lock:
            self._now.subscribers = connections

    def note_damaged(self, session: str, seq: int, path: str) -> None:
        """Note a document that cannot be read."""
        with self._lock:
            self._now.damaged.append((session, seq, path))

    def note_ledger_damage(self, channel: int, error: str) -> None:
        """Note that a channel's ledger is damaged."""
        with self._lock:
            self._now.ledger_damage[channel] = error

    def take(self) -> Report:
        """What happened since this was last asked for."""
        with self._lock:
            taken, self._now = self._now, Report(subscribers=self._now.subscribers)
        return taken
