"""Requests to the daemon, left in the ledger: it alone changes the record of a micrograph, or of a session."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Callable, Sequence
from contextlib import closing
from pathlib import Path

from frazil.errors import OutputError
from frazil.session.outbox.ledger.layout import UNLIKE, State, connect, open_read_only, transaction
from frazil.session.outbox.ledger.meta_keys import BASELINE_KEY

__all__ = ["request_baseline", "request_requeue", "update_remembered"]


def request_requeue(
    file: Path,
    paths: Sequence[str] = (),
    states: Sequence[State] = (),
    *,
    patterns: Sequence[str] = (),
    held: bool = False,
) -> int:
    """Ask that micrographs be picked again. A running daemon grants it within seconds, another at its start.

    Args:
        file: the ledger.
        paths: as the ledger knows them.
        states: and all in these states.
        patterns: and all whose path matches one of these, as SQLite's GLOB has it: ``*`` crosses folders.
        held: and all that are held, since they are unlike their session's.

    Returns:
        The number of micrographs.

    Raises:
        OutputError: a path is unknown, a pattern matches none, or the ledger cannot be written.
    """
    open_read_only(file).close()  # nothing is made or migrated here
    now = time.time()
    try:
        with closing(connect(file)) as database, transaction(database):
            unknown = [
                path
                for path in paths
                if database.execute("SELECT 1 FROM micrographs WHERE path = ?", (path,)).fetchone() is None
            ]
            if unknown:
                more = f" and {len(unknown) - 1} more" if len(unknown) > 1 else ""
                raise OutputError(f"{file}: expected a micrograph that it knows, found {unknown[0]!r}{more}")
            keys = dict.fromkeys(paths)
            for pattern in patterns:
                found = _paths(database, "path GLOB ? AND state != 'gone'", pattern)
                if not found:
                    raise OutputError(f"{file}: expected micrographs that match {pattern!r}, found none")
                keys |= dict.fromkeys(found)
            for state in states:
                keys |= dict.fromkeys(_paths(database, "state = ?", state))
            if held:
                keys |= dict.fromkeys(_paths(database, "state = 'waiting' AND reason = ?", UNLIKE))
            database.executemany("INSERT INTO requests (path, made_at) VALUES (?, ?)", [(key, now) for key in keys])
    except sqlite3.Error as error:
        raise OutputError(f"{file}: the request cannot be left in the ledger: {error}") from error
    return len(keys)


def _paths(database: sqlite3.Connection, where: str, value: str) -> list[str]:
    """Paths of micrographs, those that were picked last first."""
    order = "ORDER BY picked_at DESC, seen_at DESC"
    return [path for (path,) in database.execute(f"SELECT path FROM micrographs WHERE {where} {order}", (value,))]  # noqa: S608


def request_baseline(file: Path) -> None:
    """Ask that the next micrographs become the session's baseline, against which drift is told.

    Raises:
        OutputError: there is no ledger, or it cannot be written.
    """
    update_remembered(file, BASELINE_KEY, lambda _: str(time.time()))


def update_remembered(file: Path, key: str, change: Callable[[str], str]) -> None:
    """Change what the ledger remembers under a key, for the daemon to find.

    Args:
        file: the ledger.
        key: what it is remembered by.
        change: makes the new value from the present one; empty where there is none.

    Raises:
        OutputError: there is no ledger, or it cannot be written.
    """
    open_read_only(file).close()  # nothing is made or migrated here
    try:
        with closing(connect(file)) as database, transaction(database):
            row = database.execute("SELECT value FROM meta WHERE key = ?", (key,)).fetchone()
            value = change("" if row is None else str(row[0]))
            database.execute("INSERT OR REPLACE INTO meta VALUES (?, ?)", (key, value))
    except sqlite3.Error as error:
        raise OutputError(f"{file}: the request cannot be left in the ledger: {error}") from error
