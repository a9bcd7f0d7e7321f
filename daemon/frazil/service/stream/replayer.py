"""The replayer: "from sequence number N" out of the ledger, in pages, from a thread of its own."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from pathlib import Path

import msgspec
import zmq

from frazil.documents import topic_of
from frazil.errors import FrazilError, LedgerDamagedError
from frazil.replay import MAX_PAGE_BYTES, ReplayError, ReplayPage, ReplayRequest, decode_request
from frazil.service.ledger import LedgerReader
from frazil.service.metrics import Metrics

__all__ = ["Replayer"]

log = logging.getLogger(__name__)

PAGES_WAITING = 2
"""Pages kept for one client that does not read; what is beyond is dropped, and asked for again."""
_SCANNED_AT_ONCE = 1000
"""Documents looked at for one page, wanted or not: what one request can cost."""
_STOP_CHECK_MS = 200


class Replayer:
    """Answers requests at a bound ROUTER socket, which it owns while its thread runs.

    It reads through a connection of its own and so never holds up the pipeline. Documents that are committed but not
    yet published are not given out.

    Args:
        socket: configured and bound.
        metrics: counts.
        ledger: its file.
        epoch, generation: identity of the ledger, and of this run of it.
        published: tells the sequence number of the newest document that was published.
        on_damage: is told when the ledger turns out to be damaged.

    Attributes:
        thread: answers, once it is started.
    """

    def __init__(
        self,
        socket: zmq.Socket[bytes],
        metrics: Metrics,
        *,
        ledger: Path,
        epoch: str,
        generation: str,
        published: Callable[[], int],
        on_damage: Callable[[LedgerDamagedError], None],
    ) -> None:
        self._socket = socket
        self._metrics = metrics
        self._file = ledger
        self._epoch = epoch
        self._generation = generation
        self._on_damage = on_damage
        self._published = published
        self._stop = threading.Event()
        self.thread = threading.Thread(target=self._run, name="frazil-replay", daemon=True)

    def close(self) -> None:
        """End the thread."""
        self._stop.set()
        self.thread.join()

    def _run(self) -> None:
        try:
            with LedgerReader(self._file) as ledger:
                while not self._stop.is_set():
                    if self._socket.poll(_STOP_CHECK_MS):
                        self._metrics.replay_requests.labels(outcome=self._answer(ledger)).inc()
        except LedgerDamagedError as error:
            self._on_damage(error)
        self._socket.close()

    def _answer(self, ledger: LedgerReader) -> str:
        """Answer one request; what became of it."""
        *envelope, body = self._socket.recv_multipart()
        if envelope[1:] not in ([], [b""]):  # what DEALER and REQ sockets put before a request
            return "malformed"
        try:
            request = decode_request(body)
        except (ValueError, RecursionError) as error:
            outcome, answer = "malformed", [_encode(ReplayError(error=f"expected a replay request: {error}"))]
        else:
            try:
                outcome, answer = "answered", self._page(ledger, request)
            except FrazilError as error:
                log.warning("cannot answer a replay request: %s", error)
                if isinstance(error, LedgerDamagedError):
                    self._on_damage(error)
                outcome, answer = "failed", [_encode(ReplayError(error="the ledger cannot be read at present"))]
        try:
            self._socket.send_multipart([*envelope, *answer], zmq.NOBLOCK)
        except zmq.ZMQError:  # it reads nothing, or has gone
            return "undeliverable"
        self._metrics.replayed.inc(len(answer) - 1)
        return outcome

    def _page(self, ledger: LedgerReader, request: ReplayRequest) -> list[bytes]:
        published = self._published()
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
                self._metrics.note_damaged(seq, stored.path)
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


def _encode(answer: ReplayPage | ReplayError) -> bytes:
    return msgspec.json.encode(answer)
