"""One HTTP connection, with limits on what a client may make it wait for."""

from __future__ import annotations

import asyncio

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

__all__ = ["Connection"]


class Connection(H11Protocol):
    """uvicorn's connection, which is cut off when its client is slow, and refused when there are too many.

    uvicorn limits the time between two requests, but neither that of sending one (slowloris) nor that of reading the
    answer. Both would hold a file descriptor, of which the daemon has only so many, for ever.
    """

    request_seconds = 10.0
    """In which a request's line, headers and body must come."""
    unread_seconds = 30.0
    """For which a client may leave an answer unread."""
    most = 1000
    """Connections at a time; one more is answered 503."""

    _deadline: asyncio.TimerHandle | None = None
    _patience: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Begin: the first request is awaited."""
        super().connection_made(transport)
        transport.set_write_buffer_limits(high=0)  # whatever is left unread counts
        if len(self.connections) > self.most:
            transport.write(b"HTTP/1.1 503 Service Unavailable\r\nretry-after: 5\r\nconnection: close\r\n\r\n")
            transport.close()
        else:
            self._await_request()

    def data_received(self, data: bytes) -> None:
        """Take a piece of a request."""
        super().data_received(data)
        if self.conn.their_state in (h11.IDLE, h11.SEND_BODY):
            self._await_request()
        else:
            self._cancel_deadline()

    def pause_writing(self) -> None:
        """Note that the client does not read."""
        super().pause_writing()
        self._patience = self.loop.call_later(self.unread_seconds, self.transport.abort)

    def resume_writing(self) -> None:
        """Note that the client has read."""
        super().resume_writing()
        if self._patience is not None:
            self._patience.cancel()

    def connection_lost(self, exc: Exception | None) -> None:
        """End."""
        self._cancel_deadline()
        super().connection_lost(exc)
        if self._patience is not None:
            self._patience.cancel()

    def _await_request(self) -> None:
        """Let the time run in which a request must be whole; a trickle of bytes does not extend it."""
        if self._deadline is None:
            self._deadline = self.loop.call_later(self.request_seconds, self.transport.abort)

    def _cancel_deadline(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None
