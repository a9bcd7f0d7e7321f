"""The assessor: a thread that assesses micrographs whose picks are committed, with what time picking leaves.

In the normal case it has the pixels that were just picked. While others wait to be picked it looks at few of them; what
was passed over, or left by an earlier run, it finds in the ledger once nothing else is to be done, and reads it again.
"""

from __future__ import annotations

import contextlib
import logging
import sqlite3
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from queue import Empty, Queue

import msgspec
import numpy as np

from frazil.documents import MicrographDocument, Place, QualityDocument, now_rfc3339
from frazil.errors import FrazilError
from frazil.health.heartbeat import Heartbeats
from frazil.health.logs import event
from frazil.health.metrics import Metrics
from frazil.health.state import AssessState
from frazil.junk_area import outside_junk
from frazil.model import Model
from frazil.model.contract import read_calibration
from frazil.picking import Micrograph, assess_threshold, find_low_peaks
from frazil.quality.assessment import Optics, PixelMeasures, assess, measure
from frazil.quality.facility import FacilityTables, find_facility_ctf
from frazil.quality.grade import QualityRules, Usual
from frazil.record import MicrographReader
from frazil.session.correct.applying import uncorrected_picks
from frazil.session.outbox.file_stamp import sample
from frazil.session.outbox.ledger import KeptResult, Ledger, LedgerReader, QualityRecord, Unassessed
from frazil.session.retune.repick import read_document, read_score_map

__all__ = ["Assessed", "Assessor", "Offer"]

log = logging.getLogger(__name__)

