"""A thread of the page's own for what would hold up its event loop, with a limit on what waits for it."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Callable
from queue import SimpleQueue
from typing import Any, TypeVar

__all__ = ["BusyError", "Worker"]

Result = TypeVar("Result")

_CLOSE_SECONDS = 1.0


class BusyError(Exception):
    """So much waits already that more is refused."""


class Worker:
    """Runs calls one after the other in one thread, so that a crowd of browsers costs one core at most.

    The thread does not keep the process: a read that hangs on a network mount must not hold up the daemon's end.

    Args:
        most_waiting: calls that may wait; one more raises `BusyError`.
    """

    def __init__(self, name: str, most_waiting: int) -> None:
        self._most_waiting = most_waiting
        self._waiting = 0
        self._calls: SimpleQueue[Callable[[], None] | None] = SimpleQueue()
        self._thread = threading.Thread(target=self._work, name=name, daemon=True)
        self._thread.start()

    async def run(self, call: Callable[[], Result]) -> Result:
        """Run a call in the thread and wait for it, from the event loop.

        Raises:
            BusyError: too much waits.
        """
        if self._waiting >= self._most_waiting:
            raise BusyError
        loop = asyncio.get_running_loop()
        future: asyncio.Future[Result] = loop.create_future()
        self._calls.put(lambda: _answer(call, future, loop))
        self._waiting += 1
        try:
            return await future
        finally:
            self._waiting -= 1

    def close(self) -> None:
        """Let what waits run out, unless that takes long."""
        self._calls.put(None)
        self._thread.join(_CLOSE_SECONDS)

    def _work(self) -> None:
        while (call := self._calls.get()) is not None:
            call()


def _answer(call: Callable[[], Result], future: asyncio.Future[Result], loop: asyncio.AbstractEventLoop) -> None:
    if future.cancelled():
        return
    settle: Callable[[Any], None]
    outcome: Any
    try:
        settle, outcome = future.set_result, call()
    except Exception as error:  # noqa: BLE001 - it belongs to whoever waits
        settle, outcome = future.set_exception, error

    def settle_if_awaited() -> None:
        if not future.done():
            settle(outcome)

    with contextlib.suppress(RuntimeError):  # the loop may have ended meanwhile
        loop.call_soon_threadsafe(settle_if_awaited)
