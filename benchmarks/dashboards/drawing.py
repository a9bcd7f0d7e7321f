"""Panels as SVG, near to how Grafana draws them."""

from __future__ import annotations

import datetime
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

from benchmarks.dashboards.panels import Panel, Series, Window, annotated, evaluate
from benchmarks.dashboards.values import CIVIDIS, colour_of_series, colour_of_value, shown
from benchmarks.prometheus_process import PrometheusProcess
from benchmarks.speed.pictures import svg, text

__all__ = ["draw_rows"]

COLUMN_PX, LINE_PX, GAP = 50, 36, 8
"""Of Grafana's grid."""
GRID, INK, FAINT = "#e4e5e6", "#24292e", "#6e7277"


@dataclass(frozen=True, kw_only=True)
class Frame:
    """What a panel is drawn into."""

    w: int
    h: int
    """In px."""
    window: Window
    marks: Sequence[tuple[float, str]]
    """Annotations: fractions of the window, and colours."""


def draw_rows(
    server: PrometheusProcess, dashboard: Mapping[str, Any], chosen: Mapping[str, str], began: float, ended: float
) -> Iterator[tuple[str, str, list[str]]]:
    """Draw a dashboard over a time, in Unix seconds: title, picture, and queries without data, of each row."""
    window = Window(began=began, ended=ended)
    marks = annotated(server, dashboard, chosen, window)
    rows: dict[str, list[Panel]] = {}
    for written in dashboard["panels"]:
        if written["type"] == "row":
            title = written["title"]
        else:
            rows.setdefault(title, []).append(evaluate(server, written, chosen, window))
    for title, panels in rows.items():
        top = min(panel.written["gridPos"]["y"] for panel in panels)
        bottom = max(panel.written["gridPos"]["y"] + panel.written["gridPos"]["h"] for panel in panels)
        width, height = 24 * COLUMN_PX, (bottom - top) * LINE_PX + 34
        parts = [f'<rect width="{width}" height="{height}" fill="#f4f5f5"/>']
        parts.append(f'<text x="10" y="22" font-size="15" font-weight="bold" fill="{INK}">{escape(title)}</text>')
        for panel in panels:
            place = panel.written["gridPos"]
            x, y = place["x"] * COLUMN_PX + GAP / 2, (place["y"] - top) * LINE_PX + 34
            w, h = place["w"] * COLUMN_PX - GAP, place["h"] * LINE_PX - GAP
            parts.append(f'<g transform="translate({x:g} {y:g})"><rect width="{w}" height="{h}" rx="2" fill="white"/>')
            name = escape(panel.written["title"])
            parts.append(f'<text x="8" y="18" font-size="12" font-weight="bold" fill="{INK}">{name}</text>')
            drawn = DRAWN[panel.written["type"]](panel, Frame(w=w, h=h, window=window, marks=marks))
            parts += drawn or [words(w / 2, h / 2, "No data", "middle", FAINT)]
            parts.append("</g>")
        yield title, svg(width, height, parts), [expression for panel in panels for expression in panel.empty]


def words(x: float, y: float, says: str, anchor: str = "start", colour: str = INK, size: int = 11) -> str:
    """Words of others at a place, in a colour."""
    return text(x, y, escape(says), anchor).replace("<text ", f'<text fill="{colour}" font-size="{size}" ', 1)


def draw_stat(panel: Panel, frame: Frame) -> list[str]:
    """One value in large letters, on the colour of its step."""
    w, h = frame.w, frame.h
    parts = []
    wide = w / max(1, len(panel.series))
    for place, series in enumerate(panel.series):
        value, x = series.values[-1], place * wide
        says = series.name if panel.written["options"]["textMode"] == "name" else shown(value, series.config)
        size = int(max(12, min(34, 1.5 * wide / max(1, len(says)))))
        colour = colour_of_value(value, series.config)
        parts.append(f'<rect x="{x:.1f}" y="26" width="{wide:.1f}" height="{h - 26}" fill="{colour}"/>')
        parts.append(words(x + wide / 2, 26 + (h - 26) / 2 + size / 3, says, "middle", "white", size))
    return parts


