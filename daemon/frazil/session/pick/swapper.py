"""The swapper: watches what is promoted, checks that model, and offers it for serving or reports why not."""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import platform
import sqlite3
import threading
from collections.abc import Callable
from pathlib import Path
from queue import Empty, Full, Queue

import msgspec

from frazil.documents import now_rfc3339
from frazil.errors import ModelError, OutputError
from frazil.faults import is_passing
from frazil.health.metrics import Metrics
from frazil.junk_area import MaybeJunk, sift_picks
from frazil.limits import LimitsPatch
from frazil.model import (
    Model,
    ModelIdentity,
    Precision,
    Refusal,
    ServingRecord,
    identify_model,
    post_serving_record,
)
from frazil.picking import Micrograph, Picker, Picks, find_picks
from frazil.record import Record
from frazil.session.models import Models
from frazil.session.pick.admission import Admission
from frazil.session.pick.comparison import Comparison
from frazil.session.pick.model_changes import Announcer, ModelChange
from frazil.session.pick.promoted import Promoted, identify_promoted
from frazil.session.pick.serving import Offer, Serving
from frazil.session.pick.shadow import Canary, CanaryBounds
from frazil.session.retune import Chooser, LimitsChange

__all__ = ["Swapper"]

log = logging.getLogger(__name__)

_LOOK_SECONDS = 1.0
_WAIT_SECONDS = 0.2


