"""Signing in: a browser gives the token once, and has a cookie from then on that no script can read."""

from __future__ import annotations

import socket
import time

import msgspec
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from frazil.page.answers import read_body
from frazil.page.gate import COOKIE_SECONDS, SIGN_IN, Token

__all__ = ["SignIn"]

_MOST_BODY_BYTES = 4096


class _Given(msgspec.Struct, forbid_unknown_fields=True):
    """What a browser gives to sign in."""

    token: str


class SignIn:
    """Answers who signs in and out. The gate has seen to it that a POST comes from the page itself.

    Args:
        token: that is asked for.
    """

    def __init__(self, token: Token) -> None:
        self._token = token
        self.routes = [
            Route(SIGN_IN, self._tell),
            Route(SIGN_IN, self._sign_in, methods=["POST"]),
            Route("/api/sign-out", self._sign_out, methods=["POST"]),
        ]

    async def _tell(self, request: Request) -> Response:
        signed_in = self._token.opens_by_cookie(request.headers.get("cookie", ""), time.time())
        where = {"token_file": str(self._token.file.absolute()), "host": socket.gethostname()}
        return JSONResponse({"signed_in": signed_in, **where})

    async def _sign_in(self, request: Request) -> Response:
        given = await read_body(request, _Given, "the token", most_bytes=_MOST_BODY_BYTES)
        if not self._token.is_it(given.token):
            return JSONResponse({"error": f"that is not the token in {self._token.file.name}"}, 401)
        answer = JSONResponse({"signed_in": True})
        answer.set_cookie(
            self._token.cookie_name,
            self._token.cookie(time.time()),
            max_age=COOKIE_SECONDS,
            httponly=True,
            samesite="strict",
        )
        return answer

    async def _sign_out(self, _: Request) -> Response:
        answer = JSONResponse({"signed_in": False})
        answer.delete_cookie(self._token.cookie_name, httponly=True, samesite="strict")
        return answer
