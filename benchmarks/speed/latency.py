"""Section `latency`: from a file closed to its document received, one file a second."""

from __future__ import annotations

import threading
import time
from pathlib import Path

import msgspec
import numpy as np

from benchmarks.speed.bench import Bench
from benchmarks.speed.daemon import Daemon
from benchmarks.speed.spread import Rounds, Spread, spread

__all__ = ["Latency", "Way", "measure"]

_MODELS = ("mlp", "fcn")
_INTERVAL_SECONDS = 1.0
_PIECES = 8
_PICK_ROUNDS = 5


class Way(msgspec.Struct, frozen=True, kw_only=True):
    """Of one model, for files written in one way, or ``either``."""

    model: str
    size_px: int
    writing: str
    seconds: Spread
    percentile_99: float
    times_pick: float
    """The median, in times of the median time of one micrograph picked alone by the same machine."""
    pick: Spread


class Latency(msgspec.Struct, frozen=True, kw_only=True):
    """All models and ways of writing."""

    interval_seconds: float
    ways: list[Way]


class _Camera:
    """Writes a micrograph every second, in turns renamed when it is whole and written in its place."""

    WRITINGS = ("renamed", "in place")

    def __init__(self, source: Path, watched: Path, count: int) -> None:
        self.closed: dict[str, float] = {}
        self._content, self._watched, self._count = source.read_bytes(), watched, count
        self.thread = threading.Thread(target=self._run)

    def writing_of(self, name: str) -> str:
        """How a micrograph was written."""
        return self.WRITINGS[int(Path(name).stem) % 2]

    def _run(self) -> None:
        begun = time.monotonic()
        for number in range(self._count):
            time.sleep(max(0.0, begun + number * _INTERVAL_SECONDS - time.monotonic()))
            target = self._watched / f"{number:06}.mrc"
            aside = target.with_suffix(".tmp") if self.writing_of(target.name) == "renamed" else target
            step = -(-len(self._content) // _PIECES)
            with aside.open("wb") as file:
                for start in range(0, len(self._content), step):
                    file.write(self._content[start : start + step])
                # The time before it is closed: closing is the microscope's last act, and what follows is ours.
                self.closed[target.name] = time.monotonic()
            if aside != target:
                self.closed[target.name] = time.monotonic()
                aside.rename(target)


def measure(bench: Bench) -> Latency:
    """For the fastest model and the default one."""
    ways = [way for model in _MODELS for way in _measure_model(bench, model)]
    return Latency(interval_seconds=_INTERVAL_SECONDS, ways=ways)


def _measure_model(bench: Bench, model: str) -> list[Way]:
    source, picker, rounds = bench.square(), bench.picker(model), Rounds()

    def pick_alone() -> None:
        for _ in range(_PICK_ROUNDS):
            rounds.time("pick", lambda: bench.pick(picker, source))

    with Daemon(bench, model, "latency") as daemon:
        daemon.pick_backlog([source], 1, "warm")
        pick_alone()
        camera = _Camera(source, daemon.watched, bench.scale.streamed)
        latencies: dict[str, list[float]] = {writing: [] for writing in camera.WRITINGS}
        camera.thread.start()
        try:
            for number in range(bench.scale.streamed):
                bench.say(f"{model}: micrograph {number + 1} of {bench.scale.streamed}, one a second")
                arrived = daemon.receive()
                latencies[camera.writing_of(arrived.micrograph)].append(arrived.at - camera.closed[arrived.micrograph])
                (daemon.watched / arrived.micrograph).unlink()
        finally:
            camera.thread.join()
        pick_alone()
    latencies["either"] = [seconds for each in latencies.values() for seconds in each]
    pick = rounds.spread("pick")
    return [
        Way(
            model=model,
            size_px=bench.scale.size_px,
            writing=writing,
            seconds=spread(seconds),
            percentile_99=round(float(np.percentile(seconds, 99)), 4),
            times_pick=round(spread(seconds).median / pick.median, 3),
            pick=pick,
        )
        for writing, seconds in latencies.items()
    ]
