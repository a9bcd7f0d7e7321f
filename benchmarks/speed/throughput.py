"""Section `throughput`: micrographs out of a running daemon that has a backlog, beside the floor in the same run."""

from __future__ import annotations

import itertools
import statistics
from collections.abc import Callable

import msgspec

from benchmarks.speed.bench import MODELS, Bench
from benchmarks.speed.daemon import Arrived, Daemon
from benchmarks.speed.floor import Floor
from benchmarks.speed.spread import Rounds, Spread, spread

__all__ = ["Flow", "Throughput", "measure", "steady_seconds"]

_SOURCES = 4
_WARM_UP = 3
"""Documents until the daemon's stages overlap."""
_FLOOR_REPEATS = 3
_LEAST_PORTION = 5
_BUDGET_SECONDS = 90.0
"""For the backlog of one model."""


class Flow(msgspec.Struct, frozen=True, kw_only=True):
    """Of one model, on float32 micrographs of one size."""

    model: str
    size_px: int
    micrographs: int
    seconds: Spread
    """For one micrograph, steadily, from one document received to the next; a value for each portion of the backlog."""
    floor: Spread
    times_floor: Spread
    """Made for each portion, with the floor just before and just after it."""
    daemon_peak_mib: float


class Throughput(msgspec.Struct, frozen=True, kw_only=True):
    """All models."""

    flows: list[Flow]


def steady_seconds(arrived: list[Arrived]) -> float:
    """Seconds for each micrograph of a backlog, those left out that came before the stages overlapped."""
    first = min(_WARM_UP, len(arrived) - 1) - 1
    return (arrived[-1].at - arrived[first].at) / (len(arrived) - 1 - first)


def measure(bench: Bench) -> Throughput:
    """One daemon for each model, a backlog in portions, the floor while the daemon is idle."""
    return Throughput(flows=[_measure_flow(bench, model) for model in MODELS])


def _measure_flow(bench: Bench, model: str) -> Flow:
    sources = [bench.square(seed=seed) for seed in range(_SOURCES)]
    floor = Floor(bench.picker(model), bench.models / model, sources[0], bench.threads)
    floors, flows = [], []
    with Daemon(bench, model, "backlog") as daemon:
        floors.append(_median_seconds(floor.measure))
        room = int(_BUDGET_SECONDS / bench.scale.portions / floors[0])
        count = min(bench.scale.portion, max(_LEAST_PORTION, room))
        for portion in range(bench.scale.portions):
            bench.say(f"{model}: portion {portion + 1} of {bench.scale.portions}, {count} micrographs")
            flows.append(steady_seconds(daemon.pick_backlog(sources, count, f"portion-{portion}")))
            floors.append(_median_seconds(floor.measure))
        peak_mib = round(daemon.memory_mib("VmHWM"))
    around = [(before + after) / 2 for before, after in itertools.pairwise(floors)]
    return Flow(
        model=model,
        size_px=bench.scale.size_px,
        micrographs=count * bench.scale.portions,
        seconds=spread(flows),
        floor=spread(floors),
        times_floor=spread([a / b for a, b in zip(flows, around, strict=True)]),
        daemon_peak_mib=peak_mib,
    )


def _median_seconds(step: Callable[[Rounds], None]) -> float:
    rounds = Rounds()
    for _ in range(_FLOOR_REPEATS):
        step(rounds)
    return statistics.median(rounds.seconds["floor"])
