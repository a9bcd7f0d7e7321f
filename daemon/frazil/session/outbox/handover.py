"""The handover: a file beside a ledger in which ``frazil repick`` leaves results for the daemon that has the ledger.

It holds what is under way, and what the run is. Whether a result exists is told by the ledger alone: what is lost here
is picked again. So nothing of it need be durable.
"""

from __future__ import annotations

import contextlib
import fcntl
import sqlite3
from pathlib import Path
from typing import IO
from uuid import uuid4

import msgspec

from frazil.documents import MicrographDocument, decode_document, encode_document
from frazil.errors import OutputError
from frazil.session.outbox.file_stamp import FileStamp
from frazil.session.outbox.ledger import Handled
from frazil.session.outbox.ledger.layout import BUSY_SECONDS, transaction

__all__ = ["HANDOVER_NAME", "MOST_WAITING", "HandedOver", "Handover", "HandoverRun", "Verdict", "handover_file"]

HANDOVER_NAME = "frazil-handover.sqlite"
MOST_WAITING = 32
"""Results that may wait for the daemon: with their score maps some tens of megabytes."""
_LARGEST_BYTES = 64 << 20
"""Of a document with its score map. A result that is larger is not taken."""

_LAYOUT = 1
_TABLES = (
    "CREATE TABLE IF NOT EXISTS meta (key TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID",
    """CREATE TABLE IF NOT EXISTS results (
        id INTEGER PRIMARY KEY AUTOINCREMENT,
        path TEXT NOT NULL UNIQUE,
        picked_at REAL,
        size INTEGER NOT NULL,
        mtime_ns INTEGER NOT NULL,
        fingerprint TEXT NOT NULL,
        document BLOB,
        score_map BLOB,
        picks INTEGER,
        why TEXT
    )""",
)


def handover_file(ledger: Path) -> Path:
    """The handover of a ledger."""
    return ledger.with_name(HANDOVER_NAME)


class HandoverRun(msgspec.Struct, frozen=True, kw_only=True):
    """The run whose results are handed over."""

    epoch: str
    """Of the ledger that is to take them."""
    settings: str
    """How they are picked: `PickingSettings` as JSON."""
    run: str
    """What ``frazil repick`` remembers of it."""


class HandedOver(msgspec.Struct, frozen=True, kw_only=True):
    """A result that waits for the daemon."""

    id: int = 0
    """Place in the handover: it grows, and is never used again."""
    key: str
    picked_at: float | None
    """When the ledger's result, which is to be superseded, was picked from the file; None where unknown."""
    handled: Handled
    """Of the file that was picked."""
    document: MicrographDocument
    score_map: bytes | None


class Verdict(msgspec.Struct, frozen=True, kw_only=True):
    """What the daemon has made of a result."""

    key: str
    picks: int
    """Number of picks that were committed."""
    refused: str
    """Why it was not committed, in one line; empty where it was."""


