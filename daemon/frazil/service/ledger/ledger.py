"""The daemon's ledger: results, numbers, and what is known of every micrograph.

A result and its sequence number are committed in one transaction, durably, before anything is sent; what was
committed but perhaps not delivered is delivered again after a restart. So nothing is lost, and a repeat carries
the same number.
"""

from __future__ import annotations

import fcntl
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Literal

from frazil.errors import OutputError
from frazil.service.ledger.layout import connect, transaction
from frazil.service.stamp import FileStamp

__all__ = ["Handled", "Ledger", "Note"]

_KNOWN = "state IN ('picked', 'quarantined') OR (state = 'gone' AND (seq IS NOT NULL OR reason != ''))"
_AS_IT_WAS = "CASE WHEN reason = '' THEN 'picked' ELSE 'quarantined' END"
_UNDELIVERED_AT_ONCE = 100


@dataclass(frozen=True, slots=True, kw_only=True)
class Handled:
    """A micrograph that was picked or has failed."""

    stamp: FileStamp
    fingerprint: str
    """Hash of its size, header and sampled blocks; empty where it could not be read."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Note:
    """What the intake has to say of a micrograph that is not yet picked."""

    path: str
    stamp: FileStamp
    state: Literal["seen", "waiting"]
    reason: str = ""
    message: str = ""


class Ledger:
    """An open ledger; one daemon at a time holds it. Its methods may be called from any thread.

    All of them raise `sqlite3.Error` when the ledger cannot be written; then nothing of the call is in it.

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
            self._database = connect(file)
        except OutputError:
            self._claim.close()
            raise
        self.epoch = self.recall("epoch")
        self._head: int = self._database.execute(
            "SELECT max((SELECT coalesce(max(seq), 0) FROM documents), "
            "(SELECT CAST(value AS INTEGER) FROM meta WHERE key = 'archived'))"
        ).fetchone()[0]

    @property
    def head(self) -> int:
        """The newest sequence number; 0 before the first."""
        return self._head

    # --- what is known --------------------------------------------------------------------------------------------

    def known(self) -> dict[str, FileStamp]:
        """Stamps of all micrographs that need no look as long as they are as they were, by path."""
        with self._lock:
            rows = self._database.execute(f"SELECT path, size, mtime_ns FROM micrographs WHERE {_KNOWN}")  # noqa: S608
            sizes: dict[int, int] = {}  # files of one camera are of one size: it is held once
            return {path: FileStamp(sizes.setdefault(size, size), mtime_ns) for path, size, mtime_ns in rows}

    def missing(self) -> list[str]:
        """Paths of micrographs that are gone."""
        with self._lock:
            return [path for (path,) in self._database.execute("SELECT path FROM micrographs WHERE state = 'gone'")]

    def fingerprint(self, path: str) -> str | None:
        """Fingerprint of what was handled under this path; None where nothing was."""
        with self._lock:
            row = self._database.execute(
                f"SELECT fingerprint FROM micrographs WHERE path = ? AND ({_KNOWN})",  # noqa: S608
                (path,),
            ).fetchone()
        return None if row is None else row[0]

    def first_with_result(self, paths: Sequence[str]) -> str | None:
        """The first of these paths under which there is a result; None where there is none."""
        marks = ", ".join("?" * len(paths))
        with self._lock:
            row = self._database.execute(
                f"SELECT path FROM micrographs WHERE path IN ({marks}) AND seq IS NOT NULL ORDER BY seq LIMIT 1",  # noqa: S608
                paths,
            ).fetchone()
        return None if row is None else str(row[0])

    def attempts(self, path: str) -> int:
        """How often picking a micrograph has failed since it was found."""
        with self._lock:
            row = self._database.execute(
                "SELECT attempts FROM micrographs WHERE path = ? AND state IN ('seen', 'waiting', 'failed')", (path,)
            ).fetchone()
        return 0 if row is None else int(row[0])

    def note(self, notes: Sequence[Note]) -> None:
        """Note micrographs that are not yet picked. What was found out before is kept until a result replaces it.

        Notes are written late: one of a file that has failed since, and not changed, changes nothing.
        """
        now = time.time()
        with self._writing(durably=False):
            self._database.executemany(
                "INSERT INTO micrographs (path, state, size, mtime_ns, reason, message, seen_at) VALUES "
                "(?, ?, ?, ?, ?, ?, ?) ON CONFLICT (path) DO UPDATE SET state = excluded.state, size = excluded.size, "
                "mtime_ns = excluded.mtime_ns, reason = excluded.reason, message = excluded.message "
                "WHERE state IN ('seen', 'waiting') OR (state = 'gone' AND seq IS NULL) "
                "OR (state = 'failed' AND (size, mtime_ns) IS NOT (excluded.size, excluded.mtime_ns))",
                [(n.path, n.state, n.stamp.size, n.stamp.mtime_ns, n.reason, n.message, now) for n in notes],
            )

    def note_gone(self, paths: Sequence[str]) -> None:
        """Note that files are no longer there."""
        with self._writing(durably=False):
            self._database.executemany(
                "UPDATE micrographs SET state = 'gone' WHERE path = ?", [(path,) for path in paths]
            )

    def note_returned(self, paths: Sequence[str]) -> None:
        """Note that files are there again, as they were."""
        with self._writing(durably=False):
            self._database.executemany(
                f"UPDATE micrographs SET state = {_AS_IT_WAS} WHERE path = ? AND state = 'gone' AND ({_KNOWN})",  # noqa: S608
                [(path,) for path in paths],
            )

    def restamp(self, path: str, stamp: FileStamp) -> None:
        """Record that a file was touched but holds what it held."""
        with self._writing(durably=False):
            self._database.execute(
                f"UPDATE micrographs SET size = ?, mtime_ns = ?, state = {_AS_IT_WAS} WHERE path = ? AND ({_KNOWN})",  # noqa: S608
                (stamp.size, stamp.mtime_ns, path),
            )

    # --- results --------------------------------------------------------------------------------------------------

    def commit_picked(
        self,
        path: str,
        handled: Handled,
        body_at: Callable[[str, int, int], bytes],
        *,
        score_map: bytes | None = None,
        complete_at: float | None = None,
    ) -> tuple[int, bytes]:
        """Commit a result under the next sequence number.

        Args:
            path: of the micrograph.
            handled: its stamp and fingerprint.
            body_at: makes the document for an epoch, a sequence number, and that of the result it supersedes (0: none).
            score_map: what the model said of the micrograph, to be kept.
            complete_at: when the file was known to be complete, in seconds of Unix time.

        Returns:
            The sequence number and the document.
        """
        now = time.time()
        with self._writing():
            seq = self._head + 1
            row = self._database.execute("SELECT seq FROM micrographs WHERE path = ?", (path,)).fetchone()
            older: int = (row[0] or 0) if row else 0
            body = body_at(self.epoch, seq, older)
            self._database.execute(
                "INSERT INTO documents (seq, topic, path, body, committed_at) VALUES (?, 'picks', ?, ?, ?)",
                (seq, path, body, now),
            )
            self._database.execute("UPDATE documents SET superseded_by = ? WHERE seq = ?", (seq, older))
            self._database.execute("DELETE FROM score_maps WHERE seq = ?", (older,))
            if score_map is not None:
                self._database.execute("INSERT INTO score_maps VALUES (?, ?)", (seq, score_map))
            self._record(path, handled, "picked", "", "")
            self._database.execute(
                "UPDATE micrographs SET seq = ?, complete_at = ?, picked_at = ?, published_at = NULL WHERE path = ?",
                (seq, complete_at, now, path),
            )
        self._head = seq
        return seq, body

    def commit_revision(
        self,
        path: str,
        older: int,
        body_at: Callable[[str, int], bytes],
        *,
        score_map: bytes | None,
        remember: tuple[str, str],
    ) -> int:
        """Commit other picks from the same scores: all else that is known of the micrograph stays as it is.

        Args:
            path: of the micrograph.
            older: sequence number of its newest result, which this one supersedes.
            body_at: makes the document for an epoch and a sequence number.
            score_map: of that result; it is this one's from now on.
            remember: key and value to remember in the same transaction.

        Returns:
            The sequence number.
        """
        with self._writing():
            seq = self._insert("picks", path, body_at)
            self._database.execute("UPDATE documents SET superseded_by = ? WHERE seq = ?", (seq, older))
            self._database.execute("DELETE FROM score_maps WHERE seq = ?", (older,))
            if score_map is not None:
                self._database.execute("INSERT INTO score_maps VALUES (?, ?)", (seq, score_map))
            self._database.execute(
                "UPDATE micrographs SET seq = ?, published_at = NULL WHERE path = ? AND seq = ?", (seq, path, older)
            )
            # Whether its file can be written is found out anew.
            self._database.execute(
                "UPDATE micrographs SET state = CASE state WHEN 'quarantined' THEN 'picked' ELSE state END, "
                "reason = '', message = '' WHERE path = ? AND reason = 'output'",
                (path,),
            )
            self._database.execute("INSERT OR REPLACE INTO meta VALUES (?, ?)", remember)
        self._head = seq
        return seq

    def commit_failed(
        self,
        path: str,
        handled: Handled,
        reason: str,
        message: str,
        state: Literal["failed", "quarantined"],
        body_at: Callable[[str, int], bytes],
    ) -> int:
        """Record that picking a micrograph failed: it is tried again (``failed``) or not (``quarantined``).

        Args:
            path: of the micrograph.
            handled: its stamp and fingerprint.
            reason: as one word.
            message: as a line.
            state: what becomes of it.
            body_at: makes the document that says so for an epoch and a sequence number.

        Returns:
            The sequence number.
        """
        with self._writing():
            seq = self._insert("failed", path, body_at)
            self._record(path, handled, state, reason, message)
        self._head = seq
        return seq

    def commit_unwritten(self, seq: int, reason: str, message: str, body_at: Callable[[str, int], bytes]) -> bool:
        """Record that a result cannot be written as a file: its micrograph is quarantined, its picks stay.

        Args:
            seq: of the result.
            reason: as one word.
            message: as a line.
            body_at: makes the document that says so for an epoch and a sequence number.

        Returns:
            False where there is nothing to say: it was recorded before, or another result has come, or is to come.
        """
        with self._writing():
            row = self._database.execute(
                "SELECT path FROM micrographs WHERE path = (SELECT path FROM documents WHERE seq = ?) AND seq = ? "
                "AND state IN ('picked', 'gone') AND reason = ''",
                (seq, seq),
            ).fetchone()
            if row is None:
                return False
            head = self._insert("failed", row[0], body_at)
            self._database.execute(
                "UPDATE micrographs SET state = CASE state WHEN 'picked' THEN 'quarantined' ELSE state END, "
                "reason = ?, message = ? WHERE path = ?",
                (reason, message, row[0]),
            )
        self._head = head
        return True

    def commit_document(
        self, topic: str, body_at: Callable[[str, int], bytes], *, remember: tuple[str, str] | None = None
    ) -> int:
        """Commit a document that is about no micrograph under the next sequence number, which it returns.

        Args:
            topic: of the stream.
            body_at: makes the document for an epoch and a sequence number.
            remember: key and value to remember in the same transaction.
        """
        with self._writing():
            seq = self._insert(topic, "", body_at)
            if remember is not None:
                self._database.execute("INSERT OR REPLACE INTO meta VALUES (?, ?)", remember)
        self._head = seq
        return seq

    def mark_delivered(self, seq: int) -> None:
        """Record that files and message up to this sequence number are out; if that gets lost, they go out again."""
        with self._writing(durably=False):
            self._database.execute("UPDATE meta SET value = ? WHERE key = 'delivered'", (str(seq),))
            self._database.execute(
                "UPDATE micrographs SET published_at = ? WHERE seq = ? AND path = "
                "(SELECT path FROM documents WHERE seq = ?)",
                (time.time(), seq, seq),
            )

    def undelivered(self) -> Iterator[tuple[int, bytes]]:
        """Sequence number and document of all that may not have been delivered, in order."""
        seq = int(self.recall("delivered"))
        while True:
            with self._lock:
                rows = self._database.execute(
                    "SELECT seq, body FROM documents WHERE seq > ? ORDER BY seq LIMIT ?", (seq, _UNDELIVERED_AT_ONCE)
                ).fetchall()
            if not rows:
                return
            yield from rows
            seq = rows[-1][0]

    # --- requests and odds ----------------------------------------------------------------------------------------

    def take_requests(self) -> list[str]:
        """Grant what others asked to have picked again: their paths; each is new from now on."""
        with self._lock:  # a look costs no transaction
            if self._database.execute("SELECT 1 FROM requests LIMIT 1").fetchone() is None:
                return []
        with self._writing():
            paths = [p for (p,) in self._database.execute("SELECT DISTINCT path FROM requests ORDER BY id")]
            self._database.execute("DELETE FROM requests")
            self._database.executemany(
                "UPDATE micrographs SET state = 'seen', fingerprint = '', reason = '', message = '', attempts = 0 "
                "WHERE path = ?",
                [(path,) for path in paths],
            )
        return paths

    def recall(self, key: str, default: str = "") -> str:
        """A value remembered under a key."""
        with self._lock:
            row = self._database.execute("SELECT value FROM meta WHERE key = ?", (key,)).fetchone()
        return default if row is None else str(row[0])

    def remember(self, key: str, value: str) -> None:
        """Remember a value under a key."""
        with self._writing(durably=False):
            self._database.execute("INSERT OR REPLACE INTO meta VALUES (?, ?)", (key, value))

    def grant(self, request: tuple[str, str], remember: tuple[str, str]) -> None:
        """Remember what was made of a request, and forget the request, unless it was added to meanwhile.

        Args:
            request: key and value under which it was found.
            remember: key and value.
        """
        with self._writing():
            self._database.execute("DELETE FROM meta WHERE key = ? AND value = ?", request)
            self._database.execute("INSERT OR REPLACE INTO meta VALUES (?, ?)", remember)

    def close(self) -> None:
        """Close the database and let others have it."""
        with self._lock:
            self._database.close()
            self._claim.close()

    def _insert(self, topic: str, path: str, body_at: Callable[[str, int], bytes]) -> int:
        seq = self._head + 1
        self._database.execute(
            "INSERT INTO documents (seq, topic, path, body, committed_at) VALUES (?, ?, ?, ?, ?)",
            (seq, topic, path, body_at(self.epoch, seq), time.time()),
        )
        return seq

    @contextmanager
    def _writing(self, *, durably: bool = True) -> Iterator[None]:
        """One transaction; without `durably` a loss of power may undo it, but neither order nor what is older."""
        with self._lock:
            self._database.execute(f"PRAGMA synchronous={'FULL' if durably else 'NORMAL'}")
            with transaction(self._database):
                yield

    def _record(self, path: str, handled: Handled, state: str, reason: str, message: str) -> None:
        self._database.execute(
            "INSERT INTO micrographs (path, state, size, mtime_ns, fingerprint, reason, message, attempts, seen_at) "
            "VALUES (?, ?, ?, ?, ?, ?, ?, 1, ?) ON CONFLICT (path) DO UPDATE SET attempts = "
            "CASE WHEN state IN ('seen', 'waiting', 'failed') THEN attempts + 1 ELSE 1 END, "
            "state = excluded.state, size = excluded.size, mtime_ns = excluded.mtime_ns, "
            "fingerprint = excluded.fingerprint, reason = excluded.reason, message = excluded.message",
            (
                path,
                state,
                handled.stamp.size,
                handled.stamp.mtime_ns,
                handled.fingerprint,
                reason,
                message,
                time.time(),
            ),
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
