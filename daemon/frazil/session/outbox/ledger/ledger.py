"""The daemon's ledger: results, numbers, and what is known of every micrograph.

A result and its sequence number are committed in one transaction, durably, before anything is sent; what was
committed but perhaps not delivered is delivered again after a restart. So nothing is lost, and a repeat carries
the same number.
"""

from __future__ import annotations

import contextlib
import logging
import os
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal
from uuid import uuid4

import msgspec

from frazil.documents import PickColumns, QualityDocument
from frazil.errors import OutputError
from frazil.session.outbox.file_stamp import FileStamp
from frazil.session.outbox.ledger.damage import LedgerStoppedError, explain, is_fatal
from frazil.session.outbox.ledger.edits import (
    AppliedEdits,
    StoredEdit,
    next_to_correct,
    note_granted,
    select_edits,
    select_uncorrected,
    store_applied,
)
from frazil.session.outbox.ledger.layout import HEAD, UNLIKE, checksum, claim, connect, transaction
from frazil.session.outbox.ledger.meta_keys import DELIVERED_KEY, EPOCH_KEY
from frazil.session.outbox.ledger.qualities import (
    QualityRecord,
    Unassessed,
    mark_unassessed,
    note_attempt,
    store_quality,
)
from frazil.session.outbox.ledger.reader import NEWEST_OF, KeptResult, StoredDocument
from frazil.session.outbox.ledger.witness import Generation, Witness

log = logging.getLogger(__name__)

__all__ = ["Handled", "Ledger", "Note"]

