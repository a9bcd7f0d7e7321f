"""Metrics: named by convention, each in the docs, and what the state says."""

from __future__ import annotations

import math
import re
from pathlib import Path

import msgspec
import prometheus_client

from frazil.errors import MICROGRAPH_REASONS, MODEL_REASONS
from frazil.health.metrics import STAGES, Metrics
from frazil.health.samples import parse_samples
from frazil.health.state import (
    AssessState,
    ChartState,
    DaemonState,
    Departure,
    Disk,
    DriftState,
    Gpu,
    IntakeState,
    ModelState,
    PickState,
    SessionState,
    ThresholdState,
    WatchState,
)

Exported = dict[str, tuple[str, list[str]]]


def test_names_follow_prometheus_conventions(exported_metrics: Exported) -> None:
    for name in exported_metrics:
        assert name.startswith("frazil_")
        assert re.fullmatch(r"[a-z_]+", name)
        assert not re.search(r"_(ms|milliseconds|minutes|angstroms?|percent)$", name)


def documented(repository: Path) -> Exported:
    """Type and labels of each metric in the docs' tables."""
    text = (repository / "docs" / "reference" / "metrics.md").read_text("utf-8")
    rows = re.findall(r"^\| `(\w+)` \| (\w+) \|([^|]*)\|", text, re.MULTILINE)
    assert len(rows) == len({name for name, _, _ in rows})
    return {name: (kind, re.findall(r"\w+", labels)) for name, kind, labels in rows}


def test_the_metrics_in_the_docs_are_those_there_are_with_their_types_and_labels(
    repository: Path, exported_metrics: Exported
) -> None:
    assert documented(repository) == exported_metrics


def test_no_metric_is_named_outside_the_metrics(repository: Path, exported_metrics: Exported) -> None:
    names = "|".join(sorted(name.removesuffix("_total") for name in exported_metrics))
    sources = repository / "daemon" / "frazil"
    naming = {
        str(file.relative_to(sources)): found
        for file in sources.rglob("*")
        if file.suffix in (".py", ".js", ".html")
        and "health" not in file.relative_to(sources).parts
        and (found := re.findall(rf"\b(?:{names})", file.read_text("utf-8")))
    }
    assert naming == {}


def test_every_outcome_is_there_from_the_start() -> None:
    registry = Metrics(prometheus_client.CollectorRegistry()).registry
    for reason in MICROGRAPH_REASONS:
        assert registry.get_sample_value("frazil_micrographs_total", {"outcome": "failed", "reason": reason}) == 0
    for reason in MODEL_REASONS:
        assert registry.get_sample_value("frazil_model_changes_total", {"event": "refused", "reason": reason}) == 0
    for stage in STAGES:
        assert registry.get_sample_value("frazil_stage_duration_seconds_count", {"stage": stage}) == 0


def shown(state: DaemonState) -> dict[str, float]:
    registry = Metrics(prometheus_client.CollectorRegistry(), lambda: state).registry
    samples = parse_samples(prometheus_client.generate_latest(registry).decode())
    return {name: value for name, value in samples.items() if "_created" not in name}


