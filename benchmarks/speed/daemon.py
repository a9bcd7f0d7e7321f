"""A real ``frazil serve`` in a process of its own, and a subscriber of its stream."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import threading
import time
from dataclasses import dataclass
from pathlib import Path

from benchmarks.speed.bench import DIAMETER_ANGSTROM, Bench
from frazil import PickStream

__all__ = ["FRAZIL", "Arrived", "Daemon"]

FRAZIL = Path(sys.executable).parent / "frazil"
_PATIENCE_SECONDS = 120.0


@dataclass(frozen=True, kw_only=True)
class Arrived:
    """A document that came."""

    micrograph: str
    at: float
    """By the monotonic clock."""


class Daemon:
    """A daemon that serves a model as long as this is open.

    Attributes:
        watched: where micrographs are looked for.
        ready_seconds: from starting the process to its saying that it is ready.
    """

    def __init__(self, bench: Bench, model: str, name: str = "daemon") -> None:
        folder = bench.folder / f"{name}-{model}-{time.monotonic_ns()}"
        self.watched = folder / "watched"
        self.watched.mkdir(parents=True)
        self._command: list[str | Path] = [FRAZIL, "serve", "--watch", self.watched, "--out", folder / "out"]
        self._command += ["--publish", "tcp://127.0.0.1:0", "--http", "127.0.0.1:0", "--device", "cpu"]
        self._command += ["--model", bench.models / model, "--diameter", f"{DIAMETER_ANGSTROM:g}"]
        self._command += ["--threads", str(bench.threads)]

    def __enter__(self) -> Daemon:
        started = time.perf_counter()
        self._process = subprocess.Popen(self._command, stderr=subprocess.PIPE, text=True)
        try:
            assert self._process.stderr is not None
            lines = []
            for line in self._process.stderr:
                lines.append(line)
                if found := re.search(r"ready after .* publishing on ([^\s,]+)", line):
                    break
            else:
                raise RuntimeError("the daemon did not start:\n" + "".join(lines))
            self.ready_seconds = time.perf_counter() - started
            self._drain = threading.Thread(target=self._process.stderr.read)
            self._drain.start()
            self._stream = PickStream(found[1])
            assert self._stream.wait_connected(_PATIENCE_SECONDS)
        except BaseException:
            self._process.kill()
            self._process.wait()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._stream.close()
        self._process.terminate()
        self._process.wait(_PATIENCE_SECONDS)
        self._drain.join()
        assert self._process.stderr is not None
        self._process.stderr.close()

    def receive(self) -> Arrived:
        """The next document.

        Raises:
            RuntimeError: none comes.
        """
        document = self._stream.receive(_PATIENCE_SECONDS)
        if document is None:
            raise RuntimeError(f"no document came for {_PATIENCE_SECONDS:g} s")
        return Arrived(micrograph=document.micrograph, at=time.monotonic())

    def pick_backlog(self, sources: list[Path], count: int, name: str) -> list[Arrived]:
        """Let the daemon find so many micrographs at once, and wait for all their documents."""
        for number in range(count):
            os.link(sources[number % len(sources)], self.watched / f"{name}-{number:04}.mrc")
        return [self.receive() for _ in range(count)]

    def memory_mib(self, what: str = "VmHWM") -> float:
        """Of the process: the most that it ever held, or ``VmRSS``, what it holds."""
        found = re.search(rf"{what}:\s+(\d+) kB", Path(f"/proc/{self._process.pid}/status").read_text())
        assert found is not None
        return round(int(found[1]) / 1024)
