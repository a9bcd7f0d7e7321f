"""The replayer: "from sequence number N" out of the ledger, in pages, and no more of them than picking can spare."""

from __future__ import annotations

import contextlib
import logging
import os
import threading
import time
from pathlib import Path

import msgspec
import zmq

from frazil.documents import topic_of
from frazil.errors import FrazilError, LedgerDamagedError, OutputError
from frazil.replay import MAX_PAGE_BYTES, ReplayError, ReplayPage, ReplayRequest, decode_request
from frazil.service.ledger import LedgerReader
from frazil.service.stream.publisher import Publisher
from frazil.service.stream.reports import Reports

__all__ = ["Replayer"]

log = logging.getLogger(__name__)

PAGES_WAITING = 2
"""Pages kept for one client that does not read; what is beyond is dropped, and asked for again."""
REQUESTS_WAITING = 20
"""Requests kept of one client; what is beyond waits on its side. One of each client is answered in turn."""
_SCANNED_AT_ONCE = 1000
"""Documents looked at for one page, wanted or not: what one request can cost."""
_BUSY_SECONDS = 30.0
"""After a document was published, picking counts as busy for so long."""
_BUSY_SHARE = 0.04
"""Of one core's time, for replays while picking is busy; what clients do with the answers costs about as much again."""
_SAVED_SECONDS = 0.5
"""Time of that share that is saved up while nobody asks, so that a client that lacks little does not wait."""
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
        self._epoch = epoch
        self._generation = generation
        self._publisher = publisher
        self._stalled: dict[bytes, float] = {}
        self._ending = threading.Event()
        self._ended = threading.Event()
        self._wake = os.eventfd(0)

    def run(self) -> None:
        """Answer, until told to stop."""
        allowance = _Allowance()
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
            outcome, answer = "malformed", [_encode(ReplayError(error=f"expected a replay request: {error}"))]
        else:
            outcome, answer = "failed", [_encode(ReplayError(error="the ledger cannot be read at present"))]
            if ledger is not None:
                try:
                    outcome, answer = "answered", self._page(ledger, request)
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

    def _page(self, ledger: LedgerReader, request: ReplayRequest) -> list[bytes]:
        published = self._publisher.published
        end = max(request.first, min(request.until, published + 1))
        common = self._common(ledger, request)
        if common is not None and common < request.first - 1:
            end = request.first  # what it read is not what is here: it is to ask again from behind what is common
        topics = tuple(topic.encode() for topic in request.topics)
        wanted: list[bytes] = []
        missing: list[tuple[int, int]] = []
        size = 0
        position, following = end, request.first
        documents = ledger.documents(after=request.first - 1, limit=_SCANNED_AT_ONCE) if end > request.first else ()
        for scanned, stored in enumerate(documents, start=1):
            seq = stored.seq
            if seq >= end:
                break
            document = stored.decode()
            readable = seq if document is not None else seq + 1
            if readable > max(following, 1):
                missing.append((max(following, 1), readable - 1))
            following = seq + 1
            if document is None:
                self._reports.note_damaged(seq, stored.path)
            elif topic_of(document).startswith(topics):
                wanted.append(stored.body)
                size += len(stored.body)
            if len(wanted) == request.limit or size >= MAX_PAGE_BYTES or scanned == _SCANNED_AT_ONCE:
                position = following
                break
        if position > max(following, 1):
            missing.append((max(following, 1), position - 1))
        page = ReplayPage(
            epoch=self._epoch,
            first=request.first,
            next=position,
            head=published,
            oldest=ledger.oldest(),
            documents=len(wanted),
            generation=self._generation,
            common=common,
            missing=tuple(missing),
        )
        return [_encode(page), *wanted]

    def _common(self, ledger: LedgerReader, request: ReplayRequest) -> int | None:
        """Up to where what the client read is what the ledger has; None where it does not ask."""
        read = request.first - 1
        if request.generation is None:
            return None
        if request.generation == "":  # all that can be told is whether it read more than there is
            return read if read <= ledger.ever_given_out() else 0
        return ledger.common(request.generation, read) or 0


class _Allowance:
    """Processor time for replays: a token bucket, filled while picking is busy; without a bound while it is not."""

    def __init__(self) -> None:
        self._left = _SAVED_SECONDS
        self._spent = time.thread_time()
        self._at = time.monotonic()

    def debt_seconds(self, *, is_busy: bool) -> float:
        """How long to rest, after what this thread has done since it was last asked."""
        spent, at = time.thread_time(), time.monotonic()
        earned = _BUSY_SHARE * (at - self._at)
        self._left = min(_SAVED_SECONDS, self._left + earned - (spent - self._spent)) if is_busy else _SAVED_SECONDS
        self._spent, self._at = spent, at
        return max(0.0, -self._left / _BUSY_SHARE)


def _encode(answer: ReplayPage | ReplayError) -> bytes:
    return msgspec.json.encode(answer)
