"""Section `scaling`: how time grows with windows and with the queue; with pixels, section `stages` says."""

from __future__ import annotations

import msgspec

from benchmarks.speed.bench import DIAMETER_ANGSTROM, Bench
from benchmarks.speed.daemon import Daemon
from benchmarks.speed.spread import Rounds, Spread, rounds_within, spread
from benchmarks.speed.throughput import steady_seconds
from frazil.picking import read_micrograph

__all__ = ["Queued", "Scaling", "Windows", "measure"]

_SHRINKS = (1.0, 2**-0.5, 0.5)
"""Of the particle: its windows shrink with it, and twice and four times as many are needed."""
_QUEUE_MODEL = "mlp"
_QUEUE_ROUNDS = 5


class Windows(msgspec.Struct, frozen=True, kw_only=True):
    """A window model on one micrograph, for particles of some size."""

    model: str
    diameter_angstrom: float
    windows: int
    seconds: Spread
    times_seconds: Spread
    """Of those with the fewest windows."""


class Queued(msgspec.Struct, frozen=True, kw_only=True):
    """A queue of small micrographs in one daemon that goes on and on."""

    micrographs: int
    seconds: Spread
    """For one micrograph, steadily."""


class Scaling(msgspec.Struct, frozen=True, kw_only=True):
    """Both."""

    windows: list[Windows]
    small_px: int
    queues: list[Queued]
    long_over_short: Spread
    """Seconds for one micrograph of a long queue, in times of that of a short one before it."""
    done: int
    """Micrographs that the daemon has picked in the end."""
    long_seconds: list[float]
    """For one micrograph, in each long queue."""
    memory_mib: list[float]
    """Of the daemon after each long queue."""


def measure(bench: Bench) -> Scaling:
    """Windows in one process, queues in a daemon."""
    windows = _measure_windows(bench)
    short, long = bench.scale.queues
    sources = [bench.micrograph((bench.scale.small_px, bench.scale.small_px), seed=seed) for seed in range(4)]
    seconds: dict[int, list[float]] = {short: [], long: []}
    memory: list[float] = []
    with Daemon(bench, _QUEUE_MODEL, "queue") as daemon:
        daemon.pick_backlog(sources, short, "warm")
        for number in range(_QUEUE_ROUNDS):
            for count in (short, long):
                bench.say(f"a queue of {count} small micrographs, round {number + 1} of {_QUEUE_ROUNDS}")
                seconds[count].append(steady_seconds(daemon.pick_backlog(sources, count, f"{count}-{number}")))
            memory.append(round(daemon.memory_mib()))
    return Scaling(
        windows=windows,
        small_px=bench.scale.small_px,
        queues=[Queued(micrographs=count, seconds=spread(values)) for count, values in seconds.items()],
        long_over_short=spread([b / a for a, b in zip(seconds[short], seconds[long], strict=True)]),
        done=short + _QUEUE_ROUNDS * (short + long),
        long_seconds=[round(s, 5) for s in seconds[long]],
        memory_mib=memory,
    )


def _measure_windows(bench: Bench) -> list[Windows]:
    micrograph, rounds, counts = bench.square(), Rounds(), {}
    for number in rounds_within(bench.scale.rounds, bench.scale.budget_seconds):
        for shrink in _SHRINKS:
            picker = bench.picker("mlp", round(DIAMETER_ANGSTROM * shrink, 1))
            name = f"{picker.settings.diameter_angstrom:g}"
            bench.say(f"mlp for a particle of {name} Å, round {number + 1}")
            if name not in counts:
                tiling = picker.plan(picker.prepare(read_micrograph(micrograph, as_stored=True)))
                counts[name] = tiling.y.centres.size * tiling.x.centres.size if tiling else 0
            rounds.time(name, lambda: bench.pick(picker, micrograph))  # noqa: B023 - called at once
    fewest = next(iter(counts))
    return [
        Windows(
            model="mlp",
            diameter_angstrom=float(name),
            windows=count,
            seconds=rounds.spread(name),
            times_seconds=rounds.ratio(name, fewest),
        )
        for name, count in counts.items()
    ]
