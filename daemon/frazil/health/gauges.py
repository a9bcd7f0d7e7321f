"""The state as gauges of Prometheus: nobody sets them, they are made of the state at each scrape."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TypeVar

import msgspec
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from frazil.health.samples import START_TIME
from frazil.health.state import (
    DOUBTS,
    AssessState,
    ChartState,
    DaemonState,
    Departure,
    DriftState,
    IntakeState,
    ModelState,
    PickState,
    Quality,
    SessionState,
    ThresholdState,
    WatchState,
)

__all__ = ["StateGauges"]

Values = TypeVar("Values", bound=str | tuple[str, ...])
"""Of the labels of one sample."""

_METRES: dict[Quality, float] = {"defocus": 1e-6, "resolution": 1e-10}
"""In a unit of the state's charts."""
_MOST_SESSIONS = 100
"""Sessions that are shown by name. More can be open at a time only if somebody opened old ones."""


class StateGauges(Collector):
    """Shows the state to Prometheus.

    Those of a session show all open ones together: what is counted is added up, and of what may be wrong the worst is
    shown. A few, ``frazil_session_*``, show each by its name while it is open or waits to be, and no longer: sessions
    come for years, and the number of series must not grow with them.

    Args:
        state: asked at each scrape.
    """

    def __init__(self, state: Callable[[], DaemonState]) -> None:
        self._state = state

    def collect(self) -> Iterator[Metric]:
        """All gauges; those of a session are there, at 0, before there is one."""
        state = self._state()
        session = _in_all(state.sessions)
        yield from _of_the_daemon(state)
        yield from _of_the_sessions(state)
        yield from _of_the_model(state.model)
        yield _model_info(
            "frazil_junk_model_info",
            "The model that finds junk and the execution provider that runs it; always 1.",
            next((one.junk_model for one in state.sessions if one.junk_model is not None), None),
        )
        yield from _of_the_session(session)
        yield from _of_drift(session.pick.drift)
        yield from _of_assessing(session.assess)
        yield from _of_each_session(state.sessions)


def _of_the_daemon(state: DaemonState) -> Iterator[GaugeMetricFamily]:
    yield _labelled(
        "frazil_build_info", "Version of frazil; always 1.", ["version"], {state.version: 1} if state.version else {}
    )
    yield _gauge(START_TIME, "When this daemon was ready, in seconds of Unix time.", state.started_at or 0)
    yield _gauge("frazil_stream_subscribers", "Connections to the pick stream.", state.subscribers)
    yield _gauge(
        "frazil_gpu_expected",
        "1 where the model should run on a GPU: one is asked for, or there to be used.",
        state.gpu_expected,
    )
    gpus = {str(index): gpu for index, gpu in state.gpus.items()}
    yield _labelled(
        "frazil_gpu_memory_used_bytes",
        "Memory of a GPU in use, by whatever program.",
        ["gpu"],
        {index: gpu.used_bytes for index, gpu in gpus.items()},
    )
    yield _labelled(
        "frazil_gpu_memory_bytes", "Memory of a GPU.", ["gpu"], {index: gpu.bytes for index, gpu in gpus.items()}
    )


def _of_the_sessions(state: DaemonState) -> Iterator[GaugeMetricFamily]:
    counts = Counter({"open": 0, "waiting": 0, "paused": 0, "closed": state.closed_sessions})
    counts.update(session.status for session in state.sessions)
    yield _labelled("frazil_sessions", "Sessions, by what they are at.", ["status"], counts)


def _of_each_session(sessions: Sequence[SessionState]) -> Iterator[Metric]:
    shown = [session for session in sessions if session.status in ("open", "waiting")]
    shown = sorted(shown, key=lambda session: session.pick.last_picked_at or 0.0, reverse=True)[:_MOST_SESSIONS]
    opened = {session.name: session for session in shown if session.status == "open"}
    yield _labelled(
        "frazil_session_info",
        "A session that is open or waits to be, by what it is at; always 1.",
        ["session", "status"],
        {(session.name, session.status): 1 for session in shown},
    )
    micrographs = CounterMetricFamily(
        "frazil_session_micrographs",
        "Micrographs of an open session that were handled, by outcome (picked, failed).",
        labels=["session", "outcome"],
    )
    picks = CounterMetricFamily("frazil_session_picks", "Picks made in an open session.", labels=["session"])
    for name, session in opened.items():
        micrographs.add_metric([name, "picked"], session.pick.picked)
        micrographs.add_metric([name, "failed"], session.pick.failed)
        picks.add_metric([name], session.pick.picks)
    yield micrographs
    yield picks
    yield _labelled(
        "frazil_session_backlog_micrographs",
        "Complete micrographs of an open session that have no result yet.",
        ["session"],
        {name: session.intake.backlog for name, session in opened.items()},
    )
    yield _labelled(
        "frazil_session_last_micrograph_timestamp_seconds",
        "When the last micrograph of an open session was picked; 0 before the first.",
        ["session"],
        {name: session.pick.last_picked_at or 0 for name, session in opened.items()},
    )
    yield _labelled(
        "frazil_session_blocked",
        "1 while an open session waits since its directory cannot be seen, or its results cannot be written.",
        ["session"],
        {name: session.waits_for != "" for name, session in opened.items()},
    )
    yield _labelled(
        "frazil_session_drift",
        "1 while picks, scores or quality of an open session have drifted from its baseline, or there are hardly any "
        "picks.",
        ["session"],
        {name: _has_drifted(session.pick.drift) for name, session in opened.items()},
    )


