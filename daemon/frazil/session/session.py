"""A session: one watched directory with its ledger, outputs, limits and threads."""

from __future__ import annotations

import contextlib
import gc
import logging
import os
import sqlite3
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import msgspec

from frazil.errors import OutputError
from frazil.grid import PlaceFinder
from frazil.health.heartbeat import Heartbeats
from frazil.health.metrics import Metrics
from frazil.health.state import AssessState, SessionState
from frazil.junk_area import MaybeJunk, no_junk
from frazil.keys import PUBLIC_ENDING
from frazil.model import Model, learned_folder
from frazil.outputs import OutputFolder
from frazil.paths import absolute_path
from frazil.picking import Micrograph, Picker, PickingSettings, Picture, PreparationOnDevice
from frazil.quality.assessment import Optics
from frazil.quality.facility import FacilityTables
from frazil.quality.grade import QualityRules
from frazil.record import MicrographReader
from frazil.session.announcements import Announcements
from frazil.session.assess import Assessor, SquareWriter
from frazil.session.intake.file_system import FileSystem
from frazil.session.intake.intake import Intake
from frazil.session.intake.likeness import Likeness
from frazil.session.intake.passed_over import Inventory
from frazil.session.intake.selection import Selection
from frazil.session.intake.watcher import Watcher
from frazil.session.models import Models
from frazil.session.outbox.daemon_info import DaemonInfo, open_ledger
from frazil.session.outbox.ledger import (
    CHOICE_KEY,
    DAEMON_KEY,
    INVENTORY_KEY,
    LIKENESS_KEY,
    MOUNT_POINT_KEY,
    Ledger,
)
from frazil.session.outbox.outbox import Outbox
from frazil.session.outbox.stream import Stream
from frazil.session.pick.comparison import Comparison
from frazil.session.pick.doubts import Doubts
from frazil.session.pick.drift import DriftWatch
from frazil.session.pick.junk_model import JunkModel
from frazil.session.pick.model_changes import Announcer
from frazil.session.pick.pipeline import Pipeline
from frazil.session.pick.promoted import Promoted
from frazil.session.pick.serving import Serving
from frazil.session.pick.shadow import CanaryBounds
from frazil.session.pick.swapper import Swapper
from frazil.session.pick.turns import Turns
from frazil.session.retune import Chooser, Receiver, Reviser
from frazil.settings import SESSION_SETTINGS, ServeSettings

__all__ = ["Session", "title_of"]

log = logging.getLogger(__name__)

_LEDGER_LOOK_SECONDS = 1.0
_LOCAL_SETTLE_SECONDS = 1.0
"""Time between the two looks at a file that nobody is known to have closed, on a local file system."""


def title_of(watch: Path) -> str:
    """The name under which people know the only session of a daemon, from its watched directory."""
    return watch.name or "session"


