"""How far frazil goes: what each part costs, and from that what many microscopes and millions of micrographs need.

    python -m benchmarks.capacity [--measure] [--pages]

``--measure`` takes the costs that no other benchmark has (bytes and processor time of a micrograph in the ledger, the
stream and a subscriber) from the real parts, in about a minute, and writes them into docs/reference/capacity.json.
Those of reading and picking are `make bench`'s, in docs/reference/speed/speed.json, and those of Dask's scheduler
benchmarks/repick.py's, in docs/reference/repick.json. What cannot be measured here stands
in `ASSUMED`, each with its source.

Two things are simulated from these costs, event by event: microscopes that collect, and workers that pick an archive
again. ``--pages`` writes the tables into docs/reference/capacity.md and the chart into docs/images. ``--check``
simulates, and says whether the page is what the figures give.
"""

from __future__ import annotations

import argparse
import functools
import heapq
import itertools
import math
import os
import random
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import msgspec

import frazil
from benchmarks.figures import fill_tables, markdown_table
from benchmarks.speed.pictures import log_axis, svg, text
from frazil.documents import encode_document

REPOSITORY = Path(__file__).resolve().parents[1]
PAGE = REPOSITORY / "docs" / "reference" / "capacity.md"
FIGURES = PAGE.with_suffix(".json")
SPEED = REPOSITORY / "docs" / "reference" / "speed" / "speed.json"
REPICK = PAGE.with_name("repick.json")
CHART = REPOSITORY / "docs" / "images" / "capacity.svg"
MODEL, SIDE_PX = "fcn", 4096
PICKS = 300
SCORE_MAP_BYTES = 100_000
"""Of one micrograph, compressed."""


# --- what is known --------------------------------------------------------------------------------------------------


class Costs(msgspec.Struct, frozen=True, kw_only=True):
    """Costs of one micrograph with 300 picks, as `measure` finds them. Seconds are of a processor."""

    date: str
    document_bytes: int
    """On the stream."""
    ledger_bytes: int
    """In the ledger: document, score map, rows."""
    send_seconds: float
    """Of the process of the sockets, to one subscriber."""
    replay_seconds: float
    """Of that process, for a document that is sent again."""
    receive_seconds: float
    """Of a subscriber in Python."""
    look_seconds: float
    """Of a subscriber, to look at one daemon that has nothing."""
    metrics_bytes: int
    """Of one scrape."""
    metrics_series: int
    session_series: int
    """Of them, of each open session."""


class Assumed(msgspec.Struct, frozen=True, kw_only=True):
    """What cannot be measured here, with its source. Another figure changes the tables: run with --pages."""

    micrographs_a_day: int = 10_000
    """Of one microscope: a fast camera with aberration-free image shift, 400 an hour and more all day."""
    storage_bytes_a_second: float = 2e9
    """Of the file server that all share: two links of 10 Gbit/s."""
    subscribers: int = 10
    """Of each daemon."""


ASSUMED = Assumed()


@dataclass(frozen=True, slots=True, kw_only=True)
class Station:
    """Something that does one thing at a time, in order: of one microscope or worker, or shared by all."""

    name: str
    seconds: float
    shared: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Speed:
    """Seconds of one micrograph on two cores, as `make bench` finds them."""

    read: float
    """From the disk."""
    pick: float
    """All that a daemon does with it, one after the other."""
    commit: float
    """Of one durable transaction."""


@functools.cache
def read_speed() -> Speed:
    """The figures in the docs."""
    speed = msgspec.json.decode(SPEED.read_bytes())
    cases = speed["stages"]["figures"]["cases"]
    usual = {"model": MODEL, "size_px": SIDE_PX, "kind": "float32", "cache": "cold"}
    (case,) = (one for one in cases if usual.items() <= one.items())
    flows = speed["throughput"]["figures"]["flows"]
    (flow,) = (one for one in flows if (one["model"], one["size_px"]) == (MODEL, SIDE_PX))
    read, commit = (case["seconds"][stage]["median"] for stage in ("read", "commit"))
    return Speed(read=read, pick=flow["seconds"]["median"], commit=commit)


