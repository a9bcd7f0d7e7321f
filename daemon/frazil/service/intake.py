"""Intake: which of the files that appear are whole and new.

A file is whole when its size is what its own header demands and two looks at it agree. It is new when the ledger
has not seen its content under its name. Everything else waits, and is reported when it has waited too long.
"""

from __future__ import annotations

import hashlib
import logging
import os
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from queue import Empty, SimpleQueue

from frazil.errors import IncompleteMicrograph, MicrographError
from frazil.picking import check_complete
from frazil.service.ledger import FileStamp, Handled, Ledger
from frazil.service.watch import Hint, Watcher

__all__ = ["Arrival", "Intake", "fingerprint", "stamp_of"]

log = logging.getLogger(__name__)

_CLOSED_SETTLE_SECONDS = 0.05
"""Between the two looks at a file whose writer closed it."""
_OPEN_SETTLE_SECONDS = 1.0
"""Between the two looks at a file that nobody is known to have closed."""
_RECHECK_SECONDS = 0.5
_LONGEST_WAIT_SECONDS = 0.5
_SAMPLE_BYTES = 4096
_SAMPLES = 16


@dataclass(frozen=True, slots=True, kw_only=True)
class Arrival:
    """A micrograph that is whole and new."""

    path: Path
    key: str
    """Its name in the ledger: the path below the watched directory."""
    stamp: FileStamp
    complete_at: float
    """When it was known to be complete, by the monotonic clock."""


@dataclass(slots=True, kw_only=True)
class _Candidate:
    """A file that waits for its second look."""

    stamp: FileStamp
    unchanged_since: float
    due: float
    closed: bool


