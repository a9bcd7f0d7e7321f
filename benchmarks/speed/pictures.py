"""Pictures of the report, as SVG that needs nothing else."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from benchmarks.speed.report import Report
from benchmarks.speed.stages import STAGES, Case

__all__ = ["PICTURES", "growth_picture", "log_axis", "svg", "text", "where_picture"]

_COLOURS = ("#5b8ff9", "#61c0bf", "#95d5b2", "#f6bd16", "#e8684a", "#9270ca", "#ff9d4d", "#269a99", "#ff99c3")
_MODEL_COLOURS = {"mlp": "#5b8ff9", "cnn": "#e8684a", "fcn": "#269a99"}
_LINE_HEIGHT = 13


def where_picture(report: Report) -> str:
    """Where the time of one micrograph goes: a bar of stages for each model, the floor's below it."""
    cases = _warm_cases(report)
    size_px = _usual_size(report)
    chosen = [case for case in cases if case.size_px == size_px]
    width, left, bar, gap = 760, 60, 22, 22
    parts = []
    key = float(left)
    for i, stage in enumerate(STAGES):
        parts.append(f'<rect x="{key:.1f}" y="14" width="10" height="10" fill="{_COLOURS[i]}"/>')
        parts.append(text(key + 14, 23, stage, "start"))
        key += 34 + 6.4 * len(stage)
    for row, case in enumerate(chosen):
        top = 50 + row * (2 * bar + gap)
        # Each model has a scale of its own: one of them may take fifty times as long as another.
        longest = max(sum(case.seconds[stage].median for stage in STAGES), case.seconds["floor"].median)
        per_second = (width - left - 90) / longest
        lanes = (
            (case.model, [(case.seconds[stage].median, _COLOURS[i]) for i, stage in enumerate(STAGES)]),
            (
                "floor",
                [
                    (case.seconds["floor: read"].median, _COLOURS[STAGES.index("read")]),
                    (case.seconds["floor: infer"].median, _COLOURS[STAGES.index("infer")]),
                ],
            ),
        )
        for lane, (name, pieces) in enumerate(lanes):
            x, y = float(left), top + lane * bar
            parts.append(text(left - 8, y + 14, name, "end"))
            for seconds, colour in pieces:
                parts.append(
                    f'<rect x="{x:.1f}" y="{y}" width="{seconds * per_second:.1f}" height="{bar - 4}" fill="{colour}"/>'
                )
                x += seconds * per_second
            parts.append(text(x + 6, y + 14, f"{1000 * sum(s for s, _ in pieces):.0f} ms", "start"))
    return svg(width, 50 + len(chosen) * (2 * bar + gap), parts)


def growth_picture(report: Report) -> str:
    """Time of one micrograph against its pixels, both by powers of ten; the floor dashed."""
    cases = _warm_cases(report)
    width, height, left, bottom, right, top = 560, 360, 64, 44, 90, 16
    megapixels = [case.size_px**2 / 1e6 for case in cases]
    seconds = [case.seconds[name].median for case in cases for name in ("whole", "floor")]
    x_at = log_axis(min(megapixels), max(megapixels), left, width - right)
    y_at = log_axis(min(seconds), max(seconds), height - bottom, top)
    parts = []
    for size_px in sorted({case.size_px for case in cases}):
        x = x_at(size_px**2 / 1e6)
        parts.append(f'<path d="M{x:.1f} {top}V{height - bottom}" stroke="#ddd"/>')
        parts.append(text(x, height - bottom + 16, f"{size_px}²", "middle"))
    for exponent in range(-3, 3):
        for factor in (1, 2, 5):
            value = factor * 10.0**exponent
            if min(seconds) <= value <= max(seconds):
                parts.append(f'<path d="M{left} {y_at(value):.1f}H{width - right}" stroke="#ddd"/>')
                parts.append(text(left - 6, y_at(value) + 4, f"{value:g} s", "end"))
    ends: dict[str, tuple[float, float]] = {}
    for model, colour in _MODEL_COLOURS.items():
        own = [case for case in cases if case.model == model]
        for name, dash in (("whole", ""), ("floor", ' stroke-dasharray="5 4"')):
            points = [(x_at(c.size_px**2 / 1e6), y_at(c.seconds[name].median)) for c in own]
            path = "M" + "L".join(f"{x:.1f} {y:.1f}" for x, y in points)
            parts.append(f'<path d="{path}" fill="none" stroke="{colour}" stroke-width="2"{dash}/>')
            if name == "whole":
                parts += [f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3.5" fill="{colour}"/>' for x, y in points]
                ends[model] = points[-1]
    lowest = math.inf
    for model, (x, y) in sorted(ends.items(), key=lambda end: -end[1][1]):
        lowest = min(y + 4, lowest - _LINE_HEIGHT)  # above the name before
        parts.append(text(x + 8, lowest, model, "start"))
    parts.append(text((left + width - right) / 2, height - 8, "pixels of the micrograph; dashed: the floor", "middle"))
    return svg(width, height, parts)


PICTURES = {"where.svg": where_picture, "growth.svg": growth_picture}


def _warm_cases(report: Report) -> list[Case]:
    cases = report.stages.figures.cases if report.stages else []
    return [case for case in cases if case.cache == "warm" and case.kind == "float32"]


def _usual_size(report: Report) -> int:
    """The size for which the most was measured."""
    sizes = [case.size_px for case in report.stages.figures.cases] if report.stages else [0]
    return max(set(sizes), key=sizes.count)


def log_axis(low: float, high: float, start: float, end: float) -> Callable[[float], float]:
    """Where a number lies between two ends, by its logarithm."""
    span = math.log(high / low) or 1.0
    return lambda value: start + math.log(value / low) / span * (end - start)


def text(x: float, y: float, says: str, anchor: str) -> str:
    """Words at a place."""
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{says}</text>'


def svg(width: int, height: int, parts: Sequence[str]) -> str:
    """A picture of its parts."""
    body = "\n".join(parts)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" font-family="sans-serif" '
        f'font-size="11">\n<rect width="{width}" height="{height}" fill="white"/>\n{body}\n</svg>\n'
    )
