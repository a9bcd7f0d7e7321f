"""A session: one watched directory with its ledger, outputs, limits and threads."""

from __future__ import annotations

import contextlib
import gc
import sqlite3
import threading
import time
from collections.abc import Callable

from frazil.errors import OutputError
from frazil.health.heartbeat import Heartbeats
from frazil.health.metrics import Metrics
from frazil.health.state import SessionState
from frazil.model import Model
from frazil.outputs import OutputFolder
from frazil.paths import absolute_path
from frazil.picking import Picker, PickingSettings, PreparationOnDevice
from frazil.record import MicrographReader
from frazil.session.intake.file_system import FileSystem
from frazil.session.intake.intake import Intake
from frazil.session.intake.selection import Selection
from frazil.session.intake.watcher import Watcher
from frazil.session.outbox.daemon_info import check_watch
from frazil.session.outbox.ledger import INVENTORY_KEY, MOUNT_POINT_KEY, Ledger, Witness
from frazil.session.outbox.outbox import Outbox
from frazil.session.outbox.stream import Stream
from frazil.session.pick.doubts import Doubts
from frazil.session.pick.drift import DriftWatch
from frazil.session.pick.model_changes import Announcer, ModelChange
from frazil.session.pick.pipeline import Pipeline
from frazil.session.pick.serving import Serving
from frazil.session.retune import Reviser
from frazil.settings import ServeSettings

__all__ = ["Session"]

_LEDGER_LOOK_SECONDS = 1.0
_LOCAL_SETTLE_SECONDS = 1.0
"""Time between the two looks at a file that nobody is known to have closed, on a local file system."""


