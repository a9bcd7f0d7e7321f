"""The judge: which sessions there are, whether each is to be open now, and with which settings."""

from __future__ import annotations

import errno
import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from frazil.errors import SettingsError
from frazil.health.logs import event
from frazil.health.state import SessionStatus
from frazil.microscope.discovery import find_sessions, last_change
from frazil.microscope.registry import SessionRecord
from frazil.paths import absolute_path, is_same_file
from frazil.session.outbox.file_stamp import FileStamp, stamp_of
from frazil.session.session import Session, title_of
from frazil.settings import ServeSettings, load_session_settings

__all__ = ["SETTINGS_FILE_NAME", "Judge", "NotOpen"]

log = logging.getLogger(__name__)

SETTINGS_FILE_NAME = "frazil.toml"
"""Of the file with a session's own settings, in its directory."""

_DISCOVERY_SECONDS = 3.0
_CLOSED_LOOK_SECONDS = 60.0
"""Time between looks for changes in a session that is not open. There may be hundreds of them."""
_REREAD_SECONDS = 10.0
"""Time after which settings with faults are read again, though they have not changed."""
_DAY_SECONDS = 86_400.0


class NotOpen(Exception):
    """A session cannot be open now.

    Args:
        status: what it is instead.
        says: why, in one line.
        without_diameter: its settings, where they lack nothing but the diameter.
    """

    def __init__(self, status: SessionStatus, says: str = "", without_diameter: ServeSettings | None = None) -> None:
        super().__init__(says)
        self.status: SessionStatus = status
        self.without_diameter = without_diameter


@dataclass(frozen=True, slots=True)
class _ReadSettings:
    """The settings of a session as they were read."""

    source: tuple[Path, FileStamp | None, dict[str, Any]]
    """Its directory, the stamp of its settings file, and what the operator has set."""
    outcome: ServeSettings | SettingsError
    until: float
    """When they are read again although nothing has changed, on the monotonic clock."""


