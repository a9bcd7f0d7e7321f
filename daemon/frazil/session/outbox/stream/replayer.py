"""The replayer: "from sequence number N" out of a ledger, in pages, and no more of them than picking can spare."""

from __future__ import annotations

import logging
import os
import threading
import time
from collections import OrderedDict
from pathlib import Path

import zmq

from frazil.errors import FrazilError, LedgerDamagedError
from frazil.replay import CatalogRequest, ReplayError, ReplayRequest, decode_request, encode_answer
from frazil.session.outbox.ledger import LedgerReader
from frazil.session.outbox.stream.allowance import Allowance
from frazil.session.outbox.stream.channels import Channels
from frazil.session.outbox.stream.messages import ChannelState
from frazil.session.outbox.stream.pages import Pages
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
_OPEN_LEDGERS = 8
"""Ledgers that are kept open, those that were asked for last."""


class Replayer:
    """Answers requests at a bound ROUTER socket, which it owns while its thread runs.

    It reads through connections of its own and so never holds up the pipeline. Documents that are committed but not
    yet published are not given out.

    Clients take turns, request by request. While picking is busy, all of them together get a small share of one core.

    Args:
        socket: configured and bound.
        reports: counts.
        channels: the ledgers, and what was published of them.
        publisher: tells when a document was published.
    """

    def __init__(
        self,
        socket: zmq.Socket[bytes],
        reports: Reports,
        *,
        channels: Channels,
        publisher: Publisher,
    ) -> None:
        self._socket = socket
        self._reports = reports
        self._channels = channels
        self._publisher = publisher
        self._ledgers = _Ledgers(reports)
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
        self._channels.complete.wait()
        while True:
            is_busy = time.monotonic() - self._publisher.published_at < _BUSY_SECONDS
            if self._ending.wait(allowance.debt_seconds(is_busy=is_busy)):
                break
            if self._socket in dict(poller.poll()):
                self._reports.count_request(self._answer())
        self._ledgers.close()
        self._ended.set()

    def stop(self) -> None:
        """Have it end, and wait until it has left the socket."""
        self._ending.set()
        self._channels.complete.set()
        os.eventfd_write(self._wake, 1)
        self._ended.wait()

    def _answer(self) -> str:
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
            outcome, answer = "malformed", [_error(f"expected a replay request: {error}")]
        else:
            outcome, answer = self._answer_to(request)
        try:
            self._socket.send_multipart([*envelope, *answer], zmq.NOBLOCK)
        except zmq.ZMQError:  # it reads nothing, or has gone
            if len(self._stalled) >= _STALLED_CLIENTS:
                self._stalled.clear()
            self._stalled[envelope[0]] = now + _STALLED_SECONDS
            return "undeliverable"
        self._reports.count(replayed=len(answer) - 1)
        return outcome

    def _answer_to(self, request: ReplayRequest | CatalogRequest) -> tuple[str, list[bytes]]:
        """What becomes of a request, and the answer as frames."""
        try:
            if isinstance(request, CatalogRequest):
                return "answered", [encode_answer(self._channels.page(request))]
            channel = self._channels.of_session(request.session)
        except LookupError as error:
            return "malformed", [_error(str(error))]
        try:
            return "answered", self._ledgers.pages(channel).page(request)
        except FrazilError as error:
            log.warning("cannot answer a replay request: %s", error)
            if isinstance(error, LedgerDamagedError):
                self._reports.note_ledger_damage(channel.number, str(error))
            return "failed", [_error("the ledger cannot be read at present")]


class _Ledgers:
    """The ledgers that were asked for last, open."""

    def __init__(self, reports: Reports) -> None:
        self._reports = reports
        self._open: OrderedDict[int, tuple[LedgerReader, Pages]] = OrderedDict()

    def pages(self, channel: ChannelState) -> Pages:
        """Pages of a channel's ledger, which is opened if it is not.

        Raises:
            OutputError: it cannot be read.
        """
        if channel.number not in self._open:
            ledger = LedgerReader(Path(os.fsdecode(channel.ledger)))
            self._open[channel.number] = ledger, Pages(self._reports, channel, ledger)
            if len(self._open) > _OPEN_LEDGERS:
                self._open.popitem(last=False)[1][0].close()
        self._open.move_to_end(channel.number)
        return self._open[channel.number][1]

    def close(self) -> None:
        """Close them all."""
        while self._open:
            self._open.popitem()[1][0].close()


def _error(error: str) -> bytes:
    return encode_answer(ReplayError(error=error))
