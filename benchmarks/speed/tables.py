"""Tables of the report, in Markdown; each says below itself how its figures came about."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from benchmarks.speed.report import Circumstances, Report
from benchmarks.speed.spread import Spread
from benchmarks.speed.stages import STAGES

__all__ = ["TABLES"]

_NOT_MEASURED = "Not measured yet."


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


def _stages(report: Report) -> str:
    if (measured := report.stages) is None:
        return _NOT_MEASURED
    rows = []
    for case in measured.figures.cases:
        seconds = case.seconds
        rows.append(
            (
                f"`{case.model}`",
                f"{case.size_px}",
                case.kind,
                case.cache,
                *(_ms(seconds[stage]) for stage in STAGES),
                _ms(seconds["whole"]),
                _ms(seconds["floor"]),
                _times(case.times_floor),
            )
        )
    head = ("model", "side, px", "type", "cache", *STAGES, "whole", "floor", "whole / floor")
    cold = (
        "" if measured.figures.cold_is_cold else "\n\nThe system did not put files out of its memory: cold is not cold."
    )
    return f"{_table(head, rows)}{cold}\n\n{_by(measured.by)}"


def _growth(report: Report) -> str:
    if (measured := report.stages) is None:
        return _NOT_MEASURED
    rows = [
        (f"`{g.model}`", f"{g.from_px} to {g.to_px} px", f"{g.times_pixels:g} ×", _times(g.times_seconds))
        for g in measured.figures.growth
    ]
    return f"{_table(('model', 'side', 'pixels', 'time'), rows)}\n\n{_by(measured.by)}"


def _memory(report: Report) -> str:
    if (measured := report.memory) is None:
        return _NOT_MEASURED
    rows = [
        (f"`{p.model}`", f"{p.size_px}", f"{p.micrograph_mib:.0f} MiB", f"{p.peak_mib:.0f} MiB")
        for p in measured.figures.peaks
    ]
    return f"{_table(('model', 'side, px', 'micrograph', 'peak'), rows)}\n\n{_by(measured.by)}"


def _throughput(report: Report) -> str:
    if (measured := report.throughput) is None:
        return _NOT_MEASURED
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
        for f in measured.figures.flows
    ]
    head = ("model", "side, px", "micrographs", "ms each", "a second", "floor, ms", "each / floor", "daemon's peak")
    return f"{_table(head, rows)}\n\n{_by(measured.by)}"


def _latency(report: Report) -> str:
    if (measured := report.latency) is None:
        return _NOT_MEASURED
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
        for w in measured.figures.ways
    ]
    head = ("model", "written", "files", "latency, ms", "99th percentile", "one pick, ms", "median / pick")
    return f"{_table(head, rows)}\n\n{_by(measured.by)}"


def _peers(report: Report) -> str:
    if (measured := report.peers) is None:
        return _NOT_MEASURED
    figures = measured.figures
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
    known = ", ".join(f"{name}: {version}" for name, version in figures.versions.items())
    lacking = f" Not installed: {', '.join(figures.missing)}." if figures.missing else ""
    return "\n\n".join(
        (
            _table(("picker", "micrograph", "seconds", "peak memory"), rows),
            _table(("slower", "faster", "micrograph", "times as fast"), times),
            f"{_by(measured.by)} {known}.{lacking}",
        )
    )


def _straightforward(report: Report) -> str:
    if (measured := report.straightforward) is None:
        return _NOT_MEASURED
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
        for c in measured.figures.comparisons
    ]
    head = ("model", "windows", "straightforward, s", "frazil, s", "times as fast", "picks", "largest score difference")
    return f"{_table(head, rows)}\n\n{_by(measured.by)}"


def _windows(report: Report) -> str:
    if (measured := report.scaling) is None:
        return _NOT_MEASURED
    rows = [
        (
            f"`{w.model}`",
            f"{w.diameter_angstrom:g} Å",
            f"{w.windows}",
            _ms_with_range(w.seconds),
            _times(w.times_seconds),
        )
        for w in measured.figures.windows
    ]
    return f"{_table(('model', 'particle', 'windows', 'ms', 'time'), rows)}\n\n{_by(measured.by)}"


def _queue(report: Report) -> str:
    if (measured := report.scaling) is None:
        return _NOT_MEASURED
    figures = measured.figures
    rows = [(f"a queue of {q.micrographs}, ms each", _ms_with_range(q.seconds)) for q in figures.queues]
    rows += [
        ("long queue / short queue", _times(figures.long_over_short)),
        ("each long queue, ms each", ", ".join(f"{1000 * s:.1f}" for s in figures.long_seconds)),
        ("memory after each, MiB", ", ".join(f"{mib:.0f}" for mib in figures.memory_mib)),
        ("micrographs picked in the end", f"{figures.done}"),
    ]
    head = (f"micrographs of {figures.small_px} x {figures.small_px}, `mlp`", "")
    return f"{_table(head, rows)}\n\n{_by(measured.by)}"


def _start(report: Report) -> str:
    if (measured := report.start) is None:
        return _NOT_MEASURED
    seconds = {"`import frazil`, without Python's own start": measured.figures.import_alone}
    seconds |= measured.figures.seconds
    rows = [(name, _ms(s), f"{1000 * s.least:.0f}–{1000 * s.most:.0f}") for name, s in seconds.items()]
    return f"{_table(('what', 'ms', 'least to most'), rows)}\n\n{_by(measured.by)}"


TABLES: dict[str, Callable[[Report], str]] = {
    "done-when": _done_when,
    "stages": _stages,
    "growth": _growth,
    "memory": _memory,
    "throughput": _throughput,
    "latency": _latency,
    "peers": _peers,
    "straightforward": _straightforward,
    "windows": _windows,
    "queue": _queue,
    "start": _start,
}
"""Name of a place in the page → what belongs there."""


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """The first column to the left, the others to the right."""
    rule = ["---", *["---:"] * (len(head) - 1)]
    return "\n".join(f"| {' | '.join(row)} |" for row in (head, rule, *rows))


def _by(by: Circumstances) -> str:
    quick = "" if by.scale == "full" else f" A {by.scale} run: the figures are rough."
    return f"*{by.date}, revision {by.revision}, {by.processor}, {by.threads} threads.{quick}*"


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