_EVERY = 10
"""While others wait to be picked, each of so many micrographs is assessed."""
_IDLE_SECONDS = 1.0
"""For so long nothing is picked before a micrograph is read again."""
_REST_SECONDS = 30.0
"""Between two passes over what could not be assessed."""
_LOOK_SECONDS = 5.0
"""Between looks for how many wait."""
_STEP_SECONDS = 0.1
_USUAL_MICROGRAPHS = 500


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Offer:
    """A place for the pixels of a micrograph that was picked, until its picks are committed and it is assessed."""

    micrograph: Micrograph


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Assessed:
    """An assessment to be committed."""

    key: str
    document: QualityDocument
    fingerprint: str
    """Of the file that was looked at."""
    settled: threading.Event = field(default_factory=threading.Event)
    """Set once it is committed, or could not be."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Accepted:
    found: Unassessed
    micrograph: Micrograph
    fingerprint: str


class Assessor:
    """Assesses micrographs in a thread of its own, one at a time; at most one more waits with its pixels.

    The thread has the priority of the others: with a lower one it would be kept from a busy processor while it holds
    Python's lock, and the threads that pick would wait for it.

    Whatever goes wrong here stays here: picking never waits for it, and never fails with it. A micrograph that cannot
    be assessed is tried three times, with a rest between.

    Args:
        ledger: of the session.
        read: reads a micrograph, within limits of memory and time.
        report: takes an assessment to the thread that writes.
        watch: the watched directory, below which the ledger names micrographs.
        optics: of the microscope.
        rules: what a good micrograph is.
        tables: of CTF fits by other programs, which are taken in place of frazil's own.
        thinner_is_brighter: whether more electrons are brighter, as where particles are dark.
        model: the serving model, whose calibration says how probable picks are.
        is_busy: whether micrographs are picked, or wait to be.
        sees: whether the watched directory is seen.
        find_place: says where on the grid a micrograph was taken; None where that is not known.
        stopping: event that ends the thread.
        heartbeats: of the session's threads.
        metrics: counts what could not be assessed.
        read_seconds: time after which reading is given up.
        clock: the monotonic clock.
    """

    def __init__(
        self,
        ledger: Ledger,
        read: MicrographReader,
        report: Callable[[Assessed], None],
        *,
        watch: Path,
        optics: Optics,
        rules: QualityRules,
        tables: FacilityTables,
        thinner_is_brighter: bool,
        model: Callable[[], Model],
        is_busy: Callable[[], bool],
        sees: Callable[[], bool],
        stopping: threading.Event,
        heartbeats: Heartbeats,
        metrics: Metrics,
        read_seconds: float,
        find_place: Callable[[Path], Place | None] = lambda _: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._ledger = ledger
        self._read = read
        self._report = report
        self._watch = watch
        self._optics = optics
        self._rules = rules
        self._tables = tables
        self._told: dict[Path, str] = {}
        """Faults of these that were logged."""
        self._thinner_is_brighter = thinner_is_brighter
        self._model = model
        self._is_busy = is_busy
        self._sees = sees
        self._find_place = find_place
        self._stopping = stopping
        self._heartbeat = heartbeats.of("frazil-assess")
        self._metrics = metrics
        self._read_seconds = read_seconds
        self._clock = clock
        self._reader = LedgerReader(ledger.file)
        self._usual = self._usual_so_far()
        self._offers: Queue[_Accepted] = Queue()
        self._is_reserved = False
        self._passed_over = _EVERY
        self._busy_at = clock()
        self._before = _ALL
        """What is caught up with lies before this number: what failed waits for the next pass."""
        self._rests_until = self._next_look = 0.0
        self._failed_in_pass = False
        self._assessed = self._failed = self._waiting = 0

    def run(self) -> None:
        """What its thread does, until it is to stop."""
        while not self._stopping.is_set():
            self.step()
        self._reader.close()

    @property
    def state(self) -> AssessState:
        """What it is at; from any thread."""
        return AssessState(
            is_on=True,
            doing=self._heartbeat.doing,
            waiting=self._waiting,
            assessed=self._assessed,
            failed=self._failed,
        )

    # --- for the pipeline -----------------------------------------------------------------------------------------

    def reserve(self, micrograph: Micrograph, *, others_wait: bool) -> Offer | None:
        """A place for a micrograph that was just picked; None where it is to be assessed later. It never waits.

        Args:
            micrograph: with its pixels.
            others_wait: whether others wait to be picked.
        """
        self._passed_over += 1
        if self._is_reserved or (others_wait and self._passed_over < _EVERY):
            return None
        self._is_reserved, self._passed_over = True, 0
        return Offer(micrograph=micrograph)

    def accept(self, offer: Offer, key: str, seq: int, fingerprint: str) -> None:
        """Assess what was offered: its picks are committed, with this number."""
        found = Unassessed(path=key, seq=seq, attempts=0)
        self._offers.put(_Accepted(found=found, micrograph=offer.micrograph, fingerprint=fingerprint))

    def release(self) -> None:
        """Give the place back: the picks were not committed."""
        self._is_reserved = False

    # --- the thread -----------------------------------------------------------------------------------------------

    def step(self) -> None:
        """Assess the micrograph that waits; without one, and while nothing is picked, one that was left."""
        self._heartbeat.beat()
        now = self._clock()
        if self._is_busy():
            self._busy_at = now
            if not self._failed_in_pass:
                self._before = _ALL  # those that come now are newer
        try:
            accepted = self._offers.get(timeout=_STEP_SECONDS)
        except Empty:
            self._count_waiting(now)
            if now - self._busy_at >= _IDLE_SECONDS and now >= self._rests_until and self._sees():
                self._assess_earlier()
            return
        self._is_reserved = False
        self._attempt(accepted.found, accepted)

    def _assess_earlier(self) -> None:
        try:
            found = self._reader.next_unassessed(before=self._before)
        except FrazilError as error:
            log.debug("what is to be assessed cannot be read: %s", error)
            self._rests_until = self._clock() + _REST_SECONDS
            return
        if found is not None:
            self._attempt(found)
            return
        self._before = _ALL
        self._rests_until = self._clock() + (_REST_SECONDS if self._failed_in_pass else _IDLE_SECONDS)
        self._failed_in_pass = False

    def _attempt(self, found: Unassessed, accepted: _Accepted | None = None) -> None:
        """Assess a micrograph, and wait until that is committed; note where it cannot be."""
        self._heartbeat.beat(f"assessing {found.path}", more_seconds=self._read_seconds)
        try:
            assessed = self._assess(found, accepted)
        except Exception as error:  # noqa: BLE001 - the edge of one unit of work
            self._note_failure(found, error)
            return
        self._assessed += 1
        self._report(assessed)
        while not (assessed.settled.wait(_STEP_SECONDS) or self._stopping.is_set()):
            self._heartbeat.beat("waiting until an assessment is written")
        if not self._stopping.is_set() and self._reader.next_unassessed(before=found.seq + 1) == found:
            self._note_failure(found, ValueError("its assessment could not be written"))

    def _note_failure(self, found: Unassessed, error: Exception) -> None:
        self._before, self._failed_in_pass = found.seq, True
        if not self._sees():
            return
        self._failed += 1
        self._metrics.not_assessed.inc()
        is_gone = not (self._watch / found.path).exists()
        log.warning(
            "%s cannot be assessed: %s",
            found.path,
            "it is gone" if is_gone else error,
            extra=event("not_assessed", micrograph=found.path),
        )
        with contextlib.suppress(sqlite3.Error):  # then it is tried once more
            self._ledger.note_unassessed(found, is_last=is_gone)

    def _assess(self, found: Unassessed, accepted: _Accepted | None) -> Assessed:
        started = self._clock()
        kept = self._reader.result(found.path)
        if kept is None or kept.seq != found.seq:
            raise ValueError(f"expected picks with the number {found.seq}, found others")
        document, earlier = read_document(kept), self._reader.quality(found.path)
        measured, fingerprint = self._measure(found.path, document, accepted, earlier)
        picks = uncorrected_picks(document, self._reader.uncorrected(kept.seq))
        quality = assess(
            document,
            picks,
            measured,
            self._usual,
            self._rules,
            estimated_precision=self._estimate_precision(document, kept),
        )
        self._note_usual(found.path, len(picks.score), quality)
        quality = msgspec.structs.replace(
            quality,
            place=self._find_place(self._watch / found.path) or msgspec.UNSET,
            supersedes=earlier.seq if earlier is not None else 0,
            seconds=round(self._clock() - started, 4),
            assessed_at=now_rfc3339(),
        )
        return Assessed(key=found.path, document=quality, fingerprint=fingerprint)

    def _measure(
        self, key: str, document: MicrographDocument, accepted: _Accepted | None, earlier: QualityRecord | None
    ) -> tuple[PixelMeasures, str]:
        """What the pixels say, and the fingerprint of their file; if that is the same, what was measured before."""
        if accepted is not None:
            return self._measure_pixels(key, accepted.micrograph, document), accepted.fingerprint
        record = self._reader.micrograph(key)
        fingerprint = record.fingerprint if record is not None else ""
        if earlier is not None and fingerprint and earlier.fingerprint == fingerprint:
            stored = self._reader.document(earlier.seq)
            known = None if stored is None else stored.decode()
            if isinstance(known, QualityDocument):
                return PixelMeasures.of(known), fingerprint
        path = self._watch / key
        micrograph = self._read(path)
        if sample(path).fingerprint != fingerprint:
            raise ValueError("expected the file that was picked, found that it has changed since")
        return self._measure_pixels(key, micrograph, document), fingerprint

    def _measure_pixels(self, key: str, micrograph: Micrograph, document: MicrographDocument) -> PixelMeasures:
        tables = self._tables
        facility_ctf = find_facility_ctf(self._watch / key, tables)
        for path, fault in tables.faults.items():
            if path in tables.paths and self._told.get(path) != fault:
                log.warning("the CTF of other programs is not taken from there: %s", fault)
                self._told[path] = fault
        return measure(
            micrograph.pixels,
            document,
            self._optics,
            facility_ctf=facility_ctf,
            thinner_is_brighter=self._thinner_is_brighter,
        )

    def _estimate_precision(self, document: MicrographDocument, kept: KeptResult) -> float | None:
        """Fraction of the picks that are expected to be particles, from the scores of this micrograph alone.

        Where its scores were not kept, or another model serves by now, that of the session's first micrographs holds.
        """
        model = self._model()
        calibration = read_calibration(model.contract.calibration)
        if calibration is None or model.identity.sha256 != document.model.sha256 or kept.score_map is None:
            return None if isinstance(document.chosen, msgspec.UnsetType) else document.chosen.precision
        low = find_low_peaks(read_score_map(kept), document.limits, document.pixel_size_angstrom)
        peaks = outside_junk(document.junk, low)
        return assess_threshold([peaks.score.astype(np.float32)], document.threshold, calibration=calibration).precision

    def _usual_so_far(self) -> Usual:
        usual = Usual()
        for record in reversed(self._reader.last_qualities(_USUAL_MICROGRAPHS)):
            usual.note(
                record.path,
                particles=record.picks * (1.0 if record.estimated_precision is None else record.estimated_precision),
                mean_counts=record.mean_counts,
                is_reliable=None if record.ctf_is_reliable is None else bool(record.ctf_is_reliable),
            )
        return usual

    def _note_usual(self, key: str, picks: int, quality: QualityDocument) -> None:
        ctf = None if isinstance(quality.ctf, msgspec.UnsetType) else quality.ctf
        self._usual.note(
            key,
            particles=msgspec.structs.replace(quality, picks=picks).expected_particles,
            mean_counts=quality.mean_counts,
            is_reliable=None if ctf is None else ctf.is_reliable,
        )

    def _count_waiting(self, now: float) -> None:
        if now >= self._next_look:
            self._next_look = now + _LOOK_SECONDS
            with contextlib.suppress(FrazilError):
                self._waiting = self._reader.unassessed()


_ALL = 2**63 - 1
