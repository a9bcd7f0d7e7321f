"""The dashboards against Grafana's own schema: the types that Grafana generates from it (grafana-foundation-sdk).

Those types read whatever they are given: they pass over what they do not know, and check no value. So a dashboard is
read into them; what did not arrive is unknown to Grafana, and what arrived must be of the type that the schema says.
"""

from __future__ import annotations

import copy
import enum
import functools
import json
import os
import types
import typing
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

UNTYPED = {"alertlist"}
"""Panels whose options the package does not have; the rest of them is checked."""
PLUGIN = {"dashboard.annotations.list[0].titleFormat: unknown"}
"""What the schema leaves to a plug-in: Prometheus' own writes this member into its annotations, and reads it there."""
DASHBOARDS = ["frazil", "frazil-fleet"]


@functools.cache
def schema() -> Any:
    """Grafana's types, with every kind of panel and query known."""
    try:
        from grafana_foundation_sdk.cog import plugins
        from grafana_foundation_sdk.models import dashboard
    except ImportError:
        if os.environ.get("CI") == "true":
            pytest.fail("grafana-foundation-sdk is missing, and CI must not skip what needs it")
        pytest.skip("needs grafana-foundation-sdk, of the extra dev")
    plugins.register_default_plugins()
    return dashboard


def written(value: Any) -> Any:
    """What the types write again, as JSON."""
    from grafana_foundation_sdk.cog.encoder import JSONEncoder

    return json.loads(json.dumps(value, cls=JSONEncoder))


def lost(given: Any, again: Any, where: str) -> Iterator[str]:
    """What of the given does not come out again: nothing in Grafana reads it."""
    if isinstance(given, dict) and isinstance(again, dict):
        for key, value in given.items():
            if key in again:
                yield from lost(value, again[key], f"{where}.{key}")
            elif value is not None:
                yield f"{where}.{key}: unknown"
    elif isinstance(given, list) and isinstance(again, list) and len(given) == len(again):
        for place, (one, other) in enumerate(zip(given, again, strict=True)):
            yield from lost(one, other, f"{where}[{place}]")
    elif given != again:
        yield f"{where}: {given!r} is read as {again!r}"


def mistyped(value: Any, wanted: Any, where: str) -> Iterator[str]:
    """What is not of the type that the schema has there."""
    origin, inner = typing.get_origin(wanted), typing.get_args(wanted)
    if type(value).__module__.startswith("grafana_foundation_sdk.") and not isinstance(value, enum.Enum):
        for name, hint in typing.get_type_hints(type(value)).items():
            yield from mistyped(getattr(value, name), hint, f"{where}.{name.removesuffix('_val')}")
    elif wanted in (Any, object):
        return
    elif origin in (typing.Union, types.UnionType):
        against = [list(mistyped(value, one, where)) for one in inner if one is not type(None)]
        if value is not None and all(against):
            yield from min(against, key=len)
    elif origin is typing.Literal:
        if value not in inner:
            yield f"{where}: expected one of {inner}, found {value!r}"
    elif origin is list:
        if not isinstance(value, list):
            yield f"{where}: expected a list, found {value!r}"
        else:
            for place, one in enumerate(value):
                yield from mistyped(one, inner[0], f"{where}[{place}]")
    elif origin is dict:
        if not isinstance(value, dict):
            yield f"{where}: expected a map, found {value!r}"
        else:
            for key, one in value.items():
                yield from mistyped(one, inner[1], f"{where}.{key}")
    elif isinstance(wanted, type) and issubclass(wanted, enum.Enum):
        if value not in [member.value for member in wanted]:
            yield f"{where}: expected one of {[member.value for member in wanted]}, found {value!r}"
    elif wanted in (float, int):
        if isinstance(value, bool) or not isinstance(value, (int, float) if wanted is float else int):
            yield f"{where}: expected a number, found {value!r}"
    elif isinstance(wanted, type) and hasattr(wanted, "from_json"):
        # Grafana's types leave some of what they contain as it was: it is read here.
        if not isinstance(value, dict):
            yield f"{where}: expected {wanted.__name__}, found {value!r}"
        else:
            yield from complaints(value, wanted.from_json, where)
    elif isinstance(wanted, type) and not isinstance(value, wanted):
        yield f"{where}: expected {wanted.__name__}, found {value!r}"


def complaints(given: Any, read: Callable[[Any], Any], where: str) -> Iterator[str]:
    """What Grafana's schema has against it."""
    try:
        parsed = read(given)
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        yield f"{where}: cannot be read: {error}"
        return
    yield from lost(given, written(parsed), where)
    yield from mistyped(parsed, Any, where)


