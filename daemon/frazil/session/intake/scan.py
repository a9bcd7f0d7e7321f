"""Scans: every file that the tree holds, at the least cost.

A folder whose own time has not changed holds the names that it held, so it costs one look and no listing. A known
file costs nothing but its name in a listing: names are compared, and files are looked at only when new, or when
the sweep, a bounded share of the known ones at each scan, comes to them. What is passed over is counted in its folder,
by reason.
"""

from __future__ import annotations

import errno
import logging
import os
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from frazil.health.heartbeat import Beat, no_heartbeat
from frazil.session.intake.passed_over import Inventory, Passed, PassReason
from frazil.session.intake.selection import Selection
from frazil.session.outbox.file_stamp import FileStamp, stamp_of

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
    inventory: Inventory = field(default_factory=Inventory)
    """What the tree holds."""
    folders: int = 0
    """Folders looked at."""
    listed: int = 0
    """Names listed."""
    seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class _Entered:
    """A folder to look into."""

    key: str
    through_link: bool
    """Whether a link leads to it, or to a folder above it."""


@dataclass(slots=True, kw_only=True)
class _Listing:
    """What a folder held when it was listed."""

    subfolders: list[_Entered] = field(default_factory=list)
    taken: int = 0
    passed_over: dict[PassReason, Passed] = field(default_factory=dict)

    def pass_over(self, key: str, reason: PassReason) -> None:
        before = self.passed_over.get(reason)
        self.passed_over[reason] = Passed(1, key) if before is None else Passed(before.count + 1, before.example)


@dataclass(slots=True, kw_only=True)
class _Folder:
    """What is remembered of a folder."""

    mtime_ns: int
    unchanged_since: float
    listed_at: float
    listing: _Listing

    def needs_no_listing(self, now: float) -> bool:
        """Whether it was listed not long ago, and when its time could no longer hide a change."""
        was_settled = self.listed_at - self.unchanged_since >= _FOLDER_TIME_GRAIN_SECONDS
        # What a broken link leads to, or the right to look, may come without a trace in this folder.
        may_be_more = "broken_link" in self.listing.passed_over or "unreadable" in self.listing.passed_over
        return not may_be_more and was_settled and now - self.listed_at < _RELIST_SECONDS


