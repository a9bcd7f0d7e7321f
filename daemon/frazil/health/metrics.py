"""What the daemon shows to Prometheus."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import get_args

from msgspec import UnsetType
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from frazil.documents import Category, Grade, MicrographDocument, QualityDocument
from frazil.errors import MICROGRAPH_REASONS, MODEL_REASONS, TRANSIENT_REASONS
from frazil.health.gauges import StateGauges
from frazil.health.logs import event
from frazil.health.state import DaemonState
from frazil.model import Batches
from frazil.picking import Picks

__all__ = ["STAGES", "Metrics"]

log = logging.getLogger(__name__)

STAGES = ("settle", "wait", "read", "prepare", "infer", "junk", "peaks", "deliver")
"""Where a micrograph's time goes, from its file closed to its document sent."""
_IN_HAND = ("read", "prepare", "infer", "junk", "peaks")

_STAGE_BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)
_LATENCY_BUCKETS = (0.1, 0.25, 0.5, 1, 2, 5, 10, 30, 60, 300)
_PICKS_BUCKETS = (0, 1, 5, 10, 25, 50, 100, 200, 300, 500, 750, 1000, 2000, 5000)
_JUNK_BUCKETS = (0.0, 0.01, 0.02, 0.05, 0.1, 0.2, 0.3, 0.5, 0.75, 1.0)
_SCORE_BUCKETS = tuple(round(0.1 * i, 1) for i in range(1, 11))

_DEFOCUS_BUCKETS = tuple(um / 1e6 for um in (0.25, 0.5, 0.75, 1, 1.25, 1.5, 1.75, 2, 2.5, 3, 3.5, 4, 5))
_CTF_BUCKETS = tuple(angstrom / 1e10 for angstrom in (3, 3.5, 4, 4.5, 5, 6, 7, 8, 10, 15, 20, 30))
_ICE_BUCKETS = (0.05, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1, 2)


