"""The gate before every request: who may ask what, and what browsers may do with the answer."""

from __future__ import annotations

import hmac
import ipaddress
import os
import secrets
import socket
from collections.abc import Iterable
from pathlib import Path
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from frazil.errors import OutputError

__all__ = ["TOKEN_NAME", "Gate", "HostNames", "Token"]

TOKEN_NAME = "frazil-page-token"  # noqa: S105 - a file's name
"""Of the token's file, beside the ledger."""

_HEADERS = {
    "content-security-policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
        "form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
    ),
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "no-referrer",
    "cross-origin-resource-policy": "same-origin",
    "cross-origin-opener-policy": "same-origin",
}


class HostNames:
    """Names under which browsers may ask for the page.

    A page elsewhere can have its own name resolve to this machine and then read us as its own (DNS rebinding). Its
    requests carry that name, so only ours are answered. An address instead of a name cannot be made up that way.

    Args:
        more: names besides those of this machine.
    """

    def __init__(self, more: Iterable[str]) -> None:
        own = {"localhost", socket.gethostname(), socket.getfqdn()}
        self._names = {name.rstrip(".").lower() for name in (*own, *more)}

    def __contains__(self, host: object) -> bool:
        """Whether a Host header, such as ``titan1:9457``, is one of them."""
        if not isinstance(host, str):
            return False
        try:
            name = urlsplit(f"//{host}").hostname or ""
        except ValueError:
            return False
        if name.rstrip(".") in self._names:
            return True
        try:
            ipaddress.ip_address(name)
        except ValueError:
            return False
        return True


class Token:
    """The secret with which settings may be changed, kept in a file that only the daemon's user reads.

    Args:
        file: holds it; it is made where there is none, and stays, so that a restart locks nobody out.

    Raises:
        OutputError: the file cannot be made or read.
    """

    def __init__(self, file: Path) -> None:
        self.file = file
        try:
            try:
                with os.fdopen(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as made:
                    made.write(f"{secrets.token_urlsafe(24)}\n")
            except FileExistsError:
                file.chmod(0o600)
            except OSError:  # a full disk: half a token would keep the next start from making a whole one
                file.unlink(missing_ok=True)
                raise
            self._secret = file.read_text("ascii").strip().encode()
        except (OSError, UnicodeDecodeError) as error:
            raise OutputError(f"{file}: expected a file with the page's token: {error}") from error
        if len(self._secret) < 16:
            raise OutputError(f"{file}: expected a token of 16 letters or more; delete the file and a new one is made")

    def opens(self, authorization: str | None) -> bool:
        """Whether an Authorization header holds it."""
        scheme, _, given = (authorization or "").partition(" ")
        return scheme.lower() == "bearer" and hmac.compare_digest(given.strip().encode(), self._secret)


class Gate:
    """Middleware: lets in what may come in, and puts our headers on what goes out.

    - The Host header must name this machine.
    - Only GET and HEAD may come from anywhere. A POST must come from the page itself (Origin), carry JSON, which no
      form of another page can send, and the token.

    Args:
        app: behind the gate.
        names: of this machine.
        token: opens it for changes.
    """

    def __init__(self, app: ASGIApp, names: HostNames, token: Token) -> None:
        self._app = app
        self._names = names
        self._token = token

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in _HEADERS.items():
                    headers[name] = value
                headers.setdefault("cache-control", "no-store")
            await send(message)

        refusal = self._refusal(scope["method"], Headers(scope=scope))
        answer = self._app if refusal is None else JSONResponse({"error": refusal[1]}, refusal[0])
        await answer(scope, receive, send_with_headers)

    def _refusal(self, method: str, headers: Headers) -> tuple[int, str] | None:
        host = headers.get("host")
        if host not in self._names:
            return 421, (
                "expected a Host that is a name or an address of this machine; "
                "give further names of it with the setting http_names"
            )
        if method in ("GET", "HEAD"):
            return None
        if method != "POST":
            return 405, "expected GET, HEAD or POST"
        origin = headers.get("origin")
        if origin is not None and urlsplit(origin).netloc != host:
            return 403, "expected a request of frazil's own page, found one of another"
        if headers.get("content-type", "").partition(";")[0].strip() != "application/json":
            return 415, "expected Content-Type: application/json"
        if not self._token.opens(headers.get("authorization")):
            return 401, f"expected the token from the file {self._token.file.name} as Authorization: Bearer ..."
        return None