class Scheduler(msgspec.Struct, frozen=True, kw_only=True):
    """What Dask's scheduler and client cost, as benchmarks/repick.py finds it. Seconds are of a processor."""

    seconds_per_task: float
    seconds_per_micrograph: float
    """Of a task's answer, document and score map, on its way."""


@functools.cache
def read_scheduler() -> Scheduler:
    """The figures in the docs."""
    return msgspec.convert(msgspec.json.decode(REPICK.read_bytes())["scheduler"], Scheduler)


# --- measured -------------------------------------------------------------------------------------------------------


def measure(documents: int = 4000, with_maps: int = 200) -> Costs:
    """Take the costs from the real ledger, stream and subscriber."""
    from benchmarks.published import PublishedLedger, make_document

    document = make_document("GridSquare_00001/Data/FoilHole_00000001_fractions_aligned.mrc", PICKS, seed=1)
    body = encode_document(document)
    with tempfile.TemporaryDirectory() as folder, PublishedLedger(Path(folder)) as source:
        committed = [source.commit(document, score_map=os.urandom(SCORE_MAP_BYTES)) for _ in range(with_maps)]
        ledger_bytes = sum(file.stat().st_size for file in Path(folder).iterdir())
        committed += [source.commit(document) for _ in range(documents - with_maps)]
        sockets = source.stream.process.pid

        def cost(publish: bool) -> tuple[float, float]:
            """Processor time of the sockets and of a subscriber that takes all, live or again."""
            with frazil.PickStream(source.stream.address, since=None if publish else 1) as stream:
                stream.wait_connected(60)
                before, own = processor_seconds(sockets), time.process_time()
                if publish:
                    for one in committed:
                        source.channel.publish(*one)
                    own = time.process_time()
                for _ in range(documents):
                    if stream.receive(60) is None:
                        raise TimeoutError("the stream brought nothing for a minute")
                return processor_seconds(sockets) - before, time.process_time() - own

        send_seconds, receive_seconds = cost(publish=True)
        replay_seconds, _ = cost(publish=False)
        look_seconds = measure_look()
    metrics, series, session_series = measure_metrics()
    return Costs(
        date=time.strftime("%Y-%m-%d"),
        document_bytes=len(body),
        ledger_bytes=round(ledger_bytes / with_maps),
        send_seconds=send_seconds / documents,
        replay_seconds=replay_seconds / documents,
        receive_seconds=receive_seconds / documents,
        look_seconds=look_seconds,
        metrics_bytes=metrics,
        metrics_series=series,
        session_series=session_series,
    )


def processor_seconds(process: int) -> float:
    """Processor time of another process, all its threads together."""
    return sum(int(file.read_text().split()[0]) for file in Path(f"/proc/{process}/task").glob("*/schedstat")) / 1e9


def measure_look(daemons: int = 100, rounds: int = 20) -> float:
    """Processor time to look at one of many daemons that have nothing."""
    with frazil.PickStream([f"ipc:///tmp/frazil-nobody-{number}" for number in range(daemons)]) as stream:
        stream.receive(0)
        started = time.thread_time()
        for _ in range(rounds):
            stream.receive(0)
        return (time.thread_time() - started) / rounds / daemons


def measure_metrics() -> tuple[int, int, int]:
    """Bytes and series of a scrape of a daemon with one session, and how many series each further one adds."""
    import prometheus_client

    from frazil.health.metrics import Metrics
    from frazil.health.state import DaemonState, SessionState

    def scrape(sessions: int) -> bytes:
        state = DaemonState(sessions=tuple(SessionState(name=f"session_{n}") for n in range(sessions)))
        return prometheus_client.generate_latest(Metrics(prometheus_client.CollectorRegistry(), lambda: state).registry)

    def series(text: bytes) -> int:
        return sum(not line.startswith(b"#") for line in text.splitlines())

    one, two = scrape(1), scrape(2)
    return len(one), series(one), series(two) - series(one)


# --- simulated ------------------------------------------------------------------------------------------------------


