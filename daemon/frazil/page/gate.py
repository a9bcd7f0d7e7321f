"""The gate before every request: who may ask what, and what browsers may do with the answer."""

from __future__ import annotations

import contextlib
import hmac
import ipaddress
import logging
import os
import re
import secrets
import socket
import time
from collections.abc import Iterable
from hashlib import sha256
from pathlib import Path

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from frazil.errors import OutputError, printable
from frazil.health.logs import event

__all__ = ["COOKIE_SECONDS", "EXPORT", "SIGN_IN", "TOKEN_NAME", "Gate", "HostNames", "Token"]

log = logging.getLogger(__name__)

TOKEN_NAME = "frazil-page-token"  # noqa: S105 - a file's name
"""Of the token's file, beside the ledger."""

COOKIE_SECONDS = 30 * 86400
"""For so long a browser that is signed in stays so."""
SIGN_IN = "/api/sign-in"
EXPORT = "/api/export"
_LETTERS_OF_TIME = 12

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


_AUTHORITY = re.compile(
    r"(?P<host>\[(?P<v6>[0-9A-Fa-f:.]{2,45})\]|[A-Za-z0-9_](?:[A-Za-z0-9_.-]{0,252}[A-Za-z0-9_.])?)(?::(?P<port>[0-9]{0,5}))?"
)
"""A Host header: a name or an address, and perhaps a port. Narrower than RFC 3986: what no DNS name has is refused."""
_ORIGIN = re.compile(r"https?://(?P<authority>[^/?#@]+)")
_NAMES_LOGGED = 20
_LETTERS_LOGGED = 100


class HostNames:
    """Names under which browsers may ask for the page.

    A page elsewhere can have its own name resolve to this machine and then read us as its own (DNS rebinding). Its
    requests carry that name, so only ours are answered. An address instead of a name cannot be made up that way.

    Args:
        more: names besides those of this machine.
    """

    def __init__(self, more: Iterable[str]) -> None:
        self._names = {name.rstrip(".").lower() for name in ("localhost", *_own_names(), *more)}
        self._logged: set[str] = set()

    def __contains__(self, host: object) -> bool:
        """Whether a Host header, such as ``titan1:9457``, is one of them."""
        found = _AUTHORITY.fullmatch(host) if isinstance(host, str) else None
        if found is None or int(found["port"] or 0) > _LARGEST_PORT:
            return False
        name = found["v6"] or found["host"].lower()
        return name.removesuffix(".") in self._names or _is_address(name, version=6 if found["v6"] else 4)

    def log_refused(self, host: str | None) -> None:
        """Say in the log, once for each name, who was not answered, and how that is changed."""
        said = printable(host or "")[:_LETTERS_LOGGED]
        if said in self._logged or len(self._logged) >= _NAMES_LOGGED:
            return
        self._logged.add(said)
        found = _AUTHORITY.fullmatch(host or "")
        do = "that is no name"
        if found is not None:
            name = found["host"]
            do = f'if that is a name of this machine, set http_names = ["{name}"], or give --http-names {name}'
        log.warning(
            "refused a request to the page or /metrics under the name %r: %s",
            said,
            do,
            extra=event("name_refused", host=said),
        )


_LARGEST_PORT = 65535
_HOSTS = Path("/etc/hosts")


def _own_names() -> set[str]:
    """Names that this machine has of itself. No name server is asked: that leaves the machine."""
    own = socket.gethostname()
    names = {own, own.partition(".")[0]}
    with contextlib.suppress(OSError):
        for line in _HOSTS.read_text("utf-8", "replace").splitlines():
            _, *listed = line.partition("#")[0].split() or [""]
            if own in listed:
                names.update(listed)
    return names


