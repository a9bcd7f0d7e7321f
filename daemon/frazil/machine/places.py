"""The doctor's checks of the directories in the settings: access, events, and free space."""

from __future__ import annotations

import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import msgspec

from frazil.errors import printable
from frazil.session.intake.file_system import FileSystem
from frazil.session.intake.selection import Selection
from frazil.session.intake.survey import survey
from frazil.settings import ServeSettings

__all__ = ["DoctorResult", "Level", "examine_ledger", "examine_output", "examine_tree", "examine_watched"]

Level = Literal["ok", "warning", "fault"]
"""``warning``: frazil runs, but slower than it could or not for long. ``fault``: it does not run."""

_LITTLE_BYTES = 5 << 30
_TOO_LITTLE_BYTES = 200 << 20
_CLOCK_SECONDS = 60.0
_FILES_LOOKED_AT = 1000
_FOLDERS_COUNTED = 100_000
_INOTIFY = Path("/proc/sys/fs/inotify")


class DoctorResult(msgspec.Struct, frozen=True, kw_only=True):
    """One line of ``frazil doctor``."""

    check: str
    level: Level
    says: str
    """The result of the check, in one line."""
    do: str = ""
    """Advice; empty if nothing has to be done."""


def examine_watched(settings: ServeSettings) -> Iterator[DoctorResult]:
    """Check the watched tree: permissions, type of file system, events, and the clock of its file server."""
    root = settings.watch.resolve()
    if not os.access(root, os.R_OK | os.X_OK, effective_ids=True):
        yield DoctorResult(
            check="watch",
            level="fault",
            says=f"{root} cannot be listed by this user",
            do=f"chmod o+rx {root}, or run as its owner",
        )
        return
    yield DoctorResult(check="watch", level="ok", says=f"{root} can be listed")
    file_system = FileSystem.of(root)
    where = f"{root} lies on {file_system.kind} at {file_system.mount_point}"
    if file_system.is_network:
        yield DoctorResult(
            check="events",
            level="ok" if settings.watch_by != "events" else "warning",
            says=f"{where}: other machines' files make no events, a scan finds them within {settings.scan_seconds:g} s",
            do="" if settings.watch_by != "events" else 'set watch_by = "auto": events alone would come late',
        )
    else:
        yield DoctorResult(check="events", level="ok", says=f"{where}: events report files at once")
        yield from _examine_inotify(root)
    newest = max((_modified(path) for path in _some_files(root)), default=0.0)
    if newest - time.time() > _CLOCK_SECONDS:
        yield DoctorResult(
            check="clocks",
            level="warning",
            says=f"a file in {root} is {newest - time.time():.0f} s younger than now",
            do="set the clocks of this machine and of the file server by NTP",
        )


def examine_tree(root: Path, settings: ServeSettings | None) -> Iterator[DoctorResult]:
    """Look at what is in a tree: whose layout it has, and what each pattern takes and passes over.

    Args:
        root: the directory.
        settings: say what is taken; None for the defaults.
    """
    link_roots: list[Path] = []
    selection = Selection(layout="auto")
    if settings is not None:
        selection = Selection(settings.include, settings.exclude, settings.companions, settings.layout)
        link_roots = [Path(place).expanduser() for place in settings.link_roots if place]
    try:
        found = survey(root, selection, link_roots)
    except OSError as error:
        yield DoctorResult(check="layout", level="fault", says=f"{root} cannot be looked at: {error.strerror}")
        return
    inventory = found.inventory
    layout = inventory.describe_layout()
    yield DoctorResult(
        check="layout",
        level="warning" if inventory.nothing_fits else "ok",
        says=printable(
            f"{root} looks like {layout}: {inventory.taken} micrographs"
            if layout
            else f"{root} looks like no layout that is known: {inventory.taken} micrographs"
        ),
        do=inventory.advice if inventory.nothing_fits else "",
    )
    for one in found.patterns:
        what = f"passed over ({one.reason})" if one.reason else "taken"
        pattern = f" by {one.pattern}" if one.pattern else ""
        yield DoctorResult(
            check="layout",
            level="ok",
            says=printable(f"{one.count} {what}{pattern}, such as {one.example}"),
        )


def examine_output(settings: ServeSettings) -> Iterator[DoctorResult]:
    """Check the output directory."""
    yield from _examine_writable("out", settings.out.resolve())


def examine_ledger(settings: ServeSettings) -> Iterator[DoctorResult]:
    """Check the directory of the ledger."""
    folder = settings.ledger_file.resolve().parent
    yield from _examine_writable("ledger", folder)
    file_system = FileSystem.of(folder)
    if file_system.is_network:
        yield DoctorResult(
            check="ledger",
            level="warning",
            says=f"{folder} lies on {file_system.kind}: SQLite cannot rely on its locks",
            do='put it on a disk of this machine: ledger = "/var/lib/frazil/titan1/ledger.sqlite"',
        )


def _examine_writable(check: str, folder: Path) -> Iterator[DoctorResult]:
    place = next(place for place in (folder, *folder.parents) if place.exists())
    try:
        if not place.is_dir():
            raise NotADirectoryError
        with tempfile.NamedTemporaryFile(prefix=".frazil-doctor-", dir=place):
            pass
    except OSError as error:
        reason = error.strerror or "it is no directory"
        yield DoctorResult(
            check=check,
            level="fault",
            says=f"{place} cannot be written by this user: {reason}",
            do=f"let the service's user write there: chown USER {place}",
        )
        return
    free = shutil.disk_usage(place).free
    level: Level = "fault" if free < _TOO_LITTLE_BYTES else "warning" if free < _LITTLE_BYTES else "ok"
    missing = "" if place == folder else f" ({folder} is made at the start)"
    yield DoctorResult(
        check=check,
        level=level,
        says=f"{place} can be written{missing}, {free / (1 << 30):.1f} GiB free",
        do="" if level == "ok" else "make room: while nothing can be written, picking waits",
    )


def _examine_inotify(root: Path) -> Iterator[DoctorResult]:
    try:
        watches = int((_INOTIFY / "max_user_watches").read_text())
    except (OSError, ValueError):
        return
    folders = 0
    for _ in os.walk(root):
        folders += 1
        if folders == _FOLDERS_COUNTED:
            break
    enough = folders < watches / 2
    yield DoctorResult(
        check="inotify",
        level="ok" if enough else "warning",
        says=f"{folders} folders to watch, {watches} allowed",
        do=""
        if enough
        else f"sysctl fs.inotify.max_user_watches={max(4 * folders, 2 * watches)}; until then scans find files",
    )


def _some_files(root: Path) -> Iterator[Path]:
    seen = 0
    for folder, _, names in os.walk(root):
        for name in names:
            yield Path(folder, name)
            seen += 1
            if seen == _FILES_LOOKED_AT:
                return


def _modified(path: Path) -> float:
    try:
        return path.lstat().st_mtime
    except OSError:
        return 0.0
