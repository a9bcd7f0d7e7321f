"""What is sent to browsers as it lies in ``browser/``: pages in their frame, and the files that they load."""

from __future__ import annotations

import re
from collections.abc import Mapping
from hashlib import sha256
from importlib.resources import files
from string import Template

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

__all__ = ["file_routes"]

_TYPES = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
}


def file_routes(pages: Mapping[str, str], frame: str = "frame.html") -> list[Route]:
    """A route for each page, and one below ``/static/`` for each file: no name in a request becomes a path.

    Args:
        pages: the file of each, by its path.
        frame: file that stands around each page.
    """
    folder = files("frazil.page") / "browser"
    contents = {entry.name: entry.read_bytes() for entry in folder.iterdir() if entry.is_file()}
    around = contents[frame].decode()
    framed = [_route(path, name, _framed(around, path, name, contents[name].decode())) for path, name in pages.items()]
    return [*framed, *(_route(f"/static/{name}", name, content) for name, content in contents.items())]


def _framed(frame: str, path: str, name: str, content: str) -> bytes:
    """A page: what is its own, in the frame of all, whose link to it is marked."""
    stem = name.removesuffix(".html")
    frame = re.sub(rf'(<a href="{re.escape(path)}"[^>]*)>', r'\1 aria-current="page">', frame)
    page = Template(frame).substitute(title=stem.capitalize(), name=stem, script=f"{stem}.js", content=content)
    return page.encode()


def _route(path: str, name: str, content: bytes) -> Route:
    kind = _TYPES[name[name.rindex(".") :]]
    tag = f'"{sha256(content).hexdigest()[:16]}"'
    headers = {"etag": tag, "cache-control": "no-cache"}

    async def answer(request: Request) -> Response:
        if request.headers.get("if-none-match") == tag:
            return Response(status_code=304, headers=headers)
        return Response(content, media_type=kind, headers=headers)

    return Route(path, answer, name=path)
