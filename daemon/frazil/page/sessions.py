"""The list of sessions, and what the operator wishes of them."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from frazil.health.state import SessionState
from frazil.microscope.registry import Wish
from frazil.page.answers import NotHereError, json_answer, read_body
from frazil.picking import Micrograph

__all__ = ["KnownSessions", "SessionDesk"]

_MOST_BODY_BYTES = 64 << 10


class KnownSessions(Protocol):
    """The sessions of a daemon: what the page asks of them, and wishes."""

    @property
    def default_name(self) -> str:
        """The session that is meant where none is named; empty where there is none."""

    @property
    def all_states(self) -> tuple[SessionState, ...]:
        """Every session that is known, the open ones first."""

    def ledger_file(self, name: str) -> Path | None:
        """The ledger of a session, open or not; None where no such session is known. It need not be there as yet."""

    def read_micrograph(self, path: Path) -> Micrograph:
        """Read a micrograph of any session, within limits of memory and time."""

    def settings_of(self, name: str) -> dict[str, Any] | None:
        """The settings in force of an open session, by name; None where it is not open."""

    def change(self, name: str, wish: Wish | None, settings: Mapping[str, Any], *, repick: bool = False) -> None:
        """Wish something of a known session, and set some of its settings."""


class _Change(msgspec.Struct, forbid_unknown_fields=True):
    """What is wished of a session."""

    wish: Wish | None = None
    settings: dict[str, Any] = {}
    """By name; null takes one back."""
    repick: bool = False
    """Whether to pick again what was picked before."""


class SessionDesk:
    """Answers what is asked of sessions. The gate lets no change pass without the token.

    Args:
        sessions: of the daemon.
    """

    def __init__(self, sessions: KnownSessions) -> None:
        self._sessions = sessions
        self.routes = [
            Route("/api/sessions", self._list),
            Route("/api/sessions/{name:path}", self._show),
            Route("/api/sessions/{name:path}", self._change, methods=["POST"]),
        ]

    async def _list(self, _: Request) -> Response:
        return json_answer(msgspec.json.encode(self._sessions.all_states))

    async def _show(self, request: Request) -> Response:
        settings = await asyncio.to_thread(self._sessions.settings_of, request.path_params["name"])
        if settings is None:
            raise NotHereError(f"expected a session that is open, found {request.path_params['name']!r}")
        return json_answer(msgspec.json.encode(settings, enc_hook=str))

    async def _change(self, request: Request) -> Response:
        name = request.path_params["name"]
        change = await read_body(request, _Change, "a change of a session", most_bytes=_MOST_BODY_BYTES)
        if self._sessions.ledger_file(name) is None:
            raise NotHereError(f"expected a session that this daemon knows, found {name!r}")
        change_it = partial(self._sessions.change, name, change.wish, change.settings, repick=change.repick)
        await asyncio.to_thread(change_it)
        return json_answer(msgspec.json.encode({"session": name}), 202)
