"""Metrics in Prometheus's text format, read back."""

from __future__ import annotations

__all__ = ["START_TIME", "parse_samples"]

START_TIME = "frazil_start_time_seconds"
"""The metric by which one run of the daemon is told from another."""


def parse_samples(text: str) -> dict[str, float]:
    """Values of metrics in Prometheus's text format, as ``name{label=value}``.

    Raises:
        ValueError: it is something else.
    """
    from prometheus_client.parser import text_string_to_metric_families  # here, since few need wait for it

    samples = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            labels = ",".join(f"{name}={value}" for name, value in sorted(sample.labels.items()))
            samples[f"{sample.name}{{{labels}}}" if labels else sample.name] = sample.value
    return samples