_KNOWN = (
    "state IN ('picked', 'quarantined') OR (state = 'gone' AND (seq IS NOT NULL OR reason != '')) "
    f"OR (state = 'waiting' AND reason = '{UNLIKE}')"
)
_AS_IT_WAS = f"CASE reason WHEN '' THEN 'picked' WHEN '{UNLIKE}' THEN 'waiting' ELSE 'quarantined' END"
_AT_ONCE = 100
_DOCUMENTS_AFTER = f"SELECT {StoredDocument.columns()} FROM documents WHERE seq > ? ORDER BY seq LIMIT ?"  # noqa: S608
_PAGES_AT_ONCE = 1000
_UNAWAITED = 0.0
"""Time of a request for which nobody waits."""
_ABSENT = (0, 0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Handled:
    """A micrograph that was picked or has failed."""

    stamp: FileStamp
    fingerprint: str
    """Hash of its size, header and sampled blocks; empty where it could not be read."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Note:
    """What the intake has to say of a micrograph that is not yet picked."""

    key: str
    stamp: FileStamp
    state: Literal["seen", "waiting"]
    reason: str = ""
    message: str = ""


class Ledger:
    """An open ledger; one daemon at a time holds it. Its methods may be called from any thread.

    All of them raise `sqlite3.Error` when the ledger cannot be written; then nothing of the call is in it.

    A commit gives a document the next sequence number, which it returns. To every commit, `key` is the path of a
    micrograph below the watched directory, `handled` the stamp and fingerprint of its file, `body_at` makes the
    document for an epoch and a sequence number, and `remember` is a key and value to remember in the same transaction.

    Args:
        file: made if missing.
        witness: knows from elsewhere how far the ledger had come; numbers that it knows are not given out again.

    Attributes:
        epoch: identity of this ledger: sequence numbers of different epochs have nothing to do with each other.
        generation: identity of this run of it: history may have been lost between two of them, never within one.
        fault: why it takes nothing more: it is damaged, gone or replaced; None while all is well.

    Raises:
        LedgerDamagedError: it is damaged.
        OutputError: the file cannot be made, is no ledger, or is in use by another daemon.
    """

    def __init__(self, file: Path, witness: Witness | None = None) -> None:
        self.file = file
        self.fault: OutputError | None = None
        self._witness = witness
        self._lock = threading.Lock()
        self._claim = claim(file)
        try:
            self._database = connect(file)
        except OutputError:
            self._claim.close()
            raise
        try:
            self.epoch = self.recall(EPOCH_KEY)
            if not self.epoch:
                raise LedgerStoppedError("it does not say its epoch")
            self._head = int(self._database.execute(HEAD).fetchone()[0])
            self.generation = self._begin_generation()
            # A descriptor that only names the file: it tells when that was deleted, and closing it frees no lock.
            self._named = open(file, "rb", buffering=0, opener=_name_only)  # noqa: SIM115 - Path.open has no opener
            self._identities = {
                place: _identity(place)
                for place in (file, *(file.with_name(f"{file.name}{e}") for e in ("-wal", "-shm")))
            }
        except BaseException as error:
            self._database.close()
            self._claim.close()
            if isinstance(error, sqlite3.Error):
                raise explain(file, error) from error
            raise

    @property
    def head(self) -> int:
        """The newest sequence number; 0 before the first."""
        return self._head

    def _begin_generation(self) -> str:
        """Note that a run begins, whose first number is beyond all that were ever given out."""
        known = tuple(
            Generation(*row) for row in self._database.execute("SELECT id, first FROM generations ORDER BY number")
        )
        witness, head = self._witness, self._head
        added: tuple[Generation, ...] = ()
        if witness is not None and witness.epoch == self.epoch:
            self._head = max(head, witness.seq)
            # Runs that the ledger forgot but whose numbers are not used again: their subscribers go on where they are.
            if known == witness.generations[: len(known)] or not known:
                added = witness.generations[len(known) :]
        begun = Generation(uuid4().hex[:12], self._head + 1)
        with transaction(self._database):
            self._database.executemany(
                "INSERT INTO generations (id, first) VALUES (?, ?)", [(g.id, g.first) for g in (*added, begun)]
            )
        if self._head > head:
            log.warning(
                "%s: expected documents up to number %d, found them up to %d: it was restored from an older copy, or "
                "lost its newest part. What is lacking is picked again, from number %d on",
                self.file,
                self._head,
                head,
                begun.first,
            )
        elif witness is not None and witness.epoch not in ("", self.epoch):
            log.warning(
                "%s: the results here came from another ledger, with %d documents: this one numbers its own from %d on",
                self.file,
                witness.seq,
                begun.first,
            )
        if witness is not None:
            witness.begin(self.epoch, self._head, (*known, *added, begun))
        return begun.id

    # --- is it still there ----------------------------------------------------------------------------------------

    def look(self) -> None:
        """Look whether the file in its place is still this ledger, as this process left it. It is cheap.

        Raises:
            LedgerDamagedError: it is damaged.
            OutputError: it was deleted, replaced or written over.
        """
        with self._lock:
            self._look_at_places()
            self._look_inside()
            if self.fault is not None:
                raise self.fault

    def rescue(self, progress: Callable[[], None] = lambda: None) -> str:
        """Save what only this process can still read, after `look` found the file gone.

        Args:
            progress: is called again and again meanwhile.

        Returns:
            Where it is, as the end of a sentence; empty where nothing was to be saved.
        """
        if _identity(self.file) == self._identities[self.file]:
            # The files beside it are what is gone; what they held belongs into the ledger.
            with self._lock, contextlib.suppress(sqlite3.Error):
                self._database.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
            return ""
        if os.fstat(self._named.fileno()).st_nlink:
            return f"it is now {Path(f'/proc/self/fd/{self._named.fileno()}').readlink()}"
        saved = self.file.with_name(f"{self.file.name}.{datetime.now(UTC):%Y%m%dT%H%M%S}.bak")
        try:
            saved.parent.mkdir(parents=True, exist_ok=True)
            with self._lock, closing(sqlite3.connect(saved)) as copy:
                self._database.backup(copy, pages=_PAGES_AT_ONCE, progress=lambda *_: progress())
        except (sqlite3.Error, OSError) as error:
            return f"what it held cannot be saved in {saved}: {error}"
        return f"what it held is saved in {saved}"

    def _look_at_places(self) -> None:
        if self.fault is not None:
            return
        for place, identity in self._identities.items():
            found = _identity(place)
            if found not in (identity, None):
                what = "it was deleted" if found == _ABSENT else "another file is in its place"
                self.fault = OutputError(f"{place}: expected the ledger's own file, found that {what} while frazil ran")
                return

    def _look_inside(self) -> None:
        """Read through a new connection what only this run wrote: the file may have been written over in its place."""
        if self.fault is not None:
            return
        try:
            with closing(sqlite3.connect(f"{self.file.absolute().as_uri()}?mode=ro", uri=True, timeout=0)) as again:
                newest = again.execute("SELECT id FROM generations ORDER BY number DESC LIMIT 1").fetchone()
                head = int(again.execute(HEAD).fetchone()[0])
        except sqlite3.Error as error:
            if is_fatal(error):
                self.fault = explain(self.file, error)
            return
        if newest != (self.generation,) or head < self._head:
            self.fault = OutputError(f"{self.file}: expected the ledger as this daemon left it, found it written over")

    # --- what is known --------------------------------------------------------------------------------------------

    def known(self) -> dict[str, FileStamp]:
        """Stamps of all micrographs that need no look while they do not change, by key."""
        with self._reading():
            rows = self._database.execute(f"SELECT path, size, mtime_ns FROM micrographs WHERE {_KNOWN}")  # noqa: S608
            sizes: dict[int, int] = {}  # files of one camera are of one size: it is held once
            return {key: FileStamp(sizes.setdefault(size, size), mtime_ns) for key, size, mtime_ns in rows}

    def knows_any(self) -> bool:
        """Whether it knows any micrograph."""
        with self._reading():
            return self._database.execute("SELECT 1 FROM micrographs LIMIT 1").fetchone() is not None

    def missing(self) -> list[str]:
        """Paths of micrographs that are gone."""
        with self._reading():
            return [key for (key,) in self._database.execute("SELECT path FROM micrographs WHERE state = 'gone'")]

    def held(self) -> list[str]:
        """Keys of the micrographs that are held, since they are unlike their session's."""
        with self._reading():
            rows = self._database.execute(
                "SELECT path FROM micrographs WHERE state IN ('waiting', 'gone') AND reason = ?", (UNLIKE,)
            )
            return [key for (key,) in rows]

    def fingerprint(self, key: str) -> str | None:
        """Fingerprint of the file that was handled under this key; None if none was."""
        with self._reading():
            row = self._database.execute(
                f"SELECT fingerprint FROM micrographs WHERE path = ? AND ({_KNOWN})",  # noqa: S608
                (key,),
            ).fetchone()
        return None if row is None else row[0]

    def first_with_result(self, keys: Sequence[str]) -> str | None:
        """The first of these keys that has a result; None if none has."""
        marks = ", ".join("?" * len(keys))
        with self._reading():
            row = self._database.execute(
                f"SELECT path FROM micrographs WHERE path IN ({marks}) AND seq IS NOT NULL ORDER BY seq LIMIT 1",  # noqa: S608
                keys,
            ).fetchone()
        return None if row is None else str(row[0])

    def results_after(self, seq: int, keys: Sequence[str]) -> set[str]:
        """Those of these keys whose newest result has a higher sequence number."""
        marks = ", ".join("?" * len(keys))
        with self._reading():
            rows = self._database.execute(
                f"SELECT path FROM micrographs WHERE path IN ({marks}) AND seq > ?",  # noqa: S608
                (*keys, seq),
            )
            return {key for (key,) in rows}

    def given_up_after(self, seq: int) -> set[str]:
        """Keys of the micrographs that were given up with a document of a higher sequence number."""
        with self._reading():
            rows = self._database.execute(
                "SELECT path FROM documents d JOIN micrographs m USING (path) "
                "WHERE d.topic = 'failed' AND d.seq > ? AND m.state = 'quarantined'",
                (seq,),
            )
            return {key for (key,) in rows}

    def attempts(self, key: str) -> int:
        """How often picking a micrograph has failed since it was found."""
        with self._reading():
            row = self._database.execute(
                "SELECT attempts FROM micrographs WHERE path = ? AND state IN ('seen', 'waiting', 'failed')", (key,)
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
                [(n.key, n.state, n.stamp.size, n.stamp.mtime_ns, n.reason, n.message, now) for n in notes],
            )

    def note_gone(self, keys: Sequence[str]) -> None:
        """Note that files are no longer there."""
        with self._writing(durably=False):
            self._database.executemany("UPDATE micrographs SET state = 'gone' WHERE path = ?", [(key,) for key in keys])

    def note_returned(self, keys: Sequence[str]) -> None:
        """Note that files are there again, as they were."""
        with self._writing(durably=False):
            self._database.executemany(
                f"UPDATE micrographs SET state = {_AS_IT_WAS} WHERE path = ? AND state = 'gone' AND ({_KNOWN})",  # noqa: S608
                [(key,) for key in keys],
            )

    def restamp(self, key: str, stamp: FileStamp) -> None:
        """Record that a file was touched but holds what it held."""
        with self._writing(durably=False):
            self._database.execute(
                f"UPDATE micrographs SET size = ?, mtime_ns = ?, state = {_AS_IT_WAS} WHERE path = ? AND ({_KNOWN})",  # noqa: S608
                (stamp.size, stamp.mtime_ns, key),
            )

    # --- results --------------------------------------------------------------------------------------------------

    def commit_picked(
        self,
        key: str,
        handled: Handled,
        body_at: Callable[[str, int, int], bytes],
        *,
        score_map: bytes | None = None,
        complete_at_unix: float | None = None,
        applied: AppliedEdits | None = None,
        remember: tuple[str, str] | None = None,
    ) -> tuple[int, bytes]:
        """Commit a result; returns its sequence number and the document.

        `body_at` is told also the number of the result that this one supersedes (0: none). The score map, what the
        model said of the micrograph, is kept, and when the file was known to be complete, in seconds of Unix time.
        `applied` are the edits that are in the result, which do not wait any more.
        """
        now = time.time()
        with self._writing():
            seq = self._head + 1
            row = self._database.execute("SELECT seq FROM micrographs WHERE path = ?", (key,)).fetchone()
            older: int = (row[0] or 0) if row else 0
            body = body_at(self.epoch, seq, older)
            self._database.execute(
                "INSERT INTO documents (seq, topic, path, body, committed_at, checksum) VALUES (?, ?, ?, ?, ?, ?)",
                (seq, "picks", key, body, now, checksum(body)),
            )
            self._supersede(older, seq, score_map)
            mark_unassessed(self._database, key, seq)
            if applied is not None:
                store_applied(self._database, key, seq, applied)
            self._record(key, handled, "picked", "", "")
            self._database.execute(
                "UPDATE micrographs SET seq = ?, complete_at = ?, picked_at = ?, published_at = NULL WHERE path = ?",
                (seq, complete_at_unix, now, key),
            )
            if remember is not None:
                self._database.execute("INSERT OR REPLACE INTO meta VALUES (?, ?)", remember)
        self._head = seq
        return seq, body

    def commit_revision(
        self,
        key: str,
        older: int,
        body_at: Callable[[str, int], bytes],
        *,
        score_map: bytes | None,
        applied: AppliedEdits | None = None,
        remember: tuple[str, str] | None = None,
    ) -> int:
        """Commit other picks from the same scores: all else that is known of the micrograph stays as it is.

        The result supersedes the one with the number `older`, and has its score map from now on. `applied` are the
        edits that are in it.
        """
        with self._writing():
            seq = self._insert("picks", key, body_at)
            self._supersede(older, seq, score_map)
            mark_unassessed(self._database, key, seq)
            if applied is not None:
                store_applied(self._database, key, seq, applied)
            self._database.execute(
                "UPDATE micrographs SET seq = ?, published_at = NULL WHERE path = ? AND seq = ?", (seq, key, older)
            )
            # Whether its file can be written is found out anew.
            self._database.execute(
                "UPDATE micrographs SET state = CASE state WHEN 'quarantined' THEN 'picked' ELSE state END, "
                "reason = '', message = '' WHERE path = ? AND reason = 'output'",
                (key,),
            )
            if remember is not None:
                self._database.execute("INSERT OR REPLACE INTO meta VALUES (?, ?)", remember)
        self._head = seq
        return seq

    def commit_failed(
        self,
        key: str,
        handled: Handled,
        reason: str,
        message: str,
        state: Literal["failed", "quarantined"],
        body_at: Callable[[str, int], bytes],
    ) -> int:
        """Record that picking a micrograph failed, for a reason in a word and a message in a line.

        It is tried again (``failed``) or not (``quarantined``).
        """
        with self._writing():
            seq = self._insert("failed", key, body_at)
            self._record(key, handled, state, reason, message)
        self._head = seq
        return seq

    def commit_unwritten(self, seq: int, reason: str, message: str, body_at: Callable[[str, int], bytes]) -> bool:
        """Record that a result cannot be written as a file: its micrograph is quarantined, its picks stay.

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

    def commit_quality(
        self,
        key: str,
        document: QualityDocument,
        fingerprint: str,
        body_at: Callable[[str, int], bytes],
    ) -> int:
        """Commit an assessment in place of the one that it supersedes; `fingerprint` is that of the file that was
        looked at.
        """
        with self._writing():
            seq = self._insert("quality", key, body_at)
            self._database.execute("UPDATE documents SET superseded_by = ? WHERE seq = ?", (seq, document.supersedes))
            numbered = msgspec.structs.replace(document, seq=seq)
            store_quality(self._database, QualityRecord.of_document(numbered, key, fingerprint))
        self._head = seq
        return seq

    def note_unassessed(self, found: Unassessed, *, is_last: bool) -> None:
        """Note that some picks could not be assessed; after the last attempt they are not tried again."""
        with self._writing(durably=False):
            note_attempt(self._database, found, is_last=is_last)

    def commit_document(
        self,
        topic: str,
        body_at: Callable[[str, int], bytes],
        *,
        remember: tuple[str, str] | None = None,
        requeue: bool = False,
    ) -> int:
        """Commit a document that is about no micrograph, under a topic of the stream.

        With `requeue` all that is picked is to be picked again, for which nobody waits.
        """
        with self._writing():
            seq = self._insert(topic, "", body_at)
            if requeue:
                self._database.execute(
                    "INSERT INTO requests (path, made_at) SELECT path, ? FROM micrographs WHERE state = 'picked' "
                    "ORDER BY picked_at DESC",
                    (_UNAWAITED,),
                )
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

    def note_given_out(self, seq: int) -> None:
        """Have the witness know a number before anybody else does."""
        if self._witness is not None:
            self._witness.note(seq)

    def undelivered(self) -> Iterator[StoredDocument]:
        """All that may not have been delivered, in order."""
        seq = self.delivered()
        while documents := self.documents_after(seq):
            yield from documents
            seq = documents[-1].seq

    def delivered(self) -> int:
        """The sequence number up to which all is known to be out; where that is damaged, all goes out again."""
        text = self.recall(DELIVERED_KEY)
        return int(text) if text.isdecimal() else 0

    def documents_after(self, seq: int) -> list[StoredDocument]:
        """The next documents after a sequence number; none at the end."""
        with self._reading():
            rows = self._database.execute(_DOCUMENTS_AFTER, (seq, _AT_ONCE)).fetchall()
        return [StoredDocument.of(row) for row in rows]

    def stop(self, fault: OutputError) -> None:
        """Take nothing more."""
        self.fault = self.fault or fault

    # --- requests and odds ----------------------------------------------------------------------------------------

    def requeued(self) -> list[str]:
        """Keys of the micrographs that have a result, and are to be picked again."""
        with self._reading():
            rows = self._database.execute("SELECT path FROM micrographs WHERE state = 'seen' AND seq IS NOT NULL")
            return [key for (key,) in rows]

    def take_requests(self) -> dict[str, bool]:
        """Grant the requests to pick micrographs again; each counts as new from now on.

        Returns:
            Whether somebody waits for it, by key, in the order of the requests.
        """
        with self._reading():  # a look costs no transaction
            if self._database.execute("SELECT 1 FROM requests LIMIT 1").fetchone() is None:
                return {}
        with self._writing():
            rows = self._database.execute("SELECT path, max(made_at) FROM requests GROUP BY path ORDER BY min(id)")
            keys = {path: made_at > _UNAWAITED for path, made_at in rows}
            self._database.execute("DELETE FROM requests")
            self._database.executemany(
                "UPDATE micrographs SET state = 'seen', fingerprint = '', reason = '', message = '', attempts = 0 "
                "WHERE path = ?",
                [(key,) for key in keys],
            )
        return keys

    def edits(self, key: str) -> list[StoredEdit]:
        """The edits of a micrograph, in the order in which they were left."""
        with self._reading():
            return select_edits(self._database, key)

    def next_to_correct(self) -> str | None:
        """The micrograph with a result whose edits have waited longest; None where none waits."""
        with self._reading():
            return next_to_correct(self._database)

    def set_edits_aside(self, key: str, seq: int, number: int) -> None:
        """Note that edits up to a number wait no more: their result cannot be read, and the next one will have them."""
        with self._writing():
            note_granted(self._database, key, seq, number)

    def uncorrected(self, seq: int) -> PickColumns | None:
        """The picks of a result without edits; None where there are none in it, or nothing was kept."""
        with self._reading():
            return select_uncorrected(self._database, seq)

    def result(self, key: str) -> KeptResult | None:
        """The newest result of a micrograph with its score map; None where there is none."""
        with self._reading():
            row = self._database.execute(KeptResult.statement(NEWEST_OF), (key,)).fetchone()
        return None if row is None else KeptResult.of(row)

    def recall(self, key: str) -> str:
        """The value remembered under a key; empty if there is none."""
        with self._reading():
            row = self._database.execute("SELECT value FROM meta WHERE key = ?", (key,)).fetchone()
        return "" if row is None else str(row[0])

    def remember(self, key: str, value: str) -> None:
        """Remember a value under a key."""
        with self._writing(durably=False):
            self._database.execute("INSERT OR REPLACE INTO meta VALUES (?, ?)", (key, value))

    def grant(self, request: tuple[str, str], remember: tuple[str, str]) -> None:
        """Remember what was made of a request, and forget the request, unless it was added to meanwhile."""
        with self._writing():
            self._database.execute("DELETE FROM meta WHERE key = ? AND value = ?", request)
            self._database.execute("INSERT OR REPLACE INTO meta VALUES (?, ?)", remember)

    def close(self) -> None:
        """Close the database and let others have it."""
        with self._lock:
            if self.fault is None:
                with contextlib.suppress(
                    sqlite3.Error
                ):  # of what others read at present, it stays in the log beside it
                    self._database.execute("PRAGMA wal_checkpoint(PASSIVE)")
            self._database.close()
            self._named.close()
            self._claim.close()

    def _insert(self, topic: str, key: str, body_at: Callable[[str, int], bytes]) -> int:
        seq = self._head + 1
        body = body_at(self.epoch, seq)
        self._database.execute(
            "INSERT INTO documents (seq, topic, path, body, committed_at, checksum) VALUES (?, ?, ?, ?, ?, ?)",
            (seq, topic, key, body, time.time(), checksum(body)),
        )
        return seq

    def _supersede(self, older: int, seq: int, score_map: bytes | None) -> None:
        self._database.execute("UPDATE documents SET superseded_by = ? WHERE seq = ?", (seq, older))
        self._database.execute("DELETE FROM score_maps WHERE seq = ?", (older,))
        self._database.execute("DELETE FROM uncorrected_picks WHERE seq = ?", (older,))
        if score_map is not None:
            self._database.execute("INSERT INTO score_maps VALUES (?, ?)", (seq, score_map))

    @contextmanager
    def _reading(self) -> Iterator[None]:
        """The one connection, for one thread at a time."""
        with self._lock:
            try:
                if self.fault is not None:
                    raise LedgerStoppedError(str(self.fault))
                yield
            except sqlite3.Error as error:
                if self.fault is None and is_fatal(error):
                    self.fault = explain(self.file, error)
                raise

    @contextmanager
    def _writing(self, *, durably: bool = True) -> Iterator[None]:
        """One transaction; without `durably` a loss of power may undo it, but neither order nor what is older."""
        with self._reading():
            if durably:
                self._look_at_places()  # no number is given out from a ledger that nobody will find again
                if self.fault is not None:
                    raise LedgerStoppedError(str(self.fault))
            self._database.execute(f"PRAGMA synchronous={'FULL' if durably else 'NORMAL'}")
            with transaction(self._database):
                yield

    def _record(self, key: str, handled: Handled, state: str, reason: str, message: str) -> None:
        self._database.execute(
            "INSERT INTO micrographs (path, state, size, mtime_ns, fingerprint, reason, message, attempts, seen_at) "
            "VALUES (?, ?, ?, ?, ?, ?, ?, 1, ?) ON CONFLICT (path) DO UPDATE SET attempts = "
            "CASE WHEN state IN ('seen', 'waiting', 'failed') THEN attempts + 1 ELSE 1 END, "
            "state = excluded.state, size = excluded.size, mtime_ns = excluded.mtime_ns, "
            "fingerprint = excluded.fingerprint, reason = excluded.reason, message = excluded.message",
            (key, state, *handled.stamp, handled.fingerprint, reason, message, time.time()),
        )


def _name_only(path: str, _flags: int) -> int:
    return os.open(path, os.O_PATH | os.O_CLOEXEC)


def _identity(place: Path) -> tuple[int, int] | None:
    """What file is in a place; None where that cannot be told at present."""
    try:
        found = place.stat()
    except FileNotFoundError:
        return _ABSENT
    except OSError:
        return None
    return found.st_dev, found.st_ino
