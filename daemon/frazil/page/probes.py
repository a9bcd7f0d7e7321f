"""What programs ask for: /metrics for Prometheus, /healthz and /readyz for whatever keeps the daemon running.

And /api/state for ``frazil status``.
"""

from __future__ import annotations

from collections.abc import Callable

import msgspec
from prometheus_client import CollectorRegistry
from prometheus_client.exposition import choose_encoder
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from frazil.health.state import DaemonState
from frazil.page.answers import json_answer
from frazil.page.worker import Worker

__all__ = ["Probes"]


class Probes:
    """Answers them; metrics are collected in the worker."""

    def __init__(self, registry: CollectorRegistry, state: Callable[[], DaemonState], worker: Worker) -> None:
        self._registry = registry
        self._state = state
        self._worker = worker
        self.routes = [
            Route("/metrics", self._metrics),
            Route("/healthz", self._healthz),
            Route("/readyz", self._readyz),
            Route("/api/state", self._tell_state),
        ]

    async def _metrics(self, request: Request) -> Response:
        encode, kind = choose_encoder(request.headers.get("accept", ""))
        return Response(await self._worker.run(lambda: encode(self._registry)), headers={"content-type": kind})

    async def _healthz(self, _: Request) -> Response:
        return _verdict(self._state().unwell)

    async def _readyz(self, _: Request) -> Response:
        state = self._state()
        return _verdict(state.unwell or state.unready)

    async def _tell_state(self, _: Request) -> Response:
        return json_answer(msgspec.json.encode(self._state()))


def _verdict(trouble: str) -> Response:
    return PlainTextResponse(f"{trouble}\n", 503) if trouble else PlainTextResponse("ok\n")
