"""What programs ask for: /metrics for Prometheus, /healthz and /readyz for whatever keeps the daemon running."""

from __future__ import annotations

from collections.abc import Callable

from prometheus_client import CollectorRegistry
from prometheus_client.exposition import choose_encoder
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from frazil.page.worker import Worker

__all__ = ["Probes", "read_samples"]


class Probes:
    """Answers them.

    Args:
        registry: of the metrics.
        unwell: why the daemon is not alive, in a few words; empty where it is.
        unready: why it is not ready to pick; likewise.
        worker: collects the metrics.
    """

    def __init__(
        self, registry: CollectorRegistry, unwell: Callable[[], str], unready: Callable[[], str], worker: Worker
    ) -> None:
        self._registry = registry
        self._unwell = unwell
        self._unready = unready
        self._worker = worker
        self.routes = [
            Route("/metrics", self._metrics),
            Route("/healthz", self._healthz),
            Route("/readyz", self._readyz),
        ]

    async def _metrics(self, request: Request) -> Response:
        encode, kind = choose_encoder(request.headers.get("accept", ""))
        return Response(await self._worker.run(lambda: encode(self._registry)), headers={"content-type": kind})

    async def _healthz(self, _: Request) -> Response:
        return _verdict(self._unwell())

    async def _readyz(self, _: Request) -> Response:
        return _verdict(self._unwell() or self._unready())


def read_samples(registry: CollectorRegistry) -> dict[str, float]:
    """The metrics now, as ``name{label=value}``."""
    samples = {}
    for family in registry.collect():
        for sample in family.samples:
            labels = ",".join(f"{name}={value}" for name, value in sorted(sample.labels.items()))
            samples[f"{sample.name}{{{labels}}}" if labels else sample.name] = sample.value
    return samples


def _verdict(trouble: str) -> Response:
    return PlainTextResponse(f"{trouble}\n", 503) if trouble else PlainTextResponse("ok\n")