def draw_table(panel: Panel, frame: Frame) -> list[str]:
    """Its columns, as wide as what stands in them."""
    w = frame.w
    if not panel.columns:
        return []
    parts, x = [], 8.0
    says = [[c.name, *(shown(v, c.config, frame.window.ended) for v in c.values)] for c in panel.columns]
    letters = [3 + max(map(len, column)) for column in says]
    for place, column in enumerate(panel.columns):
        wide = (w - 16) * letters[place] / sum(letters)
        parts.append(f'<g font-weight="bold">{words(x + 6, 44, column.name)}</g>')
        for row, value in enumerate(column.values):
            y, colour = 54 + 26 * row, INK
            cell = column.config.get("custom", {}).get("cellOptions", {})
            if cell.get("type") == "color-background" and isinstance(value, float):
                fill, colour = colour_of_value(value, column.config), "white"
                parts.append(f'<rect x="{x:.1f}" y="{y}" width="{wide - 2:.1f}" height="24" fill="{fill}"/>')
            parts.append(words(x + 6, y + 16, says[place][row + 1], "start", colour))
        parts.append(f'<path d="M{x:.1f} 50h{wide:.1f}" stroke="{GRID}"/>')
        x += wide
    return parts


def draw_heatmap(panel: Panel, frame: Frame) -> list[str]:
    """Counts in each bucket and time: what a bucket has beyond the one below it."""
    w, h, window = frame.w, frame.h, frame.window
    rows = sorted(panel.series, key=lambda series: float(series.labels["le"]))
    if not rows:
        return []
    left, top, right, bottom = 44.0, 30.0, w - 10.0, h - 40.0
    every = 4  # points in a cell
    below = [0.0] * len(window.times)
    cells: list[list[float]] = []
    for series in rows:
        cells.append([max(0.0, v - b) for v, b in zip(series.values, below, strict=True)][::every])
        below = list(series.values)
    most = max((v for row in cells for v in row if math.isfinite(v)), default=0.0)
    wide, high = (right - left) / len(cells[0]), (bottom - top) / len(cells)
    paths: dict[str, list[str]] = {}
    for number, row in enumerate(cells):
        for place, value in enumerate(row):
            if math.isfinite(value) and value > 1e-9:
                colour = CIVIDIS[min(len(CIVIDIS) - 1, int(value / most * len(CIVIDIS)))]
                x, y = left + place * wide, bottom - (number + 1) * high
                paths.setdefault(colour, []).append(f"M{x:.1f} {y:.1f}h{wide - 1:.1f}v{high - 1:.1f}h{1 - wide:.1f}z")
    parts = [f'<path d="{"".join(found)}" fill="{colour}"/>' for colour, found in paths.items()]
    for number in range(0, len(rows), math.ceil(len(rows) / 9)):
        parts.append(words(left - 4, bottom - number * high, rows[number].labels["le"], "end", FAINT))
    parts += time_axis(window, left, right, bottom, top)
    for place, colour in enumerate(CIVIDIS):
        parts.append(f'<rect x="{left + 24 * place}" y="{h - 18}" width="24" height="8" fill="{colour}"/>')
    parts.append(words(left - 4, h - 10, "0", "end", FAINT))
    parts.append(words(left + 24 * len(CIVIDIS) + 4, h - 10, shown(most, {}), "start", FAINT))
    return parts


