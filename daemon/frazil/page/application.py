"""What is served, joined in one place: the page's files, what they ask for, the probes, and the gate before all."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from hashlib import sha256
from importlib.resources import files
from pathlib import Path

from prometheus_client import CollectorRegistry
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from frazil.health.state import DaemonState
from frazil.page.answers import REFUSALS
from frazil.page.gate import Gate, HostNames, Token
from frazil.page.overview import Overview
from frazil.page.probes import Probes
from frazil.page.results import Results
from frazil.page.session import Session
from frazil.page.tuning import TuningDesk
from frazil.page.worker import Worker
from frazil.picking import Micrograph

__all__ = ["Application"]

_LEDGER_CALLS = 400
_SCRAPES = 16
_PAGES = {"/": "overview.html", "/micrographs": "micrographs.html", "/micrograph": "micrograph.html"}
_TYPES = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
}


class Application:
    """Answers requests, in the event loop of the page's own thread.

    Args:
        registry: of the metrics.
        state: what the daemon is doing now; answers at once.
        ledger: its file; it need not be there as yet.
        read: reads a micrograph, within limits of memory and time.
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
        ledger: Path,
        read: Callable[[Path], Micrograph],
        *,
        names: list[str],
        token_file: Path,
    ) -> None:
        self._session = Session(ledger)
        self._worker = Worker("frazil-page-ledger", _LEDGER_CALLS)
        self._overview = Overview(self._session, self._worker, state, token_file)
        self._results = Results(self._session, self._worker, read)
        tuning = TuningDesk(self._session, self._worker, ledger)
        self._loop: asyncio.AbstractEventLoop | None = None
        # Of its own: Prometheus must get an answer though the ledger gives none.
        self._collector = Worker("frazil-page-metrics", _SCRAPES)
        probes = Probes(registry, state, self._collector)
        self.app = Starlette(
            routes=[*_file_routes(), *probes.routes, *self._overview.routes, *self._results.routes, *tuning.routes],
            middleware=[Middleware(Gate, names=HostNames(names), token=Token(token_file))],
            exception_handlers=REFUSALS,
            lifespan=self._lifespan,
        )

    def stop(self) -> None:
        """Tell browsers that the daemon ends; from any thread."""
        if self._loop is not None:
            with contextlib.suppress(RuntimeError):  # the loop has ended by itself
                self._loop.call_soon_threadsafe(self._overview.live.end)

    @contextlib.asynccontextmanager
    async def _lifespan(self, _: Starlette) -> AsyncIterator[None]:
        self._loop = asyncio.get_running_loop()
        looking = asyncio.create_task(self._overview.live.run())
        try:
            yield
        finally:
            looking.cancel()
            self._results.close()
            self._worker.close()
            self._collector.close()
            self._session.close()


def _file_routes() -> list[Route]:
    """A route for each page, and one below ``/static/`` for each file: no name in a request becomes a path."""
    folder = files("frazil.page") / "browser"
    contents = {entry.name: entry.read_bytes() for entry in folder.iterdir() if entry.is_file()}
    static = [_route(f"/static/{name}", name, content) for name, content in contents.items()]
    return [*(_route(path, name, contents[name]) for path, name in _PAGES.items()), *static]


def _route(path: str, name: str, content: bytes) -> Route:
    kind = _TYPES[name[name.rindex(".") :]]
    tag = f'"{sha256(content).hexdigest()[:16]}"'
    headers = {"etag": tag, "cache-control": "no-cache"}

    async def answer(request: Request) -> Response:
        if request.headers.get("if-none-match") == tag:
            return Response(status_code=304, headers=headers)
        return Response(content, media_type=kind, headers=headers)

    return Route(path, answer, name=path)
