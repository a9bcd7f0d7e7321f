"""The daemon: owns its parts, starts them in order and closes them in reverse."""

from __future__ import annotations

import contextlib
import errno
import gc
import logging
import os
import signal
import sqlite3
import threading
import time
from pathlib import Path
from types import FrameType
from typing import NoReturn

import cv2
import msgspec
import prometheus_client

import frazil
from frazil.errors import FrazilError, LedgerDamagedError, OutputError
from frazil.health.heartbeat import Pulses
from frazil.health.logs import event
from frazil.health.memory import give_back_large_blocks
from frazil.health.metrics import Metrics
from frazil.health.resources import Resources, count_nvidia_gpus
from frazil.health.state import DaemonState, SessionState
from frazil.health.systemd import Notifier
from frazil.health.watchdog import Supervision
from frazil.outputs import OutputFolder
from frazil.page.application import Application
from frazil.page.gate import TOKEN_NAME
from frazil.page.server import PageServer
from frazil.paths import absolute_path
from frazil.picking import (
    CURRENT_NAME,
    ChooseRescaling,
    Micrograph,
    Model,
    Picker,
    PickingSettings,
    PixelMemory,
    available_cores,
    load_model,
    read_micrograph,
)
from frazil.session.intake.file_system import FileSystem
from frazil.session.intake.intake import Intake
from frazil.session.intake.passed_over import INVENTORY_KEY
from frazil.session.intake.selection import Selection
from frazil.session.intake.watcher import Watcher
from frazil.session.outbox.daemon_info import Presence, check_watch
from frazil.session.outbox.ledger import Ledger, Witness, explain
from frazil.session.outbox.outbox import Outbox
from frazil.session.outbox.stream import Access, Stream
from frazil.session.pick.doubts import Doubts
from frazil.session.pick.drift_watch import DriftWatch
from frazil.session.pick.model_changes import Announcer
from frazil.session.pick.pipeline import Pipeline
from frazil.session.pick.serving import Serving
from frazil.session.pick.shadow import CanaryBounds
from frazil.session.pick.swapper import Swapper
from frazil.session.retune import Reviser
from frazil.settings import Precision, ServeSettings

__all__ = ["Daemon"]

log = logging.getLogger(__name__)

_STOP_SECONDS = 4.5
"""All of a stop; a service manager that waits 5 s has no need to kill."""
_CHECK_SECONDS = 0.5
_OUTPUT_SECONDS = 60.0
"""For how long the service manager need not hear again while the output directory is waited for."""
_LEDGER_LOOK_SECONDS = 1.0
_LEDGER_SECONDS = 600.0
"""Longest time for the ledger to open: one of an earlier version is rewritten."""
_MODEL_SECONDS = 600.0
"""Longest time for the model to load and warm up, on a GPU that is slow to wake."""
_LOCAL_SETTLE_SECONDS = 1.0
"""Between the two looks at a file on a local file system that nobody is known to have closed."""


