"""The pipeline: reading, picking and writing overlap, each in a thread, with bounded queues between them.

A full queue slows the stage before it. The queue before the first stage holds names, and no pixels. Nothing is dropped.
One micrograph is the unit of work and of failure.
"""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import logging
import sqlite3
import threading
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from queue import Empty, Full, PriorityQueue, Queue

import msgspec

from frazil.documents import MicrographDocument, directory_of
from frazil.errors import IncompleteMicrograph, LedgerDamagedError, MicrographError, OutputError
from frazil.faults import backoff_seconds, failure_of
from frazil.health.heartbeat import Heartbeats
from frazil.health.logs import event
from frazil.health.metrics import Metrics
from frazil.health.state import PickState
from frazil.model import Batches
from frazil.picking import ChooseRescaling, Micrograph, PixelMemory, ScoreMap
from frazil.session.assess import Assessed, Assessor, Offer, QualityWriter, SquareWriter
from frazil.session.intake.intake import Arrival, Intake
from frazil.session.outbox.file_stamp import sample, stamp_of
from frazil.session.outbox.ledger import CHOICE_KEY, Handled, Ledger
from frazil.session.outbox.outbox import Outbox, Stopped
from frazil.session.outbox.thumbnails import Thumbnails, make_thumbnail
from frazil.session.pick.doubts import BLANK_REPORTED, Doubts
from frazil.session.pick.drift import DriftWatch
from frazil.session.pick.granter import Granter
from frazil.session.pick.model_changes import Announcer, ModelChange
from frazil.session.pick.serving import Serving
from frazil.session.retune import LimitsRequest, Receiver, Reviser
from frazil.session.retune.repick import pack_score_map

__all__ = ["Pipeline"]

log = logging.getLogger(__name__)

_MICROGRAPHS_QUEUED = 2
_RESULTS_QUEUED = 8
_STOP_CHECK_SECONDS = 0.1
_MEMORY_KEPT_SECONDS = 10.0
"""Time for which the memory of micrographs is kept after the last one, since allocating it again takes time."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Read:
    arrival: Arrival
    fingerprint: str
    micrograph: Micrograph
    seconds: float


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Picked:
    arrival: Arrival
    fingerprint: str
    document: MicrographDocument
    score_map: ScoreMap | None
    """Score map to keep, if any. It is packed in the writing stage, so that picking does not wait."""
    batches: Batches
    thumbnail: bytes
    """JPEG."""
    offer: Offer | None
    """The micrograph with its pixels, where it is to be assessed at once."""
    choice: str | None
    """What the ledger is to remember of frazil's choice of the threshold; None where that is as it was."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Failed:
    arrival: Arrival
    error: MicrographError


_Result = _Picked | _Failed | Assessed | ModelChange | LimitsRequest


