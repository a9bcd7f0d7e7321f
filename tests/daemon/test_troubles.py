"""Troubles: what is wrong is told from the daemon's state and the ledger, worst first, with what to do."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import msgspec
import pytest
import yaml

from frazil.documents import MicrographDocument, ModelDocument, PickColumns, encode_document
from frazil.health.state import (
    DOUBTS,
    DaemonState,
    Disk,
    Doubt,
    IntakeState,
    ModelState,
    PickState,
    Quality,
    SessionState,
    WatchState,
)
from frazil.model import ModelIdentity
from frazil.page import troubles
from frazil.page.troubles import Facts, Trouble, find_troubles, gather_facts
from frazil.session.intake.passed_over import Inventory, Passed
from frazil.session.outbox.file_stamp import FileStamp
from frazil.session.outbox.ledger import DRIFT_KEY, INVENTORY_KEY, Handled, Ledger, LedgerReader
from frazil.session.pick.drift import Drift, QualityDrift

NOW = 1_000_000.0
WELL = Facts(picked=500, picked_lately=100, last_picked_at=NOW - 10, pictures=("4096 × 4096 pixels of 1.77 Å",))


def drifting(quantity: str, direction: str) -> Drift:
    drift = Drift()
    (drift.picks if quantity == "picks" else drift.score).drifting[direction] = True  # type: ignore[index]
    return drift


def quality_drifting(quantity: Quality, direction: str) -> QualityDrift:
    drift = QualityDrift()
    drift.charts[quantity].drifting[direction] = True  # type: ignore[index]
    return drift


def change(event: Any) -> ModelDocument:
    model = ModelIdentity(name="fcn", version=7, sha256="0" * 64)
    return ModelDocument(epoch="e", seq=1, model=model, event=event, reason="no good", at="2026-01-01T00:00:00+00:00")


def few() -> Drift:
    drift = Drift()
    for picks in [772] * 7 + [45] * 10:
        drift.note(picks, 0.8)
    return drift


def with_facts(**values: Any) -> Facts:
    return msgspec.structs.replace(WELL, **values)


NOTHING_FITS = Inventory(passed_over={"not_included": Passed(12, "Movies/a.tif")})


def state(model: ModelState | None = None, gpu_expected: bool = False, **session: Any) -> DaemonState:
    return DaemonState(model=model, gpu_expected=gpu_expected, sessions=(SessionState(**session),))


def doubt(about: Doubt) -> DaemonState:
    return state(pick=PickState(doubts=frozenset({about})))


NOT_RUNNING, RUNNING = DaemonState(), state()
NEARLY_FULL = Disk(free_bytes=4, size_bytes=100, free_inodes=1.0)
ON_CPU = ModelState(on_cpu=True)

CASES: list[tuple[str, DaemonState, Facts]] = [
    ("FrazilWatchFault", state(watch=WatchState(fault="nothing is mounted")), WELL),
    ("FrazilOutputBlocked", state(blocked="cannot write a.star (No space left on device)"), WELL),
    ("FrazilDiskNearlyFull", state(disks={"out": NEARLY_FULL}), WELL),
    ("FrazilDiskNearlyFull", state(disks={"out": Disk(), "ledger": Disk(free_inodes=0.04)}), WELL),
    ("FrazilCpuFallback", state(ON_CPU, gpu_expected=True), WELL),
    ("FrazilNothingFits", NOT_RUNNING, Facts(inventory=NOTHING_FITS)),
    ("FrazilBacklogGrowing", state(intake=IntakeState(backlog=11, backlog_seconds=61)), WELL),
    ("FrazilNoMicrographs", RUNNING, with_facts(last_picked_at=NOW - 601)),
    ("FrazilFailures", NOT_RUNNING, Facts(picked=10, failed=2)),
    ("FrazilFailures", NOT_RUNNING, with_facts(picked=5000, failed=4, picked_lately=10, failed_lately=2)),
    ("FrazilFewPicks", NOT_RUNNING, with_facts(drift=few())),
    ("FrazilPicksCollapsed", NOT_RUNNING, with_facts(drift=drifting("picks", "down"))),
    ("FrazilPicksRisen", NOT_RUNNING, with_facts(drift=drifting("picks", "up"))),
    ("FrazilScoresDrifted", NOT_RUNNING, with_facts(drift=drifting("score", "down"))),
    ("FrazilScoresDrifted", NOT_RUNNING, with_facts(drift=drifting("score", "up"))),
    ("FrazilBadMicrographs", NOT_RUNNING, with_facts(grades_lately={("bad", "carbon"): 5, ("good", ""): 11})),
    ("FrazilOutOfFocus", NOT_RUNNING, with_facts(grades_lately={("doubtful", "out of focus"): 5, ("good", ""): 11})),
    ("FrazilFocusDrifted", NOT_RUNNING, with_facts(quality=quality_drifting("defocus", "down"))),
    ("FrazilFocusDrifted", NOT_RUNNING, with_facts(quality=quality_drifting("defocus", "up"))),
    ("FrazilFocusDrifted", NOT_RUNNING, with_facts(quality=quality_drifting("resolution", "up"))),
    ("FrazilIceThicker", NOT_RUNNING, with_facts(quality=quality_drifting("ice", "up"))),
    ("FrazilJunkRisen", NOT_RUNNING, with_facts(quality=quality_drifting("junk", "up"))),
    ("FrazilModelRefused", NOT_RUNNING, with_facts(change=change("refused"))),
    ("FrazilModelRefused", NOT_RUNNING, with_facts(change=change("rolled_back"))),
    *(("", doubt(about), WELL) for about in DOUBTS),
    ("", NOT_RUNNING, with_facts(picks=(45, 50, 44, 772, 760, 790))),
    ("", NOT_RUNNING, with_facts(pictures=("4096 × 4096 pixels of 1.77 Å", "512 × 512 pixels of 24 Å"))),
]

FINE: list[tuple[DaemonState, Facts]] = [
    (NOT_RUNNING, Facts()),
    (NOT_RUNNING, WELL),
    (RUNNING, WELL),
    (state(disks={"out": Disk(free_bytes=5, size_bytes=100, free_inodes=1.0)}), WELL),
    (state(disks={"out": Disk()}), WELL),
    (state(disks={"out": Disk(free_bytes=0, size_bytes=0, free_inodes=1.0)}), WELL),
    (state(ON_CPU), WELL),
    (state(ModelState(), gpu_expected=True), WELL),
    (NOT_RUNNING, with_facts(inventory=NOTHING_FITS.__class__(taken=1, passed_over=NOTHING_FITS.passed_over))),
    (
        NOT_RUNNING,
        Facts(inventory=Inventory(passed_over={"not_an_image": Passed(3, "a.xml"), "unfinished": Passed(1, ".a")})),
    ),
    (state(intake=IntakeState(backlog=10, backlog_seconds=600)), WELL),
    (state(intake=IntakeState(backlog=100, backlog_seconds=60)), WELL),
    (state(intake=IntakeState(backlog=1)), with_facts(last_picked_at=NOW - 601)),
    (RUNNING, with_facts(last_picked_at=NOW - 599)),
    (RUNNING, with_facts(last_picked_at=NOW - 601, picked_lately=5)),
    (NOT_RUNNING, with_facts(last_picked_at=NOW - 601)),
    (NOT_RUNNING, Facts(picked=18, failed=2)),
    (NOT_RUNNING, Facts(picked=1, failed=1)),
    (NOT_RUNNING, with_facts(change=change("loaded"))),
    (NOT_RUNNING, with_facts(grades_lately={("bad", "carbon"): 4, ("good", ""): 1})),
    (NOT_RUNNING, with_facts(grades_lately={("bad", "out of focus"): 6, ("good", ""): 14})),
    (NOT_RUNNING, with_facts(quality=quality_drifting("ice", "down"))),
    (NOT_RUNNING, with_facts(quality=quality_drifting("resolution", "down"))),
    (NOT_RUNNING, with_facts(picks=(45, 700, 710, 772, 760, 790))),
    (NOT_RUNNING, with_facts(picks=(45, 50, 44, 772, 760))),
]


@pytest.mark.parametrize(("alert", "now", "facts"), CASES)
def test_what_is_wrong_is_told_with_what_to_do(alert: str, now: DaemonState, facts: Facts) -> None:
    (found,) = find_troubles(now, facts, NOW)
    assert found.alert == alert
    assert found.says
    assert found.todo


@pytest.mark.parametrize(("now", "facts"), FINE)
def test_what_is_as_it_should_be_is_no_trouble(now: DaemonState, facts: Facts) -> None:
    assert find_troubles(now, facts, NOW) == []


def test_what_stops_picking_comes_first() -> None:
    now = state(ON_CPU, gpu_expected=True, blocked="cannot write")
    assert [t.level for t in find_troubles(now, Facts(picked=10, failed=2), NOW)] == ["fault", "warning", "warning"]
    assert [t.level for t in find_troubles(now, None, NOW)] == ["fault", "fault", "warning"]


def test_a_full_disk_hides_no_other_trouble() -> None:
    now = state(ON_CPU, gpu_expected=True, disks={"out": NEARLY_FULL, "ledger": NEARLY_FULL})
    assert [t.alert for t in find_troubles(now, WELL, NOW)] == ["FrazilDiskNearlyFull", "FrazilCpuFallback"]


@pytest.fixture(scope="module")
def rules(repository: Path) -> dict[str, dict[str, Any]]:
    groups = yaml.safe_load((repository / "deploy" / "prometheus" / "frazil-rules.yml").read_text("utf-8"))["groups"]
    return {rule["alert"]: rule for group in groups for rule in group["rules"]}


# Nobody is there to tell of the first two; the third needs rates, which Prometheus alone has.
ONLY_PROMETHEUS = {"FrazilDown", "FrazilRestarts", "FrazilLatencyHigh"}


def test_each_alert_of_prometheus_is_a_trouble_too_and_as_grave(rules: dict[str, dict[str, Any]]) -> None:
    told: dict[str, Trouble] = {alert: find_troubles(now, facts, NOW)[0] for alert, now, facts in CASES}
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
        ("FrazilBadMicrographs", ["[1h]", f"> {troubles.BAD_SHARE:g}", f">= {troubles.BAD_LEAST}"]),
        ("FrazilOutOfFocus", ["[1h]", f"> {troubles.BAD_SHARE:g}", f">= {troubles.BAD_LEAST}"]),
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
    assert facts.picks == (0, 0, 0)
    assert [kind.rpartition(" of ")[2] for kind in facts.pictures] == ["24 Å", "1.77 Å"]


def test_junk_that_is_not_looked_for_and_a_refused_model_of_it_are_said_beside_the_pickers() -> None:
    refused = msgspec.structs.replace(change("refused"), finds="junk")
    serves = ModelState(name="junk", version=1)
    without = find_troubles(state(finds_junk=True), with_facts(junk_change=refused), NOW)
    assert [one.says for one in without] == ["Junk is not looked for: no model that finds it can serve"]
    assert without[0].todo == "no good"
    (beside,) = find_troubles(state(finds_junk=True, junk_model=serves), with_facts(junk_change=refused), NOW)
    assert beside.says == "The model fcn/7 that finds junk was refused"
    assert find_troubles(state(finds_junk=True, junk_model=serves), WELL, NOW) == []
    assert find_troubles(state(), WELL, NOW) == []


def test_a_change_of_one_model_does_not_hide_that_of_the_other(tmp_path: Path) -> None:
    with closing(Ledger(tmp_path / "ledger")) as ledger:

        def commit(document: ModelDocument) -> None:
            ledger.commit_document(
                "model", lambda epoch, seq: encode_document(msgspec.structs.replace(document, epoch=epoch, seq=seq))
            )

        commit(change("refused"))
        commit(msgspec.structs.replace(change("loaded"), finds="junk"))
        with LedgerReader(ledger.file) as reader:
            facts = gather_facts(reader, {}, NOW)
    assert facts.change is not None
    assert facts.junk_change is not None
    assert (facts.change.event, facts.junk_change.event) == ("refused", "loaded")
