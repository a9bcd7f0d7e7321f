"""Scans: every file that the tree holds, at the least cost.

A folder whose own time has not changed holds the names that it held, so it costs one look and no listing. A known
file costs nothing but its name in a listing: names are compared, and files are looked at only when new, or when
the sweep, a bounded share of the known ones at each scan, comes to them.
"""

from __future__ import annotations

import errno
import logging
import os
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from frazil.service.pulse import Beat, unwatched
from frazil.service.stamp import FileStamp, stamp_of
from frazil.service.watch.selection import Selection

__all__ = ["Scan", "Scanner"]

log = logging.getLogger(__name__)

_FOLDER_TIME_GRAIN_SECONDS = 2.0
"""No file system keeps times more coarsely; a change within it may leave a folder's time as it was."""
_RELIST_SECONDS = 60.0
"""No folder's time is believed for longer: whatever went wrong, a scan soon puts it right."""
_SWEEP_FILES = 2000
_SWEEP_SECONDS = 0.25


@dataclass(slots=True, kw_only=True)
class Scan:
    """What one scan found, and its cost."""

    new: list[Path] = field(default_factory=list)
    """Files that nobody knows yet."""
    changed: list[Path] = field(default_factory=list)
    """Known files whose size or time differs from what is known."""
    missing: list[str] = field(default_factory=list)
    """Known files that are no longer there, by their path below the root."""
    returned: list[str] = field(default_factory=list)
    """Files once missing that are there again as they were, likewise."""
    folders: int = 0
    """Folders looked at."""
    listed: int = 0
    """Names listed."""
    seconds: float = 0.0


@dataclass(slots=True, kw_only=True)
class _Folder:
    """What is remembered of a folder."""

    mtime_ns: int
    unchanged_since: float
    listed_at: float
    subfolders: list[str]

    def needs_no_listing(self, now: float) -> bool:
        """Whether it was listed not long ago, and when its time could no longer hide a change."""
        was_settled = self.listed_at - self.unchanged_since >= _FOLDER_TIME_GRAIN_SECONDS
        return was_settled and now - self.listed_at < _RELIST_SECONDS


class Scanner:
    """Scans one tree again and again. Used from one thread.

    Links are followed when what they lead to lies inside the tree and is not found there under its own name; so
    there are no loops, and no file is found twice because of a link.

    Args:
        root: absolute, without links.
        selection: which names count.
        known: stamps of known files, by path below the root.
        missing: known files that are known to be missing.
        trust_folder_times: whether an unchanged folder need not be listed; may be changed between two scans.
        beat: is called with each folder.
    """

    def __init__(
        self,
        root: Path,
        selection: Selection,
        known: Mapping[str, FileStamp],
        *,
        missing: Iterable[str] = (),
        trust_folder_times: bool = True,
        beat: Beat = unwatched,
    ) -> None:
        self._root = root
        self._selection = selection
        self._known = known
        self._missing = set(missing)
        self.trust_folder_times = trust_folder_times
        self._beat = beat
        self._folders: dict[str, _Folder] = {}
        self._complained: set[str] = set()
        self._sweep: Iterator[str] = iter(())

    def scan(self) -> Scan:
        """Look at the whole tree.

        A folder that cannot be listed is reported, once, and passed over: its files are not gone.
        """
        started = time.monotonic()
        scan = Scan()
        visited: dict[str, _Folder] = {}
        pending = [""]
        while pending:
            relative = pending.pop()
            if relative in visited:
                continue
            self._beat(f"scanning {relative or self._root}")
            try:
                folder = self._look_into(relative, scan)
            except OSError as error:
                self._complain(relative, error)
                if error.errno not in (errno.ENOENT, errno.ENOTDIR) and relative in self._folders:
                    visited[relative] = self._folders[relative]
                    pending += self._folders[relative].subfolders
                continue
            visited[relative] = folder
            pending += folder.subfolders
        self._folders = visited
        self._sweep_some(scan)
        scan.folders = len(visited)
        scan.seconds = time.monotonic() - started
        return scan

    def forget(self) -> None:
        """List every folder again at the next scan."""
        self._folders.clear()

    def finds(self, relative: str) -> bool:
        """Whether a file under this name, of which an event told, is one that a scan would find."""
        if not self._selection.takes(relative):
            return False
        path = self._root / relative
        real = os.path.realpath(path)
        return real == str(path) or self._follows(real)

    def _look_into(self, relative: str, scan: Scan) -> _Folder:
        path = self._root / relative if relative else self._root
        now = time.monotonic()
        mtime_ns = path.stat().st_mtime_ns
        known = self._folders.get(relative)
        if known is not None and known.mtime_ns == mtime_ns:
            if self.trust_folder_times and known.needs_no_listing(now):
                return known
            unchanged_since = known.unchanged_since
        else:
            unchanged_since = now
        subfolders = self._list(path, relative, scan)
        self._complained.discard(relative)
        return _Folder(mtime_ns=mtime_ns, unchanged_since=unchanged_since, listed_at=now, subfolders=subfolders)

    def _list(self, path: Path, relative: str, scan: Scan) -> list[str]:
        subfolders = []
        prefix = f"{relative}/" if relative else ""
        known, selection = self._known, self._selection
        with os.scandir(path) as entries:
            for entry in entries:
                scan.listed += 1
                key = prefix + entry.name
                if key in known:
                    continue
                if entry.is_symlink():
                    real = os.path.realpath(entry.path)
                    if not self._follows(real):
                        continue
                    is_folder = os.path.isdir(real)  # noqa: PTH112 - a Path for each name would double the cost
                else:
                    is_folder = entry.is_dir(follow_symlinks=False)
                if is_folder:
                    if selection.enters(key):
                        subfolders.append(key)
                elif selection.takes_name(key):
                    scan.new.append(Path(entry.path))
        return subfolders

    def _follows(self, real: str) -> bool:
        """Whether a link is followed to this place."""
        root = str(self._root)
        inside = os.path.relpath(real, root) if real.startswith(f"{root}/") else ""
        if not inside or root.startswith(f"{real}/"):
            return False
        return not (self._enters_all(inside) if os.path.isdir(real) else self._selection.takes(inside))  # noqa: PTH112

    def _enters_all(self, relative: str) -> bool:
        return self._selection.enters(relative) and all(
            self._selection.enters(relative[:i]) for i, letter in enumerate(relative) if letter == "/"
        )

    def _sweep_some(self, scan: Scan) -> None:
        """Look at the known files that come next; at the end of a round stop, so that none is looked at twice."""
        deadline = time.monotonic() + _SWEEP_SECONDS
        for looked_at in range(_SWEEP_FILES):
            key = next(self._sweep, None)
            if key is None:
                self._sweep = iter(list(self._known))
                key = None if looked_at else next(self._sweep, None)
            if key is None or time.monotonic() > deadline:
                return
            self._look_at(key, scan)

    def _look_at(self, key: str, scan: Scan) -> None:
        known = self._known.get(key)
        if known is None:
            return
        path = self._root / key
        try:
            stamp = stamp_of(path)
        except (FileNotFoundError, NotADirectoryError):
            if key not in self._missing:
                self._missing.add(key)
                scan.missing.append(key)
            return
        except OSError:
            return
        if stamp != known:
            scan.changed.append(path)
        elif key in self._missing:
            scan.returned.append(key)
        self._missing.discard(key)

    def _complain(self, relative: str, error: OSError) -> None:
        if relative not in self._complained and error.errno != errno.ENOENT:
            log.warning("cannot list %s: %s", self._root / relative, error.strerror)
            self._complained.add(relative)
