"""The registry: what is wished of each session of a daemon, and what the operator has set for it.

It is a small SQLite file beside the outputs. The command line and the page write wishes. The daemon looks each second
and carries them out, or does so at its next start.
"""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any, Literal

import msgspec

from frazil.errors import OutputError
from frazil.settings import RENAMED, ServeSettings, load_session_settings

__all__ = ["REGISTRY_NAME", "Registry", "SessionRecord", "Wish"]

REGISTRY_NAME = "frazil-sessions.sqlite"

Wish = Literal["auto", "open", "paused", "closed", "archived"]
"""What is wished of a session.

``auto``: open while something changes in its directory. ``open``: open until told otherwise. ``paused``: nothing is
picked until it is opened again. ``closed``: over. ``archived``: over, and no longer listed with the others.
"""

_BUSY_SECONDS = 5.0
_TABLES = """
CREATE TABLE IF NOT EXISTS daemon (key TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS sessions (
    name TEXT PRIMARY KEY,
    directory TEXT NOT NULL,
    wish TEXT NOT NULL DEFAULT 'auto',
    settings TEXT NOT NULL DEFAULT '{}',
    repick INTEGER NOT NULL DEFAULT 0,
    opened_at REAL,
    closed_at REAL
) WITHOUT ROWID;
"""


class SessionRecord(msgspec.Struct, frozen=True, kw_only=True):
    """What the registry holds of one session."""

    name: str
    directory: str
    """Absolute path of the watched directory."""
    wish: Wish = "auto"
    settings: dict[str, Any] = {}
    """What the operator has set, by name."""
    repick: bool = False
    """Whether what was picked is to be picked again with these settings."""
    opened_at: float | None = None
    """When it was opened first, in seconds of Unix time; None if it never was."""
    closed_at: float | None = None
    """When it was closed last; None while it is open, or if it never was."""


class Registry:
    """The registry of one daemon. Its methods may be called from any thread and any process.

    All of them raise `OutputError` when the file cannot be read or written.

    Args:
        file: made with the first record.
    """

    def __init__(self, file: Path) -> None:
        self.file = file

    def records(self) -> dict[str, SessionRecord]:
        """All records, by name."""
        if not self.file.exists():
            return {}
        with self._open() as database:
            rows = database.execute(
                "SELECT name, directory, wish, settings, repick, opened_at, closed_at FROM sessions"
            )
            return {row[0]: self._decode(row) for row in rows}

    def add(self, name: str, directory: Path) -> None:
        """Begin the record of a session. One that is there already stays as it is."""
        with self._open() as database:
            database.execute("INSERT OR IGNORE INTO sessions (name, directory) VALUES (?, ?)", (name, str(directory)))

    def change(
        self,
        name: str,
        directory: Path,
        wish: Wish | None = None,
        settings: Mapping[str, Any] | None = None,
        *,
        repick: bool = False,
        base: ServeSettings | None = None,
    ) -> None:
        """Wish something of a session, and set some of its settings.

        Args:
            name: of the session; its record is begun where there is none.
            directory: the watched directory.
            wish: None leaves it as it is.
            settings: by name, as in a settings file; None takes one back.
            repick: whether to pick again, with these settings, what was picked before.
            base: settings of the daemon, with which these must agree. Default: no more than their values is checked.

        Raises:
            SettingsError: a setting is none of a session, or its value is impossible.
            OutputError: the registry cannot be written.
        """
        settings = {RENAMED.get(key, key): value for key, value in (settings or {}).items()}
        if settings:
            base = base or ServeSettings(watch=directory, out=self.file.parent)
            load_session_settings(base, {k: v for k, v in settings.items() if v is not None}, None)
        self.add(name, directory)
        if settings or repick:
            self._set(name, settings, repick=repick)
        if wish is not None:
            self._update(name, "wish = ?", wish)

    def note_repicked(self, name: str) -> None:
        """Note that it was asked of the session to pick again what was picked."""
        self._update(name, "repick = ?", 0)

    def _set(self, name: str, settings: dict[str, Any], *, repick: bool) -> None:
        # One statement, so that what others set at the same time is kept; null takes a setting away (RFC 7396).
        change = "settings = json_patch(settings, ?)"
        change += ", repick = 1" if repick else ""  # at once: it is for these settings
        self._update(name, change, msgspec.json.encode(settings, enc_hook=str).decode())

    def note_opened(self, name: str) -> None:
        """Note that a session was opened."""
        self._update(name, "opened_at = coalesce(opened_at, ?), closed_at = NULL", time.time())

    def note_closed(self, name: str) -> None:
        """Note that a session was closed."""
        self._update(name, "closed_at = ?", time.time())

    def note_page(self, url: str) -> None:
        """Note where the daemon's page is."""
        with self._open() as database:
            database.execute("INSERT OR REPLACE INTO daemon (key, value) VALUES ('page', ?)", (url,))

    def page(self) -> str:
        """URL of the page of the daemon that uses or last used this registry; empty where none has."""
        if not self.file.exists():
            return ""
        with self._open() as database:
            row = database.execute("SELECT value FROM daemon WHERE key = 'page'").fetchone()
            return str(row[0]) if row else ""

    def _update(self, name: str, change: str, value: str | float) -> None:
        with self._open() as database:
            changed = database.execute(f"UPDATE sessions SET {change} WHERE name = ?", (value, name))  # noqa: S608 - ours
            if changed.rowcount == 0:
                raise OutputError(f"{self.file}: expected a session that it knows, found {name!r}")

    @contextmanager
    def _open(self) -> Iterator[sqlite3.Connection]:
        """One transaction."""
        try:
            with closing(sqlite3.connect(self.file, timeout=_BUSY_SECONDS)) as database, database:
                database.executescript(_TABLES)
                yield database
        except sqlite3.Error as error:
            raise OutputError(
                f"{self.file}: expected the daemon's list of sessions, found otherwise: {error}"
            ) from error

    def _decode(self, row: tuple[Any, ...]) -> SessionRecord:
        name, directory, wish, settings, repick, opened_at, closed_at = row
        try:
            return msgspec.convert(
                {
                    "name": name,
                    "directory": directory,
                    "wish": wish,
                    "settings": msgspec.json.decode(settings),
                    "repick": bool(repick),
                    "opened_at": opened_at,
                    "closed_at": closed_at,
                },
                SessionRecord,
            )
        except (ValueError, TypeError) as error:
            raise OutputError(
                f"{self.file}: expected the record of session {name!r}, found otherwise: {error}"
            ) from error
