"""The HTTP server: a socket, a thread, an event loop of its own, and limits on what a client may make it wait for."""

from __future__ import annotations

import asyncio
import logging
import resource
import socket
import threading
from typing import Protocol

import h11
import uvicorn
from starlette.types import ASGIApp
from uvicorn.protocols.http.h11_impl import H11Protocol

from frazil.addresses import check_page_address
from frazil.errors import AddressError

__all__ = [
    "Connection",
    "PageServer",
]
_HEADER_BYTES = 16 << 10
_KEEP_ALIVE_SECONDS = 5
_CLOSE_SECONDS = 2.0
_FILES_WANTED = 4096


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


class _Application(Protocol):
    """What is served."""

    @property
    def app(self) -> ASGIApp:
        """What answers requests."""

    def stop(self) -> None:
        """Tell browsers that it ends; from any thread."""


class PageServer:
    """Serves a page from a thread.

    Args:
        address: ``host:port``; port 0 takes a free one.

    Attributes:
        url: of the page.

    Raises:
        AddressError: the address is malformed, taken, or reached by others that may not.
    """

    def __init__(self, address: str, application: _Application, *, allow_others: bool) -> None:
        listening = _listen(address, allow_others=allow_others)
        self._application = application
        host, port = listening.getsockname()[:2]
        self.url = f"http://{f'[{host}]' if ':' in host else host}:{port}/"
        logging.getLogger("uvicorn.error").addFilter(_is_fault)
        self._server = uvicorn.Server(
            uvicorn.Config(
                application.app,
                http=_limited_connection(),
                loop="asyncio",
                ws="none",
                lifespan="on",
                log_config=None,
                log_level="error",
                access_log=False,
                server_header=False,
                proxy_headers=False,
                h11_max_incomplete_event_size=_HEADER_BYTES,
                timeout_keep_alive=_KEEP_ALIVE_SECONDS,
                timeout_graceful_shutdown=1,
            )
        )
        self._thread = threading.Thread(
            target=lambda: asyncio.run(self._server.serve([listening])), name="frazil-page", daemon=True
        )
        self._thread.start()

    def dead_thread(self) -> str | None:
        """Name of its thread if that has died, which it should not."""
        return None if self._thread.is_alive() else self._thread.name

    def connections(self) -> int:
        """Connections that are open."""
        return len(self._server.server_state.connections)

    def close(self) -> None:
        """Tell browsers that the daemon ends, and stop serving."""
        self._application.stop()
        self._server.should_exit = True
        self._thread.join(_CLOSE_SECONDS)


def _is_fault(record: logging.LogRecord) -> bool:
    """Requests that are cut short because the daemon ends are none."""
    cut_short = record.exc_info is not None and record.exc_info[0] is asyncio.CancelledError
    return not cut_short and "timeout graceful shutdown" not in record.msg


def _limited_connection() -> type[Connection]:
    """Leave the daemon half of the files that it may have open, whatever browsers do."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _FILES_WANTED if hard == resource.RLIM_INFINITY else min(_FILES_WANTED, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
        soft = wanted
    most = Connection.most if soft == resource.RLIM_INFINITY else min(Connection.most, soft // 2)
    return type("Connection", (Connection,), {"most": most})


def _listen(address: str, *, allow_others: bool) -> socket.socket:
    host, port = check_page_address(address, allow_others=allow_others)
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        return socket.create_server((host, port), family=family, backlog=1024)
    except OSError as error:
        raise AddressError(f"{address}: cannot serve the page there: {error.strerror or error}") from error