@dataclass(slots=True)
class Outcome:
    """What a simulation came to."""

    micrographs: int
    seconds: float
    busy: dict[str, float]
    """Fraction of the time that a station works, by its name: of those of a kind, the mean."""
    waits: list[float] = field(default_factory=list)
    """Seconds from the beginning to the end of each micrograph."""

    @property
    def rate(self) -> float:
        """Micrographs a second."""
        return self.micrographs / self.seconds

    @property
    def wall(self) -> str:
        """What is busiest."""
        return max(self.busy, key=self.busy.__getitem__)


def simulate(
    stations: Sequence[Station], lines: int, micrographs: int, arrivals: Callable[[int], Iterator[float]] | None = None
) -> Outcome:
    """Send micrographs through stations, event by event.

    Every line (a microscope, or a worker) has stations of its own, but for those that all share. Each station takes
    what comes in the order in which it comes. Times vary by a quarter up and down.

    Args:
        stations: in the order in which a micrograph passes them.
        lines: number of lines.
        micrographs: how many are done in all.
        arrivals: times at which micrographs come to a line. None: a line begins the next one when one is done.
    """
    chance = random.Random(lines)
    free_at: dict[tuple[int, int], float] = {}
    worked = dict.fromkeys((station.name for station in stations), 0.0)
    events: list[tuple[float, int, int, int, float]] = []  # time, order, line, stage, when it began
    order = itertools.count()
    coming = [arrivals(line) for line in range(lines)] if arrivals else []
    for line in range(lines):
        begins = next(coming[line]) if arrivals else 0.0
        events.append((begins, next(order), line, 0, begins))
    heapq.heapify(events)
    done, waits, now = 0, [], 0.0
    while done < micrographs:
        now, _, line, stage, began = heapq.heappop(events)
        if stage == 0 and arrivals:
            following = next(coming[line])
            heapq.heappush(events, (following, next(order), line, 0, following))
        if stage == len(stations):
            done += 1
            waits.append(now - began)
            if not arrivals:
                heapq.heappush(events, (now, next(order), line, 0, now))
            continue
        station = stations[stage]
        place = (stage, -1 if station.shared else line)
        seconds = station.seconds * chance.uniform(0.75, 1.25)
        ends = max(now, free_at.get(place, 0.0)) + seconds
        free_at[place] = ends
        worked[station.name] += seconds
        heapq.heappush(events, (ends, next(order), line, stage + 1, began))
    numbers = {station.name: 1 if station.shared else lines for station in stations}
    busy = {name: min(1.0, seconds / now / numbers[name]) for name, seconds in worked.items()}
    return Outcome(micrographs=done, seconds=now, busy=busy, waits=waits)


def stations_of_a_fleet(costs: Costs, assumed: Assumed) -> list[Station]:
    """What a micrograph of one of many microscopes passes: the file server and the subscriber are shared."""
    speed = read_speed()
    server = SIDE_PX**2 * 4 / assumed.storage_bytes_a_second
    return [
        Station(name="file server", seconds=server, shared=True),
        Station(name="reading", seconds=speed.read),
        Station(name="picking", seconds=speed.pick),
        Station(name="ledger", seconds=speed.commit),
        Station(name="stream", seconds=costs.send_seconds * assumed.subscribers),
        Station(name="subscriber of all", seconds=costs.receive_seconds, shared=True),
    ]


def stations_of_a_repick(
    costs: Costs, assumed: Assumed, *, batch: int = 8, servers: int = 1, writers: int = 1
) -> list[Station]:
    """What a micrograph that workers pick again passes: all but reading and picking is shared.

    Args:
        costs: as measured.
        assumed: the rest.
        batch: micrographs in a task of the scheduler.
        servers: file servers, each of the assumed rate.
        writers: ledgers that are written at the same time, each by a run of its own with its scheduler.
    """
    speed = read_speed()
    server = SIDE_PX**2 * 4 / assumed.storage_bytes_a_second
    scheduler = read_scheduler()
    dask = scheduler.seconds_per_task / batch + scheduler.seconds_per_micrograph
    return [
        Station(name="scheduler", seconds=dask / writers, shared=True),
        Station(name="file server", seconds=server / servers, shared=True),
        Station(name="worker", seconds=speed.read + speed.pick),
        Station(name="ledger", seconds=speed.commit / writers, shared=True),
        Station(name="stream", seconds=costs.send_seconds / writers, shared=True),
    ]


