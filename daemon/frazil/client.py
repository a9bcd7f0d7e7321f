"""What a program downstream imports: the pick stream as an iterator of typed documents.

It loads without ONNX Runtime and OpenCV.

    from frazil.client import PickStream

    with PickStream("tcp://127.0.0.1:5556") as stream:
        for document in stream:
            print(document.micrograph, len(document.picks.y))
"""

from __future__ import annotations

import logging
import time
from types import TracebackType

import zmq

from frazil.documents import (
    HEARTBEAT_TOPIC,
    MODEL_TOPIC,
    PICKS_TOPIC,
    Document,
    Heartbeat,
    MicrographDocument,
    decode_document,
)
from frazil.errors import AddressError

__all__ = ["PickStream"]

log = logging.getLogger(__name__)

_POLL_MS = 200


class PickStream:
    """Documents as they are published, from the moment of subscription on.

    Iteration ends only when `close` is called or `timeout_seconds` pass without a document.

    Attributes:
        missed: documents that the sequence numbers show were sent but never arrived.
        connected: whether anything, a heartbeat at least, has arrived.

    Raises:
        AddressError: the address is malformed.
    """

    def __init__(self, address: str, *, timeout_seconds: float | None = None) -> None:
        self.missed = 0
        self.connected = False
        self._timeout_seconds = timeout_seconds
        self._last: tuple[str, int] | None = None
        self._early: MicrographDocument | None = None
        self._context = zmq.Context()
        self._socket = self._context.socket(zmq.SUB)
        self._socket.linger = 0
        self._socket.rcvhwm = 0  # the reader's own memory bounds what waits here, not a silent drop
        self._socket.subscribe(PICKS_TOPIC)
        self._socket.subscribe(MODEL_TOPIC)
        self._socket.subscribe(HEARTBEAT_TOPIC)
        try:
            self._socket.connect(address)
        except zmq.ZMQError as error:
            self.close()
            raise AddressError(f"{address}: expected an address such as tcp://127.0.0.1:5556 ({error})") from error

    def __enter__(self) -> PickStream:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def __iter__(self) -> PickStream:
        return self

    def __next__(self) -> MicrographDocument:
        document = self.receive(self._timeout_seconds)
        if document is None:
            raise StopIteration
        return document

    def receive(self, timeout_seconds: float | None = None) -> MicrographDocument | None:
        """The next document; None when the time has passed without one or the stream is closed."""
        if self._early is not None:
            early, self._early = self._early, None
            return early
        deadline = None if timeout_seconds is None else time.monotonic() + timeout_seconds
        while not self._socket.closed:
            if self._socket.poll(_POLL_MS):
                document = self._take()
                if document is not None:
                    return document
            if deadline is not None and time.monotonic() >= deadline:
                break
        return None

    def wait_connected(self, timeout_seconds: float) -> bool:
        """Wait for the first message, a heartbeat as a rule; a document among them is kept for `receive`.

        A publisher sends nothing to a subscriber it does not know yet: after this, it knows this one.
        """
        deadline = time.monotonic() + timeout_seconds
        while not self.connected and time.monotonic() < deadline:
            if self._socket.poll(_POLL_MS):
                self._early = self._take()
        return self.connected

    def close(self) -> None:
        """Close the socket."""
        self._socket.close()
        self._context.term()

    def _take(self) -> MicrographDocument | None:
        frames = self._socket.recv_multipart()
        try:
            document = decode_document(frames[-1])
        except ValueError as error:
            log.warning("ignored a message that is no document: %s", error)
            return None
        self.connected = True
        self._count_missed(document)
        return document if isinstance(document, MicrographDocument) else None

    def _count_missed(self, document: Document) -> None:
        epoch, seq = document.epoch, document.seq
        if self._last is not None and self._last[0] == epoch:
            expected = self._last[1] + (not isinstance(document, Heartbeat))
            if seq > expected:
                self.missed += seq - expected
                log.warning("missed %d documents before sequence number %d", seq - expected, seq)
            seq = max(seq, self._last[1])
        self._last = (epoch, seq)
