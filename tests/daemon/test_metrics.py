"""Metrics: named by convention, and each in the docs."""

from __future__ import annotations

import re
from pathlib import Path

import prometheus_client

from frazil.service.metrics import Metrics


def make() -> Metrics:
    return Metrics(prometheus_client.CollectorRegistry())


def names(metrics: Metrics) -> list[str]:
    return sorted(family.name + ("_total" if family.type == "counter" else "") for family in metrics.registry.collect())


def test_names_follow_prometheus_conventions() -> None:
    for name in names(make()):
        assert name.startswith("frazil_")
        assert re.fullmatch(r"[a-z_]+", name)
        assert not re.search(r"_(ms|milliseconds|minutes|angstroms?|percent)$", name)


def test_every_metric_is_documented(repository: Path) -> None:
    documented = (repository / "docs" / "reference" / "metrics.md").read_text("utf-8")
    missing = [name for name in names(make()) if f"`{name}`" not in documented]
    assert missing == []
