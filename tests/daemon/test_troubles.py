"""Troubles: what is wrong is told from the metrics and the ledger, worst first, with what to do."""

from __future__ import annotations

import math
import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
import yaml

from frazil.documents import MicrographDocument, ModelDocument, ModelStamp, PickColumns
from frazil.page import troubles
from frazil.page.troubles import Facts, Trouble, find_troubles, gather_facts
from frazil.session.intake.passed_over import Inventory, Passed
from frazil.session.outbox.file_stamp import FileStamp
from frazil.session.outbox.ledger import DRIFT_KEY, INVENTORY_KEY, Handled, Ledger, LedgerReader
from frazil.session.pick.drift import Drift

NOW = 1_000_000.0
WELL = Facts(picked=500, picked_lately=100, last_picked_at=NOW - 10, pictures=("4096 × 4096 pixels of 1.77 Å",))


def drifting(quantity: str, direction: str) -> Drift:
    drift = Drift()
    (drift.picks if quantity == "picks" else drift.score).drifting[direction] = True  # type: ignore[index]
    return drift


def change(event: Any) -> ModelDocument:
    model = ModelStamp(name="fcn", version=7, sha256="0" * 64)
    return ModelDocument(epoch="e", seq=1, model=model, event=event, reason="no good", at="2026-01-01T00:00:00+00:00")


def few() -> Drift:
    drift = Drift()
    for picks in [772] * 7 + [45] * 10:
        drift.note(picks, 0.8)
    return drift


def with_facts(**values: Any) -> Facts:
    return msgspec.structs.replace(WELL, **values)


NOTHING_FITS = Inventory(passed_over={"not_included": Passed(12, "Movies/a.tif")})

CASES: list[tuple[str, dict[str, float], Facts]] = [
    ("FrazilWatchFault", {"frazil_watch_fault": 1}, WELL),
    ("FrazilOutputBlocked", {"frazil_output_blocked": 1}, WELL),
    (
        "FrazilDiskNearlyFull",
        {"frazil_disk_size_bytes{disk=out}": 100, "frazil_disk_free_bytes{disk=out}": 4},
        WELL,
    ),
    ("FrazilDiskNearlyFull", {"frazil_disk_free_inodes_ratio{disk=ledger}": 0.04}, WELL),
    ("FrazilCpuFallback", {"frazil_model_on_cpu": 1, "frazil_gpu_expected": 1}, WELL),
    ("FrazilNothingFits", {}, Facts(inventory=NOTHING_FITS)),
    ("FrazilBacklogGrowing", {"frazil_backlog_micrographs": 11, "frazil_backlog_age_seconds": 61}, WELL),
    ("FrazilNoMicrographs", {"frazil_watch_fault": 0}, with_facts(last_picked_at=NOW - 601)),
    ("FrazilFailures", {}, Facts(picked=10, failed=2)),
    ("FrazilFailures", {}, with_facts(picked=5000, failed=4, picked_lately=10, failed_lately=2)),
    ("FrazilFewPicks", {}, with_facts(drift=few())),
    ("FrazilPicksCollapsed", {}, with_facts(drift=drifting("picks", "down"))),
    ("FrazilPicksRisen", {}, with_facts(drift=drifting("picks", "up"))),
    ("FrazilScoresDrifted", {}, with_facts(drift=drifting("score", "down"))),
    ("FrazilScoresDrifted", {}, with_facts(drift=drifting("score", "up"))),
    ("FrazilModelRefused", {}, with_facts(change=change("refused"))),
    ("FrazilModelRefused", {}, with_facts(change=change("rolled_back"))),
    *(("", {f"frazil_doubt{{about={about}}}": 1.0}, WELL) for about in ("blank", "contrast", "diameter")),
    ("", {}, with_facts(pictures=("4096 × 4096 pixels of 1.77 Å", "512 × 512 pixels of 24 Å"))),
]

FINE: list[tuple[dict[str, float], Facts]] = [
    ({"frazil_doubt{about=blank}": 0.0, "frazil_doubt{about=contrast}": 0.0}, WELL),
    ({}, Facts()),
    ({}, WELL),
    ({"frazil_watch_fault": 0, "frazil_output_blocked": 0}, WELL),
    ({"frazil_disk_size_bytes{disk=out}": 100, "frazil_disk_free_bytes{disk=out}": 5}, WELL),
    ({"frazil_disk_size_bytes{disk=out}": 100, "frazil_disk_free_bytes{disk=out}": math.nan}, WELL),
    ({"frazil_model_on_cpu": 1, "frazil_gpu_expected": 0}, WELL),
    ({}, with_facts(inventory=NOTHING_FITS.__class__(taken=1, passed_over=NOTHING_FITS.passed_over))),
    ({}, Facts(inventory=Inventory(passed_over={"not_an_image": Passed(3, "a.xml"), "unfinished": Passed(1, ".a")}))),
    ({"frazil_backlog_micrographs": 10, "frazil_backlog_age_seconds": 600}, WELL),
    ({"frazil_backlog_micrographs": 100, "frazil_backlog_age_seconds": 60}, WELL),
    ({"frazil_watch_fault": 0}, with_facts(last_picked_at=NOW - 599)),
    ({"frazil_watch_fault": 0}, with_facts(last_picked_at=NOW - 601, picked_lately=5)),
    ({}, with_facts(last_picked_at=NOW - 601)),  # it does not run
    ({}, Facts(picked=18, failed=2)),
    ({}, Facts(picked=1, failed=1)),
    ({}, with_facts(change=change("loaded"))),
]