class Metrics:
    """All metrics of one daemon, on a registry of its own.

    Here is what happens, counted when it happens. What is so for a while is read from the state at each scrape.

    Args:
        registry: of the metrics.
        state: of the daemon.
    """

    def __init__(self, registry: CollectorRegistry, state: Callable[[], DaemonState] = DaemonState) -> None:
        def counter(name: str, says: str, *labels: str) -> Counter:
            return Counter(name, says, labels, registry=registry)

        def histogram(name: str, says: str, *labels: str, buckets: Sequence[float]) -> Histogram:
            return Histogram(name, says, labels, buckets=buckets, registry=registry)

        self.registry = registry
        registry.register(StateGauges(state))

        # Files.
        self.found = counter(
            "frazil_micrographs_found", "Complete new micrographs, by what told of them first (event, scan).", "by"
        )
        self.scan_duration = histogram(
            "frazil_scan_duration_seconds", "Time of one scan of the watched directory.", buckets=_STAGE_BUCKETS
        )
        self.event_overflows = counter("frazil_event_overflows", "Times that the kernel dropped file events.")

        # Micrographs.
        self.micrographs = counter(
            "frazil_micrographs",
            "Micrographs handled, by outcome (picked, failed) and, for failures, reason.",
            "outcome",
            "reason",
        )
        self.retries = counter("frazil_retries", "Attempts that failed and are made again, by reason.", "reason")
        self.stage = histogram(
            "frazil_stage_duration_seconds",
            f"Time of one micrograph in a stage ({', '.join(STAGES)}).",
            "stage",
            buckets=_STAGE_BUCKETS,
        )
        self.latency = histogram(
            "frazil_latency_seconds",
            "Time from a micrograph's file closed to its document sent, but for those there at the start.",
            buckets=_LATENCY_BUCKETS,
        )

        # Picks.
        self.picks = counter("frazil_picks", "Picks made.")
        self.picks_per_micrograph = histogram(
            "frazil_micrograph_picks", "Picks in one micrograph.", buckets=_PICKS_BUCKETS
        )
        self.pick_scores = histogram("frazil_pick_score", "Figure of merit of one pick.", buckets=_SCORE_BUCKETS)
        self.micrograph_scores = histogram(
            "frazil_micrograph_score", "Mean figure of merit of a micrograph's picks.", buckets=_SCORE_BUCKETS
        )
        self.junk_fraction = histogram(
            "frazil_junk_fraction", "Share of one micrograph's area that is junk.", buckets=_JUNK_BUCKETS
        )
        self.picks_dropped = counter("frazil_picks_dropped", "Picks left out since they lay in junk.")

        # Quality.
        self.assessed = counter(
            "frazil_assessed_micrographs",
            "Micrographs assessed, by grade (good, doubtful, bad) and category of what is wrong; each once.",
            "grade",
            "category",
        )
        self.reassessed = counter(
            "frazil_reassessed_micrographs", "Assessments that replace an earlier one, as after other picks."
        )
        self.not_assessed = counter(
            "frazil_assessment_failures", "Attempts to assess a micrograph that came to nothing."
        )
        self.defocus = histogram(
            "frazil_defocus_meters",
            "Mean defocus of one micrograph, where its CTF fits.",
            buckets=_DEFOCUS_BUCKETS,
        )
        self.ctf_resolution = histogram(
            "frazil_ctf_resolution_meters",
            "Resolution to which the CTF of one micrograph fits.",
            buckets=_CTF_BUCKETS,
        )
        self.ice_thickness = histogram(
            "frazil_relative_ice_thickness",
            "Ice of one micrograph beyond the session's thinnest, in mean free paths of the electrons.",
            buckets=_ICE_BUCKETS,
        )
        self.unusable = histogram(
            "frazil_unusable_area_ratio",
            "Share of a micrograph's area that is junk or holds no data.",
            buckets=_SCORE_BUCKETS,
        )
        self.assessment_duration = histogram(
            "frazil_assessment_duration_seconds", "Time to assess one micrograph.", buckets=_STAGE_BUCKETS
        )

        # The stream and its ledger.
        self.overflows = counter(
            "frazil_stream_overflows",
            "Times that a subscriber fell so far behind that messages are kept from it until it has caught up.",
        )
        self.refused = counter("frazil_stream_refused", "Connections to the pick stream that came to nothing.")
        self.stream_restarts = counter(
            "frazil_stream_restarts", "Times that the process of the pick stream's sockets ended and was started again."
        )
        self.replay_requests = counter(
            "frazil_replay_requests",
            "Requests for earlier documents, by outcome (answered, malformed, failed, undeliverable).",
            "outcome",
        )
        self.replayed = counter("frazil_replayed_documents", "Documents sent once more on request.")
        self.damaged = counter(
            "frazil_damaged_documents", "Documents in the ledger that are damaged and were passed over."
        )
        self._damaged: set[tuple[str, int]] = set()

        # Models.
        self.batches = counter("frazil_model_batches", "Batches that the model scored.")
        self.tiles = counter("frazil_model_tiles", "Tiles in these batches.")
        self.tiles_room = counter("frazil_model_tiles_room", "Tiles that there was room for in these batches.")
        self.batch = Gauge(
            "frazil_model_batch_seconds", "Time of one batch of tiles when the model was loaded.", registry=registry
        )
        self.model_changes = counter(
            "frazil_model_changes",
            "Models that began to serve (loaded), were refused or rolled back, and for what reason.",
            "event",
            "reason",
        )
        self.canary_micrographs = counter(
            "frazil_canary_micrographs", "Micrographs on which a new model ran in shadow."
        )
        self.canary_picks = counter(
            "frazil_canary_picks",
            "Picks on the micrographs on which a new model ran in shadow, by model (serving, candidate).",
            "model",
        )
        self.canary_scores = histogram(
            "frazil_canary_score",
            "Mean figure of merit of a micrograph's picks where a new model ran in shadow.",
            "model",
            buckets=_SCORE_BUCKETS,
        )
        self.canary_agreement = Gauge(
            "frazil_canary_agreement",
            "Share of agreeing picks of the model that runs, or last ran, in shadow, and of the serving one.",
            registry=registry,
        )
        self.comparison_f_score = Gauge(
            "frazil_comparison_f_score",
            "F1 of the serving model, and of a session's own one, on corrected micrographs that it did not learn from.",
            ["model"],
            registry=registry,
        )
        self._begin_at_zero()

    def _begin_at_zero(self) -> None:
        """Have every series from the start: one that appears at 1 has not increased, as far as Prometheus knows."""
        self.micrographs.labels(outcome="picked", reason="")
        for grade in get_args(Grade):
            for category in get_args(Category):
                self.assessed.labels(grade=grade, category=category)
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
        if not isinstance(document.junk, UnsetType):
            self.junk_fraction.observe(document.junk.fraction)
            self.picks_dropped.inc(document.junk.dropped)
        in_hand = 0.0
        for stage in _IN_HAND:
            if not isinstance(took := getattr(seconds, stage), UnsetType):
                self.stage.labels(stage=stage).observe(took)
                in_hand += took
        self.stage.labels(stage="wait").observe(max(0.0, seconds.total - in_hand))

    def note_quality(self, document: QualityDocument) -> None:
        """Count an assessment; only the first one of a micrograph counts as a micrograph."""
        self.assessment_duration.observe(document.seconds)
        if document.supersedes:
            self.reassessed.inc()
            return
        self.assessed.labels(grade=document.grade, category=document.category).inc()
        self.unusable.observe(1 - document.usable_fraction)
        if document.relative_ice_thickness is not None:
            self.ice_thickness.observe(document.relative_ice_thickness)
        ctf = document.ctf
        if not isinstance(ctf, UnsetType) and ctf.is_reliable:
            self.defocus.observe(0.5e-10 * (ctf.defocus_u_angstrom + ctf.defocus_v_angstrom))
            if ctf.resolution_angstrom is not None:
                self.ctf_resolution.observe(1e-10 * ctf.resolution_angstrom)

    def note_damaged(self, seq: int, path: str, session: str = "") -> None:
        """Count a document of a session's ledger that is damaged and passed over, and say so, once."""
        if (session, seq) in self._damaged:
            return
        self._damaged.add((session, seq))
        self.damaged.inc()
        about = path or "about no micrograph"
        log.error(
            "document %d (%s) is damaged in the ledger and passed over; `frazil requeue` picks its micrograph anew",
            seq,
            f"{session}: {about}" if session else about,
            extra=event("damaged", seq=seq),
        )

    def note_batches(self, batches: Batches) -> None:
        """Count the batches of one micrograph."""
        self.batches.inc(batches.count)
        self.tiles.inc(batches.tiles)
        self.tiles_room.inc(batches.room)

    def note_canary(self, serving: Picks, candidate: Picks, agreement: float) -> None:
        """Count a micrograph on which a new model ran in shadow."""
        self.canary_micrographs.inc()
        for model, picks in (("serving", serving), ("candidate", candidate)):
            self.canary_picks.labels(model=model).inc(len(picks))
            if len(picks):
                self.canary_scores.labels(model=model).observe(float(picks.score.mean()))
        self.canary_agreement.set(agreement)

    def note_comparison(self, before: float, after: float) -> None:
        """Show how a session's own model compares with the serving one."""
        for model, f1 in (("serving", before), ("candidate", after)):
            self.comparison_f_score.labels(model=model).set(f1)
