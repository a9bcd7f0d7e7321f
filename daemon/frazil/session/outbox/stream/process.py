"""The process that holds the stream's two sockets.

libzmq ends its process where it finds itself in a state that it does not know, and a client can bring it there: with
a PING on a connection that it fills and breaks (libzmq issues 3937, 4364, 4767; seen with 4.3.5, whatever is set). So
no socket that others reach is in the process that picks. This one has limits of its own for memory and files, and a
lower priority than picking; when it ends, the daemon starts another, and subscribers ask for what they missed.
"""

from __future__ import annotations

import contextlib
import logging
import os
import re
import resource
import signal
import sys
import threading
import time
from pathlib import Path
from typing import Any

import msgspec
import zmq

from frazil.errors import AddressError, FrazilError
from frazil.replay import MAX_REQUEST_BYTES
from frazil.session.outbox.stream.access import Access
from frazil.session.outbox.stream.channels import Channels
from frazil.session.outbox.stream.messages import Bound, Job, Logged, Refused, Report
from frazil.session.outbox.stream.publisher import HIGH_WATER_MARK, MAX_SUBSCRIPTION_BYTES, Publisher
from frazil.session.outbox.stream.replayer import PAGES_WAITING, REQUESTS_WAITING, Replayer
from frazil.session.outbox.stream.reports import Reports

__all__ = ["bind", "run_process"]

_PRIORITY = 10
"""Below picking: with every core busy, what clients do costs it a tenth at most."""
_MEMORY_BYTES = 2**30
_FILES = 4096
_KILLED_EARLY = "500"
_REPORT_SECONDS = 0.25
_LONGEST_SILENCE_SECONDS = 1.0
_BIND_AGAIN_SECONDS = 0.05
_HANDSHAKE_MS = 5000
_LINGER_MS = 1000
_KEEPALIVE_IDLE_SECONDS, _KEEPALIVE_SECONDS, _KEEPALIVE_COUNT = 15, 5, 3
_UNREAD_MS = 60_000


def run_process() -> None:
    """The process: opens both sockets as its argument says, serves them while its stdin is open, and reports."""
    job = msgspec.json.decode(sys.argv[1], type=Job)
    _limit()
    said = _Said()
    logging.basicConfig(level=logging.INFO, handlers=[_LogLines(said)])
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    publishing, replaying = context.socket(zmq.XPUB), context.socket(zmq.ROUTER)
    try:
        access = Access(Path(job.curve_key), Path(job.curve_clients)) if job.curve_key else None
        if access is not None:
            access.start(context)
        _configure(publishing, access, max_message_bytes=MAX_SUBSCRIPTION_BYTES)
        _configure(replaying, access, max_message_bytes=MAX_REQUEST_BYTES)
        publishing.sndhwm = HIGH_WATER_MARK
        replaying.sndhwm, replaying.rcvhwm = PAGES_WAITING, REQUESTS_WAITING
        replaying.setsockopt(zmq.ROUTER_MANDATORY, 1)
        patience = time.monotonic() + job.patience_seconds
        bound = Bound(publish=_bind(publishing, job.publish, patience), replay=_bind(replaying, job.replay, patience))
    except FrazilError as error:
        said.line(Refused(error=str(error)))
        os._exit(0)  # without waiting for anybody's thread
    # Whoever reached the one socket finds the other on the same host, whatever that is called from there.
    port = bound.replay.rpartition(":")[2]
    announced = f"tcp://*:{port}" if bound.replay.startswith("tcp://") else bound.replay
    reports = Reports()
    channels = Channels(awaited=job.channels, is_microscope=job.is_microscope)
    publisher = Publisher(publishing, reports, frames=sys.stdin.fileno(), channels=channels, replay=announced)
    replayer = Replayer(replaying, reports, channels=channels, publisher=publisher)
    said.line(bound)
    for target in (replayer.run, lambda: _report(reports, said)):
        threading.Thread(target=_end_with, args=(target,), daemon=True).start()
    all_sent = publisher.run()
    replayer.stop()
    said.line(reports.take())
    if all_sent:
        publishing.close()
        replaying.close(linger=0)
        if access is not None:
            access.stop()
        context.term()  # what was sent gets a second to leave
    os._exit(0)


