"""The overview: is it working, are the picks good, what changed, what to do."""

from __future__ import annotations

import contextlib
import socket
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import msgspec
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route

import frazil
from frazil.errors import OutputError
from frazil.health.state import DaemonState, SessionState
from frazil.page.answers import asked_number, json_answer
from frazil.page.listing import Listing, rest_until
from frazil.page.live import Live
from frazil.page.series import Plot, plot_of
from frazil.page.session import Session, Standing, rate_per_minute
from frazil.page.troubles import Facts, Trouble, find_troubles
from frazil.page.worker import Worker

__all__ = ["Now", "Overview"]

_LATEST = 9
_MOST_BROWSERS = 400
_JUDGED_SECONDS = 60.0


class Now(msgspec.Struct, frozen=True, kw_only=True):
    """All that the overview shows but for pictures and plots."""

    version: str
    host: str
    unready: str
    """Why it is not ready to pick; empty where it is."""
    model: str
    provider: str
    """What runs the model."""
    precision: str
    """In which it computes."""
    junk_model: str
    """The model that finds junk; empty where that is not looked for, or cannot be."""
    queues: dict[str, int]
    """Micrographs in each; see the metric."""
    requeued: int
    """Micrographs that have picks and are to be picked again, behind all others."""
    rate_per_minute: float
    troubles: list[Trouble]
    token_file: str
    """On the daemon's machine: holds the token with which settings may be changed."""
    standing: Standing | None
    """What the ledger says; None where it cannot be read."""


class Overview:
    """Answers what the overview asks.

    Attributes:
        live: tells browsers what changes.
    """

    def __init__(
        self,
        session: Session,
        worker: Worker,
        state: Callable[[], DaemonState],
        token_file: Path,
        listing: Listing,
    ) -> None:
        self._token_file = token_file
        self._session = session
        self._worker = worker
        self._state = state
        self._standing: tuple[tuple[int, int], tuple[Standing, Facts]] | None = None
        self._listing = listing
        self._plot: tuple[int, float, Plot] | None = None
        self.live = Live(self.look, _MOST_BROWSERS)
        self.routes = [
            Route("/events", self._events),
            Route("/api/now", self._now),
            Route("/api/series", self._get_series),
        ]

    async def look(self) -> bytes:
        """How things are now, as JSON.

        Raises:
            BusyError: too much waits for the ledger.
        """
        return await self._worker.run(lambda: msgspec.json.encode(self._look()))

    def _look(self) -> Now:
        now, state = time.time(), self._state()
        standing, facts = None, None
        with contextlib.suppress(OutputError):
            standing, facts = self._current_standing()
        daemon, session = standing and standing.daemon, state.session or SessionState()
        return Now(
            version=frazil.__version__,
            host=socket.gethostname(),
            unready=state.unready,
            model=daemon.model if daemon else "",
            provider=daemon.provider if daemon else "",
            precision=daemon.precision if daemon else "",
            junk_model=session.junk_model.short if session.junk_model else "",
            queues=session.queues,
            requeued=session.intake.requeued,
            rate_per_minute=round(rate_per_minute(standing.picked_at, now), 1) if standing else 0.0,
            troubles=find_troubles(state, facts, now),
            token_file=str(self._token_file),
            standing=standing,
        )

    def _current_standing(self) -> tuple[Standing, Facts]:
        # What is judged by time is judged anew though nothing was written.
        state = self._session.reader.changes(), int(time.time() // _JUDGED_SECONDS)
        if self._standing is None or self._standing[0] != state:
            self._standing = state, (self._session.standing(_LATEST), self._session.facts())
        return self._standing[1]

    def _read_series(self, first: int, last: int | None) -> bytes:
        """The plot; the first ones of a long session come before all of it was read."""
        whole = (first, last) == (1, None)
        changes, started = self._session.reader.changes(), time.monotonic()
        if whole and self._plot is not None and self._listing.complete:
            known, until, plot = self._plot
            if known == changes or started < until:
                return msgspec.json.encode(msgspec.structs.replace(plot, complete=known == changes))
        self._listing.advance()
        plot = plot_of(self._listing, first, last)
        if whole:
            self._plot = changes, rest_until(started), plot
        return msgspec.json.encode(plot)

    async def _now(self, _: Request) -> Response:
        return json_answer(await self.look())

    async def _get_series(self, request: Request) -> Response:
        first = asked_number(request, "first", 1)
        last = asked_number(request, "last", 0) or None
        return json_answer(await self._worker.run(lambda: self._read_series(first, last)))

    async def _events(self, request: Request) -> Response:
        if request.method == "HEAD":
            return Response(media_type="text/event-stream")
        events: AsyncIterator[bytes] = self.live.enter()
        return StreamingResponse(events, media_type="text/event-stream")
