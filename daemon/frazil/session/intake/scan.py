"""Scans: find every file in the tree, at the least cost.

A folder with an unchanged time holds unchanged names, so it is looked at and not listed. Names in a listing are
compared with the known ones. A file itself is looked at only if it is new, or when the sweep reaches it; the sweep
visits a bounded number of known files in each scan. Names that are passed over are counted for each folder, by reason.
"""

from __future__ import annotations

import errno
import logging
import os
import time
from collections.abc import Callable, Collection, Generator, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from frazil.health.heartbeat import Beat, no_heartbeat
from frazil.session.intake.passed_over import Inventory, Passed, PassReason
from frazil.session.intake.selection import Selection
from frazil.session.outbox.file_stamp import FileStamp, stamp_of

__all__ = ["Scan", "Scanner"]

log = logging.getLogger(__name__)

_FOLDER_TIME_GRAIN_SECONDS = 2.0
"""The coarsest time of any file system. Two changes within this time may give a folder the same time."""
_RELIST_SECONDS = 60.0
"""A folder is listed again after this time even if its time has not changed, so that no error lasts."""
_SWEEP_FILES = 2000
_SWEEP_SECONDS = 0.25


@dataclass(slots=True, kw_only=True)
class Scan:
    """The result of one scan, and its cost."""

    new: list[Path] = field(default_factory=list)
    """Files that are not known yet."""
    changed: list[Path] = field(default_factory=list)
    """Known files with another size or time than the known one."""
    missing: list[str] = field(default_factory=list)
    """Keys of known files that are no longer there."""
    returned: list[str] = field(default_factory=list)
    """Keys of files that were missing and are there again, unchanged."""
    inventory: Inventory = field(default_factory=Inventory)
    """Count of the names in the tree."""
    folders: int = 0
    """Number of folders looked at."""
    listed: int = 0
    """Number of names listed."""
    seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class _Entered:
    """A folder to look into."""

    key: str
    through_link: bool
    """Whether a link leads to it, or to a folder above it."""


@dataclass(slots=True, kw_only=True)
class _Listing:
    """The contents of a folder when it was listed."""

    subfolders: list[_Entered] = field(default_factory=list)
    taken: int = 0
    passed_over: dict[PassReason, Passed] = field(default_factory=dict)

    def pass_over(self, key: str, reason: PassReason) -> None:
        _add(self.passed_over, reason, Passed(1, key))


@dataclass(slots=True, kw_only=True)
class _Folder:
    """A folder as the scanner remembers it."""

    mtime_ns: int
    unchanged_since: float
    listed_at: float
    listing: _Listing

    def needs_no_listing(self, now: float) -> bool:
        """Whether the last listing is recent, and was made when the folder's time could no longer hide a change."""
        was_settled = self.listed_at - self.unchanged_since >= _FOLDER_TIME_GRAIN_SECONDS
        # The target of a broken link, or the permission to list, may appear without a change in this folder.
        may_be_more = "broken_link" in self.listing.passed_over or "unreadable" in self.listing.passed_over
        return not may_be_more and was_settled and now - self.listed_at < _RELIST_SECONDS


