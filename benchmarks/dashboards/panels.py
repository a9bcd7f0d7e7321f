"""What each panel shows: its queries, asked of Prometheus and made into series or a table, as Grafana does."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.prometheus_process import PrometheusProcess

__all__ = ["Column", "Panel", "Series", "Window", "annotated", "chosen_values", "evaluate", "read_dashboard"]

DASHBOARDS = Path(__file__).resolve().parents[2] / "deploy" / "grafana" / "dashboards"
SCRAPE_SECONDS = 5.0
"""``timeInterval`` of the provisioned data source."""
POINTS = 240


@dataclass(frozen=True, kw_only=True)
class Window:
    """The time that is looked at, in Unix seconds."""

    began: float
    ended: float

    @property
    def step(self) -> float:
        """Seconds between two points of a series."""
        return max(1.0, round((self.ended - self.began) / POINTS))

    @property
    def times(self) -> list[float]:
        """Of the points."""
        return [self.began + i * self.step for i in range(int((self.ended - self.began) / self.step) + 1)]


@dataclass(frozen=True, kw_only=True)
class Series:
    """A line, a row of a heat map, or the one value of an instant query; NaN where there is no value."""

    name: str
    labels: Mapping[str, str]
    values: Sequence[float]
    config: Mapping[str, Any]
    """Of the field, its overrides put in."""


@dataclass(frozen=True, kw_only=True)
class Column:
    """A column of a table."""

    name: str
    values: Sequence[float | str | None]
    config: Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class Panel:
    """A panel with its data: series, or columns of a table."""

    written: Mapping[str, Any]
    series: Sequence[Series] = ()
    columns: Sequence[Column] = ()
    empty: Sequence[str] = field(default=())
    """Expressions that have no data."""


def read_dashboard(name: str) -> dict[str, Any]:
    """A dashboard of deploy/grafana."""
    found: dict[str, Any] = json.loads((DASHBOARDS / f"{name}.json").read_text("utf-8"))
    return found


def chosen_values(expression: str, chosen: Mapping[str, str], rate_interval: str) -> str:
    """An expression with values for the dashboard's variables.

    Raises:
        ValueError: it has a variable without a value.
    """
    for name, value in {"__rate_interval": rate_interval, **chosen}.items():
        expression = expression.replace(f"${name}", value)
    if "$" in expression:
        raise ValueError(f"expected values for all variables, found {expression}")
    return expression


def evaluate(server: PrometheusProcess, panel: Mapping[str, Any], chosen: Mapping[str, str], window: Window) -> Panel:
    """Ask for all that a panel shows."""
    rate_interval = f"{max(window.step + SCRAPE_SECONDS, 4 * SCRAPE_SECONDS):g}s"
    series: list[Series] = []
    frames: list[list[dict[str, Any]]] = []
    empty = []
    targets = panel.get("targets", [])
    if panel["type"] == "alertlist":
        targets = [
            {
                "refId": "A",
                "expr": f"ALERTS{panel['options']['alertInstanceLabelFilter']}",
                "instant": True,
                "format": "table",
            }
        ]
    for target in targets:
        expression = chosen_values(target["expr"], chosen, rate_interval)
        results = list(_ask(server, expression, window, instant=bool(target.get("instant"))))
        if not any(math.isfinite(value) for _, values in results for value in values):
            empty.append(target["expr"])
        if target.get("format") == "table":
            value = f"Value #{target['refId']}" if len(targets) > 1 else "Value"
            rows = [
                {"Time": window.ended, **dict(sorted(labels.items())), value: values[0]} for labels, values in results
            ]
            frames.append(rows)
            continue
        for labels, values in results:
            name = _series_name(target["legendFormat"], expression, labels)
            series.append(Series(name=name, labels=labels, values=values, config=_configured(panel, name)))
    return Panel(written=panel, series=series, columns=_table(panel, frames), empty=empty)


def annotated(
    server: PrometheusProcess, dashboard: Mapping[str, Any], chosen: Mapping[str, str], window: Window
) -> list[tuple[float, str]]:
    """When the dashboard's annotations begin, as fractions of the window."""
    found = []
    for one in dashboard["annotations"]["list"]:
        for _, values in _ask(server, chosen_values(one["expr"], chosen, ""), window, instant=False):
            for place, value in enumerate(values):
                if math.isfinite(value) and (place == 0 or not math.isfinite(values[place - 1])):
                    found.append((place / (len(values) - 1), one["iconColor"]))
    return found