def test_what_the_state_says_is_shown_at_each_scrape() -> None:
    chart = ChartState(baseline_micrographs=30, usual=310.0, down=Departure(evidence=1.0, drifting=True))
    session = SessionState(
        watch=WatchState(
            fault="away", follows_events=True, scanned_at=7.5, listed=9, taken=8, passed_over={"excluded": 1, "link": 0}
        ),
        intake=IntakeState(incomplete=1, backlog=5, backlog_seconds=2.5),
        pick=PickState(
            read=2,
            pick=3,
            write=4,
            last_picked_at=6.5,
            doubts=frozenset({"contrast"}),
            drift=DriftState(few=True, picks=chart, quality={"defocus": msgspec.structs.replace(chart, usual=1.5)}),
            threshold=ThresholdState(value=0.5, by="frazil", precision=0.875, micrographs=20, held=True),
        ),
        assess=AssessState(is_on=True, waiting=6),
        blocked="the disk is full",
        ledger_head=42,
        disks={"out": Disk(free_bytes=10, size_bytes=100, free_inodes=0.5), "ledger": Disk()},
    )
    model = ModelState(
        name="fcn", version=2, sha256="ab", provider="CUDA", precision="int8", on_cpu=True, nodes={"CUDA": 9, "CPU": 1}
    )
    state = DaemonState(
        version="1.2",
        started_at=3.25,
        model=model,
        gpu_expected=True,
        gpus={1: Gpu(used_bytes=5, bytes=6)},
        subscribers=7,
        sessions=(session,),
    )
    none, of_all = shown(DaemonState()), {name: v for name, v in shown(state).items() if "_session_" not in name}
    assert {name: repr(value) for name, value in of_all.items() if none.get(name) != value} == {
        name: repr(float(value))
        for name, value in {
            "frazil_build_info{version=1.2}": 1,
            "frazil_start_time_seconds": 3.25,
            "frazil_sessions{status=open}": 1,
            "frazil_stream_subscribers": 7,
            "frazil_gpu_expected": 1,
            "frazil_gpu_memory_used_bytes{gpu=1}": 5,
            "frazil_gpu_memory_bytes{gpu=1}": 6,
            "frazil_model_info{name=fcn,precision=int8,provider=CUDA,sha256=ab,version=2}": 1,
            "frazil_model_on_cpu": 1,
            "frazil_model_nodes{provider=CUDA}": 9,
            "frazil_model_nodes{provider=CPU}": 1,
            "frazil_watch_fault": 1,
            "frazil_watching_events": 1,
            "frazil_last_scan_timestamp_seconds": 7.5,
            "frazil_scan_listed_names": 9,
            "frazil_taken_names": 8,
            "frazil_passed_over_names{reason=excluded}": 1,
            "frazil_passed_over_names{reason=link}": 0,
            "frazil_queue_depth{queue=incomplete}": 1,
            "frazil_queue_depth{queue=read}": 2,
            "frazil_queue_depth{queue=pick}": 3,
            "frazil_queue_depth{queue=write}": 4,
            "frazil_backlog_micrographs": 5,
            "frazil_backlog_age_seconds": 2.5,
            "frazil_last_micrograph_timestamp_seconds": 6.5,
            "frazil_threshold": 0.5,
            "frazil_estimated_precision": 0.875,
            "frazil_threshold_micrographs": 20,
            "frazil_threshold_held": 1,
            "frazil_output_blocked": 1,
            "frazil_ledger_sequence": 42,
            "frazil_doubt{about=contrast}": 1,
            "frazil_disk_free_bytes{disk=out}": 10,
            "frazil_disk_size_bytes{disk=out}": 100,
            "frazil_disk_free_inodes_ratio{disk=out}": 0.5,
            "frazil_disk_free_bytes{disk=ledger}": math.nan,
            "frazil_disk_size_bytes{disk=ledger}": math.nan,
            "frazil_disk_free_inodes_ratio{disk=ledger}": math.nan,
            "frazil_drift{direction=down,quantity=picks}": 1,
            "frazil_drift_evidence_ratio{direction=down,quantity=picks}": 1,
            "frazil_drift{direction=down,quantity=defocus}": 1,
            "frazil_drift_evidence_ratio{direction=down,quantity=defocus}": 1,
            "frazil_baseline_micrographs{quantity=defocus}": 30,
            "frazil_baseline_quality{quantity=defocus}": 1.5e-6,
            "frazil_assessing": 1,
            "frazil_unassessed_micrographs": 6,
            "frazil_few_picks": 1,
            "frazil_baseline_micrographs{quantity=picks}": 30,
            "frazil_baseline_picks": 310,
            "frazil_baseline_score": math.nan,
        }.items()
    }


def test_a_model_that_took_the_place_of_another_is_shown_alone() -> None:
    states = iter(DaemonState(model=ModelState(name="fcn", version=version)) for version in (1, 2))
    registry = Metrics(prometheus_client.CollectorRegistry(), lambda: next(states)).registry
    for version in ("1", "2"):
        samples = parse_samples(prometheus_client.generate_latest(registry).decode())
        (named,) = (name for name in samples if name.startswith("frazil_model_info"))
        assert f"version={version}" in named


