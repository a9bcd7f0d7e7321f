"""Export: the picks of micrographs as files of other programs, one or a zip of many."""

from __future__ import annotations

import zipfile
from collections.abc import AsyncIterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Annotated, Literal
from urllib.parse import quote

import msgspec
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route

from frazil.documents import MicrographDocument
from frazil.graded import graded_micrographs, micrographs_star
from frazil.labels import LabelFormat, labelled_documents
from frazil.outputs import PICK_FILE_ENDINGS, OutputFolder
from frazil.page.answers import NotHereError, WrongRequestError, asked_query, read_body
from frazil.page.gate import EXPORT
from frazil.page.listing import Listing
from frazil.page.query import Query
from frazil.page.session import Session
from frazil.page.worker import BusyError, Worker
from frazil.pick_files import pick_file_text, safe_key

__all__ = ["ExportDesk"]

_EXPORTS_AT_ONCE = 2
_FILES_AT_ONCE = 8
_ZIP_TIME = (1980, 1, 1, 0, 0, 0)
"""Of every file in a zip: the same picks are the same zip."""


_MOST_BODY_BYTES = 16 * 2**20


class Asked(msgspec.Struct, frozen=True, kw_only=True):
    """What is to be exported."""

    format: LabelFormat | Literal["micrographs"] = "star"
    """One of picks, a file for each micrograph; ``micrographs``: one table of those that were assessed."""
    paths: Annotated[list[str], msgspec.Meta(max_length=200_000)] = []
    """The ledger's names of the micrographs; empty for all of a list."""


class ExportDesk:
    """Gives out pick files. Reading needs no token; a POST takes more names than an address can hold."""

    def __init__(self, session: Session, worker: Worker, listing: Listing) -> None:
        self._session = session
        self._worker = worker
        self._listing = listing
        self._exporting = 0
        self.routes = [Route(EXPORT, self._export, methods=["GET"]), Route(EXPORT, self._export_many, methods=["POST"])]

    async def _export(self, request: Request) -> Response:
        names = request.query_params.getlist("paths")
        try:
            asked = msgspec.convert({**request.query_params, "paths": names}, Asked, strict=False)
        except msgspec.ValidationError as error:
            raise WrongRequestError(f"expected picks to be exported: {error}") from error
        if len(names) == 1 and asked.format != "micrographs":
            form: LabelFormat = asked.format
            return await self._worker.run(lambda: self._one(names[0], form))
        query = asked_query(request)
        if names or query == Query():
            return await self._answer(asked, names or None)
        while query.needs_numbers and not self._listing.complete:  # in portions, between which others are answered
            await self._worker.run(self._listing.advance)
        paths = await self._worker.run(lambda: self._listing.paths(query))
        return await self._answer(asked, paths, query.grade)

    async def _export_many(self, request: Request) -> Response:
        asked = await read_body(request, Asked, "micrographs whose picks are exported", most_bytes=_MOST_BODY_BYTES)
        return await self._answer(asked, asked.paths)

    async def _answer(self, asked: Asked, paths: Sequence[str] | None, grade: str = "") -> Response:
        if asked.format == "micrographs":
            return await self._worker.run(lambda: self._micrographs(paths, grade))
        if self._exporting >= _EXPORTS_AT_ONCE:
            raise BusyError
        return StreamingResponse(
            self._zip(asked.format, paths),
            media_type="application/zip",
            headers=_as_download(f"picks-{asked.format}.zip"),
        )

    def _micrographs(self, paths: Sequence[str] | None, grade: str) -> Response:
        wanted = None if paths is None else set(paths)
        chosen = (
            one for one in graded_micrographs(self._session.reader) if wanted is None or one.record.path in wanted
        )
        text, _ = micrographs_star((str(one.path), one.record) for one in chosen)
        name = f"micrographs_{grade}.star" if grade else "micrographs.star"
        return Response(text, media_type="text/plain", headers=_as_download(name))

    def _one(self, path: str, form: LabelFormat) -> Response:
        document = next(labelled_documents(self._session.reader, [path]), None)
        if document is None:
            raise NotHereError("expected a micrograph with a result in the ledger")
        text = _text(document, form)
        if isinstance(text, ValueError):
            raise NotHereError(str(text))
        return Response(text, media_type="text/plain", headers=_as_download(_file(document, form).name))

    async def _zip(self, form: LabelFormat, paths: Sequence[str] | None) -> AsyncIterator[bytes]:
        """A zip, some files at a time: it is never whole in memory, and others are answered meanwhile."""
        self._exporting += 1
        documents = labelled_documents(self._session.reader, None if paths is None else dict.fromkeys(paths))
        written = _Written()
        failed: list[str] = []

        def add_some(bundle: zipfile.ZipFile) -> int:
            some = list(islice(documents, _FILES_AT_ONCE))
            for document in some:
                text = _text(document, form)
                if isinstance(text, ValueError):
                    failed.append(f"{document.path}: {text}\n")
                else:
                    bundle.writestr(_entry(str(_file(document, form))), text)
            return len(some)

        try:
            with zipfile.ZipFile(written, "w") as bundle:  # type: ignore[call-overload]
                while await self._worker.run(lambda: add_some(bundle)):
                    yield written.take()
                if failed:
                    bundle.writestr(_entry("left-out.txt"), "".join(failed))
            yield written.take()
        finally:
            self._exporting -= 1


class _Written:
    """A file that goes only forward: what is written is taken from it piece by piece."""

    def __init__(self) -> None:
        self._pieces = bytearray()

    def write(self, piece: bytes) -> int:
        self._pieces += piece
        return len(piece)

    def flush(self) -> None:
        """Nothing is held back."""

    def take(self) -> bytes:
        pieces, self._pieces = bytes(self._pieces), bytearray()
        return pieces


def _entry(name: str) -> zipfile.ZipInfo:
    entry = zipfile.ZipInfo(name, _ZIP_TIME)
    entry.compress_type = zipfile.ZIP_DEFLATED
    entry.external_attr = 0o644 << 16
    return entry


def _text(document: MicrographDocument, form: LabelFormat) -> str | ValueError:
    try:
        return pick_file_text(document, form)
    except ValueError as error:  # its name cannot stand in such a file
        return error


def _file(document: MicrographDocument, form: LabelFormat) -> Path:
    return OutputFolder(Path(), PICK_FILE_ENDINGS[form]).file_of(safe_key(document))


def _as_download(name: str) -> dict[str, str]:
    plain = "".join(c if c.isascii() and c.isprintable() and c not in '"\\' else "_" for c in name)
    return {"content-disposition": f"attachment; filename=\"{plain}\"; filename*=UTF-8''{quote(name, safe='')}"}