def draw_timeseries(panel: Panel, frame: Frame) -> list[str]:
    """Lines or bars over time, with a legend at the bottom or at the right."""
    w, h, window = frame.w, frame.h, frame.window
    if not any(math.isfinite(value) for series in panel.series for value in series.values):
        return []
    defaults = panel.written["fieldConfig"]["defaults"]
    at_right = panel.written["options"]["legend"]["placement"] == "right"
    second = [s for s in panel.series if s.config["custom"].get("axisPlacement") == "right"]
    first = [s for s in panel.series if s not in second]
    stacked = defaults["custom"].get("stacking", {}).get("mode") == "normal"
    left, top, bottom = 52.0, 32.0, h - (28.0 if at_right else 31.0 + 15 * legend_lines(panel, w))
    right = w - (190.0 if at_right else 52.0 if second else 14.0)
    heights = [stack(first) if stacked else [list(s.values) for s in first], [list(s.values) for s in second]]
    parts = time_axis(window, left, right, bottom, top)
    for side, (group, values) in enumerate(zip((first, second), heights, strict=True)):
        if not group:
            continue
        config = group[0].config
        low, high, step = scale(values, config)
        y_at = axis(low, high, bottom, top)
        for number in range(round((high - low) / step) + 1):
            value = low + number * step
            x, anchor = (right + 6, "start") if side else (left - 6, "end")
            parts.append(words(x, y_at(value) + 4, shown(value, config), anchor, FAINT))
            if not side:
                parts.append(f'<path d="M{left} {y_at(value):.1f}H{right}" stroke="{GRID}"/>')
        floor = [0.0] * len(window.times)
        for series, ups in zip(group, values, strict=True):
            colour = colour_of_series(panel.series.index(series), series.config)
            xs = [left + (right - left) * i / (len(ups) - 1) for i in range(len(ups))]
            parts += line(series, colour, xs, ups, floor, y_at)
            floor = ups if stacked else floor
    for part, colour in frame.marks:
        x = left + part * (right - left)
        parts.append(f'<path d="M{x:.1f} {top}V{bottom}" stroke="{colour}" stroke-dasharray="4 3"/>')
        parts.append(f'<path d="M{x - 4:.1f} {bottom + 6}h8l-4 -6z" fill="{colour}"/>')
    return parts + legend(panel, w, h, at_right=at_right)


def line(
    series: Series,
    colour: str,
    xs: Sequence[float],
    ups: Sequence[float],
    floor: Sequence[float],
    y_at: Callable[[float], float],
) -> list[str]:
    """One line with what is filled below it, or bars; it ends where there is no value."""
    custom, parts = series.config["custom"], []
    ends = [math.nan, *ups, math.nan]
    starts = [i for i in range(len(ups)) if math.isfinite(ends[i + 1]) and not math.isfinite(ends[i])]
    stops = [i for i in range(len(ups)) if math.isfinite(ends[i + 1]) and not math.isfinite(ends[i + 2])]
    fill = f'fill="{colour}" fill-opacity="{custom["fillOpacity"] / 100:g}"'
    dash = " ".join(str(length) for length in custom.get("lineStyle", {}).get("dash", []))
    for start, stop in zip(starts, stops, strict=True):
        places = range(start, stop + 1)
        if custom.get("drawStyle") == "bars":
            wide = 0.8 * (xs[1] - xs[0])
            bars = (
                f"M{xs[i] - wide / 2:.1f} {y_at(floor[i]):.1f}h{wide:.1f}V{y_at(ups[i]):.1f}h{-wide:.1f}z"
                for i in places
                if ups[i] > floor[i]
            )
            parts.append(f'<path d="{"".join(bars)}" {fill}/>')
            continue
        path = "L".join(f"{xs[i]:.1f} {y_at(ups[i]):.1f}" for i in places)
        if custom["fillOpacity"]:
            under = "L".join(f"{xs[i]:.1f} {y_at(floor[i]):.1f}" for i in reversed(places))
            parts.append(f'<path d="M{path}L{under}z" {fill}/>')
        style = f'stroke="{colour}" stroke-width="{custom["lineWidth"]}" stroke-dasharray="{dash}"'
        parts.append(f'<path d="M{path}" fill="none" {style}/>')
    return parts


