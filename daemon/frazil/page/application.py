"""What is served, joined in one place: the page's files, what they ask for, the probes, and the gate before all."""

from __future__ import annotations

import asyncio
import contextlib
from collections import OrderedDict
from collections.abc import AsyncIterator, Callable
from pathlib import Path

from prometheus_client import CollectorRegistry
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.routing import Mount, Router
from starlette.types import Receive, Scope, Send

from frazil.health.state import DaemonState
from frazil.page.answers import REFUSALS, NotHereError
from frazil.page.browser_files import file_routes
from frazil.page.corrections import CorrectionDesk
from frazil.page.export import ExportDesk
from frazil.page.gate import Gate, HostNames, Token
from frazil.page.learning import LearningDesk
from frazil.page.listing import Listing
from frazil.page.overview import Overview
from frazil.page.probes import Probes
from frazil.page.quality import QualityDesk
from frazil.page.results import Results
from frazil.page.session import Session
from frazil.page.sessions import KnownSessions, SessionDesk
from frazil.page.sign_in import SignIn
from frazil.page.squares import SquareDesk
from frazil.page.tuning import TuningDesk
from frazil.page.worker import Worker

__all__ = ["Application"]

_LEDGER_CALLS = 400
_SCRAPES = 16
_PAGES_KEPT = 16
"""Sessions whose ledgers are kept open for the page, besides those that a browser looks at."""
_PAGES = {
    "/": "overview.html",
    "/micrographs": "micrographs.html",
    "/micrograph": "micrograph.html",
    "/quality": "quality.html",
    "/squares": "squares.html",
    "/learning": "learning.html",
    "/sessions": "sessions.html",
}


class Application:
    """Answers requests, in the event loop of the page's own thread.

    What is asked of a session names it in the query, as ``?session=NAME``; without, the first session is meant.

    Args:
        registry: of the metrics.
        state: what the daemon is doing now; answers at once.
        sessions: of the daemon.
        names: of this machine besides its own.
        token_file: holds the token with which settings may be changed.

    Attributes:
        app: to be served.

    Raises:
        OutputError: the token's file cannot be made or read.
    """

    def __init__(
        self,
        registry: CollectorRegistry,
        state: Callable[[], DaemonState],
        sessions: KnownSessions,
        *,
        names: list[str],
        token_file: Path,
    ) -> None:
        self._state = state
        self._sessions = sessions
        self._token_file = token_file
        self._pages: OrderedDict[str, _SessionPage] = OrderedDict()
        self._loop: asyncio.AbstractEventLoop | None = None
        # Of its own: Prometheus must get an answer though the ledger gives none.
        self._collector = Worker("frazil-page-metrics", _SCRAPES)
        probes = Probes(registry, state, self._collector)
        desk = SessionDesk(sessions)
        token = Token(token_file)
        self.app = Starlette(
            routes=[
                *file_routes(_PAGES),
                *probes.routes,
                *desk.routes,
                *SignIn(token).routes,
                Mount("/", app=self._ask_session),
            ],
            middleware=[Middleware(Gate, names=HostNames(names), token=token)],
            exception_handlers=REFUSALS,
            lifespan=self._lifespan,
        )

    def stop(self) -> None:
        """Tell browsers that the daemon ends; from any thread."""
        if self._loop is not None:
            with contextlib.suppress(RuntimeError):  # the loop has ended by itself
                self._loop.call_soon_threadsafe(self._end)

    def _end(self) -> None:
        for page in self._pages.values():
            page.overview.live.end()

    async def _ask_session(self, scope: Scope, receive: Receive, send: Send) -> None:
        name = Request(scope).query_params.get("session") or self._sessions.default_name
        page = self._pages.get(name)
        if page is None:
            ledger = self._sessions.ledger_file(name)
            if ledger is None:
                raise NotHereError(f"expected a session that this daemon knows, found {name!r}")
            page = self._pages[name] = _SessionPage(
                name, ledger, lambda: self._state().of(name), self._sessions, self._token_file
            )
        self._pages.move_to_end(name)
        if len(self._pages) > _PAGES_KEPT:
            for other in [n for n, kept in self._pages.items() if n != name and not kept.overview.live.viewers][:1]:
                self._pages.pop(other).close()
        await page.router(scope, receive, send)

    @contextlib.asynccontextmanager
    async def _lifespan(self, _: Starlette) -> AsyncIterator[None]:
        self._loop = asyncio.get_running_loop()
        try:
            yield
        finally:
            for page in self._pages.values():
                page.close()
            self._collector.close()


class _SessionPage:
    """What is served of one session; made in the event loop.

    Args:
        name: of the session.
        ledger: its file; it need not be there as yet.
        state: what the daemon is doing now for this session.
        sessions: of the daemon.
        token_file: holds the token.
    """

    def __init__(
        self,
        name: str,
        ledger: Path,
        state: Callable[[], DaemonState],
        sessions: KnownSessions,
        token_file: Path,
    ) -> None:
        self._session = Session(ledger)
        self._worker = Worker("frazil-page-ledger", _LEDGER_CALLS)
        self._listing = Listing(self._session)
        self.overview = Overview(self._session, self._worker, state, token_file, self._listing)
        self._results = Results(self._session, self._worker, sessions.read_micrograph, self._listing, ledger)
        tuning = TuningDesk(self._session, self._worker, ledger)
        corrections = CorrectionDesk(self._session, self._worker, ledger)
        export = ExportDesk(self._session, self._worker, self._listing)
        learning = LearningDesk(
            self._session,
            self._worker,
            name=lambda: name if state().root else "",
            settings=lambda: sessions.settings_of(name),
        )
        self._quality = QualityDesk(self._session, self._worker, sessions.read_micrograph, self._listing)
        self._squares = SquareDesk(self._session, self._worker)
        desks = (self.overview, self._results, tuning, corrections, export, learning, self._quality, self._squares)
        self.router = Router([route for desk in desks for route in desk.routes])
        self._looking = asyncio.create_task(self.overview.live.run())

    def close(self) -> None:
        """End its threads, and close the ledger."""
        self._looking.cancel()
        self._results.close()
        self._quality.close()
        self._worker.close()
        self._listing.close()
        self._squares.close()
        self._session.close()