OVERLOADED = 0.98
"""A station that is busier than this gets more than it does: what waits for it grows."""
AT_THE_WALL = 0.9
FLEET = (1, 10, 100, 1000)
WORKERS = (1, 10, 100, 1000, 10_000)
ARCHIVE = 10_000_000
STEPS: tuple[tuple[str, dict[str, int]], ...] = (
    ("as it is", {}),
    ("10 file servers", {"servers": 10}),
    ("and 10 ledgers at a time", {"servers": 10, "writers": 10}),
    ("100 file servers", {"servers": 100, "writers": 10}),
    ("100 ledgers at a time", {"servers": 100, "writers": 100}),
)
"""What is done at each wall, one after the other."""
COLOURS = ("#7F7F7F", "#E69F00", "#56B4E9", "#CC79A7", "#0072B2")


@functools.cache
def simulate_fleet(costs: Costs, microscopes: int) -> Outcome:
    """Microscopes that collect for a while, each as fast as assumed."""
    stations = stations_of_a_fleet(costs, ASSUMED)
    interval = 86_400 / ASSUMED.micrographs_a_day

    def arrivals(line: int) -> Iterator[float]:
        chance = random.Random(line)
        at = chance.uniform(0, interval)
        while True:
            yield at
            at += interval * chance.uniform(0.5, 1.5)

    return simulate(stations, microscopes, max(300, 12 * microscopes), arrivals)


@functools.cache
def simulate_repick(costs: Costs, workers: int, **steps: int) -> Outcome:
    """Workers that pick an archive again, until the rate is steady."""
    return simulate(stations_of_a_repick(costs, ASSUMED, **steps), workers, max(300, 6 * workers))


# --- pages ----------------------------------------------------------------------------------------------------------


