"""Clients that mean harm: whatever they do to the stream, the daemon goes on and honest clients are served."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import struct
import threading
import time
from collections.abc import Callable

import pytest

import frazil

PATIENCE_SECONDS = 60.0
Open = Callable[..., "LedgerStream"]  # type: ignore[name-defined]  # noqa: F821
GREETING = b"\xff" + b"\x00" * 8 + b"\x7f\x03\x00NULL" + b"\x00" * 48


def command(body: bytes) -> bytes:
    return b"\x04" + bytes([len(body)]) + body


def message(body: bytes) -> bytes:
    return b"\x00" + bytes([len(body)]) + body


def connect(address: str, kind: bytes) -> socket.socket:
    """A ZMTP connection of a client of this kind, after its handshake, and nothing of libzmq in it."""
    host, _, port = address.removeprefix("tcp://").rpartition(":")
    connection = socket.create_connection((host, int(port)), timeout=PATIENCE_SECONDS)
    ready = b"\x05READY\x0bSocket-Type" + len(kind).to_bytes(4, "big") + kind
    connection.sendall(GREETING + command(ready))
    return connection


def leave(connection: socket.socket) -> None:
    """Go without a word more: the other side gets a reset."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    connection.close()


def fill_and_leave(address: str, kind: bytes, body: bytes) -> None:
    """Send messages with PINGs among them, read nothing, until the daemon's side takes no more; then go."""
    with contextlib.suppress(OSError):
        connection = connect(address, kind)
        connection.settimeout(0.2)
        with contextlib.suppress(TimeoutError, OSError):
            while True:
                connection.sendall((message(body) * 50 + command(b"\x04PING\x00\x00") * 20) * 20)
        leave(connection)


def wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_a_client_that_fills_its_connection_with_pings_and_leaves_ends_nothing_but_the_sockets(
    open_stream: Open,
) -> None:
    """libzmq 4.3.5 aborts its process: "Assertion failed: !_io_error (src/stream_engine_base.cpp)"."""
    daemon = open_stream()
    sent = [daemon.commit(f"{i}.mrc") for i in range(50)]
    with frazil.PickStream(daemon.address, since=1, timeout_seconds=PATIENCE_SECONDS) as stream:
        assert [next(stream) for _ in sent] == sent
        for _ in range(3):
            attackers = [
                threading.Thread(target=fill_and_leave, args=(daemon.stream.replay, b"DEALER", b'{"from": 1}'))
                for _ in range(4)
            ]
            for attacker in attackers:
                attacker.start()
            for attacker in attackers:
                attacker.join()
        after = [daemon.commit(f"after{i}.mrc") for i in range(5)]
        assert [next(stream) for _ in after] == after
    assert daemon.stream.dead_thread() is None


@pytest.mark.parametrize("ending", [signal.SIGKILL, signal.SIGABRT])
def test_when_the_process_of_the_sockets_ends_another_goes_on_and_nobody_misses_a_document(
    open_stream: Open, ending: signal.Signals
) -> None:
    daemon = open_stream()
    address, replay = daemon.address, daemon.stream.replay
    sent = [daemon.commit("before.mrc")]
    with frazil.PickStream(address, since=1, timeout_seconds=PATIENCE_SECONDS) as stream:
        assert next(stream) == sent[0]
        os.kill(daemon.stream.process.pid, ending)
        sent = [daemon.commit(f"{i}.mrc") for i in range(100)]  # some to the one that has ended, some to nobody
        assert [next(stream) for _ in sent] == sent
    daemon.wait_sample("frazil_stream_restarts_total", 1)
    assert (daemon.address, daemon.stream.replay) == (address, replay)
    assert daemon.stream.dead_thread() is None


def test_a_process_of_the_sockets_that_is_stopped_does_not_hold_up_the_daemon(open_stream: Open) -> None:
    daemon = open_stream()
    os.kill(daemon.stream.process.pid, signal.SIGSTOP)
    sent = [daemon.commit(f"{i}.mrc", path="/data/" + "x" * 20_000) for i in range(100)]  # more than a pipe holds
    os.kill(daemon.stream.process.pid, signal.SIGCONT)
    with frazil.PickStream(daemon.address, since=1, timeout_seconds=PATIENCE_SECONDS) as stream:
        assert [next(stream) for _ in sent] == sent


def test_beside_connections_that_never_say_who_they_are_others_are_served(open_stream: Open) -> None:
    daemon = open_stream()
    sent = [daemon.commit(f"{i}.mrc") for i in range(3)]
    host, _, port = daemon.address.removeprefix("tcp://").rpartition(":")
    with contextlib.ExitStack() as stack:
        for number in range(300):
            half = stack.enter_context(socket.create_connection((host, int(port)), timeout=PATIENCE_SECONDS))
            half.sendall(GREETING[: number % len(GREETING)])
        with frazil.PickStream(daemon.address, since=1, timeout_seconds=PATIENCE_SECONDS) as stream:
            assert [next(stream) for _ in sent] == sent
