"""How requests are answered that cannot be granted: a status, and one line of JSON that says why."""

from __future__ import annotations

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from frazil.errors import FrazilError, RetuneError, SettingsError
from frazil.page.live import CrowdedError
from frazil.page.worker import BusyError

__all__ = ["REFUSALS", "NotHereError", "WrongRequestError", "json_answer"]


class NotHereError(FrazilError):
    """There is no such thing, or no longer."""


class WrongRequestError(FrazilError):
    """A request asks what cannot be asked."""


def json_answer(body: bytes, status: int = 200) -> Response:
    """JSON that is already encoded."""
    return Response(body, status, media_type="application/json")


def _refuse(status: int, says: str, retry_seconds: int = 0) -> Response:
    answer = json_answer(msgspec.json.encode({"error": says}), status)
    if retry_seconds:
        answer.headers["retry-after"] = str(retry_seconds)
    return answer


async def _not_here(_: Request, error: Exception) -> Response:
    return _refuse(404, str(error))


async def _wrong(_: Request, error: Exception) -> Response:
    return _refuse(400, str(error))


async def _conflict(_: Request, error: Exception) -> Response:
    return _refuse(409, str(error))


async def _busy(_: Request, error: Exception) -> Response:  # noqa: ARG001
    return _refuse(503, "too much is asked at once; try again in a moment", 2)


async def _crowded(_: Request, error: Exception) -> Response:  # noqa: ARG001
    return _refuse(503, "as many browsers look as may; try again later", 30)


async def _unavailable(_: Request, error: Exception) -> Response:
    return _refuse(503, str(error), 5)


REFUSALS = {
    NotHereError: _not_here,
    WrongRequestError: _wrong,
    SettingsError: _wrong,
    RetuneError: _conflict,
    BusyError: _busy,
    CrowdedError: _crowded,
    FrazilError: _unavailable,
}
"""What answers which exception."""