def _of_the_model(model: ModelState | None) -> Iterator[GaugeMetricFamily]:
    yield _model_info(
        "frazil_model_info", "The serving model and the execution provider that runs it; always 1.", model
    )
    yield _gauge(
        "frazil_model_on_cpu",
        "1 while the CPU does most or the heaviest of the model's work.",
        model is not None and model.on_cpu,
    )
    yield _labelled(
        "frazil_model_nodes",
        "Nodes of the serving model, by the execution provider that was seen to run them.",
        ["provider"],
        model.nodes if model else {},
    )


def _model_info(name: str, says: str, model: ModelState | None) -> GaugeMetricFamily:
    return _labelled(
        name,
        says,
        ["name", "version", "sha256", "provider", "precision"],
        {(model.name, str(model.version), model.sha256, model.provider, model.precision): 1} if model else {},
    )


def _in_all(sessions: Sequence[SessionState]) -> SessionState:
    """The open sessions as one: sums, and the worst of what may be wrong."""
    found = [session for session in sessions if session.status == "open"]
    if len(found) <= 1:
        return found[0] if found else SessionState()
    watches, intakes, picks = ([getattr(s, part) for s in found] for part in ("watch", "intake", "pick"))
    worst = max(found, key=lambda session: _evidence(session.pick.drift))
    scans = [watch.scanned_at for watch in watches if watch.scanned_at is not None]
    return SessionState(
        watch=WatchState(
            fault=next((watch.fault for watch in watches if watch.fault), ""),
            follows_events=all(watch.follows_events for watch in watches),
            scanned_at=min(scans, default=None),
            listed=sum(watch.listed for watch in watches),
            taken=sum(watch.taken for watch in watches),
            passed_over=dict(sum((Counter(watch.passed_over) for watch in watches), Counter())),
        ),
        intake=IntakeState(
            incomplete=sum(intake.incomplete for intake in intakes),
            backlog=sum(intake.backlog for intake in intakes),
            backlog_seconds=max(intake.backlog_seconds for intake in intakes),
        ),
        pick=PickState(
            doing=next((pick.doing for pick in picks if pick.doing), ""),
            read=sum(pick.read for pick in picks),
            pick=sum(pick.pick for pick in picks),
            write=sum(pick.write for pick in picks),
            last_picked_at=max((pick.last_picked_at for pick in picks if pick.last_picked_at), default=None),
            doubts=frozenset().union(*(pick.doubts for pick in picks)),
            threshold=min((pick.threshold for pick in picks), key=_expected_precision),
            drift=msgspec.structs.replace(worst.pick.drift, few=any(pick.drift.few for pick in picks)),
        ),
        assess=AssessState(
            is_on=any(session.assess.is_on for session in found),
            waiting=sum(session.assess.waiting for session in found),
            assessed=sum(session.assess.assessed for session in found),
            failed=sum(session.assess.failed for session in found),
        ),
        blocked=next((session.blocked for session in found if session.blocked), ""),
        ledger_head=sum(session.ledger_head for session in found),
        disks=found[0].disks,
    )


def _expected_precision(threshold: ThresholdState) -> float:
    return 1.0 if threshold.precision is None else threshold.precision


def _evidence(drift: DriftState) -> float:
    return max(side.evidence for side in _sides(drift))


def _has_drifted(drift: DriftState) -> bool:
    return drift.few or any(side.drifting for side in _sides(drift))


def _sides(drift: DriftState) -> tuple[Departure, ...]:
    charts = (drift.picks, drift.score, *drift.quality.values())
    return tuple(side for chart in charts for side in (chart.down, chart.up))