def digits(value: float) -> str:
    """Three digits, with commas."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def tables_of(costs: Costs) -> dict[str, str]:
    """The tables of the page, by name."""
    speed = read_speed()
    millis = {
        "Read it, from a disk": 1000 * speed.read,
        f"All that a daemon on two cores does with it (`{MODEL}`)": 1000 * speed.pick,
        "Commit it, with its score map": 1000 * speed.commit,
        "Send its document to one subscriber": 1000 * costs.send_seconds,
        "Send its document again, on request": 1000 * costs.replay_seconds,
        "Receive its document, in Python": 1000 * costs.receive_seconds,
        "Look at one daemon more that has nothing, in Python": 1000 * costs.look_seconds,
        "Hand out a task by Dask, whatever is in it": 1000 * read_scheduler().seconds_per_task,
        "Bring its result from the worker, with its score map": 1000 * read_scheduler().seconds_per_micrograph,
    }
    sizes = {
        "The micrograph, float32": f"{SIDE_PX**2 * 4 / 1e6:.0f} MB",
        "In the ledger, with its score map": f"{costs.ledger_bytes / 1000:.0f} kB",
        "On the stream, each subscriber": f"{costs.document_bytes / 1000:.1f} kB",
        "One scrape of the metrics": f"{costs.metrics_bytes / 1000:.0f} kB, {costs.metrics_series} series",
        "Each open session more": f"{costs.session_series} series",
    }
    costs_table = markdown_table(
        ["cost of one micrograph", ""],
        [*((name, f"{digits(one)} ms") for name, one in millis.items()), *sizes.items()],
        1,
    )
    return {"costs": costs_table, "fleet": fleet_table(costs), "repick": repick_table(costs)}


def fleet_table(costs: Costs) -> str:
    """What many microscopes need."""
    rows = []
    for microscopes in FLEET:
        outcome = simulate_fleet(costs, microscopes)
        a_day = microscopes * ASSUMED.micrographs_a_day
        waits = sorted(outcome.waits)
        rows.append(
            [
                f"{microscopes:,}",
                f"{a_day:,}",
                f"{a_day * costs.ledger_bytes / 1e9:,.0f} GB",
                *(f"{outcome.busy[name]:.1%}" for name in ("picking", "file server", "subscriber of all")),
                f"{waits[int(0.95 * len(waits))]:.2g} s" if outcome.busy[outcome.wall] < OVERLOADED else "grows",
                outcome.wall,
            ]
        )
    head = [
        "microscopes",
        "micrographs a day",
        "ledgers, a day",
        "each daemon is busy",
        "the file server",
        "the subscriber",
    ]
    return markdown_table([*head, "95 in 100 within", "busiest"], rows, 7)


def repick_table(costs: Costs) -> str:
    """How long an archive takes, at each wall and past it."""
    rows = []
    for name, steps in STEPS:
        for workers in WORKERS:
            outcome = simulate_repick(costs, workers, **steps)
            hours = ARCHIVE / outcome.rate / 3600
            is_wall = outcome.busy[outcome.wall] > AT_THE_WALL and outcome.wall != "worker"
            rows.append(
                [
                    name,
                    f"{workers:,}",
                    digits(outcome.rate),
                    f"{digits(hours / 24)} days" if hours > 48 else f"{digits(hours)} h",
                    outcome.wall if is_wall else "-",
                ]
            )
            if is_wall:
                break  # more workers only wait
    return markdown_table(["", "workers", "micrographs a second", "10 million take", "wall"], rows, 4)


def chart(costs: Costs) -> str:
    """Rate against workers, both by powers of ten: one line for each step."""
    width, height, left, bottom, right, top = 640, 380, 64, 44, 170, 16
    x_at = log_axis(WORKERS[0], WORKERS[-1], left, width - right)
    rates = [[simulate_repick(costs, workers, **steps).rate for workers in WORKERS] for _, steps in STEPS]
    low, high = rates[0][0], max(map(max, rates))
    y_at = log_axis(low, high, height - bottom, top)
    parts = []
    for workers in WORKERS:
        parts.append(f'<path d="M{x_at(workers):.1f} {top}V{height - bottom}" stroke="#ddd"/>')
        parts.append(text(x_at(workers), height - bottom + 16, f"{workers:,}", "middle"))
    for exponent in range(math.ceil(math.log10(low)), math.floor(math.log10(high)) + 1):
        y = y_at(10.0**exponent)
        parts.append(f'<path d="M{left} {y:.1f}H{width - right}" stroke="#ddd"/>')
        parts.append(text(left - 6, y + 4, f"{10.0**exponent:,.0f} /s", "end"))
    lowest = float(height)
    for (name, _), line, colour in zip(STEPS, rates, COLOURS, strict=True):
        points = [(x_at(workers), y_at(rate)) for workers, rate in zip(WORKERS, line, strict=True)]
        path = "M" + "L".join(f"{x:.1f} {y:.1f}" for x, y in points)
        parts.append(f'<path d="{path}" fill="none" stroke="{colour}" stroke-width="2"/>')
        lowest = min(points[-1][1] + 4, lowest - 14)  # above the name before
        parts.append(text(points[-1][0] + 8, lowest, name, "start"))
    parts.append(text((left + width - right) / 2, height - 8, "workers; upwards: micrographs a second", "middle"))
    return svg(width, height, parts)


def main() -> None:
    """Measure, simulate, print, and write what is asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--measure", action="store_true", help="measure the costs again")
    made = parser.add_mutually_exclusive_group()
    made.add_argument("--pages", action="store_true", help="write the tables into the page, and the chart")
    made.add_argument("--check", action="store_true", help="is the page what the figures give?")
    parser.add_argument("--json", type=Path, default=FIGURES, help="the costs (default: those in the docs)")
    args = parser.parse_args()
    if args.measure:
        args.json.write_bytes(msgspec.json.format(msgspec.json.encode(measure()), indent=1) + b"\n")
    costs = msgspec.json.decode(args.json.read_bytes(), type=Costs)
    page = PAGE.read_text("utf-8")
    filled, drawn = fill_tables(page, tables_of(costs)), chart(costs)
    if args.check:
        is_stale = filled != page or drawn != CHART.read_text("utf-8")
        sys.exit(
            f"{PAGE.name}: not what the figures give; run python -m benchmarks.capacity --pages" if is_stale else 0
        )
    for table in tables_of(costs).values():
        print(table, end="\n\n")
    if args.pages:
        PAGE.write_text(filled, "utf-8")
        CHART.write_text(drawn, "utf-8")


if __name__ == "__main__":
    main()
