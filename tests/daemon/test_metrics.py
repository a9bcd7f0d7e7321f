"""Metrics: served, named by convention, and each in the docs."""

from __future__ import annotations

import re
import urllib.request
from pathlib import Path

import prometheus_client
import pytest
from prometheus_client.metrics import MetricWrapperBase

from frazil.errors import MICROGRAPH_REASONS, MODEL_REASONS, AddressError
from frazil.service.metrics import STAGES, Metrics, MetricsServer


def make() -> Metrics:
    return Metrics(prometheus_client.CollectorRegistry())


def names(metrics: Metrics) -> list[str]:
    return sorted(family.name + ("_total" if family.type == "counter" else "") for family in metrics.registry.collect())


def test_metrics_are_served_on_a_free_port_that_is_said() -> None:
    metrics = make()
    metrics.watch_queue("read", lambda: 3)
    metrics.watch_ledger(lambda: 42)
    server = MetricsServer("127.0.0.1:0", metrics.registry)
    try:
        text = urllib.request.urlopen(server.url, timeout=5).read().decode()
    finally:
        server.close()
    assert 'frazil_queue_depth{queue="read"} 3.0' in text
    assert "frazil_ledger_sequence 42.0" in text
    assert 'frazil_micrographs_total{outcome="picked",reason=""} 0.0' in text


def test_a_port_in_use_is_refused() -> None:
    server = MetricsServer("127.0.0.1:0", make().registry)
    address = re.search(r"//([^/]+)/", server.url)
    assert address is not None
    try:
        with pytest.raises(AddressError, match=f"{address[1]}: cannot serve metrics there: Address already in use"):
            MetricsServer(address[1], make().registry)
    finally:
        server.close()


@pytest.mark.parametrize("address", ["", "9457", ":9457", "127.0.0.1:", "127.0.0.1:99999", "127.0.0.1:http"])
def test_malformed_addresses_are_refused(address: str) -> None:
    with pytest.raises(AddressError, match="expected an address such as"):
        MetricsServer(address, make().registry)


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