def _ask(
    server: PrometheusProcess, expression: str, window: Window, *, instant: bool
) -> Iterator[tuple[dict[str, str], list[float]]]:
    if instant:
        for one in server.ask("query", query=expression, time=str(window.ended))["result"]:
            yield one["metric"], [float(one["value"][1])]
        return
    span = {"start": str(window.began), "end": str(window.ended), "step": str(window.step)}
    for one in server.ask("query_range", query=expression, **span)["result"]:
        at = {round((float(time) - window.began) / window.step): float(value) for time, value in one["values"]}
        yield one["metric"], [at.get(place, math.nan) for place in range(len(window.times))]


def _series_name(legend: str, expression: str, labels: Mapping[str, str]) -> str:
    if legend:
        return re.sub(r"{{\s*(\w+)\s*}}", lambda found: labels.get(found[1], ""), legend)
    inner = ", ".join(f'{name}="{value}"' for name, value in sorted(labels.items()) if name != "__name__")
    return labels.get("__name__", "") + (f"{{{inner}}}" if inner else "") or expression


def _configured(panel: Mapping[str, Any], name: str) -> dict[str, Any]:
    """The field's configuration, with what the panel says of a field of this name."""
    config = json.loads(json.dumps(panel["fieldConfig"]["defaults"]))
    for override in panel["fieldConfig"]["overrides"]:
        if override["matcher"] == {"id": "byName", "options": name}:
            for one in override["properties"]:
                place, *names = one["id"].split(".")
                if names:
                    config.setdefault(place, {})[".".join(names)] = one["value"]
                else:
                    config[place] = one["value"]
    return dict(config)


def _table(panel: Mapping[str, Any], frames: list[list[dict[str, Any]]]) -> list[Column]:
    names = dict.fromkeys(name for rows in frames for row in rows for name in row)
    for transformation in panel.get("transformations", []):
        if transformation["id"] == "organize":
            left_out = {name for name, out in transformation["options"]["excludeByName"].items() if out}
            frames = [[{k: v for k, v in row.items() if k not in left_out} for row in rows] for rows in frames]
        elif transformation["id"] == "merge":
            frames = [_merged(frames)]  # the columns stay in the order of the frames
        else:
            raise ValueError(f"expected the transformations organize and merge, found {transformation['id']}")
    rows = [row for frame in frames for row in frame]
    columns = []
    for name in names:
        config = _configured(panel, name)
        values = [row.get(name) for row in rows]
        if not config.get("custom", {}).get("hidden") and any(value is not None for value in values):
            columns.append(Column(name=config.get("displayName", name), values=values, config=config))
    for one in reversed(panel.get("options", {}).get("sortBy", [])):
        for key in [column for column in columns if column.name == one["displayName"]]:
            order = sorted(range(len(rows)), key=lambda i: str(key.values[i]), reverse=one["desc"])
            columns = [Column(name=c.name, values=[c.values[i] for i in order], config=c.config) for c in columns]
    return columns


def _merged(frames: list[list[dict[str, Any]]]) -> list[dict[str, Any]]:
    """Rows become one where no column that both have differs: with ``__name__`` among them, hardly any do."""
    merged: list[dict[str, Any]] = []
    for row in (row for frame in frames for row in frame):
        for other in merged:
            common = row.keys() & other.keys()
            if common and all(row[name] == other[name] for name in common):
                other.update(row)
                break
        else:
            merged.append(dict(row))
    return merged
