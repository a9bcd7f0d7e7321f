"""What the page shows now, told to every browser that looks, at most once a second."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Awaitable, Callable

from frazil.page.worker import BusyError

__all__ = ["CrowdedError", "Live"]

_TICK_SECONDS = 1.0
_BEAT_SECONDS = 5.0


class CrowdedError(Exception):
    """As many browsers look as may."""


class Live:
    """Looks once a second while anybody does, and tells all of them the same bytes.

    A browser that is slow to read gets the newest state when it is ready, and never a queue of old ones. Every few
    seconds there is a beat, by whose absence a browser knows that the daemon is gone.
    """

    def __init__(self, look: Callable[[], Awaitable[bytes]], most: int) -> None:
        self._look = look
        self._most = most
        self._changed = asyncio.Condition()
        self._state = b""
        self._number = 0
        self._ended = False
        self.viewers = 0

    async def run(self) -> None:
        """Look, until cancelled."""
        while True:
            await asyncio.sleep(_TICK_SECONDS)
            if self.viewers:
                with contextlib.suppress(BusyError):  # there is always a next time
                    await self._tick()

    def end(self) -> None:
        """Tell browsers that the daemon ends in order; from the event loop."""
        self._ended = True
        self._ending = asyncio.ensure_future(self._wake())

    async def _wake(self) -> None:
        async with self._changed:
            self._changed.notify_all()

    def enter(self) -> AsyncIterator[bytes]:
        """Events for one more browser.

        Raises:
            CrowdedError: too many look.
        """
        if self.viewers >= self._most:
            raise CrowdedError
        return self._events()

    async def _events(self) -> AsyncIterator[bytes]:
        self.viewers += 1
        try:
            yield b"retry: 3000\n\n"
            if self.viewers == 1 or not self._state:
                await self._tick()
            told = -1
            while not self._ended:
                if told != self._number:
                    told = self._number
                    yield b"event: now\nid: %.3f\ndata: %b\n\n" % (time.time(), self._state)
                else:
                    yield b"event: beat\ndata: %.3f\n\n" % time.time()
                async with self._changed:
                    news = self._changed.wait_for(lambda seen=told: self._ended or seen != self._number)  # type: ignore[misc]
                    try:
                        await asyncio.wait_for(news, _BEAT_SECONDS)
                    except TimeoutError:
                        continue
            yield b"event: end\ndata: stopped\n\n"
        finally:
            self.viewers -= 1

    async def _tick(self) -> None:
        state = await self._look()
        if state != self._state:
            self._state = state
            self._number += 1
            await self._wake()
