"""Export: the picks of micrographs as files of other programs, one or a zip of many."""

from __future__ import annotations

import zipfile
from collections.abc import AsyncIterator, Iterator
from itertools import islice
from pathlib import Path
from typing import Annotated, Literal
from urllib.parse import quote

import msgspec
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route

from frazil.documents import Mark, MicrographDocument
from frazil.graded import GradeChoice, graded_micrographs, micrographs_star
from frazil.labels import LabelFormat, labelled_documents
from frazil.outputs import PICK_FILE_ENDINGS, OutputFolder
from frazil.page.answers import NotHereError, WrongRequestError
from frazil.page.session import Session
from frazil.page.worker import BusyError, Worker
from frazil.pick_files import pick_file_text, safe_key

__all__ = ["ExportDesk"]

_EXPORTS_AT_ONCE = 2
_FILES_AT_ONCE = 8
_ZIP_TIME = (1980, 1, 1, 0, 0, 0)
"""Of every file in a zip: the same picks are the same zip."""


class Asked(msgspec.Struct, frozen=True, kw_only=True):
    """What is to be exported."""

    format: LabelFormat | Literal["micrographs"] = "star"
    """One of picks, a file for each micrograph; ``micrographs``: one table of those that were assessed."""
    grade: GradeChoice = "all"
    """Of a table of micrographs: which are in it."""
    paths: Annotated[list[str], msgspec.Meta(max_length=1000)] = []
    """The ledger's names of the micrographs; empty for all."""
    mark: Mark = ""
    """Only micrographs with this mark; all if it is empty."""


class ExportDesk:
    """Gives out pick files. Reading needs no token."""

    def __init__(self, session: Session, worker: Worker) -> None:
        self._session = session
        self._worker = worker
        self._exporting = 0
        self.routes = [Route("/api/export", self._export)]

    async def _export(self, request: Request) -> Response:
        try:
            asked = msgspec.convert(
                {**request.query_params, "paths": request.query_params.getlist("paths")}, Asked, strict=False
            )
        except msgspec.ValidationError as error:
            raise WrongRequestError(f"expected picks to be exported: {error}") from error
        if asked.format == "micrographs":
            return await self._worker.run(lambda: self._micrographs(asked.grade))
        form: LabelFormat = asked.format
        if len(asked.paths) == 1:
            return await self._worker.run(lambda: self._one(asked.paths[0], form))
        if self._exporting >= _EXPORTS_AT_ONCE:
            raise BusyError
        return StreamingResponse(
            self._zip(asked, form), media_type="application/zip", headers=_as_download(f"picks-{form}.zip")
        )

    def _micrographs(self, choice: GradeChoice) -> Response:
        chosen = graded_micrographs(self._session.reader, choice)
        text, _ = micrographs_star((str(one.path), one.record) for one in chosen)
        name = "micrographs.star" if choice == "all" else f"micrographs_{choice}.star"
        return Response(text, media_type="text/plain", headers=_as_download(name))

    def _one(self, path: str, form: LabelFormat) -> Response:
        document = next(labelled_documents(self._session.reader, [path]), None)
        if document is None:
            raise NotHereError("expected a micrograph with a result in the ledger")
        text = _text(document, form)
        if isinstance(text, ValueError):
            raise NotHereError(str(text))
        return Response(text, media_type="text/plain", headers=_as_download(_file(document, form).name))

    def _documents(self, asked: Asked) -> Iterator[MicrographDocument]:
        wanted = dict.fromkeys(asked.paths) if asked.paths else None
        yield from labelled_documents(self._session.reader, wanted, mark=asked.mark)

    async def _zip(self, asked: Asked, form: LabelFormat) -> AsyncIterator[bytes]:
        """A zip, some files at a time: it is never whole in memory, and others are answered meanwhile."""
        self._exporting += 1
        documents = self._documents(asked)
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
