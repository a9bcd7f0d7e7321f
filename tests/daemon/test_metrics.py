"""Metrics: named by convention, and each in the docs."""

from __future__ import annotations

import re
from pathlib import Path

import prometheus_client
from prometheus_client.metrics import MetricWrapperBase

from frazil.errors import MICROGRAPH_REASONS, MODEL_REASONS
from frazil.health.metrics import STAGES, Metrics


def make() -> Metrics:
    return Metrics(prometheus_client.CollectorRegistry())


def names(metrics: Metrics) -> list[str]:
    return sorted(family.name + ("_total" if family.type == "counter" else "") for family in metrics.registry.collect())


def test_names_follow_prometheus_conventions() -> None:
    for name in names(make()):
        assert name.startswith("frazil_")
        assert re.fullmatch(r"[a-z_]+", name)
        assert not re.search(r"_(ms|milliseconds|minutes|angstroms?|percent)$", name)


def documented(repository: Path) -> dict[str, tuple[str, list[str]]]:
    """Type and labels of each metric in the docs' tables."""
    text = (repository / "docs" / "reference" / "metrics.md").read_text("utf-8")
    rows = re.findall(r"^\| `(\w+)` \| (\w+) \|([^|]*)\|", text, re.MULTILINE)
    assert len(rows) == len({name for name, _, _ in rows})
    return {name: (kind, re.findall(r"\w+", labels)) for name, kind, labels in rows}


def test_the_metrics_in_the_docs_are_those_there_are_with_their_types_and_labels(repository: Path) -> None:
    exported = {
        metric._name + ("_total" if metric._type == "counter" else ""): (metric._type, list(metric._labelnames))
        for metric in make().registry._collector_to_names
        if isinstance(metric, MetricWrapperBase)
    }
    assert sorted(exported) == names(make())
    assert documented(repository) == exported


def test_every_outcome_is_there_from_the_start() -> None:
    registry = make().registry
    for reason in MICROGRAPH_REASONS:
        assert registry.get_sample_value("frazil_micrographs_total", {"outcome": "failed", "reason": reason}) == 0
    for reason in MODEL_REASONS:
        assert registry.get_sample_value("frazil_model_changes_total", {"event": "refused", "reason": reason}) == 0
    for stage in STAGES:
        assert registry.get_sample_value("frazil_stage_duration_seconds_count", {"stage": stage}) == 0
