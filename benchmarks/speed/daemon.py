"""A daemon of the bench, and a subscriber of its stream."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from benchmarks.daemon_process import DaemonProcess
from benchmarks.speed.bench import DIAMETER_ANGSTROM, Bench
from frazil import PickStream

__all__ = ["Arrived", "Daemon"]

_PATIENCE_SECONDS = 120.0


@dataclass(frozen=True, kw_only=True)
class Arrived:
    """A document that came."""

    micrograph: str
    at: float
    """By the monotonic clock."""


class Daemon(DaemonProcess):
    """A daemon that serves a model of the repository."""

    def __init__(self, bench: Bench, model: str, name: str = "daemon") -> None:
        folder = bench.folder / f"{name}-{model}-{time.monotonic_ns()}"
        options = ["--model", bench.models / model, "--diameter", f"{DIAMETER_ANGSTROM:g}"]
        options += ["--device", "cpu", "--threads", bench.threads]
        super().__init__(folder / "watched", folder / "out", *options)

    def __enter__(self) -> Self:
        super().__enter__()
        self._subscriber = PickStream(self.stream)
        assert self._subscriber.wait_connected(_PATIENCE_SECONDS)
        return self

    def __exit__(self, *error: object) -> None:
        self._subscriber.close()
        super().__exit__(*error)

    def receive(self) -> Arrived:
        """The next result that is no revision of an earlier one.

        Raises:
            RuntimeError: none comes.
        """
        while (document := self._subscriber.receive(_PATIENCE_SECONDS)) is not None and document.supersedes:
            pass
        if document is None:
            raise RuntimeError(f"no document came for {_PATIENCE_SECONDS:g} s")
        return Arrived(micrograph=document.micrograph, at=time.monotonic())

    def pick_backlog(self, sources: list[Path], count: int, name: str) -> list[Arrived]:
        """Let the daemon find so many micrographs at once, and wait for all their documents."""
        for number in range(count):
            os.link(sources[number % len(sources)], self.watched / f"{name}-{number:04}.mrc")
        return [self.receive() for _ in range(count)]
