"""A page of its own that lists several microscopes, each with a link to its daemon's page."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Mapping
from concurrent.futures import ThreadPoolExecutor

import msgspec
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from frazil.errors import SettingsError
from frazil.page.answers import REFUSALS, NotHereError, json_answer
from frazil.page.asker import Asker
from frazil.page.browser_files import file_routes
from frazil.page.gate import Gate, HostNames

__all__ = ["MicroscopesPage"]

_MOST = 100
_LOOK_UPS = 8
"""Threads for each microscope that look up its name: one that no name server knows takes none of the others."""


class MicroscopesPage:
    """Answers what browsers ask of several microscopes, from what was heard last: none is waited for.

    Args:
        urls: of the daemons' pages, by the microscope's name.
        names: of this machine besides its own.

    Attributes:
        app: to be served.

    Raises:
        AddressError: a URL is none of a daemon's page.
        SettingsError: there are too many.
    """

    def __init__(self, urls: Mapping[str, str], *, names: list[str]) -> None:
        if len(urls) > _MOST:
            raise SettingsError(f"expected at most {_MOST} microscopes on a page, found {len(urls)}")
        self._askers = [Asker(name, url) for name, url in urls.items()]
        self.app = Starlette(
            routes=[
                *file_routes({"/": "microscopes.html"}, "bare.html"),
                Route("/api/microscopes", self._list),
                Route("/api/picture/{place:int}", self._picture),
            ],
            middleware=[Middleware(Gate, names=HostNames(names), token=None)],
            exception_handlers=REFUSALS,
            lifespan=self._lifespan,
        )

    def stop(self) -> None:
        """Nobody waits for anything."""

    async def _list(self, _: Request) -> Response:
        seen = {"now": time.time(), "microscopes": [asker.microscope for asker in self._askers]}
        return json_answer(msgspec.json.encode(seen))

    async def _picture(self, request: Request) -> Response:
        place = request.path_params["place"]
        if place >= len(self._askers) or not self._askers[place].picture:
            raise NotHereError("expected a microscope with a picture, found none")
        return Response(self._askers[place].picture, media_type="image/jpeg")

    @contextlib.asynccontextmanager
    async def _lifespan(self, _: Starlette) -> AsyncIterator[None]:
        asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(_LOOK_UPS * len(self._askers)))
        asking = [asyncio.create_task(asker.run()) for asker in self._askers]
        try:
            yield
        finally:
            for task in asking:
                task.cancel()
