"""The daemon: owns its parts, starts them in order and closes them in reverse."""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import signal
import sqlite3
import threading
import time
from pathlib import Path
from types import FrameType
from typing import NoReturn, Protocol

import cv2
import msgspec
import prometheus_client

import frazil
from frazil.errors import FrazilError, LedgerDamagedError, OutputError
from frazil.health.heartbeat import Heartbeats
from frazil.health.logs import event
from frazil.health.metrics import Metrics
from frazil.health.resources import Resources, count_nvidia_gpus, give_back_large_blocks
from frazil.health.state import DaemonState
from frazil.health.systemd import Notifier
from frazil.health.watchdog import Supervision
from frazil.model import CURRENT_NAME, Model, Precision, available_cores, load_model
from frazil.outputs import OutputFolder
from frazil.page.application import Application
from frazil.page.gate import TOKEN_NAME
from frazil.page.server import PageServer
from frazil.picking import Picker
from frazil.session.outbox.daemon_info import DaemonInfo
from frazil.session.outbox.ledger import DAEMON_KEY, explain
from frazil.session.outbox.stream import Access, Channel, Stream
from frazil.session.pick.shadow import CanaryBounds
from frazil.session.pick.swapper import Swapper
from frazil.session.session import Session
from frazil.settings import ServeSettings

__all__ = ["Daemon"]

log = logging.getLogger(__name__)

_STOP_SECONDS = 4.5
"""Longest time of a stop. A service manager that waits 5 s need not kill the daemon."""
_CHECK_SECONDS = 0.5
_OUTPUT_SECONDS = 60.0
"""Time that the service manager is told to wait for the next report, while the output directory is missing."""
_LEDGER_SECONDS = 600.0
"""Longest time to open the ledger. A ledger of an earlier version is rewritten."""
_MODEL_SECONDS = 600.0
"""Longest time to load the model and warm it up, on a GPU that is slow to wake."""


class _Part(Protocol):
    """A part with threads of its own."""

    def dead_thread(self) -> str | None:
        """Name of a thread that has ended unexpectedly; None as a rule."""


