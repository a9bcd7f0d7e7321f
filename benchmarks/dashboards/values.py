"""How Grafana writes numbers, and which colours it gives them."""

from __future__ import annotations

import datetime
import math
from collections.abc import Mapping
from typing import Any

__all__ = ["CIVIDIS", "colour_of_series", "colour_of_value", "shown"]

PALETTE = ("#56A64B", "#E0B400", "#5794F2", "#FA6400", "#E02F44", "#3274D9", "#A352CC", "#705DA0")
SHADES = {"#D55E00": ("#D55E00", "#E4730F", "#B74C00", "#F3881E", "#993B00", "#FF9D2D")}
CIVIDIS = ("#fee838", "#e1cc55", "#c3b369", "#a59c74", "#8a8678", "#707173", "#575d6d", "#3b496c", "#123570", "#00224e")
"""The scheme of that name, reversed: darker is more."""
_SPANS = ((86400.0, "day"), (3600.0, "hour"), (60.0, "min"), (1.0, "s"))


def shown(value: float | str | None, config: Mapping[str, Any], now: float = 0.0) -> str:
    """A value as a person reads it; now is in Unix seconds, for times that are told from it.

    Raises:
        ValueError: its unit or mapping is of a kind that the dashboards did not have.
    """
    if value is None or isinstance(value, str):
        return value or ""
    for mapping in config.get("mappings", []):
        if mapping["type"] != "value":
            raise ValueError(f"expected mappings of values, found {mapping['type']}")
        if (mapped := mapping["options"].get(f"{value:g}")) is not None:
            return str(mapped["text"])
    if not math.isfinite(value):
        return "No data"
    unit, decimals = config.get("unit", "none"), config.get("decimals")
    if unit == "none":
        return _number(value, decimals)
    if unit == "percentunit":
        return f"{_number(100 * value, decimals)}%"
    if unit == "s":
        return _span(value, decimals)
    at = datetime.datetime.fromtimestamp(value / 1000, datetime.UTC)
    if unit == "dateTimeAsIso":
        return at.strftime("%Y-%m-%d %H:%M:%S")
    if unit == "dateTimeFromNow":
        seconds = now - value / 1000
        if seconds < 45:
            return "a few seconds ago"
        return "a minute ago" if seconds < 90 else f"{round(seconds / 60)} minutes ago"
    raise ValueError(f"expected a unit that the dashboards have, found {unit}")


def colour_of_value(value: float, config: Mapping[str, Any]) -> str:
    """The colour of the step that a value is in."""
    steps = config["thresholds"]["steps"]
    return str([step["color"] for step in steps if step["value"] is None or value >= step["value"]][-1])


def colour_of_series(place: int, config: Mapping[str, Any]) -> str:
    """The colour of a line: what the panel says, or of Grafana's palette by its place among the lines."""
    colour = config.get("color", {"mode": "palette-classic"})
    if colour["mode"] == "fixed":
        return str(colour["fixedColor"])
    if colour["mode"] == "shades":
        shades = SHADES[colour["fixedColor"]]
        return shades[place % len(shades)]
    return PALETTE[place % len(PALETTE)]


def _number(value: float, decimals: int | None) -> str:
    if decimals is None:
        decimals = 0 if value == 0 else max(0, min(3, 2 - math.floor(math.log10(abs(value)))))
        text = f"{value:.{decimals}f}"
        return text.rstrip("0").rstrip(".") if "." in text else text
    return f"{value:.{decimals}f}"


def _span(seconds: float, decimals: int | None) -> str:
    if 0 < abs(seconds) < 1:
        return f"{_number(1000 * seconds, decimals)} ms"
    length, name = next((one for one in _SPANS if abs(seconds) >= one[0]), _SPANS[-1])
    return f"{_number(seconds / length, decimals)} {name}{'' if name == 's' else 's'}"
