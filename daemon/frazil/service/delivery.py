"""Delivery: what the ledger holds goes out as files and as messages, in the order of its sequence."""

from __future__ import annotations

import logging
import sqlite3
import threading
from pathlib import Path

import numpy as np

from frazil.documents import MODEL_TOPIC, PICKS_TOPIC, MicrographDocument, ModelDocument, decode_document
from frazil.errors import OutputError
from frazil.picking import Picks, micrograph_stem, write_star
from frazil.service.ledger import Ledger
from frazil.service.metrics import Metrics
from frazil.service.patience import Patience, ToldToStopError
from frazil.service.publisher import Publisher

__all__ = ["Delivery", "prepare_output", "star_path"]

log = logging.getLogger(__name__)


class Delivery:
    """Writes the STAR file and sends the document of one ledger entry after the other.

    The file is there before the message says so. While files cannot be written (a full disk), it waits and
    tries again: nothing is dropped, the queues before it fill, and it goes on by itself.

    Attributes:
        patience: with which files, and entries in the ledger, are written.
    """

    def __init__(
        self, ledger: Ledger, publisher: Publisher, metrics: Metrics, root: Path, out: Path, stop: threading.Event
    ) -> None:
        self._ledger = ledger
        self._publisher = publisher
        self._root = root
        self._out = out
        self._given_up = False
        self.patience = Patience(metrics, stop, self.send_heartbeat)

    def catch_up(self) -> None:
        """Deliver everything that was committed and may not have been delivered."""
        if self._given_up:
            return
        for seq, body in self._ledger.undelivered():
            document = decode_document(body)
            if isinstance(document, ModelDocument):
                self._send(seq, body, MODEL_TOPIC)
            elif isinstance(document, MicrographDocument) and not self.deliver(seq, body, document):
                return

    def deliver(self, seq: int, body: bytes, document: MicrographDocument) -> bool:
        """Deliver one entry; False when told to stop before its file, or an earlier one, could be written."""
        if self._given_up:
            return False
        path = Path(document.path)
        relative = path.relative_to(self._root) if path.is_relative_to(self._root) else Path(path.name)
        picks = Picks(
            y=np.array(document.picks.y, np.float64),
            x=np.array(document.picks.x, np.float64),
            score=np.array(document.picks.score, np.float64),
        )
        file = star_path(self._out, relative)
        try:
            self.patience.insist(str(file), lambda: _write(file, picks))
        except ToldToStopError:
            self._given_up = True  # what follows must not overtake it: all of it goes out after the next start
            return False
        self._send(seq, body, PICKS_TOPIC)
        return True

    def _send(self, seq: int, body: bytes, topic: bytes) -> None:
        log.debug("sending %d", seq)
        self._publisher.send_document(body, topic)
        try:
            self._ledger.mark_delivered(seq)
        except sqlite3.Error as error:
            log.warning("delivery of %d cannot be noted (%s): after a restart it may be repeated", seq, error)

    def send_heartbeat(self) -> None:
        """Tell subscribers that the stream lives."""
        self._publisher.send_heartbeat(self._ledger.epoch, self._ledger.head)


def _write(file: Path, picks: Picks) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    write_star(file, picks)


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
