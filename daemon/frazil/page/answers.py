"""How requests are answered that cannot be granted: a status, and one line of JSON that says why."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TypeVar

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from frazil.errors import FrazilError, RetuneError, SettingsError
from frazil.page.live import CrowdedError
from frazil.page.query import Query
from frazil.page.worker import BusyError

__all__ = [
    "REFUSALS",
    "NotHereError",
    "WrongRequestError",
    "asked_number",
    "asked_query",
    "asked_seq",
    "json_answer",
    "read_body",
]

_MOST_WORDS = 300


T = TypeVar("T")


class NotHereError(FrazilError):
    """There is no such thing, or no longer."""


class WrongRequestError(FrazilError):
    """A request asks what cannot be asked."""


def json_answer(body: bytes, status: int = 200) -> Response:
    """JSON that is already encoded."""
    return Response(body, status, media_type="application/json")


def asked_seq(request: Request) -> int:
    """The number of a result in the path of a request; one that SQLite can hold."""
    seq: int = request.path_params["seq"]
    return min(seq, 2**63 - 1)


def asked_number(request: Request, name: str, default: int) -> int:
    """A whole number from 0 in the query of a request.

    Raises:
        WrongRequestError: it is none, or very large.
    """
    text = request.query_params.get(name) or str(default)
    if not (text.isascii() and text.isdecimal() and len(text) <= 9):
        raise WrongRequestError(f"expected a number as {name}, found {text[:20]!r}")
    return int(text)


def asked_query(request: Request) -> Query:
    """Which micrographs are meant, and in which order, as the address of a list says.

    Raises:
        WrongRequestError: it names no list.
    """
    asked = {name: text for name, text in request.query_params.items() if name in Query.__struct_fields__ and text}
    states = [state for state in asked.get("states", "").split(",") if state]
    try:
        query = msgspec.convert({**asked, "states": states}, Query)
    except msgspec.ValidationError as error:
        raise WrongRequestError(f"expected which micrographs, and in which order: {error}") from error
    if len(query.search) > _MOST_WORDS or len(query.folder) > _MOST_WORDS:
        raise WrongRequestError(f"expected search and folder of at most {_MOST_WORDS} letters")
    return query


async def read_body(request: Request, kind: type[T], what: str, *, most_bytes: int) -> T:
    """What a request brings, decoded from JSON.

    Args:
        request: with a body.
        kind: type of what it brings.
        what: it is, in a few words.
        most_bytes: beyond which it is refused unread.

    Raises:
        WrongRequestError: it is larger, or something else.
    """
    body = bytearray()
    async for piece in request.stream():
        body += piece
        if len(body) > most_bytes:
            raise WrongRequestError(f"expected at most {most_bytes} bytes")
    try:
        return msgspec.json.decode(body, type=kind)
    except msgspec.MsgspecError as error:
        raise WrongRequestError(f"expected {what} as JSON: {error}") from error


def _refusal(
    status: int, says: str = "", retry_seconds: int = 0
) -> Callable[[Request, Exception], Awaitable[Response]]:
    """What answers an exception: a status, and its own words or others."""

    async def refuse(_: Request, error: Exception) -> Response:
        answer = json_answer(msgspec.json.encode({"error": says or str(error)}), status)
        if retry_seconds:
            answer.headers["retry-after"] = str(retry_seconds)
        return answer

    return refuse


REFUSALS = {
    NotHereError: _refusal(404),
    WrongRequestError: _refusal(400),
    SettingsError: _refusal(400),
    RetuneError: _refusal(409),
    BusyError: _refusal(503, "too much is asked at once; try again in a moment", 2),
    CrowdedError: _refusal(503, "as many browsers look as may; try again later", 30),
    FrazilError: _refusal(503, retry_seconds=5),
}
"""What answers which exception."""
