"""The page's own files, as they are sent to browsers. A request names one of them or none: no name becomes a path."""

from __future__ import annotations

from hashlib import sha256
from importlib.resources import files

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

__all__ = ["file_routes"]

_PAGES = {
    "/": "overview.html",
    "/micrographs": "micrographs.html",
    "/micrograph": "micrograph.html",
    "/sessions": "sessions.html",
}
_TYPES = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
}


def file_routes() -> list[Route]:
    """A route for each page, and one below ``/static/`` for each file."""
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