class Daemon:
    """``frazil serve``: `run` starts it, stays until SIGTERM or SIGINT, and stops it.

    Args:
        settings: the whole of its settings.
    """

    def __init__(self, settings: ServeSettings) -> None:
        self._settings = settings
        self._stop = threading.Event()
        self._stop_signal = ""
        self._reload = threading.Event()
        self._notifier = Notifier()
        self._pulses = Pulses(settings.hang_timeout)
        self._supervision = Supervision(self._notifier, self._pulses)
        self._stopping = threading.Event()
        self._claim_fault: OutputError | None = None
        self._ready = threading.Event()
        self._parts = contextlib.ExitStack()

    def run(self) -> None:
        """Start, serve, stop.

        Raises:
            FrazilError: it cannot start, or a stage died.
        """
        with self._parts:
            self._parts.callback(self._notifier.close)
            self.capture_signals()
            self._start_or_explain()
            try:
                self.main_loop()
            finally:
                finished = self.shutdown()
            if not finished:
                # A thread that cannot end must not keep the process, nor see its ledger closed under it.
                logging.shutdown()
                os._exit(0)

    def _start_or_explain(self) -> None:
        try:
            self.startup()
        except sqlite3.Error as error:
            raise self._ledger.fault or explain(self._ledger.file, error) from error

    def capture_signals(self) -> None:
        """Let SIGTERM and SIGINT end the main loop, and SIGHUP have it look at the model again."""

        def request_stop(number: int, _frame: FrameType | None) -> None:
            self._stop_signal = signal.Signals(number).name
            self._stop.set()

        def request_reload(_number: int, _frame: FrameType | None) -> None:
            # At once: systemctl reload waits for the end of a reload that it was told of in time.
            self._notifier.reloading()
            self._reload.set()

        handlers = {
            signal.SIGTERM: request_stop,
            signal.SIGINT: request_stop,
            # From a terminal it means that the terminal is gone.
            signal.SIGHUP: request_stop if os.isatty(0) else request_reload,
        }
        for number, handler in handlers.items():
            self._parts.callback(signal.signal, number, signal.signal(number, handler))

    def startup(self) -> None:
        """Start every part; ready only once the model is warm.

        Raises:
            FrazilError: a part cannot start. What had started is closed again.
        """
        started = time.monotonic()
        give_back_large_blocks()
        settings = self._settings
        root = settings.watch.expanduser().resolve()
        watch = absolute_path(settings.watch)  # as others name it, links and all
        out = settings.out.expanduser().resolve()
        picking = PickingSettings(
            diameter_angstrom=settings.diameter,
            pixel_size_angstrom=settings.pixel_size,
            unusual_diameter=settings.unusual_diameter,
            threshold=settings.threshold,
            min_distance_angstrom=settings.min_distance,
            edge_margin_angstrom=settings.edge_margin,
            contrast=settings.contrast,
        )
        outputs = OutputFolder(out)
        self._prepare(outputs)

        metrics = Metrics(prometheus_client.CollectorRegistry(), self.state)
        prometheus_client.ProcessCollector(registry=metrics.registry)
        ledger_file = settings.ledger_file.expanduser().resolve()
        self._page = self._open_page(metrics, ledger_file)
        self._parts.callback(self._page.close)
        self._notifier.starting("opening the ledger", within_seconds=_LEDGER_SECONDS)
        self._witness = Witness(out, watch=root, ledger=ledger_file)
        self._parts.callback(self._witness.close)
        self._ledger = Ledger(ledger_file, self._witness)
        self._parts.callback(self._ledger.close)
        check_watch(self._ledger, root)
        self._stream = self._open_stream(metrics)
        self._parts.callback(self._stream.close)

        writing = self._pulses.of("frazil-writing")
        self._outbox = outbox = Outbox(self._ledger, self._stream, metrics, watch, out, self._stopping, writing.beat)
        self._reviser = Reviser(self._ledger, outbox, picking)
        self._parts.callback(self._reviser.close)
        announcer = Announcer(self._ledger, outbox, metrics)
        self._resources = Resources({"out": out, "ledger": self._ledger.file.parent})
        self._resources.start()
        self._parts.callback(self._resources.stop)
        self._gpu_expected = settings.device == "cuda" or (settings.device == "auto" and count_nvidia_gpus() > 0)
        self._swapper = swapper = self._make_swapper(announcer, metrics, picking)
        self._notifier.starting(f"loading the model {settings.model}", within_seconds=_MODEL_SECONDS)
        path, precision = settings.model.expanduser(), settings.precision
        model = swapper.load_first() if swapper else self._load_model(path, precision)
        self._notifier.starting(f"warming up the model {model.identity.short}", within_seconds=_MODEL_SECONDS)
        batch_seconds = model.warm_up()
        metrics.batch.set(batch_seconds)
        where = model.placement.describe(batch_seconds)
        how = f"{model.provider} in {model.precision}"
        log.info("model %s runs on %s: %s; %s", model.identity, how, where, model.preparation)
        if not model.has_card:
            log.warning("model %s has no card: its reference output could not be checked", model.identity.name)
        self._serving = Serving(
            Picker(model, picking),
            self._reviser.wanted,
            probation_micrographs=settings.probation_micrographs,
            faults_allowed=settings.probation_faults,
        )

        self._pipeline = Pipeline(
            self._serving,
            announcer,
            self._ledger,
            outbox,
            self._reviser,
            metrics,
            DriftWatch(self._ledger),
            Doubts(settings.contrast),
            self._stopping,
            self._read_micrograph,
            watch=watch,
            max_attempts=settings.max_attempts,
            keep_score_maps=settings.keep_score_maps,
            pulses=self._pulses,
            read_seconds=settings.read_timeout,
        )
        file_system = FileSystem.of(root)
        known = self._ledger.known()
        gc.freeze()  # what has come by now stays: to look through the stamps of a million files takes a while
        self._intake = intake = Intake(
            self._ledger,
            known,
            metrics,
            root,
            settle_seconds=self._settle_seconds(file_system),
            stall_seconds=settings.stall,
            shows_holes=file_system.shows_holes,
            accept=self._pipeline.accept,
            refuse=self._pipeline.refuse,
            check_name=outputs.check_name,
            beat=self._pulses.of("frazil-intake").beat,
        )
        self._watcher = Watcher(
            root,
            file_system,
            intake.tell,
            metrics,
            selection=Selection(settings.include, settings.exclude, settings.companions),
            known=known,
            missing=self._ledger.missing(),
            usual_mount_point=self._usual_mount_point(root),
            on_file_system=lambda found: self._note_file_system(found, intake),
            on_inventory=lambda inventory: self._remember(INVENTORY_KEY, inventory.encode()),
            scan_seconds=settings.scan,
            watch_by=settings.watch_by,
            backlog_order=settings.backlog_order,
            beat=self._pulses.of("frazil-scan").beat,
        )
        self._intake_thread = threading.Thread(
            target=intake.run, args=(self._stopping,), name="frazil-intake", daemon=True
        )
        self._watcher.start()
        self._parts.callback(self._watcher.stop)
        self._pipeline.start(intake)
        self._intake_thread.start()
        self._presence = Presence(
            pid=os.getpid(),
            started_at=time.time(),
            watch=str(root),
            out=str(out),
            stream=self._stream.address,
            metrics=f"{self._page.url}metrics",
            page=self._page.url,
            model=model.identity.short,
            provider=model.provider,
            precision=model.precision,
        )
        self._remember("daemon", self._presence.encode())
        self._parts.callback(lambda: self._remember("daemon", self._presence.stopped().encode()))
        self._ledger_thread = threading.Thread(target=self._watch_ledger, name="frazil-ledger", daemon=True)
        self._ledger_thread.start()
        if swapper:
            swapping = threading.Thread(
                target=swapper.run, args=(self._serving, self._pipeline.report), name="frazil-swap", daemon=True
            )
            swapping.start()
        self._ready.set()
        log.info(
            "ready after %.2f s: watching %s, writing to %s, publishing on %s, metrics on %s, page on %s",
            time.monotonic() - started,
            watch,
            out,
            self._stream.address,
            self._presence.metrics,
            self._page.url,
            extra=event("ready", model=model.identity.short, provider=model.provider),
        )
        self._supervision.ready(self._describe)

    def _prepare(self, outputs: OutputFolder) -> None:
        """Make sure that the output directory can be written; where it may be mounted later, wait for it.

        In systemd's sandbox every file system is read only, but for what `ReadWritePaths=` names. So it does not make
        a directory where none is mounted yet, and cannot tell that from one that was left out of `ReadWritePaths=`.
        """
        waits = False
        while not self._stop.is_set():
            try:
                outputs.prepare()
            except OutputError as error:
                cause = error.__cause__
                if not isinstance(cause, OSError) or cause.errno != errno.EROFS or outputs.path.exists():
                    raise
                fault = f"{outputs.path} is not there: is its file system mounted? Is it new: run install-service again"
                if not waits:
                    log.warning("%s", fault, extra=event("output_blocked", file=str(outputs.path), reason="not there"))
                waits = True
                self._notifier.starting(f"waiting: {fault}", within_seconds=_OUTPUT_SECONDS)
                self._stop.wait(_CHECK_SECONDS)
            else:
                if waits:
                    log.info("%s is there now", outputs.path, extra=event("output_free", file=str(outputs.path)))
                return
        raise SystemExit(0)

    def _open_page(self, metrics: Metrics, ledger_file: Path) -> PageServer:
        settings = self._settings
        application = Application(
            metrics.registry,
            self.state,
            ledger_file,
            self._read_micrograph,
            names=settings.http_names,
            token_file=ledger_file.with_name(TOKEN_NAME),
        )
        return PageServer(settings.http, application, allow_others=settings.http_unencrypted)

    def state(self) -> DaemonState:
        """What it is doing now; from any thread, and without waiting."""
        told = DaemonState(version=frazil.__version__, unwell=self._why_unwell(), unready=self._why_unready())
        if not self._ready.is_set():
            return told
        return msgspec.structs.replace(
            told,
            started_at=self._presence.started_at,
            model=self._serving.state,
            gpu_expected=self._gpu_expected,
            gpus=self._resources.gpus,
            subscribers=self._stream.subscribers,
            stream_restarts=self._stream.restarts,
            sessions=(self._session_state(),),
        )

    def _session_state(self) -> SessionState:
        return SessionState(
            directory=str(self._settings.watch),
            watch=self._watcher.state,
            intake=self._intake.state,
            pick=self._pipeline.state,
            blocked=self._outbox.waits_for,
            ledger_head=self._ledger.head,
            disks=self._resources.disks,
        )

    def _why_unwell(self) -> str:
        if not self._ready.is_set() or self._stopping.is_set():
            return ""
        dead = self._dead_thread()
        return f"the thread {dead} died" if dead else self._pulses.hanging() or ""

    def _why_unready(self) -> str:
        if self._stopping.is_set():
            return "the daemon is stopping"
        if self._ready.is_set() and self._ledger.fault is not None:
            return str(self._ledger.fault)
        return self._session_state().waits_for if self._ready.is_set() else "the model is being loaded and warmed up"

    def _dead_thread(self) -> str | None:
        """Name of a thread that has died, which none should."""
        others = (self._intake_thread, self._watcher.thread, self._page.thread, self._ledger_thread)
        return (
            self._pipeline.failed_stage()
            or self._stream.failed_thread()
            or next((t.name for t in others if not t.is_alive()), None)
        )

    def _describe(self) -> str:
        """What it is at, in one line."""
        model, session = self._serving.picker.model, self._session_state()
        pick = session.pick
        parts = [
            session.waits_for,
            pick.doing or "waiting for micrographs",
            f"{pick.read} in line" if pick.read else "",
            f"{pick.picked} picked, {pick.failed} failed",
            f"{model.identity.short} on {model.provider} in {model.precision}",
        ]
        return "; ".join(part for part in parts if part)

    def _read_micrograph(
        self, path: Path, memory: PixelMemory | None = None, rescaling: ChooseRescaling | None = None
    ) -> Micrograph:
        settings = self._settings
        deadline = time.monotonic() + settings.read_timeout
        return read_micrograph(
            path,
            as_stored=True,
            memory=memory,
            largest_bytes=settings.max_micrograph_bytes,
            cut_off=lambda: time.monotonic() > deadline,
            rescaling=rescaling,
        )

    def _settle_seconds(self, file_system: FileSystem) -> float:
        # Of a network's file system the second look comes one poll later: sooner, it may get a kept answer.
        return self._settings.scan if file_system.is_network else _LOCAL_SETTLE_SECONDS

    def _note_file_system(self, file_system: FileSystem, intake: Intake) -> None:
        intake.settle(self._settle_seconds(file_system), shows_holes=file_system.shows_holes)
        self._remember("mount_point", file_system.mount_point)

    def _usual_mount_point(self, root: Path) -> str:
        """Where the file system was mounted that the directory lay on when an earlier run last saw it."""
        remembered = self._ledger.recall("mount_point")
        return remembered if remembered and root.is_relative_to(remembered) else ""

    def _show_model(self) -> None:
        """Have ``frazil status`` say which model serves, once that has changed."""
        model = self._serving.picker.model
        if model.identity.short != self._presence.model:
            self._presence = msgspec.structs.replace(
                self._presence, model=model.identity.short, provider=model.provider, precision=model.precision
            )
            self._remember("daemon", self._presence.encode())

    def _remember(self, key: str, value: str) -> None:
        """Have the ledger remember what is good to know but not needed."""
        with contextlib.suppress(sqlite3.Error):
            self._ledger.remember(key, value)

    def _load_model(self, path: Path, precision: Precision) -> Model:
        settings = self._settings
        threads = settings.threads or available_cores()
        cv2.setNumThreads(threads)
        return load_model(path, settings.device, threads, require_gpu=settings.require_gpu, precision=precision)

    def _make_swapper(self, announcer: Announcer, metrics: Metrics, picking: PickingSettings) -> Swapper | None:
        """Only a model's folder has versions to swap; one version's folder, or a lone file, serves for good."""
        settings = self._settings
        folder = settings.model.expanduser()
        if not (folder / CURRENT_NAME).exists():
            return None
        return Swapper(
            folder,
            load=self._load_model,
            make_picker=lambda model: Picker(model, picking, self._reviser.wanted.for_model(model.identity.sha256)),
            announcer=announcer,
            metrics=metrics,
            watch=settings.watch.expanduser().resolve(),
            out=settings.out.expanduser().resolve(),
            name=self._ledger.epoch,
            precision=settings.precision,
            proof_seconds=settings.model_proof,
            threads=settings.threads,
            bounds=CanaryBounds(
                micrographs=settings.canary_micrographs,
                agreement=settings.canary_agreement,
                picks_ratio=settings.canary_picks_ratio,
            ),
            stop=self._stopping,
        )

    def _open_stream(self, metrics: Metrics) -> Stream:
        settings, ledger = self._settings, self._ledger
        access = None
        if settings.curve_key is not None and settings.curve_clients is not None:
            access = Access(settings.curve_key.expanduser(), settings.curve_clients.expanduser())
        return Stream(
            settings.publish,
            replay=settings.replay,
            ledger=ledger.file,
            epoch=ledger.epoch,
            generation=ledger.generation,
            on_damage=ledger.stop,
            published=next((seq - 1 for seq, _ in ledger.undelivered()), ledger.head),
            metrics=metrics,
            access=access,
            allow_unencrypted=settings.publish_unencrypted,
        )

    def main_loop(self) -> None:
        """Stay until a signal.

        Raises:
            LedgerDamagedError: the ledger is damaged.
            OutputError: the ledger was deleted or replaced, or the output directory is another daemon's by now.
            FrazilError: a stage died, which is a fault in frazil.
        """
        while not self._stop.wait(self._supervision.longest_rest(_CHECK_SECONDS)):
            if self._reload.is_set():
                self._reload.clear()
                self.reload()
            self._supervision.look()
            self._show_model()
            if fault := self._ledger.fault or self._claim_fault:
                self._end_without_ledger(fault)
            if dead := self._dead_thread():
                raise FrazilError(f"the thread {dead} died; see the log above, and please report it")
        log.info("%s: finishing the work in hand", self._stop_signal, extra=event("stopping"))

    def _watch_ledger(self) -> None:
        """Look again and again whether ledger and output directory are still ours, for the main loop to find.

        In a thread of its own: a mount that hangs holds up nothing else.
        """
        while not self._stopping.wait(_LEDGER_LOOK_SECONDS):
            try:
                self._ledger.look()
                self._witness.beat()
            except OutputError as error:
                self._claim_fault = error
                return

    def _end_without_ledger(self, fault: OutputError) -> NoReturn:
        """End before anything goes into a ledger that is damaged, or that nobody will find again."""
        self._notifier.status(f"ENDS: {fault}")
        if isinstance(fault, LedgerDamagedError):
            log.critical("%s", fault, extra=event("ledger_damaged"))
            raise fault
        log.critical("%s; no number is given out any more", fault, extra=event("ledger_lost"))
        saved = self._ledger.rescue(self._supervision.look)
        raise OutputError(f"{fault}; {saved or 'nothing that was in it is lost'}")

    def reload(self) -> None:
        """Look at the promoted model again, also at one that was refused before; settings stay as they are."""
        log.info("SIGHUP: looking at the promoted model", extra=event("reload"))
        if self._swapper is None:
            self._notifier.ready()
        else:
            self._swapper.reload(self._notifier.ready)

    def shutdown(self) -> bool:
        """End the stages in order; whether what was in hand could be finished within the time limit."""
        self._notifier.stopping()
        started = time.monotonic()
        deadline = started + _STOP_SECONDS
        self._stopping.set()
        if self._swapper is not None:
            self._swapper.stop_trying()
        for thread in (self._intake_thread, self._ledger_thread):
            thread.join(max(0.0, deadline - time.monotonic()))
        if self._pipeline.stop(deadline):
            log.info("stopped after %.2f s", time.monotonic() - started, extra=event("stopped"))
            return True
        log.warning(
            "stopped after %.1f s with work unfinished; it is taken up at the next start",
            _STOP_SECONDS,
            extra=event("stopped"),
        )
        return False
