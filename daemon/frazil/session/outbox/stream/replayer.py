"""The replayer: "from sequence number N" out of the ledger, in pages, and no more of them than picking can spare."""

from __future__ import annotations

import contextlib
import logging
import os
import threading
import time
from pathlib import Path

import zmq

from frazil.errors import FrazilError, LedgerDamagedError, OutputError
from frazil.replay import ReplayError, decode_request
from frazil.session.outbox.ledger import LedgerReader
from frazil.session.outbox.stream.allowance import Allowance
from frazil.session.outbox.stream.pages import Pages, encode_answer
from frazil.session.outbox.stream.publisher import Publisher
from frazil.session.outbox.stream.reports import Reports

__all__ = ["Replayer"]

log = logging.getLogger(__name__)

PAGES_WAITING = 2
"""Pages kept for one client that does not read; what is beyond is dropped, and asked for again."""
REQUESTS_WAITING = 20
"""Requests kept of one client; what is beyond waits on its side. One of each client is answered in turn."""
_BUSY_SECONDS = 30.0
"""After a document was published, picking counts as busy for so long."""
_STALLED_SECONDS = 0.5
"""For so long nothing is read from the ledger for a client that takes no more answers."""
_STALLED_CLIENTS = 1000


class Replayer:
    """Answers requests at a bound ROUTER socket, which it owns while its thread runs.

    It reads through a connection of its own and so never holds up the pipeline. Documents that are committed but not
    yet published are not given out.

    Clients take turns, request by request. While picking is busy, all of them together get a small share of one core.

    Args:
        socket: configured and bound.
        reports: counts.
        ledger: its file.
        epoch, generation: identity of the ledger, and of this run of it.
        publisher: tells what was published.
    """

    def __init__(
        self,
        socket: zmq.Socket[bytes],
        reports: Reports,
        *,
        ledger: Path,
        epoch: str,
        generation: str,
        publisher: Publisher,
    ) -> None:
        self._socket = socket
        self._reports = reports
        self._file = ledger
        self._publisher = publisher
        self._pages = Pages(reports, epoch=epoch, generation=generation, published=lambda: publisher.published)
        self._stalled: dict[bytes, float] = {}
        self._ending = threading.Event()
        self._ended = threading.Event()
        self._wake = os.eventfd(0)

    def run(self) -> None:
        """Answer, until told to stop."""
        allowance = Allowance()
        poller = zmq.Poller()
        poller.register(self._socket, zmq.POLLIN)
        poller.register(self._wake, zmq.POLLIN)
        with contextlib.ExitStack() as opened:
            ledger: LedgerReader | None = None
            while True:
                is_busy = time.monotonic() - self._publisher.published_at < _BUSY_SECONDS
                if self._ending.wait(allowance.debt_seconds(is_busy=is_busy)):
                    break
                if self._socket in dict(poller.poll()):
                    ledger = ledger or self._open(opened)
                    self._reports.count_request(self._answer(ledger))
        self._ended.set()

    def stop(self) -> None:
        """Have it end, and wait until it has left the socket."""
        self._ending.set()
        os.eventfd_write(self._wake, 1)
        self._ended.wait()

    def _open(self, opened: contextlib.ExitStack) -> LedgerReader | None:
        try:
            return opened.enter_context(LedgerReader(self._file))
        except OutputError as error:
            self._note(error)
            return None

    def _note(self, error: FrazilError) -> None:
        log.warning("cannot answer a replay request: %s", error)
        if isinstance(error, LedgerDamagedError):
            self._reports.note_ledger_damage(str(error))

    def _answer(self, ledger: LedgerReader | None) -> str:
        """Answer one request; what became of it."""
        *envelope, body = self._socket.recv_multipart()
        if envelope[1:] not in ([], [b""]):  # what DEALER and REQ sockets put before a request
            return "malformed"
        now = time.monotonic()
        if self._stalled.get(envelope[0], 0.0) > now:
            return "undeliverable"
        try:
            request = decode_request(body)
        except (ValueError, RecursionError) as error:
            outcome, answer = "malformed", [encode_answer(ReplayError(error=f"expected a replay request: {error}"))]
        else:
            outcome, answer = "failed", [encode_answer(ReplayError(error="the ledger cannot be read at present"))]
            if ledger is not None:
                try:
                    outcome, answer = "answered", self._pages.page(ledger, request)
                except FrazilError as error:
                    self._note(error)
        try:
            self._socket.send_multipart([*envelope, *answer], zmq.NOBLOCK)
        except zmq.ZMQError:  # it reads nothing, or has gone
            if len(self._stalled) >= _STALLED_CLIENTS:
                self._stalled.clear()
            self._stalled[envelope[0]] = now + _STALLED_SECONDS
            return "undeliverable"
        self._reports.count(replayed=len(answer) - 1)
        return outcome