class Scanner:
    """Scans one tree repeatedly. Used from one thread.

    Links are followed, also out of the tree. A link is not followed if its target is found without it: in the tree
    under its own name, or through another link to the same folder, by device and inode. So there are no loops. Several
    links to one file outside the tree count as several files, as hard links do.

    Args:
        root: root of the tree, an absolute path without links.
        selection: chooses micrographs by name.
        known: stamps of known files, by key.
        missing: keys of known files that are already recorded as missing.
        held: keys of known files that are held, since they are unlike their session's.
        link_roots: directories that links may lead to; without any, they may lead anywhere.
        trust_folder_times: whether a folder with an unchanged time need not be listed; may be changed between scans.
        on_name: called with the key of each name that is listed, and the reason to pass over it. A folder's key ends in
            a slash.
        on_restart: called when a scan begins anew, since the layout was found.
        beat: called with each folder.
    """

    def __init__(
        self,
        root: Path,
        selection: Selection,
        known: Mapping[str, FileStamp],
        *,
        missing: Iterable[str] = (),
        held: Collection[str] = (),
        link_roots: Iterable[Path] = (),
        trust_folder_times: bool = True,
        on_name: Callable[[str, PassReason | None], None] = lambda _key, _reason: None,
        on_restart: Callable[[], None] = lambda: None,
        beat: Beat = no_heartbeat,
    ) -> None:
        self._root = root
        self._held = held
        self._link_roots = [os.path.realpath(place) for place in link_roots]
        self._on_name = on_name
        self._on_restart = on_restart
        self._layout_came = False
        """Whether an event showed the layout, so that folders must be listed again."""
        self._selection = selection
        self._known = known
        self._missing = set(missing)
        self.trust_folder_times = trust_folder_times
        self._beat = beat
        self._folders: dict[str, _Folder] = {}
        self._complained: set[str] = set()
        self._sweep: Iterator[str] = iter(())

    def scan(self) -> Scan:
        """Scan the whole tree.

        A folder that cannot be listed is logged once and passed over. Its files do not count as missing. Where a scan
        finds the layout of the tree, the tree is scanned again, so that nothing is found that the layout does not take.
        """
        started = time.monotonic()
        scan = self._scan()
        if self._selection.settle() or self._layout_came:
            self._layout_came = False
            self.forget()
            self._on_restart()
            scan = self._scan()
        scan.inventory = self.sum_up()
        self._sweep_some(scan)
        scan.seconds = time.monotonic() - started
        return scan

    def _scan(self) -> Scan:
        scan = Scan()
        scan.new += self._walk(scan)
        return scan

    def walk(self) -> Iterator[Path]:
        """Find the same new files as one pass of `scan`, one by one, folder after folder; none is held in memory."""
        self.forget()
        return self._walk(Scan())

    def _walk(self, scan: Scan) -> Iterator[Path]:
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
                folder = yield from self._look_into(entered, scan, places)
            except OSError as error:
                self._complain(key, error)
                if error.errno in (errno.ENOENT, errno.ENOTDIR):
                    continue
                folder = self._folders.get(key) or _unlisted()
                folder.listing.passed_over["unreadable"] = Passed(1, f"{key}/")
            visited[key] = folder
            pending += folder.listing.subfolders
        self._folders = visited
        scan.folders = len(visited)

    def scan_names(self) -> Inventory:
        """Count the names in the tree, and find its layout; none is held in memory."""
        for _ in self.walk():
            pass
        if self._selection.settle():
            for _ in self.walk():
                pass
        return self.sum_up()

    def forget(self) -> None:
        """List every folder again at the next scan."""
        self._folders.clear()

    def finds(self, key: str) -> bool:
        """Whether a scan would find a file with this key, which an event has reported."""
        self._selection.look(key)
        if self._selection.settle():  # at once: the next event may be of a file that the layout does not take
            self._layout_came = True
        if not self._selection.takes(key) or self._selection.lies_beside(key, self._is_there):
            return False
        path = self._root / key
        real = os.path.realpath(path)
        return real == str(path) or self._why_not_followed(real) is None

    def _look_into(self, entered: _Entered, scan: Scan, places: set[tuple[int, int]]) -> Generator[Path, None, _Folder]:
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
            # The target of a link may be on another file system, whose folder times are not to be trusted.
            if self.trust_folder_times and not entered.through_link and known.needs_no_listing(now):
                return known
            unchanged_since = known.unchanged_since
        else:
            unchanged_since = now
        listing = yield from self._list(path, entered, scan)
        self._complained.discard(key)
        return _Folder(mtime_ns=status.st_mtime_ns, unchanged_since=unchanged_since, listed_at=now, listing=listing)

    def _list(self, path: Path, entered: _Entered, scan: Scan) -> Generator[Path, None, _Listing]:
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
                selection.look(key)
                if is_folder:
                    reason = selection.why_not_entered(key) or reason
                    self._on_name(f"{key}/", reason)
                    if reason is None:
                        listing.subfolders.append(_Entered(key, through_link=is_link or entered.through_link))
                    else:
                        listing.pass_over(f"{key}/", reason)
                    continue
                reason = selection.why_not(key) or reason
                if reason is None and selection.lies_beside(key, self._is_there):
                    reason = "companion"
                self._on_name(key, reason)
                if reason is None:
                    listing.taken += 1
                    yield Path(entry.path)
                else:
                    listing.pass_over(key, reason)
        # The last folder of the list is entered first. Sorting makes every scan enter them in the order of their names,
        # so that of two links to one folder the same one counts every time.
        listing.subfolders.sort(key=lambda subfolder: subfolder.key, reverse=True)
        return listing

    def _why_not_followed(self, real: str) -> PassReason | None:
        """The reason not to follow a link with this target; None if it is followed."""
        root = str(self._root)
        if not os.path.exists(real):  # noqa: PTH110 - see above
            return "broken_link"
        if root == real or root.startswith(f"{real.rstrip('/')}/"):
            return "link"
        if not real.startswith(f"{root}/"):
            may = not self._link_roots or any(
                f"{real}/".startswith(f"{place.rstrip('/')}/") for place in self._link_roots
            )
            return None if may else "link_outside"
        inside = os.path.relpath(real, root)
        is_found = self._enters_all(inside) if os.path.isdir(real) else self._selection.takes(inside)  # noqa: PTH112
        return "link" if is_found else None

    def _is_there(self, key: str) -> bool:
        return os.path.exists(self._root / key)  # noqa: PTH110

    def _enters_all(self, key: str) -> bool:
        folders = [key, *(key[:i] for i, letter in enumerate(key) if letter == "/")]
        return all(self._selection.why_not_entered(folder) is None for folder in folders)

    def _sweep_some(self, scan: Scan) -> None:
        """Look at the next known files. Stop at the end of a round, so that no file is looked at twice."""
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

    def sum_up(self) -> Inventory:
        """Add up the inventory of all folders as they were last listed."""
        # A file that is held was listed as one that is known.
        held = [key for key in list(self._held) if key not in self._missing]
        taken = -len(held)
        passed_over: dict[PassReason, Passed] = {}
        for key in held:
            _add(passed_over, "unlike", Passed(1, key))
        for folder in self._folders.values():
            taken += folder.listing.taken
            for reason, passed in folder.listing.passed_over.items():
                _add(passed_over, reason, passed)
        selection = self._selection
        return Inventory(
            taken=max(0, taken), passed_over=passed_over, include=selection.include, layout=selection.layout.name
        )

    def _complain(self, key: str, error: OSError) -> None:
        if key not in self._complained and error.errno != errno.ENOENT:
            log.warning("cannot list %s: %s", self._root / key, error.strerror)
            self._complained.add(key)


def _unlisted() -> _Folder:
    """A folder that was not listed. The next scan tries to list it."""
    return _Folder(mtime_ns=-1, unchanged_since=0.0, listed_at=0.0, listing=_Listing())


def _add(passed_over: dict[PassReason, Passed], reason: PassReason, more: Passed) -> None:
    before = passed_over.get(reason)
    passed_over[reason] = more if before is None else before.and_more(more)