class Scanner:
    """Scans one tree again and again. Used from one thread.

    Links are followed, also out of the tree, unless what they lead to is found without them: in the tree under its own
    name, or through another link to a folder, by device and inode. So there are no loops. Links to one and the same
    file outside are files of their own, as hard links are.

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
        beat: Beat = no_heartbeat,
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
        places: set[tuple[int, int]] = set()
        pending = [_Entered("", through_link=False)]
        while pending:
            entered = pending.pop()
            key = entered.key
            if key in visited:
                continue
            self._beat(f"scanning {key or self._root}")
            try:
                folder = self._look_into(entered, scan, places)
            except OSError as error:
                self._complain(key, error)
                if error.errno in (errno.ENOENT, errno.ENOTDIR):
                    continue
                folder = self._folders.get(key) or _unlisted()
                folder.listing.passed_over["unreadable"] = Passed(1, f"{key}/")
            visited[key] = folder
            pending += folder.listing.subfolders
        self._folders = visited
        self._sweep_some(scan)
        scan.inventory = _sum_up(visited.values(), self._selection.include)
        scan.folders = len(visited)
        scan.seconds = time.monotonic() - started
        return scan

    def forget(self) -> None:
        """List every folder again at the next scan."""
        self._folders.clear()

    def finds(self, key: str) -> bool:
        """Whether a file under this name, of which an event told, is one that a scan would find."""
        if not self._selection.takes(key) or self._selection.lies_beside(key, self._is_there):
            return False
        path = self._root / key
        real = os.path.realpath(path)
        return real == str(path) or self._why_not_followed(real) is None

    def _look_into(self, entered: _Entered, scan: Scan, places: set[tuple[int, int]]) -> _Folder:
        key = entered.key
        path = self._root / key if key else self._root
        now = time.monotonic()
        status = path.stat()
        if entered.through_link:
            place = status.st_dev, status.st_ino
            if place in places:
                folder = _unlisted()
                folder.listing.pass_over(f"{key}/", "link")
                return folder
            places.add(place)
        known = self._folders.get(key)
        if known is not None and known.mtime_ns == status.st_mtime_ns:
            # What a link leads to may lie on another file system, with other habits.
            if self.trust_folder_times and not entered.through_link and known.needs_no_listing(now):
                return known
            unchanged_since = known.unchanged_since
        else:
            unchanged_since = now
        listing = self._list(path, entered, scan)
        self._complained.discard(key)
        return _Folder(mtime_ns=status.st_mtime_ns, unchanged_since=unchanged_since, listed_at=now, listing=listing)

    def _list(self, path: Path, entered: _Entered, scan: Scan) -> _Listing:
        listing = _Listing()
        prefix = f"{entered.key}/" if entered.key else ""
        known, selection = self._known, self._selection
        with os.scandir(path) as entries:
            for entry in entries:
                scan.listed += 1
                key = prefix + entry.name
                if key in known:
                    listing.taken += 1
                    continue
                reason: PassReason | None = None
                is_link = entry.is_symlink()
                if is_link:
                    real = os.path.realpath(entry.path)
                    reason = self._why_not_followed(real)
                    is_folder = os.path.isdir(real)  # noqa: PTH112 - a Path for each name would double the cost
                else:
                    is_folder = entry.is_dir(follow_symlinks=False)
                if is_folder:
                    reason = selection.why_not_entered(key) or reason
                    if reason is None:
                        listing.subfolders.append(_Entered(key, through_link=is_link or entered.through_link))
                    else:
                        listing.pass_over(f"{key}/", reason)
                    continue
                reason = selection.why_not(key) or reason
                if reason is None and selection.lies_beside(key, self._is_there):
                    reason = "companion"
                if reason is None:
                    listing.taken += 1
                    scan.new.append(Path(entry.path))
                else:
                    listing.pass_over(key, reason)
        # The last one is looked into first: in the order of their names, whatever order they were listed in, so that of
        # two links to one folder the same one counts at every scan.
        listing.subfolders.sort(key=lambda subfolder: subfolder.key, reverse=True)
        return listing

    def _why_not_followed(self, real: str) -> PassReason | None:
        """Why a link to this place is not followed."""
        root = str(self._root)
        if not os.path.exists(real):  # noqa: PTH110 - see above
            return "broken_link"
        if root == real or root.startswith(f"{real.rstrip('/')}/"):
            return "link"
        if not real.startswith(f"{root}/"):
            return None
        inside = os.path.relpath(real, root)
        is_found = self._enters_all(inside) if os.path.isdir(real) else self._selection.takes(inside)  # noqa: PTH112
        return "link" if is_found else None

    def _is_there(self, key: str) -> bool:
        return os.path.exists(self._root / key)  # noqa: PTH110

    def _enters_all(self, key: str) -> bool:
        folders = [key, *(key[:i] for i, letter in enumerate(key) if letter == "/")]
        return all(self._selection.why_not_entered(folder) is None for folder in folders)

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

    def _complain(self, key: str, error: OSError) -> None:
        if key not in self._complained and error.errno != errno.ENOENT:
            log.warning("cannot list %s: %s", self._root / key, error.strerror)
            self._complained.add(key)


def _unlisted() -> _Folder:
    """What is remembered of a folder that was not listed; it is at the next scan, where it can be."""
    return _Folder(mtime_ns=-1, unchanged_since=0.0, listed_at=0.0, listing=_Listing())


def _sum_up(folders: Iterable[_Folder], include: tuple[str, ...]) -> Inventory:
    """The inventory of all folders."""
    taken = 0
    passed_over: dict[PassReason, Passed] = {}
    for folder in folders:
        taken += folder.listing.taken
        for reason, passed in folder.listing.passed_over.items():
            before = passed_over.get(reason)
            passed_over[reason] = passed if before is None else Passed(before.count + passed.count, before.example)
    return Inventory(taken=taken, passed_over=passed_over, include=include)
