"""Delivery: what the ledger holds goes out as files and as messages, in the order of its sequence."""

from __future__ import annotations

import logging
import sqlite3
import threading
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TypeVar

from frazil.documents import MicrographDocument, topic_of
from frazil.errors import OutputError
from frazil.picking import Picks, micrograph_stem, write_star
from frazil.service.ledger import Ledger, StoredDocument
from frazil.service.metrics import Metrics
from frazil.service.patience import Patience, ToldToStopError
from frazil.service.pulse import Beat, unwatched
from frazil.service.stream import Stream

__all__ = ["Delivery", "prepare_output", "star_path"]

log = logging.getLogger(__name__)

T = TypeVar("T")


class Delivery:
    """Writes the STAR file and sends the document of one ledger entry after the other, in their order.

    The file is there before the message says so. While files cannot be written (a full disk), it waits and
    tries again: nothing is dropped, the queues before it fill, and it goes on by itself.

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
        self._out = out
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
                self._write_picks(document)
            log.debug("sending %d", seq)
            self._ledger.note_given_out(seq)
            self._stream.publish(seq, topic_of(document), stored.body)
        try:
            self._ledger.mark_delivered(seq)
        except sqlite3.Error as error:
            log.warning("delivery of %d cannot be noted (%s): after a restart it may be repeated", seq, error)

    def _write_picks(self, document: MicrographDocument) -> None:
        path = Path(document.path)
        below = Path(document.directory, document.micrograph)  # an earlier run may have had another name for the root
        relative = path.relative_to(self._root) if path.is_relative_to(self._root) else below
        y, x, score = document.picks.arrays()
        picks, file = Picks(y=y, x=x, score=score), star_path(self._out, relative)
        self.patience.insist(str(file), lambda: _write(file, picks, document.micrograph))


def _write(file: Path, picks: Picks, micrograph: str) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    write_star(file, picks, micrograph=micrograph)


def star_path(out: Path, relative: Path) -> Path:
    """Where the picks of a micrograph go: the tree below `out` mirrors the watched one."""
    return out / relative.with_name(f"{micrograph_stem(relative.name)}_picks.star")


def prepare_output(out: Path) -> None:
    """Make the output directory and prove that it can be written.

    Raises:
        OutputError: it cannot.
    """
    probe = out / ".frazil-probe.tmp"
    try:
        out.mkdir(parents=True, exist_ok=True)
        probe.write_bytes(b"frazil")
        probe.unlink()
    except OSError as error:
        raise OutputError(f"{out}: expected a directory that can be written: {error.strerror}") from error