def test_several_sessions_are_added_up_and_the_worst_is_shown() -> None:
    drifting = DriftState(picks=ChartState(usual=300.0, up=Departure(evidence=1.5, drifting=True)))
    sessions = (
        SessionState(
            name="a",
            watch=WatchState(follows_events=True, scanned_at=9.0, passed_over={"link": 2}),
            intake=IntakeState(backlog=5, backlog_seconds=2.0),
            pick=PickState(read=1, last_picked_at=3.0, drift=drifting, threshold=ThresholdState(value=0.4)),
            ledger_head=10,
        ),
        SessionState(
            name="b",
            watch=WatchState(fault="away", scanned_at=4.0, passed_over={"link": 1, "excluded": 7}),
            intake=IntakeState(backlog=1, backlog_seconds=8.0),
            pick=PickState(
                read=2,
                last_picked_at=5.0,
                doubts=frozenset({"blank"}),
                threshold=ThresholdState(value=0.6, by="frazil", precision=0.75),
            ),
            blocked="the disk is full",
            ledger_head=4,
        ),
        SessionState(name="c", status="waiting", says="its diameter is not known"),
    )
    found = shown(DaemonState(sessions=sessions, closed_sessions=40))
    expected = {
        "frazil_sessions{status=open}": 2,
        "frazil_sessions{status=waiting}": 1,
        "frazil_sessions{status=closed}": 40,
        "frazil_watch_fault": 1,
        "frazil_watching_events": 0,
        "frazil_last_scan_timestamp_seconds": 4,
        "frazil_passed_over_names{reason=link}": 3,
        "frazil_passed_over_names{reason=excluded}": 7,
        "frazil_threshold": 0.6,
        "frazil_estimated_precision": 0.75,
        "frazil_backlog_micrographs": 6,
        "frazil_backlog_age_seconds": 8,
        "frazil_queue_depth{queue=read}": 3,
        "frazil_last_micrograph_timestamp_seconds": 5,
        "frazil_output_blocked": 1,
        "frazil_doubt{about=blank}": 1,
        "frazil_drift{direction=up,quantity=picks}": 1,
        "frazil_baseline_picks": 300,
        "frazil_ledger_sequence": 14,
    }
    assert {name: float(found[name]) for name in expected} == expected
    assert all(name.startswith("frazil_session_") for name in found if "session=" in name)


def test_each_session_is_shown_by_name_while_it_is_open_or_waits() -> None:
    drifting = DriftState(score=ChartState(down=Departure(drifting=True)))
    sessions = (
        SessionState(name="a", pick=PickState(picked=3, failed=1, picks=900, last_picked_at=7.5, drift=drifting)),
        SessionState(name="b", intake=IntakeState(backlog=5), blocked="the disk is full"),
        SessionState(name="c", status="waiting"),
        SessionState(name="d", status="paused"),
    )
    found = {name: value for name, value in shown(DaemonState(sessions=sessions)).items() if "_session_" in name}
    assert found == {
        "frazil_session_info{session=a,status=open}": 1,
        "frazil_session_info{session=b,status=open}": 1,
        "frazil_session_info{session=c,status=waiting}": 1,
        "frazil_session_micrographs_total{outcome=picked,session=a}": 3,
        "frazil_session_micrographs_total{outcome=failed,session=a}": 1,
        "frazil_session_micrographs_total{outcome=picked,session=b}": 0,
        "frazil_session_micrographs_total{outcome=failed,session=b}": 0,
        "frazil_session_picks_total{session=a}": 900,
        "frazil_session_picks_total{session=b}": 0,
        "frazil_session_backlog_micrographs{session=a}": 0,
        "frazil_session_backlog_micrographs{session=b}": 5,
        "frazil_session_last_micrograph_timestamp_seconds{session=a}": 7.5,
        "frazil_session_last_micrograph_timestamp_seconds{session=b}": 0,
        "frazil_session_blocked{session=a}": 0,
        "frazil_session_blocked{session=b}": 1,
        "frazil_session_drift{session=a}": 1,
        "frazil_session_drift{session=b}": 0,
    }


def test_however_many_sessions_are_open_a_hundred_are_shown_those_that_picked_last() -> None:
    sessions = tuple(SessionState(name=f"s{n}", pick=PickState(last_picked_at=float(n))) for n in range(130))
    found = shown(DaemonState(sessions=sessions))
    named = {name for name in found if name.startswith("frazil_session_picks_total")}
    assert named == {f"frazil_session_picks_total{{session=s{n}}}" for n in range(30, 130)}
    assert found["frazil_sessions{status=open}"] == 130
