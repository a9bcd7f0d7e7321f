"""What the daemon shows to Prometheus of drift."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Gauge

__all__ = ["DriftMetrics"]


class DriftMetrics:
    """Whether picks and scores have drifted, from what, and how far."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.drifting = Gauge(
            "frazil_drift",
            "1 while picks per micrograph, or their mean score, have drifted from the session's baseline.",
            ["quantity", "direction"],
            registry=registry,
        )
        self.few = Gauge(
            "frazil_few_picks",
            "1 while, before there is a baseline, the last micrographs have hardly any picks beside those before.",
            registry=registry,
        )
        self.evidence = Gauge(
            "frazil_drift_evidence_ratio",
            "What has added up against the baseline, as a share of that at which drift begins.",
            ["quantity", "direction"],
            registry=registry,
        )
        self.baseline_micrographs = Gauge(
            "frazil_baseline_micrographs",
            "Micrographs in the session's baseline, which grows until drift can be told.",
            ["quantity"],
            registry=registry,
        )
        self.baseline_picks = Gauge(
            "frazil_baseline_picks",
            "Median picks of the baseline's micrographs; NaN until it is complete.",
            registry=registry,
        )
        self.baseline_score = Gauge(
            "frazil_baseline_score",
            "Median mean score of the baseline's micrographs; NaN until it is complete.",
            registry=registry,
        )
