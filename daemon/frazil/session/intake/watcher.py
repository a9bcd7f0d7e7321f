"""The watcher: follows the kernel's events of new files, scans on a timer and whenever events may have been missed.

It reports when the tree is away, and when the kernel's queue overflows.
"""

from __future__ import annotations

import logging
import os
import threading
import time
import warnings
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from watchdog.events import (
    DirCreatedEvent,
    DirMovedEvent,
    FileClosedEvent,
    FileCreatedEvent,
    FileMovedEvent,
    FileSystemEvent,
    FileSystemEventHandler,
)
from watchdog.observers.api import BaseObserver
from watchdog.observers.inotify import InotifyFullEmitter
from watchdog.observers.inotify_c import InotifyEvent, InotifyFD

from frazil.health.heartbeat import Beat, no_heartbeat
from frazil.health.logs import event
from frazil.health.metrics import Metrics
from frazil.health.state import WatchState
from frazil.session.intake.file_system import FileSystem, check_root
from frazil.session.intake.passed_over import PASS_REASONS, Inventory
from frazil.session.intake.scan import Scan, Scanner
from frazil.session.intake.selection import Selection
from frazil.session.outbox.file_stamp import FileStamp
from frazil.settings import BacklogOrder, WatchBy

__all__ = ["FoundBy", "Hint", "Sightings", "Watcher"]

log = logging.getLogger(__name__)

_STOP_SECONDS = 1.0

FoundBy = Literal["event", "scan"]

# Watchdog logs an overflow at several levels; frazil logs it once.
logging.getLogger("watchdog").setLevel(logging.ERROR)
# A folder that appears while the tree is first walked is found twice, which does no harm.
warnings.filterwarnings("ignore", "Callback with id .* already exists", RuntimeWarning)


class _Events(FileSystemEventHandler):
    """Follows one tree by inotify. The callbacks run in watchdog's threads.

    Args:
        root: root of the tree.
        on_file: called with a file that appeared or was closed, and whether its writer is known to have finished.
        on_folder: called when a folder appeared. Files may have come with it, or before it could be watched.
        on_overflow: called when the kernel dropped events, because they were not read fast enough.

    Raises:
        OSError: the tree cannot be watched.
    """

    def __init__(
        self,
        root: Path,
        *,
        on_file: Callable[[Path, bool], None],
        on_folder: Callable[[], None],
        on_overflow: Callable[[], None],
    ) -> None:
        self._on_file = on_file
        self._on_folder = on_folder
        self._inotify = _Inotify(on_overflow)
        self._observer = BaseObserver(InotifyFullEmitter, inotify_fd=self._inotify)
        self._observer.schedule(
            self,
            str(root),
            recursive=True,
            event_filter=[FileCreatedEvent, FileClosedEvent, FileMovedEvent, DirCreatedEvent, DirMovedEvent],
        )
        self._inotify.start()
        try:
            self._observer.start()
        except OSError:
            self._inotify.stop()
            raise

    def stop(self) -> None:
        """Stop following the tree."""
        self._observer.stop()
        self._observer.join()
        self._inotify.stop()
        self._inotify.join()

    def on_any_event(self, event: FileSystemEvent) -> None:
        """Pass on an event of watchdog."""
        moved = isinstance(event, FileMovedEvent | DirMovedEvent)
        name = event.dest_path if moved else event.src_path
        if not name:  # moved out of the tree
            return
        if event.is_directory:
            self._on_folder()
        else:
            self._on_file(Path(os.fsdecode(name)), moved or isinstance(event, FileClosedEvent))


class _Inotify(InotifyFD):
    """Watchdog's inotify, with a callback for an overflow, which watchdog only logs."""

    def __init__(self, on_overflow: Callable[[], None]) -> None:
        super().__init__()
        self._on_overflow = on_overflow

    def handle_event(self, event: InotifyEvent) -> None:
        super().handle_event(event)
        if event.is_queue_overflow:
            self._on_overflow()


@dataclass(frozen=True, slots=True, kw_only=True)
class Hint:
    """A file that may be a new micrograph."""

    path: Path
    closed: bool = False
    """Whether its writer is known to have finished: the file was closed after writing, or renamed into place."""
    backlog: bool = False
    """Whether it was there when the daemon started. Files that appear later go first."""
    by: FoundBy = "scan"


