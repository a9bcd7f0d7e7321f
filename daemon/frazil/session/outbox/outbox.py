"""The outbox: a document is numbered, committed durably, and then delivered as a file and as a message, in order.

Documents are delivered from the ledger, never from memory. If the process ends between commit and delivery, the next
process delivers the same document. No other module retries, encodes documents or delivers them.
"""

from __future__ import annotations

import logging
import sqlite3
import threading
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Literal, Protocol, TypeVar

import msgspec

from frazil.documents import (
    FailedDocument,
    MicrographDocument,
    NumberedDocument,
    QualityDocument,
    directory_of,
    encode_document,
    in_session,
    topic_of,
)
from frazil.errors import MicrographError
from frazil.faults import is_of_one_record, is_transient, reason_of
from frazil.health.heartbeat import Beat, no_heartbeat
from frazil.health.logs import event
from frazil.health.metrics import Metrics
from frazil.outputs import OutputFolder, namesakes
from frazil.paths import is_utf8
from frazil.picking import Picks, write_star
from frazil.record import record_failure
from frazil.session.correct.applying import correct_document
from frazil.session.outbox.ledger import AppliedEdits, Handled, Ledger, StoredDocument, is_fatal, whole_edits

__all__ = ["Messages", "Outbox", "Stopped"]

log = logging.getLogger(__name__)

_RETRY_SECONDS = 1.0

T = TypeVar("T")


class Stopped(Exception):
    """The daemon stops before a write or a delivery succeeded. The next start makes up for it."""


class Messages(Protocol):
    """Where messages go: a channel of the stream, or nowhere."""

    @property
    def session(self) -> str:
        """Name of the session; empty for the only one of a daemon."""

    def publish(self, seq: int, topic: bytes, body: bytes) -> None:
        """Send a committed document; never waits."""


