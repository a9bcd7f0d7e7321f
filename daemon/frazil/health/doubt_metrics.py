"""What the daemon shows to Prometheus of what speaks against the settings."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Gauge

__all__ = ["SHOWN_DOUBTS", "DoubtMetrics"]

SHOWN_DOUBTS = ("blank", "contrast", "diameter")


class DoubtMetrics:
    """What the daemon shows to Prometheus of doubts."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.doubt = Gauge(
            "frazil_doubt",
            "1 while the micrographs speak against the settings: much of the last one holds no data (blank), particles "
            "look the other way round (contrast), or too few would fit and nothing was picked (diameter).",
            ["about"],
            registry=registry,
        )
        for about in SHOWN_DOUBTS:
            self.doubt.labels(about=about).set(0)
