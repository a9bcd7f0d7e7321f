"""The watched tree: events as hints, scans as the truth.

Nothing here opens a file or knows what a micrograph is; it names candidates.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from queue import SimpleQueue

from watchdog.events import (
    DirMovedEvent,
    FileClosedEvent,
    FileCreatedEvent,
    FileMovedEvent,
    FileSystemEvent,
    FileSystemEventHandler,
)
from watchdog.observers import Observer

from frazil.errors import SettingsError

__all__ = ["Hint", "Watcher", "is_micrograph_name"]

log = logging.getLogger(__name__)

_SUFFIX = ".mrc"


@dataclass(frozen=True, slots=True, kw_only=True)
class Hint:
    """A file that may be a new micrograph."""

    path: Path
    closed: bool
    """Whether its writer is known to have finished: it was closed after writing, or renamed into place."""


def is_micrograph_name(name: str) -> bool:
    """Whether a file of this name can be a micrograph; dot files are somebody's unfinished work."""
    return name.endswith(_SUFFIX) and not name.startswith(".")


class Watcher(FileSystemEventHandler):
    """Puts hints into a queue while events arrive, and lists the tree when asked.

    Args:
        directory: root of the tree.
        hints: where hints go.

    Raises:
        SettingsError: the directory does not exist or cannot be watched.
    """

    def __init__(self, directory: Path, hints: SimpleQueue[Hint]) -> None:
        self._directory = directory
        self._hints = hints
        if not directory.is_dir():
            raise SettingsError(f"{directory}: expected a directory to watch, found none")
        self._observer = Observer()

    def start(self) -> None:
        """Begin to follow events."""
        try:
            self._observer.schedule(
                self,
                str(self._directory),
                recursive=True,
                event_filter=[FileCreatedEvent, FileClosedEvent, FileMovedEvent, DirMovedEvent],
            )
            self._observer.start()
        except OSError as error:
            # Scans alone still find every file, only later.
            log.warning("no events from %s (%s): files are found by scanning only", self._directory, error)

    def stop(self) -> None:
        """Stop following events."""
        if self._observer.is_alive():
            self._observer.stop()
            self._observer.join()

    def on_any_event(self, event: FileSystemEvent) -> None:
        """Turn an event into a hint; watchdog calls this from its own thread."""
        if event.is_directory:
            if isinstance(event, DirMovedEvent):
                for found in _files_below(Path(os.fsdecode(event.dest_path))):
                    self._hints.put(Hint(path=found, closed=True))
            return
        moved = isinstance(event, FileMovedEvent)
        path = Path(os.fsdecode(event.dest_path if moved else event.src_path))
        if is_micrograph_name(path.name):
            self._hints.put(Hint(path=path, closed=moved or isinstance(event, FileClosedEvent)))

    def scan(self) -> Iterator[Path]:
        """All files in the tree that have the name of a micrograph, oldest first.

        A directory that cannot be listed is reported and passed over: its files are not gone.
        """
        yield from sorted(_files_below(self._directory), key=_modified)


def _files_below(directory: Path) -> Iterator[Path]:
    def report(error: OSError) -> None:
        log.warning("cannot list %s: %s", error.filename, error.strerror)

    for folder, _, names in os.walk(directory, onerror=report):
        for name in names:
            if is_micrograph_name(name):
                yield Path(folder, name)


def _modified(path: Path) -> tuple[float, str]:
    try:
        return path.stat().st_mtime, str(path)
    except OSError:
        return 0.0, str(path)
