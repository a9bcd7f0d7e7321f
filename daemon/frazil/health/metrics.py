"""What the daemon shows to Prometheus."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from frazil.documents import MicrographDocument
from frazil.errors import MICROGRAPH_REASONS, MODEL_REASONS, TRANSIENT_REASONS
from frazil.health.doubt_metrics import DoubtMetrics
from frazil.health.drift_metrics import DriftMetrics
from frazil.health.logs import event
from frazil.health.resource_metrics import ResourceMetrics
from frazil.model import Batches, ModelIdentity
from frazil.model.runtime import Placement
from frazil.picking import Picks

__all__ = ["STAGES", "Metrics"]

log = logging.getLogger(__name__)

STAGES = ("settle", "wait", "read", "prepare", "infer", "peaks", "deliver")
"""Where a micrograph's time goes, from its file closed to its document sent."""

_STAGE_BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)
_LATENCY_BUCKETS = (0.1, 0.25, 0.5, 1, 2, 5, 10, 30, 60, 300)
_PICKS_BUCKETS = (0, 1, 5, 10, 25, 50, 100, 200, 300, 500, 750, 1000, 2000, 5000)
_SCORE_BUCKETS = tuple(round(0.1 * i, 1) for i in range(1, 11))


class Metrics:
    """All metrics of one daemon, on a registry of its own."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.registry = registry
        self.micrographs = Counter(
            "frazil_micrographs",
            "Micrographs handled, by outcome (picked, failed) and, for failures, reason.",
            ["outcome", "reason"],
            registry=registry,
        )
        self.retries = Counter(
            "frazil_retries",
            "Attempts that failed and are made again, by reason.",
            ["reason"],
            registry=registry,
        )
        self.picks = Counter("frazil_picks", "Picks made.", registry=registry)
        self.picks_per_micrograph = Histogram(
            "frazil_micrograph_picks", "Picks in one micrograph.", buckets=_PICKS_BUCKETS, registry=registry
        )
        self.pick_scores = Histogram(
            "frazil_pick_score", "Figure of merit of one pick.", buckets=_SCORE_BUCKETS, registry=registry
        )
        self.micrograph_scores = Histogram(
            "frazil_micrograph_score",
            "Mean figure of merit of a micrograph's picks.",
            buckets=_SCORE_BUCKETS,
            registry=registry,
        )
        self.drift = DriftMetrics(registry)
        self.doubts = DoubtMetrics(registry)
        self.stage = Histogram(
            "frazil_stage_duration_seconds",
            f"Time of one micrograph in a stage ({', '.join(STAGES)}).",
            ["stage"],
            buckets=_STAGE_BUCKETS,
            registry=registry,
        )
        self.latency = Histogram(
            "frazil_latency_seconds",
            "Time from a micrograph's file closed to its document sent, but for those there at the start.",
            buckets=_LATENCY_BUCKETS,
            registry=registry,
        )
        self.last_micrograph = Gauge(
            "frazil_last_micrograph_timestamp_seconds", "When the last micrograph was picked.", registry=registry
        )
        self.batches = Counter("frazil_model_batches", "Batches that the model scored.", registry=registry)
        self.tiles = Counter("frazil_model_tiles", "Tiles in these batches.", registry=registry)
        self.tiles_room = Counter(
            "frazil_model_tiles_room", "Tiles that there was room for in these batches.", registry=registry
        )
        self.output_blocked = Gauge(
            "frazil_output_blocked", "1 while results cannot be written and picking waits.", registry=registry
        )
        self.found = Counter(
            "frazil_micrographs_found",
            "Complete new micrographs, by what told of them first (event, scan).",
            ["by"],
            registry=registry,
        )
        self.scan_duration = Histogram(
            "frazil_scan_duration_seconds",
            "Time of one scan of the watched directory.",
            buckets=_STAGE_BUCKETS,
            registry=registry,
        )
        self.scan_listed = Gauge(
            "frazil_scan_listed_names", "Names listed by the last scan of the watched directory.", registry=registry
        )
        self.taken_names = Gauge(
            "frazil_taken_names", "Names in the watched directory that are taken for micrographs.", registry=registry
        )
        self.passed_over = Gauge(
            "frazil_passed_over_names",
            "Names of files and folders in the watched directory that are passed over, by reason.",
            ["reason"],
            registry=registry,
        )
        self.last_scan = Gauge(
            "frazil_last_scan_timestamp_seconds",
            "When the last scan of the watched directory ended.",
            registry=registry,
        )
        self.event_overflows = Counter(
            "frazil_event_overflows", "Times that the kernel dropped file events.", registry=registry
        )
        self.watching_events = Gauge(
            "frazil_watching_events",
            "1 while file events are followed, 0 while only scans find files.",
            registry=registry,
        )
        self.watch_fault = Gauge(
            "frazil_watch_fault", "1 while the watched directory cannot be seen.", registry=registry
        )
        self.subscribers = Gauge("frazil_stream_subscribers", "Connections to the pick stream.", registry=registry)
        self.overflows = Counter(
            "frazil_stream_overflows",
            "Times that a subscriber fell so far behind that messages are kept from it until it has caught up.",
            registry=registry,
        )
        self.refused = Counter(
            "frazil_stream_refused", "Connections to the pick stream that came to nothing.", registry=registry
        )
        self.stream_restarts = Counter(
            "frazil_stream_restarts",
            "Times that the process of the pick stream's sockets ended and was started again.",
            registry=registry,
        )
        self.replay_requests = Counter(
            "frazil_replay_requests",
            "Requests for earlier documents, by outcome (answered, malformed, failed, undeliverable).",
            ["outcome"],
            registry=registry,
        )
        self.damaged = Counter(
            "frazil_damaged_documents",
            "Documents in the ledger that are damaged and were passed over.",
            registry=registry,
        )
        self._damaged: set[int] = set()
        self.replayed = Counter("frazil_replayed_documents", "Documents sent once more on request.", registry=registry)
        self.model = Gauge(
            "frazil_model_info",
            "The serving model and the execution provider that runs it; always 1.",
            ["name", "version", "sha256", "provider", "precision"],
            registry=registry,
        )
        self.model_on_cpu = Gauge(
            "frazil_model_on_cpu", "1 while the CPU does most or the heaviest of the model's work.", registry=registry
        )
        self.started = Gauge(
            "frazil_start_time_seconds", "When this daemon was ready, in seconds of Unix time.", registry=registry
        )
        self.model_nodes = Gauge(
            "frazil_model_nodes",
            "Nodes of the serving model, by the execution provider that was seen to run them.",
            ["provider"],
            registry=registry,
        )
        self.batch = Gauge(
            "frazil_model_batch_seconds", "Time of one batch of tiles when the model was loaded.", registry=registry
        )
        self.model_changes = Counter(
            "frazil_model_changes",
            "Models that began to serve (loaded), were refused or rolled back, and for what reason.",
            ["event", "reason"],
            registry=registry,
        )
        self.canary_picks = Counter(
            "frazil_canary_picks",
            "Picks on the micrographs on which a new model ran in shadow, by model (serving, candidate).",
            ["model"],
            registry=registry,
        )
        self.canary_scores = Histogram(
            "frazil_canary_score",
            "Mean figure of merit of a micrograph's picks where a new model ran in shadow.",
            ["model"],
            buckets=_SCORE_BUCKETS,
            registry=registry,
        )
        self.canary_micrographs = Counter(
            "frazil_canary_micrographs", "Micrographs on which a new model ran in shadow.", registry=registry
        )
        self.canary_agreement = Gauge(
            "frazil_canary_agreement",
            "Share of agreeing picks of the model that runs, or last ran, in shadow, and of the serving one.",
            registry=registry,
        )
        self.resources = ResourceMetrics(registry)
        self.build = Gauge("frazil_build_info", "Version of frazil; always 1.", ["version"], registry=registry)

        self._backlog = Gauge(
            "frazil_backlog_micrographs", "Complete micrographs that have no result yet.", registry=registry
        )
        self._backlog_age = Gauge(
            "frazil_backlog_age_seconds", "Time that the oldest of them has waited; 0 without any.", registry=registry
        )
        self._queue = Gauge("frazil_queue_depth", "Micrographs in a queue.", ["queue"], registry=registry)
        self._ledger_head = Gauge(
            "frazil_ledger_sequence", "Sequence number of the newest document.", registry=registry
        )
        self._begin_at_zero()

    def _begin_at_zero(self) -> None:
        """Have every series from the start: one that appears at 1 has not increased, as far as Prometheus knows."""
        self.micrographs.labels(outcome="picked", reason="")
        for reason in MICROGRAPH_REASONS:
            self.micrographs.labels(outcome="failed", reason=reason)
        for reason in TRANSIENT_REASONS:
            self.retries.labels(reason=reason)
        for by in ("event", "scan"):
            self.found.labels(by=by)
        for stage in STAGES:
            self.stage.labels(stage=stage)
        for outcome in ("answered", "malformed", "failed", "undeliverable"):
            self.replay_requests.labels(outcome=outcome)
        self.model_changes.labels(event="loaded", reason="")
        for reason in MODEL_REASONS:
            self.model_changes.labels(event="refused", reason=reason)
        for reason in ("errors", "few_picks"):
            self.model_changes.labels(event="rolled_back", reason=reason)
        for model in ("serving", "candidate"):
            self.canary_picks.labels(model=model)
            self.canary_scores.labels(model=model)

    def show_model(self, model: ModelIdentity, placement: Placement) -> None:
        """Show which model serves, in place of the one before, and where it runs."""
        self.model_on_cpu.set(placement.cpu_problem() is not None)
        self.model.clear()
        self.model.labels(
            name=model.name,
            version=str(model.version),
            sha256=model.sha256,
            provider=placement.provider,
            precision=model.precision,
        ).set(1)
        self.model_nodes.clear()
        for provider, nodes in placement.nodes.items():
            self.model_nodes.labels(provider=provider).set(nodes)

    def show_inventory(self, taken: int, passed_over: Mapping[str, int]) -> None:
        """Show how many names in the watched directory are taken for micrographs, and how many are not, by reason."""
        self.taken_names.set(taken)
        for reason, count in passed_over.items():
            self.passed_over.labels(reason=reason).set(count)

    def note_picked(self, document: MicrographDocument) -> None:
        """Count a micrograph that was picked."""
        seconds, scores = document.seconds, document.picks.score
        self.micrographs.labels(outcome="picked", reason="").inc()
        self.picks.inc(len(scores))
        self.picks_per_micrograph.observe(len(scores))
        for score in scores:
            self.pick_scores.observe(score)
        if scores:
            self.micrograph_scores.observe(sum(scores) / len(scores))
        self.last_micrograph.set_to_current_time()
        for stage in ("read", "prepare", "infer", "peaks"):
            self.stage.labels(stage=stage).observe(getattr(seconds, stage))
        in_hand = seconds.read + seconds.prepare + seconds.infer + seconds.peaks
        self.stage.labels(stage="wait").observe(max(0.0, seconds.total - in_hand))

    def note_damaged(self, seq: int, path: str) -> None:
        """Count a document of the ledger that is damaged and passed over, and say so, once."""
        if seq in self._damaged:
            return
        self._damaged.add(seq)
        self.damaged.inc()
        log.error(
            "document %d (%s) is damaged in the ledger and passed over; `frazil requeue` picks its micrograph anew",
            seq,
            path or "about no micrograph",
            extra=event("damaged", seq=seq),
        )

    def note_batches(self, batches: Batches) -> None:
        """Count the batches of one micrograph."""
        self.batches.inc(batches.count)
        self.tiles.inc(batches.tiles)
        self.tiles_room.inc(batches.room)

    def handled(self) -> dict[str, int]:
        """Micrographs handled by this daemon so far, by outcome."""
        counts = {"picked": 0, "failed": 0}
        for sample in next(iter(self.micrographs.collect())).samples:
            if sample.name.endswith("_total"):
                counts[sample.labels["outcome"]] += int(sample.value)
        return counts

    def note_canary(self, serving: Picks, candidate: Picks, agreement: float) -> None:
        """Count a micrograph on which a new model ran in shadow."""
        self.canary_micrographs.inc()
        for model, picks in (("serving", serving), ("candidate", candidate)):
            self.canary_picks.labels(model=model).inc(len(picks))
            if len(picks):
                self.canary_scores.labels(model=model).observe(float(picks.score.mean()))
        self.canary_agreement.set(agreement)

    def watch_queue(self, queue: str, depth: Callable[[], float]) -> None:
        """Show a queue's depth, asked for at each scrape."""
        self._queue.labels(queue=queue).set_function(depth)

    def watch_backlog(self, count: Callable[[], float], age_seconds: Callable[[], float]) -> None:
        """Show how many micrographs wait and how long the oldest has, asked for at each scrape."""
        self._backlog.set_function(count)
        self._backlog_age.set_function(age_seconds)

    def watch_ledger(self, head: Callable[[], float]) -> None:
        """Show the ledger's head, asked for at each scrape."""
        self._ledger_head.set_function(head)
