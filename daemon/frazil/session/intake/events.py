"""Events: the kernel's reports of new files in a tree, and of an overflow of its queue."""

from __future__ import annotations

import logging
import os
import warnings
from collections.abc import Callable
from pathlib import Path

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

__all__ = ["Events"]

# Watchdog logs an overflow at several levels; frazil logs it once.
logging.getLogger("watchdog").setLevel(logging.ERROR)
# A folder that appears while the tree is first walked is found twice, which does no harm.
warnings.filterwarnings("ignore", "Callback with id .* already exists", RuntimeWarning)


class Events(FileSystemEventHandler):
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
