"""What deploy/ holds for Prometheus and Grafana: valid, complete, and of metrics that there are."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

Find = Callable[[str], str]


@pytest.fixture(scope="module")
def deploy(repository: Path) -> Path:
    return repository / "deploy"


@pytest.fixture(scope="module")
def alerts(deploy: Path) -> dict[str, dict[str, Any]]:
    groups = yaml.safe_load((deploy / "prometheus" / "frazil-rules.yml").read_text("utf-8"))["groups"]
    return {rule["alert"]: rule for group in groups for rule in group["rules"]}


@pytest.fixture(scope="module")
def recorded(deploy: Path) -> dict[str, str]:
    """Expressions of recording rules, by the names of their series."""
    groups = yaml.safe_load((deploy / "prometheus" / "frazil-recording-rules.yml").read_text("utf-8"))["groups"]
    return {rule["record"]: rule["expr"] for group in groups for rule in group["rules"]}


def read_dashboard(deploy: Path, name: str) -> dict[str, Any]:
    return json.loads((deploy / "grafana" / "dashboards" / f"{name}.json").read_text("utf-8"))


@pytest.fixture(scope="module", params=["frazil", "frazil-fleet"])
def dashboard(deploy: Path, request: pytest.FixtureRequest) -> dict[str, Any]:
    """Each of them."""
    return read_dashboard(deploy, request.param)


def panels(dashboard: dict[str, Any], *kinds: str) -> Iterator[dict[str, Any]]:
    return (panel for panel in dashboard["panels"] if not kinds or panel["type"] in kinds)


def expressions(dashboard: dict[str, Any], alerts: dict[str, dict[str, Any]]) -> list[str]:
    return [
        *(target["expr"] for panel in panels(dashboard) for target in panel.get("targets", [])),
        *(annotation["expr"] for annotation in dashboard["annotations"]["list"]),
        *(rule["expr"] for rule in alerts.values()),
    ]


@pytest.mark.parametrize(
    "check",
    [
        ("check", "config", "prometheus.yml"),
        ("check", "rules", "frazil-rules.yml", "frazil-recording-rules.yml"),
        ("test", "rules"),
    ],
)
def test_promtool_finds_nothing_wrong(find_prometheus: Find, deploy: Path, check: tuple[str, ...]) -> None:
    promtool = find_prometheus("promtool")
    files = [] if len(check) > 2 else sorted((deploy / "prometheus" / "tests").glob("*.yml"))
    done = subprocess.run(
        [promtool, *check, *files], cwd=deploy / "prometheus", capture_output=True, text=True, timeout=170
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "SUCCESS" in done.stdout


def test_every_alert_has_a_case_in_which_it_fires_and_one_in_which_it_does_not(
    deploy: Path, alerts: dict[str, dict[str, Any]]
) -> None:
    fires, quiet = set(), set()
    for file in (deploy / "prometheus" / "tests").glob("*.yml"):
        for case in yaml.safe_load(file.read_text("utf-8"))["tests"]:
            for test in case.get("alert_rule_test", []):
                (fires if test["exp_alerts"] else quiet).add(test["alertname"])
    assert fires == quiet == set(alerts)


def test_every_alert_says_how_grave_it_is_and_leads_to_its_section_of_the_runbook(
    repository: Path, alerts: dict[str, dict[str, Any]]
) -> None:
    for name, rule in alerts.items():
        assert rule["labels"]["severity"] in ("critical", "warning")
        assert {"summary", "description", "runbook_url"} == set(rule["annotations"])
        page, _, anchor = rule["annotations"]["runbook_url"].partition("#")
        assert anchor == name.lower()
        text = (repository / page).read_text("utf-8")
        section = re.search(rf"^## {name}\n(.*?)(?=^## |\Z)", text, re.MULTILINE | re.DOTALL)
        assert section is not None, name
        assert f"**Means.** ({rule['labels']['severity']})" in section[1]
        assert "**Look at.**" in section[1]
        assert "**Do.**" in section[1]


def test_the_runbook_has_no_section_without_an_alert(repository: Path, alerts: dict[str, dict[str, Any]]) -> None:
    text = (repository / "docs" / "how-to" / "runbook.md").read_text("utf-8")
    assert re.findall(r"^## (\w+)$", text, re.MULTILINE) == list(alerts)


def test_panels_and_rules_ask_for_metrics_and_labels_that_there_are(
    dashboard: dict[str, Any],
    alerts: dict[str, dict[str, Any]],
    recorded: dict[str, str],
    exported_metrics: dict[str, tuple[str, list[str]]],
) -> None:
    labels = {name: set(name.partition(":")[0].split("_")) for name in recorded}
    for name, (kind, own) in exported_metrics.items():
        suffixes = ("_bucket", "_sum", "_count") if kind == "histogram" else ("",)
        labels |= {name + suffix: {*own, "instance", "job", "microscope", "le"} for suffix in suffixes}
    for expression in (*expressions(dashboard, alerts), *recorded.values()):
        for name, matchers in re.findall(r"(?<![:\w])((?:\w+:)?frazil_[\w:]+)(?:\{([^}]*)\})?", expression):
            assert name in labels, expression
            assert set(re.findall(r"(\w+)\s*=", matchers)) <= labels[name], expression


def test_every_figure_of_microscopes_and_sessions_has_a_case_and_is_shown(
    deploy: Path, recorded: dict[str, str]
) -> None:
    cases = (deploy / "prometheus" / "tests" / "frazil-recording-rules-test.yml").read_text("utf-8")
    shown = json.dumps(read_dashboard(deploy, "frazil-fleet"))
    assert [name for name in recorded if f"expr: {name}\n" not in cases] == []
    assert [name for name in recorded if name not in shown] == []


def test_the_dashboards_ask_in_the_order_in_which_people_do(deploy: Path) -> None:
    asked = {
        name: [panel["title"] for panel in panels(read_dashboard(deploy, name), "row")]
        for name in ("frazil", "frazil-fleet")
    }
    assert asked == {
        "frazil": [
            "Is it working?",
            "Are the picks good?",
            "Are the micrographs good?",
            "What changed?",
            "What to do?",
        ],
        "frazil-fleet": ["Which microscope needs a look?", "Which session?", "Since when?"],
    }


def test_panels_lie_side_by_side_and_say_what_they_show(dashboard: dict[str, Any]) -> None:
    taken: set[tuple[int, int]] = set()
    for panel in panels(dashboard):
        place = panel["gridPos"]
        cells = {
            (y, x)
            for y in range(place["y"], place["y"] + place["h"])
            for x in range(place["x"], place["x"] + place["w"])
        }
        assert not cells & taken, panel["title"]
        assert max(x for _, x in cells) < 24
        taken |= cells
        if panel["type"] not in ("row", "alertlist"):
            assert panel["description"]
            assert panel["targets"]
    ids = [panel["id"] for panel in panels(dashboard)]
    assert len(set(ids)) == len(ids)


def test_a_figure_is_shown_by_its_value_and_by_its_name_only_where_it_has_one(dashboard: dict[str, Any]) -> None:
    for panel in panels(dashboard, "stat"):
        assert panel["options"]["textMode"] == ("name" if panel["targets"][0]["legendFormat"] else "value")


def test_lines_of_tables_are_joined_after_the_names_of_metrics_are_gone(dashboard: dict[str, Any]) -> None:
    """Grafana joins lines only where no column of both differs, and the name of the metric is a column."""
    for panel in panels(dashboard, "table"):
        steps = panel.get("transformations", [])
        assert [step["id"] for step in steps] == (["organize", "merge"] if len(panel["targets"]) > 1 else [])
        assert all(step["options"]["excludeByName"]["__name__"] for step in steps[:1])


CHOSEN = {
    "frazil": (["microscope"], 'microscope="$microscope"'),
    "frazil-fleet": (["microscope", "session"], 'microscope=~"$microscope"'),
}
"""What the operator chooses on each dashboard, and what every expression there has of it."""


def test_everything_on_a_dashboard_comes_from_the_provisioned_source_and_the_microscopes_that_were_chosen(
    deploy: Path, dashboard: dict[str, Any]
) -> None:
    variables, matcher = CHOSEN[dashboard["uid"]]
    provisioning = deploy / "grafana" / "provisioning"
    (source,) = yaml.safe_load((provisioning / "datasources" / "frazil.yml").read_text("utf-8"))["datasources"]
    (provider,) = yaml.safe_load((provisioning / "dashboards" / "frazil.yml").read_text("utf-8"))["providers"]
    assert provider["allowUiUpdates"] is False
    assert dashboard["editable"] is False
    assert [v["name"] for v in dashboard["templating"]["list"]] == variables
    for panel in panels(dashboard):
        for target in panel.get("targets", []):
            assert target["datasource"] == panel["datasource"] == {"type": source["type"], "uid": source["uid"]}
            selectors = re.findall(r"(?<![:\w])([\w:]*frazil_[\w:]+|up|ALERTS)(\{[^}]*\})?", target["expr"])
            assert selectors
            for name, chosen in selectors:
                assert matcher in chosen, target["expr"]
                assert (name.startswith(("microscope_session:", "frazil_session_")) and "session" in variables) == (
                    'session=~"$session"' in chosen
                ), target["expr"]


SAFE = {"#0072B2", "#D55E00", "#7F7F7F", "#009E73", "#56B4E9", "#CC79A7", "#E69F00", "#999999"}
"""Colours that people with any kind of colour vision tell apart (Okabe and Ito), and greys."""


def test_no_panel_needs_red_and_green_to_be_told_apart(dashboard: dict[str, Any]) -> None:
    text = json.dumps(dashboard)
    assert set(re.findall(r"#[0-9A-Fa-f]{6}", text)) <= SAFE
    named = re.findall(r'"(?:fixedColor|color|iconColor)": "(\w+)"', text)
    assert [name for name in named if name not in ("thresholds", "fixed")] == []