def _of_the_session(session: SessionState) -> Iterator[GaugeMetricFamily]:
    watch, intake, pick = session.watch, session.intake, session.pick
    yield _gauge("frazil_watch_fault", "1 while the watched directory cannot be seen.", watch.fault != "")
    yield _gauge(
        "frazil_watching_events",
        "1 while file events are followed, 0 while only scans find files.",
        watch.follows_events,
    )
    yield _gauge(
        "frazil_last_scan_timestamp_seconds",
        "When the last scan of the watched directory ended.",
        watch.scanned_at or 0,
    )
    yield _gauge("frazil_scan_listed_names", "Names listed by the last scan of the watched directory.", watch.listed)
    yield _gauge("frazil_taken_names", "Names in the watched directory that are taken for micrographs.", watch.taken)
    yield _labelled(
        "frazil_passed_over_names",
        "Names of files and folders in the watched directory that are passed over, by reason.",
        ["reason"],
        watch.passed_over,
    )
    yield _labelled("frazil_queue_depth", "Micrographs in a queue.", ["queue"], session.queues)
    yield _gauge("frazil_backlog_micrographs", "Complete micrographs that have no result yet.", intake.backlog)
    yield _gauge(
        "frazil_backlog_age_seconds", "Time that the oldest of them has waited; 0 without any.", intake.backlog_seconds
    )
    yield _gauge(
        "frazil_last_micrograph_timestamp_seconds", "When the last micrograph was picked.", pick.last_picked_at or 0
    )
    threshold = pick.threshold
    yield _gauge("frazil_threshold", "Lowest figure of merit of a pick, of the serving model.", threshold.value)
    yield _gauge(
        "frazil_estimated_precision",
        "Estimated fraction of the picks that are particles; NaN where frazil did not choose the threshold.",
        threshold.precision,
    )
    yield _gauge(
        "frazil_threshold_micrographs",
        "Micrographs that frazil's choice of the threshold rests on; 0 where it did not choose.",
        threshold.micrographs,
    )
    yield _gauge("frazil_threshold_held", "1 while the threshold that frazil chose is held.", threshold.held)
    yield _gauge("frazil_output_blocked", "1 while results cannot be written and picking waits.", session.blocked != "")
    yield _gauge("frazil_ledger_sequence", "Sequence number of the newest document.", session.ledger_head)
    yield _labelled(
        "frazil_doubt",
        "1 while the micrographs speak against the settings: much of the last one holds no data (blank), particles "
        "look the other way round (contrast), or too few would fit and nothing was picked (diameter).",
        ["about"],
        {about: about in pick.doubts for about in DOUBTS},
    )
    disks = session.disks
    yield _labelled(
        "frazil_disk_free_bytes",
        "Room that frazil may use on the disk of the results (out) and of the ledger.",
        ["disk"],
        {name: disk.free_bytes for name, disk in disks.items()},
    )
    yield _labelled(
        "frazil_disk_size_bytes",
        "Size of these disks.",
        ["disk"],
        {name: disk.size_bytes for name, disk in disks.items()},
    )
    yield _labelled(
        "frazil_disk_free_inodes_ratio",
        "Share of the disk's inodes that are free; 1 where the file system does not count them.",
        ["disk"],
        {name: disk.free_inodes for name, disk in disks.items()},
    )


def _of_drift(drift: DriftState) -> Iterator[GaugeMetricFamily]:
    charts: dict[str, ChartState] = {
        "picks": drift.picks,
        "score": drift.score,
        **{str(which): chart for which, chart in drift.quality.items()},
    }
    departures = {
        (quantity, direction): departure
        for quantity, chart in charts.items()
        for direction, departure in (("down", chart.down), ("up", chart.up))
    }
    yield _labelled(
        "frazil_drift",
        "1 while picks per micrograph, their mean score, or what assessments say, have drifted from the session's "
        "baseline.",
        ["quantity", "direction"],
        {which: departure.drifting for which, departure in departures.items()},
    )
    yield _gauge(
        "frazil_few_picks",
        "1 while, before there is a baseline, the last micrographs have hardly any picks beside those before.",
        drift.few,
    )
    yield _labelled(
        "frazil_drift_evidence_ratio",
        "What has added up against the baseline, as a share of that at which drift begins.",
        ["quantity", "direction"],
        {which: departure.evidence for which, departure in departures.items()},
    )
    yield _labelled(
        "frazil_baseline_micrographs",
        "Micrographs in the session's baseline, which grows until drift can be told.",
        ["quantity"],
        {quantity: chart.baseline_micrographs for quantity, chart in charts.items()},
    )
    yield _gauge(
        "frazil_baseline_picks",
        "Median picks of the baseline's micrographs; NaN until it is complete.",
        drift.picks.usual,
    )
    yield _gauge(
        "frazil_baseline_score",
        "Median mean score of the baseline's micrographs; NaN until it is complete.",
        drift.score.usual,
    )
    yield _labelled(
        "frazil_baseline_quality",
        "Median of the baseline's micrographs: defocus and resolution (in metres), ice (mean free paths), shares of "
        "junk and of bad micrographs; NaN until it is complete.",
        ["quantity"],
        {
            quantity: None if chart.usual is None else chart.usual * _METRES.get(quantity, 1.0)
            for quantity, chart in drift.quality.items()
        },
    )


def _of_assessing(assess: AssessState) -> Iterator[GaugeMetricFamily]:
    yield _gauge("frazil_assessing", "1 while micrographs are assessed after they were picked.", assess.is_on)
    yield _gauge("frazil_unassessed_micrographs", "Micrographs with picks that wait to be assessed.", assess.waiting)


def _gauge(name: str, says: str, value: float | None) -> GaugeMetricFamily:
    return GaugeMetricFamily(name, says, value=_number(value))


def _labelled(name: str, says: str, labels: Sequence[str], values: Mapping[Values, float | None]) -> GaugeMetricFamily:
    family = GaugeMetricFamily(name, says, labels=labels)
    for given, value in values.items():
        family.add_metric([given] if isinstance(given, str) else given, _number(value))
    return family


def _number(value: float | None) -> float:
    return math.nan if value is None else float(value)
