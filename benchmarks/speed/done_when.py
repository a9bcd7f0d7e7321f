"""What was promised of frazil's speed, each line with what was measured, its bound, and whether it holds."""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterator

from benchmarks.speed.report import Line, Report

__all__ = ["judge"]

_SIZE_PX = 4096
_MB_IN_MIB = 2**20 / 1e6
_BOUNDS: dict[str, Callable[[float, float], bool]] = {
    "at most": operator.le,
    "at least": operator.ge,
    "under": operator.lt,
}
_NOISE = 1.05
"""Growth by less is none: two measurements of one thing differ by as much."""


def judge(report: Report) -> list[Line]:
    """Every line, those that were not measured included."""
    return [
        *_throughput(report),
        *_memory(report),
        *_window_models(report),
        *_latency(report),
        *_growth(report),
        *_start(report),
    ]


def _line(what: str, measured: float | None, bound: str, limit: float, unit: str = "×") -> Line:
    holds = None if measured is None else _BOUNDS[bound](measured, limit)
    return Line(what=what, measured=measured, bound=f"{bound} {limit:g}", unit=unit, holds=holds)


def _throughput(report: Report) -> Iterator[Line]:
    flows = {f.model: f.times_floor.median for f in report.throughput.figures.flows} if report.throughput else {}
    for model, floor in (("mlp", 1.25), ("fcn", 1.3)):
        yield _line(f"`{model}` in the daemon, time of the floor", flows.get(model), "at most", floor)
    peers = report.peers.figures.times if report.peers else []
    for model, peer, least in (("mlp", "RELION LoG", 4), ("fcn", "RELION LoG", 3), ("fcn", "Topaz", 50)):
        what = f"`{model}` in the daemon, throughput of {peer}"
        found = [t for t in peers if (t.peer, t.frazil) == (peer, f"frazil {model}, daemon")]
        for t in found:
            yield _line(f"{what} on {t.width_px} x {t.height_px}", t.times.median, "at least", least)
        if not found:
            yield _line(what, None, "at least", least)


def _memory(report: Report) -> Iterator[Line]:
    peaks = report.memory.figures.peaks if report.memory else []
    alone = next((p.peak_mib for p in peaks if p.model == "fcn" and p.size_px == _SIZE_PX), None)
    yield _line(f"`fcn` on {_SIZE_PX} x {_SIZE_PX}, peak memory of `frazil pick`", _mb(alone), "under", 1000, "MB")
    flows = report.throughput.figures.flows if report.throughput else []
    daemon = next((f.daemon_peak_mib for f in flows if f.model == "fcn" and f.size_px == _SIZE_PX), None)
    yield _line(f"`fcn` on {_SIZE_PX} x {_SIZE_PX}, peak memory of the daemon", _mb(daemon), "under", 1000, "MB")


def _window_models(report: Report) -> Iterator[Line]:
    found = report.straightforward.figures.comparisons if report.straightforward else []
    cnn = next((c for c in found if c.model == "cnn"), None)
    paper = next((c for c in found if c.model == "cnn/1"), None)
    faster = cnn.times_faster.median if cnn else None
    yield _line("`cnn`, speed of the straightforward version", faster, "at least", 10)
    if cnn and paper:
        times = round(paper.straightforward.median / cnn.frazil.median, 2)
        yield _line("`cnn`, speed of the paper's own network, straightforward", times, "at least", 10)
    missing = None if cnn is None else float(cnn.picks - cnn.picks_in_common + cnn.picks_by_frazil_alone)
    yield _line("`cnn`, picks not in common with the straightforward version", missing, "at most", 0, "")


def _latency(report: Report) -> Iterator[Line]:
    ways = report.latency.figures.ways if report.latency else []
    for model in ("mlp", "fcn"):
        way = next((w for w in ways if w.model == model and w.writing == "either"), None)
        times, slowest = (way.times_pick, way.percentile_99) if way else (None, None)
        yield _line(f"`{model}`, median latency, time of one micrograph's pick", times, "at most", 1.5)
        yield _line(f"`{model}`, 99th percentile of the latency", slowest, "under", 2, "s")


def _growth(report: Report) -> Iterator[Line]:
    steps = report.stages.figures.growth if report.stages else []
    for model in ("mlp", "cnn", "fcn"):
        largest = max((g for g in steps if g.model == model), key=lambda g: g.to_px, default=None)
        grown = round(largest.times_seconds.median / largest.times_pixels, 3) if largest else None
        across = f" from {largest.from_px} to {largest.to_px} px" if largest else ""
        yield _line(f"`{model}`, growth of time{across} over that of pixels", grown, "at most", _NOISE)
    scaling = report.scaling.figures if report.scaling else None
    queue = scaling.long_over_short.median if scaling else None
    yield _line("time per micrograph in a long queue over that in a short one", queue, "at most", _NOISE)
    time_ = _late_over_early(scaling.long_seconds) if scaling else None
    memory = _late_over_early(scaling.memory_mib) if scaling else None
    yield _line("time per micrograph in the last long queues over that in the first", time_, "at most", _NOISE)
    yield _line("memory of the daemon after the last long queues over that after the first", memory, "at most", _NOISE)


def _start(report: Report) -> Iterator[Line]:
    start = report.start.figures if report.start else None
    seconds = {name: s.median for name, s in start.seconds.items()} if start else {}
    yield _line("`import frazil`", start.import_alone.median if start else None, "under", 0.1, "s")
    yield _line("`frazil --help`", seconds.get("frazil --help"), "under", 0.3, "s")
    for model in ("mlp", "cnn", "fcn"):
        yield _line(f"daemon with `{model}` ready", seconds.get(f"daemon with {model}"), "under", 2, "s")


def _mb(mib: float | None) -> float | None:
    return None if mib is None else round(mib * _MB_IN_MIB)


def _late_over_early(values: list[float]) -> float:
    """The least of the last two over the least of the first two: other work on the machine only adds."""
    return round(min(values[-2:]) / min(values[:2]), 3)