@dataclass(frozen=True, slots=True, kw_only=True)
class Sightings:
    """Keys of known files that disappeared or came back."""

    missing: list[str] = field(default_factory=list)
    returned: list[str] = field(default_factory=list)


class Watcher:
    """Gives hints at files, from events and from scans.

    The scans run in a thread of their own, so that a network mount that hangs blocks nothing else. While the directory
    is away, this is reported, and nothing in it counts as deleted. Work goes on when it returns.

    Args:
        root: the watched directory, an absolute path without links.
        file_system: file system of the watched directory, or of its place if it does not exist yet.
        tell: called with hints and with sightings of known files, from several threads.
        metrics: measures the cost of scans.
        selection: chooses micrographs by name.
        known: stamps of known files, by key; read while another thread writes it.
        missing: keys of known files that are already recorded as missing.
        scan_seconds: time between scans.
        watch_by: whether to follow events; ``auto`` follows them if the file system delivers them.
        backlog_order: order of the backlog.
        usual_mount_point: mount point of the directory's file system when it was last seen.
        on_file_system: called with the directory's file system, at first and when it has changed.
        on_inventory: called with the inventory when it has changed.
        beat: called at each step of a scan.

    Attributes:
        thread: the thread that scans.
    """

    def __init__(
        self,
        root: Path,
        file_system: FileSystem,
        tell: Callable[[Hint | Sightings], None],
        metrics: Metrics,
        *,
        selection: Selection,
        known: Mapping[str, FileStamp],
        missing: Iterable[str] = (),
        scan_seconds: float,
        watch_by: WatchBy = "auto",
        backlog_order: BacklogOrder = "oldest",
        usual_mount_point: str = "",
        on_file_system: Callable[[FileSystem], None] = lambda _: None,
        on_inventory: Callable[[Inventory], None] = lambda _: None,
        beat: Beat = no_heartbeat,
    ) -> None:
        self._root = root
        self._tell = tell
        self._metrics = metrics
        self._scan_seconds = scan_seconds
        self._backlog_order = backlog_order
        self._usual_mount_point = usual_mount_point
        self._file_system = file_system
        self._device = _device_of(root)
        self._on_file_system = on_file_system
        self._on_inventory = on_inventory
        self._inventory: Inventory | None = None
        self._beat = beat
        self._scanner = Scanner(
            root,
            selection,
            known,
            missing=missing,
            trust_folder_times=file_system.has_exact_folder_times,
            beat=beat,
        )
        self._watch_by = watch_by
        self._events: _Events | None = None
        self._watched_inode: tuple[int, int] | None = None
        self._fault = ""
        self._scanned_at: float | None = None
        self._listed = 0
        self._stopping = threading.Event()
        self._wake = threading.Event()
        self.thread = threading.Thread(target=self._run, name="frazil-scan", daemon=True)

    @property
    def state(self) -> WatchState:
        """The present view of the watched directory. May be read from any thread."""
        inventory = self._inventory or Inventory()
        return WatchState(
            fault=self._fault,
            follows_events=self._events is not None,
            scanned_at=self._scanned_at,
            listed=self._listed,
            taken=inventory.taken,
            passed_over={reason: inventory.count(reason) for reason in PASS_REASONS},
        )

    def start(self) -> None:
        """Start to follow events and to scan."""
        self.thread.start()

    def stop(self) -> None:
        """Stop. A scan that hangs on a dead mount is not waited for."""
        self._stopping.set()
        self._wake.set()
        self.thread.join(_STOP_SECONDS)
        if not self.thread.is_alive():
            self._stop_events()

    def _run(self) -> None:
        while not self._stopping.is_set():
            self._wake.clear()
            started = time.monotonic()
            self._beat("scanning")
            self._scan()
            # It rests at least as long as the scan took, however often it is woken.
            rest_seconds = time.monotonic() - started
            self._beat(more_seconds=rest_seconds + self._scan_seconds)
            self._stopping.wait(rest_seconds)
            self._wake.wait(self._scan_seconds)

    def _scan(self) -> None:
        try:
            root = check_root(self._root, self._usual_mount_point)
            self._look_at_file_system(root.st_dev)
            self._follow_events((root.st_dev, root.st_ino))
            scan = self._scanner.scan()
            check_root(self._root, self._usual_mount_point)
        except OSError as error:
            self._report(error.strerror or str(error))
            return
        self._report("")
        is_backlog = self._scanned_at is None
        self._scanned_at, self._listed = time.time(), scan.listed
        self._note_cost(scan)
        self._name(scan, is_backlog=is_backlog)
        self._take_stock(scan.inventory)

    def _name(self, scan: Scan, *, is_backlog: bool) -> None:
        """Pass on the result of a scan; the backlog in its order, later files as they come."""
        if is_backlog:
            scan.new.sort(key=_modified, reverse=self._backlog_order == "newest")
        for path in scan.new:
            self._tell(Hint(path=path, backlog=is_backlog))
        for path in scan.changed:
            self._tell(Hint(path=path))
        if scan.missing or scan.returned:
            self._tell(Sightings(missing=scan.missing, returned=scan.returned))

    def _take_stock(self, inventory: Inventory) -> None:
        """Note the inventory. Log it after the first scan, and a warning when nothing in the tree is a micrograph."""
        before, self._inventory = self._inventory, inventory
        if inventory == before:
            return
        self._on_inventory(inventory)
        if inventory.nothing_fits and not (before and before.nothing_fits):
            log.warning(
                "%s: nothing to pick: %s. %s",
                self._root,
                inventory.describe(),
                inventory.advice,
                extra=event("nothing_fits"),
            )
        elif before is None:
            log.info("%s: %s", self._root, inventory.describe(), extra=event("scanned"))

    def _note_cost(self, scan: Scan) -> None:
        self._metrics.scan_duration.observe(scan.seconds)
        log.debug(
            "scanned in %.3f s: %d folders, %d names listed, %d new, %d changed, %d missing",
            scan.seconds,
            scan.folders,
            scan.listed,
            len(scan.new),
            len(scan.changed),
            len(scan.missing),
        )

    def _report(self, fault: str) -> None:
        if fault and fault != self._fault:
            log.error(
                "%s: cannot be seen (%s): nothing in it counts as deleted, and work waits",
                self._root,
                fault,
                extra=event("watch_lost", reason=fault),
            )
        elif self._fault and not fault:
            log.info("%s: can be seen again", self._root, extra=event("watch_found"))
            self._scanner.forget()
            self._wake.set()
        self._fault = fault

    def _look_at_file_system(self, device: int) -> None:
        """Notice another file system, which may have been mounted since the last scan."""
        if device != self._device:
            self._device, self._file_system = device, FileSystem.of(self._root)
            self._scanner.trust_folder_times = self._file_system.has_exact_folder_times
        elif self._file_system.mount_point == self._usual_mount_point:
            return
        self._usual_mount_point = self._file_system.mount_point
        self._on_file_system(self._file_system)

    def _follow_events(self, inode: tuple[int, int]) -> None:
        """Follow events of the directory that is there now. After a mount has returned it is another directory."""
        if inode == self._watched_inode:
            return
        self._stop_events()
        self._watched_inode = inode
        if self._watch_by == "poll" or (self._watch_by == "auto" and self._file_system.is_network):
            return
        try:
            self._events = _Events(
                self._root, on_file=self._hint, on_folder=self._wake.set, on_overflow=self._note_overflow
            )
        except OSError as error:
            # Scans still find every file, only later.
            log.warning("no events from %s (%s): files are found by scans only", self._root, error.strerror)

    def _stop_events(self) -> None:
        if self._events is not None:
            self._events.stop()
            self._events = None

    def _hint(self, path: Path, closed: bool) -> None:
        try:
            key = str(path.relative_to(self._root))
        except ValueError:
            return
        if self._scanner.finds(key):
            self._tell(Hint(path=path, closed=closed, by="event"))

    def _note_overflow(self) -> None:
        log.warning("the kernel dropped events of %s; a scan finds the files they reported", self._root)
        self._metrics.event_overflows.inc()
        self._wake.set()


def _device_of(root: Path) -> int | None:
    """The kernel's number of a directory's file system; None if the directory is not there."""
    try:
        return root.stat().st_dev
    except OSError:
        return None


def _modified(path: Path) -> tuple[float, str]:
    try:
        return path.stat().st_mtime, str(path)
    except OSError:
        return 0.0, str(path)