class Intake:
    """Follows candidates until they are arrivals, failures, or gone.

    `run` belongs to one thread; `release` may be called from any.

    Args:
        watcher: names candidates.
        hints: the queue that the watcher fills.
        ledger: knows what was handled before.
        root: the watched directory.
        scan_seconds: time between scans.
        stall_seconds: time without change after which an incomplete file is reported.
        accept: takes an arrival; may block, and returns False when it was not taken.
        refuse: takes a file that cannot be picked as it is.
    """

    def __init__(
        self,
        watcher: Watcher,
        hints: SimpleQueue[Hint],
        ledger: Ledger,
        root: Path,
        *,
        scan_seconds: float,
        stall_seconds: float,
        accept: Callable[[Arrival], bool],
        refuse: Callable[[Arrival, MicrographError], None],
    ) -> None:
        self._watcher = watcher
        self._hints = hints
        self._ledger = ledger
        self._root = root
        self._scan_seconds = scan_seconds
        self._stall_seconds = stall_seconds
        self._accept = accept
        self._refuse = refuse
        self._handled: dict[str, Handled] = ledger.handled()
        self._in_hand: set[str] = set()
        self._resting: dict[str, float] = {}
        self._candidates: dict[Path, _Candidate] = {}
        self._lock = threading.Lock()

    @property
    def waiting(self) -> int:
        """Files seen that are not yet complete."""
        return len(self._candidates)

    def run(self, stop: threading.Event) -> None:
        """Take in files until told to stop."""
        next_scan = time.monotonic()
        while not stop.is_set():
            now = time.monotonic()
            if now >= next_scan:
                for path in self._watcher.scan():
                    self._note(Hint(path=path, closed=False))
                next_scan = time.monotonic() + self._scan_seconds
            self._look_at_due(stop)
            due = min((c.due for c in self._candidates.values()), default=next_scan)
            self._note_hints(min(due, next_scan, now + _LONGEST_WAIT_SECONDS) - time.monotonic())

    def release(self, arrival: Arrival, handled: Handled | None, *, rest_seconds: float = 0.0) -> None:
        """Let go of an arrival: handled, or (None) to be looked at again, after a rest."""
        with self._lock:
            self._in_hand.discard(arrival.key)
            if handled is not None:
                self._handled[arrival.key] = handled
            elif rest_seconds > 0:
                self._resting[arrival.key] = time.monotonic() + rest_seconds
        if handled is None:
            self._hints.put(Hint(path=arrival.path, closed=False))

    def _note_hints(self, timeout_seconds: float) -> None:
        try:
            self._note(self._hints.get(timeout=max(0.0, timeout_seconds)))
            while True:
                self._note(self._hints.get_nowait())
        except Empty:
            pass

    def _note(self, hint: Hint) -> None:
        try:
            stamp = stamp_of(hint.path)
        except OSError:
            self._candidates.pop(hint.path, None)
            return
        known = self._candidates.get(hint.path)
        if known is None:
            key = self._key(hint.path)
            with self._lock:
                handled = self._handled.get(key)
                busy = key in self._in_hand or self._is_resting(key)
            if busy or (handled is not None and handled.stamp == stamp):
                return
        now = time.monotonic()
        if known is None or known.stamp != stamp:
            known = _Candidate(stamp=stamp, unchanged_since=now, due=now + _OPEN_SETTLE_SECONDS, closed=False)
            # A backlog that lay here before us needs no second look a second later.
            if time.time() - stamp.mtime_ns / 1e9 > _OPEN_SETTLE_SECONDS:
                known.due = now
            self._candidates[hint.path] = known
        if hint.closed:
            known.closed = True
            known.due = min(known.due, now + _CLOSED_SETTLE_SECONDS)

    def _look_at_due(self, stop: threading.Event) -> None:
        now = time.monotonic()
        for path, candidate in list(self._candidates.items()):
            if stop.is_set():
                return
            if candidate.due <= now and not self._look(path, candidate):
                del self._candidates[path]

    def _look(self, path: Path, candidate: _Candidate) -> bool:
        """Look a second time at a candidate; whether it stays one."""
        now = time.monotonic()
        try:
            stamp = stamp_of(path)
        except OSError:
            return False
        if stamp != candidate.stamp:
            candidate.stamp, candidate.unchanged_since, candidate.closed = stamp, now, False
            candidate.due = now + _RECHECK_SECONDS
            return True
        arrival = Arrival(path=path, key=self._key(path), stamp=stamp, complete_at=now)
        stalled = now - candidate.unchanged_since >= self._stall_seconds
        try:
            arrival.key.encode()
            check_complete(path)
            if self._is_known_content(arrival):
                return False
        except UnicodeEncodeError:
            error = MicrographError(path, "name", "expected a file name in UTF-8")
        except IncompleteMicrograph as incomplete:
            error = incomplete
            if not stalled:
                candidate.due = now + _RECHECK_SECONDS
                return True
        except MicrographError as refused:
            error = refused
        except OSError as failed:
            error = MicrographError(path, "unreadable", f"cannot be read: {failed.strerror or failed}")
            if not stalled:
                candidate.due = now + _RECHECK_SECONDS
                return True
        else:
            return not self._offer(arrival)
        self._take_in_hand(arrival)
        self._refuse(arrival, error)
        return False

    def _offer(self, arrival: Arrival) -> bool:
        self._take_in_hand(arrival)
        if self._accept(arrival):
            return True
        with self._lock:
            self._in_hand.discard(arrival.key)
        return False

    def _take_in_hand(self, arrival: Arrival) -> None:
        with self._lock:
            self._in_hand.add(arrival.key)

    def _is_known_content(self, arrival: Arrival) -> bool:
        """Whether the file was handled before and only touched since (a copy that sets its times last does that)."""
        with self._lock:
            handled = self._handled.get(arrival.key)
        if handled is None or handled.fingerprint != fingerprint(arrival.path):
            return False
        with self._lock:
            self._handled[arrival.key] = Handled(stamp=arrival.stamp, fingerprint=handled.fingerprint)
        self._ledger.restamp(arrival.key, arrival.stamp)
        return True

    def _is_resting(self, key: str) -> bool:
        """Whether a file is not to be tried yet; the scans come back to it."""
        if self._resting.get(key, 0.0) > time.monotonic():
            return True
        self._resting.pop(key, None)
        return False

    def _key(self, path: Path) -> str:
        return str(path.relative_to(self._root))


def stamp_of(path: Path) -> FileStamp:
    """Size and time of a file.

    Raises:
        OSError: it is gone or cannot be looked at.
    """
    status = path.stat()
    return FileStamp(size=status.st_size, mtime_ns=status.st_mtime_ns)


def fingerprint(path: Path) -> str:
    """Hash of a file's size and of blocks sampled from its first byte to its last.

    Raises:
        OSError: it cannot be read.
    """
    digest = hashlib.blake2b(digest_size=16)
    with path.open("rb") as file:
        size = os.fstat(file.fileno()).st_size
        digest.update(size.to_bytes(8, "little"))
        for i in range(_SAMPLES):
            file.seek(max(0, size - _SAMPLE_BYTES) * i // (_SAMPLES - 1))
            digest.update(file.read(_SAMPLE_BYTES))
    return digest.hexdigest()