class Outbox:
    """Commits documents to the ledger, then writes the pick file and sends the message of each, in their order.

    The pick file is written before its message is sent. While nothing can be written (a full disk), the outbox retries:
    no document is dropped, the queues before it fill, and it goes on by itself. If only one pick file cannot be
    written, its message is sent nevertheless, since the result is committed. A second document reports the failure.

    All but `waits_for` and `unwritten` belongs to one thread. Whatever it does with the ledger it retries; every method
    raises `Stopped` where the daemon stops meanwhile.

    Args:
        ledger: keeps the documents.
        channel: sends the messages, and names the session, if it has a name.
        metrics: counts failed files and damaged documents.
        root: the watched directory, by the name that the user gave it.
        out: directory of the pick files.
        stop: ends every retry.
        beat: called before each document is delivered, and after each failed attempt.

    Attributes:
        waits_for: the file that cannot be written at present, and why, in one line; empty while nothing is blocked.
        unwritten: number of results in this run whose pick file could not be written.
    """

    def __init__(
        self,
        ledger: Ledger,
        channel: Messages,
        metrics: Metrics,
        root: Path,
        out: Path,
        stop: threading.Event,
        beat: Beat = no_heartbeat,
    ) -> None:
        self._ledger = ledger
        self._channel = channel
        self._metrics = metrics
        self._root = root
        self._files = OutputFolder(out)
        self._given_up = False
        self._delivered = 0
        self._beat = beat
        self._stop = stop
        self.waits_for = ""
        self.unwritten = 0

    def commit(
        self,
        document: NumberedDocument,
        *,
        key: str = "",
        handled: Handled | None = None,
        revises: int = 0,
        score_map: bytes | None = None,
        complete_at_unix: float | None = None,
        remember: tuple[str, str] | None = None,
        requeue: bool = False,
        fingerprint: str = "",
        on_commit: Callable[[int], None] = lambda _: None,
    ) -> int:
        """Number a document, commit it durably and deliver it. Retry until this succeeds or the daemon stops.

        Args:
            document: a document without epoch, with sequence number 0. Its picks are those that model and limits give:
                all edits of the micrograph are applied to them here, and nowhere else.
            key: path of its micrograph below the watched directory; empty for a document about a model.
            handled: stamp and fingerprint of the file that was picked or has failed.
            revises: sequence number of the result that these picks replace; 0 for a file that was picked.
            score_map: packed score map to keep with the result; None to keep none.
            complete_at_unix: when the file was known to be complete, in seconds of Unix time.
            remember: key and value that the ledger remembers in the same transaction.
            requeue: whether all that is picked is to be picked again, with a document about a model.
            fingerprint: of the file that was looked at for an assessment.
            on_commit: called with the sequence number after the commit and before the delivery.

        Returns:
            The sequence number.

        Raises:
            Stopped: the daemon is stopping. A committed document is delivered after the next start.
            sqlite3.Error: the ledger cannot take this document, but can take others.
        """
        ledger, applied = self._ledger, None
        if isinstance(document, MicrographDocument):
            document, applied = self._correct(document, key)
        body_at = self._body_at(document)

        def write() -> int:
            match document:
                case MicrographDocument() if handled is not None:
                    return ledger.commit_picked(
                        key,
                        handled,
                        body_at,
                        score_map=score_map,
                        complete_at_unix=complete_at_unix,
                        applied=applied,
                        remember=remember,
                    )[0]
                case MicrographDocument():
                    return ledger.commit_revision(
                        key, revises, body_at, score_map=score_map, applied=applied, remember=remember
                    )
                case FailedDocument() if handled is not None:
                    state: Literal["failed", "quarantined"] = (
                        "failed" if document.kind == "transient" else "quarantined"
                    )
                    return ledger.commit_failed(key, handled, document.reason, document.message, state, body_at)
                case QualityDocument():
                    return ledger.commit_quality(key, document, fingerprint, body_at)
                case _:
                    return ledger.commit_document(
                        topic_of(document).decode(), body_at, remember=remember, requeue=requeue
                    )

        seq = self._retry(write)
        log.debug("committed %s", key or topic_of(document).decode())
        on_commit(seq)
        self.deliver()
        return seq

    def _correct(self, document: MicrographDocument, key: str) -> tuple[MicrographDocument, AppliedEdits | None]:
        """A document with the edits of its micrograph, and which these are; None where there are none."""
        edits = self._retry(lambda: self._ledger.edits(key))
        corrected = correct_document(document, whole_edits(edits))
        applied = AppliedEdits(number=edits[-1].number, uncorrected=document.picks) if edits else None
        return corrected, applied

    def fail(
        self,
        error: MicrographError,
        key: str,
        handled: Handled,
        *,
        max_attempts: int,
        on_commit: Callable[[int, bool], None] = lambda *_: None,
    ) -> None:
        """Commit that a micrograph could not be picked, as `commit` does.

        Args:
            error: the cause.
            key: path of the micrograph below the watched directory. Of one that is no UTF-8 the ledger knows nothing.
            handled: stamp and fingerprint of its file.
            max_attempts: number of attempts after which it is given up, though a retry might succeed.
            on_commit: called with the number of attempts, and whether it is retried.
        """
        if not is_utf8(key):
            on_commit(1, False)
            return
        attempt = 1 + self.attempts(key)
        is_retried = is_transient(error) and attempt < max_attempts
        document = record_failure(error, self._root / key, directory_of(key), attempts=attempt, is_transient=is_retried)
        self.commit(document, key=key, handled=handled, on_commit=lambda _: on_commit(attempt, is_retried))

    def check_namesakes(self, micrograph: Path, key: str) -> None:
        """Check that no other micrograph has a result whose pick file has the name of this one's.

        Raises:
            MicrographError: one has.
        """
        namesake = self._retry(lambda: self._ledger.first_with_result(namesakes(key)))
        if namesake is not None:
            raise MicrographError(
                micrograph,
                "name",
                f"expected a name of its own, found the name of {namesake}: one STAR file cannot hold both",
            )

    def remember(self, key: str, value: str) -> None:
        """Make the ledger remember a value."""
        self._retry(lambda: self._ledger.remember(key, value))

    def grant(self, request: tuple[str, str], remember: tuple[str, str]) -> None:
        """Delete a request (key and value) from the ledger, if it has not changed, and remember its result likewise."""
        self._retry(lambda: self._ledger.grant(request, remember))

    def attempts(self, key: str) -> int:
        """Number of failed attempts to pick a micrograph, by its path below the watched directory."""
        return self._retry(lambda: self._ledger.attempts(key))

    def deliver(self) -> None:
        """Deliver every document that was committed, by this or an earlier process, and perhaps not delivered.

        Where the daemon stops meanwhile, the others are delivered after the next start.
        """
        if self._given_up:
            raise Stopped
        head = self._ledger.head
        if self._delivered == head:
            return
        try:
            # The ledger may be behind: a delivery is not recorded if the ledger could not be written then.
            after = max(self._delivered, self._retry(self._ledger.delivered))
            while documents := self._retry(partial(self._ledger.documents_after, after)):
                for stored in documents:
                    self._deliver(stored)
                    self._delivered = after = stored.seq
        except Stopped:
            self._given_up = True  # later documents must not overtake this one
            raise
        self._delivered = max(self._delivered, head)

    def _retry(self, write: Callable[[], T], file: Path | None = None) -> T:
        """Write, and retry until it works.

        Args:
            write: writes everything or nothing; raises `OSError` only if waiting may help.
            file: the file that is written. Default: the ledger.

        Raises:
            Stopped: the daemon is stopping, or must stop because the ledger is damaged or gone.
            sqlite3.Error: this record cannot be written, but others can.
        """
        what, blocked = str(file or self._ledger.file), False
        while True:
            try:
                written = write()
            except (OSError, sqlite3.Error) as error:
                if is_fatal(error):
                    raise Stopped from error
                if is_of_one_record(error):
                    raise
                reason = reason_of(error) if isinstance(error, OSError) else str(error)
                if not blocked:
                    log.warning(
                        "cannot write %s (%s): picking waits until it can",
                        what,
                        reason,
                        extra=event("output_blocked", file=what, reason=reason),
                    )
                blocked = True
                self.waits_for = f"cannot write {what} ({reason}): picking waits until it can"
                self._beat()
                if self._stop.wait(_RETRY_SECONDS):
                    raise Stopped from error
            else:
                if blocked:
                    log.info("can write %s again: picking goes on", what, extra=event("output_free", file=what))
                    self.waits_for = ""
                return written

    def _deliver(self, stored: StoredDocument) -> None:
        seq = stored.seq
        self._beat(f"delivering document {seq}")
        document = stored.decode()
        if document is None:
            self._metrics.note_damaged(seq, stored.path)
        else:
            if isinstance(document, MicrographDocument):
                self._write_picks(seq, document)
            log.debug("sending %d", seq)
            self._ledger.note_given_out(seq)
            self._channel.publish(seq, topic_of(document), stored.body)
        try:
            self._ledger.mark_delivered(seq)
        except sqlite3.Error as error:
            log.warning("delivery of %d cannot be recorded (%s): after a restart it may be repeated", seq, error)

    def _write_picks(self, seq: int, document: MicrographDocument) -> None:
        path = Path(document.path)
        below = Path(document.directory, document.micrograph)  # an earlier run may have used another name of the root
        key = str(path.relative_to(self._root) if path.is_relative_to(self._root) else below)
        y, x, score = document.picks.arrays()
        picks, file = Picks(y=y, x=x, score=score), self._files.file_of(key)
        try:
            self._retry(
                lambda: self._files.write(
                    path, file, lambda place: write_star(place, picks, micrograph=document.micrograph)
                ),
                file,
            )
        except MicrographError as error:
            self._note_unwritten(seq, document, error)

    def _note_unwritten(self, seq: int, document: MicrographDocument, error: MicrographError) -> None:
        """Commit the failure of a pick file before the message of its result is sent, so that it is never lost."""
        body_at = self._body_at(record_failure(error, Path(document.path), document.directory))
        is_news = self._retry(lambda: self._ledger.commit_unwritten(seq, error.reason, str(error), body_at))
        if is_news:
            fields = event("failed", micrograph=document.path, reason=error.reason, seq=seq)
            log.warning("failed (%s), its result is number %d: %s", error.reason, seq, error, extra=fields)
            self._metrics.micrographs.labels(outcome="failed", reason=error.reason).inc()
            self.unwritten += 1

    def _body_at(self, document: NumberedDocument) -> Callable[..., bytes]:
        """What encodes a document, given its epoch and number, and the result that it supersedes if any does."""
        named = in_session(document, self._channel.session)

        def body_at(epoch: str, seq: int, supersedes: int | None = None) -> bytes:
            given = {} if supersedes is None else {"supersedes": supersedes}
            return encode_document(msgspec.structs.replace(named, epoch=epoch, seq=seq, **given))

        return body_at