class Judge:
    """Says of each session whether it is to be open: by the operator's wish, its directory and its settings.

    Args:
        settings: of the daemon.
        is_open: the sessions that are open, by name.
        clock: Unix time.

    Attributes:
        found: directories of the sessions that were found last, by name.
        root_fault: why the root cannot be seen; empty while it can.
    """

    def __init__(
        self, settings: ServeSettings, is_open: Mapping[str, Session], clock: Callable[[], float] = time.time
    ) -> None:
        self.root_fault = ""
        watch = absolute_path(settings.watch)
        self.found: dict[str, Path] = {} if settings.root is not None else {title_of(watch): settings.watch}
        self._settings = settings
        self._open = is_open
        self._clock = clock
        self._found_at = float("-inf")
        self._changes: dict[str, tuple[float, float]] = {}
        """When each session was looked at for changes, and when it had changed last."""
        self._read: dict[str, _ReadSettings] = {}

    def discover(self) -> None:
        """Look for sessions below the root, now and then. While it cannot be seen, they stay as they are."""
        root, now = self._settings.root, time.monotonic()
        if root is None or now - self._found_at < _DISCOVERY_SECONDS:
            return
        self._found_at = now
        try:
            found = {found.name: found.directory for found in find_sessions(root, self._settings.sessions)}
            if self.found and not found and not any(root.iterdir()):
                raise OSError(errno.ENOENT, "it is empty, and is there a mount that is away?")
        except OSError as error:
            fault = f"cannot see {root}: {error.strerror or error}"
            if fault != self.root_fault:
                log.warning("%s: the sessions stay as they are", fault, extra=event("root_fault", reason=fault))
            self.root_fault = fault
            return
        self.found = found
        if self.root_fault:
            log.info("%s can be seen again", root)
        self.root_fault = ""

    def judge(self, name: str, record: SessionRecord | None) -> ServeSettings:
        """The settings with which a session is to be open.

        Raises:
            NotOpen: it is not to be open now.
        """
        wish = record.wish if record else "auto"
        if wish in ("paused", "closed", "archived"):
            raise NotOpen(wish)
        if self._settings.root is not None and wish == "auto":
            self._check_recent(name, record)
        directory = self.directory(name, record)
        if self._settings.root is not None and not directory.is_dir():
            if not self.root_fault and self._settings.root.is_dir():
                raise NotOpen("waiting", f"{directory} is not there")
            if name in self._open:
                return self._open[name].settings
            raise NotOpen("waiting", f"cannot see {self._settings.root}")
        try:
            settings = self._read_settings(name, directory, record.settings if record else {})
        except SettingsError as error:
            raise NotOpen("waiting", f"its settings have faults: {'; '.join(error.args)}") from error
        if settings.diameter_angstrom is None:
            raise NotOpen("waiting", "its diameter is not known", settings)
        for other, session in self._open.items():
            if other != name and _is_nested(settings.watch, session.watch):
                raise NotOpen(
                    "waiting", f"{settings.watch} and the directory of the open session {other} lie in each other"
                )
        return settings

    def directory(self, name: str, record: SessionRecord | None) -> Path:
        """The watched directory of a session."""
        if name in self.found:
            return self.found[name]
        return Path(record.directory) if record else Path()

    def _read_settings(self, name: str, directory: Path, given: dict[str, Any]) -> ServeSettings:
        """The settings of a session; read anew where something has changed, and after a while where they have faults.

        Raises:
            SettingsError: they have faults.
        """
        file: Path | None = directory / SETTINGS_FILE_NAME if self._settings.root is not None else None
        stamp = None
        if file is not None:
            try:
                stamp = stamp_of(file)
            except OSError:
                file = None
        known, now = self._read.get(name), time.monotonic()
        if known is not None and known.source == (directory, stamp, given) and now < known.until:
            if isinstance(known.outcome, SettingsError):
                raise known.outcome
            return known.outcome
        settings = self._settings
        if settings.root is not None:
            settings = msgspec.structs.replace(
                settings, root=None, watch=directory, out=settings.out / name, ledger=None
            )
        outcome: ServeSettings | SettingsError
        until = float("inf")
        try:
            outcome = load_session_settings(settings, given, file)
        except SettingsError as error:  # a file that they name may come
            outcome, until = error, now + _REREAD_SECONDS
        self._read[name] = _ReadSettings((directory, stamp, given), outcome, until)
        if isinstance(outcome, SettingsError):
            raise outcome
        return outcome

    def _check_recent(self, name: str, record: SessionRecord | None) -> None:
        """Whether something changed in a session of late.

        Raises:
            NotOpen: nothing did, or its directory is gone.
        """
        if name not in self.found:
            if self.root_fault and name in self._open:
                return
            raise NotOpen("closed", "its directory is gone")
        now, mono = self._clock(), time.monotonic()
        looked_at, changed_at = self._changes.get(name, (float("-inf"), 0.0))
        if mono - looked_at > (_DISCOVERY_SECONDS if name in self._open else _CLOSED_LOOK_SECONDS):
            changed_at = max(changed_at, last_change(self.found[name]))
            self._changes[name] = mono, changed_at
        session = self._open.get(name)
        if session is not None:
            state = session.state
            if state.intake.backlog or state.intake.incomplete:
                return
            changed_at = max(changed_at, state.pick.last_picked_at or 0.0)
        if now - changed_at > self._settings.recent_days * _DAY_SECONDS:
            days = f"{(now - changed_at) / _DAY_SECONDS:.0f} days"
            raise NotOpen("closed" if record and record.opened_at else "old", f"nothing has changed in it for {days}")


def _is_nested(one: Path, other: Path) -> bool:
    """Whether one directory lies in the other, or both are the same."""
    one, other = one.resolve(), other.resolve()
    return one.is_relative_to(other) or other.is_relative_to(one) or is_same_file(one, other)