class Session:
    """Owns the ledger, the outputs and the threads of one watched directory.

    `open`, `connect`, `load`, `warm_up` and `start` are called once each, in this order; `stop`, then `close`, at last.

    Args:
        settings: of the session.
        metrics: metrics of the daemon.
        models: loads and checks models, for all sessions.
        turns: whose turn it is to pick, among all sessions.
        name: of the session; empty for the only session of a daemon.
        junk_model: finds junk, for all sessions. Default: that is not looked for.

    Attributes:
        root: the watched directory, with links resolved.
        watch: the watched directory, by the name that the user gave it.
        outputs: directory of the pick files.
        picking: settings of picking.
        read_micrograph: reads a micrograph within the limits of memory and time in the settings.
        ledger: the ledger, after `open`.
        serving: the serving model, after `start`.
        heartbeats: of the session's threads.
    """

    ledger: Ledger
    serving: Serving
    _assessor: Assessor | None = None
    _squares: SquareWriter | None = None

    def __init__(
        self,
        settings: ServeSettings,
        metrics: Metrics,
        models: Models,
        turns: Turns,
        *,
        name: str = "",
        junk_model: JunkModel | None = None,
    ) -> None:
        self.name = name
        self.settings = settings
        self.heartbeats = Heartbeats(settings.hang_timeout_seconds)
        self._metrics = metrics
        self._models = models
        self._turns = turns
        self._junk_model = junk_model if settings.find_junk else None
        self._stopping = threading.Event()
        self._closing = contextlib.ExitStack()
        self._claim_fault: OutputError | None = None
        self._swapper: Swapper | None = None
        self._is_started = False
        self.root = settings.watch.expanduser().resolve()
        self.watch = absolute_path(settings.watch)
        self.outputs = OutputFolder(settings.out.expanduser().resolve())
        self.ledger_file = settings.ledger_file.expanduser().resolve()
        self.picking = PickingSettings(
            diameter_angstrom=settings.needed_diameter_angstrom,
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
        self.ledger, self._witness = open_ledger(self.ledger_file, watch=self.root, out=self.outputs.path)
        self._closing.callback(self._witness.close)
        self._closing.callback(self.ledger.close)

    def connect(self, stream: Stream, page_url: str) -> None:
        """Connect the outbox to the stream, which then answers replays out of the ledger.

        Args:
            stream: of the daemon.
            page_url: of the daemon's page, for whoever looks for the daemon in the ledger.
        """
        ledger = self.ledger
        channel = stream.add(
            self.name,
            ledger=ledger.file,
            epoch=ledger.epoch,
            generation=ledger.generation,
            published=next((seq - 1 for seq, _ in ledger.undelivered()), ledger.head),
            on_damage=ledger.stop,
        )
        self._closing.callback(channel.close)
        self._addresses = stream.address, page_url
        beat = self.heartbeats.of("frazil-writing").beat
        self._outbox = Outbox(ledger, channel, self._metrics, self.watch, self.outputs.path, self._stopping, beat)
        self._reviser = Reviser(ledger, self._outbox, self.picking, chooses=self.settings.chooses_threshold)
        self._closing.callback(self._reviser.close)
        self._receiver = Receiver(
            ledger,
            self._outbox,
            self._reviser,
            self.picking,
            self.watch,
            keep_score_maps=self.settings.keep_score_maps,
        )
        self._closing.callback(self._receiver.close)
        self._announcements = Announcements(ledger, self._outbox, self.watch)
        self._promoted = Promoted(self.settings.model, learned_folder(self.outputs.path))
        self._announcer = Announcer(
            ledger,
            self._outbox,
            self._metrics,
            self._promoted.folder_of,
            requeues=self.settings.repick_after_promotion,
        )

    def load(self) -> Model:
        """Load the model that serves first, and the one that finds junk.

        Raises:
            ModelError: no model can serve.
        """
        if self._junk_model is not None:
            self._junk_model.load()
        self._swapper = self._make_swapper()
        return self._swapper.load_first()

    def warm_up(self, model: Model) -> Picker:
        """Make the picker of a model, and have the model score a batch."""
        picker = self.make_picker(model)
        batch_seconds = model.warm_up()
        self._metrics.batch.set(batch_seconds)
        where = model.placement.describe(batch_seconds)
        how = f"{model.provider} in {model.precision}"
        log.info("model %s runs on %s: %s; %s", model.identity, how, where, picker.device.describe())
        if not model.has_card:
            log.warning("model %s has no card: its reference output could not be checked", model.identity.name)
        return picker

    def _make_swapper(self) -> Swapper:
        settings = self.settings
        return Swapper(
            self._promoted,
            models=self._models,
            make_picker=self.make_picker,
            announcer=self._announcer,
            metrics=self._metrics,
            watch=self.root,
            out=self.outputs.path,
            name=self.ledger.epoch,
            precision=settings.precision,
            check_seconds=settings.model_check_seconds,
            threads=settings.threads,
            bounds=CanaryBounds(
                micrographs=settings.canary_micrographs,
                agreement=settings.canary_agreement,
                picks_ratio=settings.canary_picks_ratio,
            ),
            comparison=Comparison(self.ledger.file, self.read_micrograph),
            stop=self._stopping,
        )

    def make_picker(self, model: Model) -> Picker:
        """Make a picker with the settings of this session and the limits in force."""
        change = self._reviser.change.for_model(model.identity.sha256)
        return Picker(model, self.picking, change, device=PreparationOnDevice(model))

    def _make_chooser(self) -> Chooser:
        settings = self.settings
        chooser = Chooser(
            self.ledger.recall(CHOICE_KEY),
            chooses=settings.chooses_threshold,
            setting=settings.threshold,
            target_precision=settings.target_precision,
            ledger=self.ledger.file,
        )
        if (news := chooser.news()) is not None:
            self.remember(CHOICE_KEY, news)
        return chooser

    def start(self, picker: Picker) -> None:
        """Start to watch the directory and to pick.

        Args:
            picker: serves first; of `warm_up`.
        """
        settings, metrics = self.settings, self._metrics
        if self.name:
            self._announcements.begin(self.own_settings)
        self.serving = Serving(
            picker,
            self._reviser.change,
            chooser=self._make_chooser(),
            find_junk=self._find_junk,
            probation_micrographs=settings.probation_micrographs,
            faults_allowed=settings.probation_faults,
        )
        self._pipeline = Pipeline(
            self.serving,
            self._announcer,
            self.ledger,
            self._outbox,
            self._reviser,
            self._receiver,
            metrics,
            DriftWatch(self.ledger),
            Doubts(settings.contrast),
            self._stopping,
            self.read_micrograph,
            watch=self.watch,
            max_attempts=settings.max_attempts,
            keep_score_maps=settings.keep_score_maps,
            heartbeats=self.heartbeats,
            turns=self._turns,
            read_seconds=settings.read_timeout_seconds,
        )
        file_system = FileSystem.of(self.root)
        known, held = self.ledger.known(), set(self.ledger.held())
        likeness = None
        if settings.unlike == "hold":
            likeness = Likeness(self.ledger.recall(LIKENESS_KEY), lambda text: self.remember(LIKENESS_KEY, text))
        else:
            for key in held:  # what an earlier run held is picked now
                known.pop(key, None)
            held.clear()
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
            likeness=likeness,
            held=held,
            requeued=set(self.ledger.requeued()),
            beat=self.heartbeats.of("frazil-intake").beat,
        )
        self._watcher = Watcher(
            self.root,
            file_system,
            self._intake.tell,
            metrics,
            selection=self._selection(),
            known=known,
            missing=self.ledger.missing(),
            held=held,
            link_roots=[Path(place).expanduser() for place in settings.link_roots if place],
            usual_mount_point=self._usual_mount_point(),
            on_file_system=self._note_file_system,
            on_inventory=lambda inventory: self.remember(INVENTORY_KEY, inventory.encode()),
            scan_seconds=settings.scan_seconds,
            watch_by=settings.watch_by,
            backlog_order=settings.backlog_order,
            beat=self.heartbeats.of("frazil-scan").beat,
        )
        self._watcher.start()
        self._closing.callback(self._watcher.stop)
        if settings.assess:
            self._assessor = self._make_assessor()
            self._squares = SquareWriter(self.ledger, self._outbox, advises=settings.advise_squares)
            self._closing.callback(self._squares.close)
        self._pipeline.connect(self._intake, self._assessor, self._squares)
        self._pipeline.start()
        self._is_started = True
        self._threads = [
            self._start_thread("frazil-intake", lambda: self._intake.run(self._stopping)),
            self._start_thread("frazil-ledger", self._watch_ledger),
        ]
        if self._assessor is not None:
            self._threads.append(self._start_thread("frazil-assess", self._assessor.run))
        if self._swapper:
            self._swapper.start(self.serving, self._pipeline.report)
        if self._junk_model is not None:
            self._junk_model.join(self.name, self._pipeline.report)

    def _find_junk(self, micrograph: Micrograph, picture: Picture) -> MaybeJunk:
        """Find the junk of a micrograph, as the settings have it."""
        if self._junk_model is None:
            return no_junk(micrograph, picture)
        settings = self.settings
        return self._junk_model.find(micrograph, picture, contrast=settings.contrast, picks=settings.junk_picks)

    def _make_assessor(self) -> Assessor:
        settings = self.settings
        given = msgspec.structs.asdict(settings)
        return Assessor(
            self.ledger,
            self.read_micrograph,
            self._pipeline.report,
            watch=self.watch,
            optics=Optics(**{name: given[name] for name in Optics.__struct_fields__}),
            rules=QualityRules(**{name: given[name] for name in QualityRules.__struct_fields__}),
            tables=FacilityTables(paths=[Path(one).expanduser() for one in settings.ctf_tables]),
            thinner_is_brighter=settings.contrast == "dark",
            model=lambda: self.serving.picker.model,
            is_busy=lambda: self._pipeline.is_busy,
            sees=lambda: not self._watcher.state.fault,
            find_place=PlaceFinder(
                None if settings.grid_metadata is None else settings.grid_metadata.expanduser(), log.debug
            ).find,
            stopping=self._stopping,
            heartbeats=self.heartbeats,
            metrics=self._metrics,
            read_seconds=settings.read_timeout_seconds,
        )

    def note_daemon(self, started_at: float) -> None:
        """Record in the ledger which daemon uses it.

        Args:
            started_at: when the daemon was ready, in seconds of Unix time.
        """
        (stream, page), model = self._addresses, self.serving.picker.model
        self._info = DaemonInfo(
            pid=os.getpid(),
            started_at=started_at,
            watch=str(self.root),
            out=str(self.outputs.path),
            stream=stream,
            server_key=str(absolute_path(key).with_suffix(PUBLIC_ENDING)) if (key := self.settings.curve_key) else "",
            metrics=f"{page}metrics",
            page=page,
            model=model.identity.short,
            provider=model.provider,
            precision=model.precision,
        )
        self.remember(DAEMON_KEY, self._info.encode())
        self._closing.callback(lambda: self.remember(DAEMON_KEY, self._info.stopped().encode()))

    def _selection(self) -> Selection:
        """What is a micrograph here; a layout that an earlier run found holds on."""
        before = Inventory.decode(self.ledger.recall(INVENTORY_KEY)) or Inventory()
        return Selection.of(self.settings, before.layout)

    def _start_thread(self, name: str, run: Callable[[], None]) -> threading.Thread:
        thread = threading.Thread(target=run, name=name, daemon=True)
        thread.start()
        return thread

    def announce_end(self, event: Literal["paused", "closed"]) -> None:
        """Say that the session is paused or closed, unless that was said; after `stop`, or before `start`."""
        if self.name:
            self._announcements.end(event)

    @property
    def own_settings(self) -> dict[str, Any]:
        """The settings that a session can have for itself, by name; paths as text."""
        given = msgspec.to_builtins(self.settings, enc_hook=str)
        return {name: given[name] for name in sorted(SESSION_SETTINGS)}

    # --- while it runs --------------------------------------------------------------------------------------------

    @property
    def title(self) -> str:
        """The name under which people know it."""
        return self.name or title_of(self.watch)

    @property
    def fault(self) -> OutputError | None:
        """The reason why the ledger or the output directory must no longer be written; None as a rule."""
        ledger = getattr(self, "ledger", None)  # none before it is open
        return (ledger and ledger.fault) or self._claim_fault

    @property
    def state(self) -> SessionState:
        """The present state, without its disks. It may be read from any thread, and does not wait."""
        return SessionState(
            name=self.title,
            directory=str(self.settings.watch),
            diameter_angstrom=self.settings.diameter_angstrom,
            model=self.serving.state,
            junk_model=None if self._junk_model is None else self._junk_model.state,
            finds_junk=self.settings.find_junk,
            watch=self._watcher.state,
            intake=self._intake.state,
            pick=self._pipeline.state,
            assess=AssessState() if self._assessor is None else self._assessor.state,
            blocked=self._outbox.waits_for,
            ledger_head=self.ledger.head,
        )

    def dead_thread(self) -> str | None:
        """Name of a thread that has ended unexpectedly; None as a rule."""
        others = (*self._threads, self._watcher.thread)
        return self._pipeline.failed_stage() or next((t.name for t in others if not t.is_alive()), None)

    def show_model(self) -> None:
        """Record in the ledger when the serving model has changed."""
        model = self.serving.picker.model
        if model.identity.short != self._info.model:
            self._info = msgspec.structs.replace(
                self._info, model=model.identity.short, provider=model.provider, precision=model.precision
            )
            self.remember(DAEMON_KEY, self._info.encode())

    def reload(self, on_decided: Callable[[], None]) -> None:
        """Look at the promoted model again, even if it was refused.

        Args:
            on_decided: called once it serves, was refused, or begins to run in shadow.
        """
        if self._swapper is None:
            on_decided()
        else:
            self._swapper.reload(on_decided)

    def remember(self, key: str, value: str) -> None:
        """Make the ledger remember a value that is useful but not needed."""
        with contextlib.suppress(sqlite3.Error):
            self.ledger.remember(key, value)

    def _settle_seconds(self, file_system: FileSystem) -> float:
        # On a network file system the second look comes one scan later: an earlier one may get a cached answer.
        return self.settings.scan_seconds if file_system.is_network else _LOCAL_SETTLE_SECONDS

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

    def request_stop(self) -> None:
        """Make every thread end once it has finished the work in hand."""
        self._stopping.set()

    def stop(self, deadline: float) -> bool:
        """Stop, and finish the work in hand.

        Args:
            deadline: latest time to wait until, on the monotonic clock.

        Returns:
            Whether the work was finished in time. The next start takes up the rest.
        """
        self.request_stop()
        if not self._is_started:
            return True
        if self._swapper is not None:
            self._swapper.forget_check()
        if self._junk_model is not None:
            self._junk_model.leave(self.name)
        for thread in self._threads:
            thread.join(max(0.0, deadline - time.monotonic()))
        finished = self._pipeline.stop(deadline)
        self.show_model()
        return finished

    def close(self) -> None:
        """Stop watching, and close the ledger."""
        self._closing.close()
