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
from frazil.health.logs import event
from frazil.health.metrics import Metrics
from frazil.health.resources import Resources, count_nvidia_gpus, give_back_large_blocks
from frazil.health.state import DaemonState
from frazil.health.systemd import Notifier
from frazil.health.watchdog import Supervision
from frazil.microscope.sessions import Sessions
from frazil.model import Model, Precision, available_cores, load_model
from frazil.model.contract import Finds
from frazil.outputs import OutputFolder
from frazil.page.application import Application
from frazil.page.gate import TOKEN_NAME
from frazil.page.server import PageServer
from frazil.paths import absolute_path
from frazil.session.models import Models
from frazil.session.outbox.ledger import explain
from frazil.session.outbox.stream import Access, Stream
from frazil.session.pick.junk_model import JunkModel
from frazil.settings import ServeSettings

__all__ = ["Daemon"]

log = logging.getLogger(__name__)

_STOP_SECONDS = 4.5
"""Longest time of a stop. A service manager that waits 5 s need not kill the daemon."""
_CHECK_SECONDS = 0.5
_OUTPUT_SECONDS = 60.0
"""Time that the service manager is told to wait for the next report, while the output directory is missing."""


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
    _resources: Resources

    def __init__(self, settings: ServeSettings) -> None:
        self._settings = settings
        self._stop = threading.Event()
        self._stop_signal = ""
        self._reload = threading.Event()
        self._notifier = Notifier()
        self._supervision = Supervision(self._notifier, self._hanging)
        self._stopping = threading.Event()
        self._ready = threading.Event()
        self._parts = contextlib.ExitStack()
        self._parts.callback(self._notifier.close)
        self._metrics = Metrics(prometheus_client.CollectorRegistry(), self.state)
        prometheus_client.ProcessCollector(registry=self._metrics.registry)
        self._gpu_expected = settings.device == "cuda" or (settings.device == "auto" and count_nvidia_gpus() > 0)
        self._outputs = OutputFolder(settings.out.expanduser().resolve())
        self._junk_model = JunkModel(
            settings.junk_model,
            Models(lambda path, precision: self._load_model(path, precision, "junk")),
            check_seconds=settings.model_check_seconds,
            threads=settings.threads,
            stop=self._stopping,
        )
        self._sessions = Sessions(
            settings, self._metrics, Models(self._load_model), self._tell_step, junk_model=self._junk_model
        )

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
            raise self._fault() or explain(self._settings.ledger_file, error) from error

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
        settings, sessions = self._settings, self._sessions
        self._wait_for(self._outputs)
        self._page = self._start_page()
        self._parts.callback(self._page.close)
        self._parts.callback(sessions.close)  # after the stream, which reads the ledgers
        self._stream = self._start_stream()
        self._parts.callback(self._stream.close)
        ledger_folder = settings.ledger_file.expanduser().resolve().parent
        self._resources = Resources({"out": self._outputs.path, "ledger": ledger_folder})
        self._resources.start()
        self._parts.callback(self._resources.stop)
        sessions.begin(self._stream, self._page.url)
        self._ready.set()
        sessions.run_until(self._stopping)
        log.info(
            "ready after %.2f s: watching %s, writing to %s, publishing on %s, metrics on %s, page on %s",
            *(time.monotonic() - started, settings.root or absolute_path(settings.watch), self._outputs.path),
            *(self._stream.address, f"{self._page.url}metrics", self._page.url),
            extra=event("ready", **self._first_model()),
        )
        self._supervision.ready(self._describe)

    def _first_model(self) -> dict[str, str]:
        """The model of the first session, for the log; nothing if no session is open."""
        sessions = self._sessions.open_sessions
        model = sessions[0].serving.picker.model if sessions else None
        return {"model": model.identity.short, "provider": model.provider} if model else {}

    def _tell_step(self, step: str, seconds: float) -> None:
        if not self._ready.is_set():
            self._notifier.starting(step, within_seconds=seconds)

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
        settings = self._settings
        application = Application(
            self._metrics.registry,
            self.state,
            self._sessions,
            names=settings.http_names,
            token_file=settings.ledger_file.expanduser().resolve().with_name(TOKEN_NAME),
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
            is_microscope=settings.root is not None,
        )

    def _load_model(self, path: Path, precision: Precision, finds: Finds = "particles") -> Model:
        settings = self._settings
        threads = settings.threads or available_cores()
        cv2.setNumThreads(threads)
        return load_model(
            path,
            settings.device,
            threads,
            require_gpu=settings.require_gpu and finds == "particles",
            precision=precision,
            finds=finds,
        )

    # --- its state ------------------------------------------------------------------------------------------------

    def state(self) -> DaemonState:
        """What it is doing now; from any thread, and without waiting."""
        state = DaemonState(version=frazil.__version__, unwell=self._why_unwell(), unready=self._why_unready())
        if not self._ready.is_set():
            return state
        disks, sessions = self._resources.disks, self._sessions.states
        return msgspec.structs.replace(
            state,
            started_at=self._sessions.started_at,
            model=next((session.model for session in sessions if session.model), None),
            gpu_expected=self._gpu_expected,
            gpus=self._resources.gpus,
            subscribers=self._stream.subscribers,
            stream_restarts=self._stream.restarts,
            root=str(self._settings.root or ""),
            out=str(self._outputs.path),
            sessions=tuple(msgspec.structs.replace(session, disks=disks) for session in sessions),
            closed_sessions=self._sessions.closed_count,
        )

    def _why_unwell(self) -> str:
        if not self._ready.is_set() or self._stopping.is_set():
            return ""
        dead = self._dead_thread()
        return f"the thread {dead} died" if dead else self._hanging(time.monotonic()) or ""

    def _why_unready(self) -> str:
        if self._stopping.is_set():
            return "the daemon is stopping"
        if not self._ready.is_set():
            return "the model is being loaded and warmed up"
        if self._sessions.root_fault:
            return self._sessions.root_fault
        waits = (str(session.fault or session.state.waits_for) for session in self._sessions.open_sessions)
        return next((reason for reason in waits if reason), "")

    def _hanging(self, now: float) -> str | None:
        """A thread that hangs by `now`, and its work, in one line; None if none hangs."""
        sessions = self._sessions.open_sessions
        return next((hangs for session in sessions if (hangs := session.heartbeats.hanging(now))), None)

    def _fault(self) -> OutputError | None:
        """The reason why a ledger or an output directory must no longer be written; None as a rule."""
        return next((fault for session in self._sessions.open_sessions if (fault := session.fault)), None)

    def _dead_thread(self) -> str | None:
        """Name of a thread that has ended unexpectedly; None as a rule."""
        parts: list[_Part] = [self._sessions, self._stream, self._page]
        return next((dead for part in parts if (dead := part.dead_thread())), None)

    def _describe(self) -> str:
        """The daemon's state in one line, for the service manager."""
        states = [state for state in self._sessions.states if state.status == "open"]
        picks = [state.pick for state in states]
        models = {state.model.describe() for state in states if state.model}
        parts = [
            next((state.waits_for for state in states if state.waits_for), ""),
            f"{len(states)} sessions open" if self._sessions.is_microscope else "",
            next((pick.doing for pick in picks if pick.doing), "waiting for micrographs"),
            f"{waiting} in line" if (waiting := sum(pick.read for pick in picks)) else "",
            f"{sum(pick.picked for pick in picks)} picked, {sum(pick.failed for pick in picks)} failed",
            *sorted(models),
        ]
        return "; ".join(part for part in parts if part)

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
        for session in self._sessions.open_sessions:
            session.show_model()
        if not self._sessions.is_microscope and (fault := self._fault()):
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
        saved = self._sessions.open_sessions[0].ledger.rescue(lambda: self._supervision.look(time.monotonic()))
        raise OutputError(f"{fault}; {saved or 'none of its content is lost'}")

    def reload(self) -> None:
        """Look at the promoted models again, even at those that were refused. Settings stay as they are."""
        log.info("SIGHUP: looking at the promoted model", extra=event("reload"))
        sessions = self._sessions.open_sessions
        undecided = len(sessions)
        lock = threading.Lock()

        def decided() -> None:
            nonlocal undecided
            with lock:
                undecided -= 1
                if undecided == 0:
                    self._notifier.ready()

        self._junk_model.reload()
        for session in sessions:
            session.reload(decided)
        if not sessions:
            self._notifier.ready()

    def shutdown(self) -> bool:
        """End the stages in order.

        Returns:
            Whether the work in hand was finished within the time limit.
        """
        self._notifier.stopping()
        started = time.monotonic()
        deadline = started + _STOP_SECONDS
        self._stopping.set()
        finished = self._sessions.stop(deadline)
        if finished:
            log.info("stopped after %.2f s", time.monotonic() - started, extra=event("stopped"))
            return True
        log.warning(
            "stopped after %.1f s with work unfinished; the next start takes it up",
            _STOP_SECONDS,
            extra=event("stopped"),
        )
        return False