class Pipeline:
    """Three stages between intake and outbox: reading, picking, writing.

    Args:
        serving: picks with the serving model; used from one thread.
        announcer: commits changes of models.
        ledger: the ledger, which is stopped if it turns out to be damaged.
        outbox: commits and delivers results.
        reviser: revises earlier results within other limits, while there are no new ones to write.
        receiver: takes results that ``frazil repick`` has made, likewise.
        metrics: counts micrographs and measures the stages.
        drift: watches the picks for drift.
        doubts: compares the picks with the settings.
        stopping: event that ends the stages once the work in hand is finished.
        read: reads a micrograph, within limits of memory and time.
        watch: the watched directory, by the name that the user gave it. Documents name micrographs below it.
        max_attempts: number of attempts to pick a micrograph that fails by no fault of its own.
        keep_score_maps: whether score maps are kept in the ledger.
        heartbeats: heartbeats of the stages' threads.
        turns: held while a micrograph is picked, so that sessions take turns.
        read_seconds: time after which reading is given up. Until then the reading stage does not count as hanging.
        clock: the monotonic clock.
    """

    def __init__(
        self,
        serving: Serving,
        announcer: Announcer,
        ledger: Ledger,
        outbox: Outbox,
        reviser: Reviser,
        receiver: Receiver,
        metrics: Metrics,
        drift: DriftWatch,
        doubts: Doubts,
        stopping: threading.Event,
        read: Callable[[Path, PixelMemory, ChooseRescaling], Micrograph],
        *,
        watch: Path,
        max_attempts: int,
        keep_score_maps: bool,
        heartbeats: Heartbeats,
        read_seconds: float,
        turns: AbstractContextManager[None] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._serving = serving
        self._announcer = announcer
        self._ledger = ledger
        self._outbox = outbox
        self._reviser = reviser
        self._thumbnails = Thumbnails(ledger.file)
        self._granter = Granter(ledger, outbox, reviser)
        self._receiver = receiver
        self._assessor: Assessor | None = None
        self._squares: SquareWriter | None = None
        self._qualities = QualityWriter(outbox, metrics, drift.note_quality)
        self._metrics = metrics
        self._drift = drift
        self._doubts = doubts
        self._watch = watch
        self._max_attempts = max_attempts
        self._keep_score_maps = keep_score_maps
        self._arrivals: PriorityQueue[tuple[int, int, Arrival]] = PriorityQueue()
        self._arrived = itertools.count()
        self._micrographs: Queue[_Read] = Queue(_MICROGRAPHS_QUEUED)
        self._results: Queue[_Result] = Queue()
        self._room = threading.Semaphore(_RESULTS_QUEUED)
        self._stopping = stopping
        self._read_micrograph = read
        self._memory = PixelMemory()
        self._memory_kept_until = 0.0
        self._clock = clock
        self._read_seconds = read_seconds
        self._heartbeats = heartbeats
        self._turns = turns or contextlib.nullcontext()
        self._threads = [
            threading.Thread(target=stage, name=f"frazil-{stage.__name__.strip('_')}", daemon=True)
            for stage in (self._reading, self._picking, self._writing)
        ]
        self._picked = self._failed = self._picks = 0
        self._last_picked_at: float | None = None

    def connect(self, intake: Intake, assessor: Assessor | None = None, squares: SquareWriter | None = None) -> None:
        """Set the intake, to which arrivals go back, who assesses what was picked, and who tells of squares.

        They hand things to the pipeline, and are made after it.
        """
        self._intake = intake
        self._assessor = assessor
        self._squares = squares

    def start(self) -> None:
        """Start the stages."""
        for thread in self._threads:
            thread.start()

    def accept(self, arrival: Arrival) -> None:
        """Put an arrival in the queue: new files before the backlog, that before what is picked again, each in order.

        The microscope's operator looks at the newest micrograph, and the backlog only shrinks.
        """
        self._arrivals.put((arrival.backlog + arrival.requeued, next(self._arrived), arrival))

    def refuse(self, arrival: Arrival, error: MicrographError) -> None:
        """Record the failure of a file that cannot be picked."""
        self._results.put(_Failed(arrival=arrival, error=error))

    def report(self, result: ModelChange | Assessed) -> None:
        """Record a change of models, or an assessment."""
        self._results.put(result)

    def stop(self, deadline: float) -> bool:
        """Finish the work in hand. Micrographs that still wait are left for the next start.

        Args:
            deadline: latest time to wait until, on the monotonic clock.

        Returns:
            Whether every stage ended in time. Interrupted micrographs are not in the ledger, so the next start picks
            them again.
        """
        self._stopping.set()
        for thread in self._threads:
            thread.join(max(0.0, deadline - time.monotonic()))
        return not any(thread.is_alive() for thread in self._threads)

    @property
    def state(self) -> PickState:
        """The present work, and the counts so far. May be read from any thread."""
        return PickState(
            doing=self._heartbeats.of("frazil-picking").doing or self._heartbeats.of("frazil-reading").doing,
            read=self._arrivals.qsize(),
            pick=self._micrographs.qsize(),
            write=self._results.qsize(),
            picked=self._picked,
            failed=self._failed + self._outbox.unwritten,
            picks=self._picks,
            last_picked_at=self._last_picked_at,
            doubts=self._doubts.state,
            drift=self._drift.state,
            threshold=self._serving.threshold,
        )

    @property
    def is_busy(self) -> bool:
        """Whether micrographs are being picked, or wait to be; from any thread."""
        state = self.state
        return bool(state.doing or state.read or state.pick)

    def failed_stage(self) -> str | None:
        """Name of a stage whose thread has ended; None as a rule."""
        return next((t.name for t in self._threads if not t.is_alive()), None)

    # --- the stages: each thread repeats one step -----------------------------------------------------------------

    def _reading(self) -> None:
        while not self._stopping.is_set():
            self.read_one()

    def _picking(self) -> None:
        while self._goes_on(0, self._micrographs):
            self.pick_one()

    def _writing(self) -> None:
        while self._goes_on(1, self._results):
            self.write_one()
        if self._squares is not None:
            with contextlib.suppress(Stopped, OutputError, sqlite3.Error):  # the next start tells what is left
                self._squares.write_due(is_last=True)

    def read_one(self) -> None:
        """Read the next arrival, if there is one, and hand it on once there is room."""
        beat = self._heartbeats.of("frazil-reading").beat
        beat()
        try:
            arrival = self._arrivals.get(timeout=_STOP_CHECK_SECONDS)[2]
        except Empty:
            if self._clock() > self._memory_kept_until:
                self._memory.release()
            return
        self._memory_kept_until = self._clock() + _MEMORY_KEPT_SECONDS
        log.debug("reading %s", arrival.key)
        beat(f"reading {arrival.key}", more_seconds=self._read_seconds)
        try:
            read: _Read | _Failed = self._read(arrival)
        except IncompleteMicrograph as incomplete:
            self._intake.await_growth(arrival, incomplete)
            return
        except Exception as error:  # noqa: BLE001 - the edge of one unit of work
            read = _Failed(arrival=arrival, error=failure_of(arrival.path, "reading", error))
        self._stopping.wait(max(0.0, arrival.settled_at_monotonic - self._clock()))
        if _has_changed(arrival):
            # The result, or the error, belongs neither to the old file nor to the new one.
            self._intake.retry(arrival)
        elif isinstance(read, _Failed):
            self._results.put(read)
        else:
            self._hand_on(read)

    def _hand_on(self, read: _Read) -> None:
        """Put a micrograph in the queue for picking, once there is room."""
        while True:
            self._heartbeats.of("frazil-reading").beat()
            with contextlib.suppress(Full):
                self._micrographs.put(read, timeout=_STOP_CHECK_SECONDS)
                return

    def _read(self, arrival: Arrival) -> _Read:
        started = self._clock()
        content = sample(arrival.path).fingerprint
        micrograph = self._read_micrograph(arrival.path, self._memory, self._serving.picker.rescaling)
        micrograph = dataclasses.replace(micrograph, path=self._watch / arrival.key)
        seconds = self._clock() - started
        return _Read(arrival=arrival, fingerprint=content, micrograph=micrograph, seconds=seconds)

    def pick_one(self) -> None:
        """Pick the next micrograph, if there is one, after any change of the model."""
        beat = self._heartbeats.of("frazil-picking").beat
        beat()
        for change in self._serving.advance():
            self._results.put(change)
        try:
            read = self._micrographs.get(timeout=_STOP_CHECK_SECONDS)
        except Empty:
            self._weigh_doubts(is_idle=True)
            return
        log.debug("picking %s", read.arrival.key)
        beat(f"picking {read.arrival.key}")
        try:
            picked = self._pick(read)
        except Exception as error:  # noqa: BLE001 - the edge of one unit of work
            failure = failure_of(read.arrival.path, "picking", error)
            self._results.put(_Failed(arrival=read.arrival, error=failure))
        else:
            for chosen in self._serving.take_chosen():  # earlier results follow before this one is committed
                self._results.put(chosen)
            while not self._room.acquire(timeout=_STOP_CHECK_SECONDS):
                beat()
            self._results.put(picked)
            self._weigh_doubts(is_idle=False)

    def _weigh_doubts(self, *, is_idle: bool) -> None:
        """Check the setting of the contrast, between two micrographs while none waits."""
        if self._stopping.is_set() or not self._doubts.is_due(is_idle=is_idle):
            return
        try:
            lines = self._doubts.weigh(self._serving.picker)
        except Exception as error:  # noqa: BLE001 - no picks depend on it
            log.debug("the contrast was not weighed: %s", error)
            return
        for line in lines:
            log.warning("%s", line)

    def _pick(self, read: _Read) -> _Picked:
        with self._turns:
            record = self._serving.pick(
                read.micrograph, read_seconds=read.seconds, since=read.arrival.complete_at_monotonic
            )
        for line in self._doubts.note(record):
            log.warning("%s", line)
        return _Picked(
            arrival=read.arrival,
            fingerprint=read.fingerprint,
            document=record.document,
            score_map=record.score_map if self._keep_score_maps else None,
            batches=record.batches,
            thumbnail=make_thumbnail(record.picture, inverted=self._serving.picker.inverts),
            offer=self._offer(read.micrograph),
            choice=self._serving.take_news(),
        )

    def _offer(self, micrograph: Micrograph) -> Offer | None:
        if self._assessor is None:
            return None
        return self._assessor.reserve(
            micrograph, others_wait=not (self._micrographs.empty() and self._arrivals.empty())
        )

    def write_one(self) -> None:
        """Commit and deliver the next result, if there is one, after all earlier ones."""
        beat = self._heartbeats.of("frazil-writing").beat
        beat()
        with contextlib.suppress(Stopped):
            self._outbox.deliver()
        self._revise()
        parts = (self._reviser, self._granter, self._receiver)
        wait_seconds = min(one.wait_seconds(_STOP_CHECK_SECONDS) for one in parts)
        try:
            result = self._results.get(timeout=wait_seconds)
        except Empty:
            return
        beat("writing a result")
        # If the daemon stops, the next start delivers a committed result, and picks again what was not committed.
        with contextlib.suppress(Stopped):
            self._write(result)

    def _write(self, result: _Result) -> None:
        match result:
            case ModelChange():
                self._announcer.announce(result)
            case LimitsRequest():
                # It comes through the queue of results: all picks within earlier limits are committed by now.
                self._reviser.grant(result)
            case Assessed():
                self._qualities.write(result)
            case _Failed():
                self._write_failed(result)
            case _Picked():
                self._room.release()
                try:
                    self._write_picked(result)
                except sqlite3.Error as error:  # the fault of this record alone; the outbox retries all others
                    self._withdraw(result.offer)
                    failure = failure_of(result.arrival.path, "writing", error)
                    self._write_failed(_Failed(arrival=result.arrival, error=failure))

    def _revise(self) -> None:
        """Between two results: grant edits, pass on a request for other limits, and replace an earlier result."""
        if self._stopping.is_set() or not self._results.empty():
            return
        try:
            self._granter.grant_next()
            if (request := self._reviser.next_request()) is not None:
                self._serving.change_limits(request)
            self._reviser.revise_next(is_busy=self.is_busy)
            self._receiver.take_next()
            if self._squares is not None:
                self._squares.write_due()
        except LedgerDamagedError as error:
            self._ledger.stop(error)
        except (Stopped, OutputError, sqlite3.Error):
            pass  # it is tried again at the next step

    def _write_picked(self, result: _Picked) -> None:
        started = self._clock()
        arrival, metrics = result.arrival, self._metrics
        try:
            self._outbox.check_namesakes(arrival.path, arrival.key)
        except MicrographError as error:
            self._withdraw(result.offer)
            self._write_failed(_Failed(arrival=arrival, error=error))
            return
        handled = Handled(stamp=arrival.stamp, fingerprint=result.fingerprint)
        document = msgspec.structs.replace(result.document, directory=directory_of(arrival.key))

        self._thumbnails.keep(arrival.key, result.thumbnail)  # first, so that whoever hears of the result finds it

        def committed(seq: int) -> None:
            self._intake.finish(arrival, handled)
            # Counted before it is sent, so that a subscriber who has the document finds it in the metrics.
            self._picked, self._last_picked_at = self._picked + 1, time.time()
            self._picks += len(document.picks.score)
            metrics.note_picked(document)
            metrics.note_batches(result.batches)
            if not arrival.requeued:  # what was collected long ago says nothing of now
                self._drift.note(document)
            if self._assessor is not None and result.offer is not None:
                self._assessor.accept(result.offer, arrival.key, seq, result.fingerprint)

        seq = self._outbox.commit(
            document,
            key=arrival.key,
            handled=handled,
            score_map=None if result.score_map is None else pack_score_map(result.score_map),
            complete_at_unix=time.time() - (self._clock() - arrival.complete_at_monotonic),
            remember=None if result.choice is None else (CHOICE_KEY, result.choice),
            on_commit=committed,
        )
        now = self._clock()
        metrics.stage.labels(stage="settle").observe(arrival.complete_at_monotonic - arrival.closed_at_monotonic)
        metrics.stage.labels(stage="deliver").observe(now - started)
        if not arrival.backlog:
            metrics.latency.observe(now - arrival.closed_at_monotonic)
        picks = len(document.picks.score)
        log.info(
            "picked %s: %d picks in %.2f s (sequence number %d)%s",
            arrival.key,
            picks,
            document.seconds.total,
            seq,
            f", {document.blank_fraction:.0%} of it blank" if document.blank_fraction >= BLANK_REPORTED else "",
            extra=event("picked", micrograph=arrival.key, seq=seq, picks=picks),
        )

    def _withdraw(self, offer: Offer | None) -> None:
        """Its picks are not committed: there is nothing to assess."""
        if self._assessor is not None and offer is not None:
            self._assessor.release()

    def _write_failed(self, result: _Failed) -> None:
        arrival, error = result.arrival, result.error
        try:
            content = sample(arrival.path).fingerprint
        except (OSError, MicrographError):
            content = ""
        handled = Handled(stamp=arrival.stamp, fingerprint=content)
        self._outbox.fail(
            error,
            arrival.key,
            handled,
            max_attempts=self._max_attempts,
            on_commit=lambda attempt, is_retried: self._note_failed(
                arrival, handled, error, attempt=attempt, is_retried=is_retried
            ),
        )

    def _note_failed(
        self, arrival: Arrival, handled: Handled, error: MicrographError, *, attempt: int, is_retried: bool
    ) -> None:
        """Log and count a failure, and give the file back to the intake, for another attempt or for good."""
        fields = {"micrograph": arrival.key, "reason": error.reason, "attempt": attempt}
        if is_retried:
            rest_seconds = backoff_seconds(attempt)
            log.warning(
                "failed (%s), retried in %.0f s: %s",
                error.reason,
                rest_seconds,
                error,
                extra=event("retried", **fields),
            )
            self._metrics.retries.labels(reason=error.reason).inc()
            self._intake.retry(arrival, rest_seconds)
        else:
            log.warning("failed (%s) at attempt %d: %s", error.reason, attempt, error, extra=event("failed", **fields))
            self._failed += 1
            self._metrics.micrographs.labels(outcome="failed", reason=error.reason).inc()
            self._intake.finish(arrival, handled)

    def _goes_on(self, before: int, queue: Queue[_Read] | Queue[_Result]) -> bool:
        """Whether a stage has work or may still get some. The stages end in their order."""
        return not self._stopping.is_set() or self._threads[before].is_alive() or not queue.empty()


def _has_changed(arrival: Arrival) -> bool:
    try:
        return stamp_of(arrival.path) != arrival.stamp
    except FileNotFoundError:
        return True
    except OSError:
        return False