def overridden(panel: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Each override of a panel as the field's configuration that it makes, which is what the schema knows."""
    for override in panel["fieldConfig"]["overrides"]:
        made: dict[str, Any] = {}
        for one in override["properties"]:
            place, *names = one["id"].split(".")
            if names:
                made.setdefault(place, {})[".".join(names)] = one["value"]
            else:
                made[place] = one["value"]
        yield f"{panel['title']}: override of {override['matcher']['options']}", made


def check(dashboard: dict[str, Any]) -> list[str]:
    """Everything that Grafana's schema has against a dashboard."""
    models = schema()
    found = list(complaints(dashboard, models.Dashboard.from_json, "dashboard"))
    from grafana_foundation_sdk.cog import runtime

    for panel in dashboard["panels"]:
        if panel["type"] == "row":
            continue
        if panel["type"] not in UNTYPED and runtime.panelcfg_config(panel["type"]) is None:
            found.append(f"{panel['title']}: there is no panel {panel['type']}")
        for where, made in overridden(panel):
            read = functools.partial(read_field, panel["type"])
            found += complaints(made, read, where)
    return found


def read_field(panel_type: str, given: dict[str, Any]) -> Any:
    """A field's configuration with that of its kind of panel in it."""
    panel = schema().Panel.from_json({"type": panel_type, "fieldConfig": {"defaults": given, "overrides": []}})
    return panel.field_config.defaults


@pytest.fixture(params=DASHBOARDS)
def dashboard(repository: Path, request: pytest.FixtureRequest) -> dict[str, Any]:
    return json.loads((repository / "deploy" / "grafana" / "dashboards" / f"{request.param}.json").read_text("utf-8"))


def test_grafana_knows_everything_on_the_dashboards_and_takes_every_value(dashboard: dict[str, Any]) -> None:
    assert [complaint for complaint in check(dashboard) if complaint not in PLUGIN] == []


def test_grafana_knows_every_unit(dashboard: dict[str, Any]) -> None:
    schema()
    from grafana_foundation_sdk.models import units

    known = {value for name, value in vars(units).items() if isinstance(value, str) and not name.startswith("_")}
    fields = [panel["fieldConfig"]["defaults"] for panel in dashboard["panels"] if "fieldConfig" in panel]
    fields += [made for panel in dashboard["panels"] if "fieldConfig" in panel for _, made in overridden(panel)]
    written = {field["unit"] for field in fields if "unit" in field}
    assert "s" in written
    assert written - known == set()


def first(dashboard: dict[str, Any], kind: str) -> dict[str, Any]:
    return next(panel for panel in dashboard["panels"] if panel["type"] == kind)


WRONG: dict[str, tuple[Callable[[dict[str, Any]], object], str]] = {
    "misspelt member": (lambda d: d.update(schemaVerison=39), "schemaVerison"),
    "a word for a number": (lambda d: d.update(schemaVersion="39"), "schema_version"),
    "no such kind of panel": (lambda d: first(d, "stat").update(type="stats"), "stats"),
    "misspelt option": (lambda d: first(d, "stat")["options"].update(colourMode="value"), "colourMode"),
    "no such mode": (lambda d: first(d, "stat")["options"].update(colorMode="ground"), "color_mode"),
    "no such width": (
        lambda d: first(d, "timeseries")["fieldConfig"]["defaults"]["custom"].update(lineWidth="thick"),
        "line_width",
    ),
    "no such stacking": (
        lambda d: first(d, "timeseries")["fieldConfig"]["defaults"]["custom"].update(stacking={"mode": "high"}),
        "stacking",
    ),
    "misspelt query": (lambda d: first(d, "timeseries")["targets"][0].update(legend="a"), "legend"),
    "no such format": (lambda d: first(d, "heatmap")["targets"][0].update(format="heat"), "format"),
    "no such override": (
        lambda d: first(d, "timeseries")["fieldConfig"]["overrides"][0]["properties"].append(
            {"id": "custom.lineStile", "value": {"fill": "dash"}}
        ),
        "lineStile",
    ),
    "an override of another type": (
        lambda d: first(d, "timeseries")["fieldConfig"]["overrides"][0]["properties"].append(
            {"id": "color", "value": {"mode": "paint"}}
        ),
        "mode",
    ),
}


@pytest.mark.parametrize("wrong", WRONG)
def test_what_grafana_would_pass_over_is_seen(repository: Path, wrong: str) -> None:
    text = (repository / "deploy" / "grafana" / "dashboards" / "frazil.json").read_text("utf-8")
    dashboard = copy.deepcopy(json.loads(text))
    spoil, named = WRONG[wrong]
    spoil(dashboard)
    assert any(named in complaint for complaint in check(dashboard))
