"""The ledger: one SQLite file that knows every micrograph handled, and is the outbox of the stream.

A result and its sequence number are committed in one transaction, durably, before anything is sent; what was
committed but perhaps not delivered is delivered again after a restart. So nothing is lost, and a repeat carries
the same number.
"""

from __future__ import annotations

import fcntl
import sqlite3
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO
from uuid import uuid4

from frazil.errors import OutputError
from frazil.service.watch import FileStamp

__all__ = ["Handled", "Ledger"]

_LAYOUT = 1
_SCHEMA = """
CREATE TABLE IF NOT EXISTS meta (key TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS documents (seq INTEGER PRIMARY KEY, path TEXT NOT NULL, body BLOB NOT NULL);
CREATE TABLE IF NOT EXISTS micrographs (
    path TEXT PRIMARY KEY,
    size INTEGER NOT NULL,
    mtime_ns INTEGER NOT NULL,
    fingerprint TEXT NOT NULL,
    state TEXT NOT NULL CHECK (state IN ('picked', 'failed')),
    reason TEXT NOT NULL,
    seq INTEGER
) WITHOUT ROWID;
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Handled:
    """A micrograph that was picked or has failed."""

    stamp: FileStamp
    fingerprint: str
    """Hash of its size, header and sampled blocks; empty where it could not be read."""


class Ledger:
    """An open ledger; one daemon at a time holds it. Its methods may be called from any thread.

    Attributes:
        epoch: identity of this ledger: sequence numbers of different epochs have nothing to do with each other.

    Raises:
        OutputError: the file cannot be made, is no ledger, or is in use by another daemon.
    """

    def __init__(self, file: Path) -> None:
        self.file = file
        self._lock = threading.Lock()
        try:
            self._claim = _claim(file)
        except BlockingIOError as error:
            raise OutputError(f"{file}: expected a free ledger, found it in use by another frazil daemon") from error
        except OSError as error:
            raise OutputError(f"{file}: expected a ledger that can be written: {error.strerror}") from error
        try:
            self._database = sqlite3.connect(file, check_same_thread=False, isolation_level=None)
            self._database.execute("PRAGMA journal_mode=WAL")
            self._database.execute("PRAGMA synchronous=FULL")
            self._database.executescript(_SCHEMA)
            self._database.execute(
                "INSERT OR IGNORE INTO meta VALUES ('layout', ?), ('epoch', ?), ('delivered', '0')",
                (str(_LAYOUT), uuid4().hex),
            )
            meta = dict(self._database.execute("SELECT key, value FROM meta"))
        except sqlite3.Error as error:
            self._claim.close()
            raise OutputError(f"{file}: expected a frazil ledger: {error}") from error
        if meta["layout"] != str(_LAYOUT):
            self.close()
            raise OutputError(f"{file}: expected ledger layout {_LAYOUT}, found {meta['layout']}")
        self.epoch = meta["epoch"]
        self._head: int = self._database.execute("SELECT coalesce(max(seq), 0) FROM documents").fetchone()[0]

    @property
    def head(self) -> int:
        """The newest sequence number; 0 before the first."""
        return self._head

    def known(self) -> dict[str, FileStamp]:
        """Stamps of all micrographs handled so far, by path."""
        with self._lock:
            rows = self._database.execute("SELECT path, size, mtime_ns FROM micrographs")
            return {path: FileStamp(size=size, mtime_ns=mtime_ns) for path, size, mtime_ns in rows}

    def fingerprint(self, path: str) -> str | None:
        """Fingerprint of what was handled under this path; None where nothing was."""
        with self._lock:
            row = self._database.execute("SELECT fingerprint FROM micrographs WHERE path = ?", (path,)).fetchone()
        return None if row is None else row[0]

    def commit_picked(self, path: str, handled: Handled, body_at: Callable[[str, int], bytes]) -> tuple[int, bytes]:
        """Commit a result under the next sequence number.

        Args:
            path: of the micrograph.
            handled: its stamp and fingerprint.
            body_at: makes the document for an epoch and a sequence number.

        Returns:
            The sequence number and the document.
        """
        with self._lock, self._database:
            self._database.execute("BEGIN IMMEDIATE")
            seq = self._head + 1
            body = body_at(self.epoch, seq)
            self._database.execute("INSERT INTO documents VALUES (?, ?, ?)", (seq, path, body))
            self._record(path, handled, "picked", "", seq)
        self._head = seq
        return seq, body

    def commit_failed(self, path: str, handled: Handled, reason: str) -> None:
        """Record that a micrograph cannot be picked as it is."""
        with self._lock, self._database:
            self._database.execute("BEGIN IMMEDIATE")
            self._record(path, handled, "failed", reason, None)

    def restamp(self, path: str, stamp: FileStamp) -> None:
        """Record that a file was touched but holds what it held."""
        with self._lock:
            self._database.execute(
                "UPDATE micrographs SET size = ?, mtime_ns = ? WHERE path = ?", (stamp.size, stamp.mtime_ns, path)
            )

    def mark_delivered(self, seq: int) -> None:
        """Record that files and message up to this sequence number are out."""
        with self._lock:
            self._database.execute("UPDATE meta SET value = ? WHERE key = 'delivered'", (str(seq),))

    def undelivered(self) -> Iterator[tuple[int, bytes]]:
        """Sequence number and document of all that may not have been delivered, in order."""
        with self._lock:
            rows = self._database.execute(
                "SELECT seq, body FROM documents WHERE seq > "
                "(SELECT CAST(value AS INTEGER) FROM meta WHERE key = 'delivered') ORDER BY seq"
            ).fetchall()
        yield from rows

    def close(self) -> None:
        """Close the database and let others have it."""
        with self._lock:
            self._database.close()
            self._claim.close()

    def _record(self, path: str, handled: Handled, state: str, reason: str, seq: int | None) -> None:
        self._database.execute(
            "INSERT OR REPLACE INTO micrographs VALUES (?, ?, ?, ?, ?, ?, ?)",
            (path, handled.stamp.size, handled.stamp.mtime_ns, handled.fingerprint, state, reason, seq),
        )


def _claim(file: Path) -> IO[bytes]:
    """Take the lock that keeps a second daemon off this ledger; the system frees it when the process ends."""
    claim = file.with_name(f"{file.name}.lock").open("ab")
    try:
        fcntl.flock(claim, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        claim.close()
        raise
    return claim