class Handover:
    """An open handover; ``frazil repick`` and the daemon each have one. It belongs to one thread.

    All its methods raise `sqlite3.Error` where the file cannot be read or written.

    Args:
        file: made if missing.

    Attributes:
        id: of the file; another one in its place has another.
    """

    def __init__(self, file: Path) -> None:
        self.file = file
        self._database = sqlite3.connect(file, timeout=BUSY_SECONDS, isolation_level=None, check_same_thread=False)
        try:
            self._database.execute("PRAGMA auto_vacuum=FULL")
            self._database.execute("PRAGMA journal_mode=WAL")
            self._database.execute("PRAGMA synchronous=NORMAL")  # a loss of power may undo, but not damage
            with transaction(self._database):
                layout = self._database.execute("PRAGMA user_version").fetchone()[0]
                if layout not in (0, _LAYOUT):
                    raise sqlite3.DatabaseError(f"expected a handover of layout {_LAYOUT}, found {layout}")
                self._database.execute(f"PRAGMA user_version={_LAYOUT}")
                for table in _TABLES:
                    self._database.execute(table)
                self._database.execute("INSERT OR IGNORE INTO meta VALUES ('id', ?)", (uuid4().hex,))
            self.id = self._recall("id")
            found = file.stat()
        except (sqlite3.Error, OSError):
            self._database.close()
            raise
        self._identity = found.st_dev, found.st_ino

    def is_in_place(self) -> bool:
        """Whether it is still the file of its name."""
        try:
            found = self.file.stat()
        except OSError:
            return False
        return (found.st_dev, found.st_ino) == self._identity

    def close(self) -> None:
        """Close it."""
        self._database.close()

    # --- of frazil repick -----------------------------------------------------------------------------------------

    @staticmethod
    def claim(file: Path) -> IO[bytes]:
        """Keep another ``frazil repick`` off a handover, until what is returned is closed.

        Raises:
            OutputError: another one has it, or it cannot be made.
        """
        lock = None
        try:
            lock = file.with_name(f"{file.name}.lock").open("ab")
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if lock is not None:
                lock.close()
            if isinstance(error, BlockingIOError):
                raise OutputError(f"{file}: expected one frazil repick of a session, found another one") from error
            raise OutputError(f"{file}: expected a file that can be written: {error.strerror}") from error
        return lock

    @staticmethod
    def discard(file: Path) -> None:
        """Delete a handover, while neither the daemon nor ``frazil repick`` has it."""
        for end in ("", "-wal", "-shm"):
            file.with_name(f"{file.name}{end}").unlink(missing_ok=True)

    def run(self) -> HandoverRun | None:
        """The run that was begun last; None if there was none."""
        text = self._recall("run")
        with contextlib.suppress(msgspec.MsgspecError):
            return msgspec.json.decode(text, type=HandoverRun) if text else None
        return None

    def begin(self, run: HandoverRun) -> None:
        """Begin a run, or go on with one. What waits of another run is dropped."""
        earlier = self.run()
        with transaction(self._database):
            if run != earlier:
                self._database.execute("DELETE FROM results")
            self._database.execute("DELETE FROM meta WHERE key IN ('answer', 'refusal')")
            self._remember("run", msgspec.json.encode(run).decode())

    def waiting(self) -> set[str]:
        """Keys of the results on which the daemon has not decided."""
        return {key for (key,) in self._database.execute("SELECT path FROM results WHERE document IS NOT NULL")}

    def put(self, result: HandedOver) -> None:
        """Leave a result for the daemon."""
        handled = result.handled
        self._database.execute(
            "INSERT OR REPLACE INTO results (path, picked_at, size, mtime_ns, fingerprint, document, score_map) "
            "VALUES (?, ?, ?, ?, ?, ?, ?)",
            (
                *(result.key, result.picked_at, *handled.stamp, handled.fingerprint),
                *(encode_document(result.document), result.score_map),
            ),
        )

    def verdicts(self) -> list[Verdict]:
        """Take what the daemon has decided since the last call."""
        found = self._database.execute(
            "SELECT id, path, coalesce(picks, 0), coalesce(why, '') FROM results WHERE document IS NULL ORDER BY id"
        ).fetchall()
        if found:
            self._database.execute("DELETE FROM results WHERE document IS NULL AND id <= ?", (found[-1][0],))
        return [Verdict(key=key, picks=picks, refused=why) for _, key, picks, why in found]

    def answer(self) -> tuple[str, str]:
        """What the daemon says of the run: its generation, and why it takes nothing of it; empty where it has not."""
        return self._recall("answer"), self._recall("refusal")

    # --- of the daemon --------------------------------------------------------------------------------------------

    def say(self, generation: str, refusal: str) -> None:
        """Answer the run."""
        with transaction(self._database):
            self._remember("answer", generation)
            self._remember("refusal", refusal)

    def next(self) -> HandedOver | None:
        """The result that waits longest; None where none does. One that is none is refused."""
        while True:
            row = self._database.execute(
                "SELECT id, length(document) + coalesce(length(score_map), 0) FROM results "
                "WHERE document IS NOT NULL ORDER BY id LIMIT 1"
            ).fetchone()
            if row is None:
                return None
            if row[1] > _LARGEST_BYTES:
                self.decide(row[0], 0, f"it has {row[1]} bytes, of at most {_LARGEST_BYTES}")
                continue
            row = self._database.execute(
                "SELECT id, path, picked_at, size, mtime_ns, fingerprint, document, score_map FROM results "
                "WHERE id = ?",
                row[:1],
            ).fetchone()
            number, key, picked_at, size, mtime_ns, fingerprint, body, score_map = row
            with contextlib.suppress(ValueError, TypeError, RecursionError):
                document = decode_document(body)
                if isinstance(document, MicrographDocument):
                    return HandedOver(
                        id=number,
                        key=key,
                        picked_at=picked_at,
                        handled=Handled(stamp=FileStamp(size, mtime_ns), fingerprint=fingerprint),
                        document=document,
                        score_map=score_map,
                    )
            self.decide(number, 0, "it is damaged")

    def decide(self, number: int, picks: int, refused: str = "") -> None:
        """Note that a result was committed, or why not."""
        self._database.execute(
            "UPDATE results SET document = NULL, score_map = NULL, picks = ?, why = ? WHERE id = ?",
            (picks, refused, number),
        )

    def _recall(self, key: str) -> str:
        row = self._database.execute("SELECT value FROM meta WHERE key = ?", (key,)).fetchone()
        return "" if row is None else str(row[0])

    def _remember(self, key: str, value: str) -> None:
        self._database.execute("INSERT OR REPLACE INTO meta VALUES (?, ?)", (key, value))
