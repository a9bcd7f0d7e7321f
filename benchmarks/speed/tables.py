"""Tables of the report, in Markdown; each says below itself how its figures came about."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from benchmarks.figures import markdown_table
from benchmarks.speed.latency import Latency
from benchmarks.speed.memory import Memory
from benchmarks.speed.peers import Peers
from benchmarks.speed.report import Circumstances, Report
from benchmarks.speed.scaling import Scaling
from benchmarks.speed.spread import Spread
from benchmarks.speed.stages import STAGES, Stages
from benchmarks.speed.start import Start
from benchmarks.speed.straightforward import Straightforward
from benchmarks.speed.throughput import Throughput

__all__ = ["make_table"]


def make_table(report: Report, name: str) -> str:
    """What belongs into a place of the page.

    Raises:
        KeyError: there is no such table.
    """
    if name == "done-when":
        return _done_when(report)
    section, render = _TABLES[name]
    measured = getattr(report, section)
    if measured is None:
        return "Not measured yet."
    by: Circumstances = measured.by
    quick = "" if by.scale == "full" else f" A {by.scale} run: the figures are rough."
    made = f"*{by.date}, revision {by.revision}, {by.processor}, {by.threads} threads.{quick}*"
    more = _pickers(measured.figures) if name == "peers" else ""
    return f"{render(measured.figures)}\n\n{made}{more}"


def _done_when(report: Report) -> str:
    rows = [
        (
            line.what,
            "–" if line.measured is None else f"{line.measured:.4g} {line.unit}".strip(),
            f"{line.bound} {line.unit}".strip(),
            {True: "yes", False: "**no**", None: "not measured"}[line.holds],
        )
        for line in report.done_when
    ]
    return _table(("what", "measured", "bound", "holds"), rows)


def _stages(figures: Stages) -> str:
    rows = [
        (
            f"`{case.model}`",
            f"{case.size_px}",
            case.kind,
            case.cache,
            *(_ms(case.seconds[stage]) for stage in (*STAGES, "whole", "floor")),
            _times(case.times_floor),
        )
        for case in figures.cases
    ]
    head = ("model", "side, px", "type", "cache", *STAGES, "whole", "floor", "whole / floor")
    cold = "" if figures.cold_is_cold else "\n\nThe system did not put files out of its memory: cold is not cold."
    return f"{_table(head, rows)}{cold}"


def _growth(figures: Stages) -> str:
    rows = [
        (f"`{g.model}`", f"{g.from_px} to {g.to_px} px", f"{g.times_pixels:g} ×", _times(g.times_seconds))
        for g in figures.growth
    ]
    return _table(("model", "side", "pixels", "time"), rows)


def _memory(figures: Memory) -> str:
    rows = [
        (f"`{p.model}`", f"{p.size_px}", f"{p.micrograph_mib:.0f} MiB", f"{p.peak_mib:.0f} MiB") for p in figures.peaks
    ]
    return _table(("model", "side, px", "micrograph", "peak"), rows)


def _throughput(figures: Throughput) -> str:
    rows = [
        (
            f"`{f.model}`",
            f"{f.size_px}",
            f"{f.micrographs}",
            _ms_with_range(f.seconds),
            f"{1 / f.seconds.median:.2f}",
            _ms_with_range(f.floor),
            _times(f.times_floor),
            f"{f.daemon_peak_mib:.0f} MiB",
        )
        for f in figures.flows
    ]
    head = ("model", "side, px", "micrographs", "ms each", "a second", "floor, ms", "each / floor", "daemon's peak")
    return _table(head, rows)


def _latency(figures: Latency) -> str:
    rows = [
        (
            f"`{w.model}`",
            w.writing,
            f"{w.seconds.runs}",
            _ms_with_range(w.seconds),
            f"{1000 * w.percentile_99:.0f}",
            _ms(w.pick),
            f"{w.times_pick:.2f}",
        )
        for w in figures.ways
    ]
    return _table(
        ("model", "written", "files", "latency, ms", "99th percentile", "one pick, ms", "median / pick"), rows
    )


def _peers(figures: Peers) -> str:
    rows = [
        (
            p.picker,
            f"{p.width_px} x {p.height_px}",
            _s_with_range(p.seconds),
            "" if p.peak_mib is None else f"{p.peak_mib:.0f} MiB",
        )
        for p in figures.peers
    ]
    times = [(t.peer, t.frazil, f"{t.width_px} x {t.height_px}", _times(t.times)) for t in figures.times]
    seconds = _table(("picker", "micrograph", "seconds", "peak memory"), rows)
    return f"{seconds}\n\n{_table(('slower', 'faster', 'micrograph', 'times as fast'), times)}"


def _pickers(figures: Peers) -> str:
    known = ", ".join(f"{name}: {version}" for name, version in figures.versions.items())
    lacking = f" Not installed: {', '.join(figures.missing)}." if figures.missing else ""
    return f" {known}.{lacking}"


def _straightforward(figures: Straightforward) -> str:
    rows = [
        (
            f"`{c.model}`",
            f"{c.windows}",
            _s_with_range(c.straightforward),
            _s_with_range(c.frazil),
            _times(c.times_faster),
            f"{c.picks}, {c.picks_in_common} in common, {c.picks_by_frazil_alone} by frazil alone",
            f"{c.largest_score_difference:.2g}",
        )
        for c in figures.comparisons
    ]
    head = ("model", "windows", "straightforward, s", "frazil, s", "times as fast", "picks", "largest score difference")
    return _table(head, rows)


def _windows(figures: Scaling) -> str:
    rows = [
        (
            f"`{w.model}`",
            f"{w.diameter_angstrom:g} Å",
            f"{w.windows}",
            _ms_with_range(w.seconds),
            _times(w.times_seconds),
        )
        for w in figures.windows
    ]
    return _table(("model", "particle", "windows", "ms", "time"), rows)


def _queue(figures: Scaling) -> str:
    rows = [(f"a queue of {q.micrographs}, ms each", _ms_with_range(q.seconds)) for q in figures.queues]
    rows += [
        ("long queue / short queue", _times(figures.long_over_short)),
        ("each long queue, ms each", ", ".join(f"{1000 * s:.1f}" for s in figures.long_seconds)),
        ("memory after each, MiB", ", ".join(f"{mib:.0f}" for mib in figures.memory_mib)),
        ("micrographs picked in the end", f"{figures.done}"),
    ]
    return _table((f"micrographs of {figures.small_px} x {figures.small_px}, `mlp`", ""), rows)


def _start(figures: Start) -> str:
    seconds = {"`import frazil`, without Python's own start": figures.import_alone, **figures.seconds}
    rows = [(name, _ms(s), f"{1000 * s.least:.0f}–{1000 * s.most:.0f}") for name, s in seconds.items()]
    return _table(("what", "ms", "least to most"), rows)


_TABLES: dict[str, tuple[str, Callable[..., str]]] = {
    "stages": ("stages", _stages),
    "growth": ("stages", _growth),
    "memory": ("memory", _memory),
    "throughput": ("throughput", _throughput),
    "latency": ("latency", _latency),
    "peers": ("peers", _peers),
    "straightforward": ("straightforward", _straightforward),
    "windows": ("scaling", _windows),
    "queue": ("scaling", _queue),
    "start": ("start", _start),
}
"""Name of a place in the page → the section of the report, and what makes a table of it."""


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    return markdown_table(head, rows, right=len(head) - 1)


def _number(value: float) -> str:
    return f"{value:.1f}" if value < 10 else f"{value:.0f}"


def _ms(seconds: Spread) -> str:
    return _number(1000 * seconds.median)


def _ms_with_range(seconds: Spread) -> str:
    return f"{_ms(seconds)} ({_number(1000 * seconds.least)}–{_number(1000 * seconds.most)})"


def _s_with_range(seconds: Spread) -> str:
    return f"{seconds.median:.3g} ({seconds.least:.3g}–{seconds.most:.3g})"


def _times(ratio: Spread) -> str:
    return f"{ratio.median:.2f} × ({ratio.least:.2f}–{ratio.most:.2f})"