class Swapper:
    """Replaces the serving model by the promoted one, if that passes its checks.

    Args:
        promoted: says which model is promoted for the session.
        models: loads and checks versions.
        make_picker: makes a picker of a model, with the operator's settings.
        announcer: keeps the standing, also of an earlier run.
        metrics: counts shadow runs, and shows the time of a batch.
        watch: the watched directory, for readers of the standing.
        out: directory for the standing if the model's folder cannot be written.
        name: name of the daemon's ledger.
        precision: precision in which models should compute, if they can.
        check_seconds: processor time that a new model may take in its check.
        threads: CPU threads of a model; None for every core.
        bounds: bounds of the shadow run.
        comparison: compares a session's own model with the serving one on what was corrected.
        stop: event that ends the thread.
    """

    def __init__(
        self,
        promoted: Promoted,
        *,
        models: Models,
        make_picker: Callable[[Model], Picker],
        announcer: Announcer,
        metrics: Metrics,
        watch: Path,
        out: Path,
        name: str,
        precision: Precision,
        check_seconds: float,
        threads: int | None,
        bounds: CanaryBounds,
        comparison: Comparison,
        stop: threading.Event,
    ) -> None:
        self._promoted = promoted
        self._models = models
        self._make_picker = make_picker
        self._announcer = announcer
        self._metrics = metrics
        self._watch = watch
        self._out = out
        self._name = name
        self._precision = precision
        self._check_seconds = check_seconds
        self._threads = threads
        self._bounds = bounds
        self._comparison = comparison
        self._stop = stop
        self._seen = ""
        self._put_off_for = ""
        self._posted: ServingRecord | None = None
        self._wake = threading.Event()
        self._on_decided: Callable[[], None] | None = None

    def load_first(self) -> Model:
        """Load the model that served when an earlier run ended, else that of the settings.

        A model that was promoted since then is swapped in once the daemon runs, after all the checks of a swap. So a
        restart never brings back a model that was refused or rolled back, and no session's own model serves without
        its comparison.

        Raises:
            ModelError: no model can serve.
        """
        promoted, recalled = self._promoted, self._announcer.recall_standing()
        if recalled is not None and not promoted.knows(recalled.folder):
            recalled = None
        stamp, model, folder = promoted.token, None, promoted.setting
        if recalled is not None:
            recalled = recalled.with_folders()
            try:
                path = promoted.path_of(Path(recalled.folder), recalled.version)
                model, folder = self._models.load(path, self._precision), Path(recalled.folder)
            except ModelError as error:
                log.warning("the model that served last cannot serve again, the promoted one is loaded: %s", error)
        if model is None:
            self._seen = promoted.setting_token
            model = self._models.load(promoted.setting, self._precision)
        elif recalled is not None and any(r.current == stamp for r in (*recalled.refusals, recalled.trying) if r):
            self._seen = stamp
        self._announcer.begin(
            ServingRecord(
                folder=str(folder),
                host=platform.node(),
                watch=str(self._watch),
                version=model.identity.version,
                sha256=model.identity.sha256,
                since=now_rfc3339(),
                refusals=recalled.refusals if recalled is not None else (),
                trying=recalled.trying if recalled is not None else None,
            )
        )
        if recalled is None or not recalled.refusals:
            self._posted = self._announcer.standing  # as yet `CURRENT` shows the same
        return model

    def reload(self, on_decided: Callable[[], None]) -> None:
        """Look at what is promoted at once, and check again a model that was refused. May be called from any thread.

        Args:
            on_decided: called once the promoted model serves, was refused, or begins to run in shadow.
        """
        self._on_decided = on_decided
        self._wake.set()

    def start(self, serving: Serving, report: Callable[[ModelChange], None]) -> None:
        """Start the thread of `run`; arguments as for `run`."""
        threading.Thread(target=self.run, args=(serving, report), name="frazil-swap", daemon=True).start()

    def run(self, serving: Serving, report: Callable[[ModelChange], None]) -> None:
        """Look at what is promoted repeatedly, until `stop` is set.

        Args:
            serving: takes offers of models that passed their checks.
            report: called with each refusal.
        """
        self._report_interrupted(report)
        while not self._stop.is_set():
            if self._wake.is_set():
                self._wake.clear()
                self._seen = ""
            try:
                self._look(serving, report)
            except Exception:  # the edge of one swap
                log.exception("the swap failed unexpectedly; the old model goes on")
            if not self._wake.is_set():
                self._tell_decided()
            self._wake.wait(_LOOK_SECONDS)

    def forget_check(self) -> None:
        """Forget the version under check: the check is over, or the daemon ends in order."""
        with contextlib.suppress(sqlite3.Error):
            self._announcer.note_check(None)

    def _report_interrupted(self, report: Callable[[ModelChange], None]) -> None:
        """Refuse the version whose check ended an earlier run, so that it does not end every restart."""
        trying = self._announcer.standing and self._announcer.standing.trying
        if trying:
            folder = Path(trying.folder or self._promoted.setting)
            model = ModelIdentity(name=folder.name, version=trying.version, sha256=trying.sha256)
            report(
                ModelChange(
                    event="refused",
                    model=model,
                    reason=trying.reason,
                    message=trying.message,
                    current=trying.current,
                    folder=str(folder),
                )
            )

    def _tell_decided(self) -> None:
        on_decided, self._on_decided = self._on_decided, None
        if on_decided is not None:
            on_decided()

    def _look(self, serving: Serving, report: Callable[[ModelChange], None]) -> None:
        self._post()
        promoted = self._promoted
        folder, stamp = promoted.folder, promoted.token
        if stamp == self._seen:
            return
        self._seen = stamp
        path = None
        try:
            path = promoted.path_of(folder)
            if self._is(serving.coming.model.identity, path):
                return
            picker = self._prepare(folder, path, serving, stamp)
            if folder == promoted.own and not self._comparison.has_served(picker.model.identity.sha256):
                self._compare(path, picker, serving, stamp)
            if self._bounds.micrographs:
                self._run_in_shadow(picker, serving, stamp)
        except sqlite3.Error as error:
            self._put_off(f"the ledger cannot be written: {error}")
        except OutputError as error:
            self._put_off(str(error))
        except ModelError as error:
            if is_passing(error.__cause__):
                self._put_off(str(error))
            elif promoted.token == stamp and not self._stop.is_set():
                report(
                    ModelChange(
                        event="refused",
                        model=identify_promoted(folder, path),
                        reason=error.reason,
                        message=str(error),
                        current=stamp,
                        folder=str(folder),
                    )
                )
        else:
            if promoted.token == stamp:
                serving.offer(Offer(picker=picker, current=stamp))

    def _put_off(self, fault: str) -> None:
        """Check the promoted model later: the fault is the machine's, and no reason to refuse a model."""
        self._seen = ""
        if fault != self._put_off_for:
            self._put_off_for = fault
            folder = self._promoted.folder
            log.warning("%s: the promoted model waits, and the old one goes on: %s", folder, fault)

    def _prepare(self, folder: Path, path: Path, serving: Serving, stamp: str) -> Picker:
        """Check a model, after remembering that it is refused if the check ends this process.

        Raises:
            ModelError: the model failed a check.
            sqlite3.Error: the ledger cannot be written.
        """
        identity = identify_promoted(folder, path)
        self._announcer.note_check(
            Refusal(
                version=identity.version,
                sha256=identity.sha256,
                reason="interrupted",
                message=(
                    f"{path}: expected the daemon to survive the check of this model, found that it was killed "
                    "meanwhile, perhaps for lack of memory; after frazil models promote, or a reload of the service, "
                    "the model is checked again"
                ),
                at=now_rfc3339(),
                current=stamp,
                folder=str(folder),
            )
        )
        try:
            return self._check_model(path, serving)
        finally:
            self.forget_check()  # this process has survived the check, whatever its result

    def _check_model(self, path: Path, serving: Serving) -> Picker:
        """Admit a model, and make its picker."""
        shape = serving.last_shape
        admission = Admission(
            self._models,
            finds="particles",
            precision=self._precision,
            check_seconds=self._check_seconds,
            threads=self._threads,
            stop=self._stop,
        )
        model, batch_seconds = admission.admit(path, serving.picker.size_of(*shape) if shape else None)
        self._metrics.batch.set(batch_seconds)
        return self._make_picker(model)

    def _compare(self, path: Path, picker: Picker, serving: Serving, stamp: str) -> None:
        """Compare a session's own model with the serving one on what was corrected.

        Raises:
            ModelError: it is worse, or nothing tells whether it is.
        """
        chooser = serving.make_shadow_chooser(picker.model.identity.sha256)
        result = self._comparison.run(
            path,
            serving=serving.coming.pick,
            candidate=lambda micrograph: self._pick_in_shadow(picker, micrograph, chooser),
            is_over=lambda: self._stop.is_set() or self._promoted.token != stamp,
        )
        self._metrics.note_comparison(result.before, result.after)
        log.info("model %s on what was corrected: %s", picker.model.identity, result.describe())
        result.check(picker.model.identity)

    def _run_in_shadow(self, picker: Picker, serving: Serving, stamp: str) -> None:
        bounds = self._bounds
        if self._promoted.folder == self._promoted.own:  # it is meant to differ, and was compared
            bounds = dataclasses.replace(bounds, agreement=0.0)
        canary = Canary(picker.model.identity, bounds)
        chooser = serving.make_shadow_chooser(picker.model.identity.sha256)
        shown: Queue[tuple[Micrograph, Record]] = Queue(1)

        def show(micrograph: Micrograph, record: Record) -> None:
            # A micrograph is skipped while the shadow is busy with another, so that it never slows picking.
            with contextlib.suppress(Full):
                shown.put_nowait((micrograph, record))

        self._tell_decided()
        log.info("model %s runs in shadow for %d micrographs", picker.model.identity, self._bounds.micrographs)
        serving.shadow = show
        try:
            while not canary.complete:
                if self._stop.is_set() or self._promoted.token != stamp:
                    raise ModelError(f"{picker.model.identity}: another model was promoted", "superseded")
                if self._wake.is_set():
                    self._wake.clear()
                    self._tell_decided()
                try:
                    micrograph, record = shown.get(timeout=_WAIT_SECONDS)
                except Empty:
                    continue
                try:
                    picks = self._pick_in_shadow(picker, micrograph, chooser, record.document.junk)
                except Exception as error:
                    found = f"{picker.model.identity}: expected to pick {micrograph.path.name}, found: {error}"
                    raise ModelError(found, "canary") from error
                canary.compare(record.picks, picks, record.document.diameter_px)
                self._metrics.note_canary(record.picks, picks, canary.agreement)
        finally:
            serving.shadow = None
        log.info("model %s in shadow: %s", picker.model.identity, canary.describe())
        canary.check()

    def _pick_in_shadow(
        self, picker: Picker, micrograph: Micrograph, chooser: Chooser | None, junk: MaybeJunk = msgspec.UNSET
    ) -> Picks:
        """Pick as the model would if it served: with a threshold of its own choice, where frazil chooses."""
        if chooser is None:
            return sift_picks(junk, picker.pick(micrograph))[0]
        picture = picker.prepare(micrograph)
        score_map = picker.score(picture)
        chosen = chooser.consider(picker, LimitsChange(), str(micrograph.path), picture, score_map, junk)
        limits = LimitsPatch(threshold=chosen.threshold if chosen else None).over(picker.limits)
        return sift_picks(junk, find_picks(score_map, limits, picture.pixel_size_angstrom))[0]

    def _is(self, identity: ModelIdentity, path: Path) -> bool:
        with contextlib.suppress(ModelError):
            found = identify_model(path)
            return (found.version, found.sha256) == (identity.version, identity.sha256)
        return False

    def _post(self) -> None:
        """Publish this daemon's standing for others to see. Nothing depends on it."""
        standing, promoted = self._announcer.standing, self._promoted
        if standing is None or standing is self._posted:
            return
        if promoted.own.is_dir() and not self._post_in(promoted.own, standing.seen_from(str(promoted.own))):
            return
        of_setting = standing.seen_from(str(promoted.setting))
        if promoted.is_fixed or any(self._post_in(place, of_setting) for place in (promoted.setting, self._out)):
            self._posted = standing

    def _post_in(self, directory: Path, record: ServingRecord) -> bool:
        try:
            post_serving_record(directory, self._name, record)
        except OSError:
            return False
        return True