@pytest.mark.parametrize(("alert", "samples", "facts"), CASES)
def test_what_is_wrong_is_told_with_what_to_do(alert: str, samples: dict[str, float], facts: Facts) -> None:
    (found,) = find_troubles(samples, facts, NOW)
    assert found.alert == alert
    assert found.says
    assert found.todo


@pytest.mark.parametrize(("samples", "facts"), FINE)
def test_what_is_as_it_should_be_is_no_trouble(samples: dict[str, float], facts: Facts) -> None:
    assert find_troubles(samples, facts, NOW) == []


def test_what_stops_picking_comes_first() -> None:
    samples = {"frazil_model_on_cpu": 1.0, "frazil_gpu_expected": 1.0, "frazil_output_blocked": 1.0}
    assert [t.level for t in find_troubles(samples, Facts(picked=10, failed=2), NOW)] == ["fault", "warning", "warning"]
    assert [t.level for t in find_troubles(samples, None, NOW)] == ["fault", "fault", "warning"]


@pytest.fixture(scope="module")
def rules(repository: Path) -> dict[str, dict[str, Any]]:
    groups = yaml.safe_load((repository / "deploy" / "prometheus" / "frazil-rules.yml").read_text("utf-8"))["groups"]
    return {rule["alert"]: rule for group in groups for rule in group["rules"]}


# Nobody is there to tell of the first two; the third needs rates, which Prometheus alone has.
ONLY_PROMETHEUS = {"FrazilDown", "FrazilRestarts", "FrazilLatencyHigh"}


def test_each_alert_of_prometheus_is_a_trouble_too_and_as_grave(rules: dict[str, dict[str, Any]]) -> None:
    told: dict[str, Trouble] = {alert: find_troubles(samples, facts, NOW)[0] for alert, samples, facts in CASES}
    assert set(rules) == {alert for alert in told if alert} | ONLY_PROMETHEUS
    for alert, trouble in told.items():
        if alert:
            assert rules[alert]["labels"]["severity"] == {"fault": "critical", "warning": "warning"}[trouble.level]


def minutes(seconds: float) -> str:
    return f"[{seconds / 60:.0f}m]"


@pytest.mark.parametrize(
    ("alert", "limits"),
    [
        ("FrazilNoMicrographs", [minutes(troubles.QUIET_SECONDS), "[1h]", f"> {troubles.QUIET_LEAST}"]),
        (
            "FrazilBacklogGrowing",
            [
                f"frazil_backlog_micrographs > {troubles.BACKLOG_MICROGRAPHS}",
                f"frazil_backlog_age_seconds > {troubles.BACKLOG_SECONDS:g}",
            ],
        ),
        ("FrazilFailures", ["[1h]", f"> {troubles.FAILED_SHARE:g}", f">= {troubles.FAILED_LEAST}"]),
        ("FrazilDiskNearlyFull", [f"< {troubles.FREE_SHARE:g}"]),
    ],
)
def test_the_rules_of_prometheus_have_the_same_limits(
    rules: dict[str, dict[str, Any]], alert: str, limits: list[str]
) -> None:
    assert troubles.SESSION_SECONDS == 3600
    expression = " ".join(rules[alert]["expr"].split())
    compared = re.findall(r"(?<!=)(?:[<>]=?) ([\d.]+)", expression)
    assert [limit for limit in limits if limit not in expression] == []
    # and no other: but for the backlog's growth, each number in the rule is one of these
    allowed = {limit.rpartition(" ")[2] for limit in limits} | {"0"}
    assert set(compared) <= allowed


def test_facts_come_from_the_ledger(tmp_path: Path, make_document: Callable[..., MicrographDocument]) -> None:
    ledger = Ledger(tmp_path / "ledger.sqlite")
    stamp = FileStamp(size=1, mtime_ns=1)
    for name, pixel_size in (("a.mrc", 1.77), ("b.mrc", 1.77), ("c.mrc", 24.0)):
        document = msgspec.structs.replace(
            make_document(f"/d/{name}"), pixel_size_angstrom=pixel_size, picks=PickColumns(y=[], x=[], score=[])
        )
        ledger.commit_picked(
            name,
            Handled(stamp=stamp, fingerprint=name),
            lambda epoch, seq, supersedes, document=document: msgspec.json.encode(
                msgspec.structs.replace(document, epoch=epoch, seq=seq)
            ),
            score_map=None,
            complete_at_unix=time.time(),
        )
    ledger.remember(DRIFT_KEY, msgspec.json.encode(few()).decode())
    ledger.remember(INVENTORY_KEY, NOTHING_FITS.encode())
    with LedgerReader(ledger.file) as reader:
        facts = gather_facts(reader, {"picked": 3, "failed": 1, "quarantined": 2}, time.time())
        later = gather_facts(reader, {}, time.time() + 3601)
    ledger.close()
    assert (facts.picked, facts.failed, facts.picked_lately, later.picked_lately) == (3, 3, 3, 0)
    assert facts.drift.few
    assert facts.inventory == NOTHING_FITS
    assert [kind.rpartition(" of ")[2] for kind in facts.pictures] == ["24 Å", "1.77 Å"]
