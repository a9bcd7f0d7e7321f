"""Tuning by eye: a micrograph's picks within other limits, the counts of all, and the request to take them."""

from __future__ import annotations

import asyncio
import contextlib
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import msgspec
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route

from frazil.documents import PickColumns
from frazil.errors import SettingsError
from frazil.limits import LimitsPatch, PickLimits
from frazil.page.answers import NotHereError, WrongRequestError, asked_seq, json_answer, read_body
from frazil.page.overlay import LOWEST_SCORE, hidden_peaks, shown
from frazil.page.session import Session
from frazil.page.worker import BusyError, Worker
from frazil.session.retune import request_change
from frazil.session.retune.repick import correct_picks, read_document, read_score_map, recall_result, repick

__all__ = ["TuningDesk"]

_MOST_BODY_BYTES = 4096
_COUNTS_AT_ONCE = 2


class Previewed(PickLimits, frozen=True, kw_only=True):
    """A micrograph's picks within other limits, and those limits."""

    picks: PickColumns
    hidden: PickColumns


class Asked(LimitsPatch, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Limits to apply."""

    choose: bool = False
    """Whether frazil is to choose the threshold, in place of any that was tuned or set.

    Raises:
        SettingsError: a threshold is given as well.
    """

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.choose and self.threshold is not None:
            raise SettingsError("expected a threshold, or that frazil chooses it, found both")


class TuningDesk:
    """Answers what is asked when somebody tunes. Trying needs no token, and the gate lets no change pass without."""

    def __init__(self, session: Session, worker: Worker, ledger: Path) -> None:
        self._session = session
        self._worker = worker
        self._ledger = ledger
        self._counting = 0
        self.routes = [
            Route("/api/preview/{seq:int}", self._preview),
            Route("/api/count/{seq:int}", self._count),
            Route("/api/retune/{seq:int}", self._retune, methods=["POST"]),
        ]

    async def _preview(self, request: Request) -> Response:
        patch = _read_patch(request)

        def pick() -> bytes:
            path, _ = self._micrograph(request)
            reader = self._session.reader
            kept = recall_result(reader, path)
            document = read_document(kept)
            limits = patch.over(document.limits)
            # All peaks once, of which the threshold then takes the better ones.
            low = LimitsPatch(threshold=min(LOWEST_SCORE, limits.threshold)).over(limits)
            peaks = repick(document, read_score_map(kept), low)
            picks = correct_picks(reader, path, document, peaks.select(peaks.reaching(limits.threshold)))
            previewed = Previewed(
                picks=shown(picks), hidden=hidden_peaks(peaks, limits.threshold), **msgspec.structs.asdict(limits)
            )
            return msgspec.json.encode(previewed)

        return json_answer(await self._worker.run(pick))

    async def _count(self, request: Request) -> Response:
        patch = _read_patch(request)
        _, model_sha256 = await self._worker.run(lambda: self._micrograph(request))
        if self._counting >= _COUNTS_AT_ONCE:
            raise BusyError
        return StreamingResponse(self._run_count(patch, model_sha256), media_type="application/x-ndjson")

    async def _run_count(self, patch: LimitsPatch, model_sha256: str) -> AsyncIterator[bytes]:
        """Lines of a process of its own, which ends with whoever reads them."""
        self._counting += 1
        try:
            process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", "frazil.page.counting", str(self._ledger), model_sha256),
                msgspec.json.encode(patch).decode(),
                stdout=asyncio.subprocess.PIPE,
            )
            try:
                if process.stdout is not None:
                    async for line in process.stdout:
                        yield line
            finally:
                with contextlib.suppress(ProcessLookupError):
                    process.kill()
                await process.wait()
        finally:
            self._counting -= 1

    async def _retune(self, request: Request) -> Response:
        asked = await read_body(request, Asked, "limits", most_bytes=_MOST_BODY_BYTES)

        def ask() -> str:
            _, model_sha256 = self._micrograph(request)
            reader = self._session.reader
            return request_change(reader, asked, model_sha256=model_sha256, choose=asked.choose).describe()

        requested = await self._worker.run(ask)
        return json_answer(msgspec.json.encode({"asked": requested}), 202)

    def _micrograph(self, request: Request) -> tuple[str, str]:
        """Ledger's name of a result's micrograph, and the sha256 of the model that picked it."""
        result = self._session.result(asked_seq(request))
        if result is None:
            raise NotHereError("expected the number of a result")
        return result.path, result.document.model.sha256


def _read_patch(request: Request) -> LimitsPatch:
    try:
        return msgspec.convert(dict(request.query_params), LimitsPatch, strict=False)
    except msgspec.ValidationError as error:
        raise WrongRequestError(f"expected limits: {error}") from error
