"""Corrections: edits of picks are taken, to be granted by the daemon, and listed."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from frazil.page.answers import NotHereError, json_answer, read_body
from frazil.page.session import Session
from frazil.page.worker import Worker
from frazil.session.correct import MOST_NAME_LETTERS, Edit, read_edit
from frazil.session.correct.applying import undone_by
from frazil.session.outbox.ledger import StoredEdit, leave_edits, whole_edits

__all__ = ["CorrectionDesk"]

_MOST_BODY_BYTES = 4 * 2**20
_MOST_EDITS = 20_000
_ID_LETTERS_SAID = 64


class Given(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Edits as a request brings them. Each is decoded for itself, so that one that is none holds up no other."""

    by: Annotated[str, msgspec.Meta(max_length=MOST_NAME_LETTERS)] = ""
    edits: Annotated[list[msgspec.Raw], msgspec.Meta(max_length=_MOST_EDITS)]


class Refused(msgspec.Struct, frozen=True, kw_only=True):
    """An edit that is not taken."""

    id: str
    why: str


class Taken(msgspec.Struct, frozen=True, kw_only=True):
    """What became of the edits of a request."""

    accepted: int
    merged: list[str]
    """Micrographs with a newer result than was seen: the edits hold for that one."""
    refused: list[Refused]


class _Id(msgspec.Struct):
    id: str = ""


class CorrectionDesk:
    """Takes and lists edits. The gate lets none come without the token."""

    def __init__(self, session: Session, worker: Worker, ledger: Path) -> None:
        self._session = session
        self._worker = worker
        self._ledger = ledger
        self.routes = [
            Route("/api/edits", self._list, methods=["GET"]),
            Route("/api/edits", self._take, methods=["POST"]),
        ]

    async def _take(self, request: Request) -> Response:
        given = await read_body(request, Given, "edits", most_bytes=_MOST_BODY_BYTES)

        def take() -> bytes:
            edits: list[Edit] = []
            refused: list[Refused] = []
            for raw in given.edits:
                try:
                    edits.append(read_edit(raw))
                except ValueError as error:
                    refused.append(Refused(id=_id_of(raw), why=str(error)))
            left = leave_edits(self._ledger, edits, by=given.by)
            refused += [Refused(id=name, why=why) for name, why in left.refused]
            return msgspec.json.encode(Taken(accepted=left.accepted, merged=left.merged, refused=refused))

        return json_answer(await self._worker.run(take), 202)

    async def _list(self, request: Request) -> Response:
        path = request.query_params.get("path", "")

        def read() -> bytes:
            if self._session.reader.micrograph(path) is None:
                raise NotHereError("expected a micrograph that the ledger knows")
            return _describe(self._session.reader.edits(path))

        return json_answer(await self._worker.run(read))


def _describe(stored: list[StoredEdit]) -> bytes:
    edits = whole_edits(stored)
    undone = undone_by(edits)
    described = [{**msgspec.to_builtins(edit), "undone_by": undone.get(edit.id, "")} for edit in edits]
    return msgspec.json.encode({"edits": described, "waiting": sum(one.seq is None for one in stored)})


def _id_of(raw: msgspec.Raw) -> str:
    try:
        return msgspec.json.decode(raw, type=_Id).id[:_ID_LETTERS_SAID]
    except msgspec.MsgspecError:
        return ""