class Session:
    """Owns the ledger, the outputs and the threads of one watched directory.

    `open`, `connect` and `start` are called once each, in this order; `stop`, then `close`, at the end.

    Args:
        settings: all settings.
        metrics: metrics of the daemon.
        heartbeats: heartbeats of the daemon's threads.
        stopping: event that is set when the daemon stops.

    Attributes:
        root: the watched directory, with links resolved.
        watch: the watched directory, by the name that the user gave it.
        outputs: directory of the pick files.
        picking: settings of picking.
        read_micrograph: reads a micrograph within the limits of memory and time in the settings.
        ledger: the ledger, after `open`.
        announcer: commits changes of models, after `connect`.
        serving: the serving model, after `start`.
    """

    ledger: Ledger
    announcer: Announcer
    serving: Serving

    def __init__(
        self, settings: ServeSettings, metrics: Metrics, heartbeats: Heartbeats, stopping: threading.Event
    ) -> None:
        self._settings = settings
        self._metrics = metrics
        self._heartbeats = heartbeats
        self._stopping = stopping
        self._closing = contextlib.ExitStack()
        self._claim_fault: OutputError | None = None
        self.root = settings.watch.expanduser().resolve()
        self.watch = absolute_path(settings.watch)
        self.outputs = OutputFolder(settings.out.expanduser().resolve())
        self.ledger_file = settings.ledger_file.expanduser().resolve()
        self.picking = PickingSettings(
            diameter_angstrom=settings.diameter_angstrom,
            pixel_size_angstrom=settings.pixel_size_angstrom,
            unusual_diameter=settings.unusual_diameter,
            contrast=settings.contrast,
            **settings.limits.given(),
        )
        self.read_micrograph = MicrographReader(
            largest_bytes=settings.max_micrograph_bytes, timeout_seconds=settings.read_timeout_seconds
        )

    # --- start ----------------------------------------------------------------------------------------------------

    def open(self) -> None:
        """Claim the output directory and open the ledger.

        Raises:
            OutputError: another daemon has them, they cannot be written, or the ledger is of another directory.
        """
        self._witness = Witness(self.outputs.path, watch=self.root, ledger=self.ledger_file)
        self._closing.callback(self._witness.close)
        self.ledger = Ledger(self.ledger_file, self._witness)
        self._closing.callback(self.ledger.close)
        check_watch(self.ledger, self.root)

    def connect(self, stream: Stream) -> None:
        """Connect the outbox to the stream."""
        beat = self._heartbeats.of("frazil-writing").beat
        self._outbox = Outbox(self.ledger, stream, self._metrics, self.watch, self.outputs.path, self._stopping, beat)
        self._reviser = Reviser(self.ledger, self._outbox, self.picking)
        self._closing.callback(self._reviser.close)
        self.announcer = Announcer(self.ledger, self._outbox, self._metrics)

    def make_picker(self, model: Model) -> Picker:
        """Make a picker with the settings of this session and the limits in force."""
        change = self._reviser.change.for_model(model.identity.sha256)
        return Picker(model, self.picking, change, device=PreparationOnDevice(model))

    def start(self, picker: Picker) -> None:
        """Start to watch the directory and to pick.

        Args:
            picker: serves first; of `make_picker`.
        """
        settings, metrics = self._settings, self._metrics
        self.serving = Serving(
            picker,
            self._reviser.change,
            probation_micrographs=settings.probation_micrographs,
            faults_allowed=settings.probation_faults,
        )
        self._pipeline = Pipeline(
            self.serving,
            self.announcer,
            self.ledger,
            self._outbox,
            self._reviser,
            metrics,
            DriftWatch(self.ledger),
            Doubts(settings.contrast),
            self._stopping,
            self.read_micrograph,
            watch=self.watch,
            max_attempts=settings.max_attempts,
            keep_score_maps=settings.keep_score_maps,
            heartbeats=self._heartbeats,
            read_seconds=settings.read_timeout_seconds,
        )
        file_system = FileSystem.of(self.root)
        known = self.ledger.known()
        gc.freeze()  # what has come by now stays: to look through the stamps of a million files takes a while
        self._intake = Intake(
            self.ledger,
            known,
            metrics,
            self.root,
            settle_seconds=self._settle_seconds(file_system),
            stall_seconds=settings.stall_seconds,
            shows_holes=file_system.shows_holes,
            accept=self._pipeline.accept,
            refuse=self._pipeline.refuse,
            check_name=self.outputs.check_name,
            beat=self._heartbeats.of("frazil-intake").beat,
        )
        self._watcher = Watcher(
            self.root,
            file_system,
            self._intake.tell,
            metrics,
            selection=Selection(settings.include, settings.exclude, settings.companions),
            known=known,
            missing=self.ledger.missing(),
            usual_mount_point=self._usual_mount_point(),
            on_file_system=self._note_file_system,
            on_inventory=lambda inventory: self.remember(INVENTORY_KEY, inventory.encode()),
            scan_seconds=settings.scan_seconds,
            watch_by=settings.watch_by,
            backlog_order=settings.backlog_order,
            beat=self._heartbeats.of("frazil-scan").beat,
        )
        self._watcher.start()
        self._closing.callback(self._watcher.stop)
        self._pipeline.connect(self._intake)
        self._pipeline.start()
        self._threads = [
            self._start_thread("frazil-intake", lambda: self._intake.run(self._stopping)),
            self._start_thread("frazil-ledger", self._watch_ledger),
        ]

    def _start_thread(self, name: str, run: Callable[[], None]) -> threading.Thread:
        thread = threading.Thread(target=run, name=name, daemon=True)
        thread.start()
        return thread

    # --- while it runs --------------------------------------------------------------------------------------------

    @property
    def fault(self) -> OutputError | None:
        """The reason why the ledger or the output directory must no longer be written; None as a rule."""
        ledger = getattr(self, "ledger", None)  # none before it is open
        return (ledger and ledger.fault) or self._claim_fault

    @property
    def state(self) -> SessionState:
        """The present state, without its disks. It may be read from any thread, and does not wait."""
        return SessionState(
            directory=str(self._settings.watch),
            watch=self._watcher.state,
            intake=self._intake.state,
            pick=self._pipeline.state,
            blocked=self._outbox.waits_for,
            ledger_head=self.ledger.head,
        )

    def dead_thread(self) -> str | None:
        """Name of a thread that has ended unexpectedly; None as a rule."""
        others = (*self._threads, self._watcher.thread)
        return self._pipeline.failed_stage() or next((t.name for t in others if not t.is_alive()), None)

    def report(self, change: ModelChange) -> None:
        """Record a change of models."""
        self._pipeline.report(change)

    def remember(self, key: str, value: str) -> None:
        """Make the ledger remember a value that is useful but not needed."""
        with contextlib.suppress(sqlite3.Error):
            self.ledger.remember(key, value)

    def _settle_seconds(self, file_system: FileSystem) -> float:
        # On a network file system the second look comes one scan later: an earlier one may get a cached answer.
        return self._settings.scan_seconds if file_system.is_network else _LOCAL_SETTLE_SECONDS

    def _note_file_system(self, file_system: FileSystem) -> None:
        self._intake.settle(self._settle_seconds(file_system), shows_holes=file_system.shows_holes)
        self.remember(MOUNT_POINT_KEY, file_system.mount_point)

    def _usual_mount_point(self) -> str:
        """Mount point of the directory's file system when an earlier run last saw it; empty if it is not known."""
        remembered = self.ledger.recall(MOUNT_POINT_KEY)
        return remembered if remembered and self.root.is_relative_to(remembered) else ""

    def _watch_ledger(self) -> None:
        """Check repeatedly that the ledger and the output directory were not taken or replaced.

        This runs in a thread of its own, so that a mount that hangs blocks nothing else.
        """
        while not self._stopping.wait(_LEDGER_LOOK_SECONDS):
            try:
                self.ledger.look()
                self._witness.beat()
            except OutputError as error:
                self._claim_fault = error
                return

    # --- end ------------------------------------------------------------------------------------------------------

    def stop(self, deadline: float) -> bool:
        """Finish the work in hand, once the daemon stops.

        Args:
            deadline: latest time to wait until, on the monotonic clock.

        Returns:
            Whether the work was finished in time. The next start takes up the rest.
        """
        for thread in self._threads:
            thread.join(max(0.0, deadline - time.monotonic()))
        return self._pipeline.stop(deadline)

    def close(self) -> None:
        """Stop watching, and close the ledger."""
        self._closing.close()
