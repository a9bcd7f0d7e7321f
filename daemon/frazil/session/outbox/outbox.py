"""Delivery: what the ledger holds goes out as files and as messages, in the order of its sequence."""

from __future__ import annotations

import logging
import sqlite3
import threading
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TypeVar

import msgspec

from frazil.documents import FailedDocument, MicrographDocument, encode_document, now_rfc3339, topic_of
from frazil.errors import MicrographError
from frazil.health.heartbeat import Beat, unwatched
from frazil.health.logs import event
from frazil.health.metrics import Metrics
from frazil.outputs import OutputFolder
from frazil.picking import Picks, write_star
from frazil.session.outbox.ledger import Ledger, StoredDocument
from frazil.session.outbox.retry import Patience, ToldToStopError
from frazil.session.outbox.stream import Stream

__all__ = ["Delivery"]

log = logging.getLogger(__name__)

T = TypeVar("T")


class Delivery:
    """Writes the STAR file and sends the document of one ledger entry after the other, in their order.

    The file is there before the message says so. While no file can be written (a full disk), it waits and tries again:
    nothing is dropped, the queues before it fill, and it goes on by itself. Where only this one cannot be written, its
    message goes out all the same, since the result was committed, and another document after it says what failed.

    Attributes:
        patience: with which files, and entries in the ledger, are written.
    """

    def __init__(
        self,
        ledger: Ledger,
        stream: Stream,
        metrics: Metrics,
        root: Path,
        out: Path,
        stop: threading.Event,
        beat: Beat = unwatched,
    ) -> None:
        self._ledger = ledger
        self._stream = stream
        self._metrics = metrics
        self._root = root
        self._outputs = OutputFolder(out)
        self._given_up = False
        self._delivered = 0
        self._beat = beat
        self.patience = Patience(metrics, stop, beat)

    def catch_up(self) -> bool:
        """Deliver everything that was committed, by whomever, and perhaps not delivered.

        Returns:
            False when told to stop before a file could be written: what is left goes out after the next start.
        """
        if self._given_up:
            return False
        head = self._ledger.head
        if self._delivered == head:
            return True
        try:
            # Where it is out but that could not be noted, the ledger says less than is known here.
            after = max(self._delivered, self._ask(self._ledger.delivered))
            while documents := self._ask(partial(self._ledger.documents_after, after)):
                for stored in documents:
                    self._deliver(stored)
                    self._delivered = after = stored.seq
        except ToldToStopError:
            self._given_up = True  # what follows must not overtake it
            return False
        self._delivered = max(self._delivered, head)
        return True

    def _ask(self, read: Callable[[], T]) -> T:
        return self.patience.insist(str(self._ledger.file), read)

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
            self._stream.publish(seq, topic_of(document), stored.body)
        try:
            self._ledger.mark_delivered(seq)
        except sqlite3.Error as error:
            log.warning("delivery of %d cannot be noted (%s): after a restart it may be repeated", seq, error)

    def _write_picks(self, seq: int, document: MicrographDocument) -> None:
        path = Path(document.path)
        below = Path(document.directory, document.micrograph)  # an earlier run may have had another name for the root
        relative = path.relative_to(self._root) if path.is_relative_to(self._root) else below
        y, x, score = document.picks.arrays()
        picks, file = Picks(y=y, x=x, score=score), self._outputs.file_of(relative)
        try:
            self.patience.insist(
                str(file),
                lambda: self._outputs.write(
                    path, file, lambda place: write_star(place, picks, micrograph=document.micrograph)
                ),
            )
        except MicrographError as error:
            self._note_unwritten(seq, document, error)

    def _note_unwritten(self, seq: int, document: MicrographDocument, error: MicrographError) -> None:
        """Commit that a result has no file, before its message goes out: so it is known whenever this process ends."""
        failed = FailedDocument(
            epoch="",
            seq=0,
            micrograph=document.micrograph,
            path=document.path,
            directory=document.directory,
            reason=error.reason,
            message=str(error),
            kind="permanent",
            failed_at=now_rfc3339(),
        )
        is_news = self.patience.insist(
            str(self._ledger.file),
            lambda: self._ledger.commit_unwritten(
                seq,
                error.reason,
                str(error),
                lambda epoch, number: encode_document(msgspec.structs.replace(failed, epoch=epoch, seq=number)),
            ),
        )
        if is_news:
            told = event("failed", micrograph=document.path, reason=error.reason, seq=seq)
            log.warning("failed (%s), sequence number %d: %s", error.reason, seq, error, extra=told)
            self._metrics.micrographs.labels(outcome="failed", reason=error.reason).inc()
