"""Presence: what the daemon leaves in the ledger about itself, so that ``frazil status`` finds it."""

from __future__ import annotations

import time
from pathlib import Path

import msgspec

from frazil.paths import path_below

__all__ = ["Presence", "ledger_key"]

_ANSWER_SECONDS = 2.0


class Presence(msgspec.Struct, frozen=True, kw_only=True):
    """A daemon that runs, or ran."""

    pid: int
    started_at: float
    """In seconds of Unix time."""
    stopped_at: float | None = None
    """When it ended in order; None while it runs, or where it was killed."""
    watch: str
    out: str
    stream: str
    """ZeroMQ address of its pick stream."""
    metrics: str
    """URL of its metrics."""
    page: str = ""
    """URL of its page."""
    model: str
    provider: str
    precision: str = "float32"
    """In which the model computes."""

    def encode(self) -> str:
        """As text for the ledger."""
        return msgspec.json.encode(self).decode()

    @classmethod
    def decode(cls, text: str) -> Presence | None:
        """From the ledger's text; None where there is none."""
        try:
            return msgspec.json.decode(text, type=cls)
        except ValueError:
            return None

    def stopped(self) -> Presence:
        """The same, having ended now."""
        return msgspec.structs.replace(self, stopped_at=time.time())

    def ask(self) -> dict[str, float] | None:
        """What the daemon's metrics say now; None when it does not answer."""
        if self.stopped_at is not None:
            return None
        import urllib.request  # here, with the parser, since whoever asks no daemon need not wait for them

        from prometheus_client.parser import text_string_to_metric_families

        try:
            with urllib.request.urlopen(self.metrics, timeout=_ANSWER_SECONDS) as answer:  # noqa: S310 - our own URL
                text = answer.read().decode()
        except (OSError, ValueError):
            return None
        samples = {}
        for family in text_string_to_metric_families(text):
            for sample in family.samples:
                labels = ",".join(f"{name}={value}" for name, value in sorted(sample.labels.items()))
                samples[f"{sample.name}{{{labels}}}" if labels else sample.name] = sample.value
        # Another program, or another daemon, may have the address by now.
        return samples if samples.get("frazil_start_time_seconds") == self.started_at else None


def ledger_key(path: Path, presence: Presence | None) -> str:
    """The ledger's name of a micrograph: its path below the watched directory."""
    below = None if presence is None else path_below(Path(presence.watch), path)
    return str(path if below is None else below)