def legend(panel: Panel, w: int, h: int, *, at_right: bool) -> list[str]:
    """The names of the lines, with their last values where the panel shows them."""
    parts, x, lines = [], 10.0, legend_lines(panel, w)
    at_bottom = h - 10.0 - 15 * (lines - 1)
    values = bool(panel.written["options"]["legend"].get("calcs"))
    for place, series in enumerate(panel.series):
        colour = colour_of_series(place, series.config)
        dash = " ".join(str(length) for length in series.config["custom"].get("lineStyle", {}).get("dash", []))
        if x > 10 and x + 28 + 6 * len(series.name) > w:
            x, at_bottom = 10.0, at_bottom + 15
        left, y = (w - 178.0, 40.0 + 16 * place) if at_right else (x, at_bottom)
        style = f'stroke="{colour}" stroke-width="3" stroke-dasharray="{dash}"'
        parts.append(f'<path d="M{left:.1f} {y - 4:.1f}h18" {style}/>')
        parts.append(words(left + 22, y, series.name))
        if values:
            last = [value for value in series.values if math.isfinite(value)][-1:]
            parts.append(words(w - 8, y, shown(last[0] if last else math.nan, series.config), "end"))
        x += 34 + 6.3 * len(series.name)
    return parts


def legend_lines(panel: Panel, w: int) -> int:
    """How many lines a legend at the bottom takes."""
    x, lines = 10.0, 1
    for series in panel.series:
        if x > 10 and x + 28 + 6 * len(series.name) > w:
            x, lines = 10.0, lines + 1
        x += 34 + 6.3 * len(series.name)
    return lines


def draw_alerts(panel: Panel, frame: Frame) -> list[str]:
    """Alerts that fire or may soon, by name."""
    columns = {column.name: column.values for column in panel.columns}
    parts = []
    room = (frame.h - 30) // 34
    for row, name in enumerate(columns.get("alertname", ())[:room]):
        state = str(columns["alertstate"][row])
        parts.append(words(12, 46 + 34 * row, str(name), size=13))
        parts.append(words(12, 60 + 34 * row, state, colour="#D55E00" if state == "firing" else FAINT))
    return parts


DRAWN: Mapping[str, Callable[[Panel, Frame], list[str]]] = {
    "stat": draw_stat,
    "timeseries": draw_timeseries,
    "table": draw_table,
    "heatmap": draw_heatmap,
    "alertlist": draw_alerts,
}


def stack(group: Sequence[Series]) -> list[list[float]]:
    """Each line on top of those before it."""
    tops: list[list[float]] = []
    base = [0.0] * (len(group[0].values) if group else 0)
    for series in group:
        base = [b + (value if math.isfinite(value) else 0.0) for b, value in zip(base, series.values, strict=True)]
        tops.append(base)
    return tops


def scale(values: Sequence[Sequence[float]], config: Mapping[str, Any]) -> tuple[float, float, float]:
    """From where to where an axis goes, and its step, in round numbers."""
    found = [value for one in values for value in one if math.isfinite(value)]
    low, high = config.get("min", min(found, default=0.0)), config.get("max", max(found, default=1.0))
    span = (high - low) or 1.0
    power = 10.0 ** math.floor(math.log10(span / 4))
    step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= span / 4)
    low = step * math.floor(low / step + 1e-9)
    return low, low + step * math.ceil((low + span - low) / step - 1e-9 + (config.get("min") is None)), step


def axis(low: float, high: float, start: float, end: float) -> Callable[[float], float]:
    """Where a number lies between two ends; those beyond stay at the ends."""
    return lambda value: start + min(1.0, max(0.0, (value - low) / (high - low))) * (end - start)


def time_axis(window: Window, left: float, right: float, bottom: float, top: float) -> list[str]:
    """Ticks at whole minutes."""
    parts, every = [], 60.0 * max(1, math.ceil((window.ended - window.began) / 60 / 8))
    at = math.ceil(window.began / every) * every
    while at <= window.ended:
        x = left + (at - window.began) / (window.ended - window.began) * (right - left)
        parts.append(f'<path d="M{x:.1f} {top}V{bottom}" stroke="{GRID}"/>')
        says = datetime.datetime.fromtimestamp(at, datetime.UTC).strftime("%H:%M")
        parts.append(words(x, bottom + 16, says, "middle", FAINT))
        at += every
    return parts