class Daemon:
    """``frazil serve``: `run` starts every part, waits for SIGTERM or SIGINT, and stops every part.

    Args:
        settings: all settings.
    """

    _page: PageServer
    _stream: Stream
    _swapper: Swapper | None
    _info: DaemonInfo
    _resources: Resources

    def __init__(self, settings: ServeSettings) -> None:
        self._settings = settings
        self._stop = threading.Event()
        self._stop_signal = ""
        self._reload = threading.Event()
        self._notifier = Notifier()
        self._heartbeats = Heartbeats(settings.hang_timeout_seconds)
        self._supervision = Supervision(self._notifier, self._heartbeats)
        self._stopping = threading.Event()
        self._ready = threading.Event()
        self._parts = contextlib.ExitStack()
        self._parts.callback(self._notifier.close)
        self._metrics = Metrics(prometheus_client.CollectorRegistry(), self.state)
        prometheus_client.ProcessCollector(registry=self._metrics.registry)
        self._model = settings.model.expanduser()
        self._gpu_expected = settings.device == "cuda" or (settings.device == "auto" and count_nvidia_gpus() > 0)
        self._sessions = [Session(settings, self._metrics, self._heartbeats, self._stopping)]

    def run(self) -> None:
        """Start, serve, stop.

        Raises:
            FrazilError: the daemon cannot start, or a thread died.
        """
        with contextlib.closing(self):
            self.capture_signals()
            self._start_or_explain()
            try:
                self.main_loop()
            finally:
                finished = self.shutdown()
            if not finished:
                # A thread that does not end must not keep the process alive, nor use a ledger that was closed.
                logging.shutdown()
                os._exit(0)

    def close(self) -> None:
        """Close what was started, in reverse."""
        self._parts.close()

    def _start_or_explain(self) -> None:
        try:
            self.startup()
        except sqlite3.Error as error:
            raise self._fault() or explain(self._session.ledger_file, error) from error

    def capture_signals(self) -> None:
        """Make SIGTERM and SIGINT end the main loop, and SIGHUP look at the promoted model again."""

        def request_stop(number: int, _frame: FrameType | None) -> None:
            self._stop_signal = signal.Signals(number).name
            self._stop.set()

        def request_reload(_number: int, _frame: FrameType | None) -> None:
            # At once: systemctl reload waits for the end of a reload only if its beginning is reported in time.
            self._notifier.reloading()
            self._reload.set()

        handlers = {
            signal.SIGTERM: request_stop,
            signal.SIGINT: request_stop,
            # In a terminal, SIGHUP means that the terminal was closed.
            signal.SIGHUP: request_stop if os.isatty(0) else request_reload,
        }
        for number, handler in handlers.items():
            self._parts.callback(signal.signal, number, signal.signal(number, handler))

    def startup(self) -> None:
        """Start every part. The daemon is ready once the model is warm.

        Raises:
            FrazilError: a part cannot start. The parts that had started are closed by `run`.
        """
        started = time.monotonic()
        give_back_large_blocks()
        settings, session = self._settings, self._session
        self._wait_for(session.outputs)
        self._page = self._start_page()
        self._parts.callback(self._page.close)
        self._notifier.starting("opening the ledger", within_seconds=_LEDGER_SECONDS)
        self._parts.callback(session.close)
        session.open()
        self._stream = self._start_stream()
        self._parts.callback(self._stream.close)
        session.connect(self._add_channel(session))
        self._resources = Resources({"out": session.outputs.path, "ledger": session.ledger.file.parent})
        self._resources.start()
        self._parts.callback(self._resources.stop)
        self._swapper = self._make_swapper()
        self._notifier.starting(f"loading the model {settings.model}", within_seconds=_MODEL_SECONDS)
        model = self._swapper.load_first() if self._swapper else self._load_model(self._model, settings.precision)
        self._notifier.starting(f"warming up the model {model.identity.short}", within_seconds=_MODEL_SECONDS)
        picker = session.make_picker(model)
        self._warm_up(picker)
        session.start(picker)
        self._info = self._make_info(model)
        session.remember(DAEMON_KEY, self._info.encode())
        self._parts.callback(lambda: session.remember(DAEMON_KEY, self._info.stopped().encode()))
        if self._swapper:
            self._swapper.start(session.serving, session.report)
        self._ready.set()
        log.info(
            "ready after %.2f s: watching %s, writing to %s, publishing on %s, metrics on %s, page on %s",
            *(time.monotonic() - started, session.watch, session.outputs.path),
            *(self._info.stream, self._info.metrics, self._info.page),
            extra=event("ready", model=model.identity.short, provider=model.provider),
        )
        self._supervision.ready(self._describe)

    def _wait_for(self, outputs: OutputFolder) -> None:
        """Check that the output directory can be written; wait for it if it may be mounted later.

        In systemd's sandbox every file system is read-only, except for the paths in `ReadWritePaths=`. So the daemon
        cannot make a directory that is not mounted yet, and cannot tell it from one that `ReadWritePaths=` lacks.
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

    def _start_page(self) -> PageServer:
        settings, session = self._settings, self._session
        application = Application(
            self._metrics.registry,
            self.state,
            session.ledger_file,
            session.read_micrograph,
            names=settings.http_names,
            token_file=session.ledger_file.with_name(TOKEN_NAME),
        )
        return PageServer(settings.http_address, application, allow_others=settings.http_unencrypted)

    def _start_stream(self) -> Stream:
        settings = self._settings
        access = None
        if settings.curve_key is not None and settings.curve_clients is not None:
            access = Access(settings.curve_key.expanduser(), settings.curve_clients.expanduser())
        return Stream(
            settings.publish_address,
            replay=settings.replay_address,
            metrics=self._metrics,
            access=access,
            allow_unencrypted=settings.publish_unencrypted,
        )

    def _add_channel(self, session: Session) -> Channel:
        ledger = session.ledger
        return self._stream.add(
            "",
            ledger=ledger.file,
            epoch=ledger.epoch,
            generation=ledger.generation,
            on_damage=ledger.stop,
            published=next((seq - 1 for seq, _ in ledger.undelivered()), ledger.head),
        )

    def _make_swapper(self) -> Swapper | None:
        """The swapper of a model's folder; None for one version's folder or a single file, which serve for good."""
        settings, session = self._settings, self._session
        if not (self._model / CURRENT_NAME).exists():
            return None
        return Swapper(
            self._model,
            load=self._load_model,
            make_picker=session.make_picker,
            announcer=session.announcer,
            metrics=self._metrics,
            watch=session.root,
            out=session.outputs.path,
            name=session.ledger.epoch,
            precision=settings.precision,
            check_seconds=settings.model_check_seconds,
            threads=settings.threads,
            bounds=CanaryBounds(
                micrographs=settings.canary_micrographs,
                agreement=settings.canary_agreement,
                picks_ratio=settings.canary_picks_ratio,
            ),
            stop=self._stopping,
        )

    def _load_model(self, path: Path, precision: Precision) -> Model:
        settings = self._settings
        threads = settings.threads or available_cores()
        cv2.setNumThreads(threads)
        return load_model(path, settings.device, threads, require_gpu=settings.require_gpu, precision=precision)

    def _warm_up(self, picker: Picker) -> None:
        model = picker.model
        batch_seconds = model.warm_up()
        self._metrics.batch.set(batch_seconds)
        where = model.placement.describe(batch_seconds)
        how = f"{model.provider} in {model.precision}"
        log.info("model %s runs on %s: %s; %s", model.identity, how, where, picker.device.describe())
        if not model.has_card:
            log.warning("model %s has no card: its reference output could not be checked", model.identity.name)

    def _make_info(self, model: Model) -> DaemonInfo:
        return DaemonInfo(
            pid=os.getpid(),
            started_at=time.time(),
            watch=str(self._session.root),
            out=str(self._session.outputs.path),
            stream=self._stream.address,
            metrics=f"{self._page.url}metrics",
            page=self._page.url,
            model=model.identity.short,
            provider=model.provider,
            precision=model.precision,
        )

    # --- its state ------------------------------------------------------------------------------------------------

    def state(self) -> DaemonState:
        """What it is doing now; from any thread, and without waiting."""
        state = DaemonState(version=frazil.__version__, unwell=self._why_unwell(), unready=self._why_unready())
        if not self._ready.is_set():
            return state
        disks = self._resources.disks
        return msgspec.structs.replace(
            state,
            started_at=self._info.started_at,
            model=self._session.serving.state,
            gpu_expected=self._gpu_expected,
            gpus=self._resources.gpus,
            subscribers=self._stream.subscribers,
            stream_restarts=self._stream.restarts,
            sessions=tuple(msgspec.structs.replace(session.state, disks=disks) for session in self._sessions),
        )

    def _why_unwell(self) -> str:
        if not self._ready.is_set() or self._stopping.is_set():
            return ""
        dead = self._dead_thread()
        return f"the thread {dead} died" if dead else self._heartbeats.hanging(time.monotonic()) or ""

    def _why_unready(self) -> str:
        if self._stopping.is_set():
            return "the daemon is stopping"
        if not self._ready.is_set():
            return "the model is being loaded and warmed up"
        session = self._session
        return str(session.ledger.fault) if session.ledger.fault is not None else session.state.waits_for

    @property
    def _session(self) -> Session:
        """The only session, so far."""
        return self._sessions[0]

    def _fault(self) -> OutputError | None:
        """The reason why a ledger or an output directory must no longer be written; None as a rule."""
        return next((fault for session in self._sessions if (fault := session.fault)), None)

    def _dead_thread(self) -> str | None:
        """Name of a thread that has ended unexpectedly; None as a rule."""
        parts: list[_Part] = [*self._sessions, self._stream, self._page]
        return next((dead for part in parts if (dead := part.dead_thread())), None)

    def _describe(self) -> str:
        """The daemon's state in one line, for the service manager."""
        model, state = self._session.serving.picker.model, self._session.state
        pick = state.pick
        parts = [
            state.waits_for,
            pick.doing or "waiting for micrographs",
            f"{pick.read} in line" if pick.read else "",
            f"{pick.picked} picked, {pick.failed} failed",
            f"{model.identity.short} on {model.provider} in {model.precision}",
        ]
        return "; ".join(part for part in parts if part)

    def _show_model(self) -> None:
        """Update the daemon's info in the ledger when the serving model has changed."""
        model = self._session.serving.picker.model
        if model.identity.short != self._info.model:
            self._info = msgspec.structs.replace(
                self._info, model=model.identity.short, provider=model.provider, precision=model.precision
            )
            self._session.remember(DAEMON_KEY, self._info.encode())

    # --- the loop -------------------------------------------------------------------------------------------------

    def main_loop(self) -> None:
        """Run until a signal ends it.

        Raises:
            LedgerDamagedError: the ledger is damaged.
            OutputError: the ledger was deleted or replaced, or another daemon has taken the output directory.
            FrazilError: a thread died, which is a fault in frazil.
        """
        while not self._stop.wait(self._supervision.longest_rest(_CHECK_SECONDS)):
            self.turn(time.monotonic())
        log.info("%s: finishing the work in hand", self._stop_signal, extra=event("stopping"))

    def turn(self, now: float) -> None:
        """Take one step of the main loop.

        Args:
            now: the time on the monotonic clock.

        Raises:
            FrazilError: as in `main_loop`.
        """
        if self._reload.is_set():
            self._reload.clear()
            self.reload()
        self._supervision.look(now)
        self._show_model()
        if fault := self._fault():
            self._end_without_ledger(fault)
        if dead := self._dead_thread():
            raise FrazilError(f"the thread {dead} died; see the log above, and please report it")

    def _end_without_ledger(self, fault: OutputError) -> NoReturn:
        """End before anything is written to a ledger that is damaged, deleted or replaced."""
        self._notifier.status(f"ENDS: {fault}")
        if isinstance(fault, LedgerDamagedError):
            log.critical("%s", fault, extra=event("ledger_damaged"))
            raise fault
        log.critical("%s; no more documents are numbered", fault, extra=event("ledger_lost"))
        saved = self._session.ledger.rescue(lambda: self._supervision.look(time.monotonic()))
        raise OutputError(f"{fault}; {saved or 'none of its content is lost'}")

    def reload(self) -> None:
        """Look at the promoted model again, even if it was refused. Settings stay as they are."""
        log.info("SIGHUP: looking at the promoted model", extra=event("reload"))
        if self._swapper is None:
            self._notifier.ready()
        else:
            self._swapper.reload(self._notifier.ready)

    def shutdown(self) -> bool:
        """End the stages in order.

        Returns:
            Whether the work in hand was finished within the time limit.
        """
        self._notifier.stopping()
        started = time.monotonic()
        deadline = started + _STOP_SECONDS
        self._stopping.set()
        if self._swapper is not None:
            self._swapper.forget_check()
        finished = self._session.stop(deadline)
        self._show_model()
        if finished:
            log.info("stopped after %.2f s", time.monotonic() - started, extra=event("stopped"))
            return True
        log.warning(
            "stopped after %.1f s with work unfinished; the next start takes it up",
            _STOP_SECONDS,
            extra=event("stopped"),
        )
        return False
