"""Micrographs: the list of all, and each one's record, picks, picture and score map.

Micrographs are asked for by the ledger's name of them, or by the number of their result, and looked up in the ledger.
What is then opened is the path in the ledger's document, and never what a request says.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from frazil.page.answers import NotHereError, WrongRequestError, asked_number, asked_query, asked_seq, json_answer
from frazil.page.listing import Listing
from frazil.page.overlay import overlay_of
from frazil.page.pictures import Picture, PictureError, Pictures, draw_score_map
from frazil.page.session import Result, Session
from frazil.page.tiles import COARSEST_LEVEL, Tiles
from frazil.page.worker import BusyError, Worker
from frazil.picking import Micrograph
from frazil.session.outbox.thumbnails import Thumbnails

__all__ = ["Results"]

_ROWS = 100
_MOST_NEIGHBOURS = 50
_OVERLAYS_KEPT = 16
_MOST_LOWPASS_ANGSTROM = 500
_TILES_WAITING = 400
_PICTURES_WAITING = 32
"""Different ones; any number of browsers may wait for the same."""
_FOR_A_DAY = "private, max-age=86400, immutable"


class Results:
    """Answers what is asked of micrographs."""

    def __init__(
        self,
        session: Session,
        worker: Worker,
        read: Callable[[Path], Micrograph],
        listing: Listing,
        ledger: Path,
    ) -> None:
        self._session = session
        self._worker = worker
        self._listing = listing
        self._overlays: dict[tuple[int, bool], bytes] = {}
        self._overlays_of: int | None = None
        self._thumbnails = Thumbnails(ledger)
        self._pictures = Pictures(read, Thumbnails(ledger))
        self._tiles = Tiles(read)
        self._cutter = Worker("frazil-page-tiles", _TILES_WAITING)
        self._draughtsman = Worker("frazil-page-pictures", _PICTURES_WAITING)
        self._being_made: dict[int, asyncio.Task[Picture]] = {}
        self.routes = [
            Route("/api/micrographs", self._list),
            Route("/api/around", self._around),
            Route("/api/micrograph", self._record),
            Route("/api/overlay/{seq:int}", self._overlay),
            Route("/api/picture/{seq:int}", self._picture),
            Route("/api/tile/{seq:int}/{level:int}/{row:int}/{column:int}", self._tile),
            Route("/api/value/{seq:int}", self._value),
            Route("/api/score-map/{seq:int}", self._score_map),
        ]

    def close(self) -> None:
        """End the threads that make pictures."""
        self._draughtsman.close()
        self._cutter.close()
        self._thumbnails.close()

    async def _list(self, request: Request) -> Response:
        query, offset = asked_query(request), asked_number(request, "offset", 0)
        rows = await self._worker.run(lambda: self._listing.rows(query, offset, _ROWS))
        return json_answer(msgspec.json.encode(rows))

    async def _around(self, request: Request) -> Response:
        query, path = asked_query(request), request.query_params.get("path", "")
        each = min(_MOST_NEIGHBOURS, asked_number(request, "each", 10))
        around = await self._worker.run(lambda: self._listing.around(query, path, each))
        return json_answer(msgspec.json.encode(around))

    async def _record(self, request: Request) -> Response:
        path = request.query_params.get("path", "")
        record = await self._worker.run(lambda: self._session.reader.micrograph(path))
        if record is None:
            raise NotHereError("expected a micrograph that the ledger knows")
        return json_answer(msgspec.json.encode(record))

    async def _overlay(self, request: Request) -> Response:
        def draw(seq: int) -> bytes:
            # A crowd that looks at the newest micrograph has its candidates found once.
            key, changes = (seq, request.query_params.get("hidden") == "1"), self._session.reader.changes()
            if self._overlays_of != changes or len(self._overlays) > _OVERLAYS_KEPT:
                self._overlays.clear()
                self._overlays_of = changes
            if key not in self._overlays:
                self._overlays[key] = find(*key)
            return self._overlays[key]

        def find(seq: int, with_hidden: bool) -> bytes:
            result, score_map = self._result(seq, ""), self._session.score_map(seq)
            says = self._session.describe_threshold(result.document)
            deleted = self._session.deleted_picks(result)
            overlay = overlay_of(result, score_map, with_hidden=with_hidden, threshold_says=says, deleted_picks=deleted)
            return msgspec.json.encode(overlay)

        return json_answer(await self._worker.run(lambda: draw(asked_seq(request))))

    async def _picture(self, request: Request) -> Response:
        size = request.query_params.get("size", "large")
        if size not in ("large", "small"):
            raise WrongRequestError(f"expected large or small as size, found {size[:20]!r}")
        seq, epoch = asked_seq(request), request.query_params.get("epoch", "")
        if size == "small" and (thumbnail := await self._worker.run(lambda: self._thumbnail(seq, epoch))):
            return Response(thumbnail, media_type="image/jpeg", headers={"cache-control": _FOR_A_DAY})
        making = self._being_made.get(seq)
        if making is None:
            result = await self._worker.run(lambda: self._result(seq, epoch))
            making = self._being_made.get(seq) or self._begin(result)
        try:
            # Whoever leaves must not take it from the others who wait.
            picture = await asyncio.shield(making)
        except PictureError as error:
            raise NotHereError(str(error)) from error
        body = picture.large if size == "large" else picture.small
        return Response(body, media_type="image/jpeg", headers={"cache-control": _FOR_A_DAY})

    def _begin(self, result: Result) -> asyncio.Task[Picture]:
        if len(self._being_made) >= _PICTURES_WAITING:
            raise BusyError
        making = asyncio.create_task(self._draughtsman.run(lambda: self._pictures.of(result)))
        self._being_made[result.seq] = making
        making.add_done_callback(lambda done: self._finish(result.seq, done))
        return making

    def _finish(self, seq: int, making: asyncio.Task[Picture]) -> None:
        del self._being_made[seq]
        if not making.cancelled():
            making.exception()  # taken note of, though nobody may wait for it any more

    def _thumbnail(self, seq: int, epoch: str) -> bytes | None:
        return self._thumbnails.find(self._result(seq, epoch).path)

    async def _tile(self, request: Request) -> Response:
        level, row, column = (int(request.path_params[name]) for name in ("level", "row", "column"))
        lowpass = asked_number(request, "lowpass", 0)
        if level > COARSEST_LEVEL or lowpass > _MOST_LOWPASS_ANGSTROM:
            raise WrongRequestError(
                f"expected a level up to {COARSEST_LEVEL} and a lowpass up to {_MOST_LOWPASS_ANGSTROM} (in Å)"
            )
        seq, epoch = asked_seq(request), request.query_params.get("epoch", "")
        result = await self._worker.run(lambda: self._result(seq, epoch))
        try:
            tile = await self._cutter.run(lambda: self._tiles.tile(result, level, row, column, lowpass))
        except PictureError as error:
            raise NotHereError(str(error)) from error
        return Response(tile, media_type="image/jpeg", headers={"cache-control": _FOR_A_DAY})

    async def _value(self, request: Request) -> Response:
        seq, y, x = asked_seq(request), asked_number(request, "y", 0), asked_number(request, "x", 0)
        result = await self._worker.run(lambda: self._result(seq, request.query_params.get("epoch", "")))
        try:
            value = await self._cutter.run(lambda: self._tiles.value(result, y, x))
        except PictureError as error:
            raise NotHereError(str(error)) from error
        return json_answer(msgspec.json.encode({"y": y, "x": x, "value": value}))

    async def _score_map(self, request: Request) -> Response:
        def draw(seq: int) -> bytes | None:
            self._result(seq, request.query_params.get("epoch", ""))
            score_map = self._session.score_map(seq)
            return None if score_map is None or score_map.scores.size == 0 else draw_score_map(score_map)

        picture = await self._worker.run(lambda: draw(asked_seq(request)))
        if picture is None:
            raise NotHereError("expected a result whose score map was kept")
        return Response(picture, media_type="image/png", headers={"cache-control": _FOR_A_DAY})

    def _result(self, seq: int, epoch: str) -> Result:
        """A result by its number; one of an earlier ledger, which a browser may still ask for, is not here."""
        result = self._session.result(seq) if epoch in ("", self._session.epoch) else None
        if result is None:
            raise NotHereError(f"expected the number of a result, found {seq}")
        return result