def _is_address(name: str, *, version: int) -> bool:
    try:
        return ipaddress.ip_address(name).version == version
    except ValueError:
        return False


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
        return scheme.lower() == "bearer" and self.is_it(given)

    def is_it(self, given: str) -> bool:
        """Whether somebody has given it."""
        return hmac.compare_digest(given.strip().encode(), self._secret)

    @property
    def cookie_name(self) -> str:
        """Of the cookie of a browser that is signed in: browsers send the cookies of one port to every other."""
        return f"frazil-{self._sign('name')[:12]}"

    def cookie(self, now: float) -> str:
        """What a browser that is signed in shows from now on, in seconds of Unix time; it does not hold the token."""
        until = str(int(now) + COOKIE_SECONDS)
        return f"{until}.{self._sign(until)}"

    def opens_by_cookie(self, cookies: str, now: float) -> bool:
        """Whether a Cookie header holds a cookie of ours that still counts."""
        for cookie in cookies.split(";"):
            name, _, value = cookie.strip().partition("=")
            until, _, signature = value.partition(".")
            is_time = until.isascii() and until.isdecimal() and len(until) <= _LETTERS_OF_TIME
            if name == self.cookie_name and is_time and now < int(until):
                return hmac.compare_digest(signature.encode(), self._sign(until).encode())
        return False

    def _sign(self, text: str) -> str:
        return hmac.new(self._secret, f"frazil sign-in {text}".encode(), sha256).hexdigest()


def _is_origin(origin: str, host: str) -> bool:
    """Whether an Origin header is that of the page as it was asked for."""
    found = _ORIGIN.fullmatch(origin)
    return found is not None and found["authority"].lower() == host.lower()


class Gate:
    """Middleware: lets in what may come in, and puts our headers on what goes out.

    - The Host header must name this machine, and how long a request is must be said in one way.
    - Only GET and HEAD may come from anywhere. A POST must come from the page itself (Origin), carry JSON, which no
      form of another page can send, and the token, or the cookie of a browser that gave it once. What asks to sign in
      carries the token as JSON; what only reads, and is a POST for its length alone, needs none. Where there is no
      token, nothing can be changed.
    """

    def __init__(self, app: ASGIApp, names: HostNames, token: Token | None) -> None:
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

        refusal = self._refusal(scope["method"], scope["path"], Headers(scope=scope))
        answer: ASGIApp = self._app
        if refusal is not None:
            status, says = refusal
            # What comes behind a request of doubtful length is not read as another one.
            answer = JSONResponse({"error": says}, status, {"connection": "close"} if status == 400 else None)
        await answer(scope, receive, send_with_headers)

    def _refusal(self, method: str, path: str, headers: Headers) -> tuple[int, str] | None:
        if "transfer-encoding" in headers and "content-length" in headers:
            return 400, "expected Content-Length or Transfer-Encoding, found both"
        hosts = headers.getlist("host")
        host = hosts[0] if len(hosts) == 1 else None
        if host is None or host not in self._names:
            self._names.log_refused(host)
            return 421, (
                "expected a Host that is a name or an address of this machine; "
                "give further names of it with the setting http_names"
            )
        if method in ("GET", "HEAD"):
            return None
        if self._token is None:
            return 405, "expected GET or HEAD: nothing can be changed here"
        if method != "POST":
            return 405, "expected GET, HEAD or POST"
        if not all(_is_origin(origin, host) for origin in headers.getlist("origin")):
            return 403, "expected a request of frazil's own page, found one of another"
        if headers.get("content-type", "").partition(";")[0].strip() != "application/json":
            return 415, "expected Content-Type: application/json"
        # A browser names the page of every POST. One that comes with a cookie and names none is of no browser.
        by_cookie = "origin" in headers and self._token.opens_by_cookie(headers.get("cookie", ""), time.time())
        if path in (SIGN_IN, EXPORT) or by_cookie or self._token.opens(headers.get("authorization")):
            return None
        return 401, (
            f"expected the token from the file {self._token.file.name}: sign in on the page, "
            "or give it as Authorization: Bearer ..."
        )