class _Said:
    """Lines to the daemon, whole ones, from any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()

    def line(self, message: Bound | Refused | Logged | Report) -> None:
        with self._lock:
            sys.stdout.buffer.write(msgspec.json.encode(message) + b"\n")
            sys.stdout.buffer.flush()


class _LogLines(logging.Handler):
    def __init__(self, said: _Said) -> None:
        super().__init__()
        self._said = said

    def emit(self, record: logging.LogRecord) -> None:
        self._said.line(Logged(logger=record.name, level=record.levelno, message=self.format(record)))


def _limit() -> None:
    """Set the bounds of this process, and leave signals that end the daemon to it."""
    for signal_number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(signal_number, signal.SIG_IGN)  # the daemon ends this when it has sent all
    with contextlib.suppress(OSError):
        os.nice(_PRIORITY)
    with contextlib.suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text(_KILLED_EARLY, "ascii")
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_DATA, (_MEMORY_BYTES, _MEMORY_BYTES))
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    files = _FILES if hard == resource.RLIM_INFINITY else min(_FILES, hard)
    resource.setrlimit(resource.RLIMIT_NOFILE, (files, hard))


def _configure(socket: zmq.Socket[bytes], access: Access | None, *, max_message_bytes: int) -> None:
    """Bounds for either socket: what may come in, how long a peer may take, when a dead one is given up.

    The kernel finds dead peers. libzmq's heartbeats would write to a connection that a client has filled and broken,
    which ends the process (its issue 4364).
    """
    socket.maxmsgsize = max_message_bytes
    socket.linger = _LINGER_MS
    socket.handshake_ivl = _HANDSHAKE_MS
    socket.tcp_keepalive = 1
    socket.tcp_keepalive_idle = _KEEPALIVE_IDLE_SECONDS
    socket.tcp_keepalive_intvl = _KEEPALIVE_SECONDS
    socket.tcp_keepalive_cnt = _KEEPALIVE_COUNT
    socket.setsockopt(zmq.TCP_MAXRT, _UNREAD_MS)
    if access is not None:
        access.protect(socket)


def _bind(socket: zmq.Socket[bytes], address: str, patience: float) -> str:
    while True:
        try:
            return bind(socket, address)
        except AddressError:
            if time.monotonic() >= patience:
                raise
            time.sleep(_BIND_AGAIN_SECONDS)


def _report(reports: Reports, said: _Said) -> None:
    """Report what happened soon after it did, and once a second that this process lives."""
    last, said_at = Report(), 0.0
    while True:
        time.sleep(_REPORT_SECONDS)
        report = reports.take()
        if report != last or report != Report(subscribers=report.subscribers) or _is_due(said_at):
            said.line(report)
            last, said_at = Report(subscribers=report.subscribers), time.monotonic()


def _is_due(said_at: float) -> bool:
    return time.monotonic() - said_at >= _LONGEST_SILENCE_SECONDS


def _end_with(target: Any) -> None:
    """Run one of the threads; without it the process is of no use."""
    try:
        target()
    except BaseException:
        logging.getLogger(__name__).exception("a thread of the stream's process died")
        os._exit(1)


def bind(socket: zmq.Socket[bytes], address: str) -> str:
    """Bind a socket; the address that it got, port 0 being a free one.

    Raises:
        AddressError: the address is taken, or none of this machine.
    """
    try:
        socket.bind(re.sub(r":0$", ":*", address))
    except zmq.ZMQError as error:
        raise AddressError(f"{address}: cannot publish there: {error.strerror or error}") from error
    return socket.getsockopt_string(zmq.LAST_ENDPOINT)
