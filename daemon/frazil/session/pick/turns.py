"""Turns: sessions that share a processor or a GPU pick one micrograph each, first come, first served."""

from __future__ import annotations

import threading
from collections import deque
from types import TracebackType

__all__ = ["Turns"]


class Turns:
    """A lock that is given to whoever has waited longest.

    A session has one thread that picks. So with n sessions at work, none waits for more than n - 1 micrographs, however
    long the backlogs of the others are. (`threading.Lock` may be taken again and again by the same thread.)
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._taken = False
        self._waiting: deque[threading.Event] = deque()

    def __enter__(self) -> None:
        with self._lock:
            if not self._taken:
                self._taken = True
                return
            turn = threading.Event()
            self._waiting.append(turn)
        turn.wait()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        with self._lock:
            if self._waiting:
                self._waiting.popleft().set()  # the lock stays taken, by that thread
            else:
                self._taken = False
