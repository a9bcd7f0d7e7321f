"""The publisher: documents and heartbeats to all who subscribed, from a thread of its own."""

from __future__ import annotations

import logging
import threading
import time

import zmq
from zmq.utils.monitor import parse_monitor_message

from frazil.documents import HEARTBEAT_TOPIC, Heartbeat, add_generation, encode_document
from frazil.service.metrics import Metrics

__all__ = ["Publisher"]

log = logging.getLogger(__name__)

HIGH_WATER_MARK = 1000
"""Messages kept for one subscriber that is slow; what is beyond, it asks for when it has caught up."""
_WAITING = 1000
"""Messages between the pipeline and this thread, which is never blocked and so never far behind."""
_HEARTBEAT_SECONDS = 1.0
_GREETING_SECONDS = 0.05
"""Between the heartbeats that greet new subscribers, however many come."""
_READ_AT_ONCE = 100
MAX_SUBSCRIPTION_BYTES = 4096
_HANDSHAKE_MS = 5000
_PING_MS = 10_000
_PING_TIMEOUT_MS = 30_000
_LINGER_MS = 1000
_HANDSHAKE_FAILED = (
    zmq.EVENT_HANDSHAKE_FAILED_AUTH | zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL | zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL
)


def configure(socket: zmq.Socket[bytes], *, max_message_bytes: int) -> None:
    """Bounds for either socket: what may come in, how long a peer may take, when a dead one is given up."""
    socket.maxmsgsize = max_message_bytes
    socket.linger = _LINGER_MS
    socket.handshake_ivl = _HANDSHAKE_MS
    socket.heartbeat_ivl = _PING_MS
    socket.heartbeat_timeout = _PING_TIMEOUT_MS


class Publisher:
    """Sends through a bound XPUB socket, which it owns while its thread runs.

    A subscriber that cannot keep up loses messages of its own beyond the high-water mark and nobody else's; sending
    never waits.

    Args:
        socket: configured and bound.
        metrics: counts.
        epoch, generation: identity of the ledger, and of this run of it.
        published: sequence number of the newest document that was published before.
        replay: where replays are asked for, for the heartbeats.

    Attributes:
        published: sequence number of the newest document handed to the socket.
        thread: sends, once it is started.
    """

    def __init__(
        self,
        socket: zmq.Socket[bytes],
        metrics: Metrics,
        *,
        epoch: str,
        generation: str,
        published: int,
        replay: str,
    ) -> None:
        self.published = published
        self._socket = socket
        self._metrics = metrics
        self._epoch = epoch
        self._generation = generation
        self._replay = replay
        self._connected: set[int] = set()
        self._lock = threading.Lock()
        self._outgoing: zmq.Socket[bytes] = socket.context.socket(zmq.PAIR)
        self._incoming: zmq.Socket[bytes] = socket.context.socket(zmq.PAIR)
        self._outgoing.sndhwm = self._incoming.rcvhwm = _WAITING
        self._outgoing.linger = 0
        inproc = f"inproc://frazil-publisher-{id(self)}"
        self._incoming.bind(inproc)
        self._outgoing.connect(inproc)
        socket.setsockopt(zmq.XPUB_NODROP, 1)
        self._monitor = socket.get_monitor_socket(
            zmq.EVENT_ACCEPTED | zmq.EVENT_DISCONNECTED | _HANDSHAKE_FAILED  # connections by their descriptors
        )
        self.thread = threading.Thread(target=self._run, name="frazil-publish", daemon=True)

    def publish(self, seq: int, topic: bytes, body: bytes) -> None:
        """Send a document to whoever subscribed to its topic. May be called from any thread, in order of `seq`."""
        with self._lock:
            self._outgoing.send_multipart([str(seq).encode(), topic, add_generation(body, self._generation)])

    def close(self) -> None:
        """Send what is waiting and end the thread; what was sent gets a second to leave."""
        with self._lock:
            self._outgoing.send(b"")
        self.thread.join()
        self._outgoing.close()

    def _run(self) -> None:
        poller = zmq.Poller()
        for socket in (self._incoming, self._socket, self._monitor):
            poller.register(socket, zmq.POLLIN)
        heartbeat_at = greeted_at = 0.0
        greet = False
        goes_on = True
        while goes_on:
            now = time.monotonic()
            due = min(heartbeat_at, greeted_at + _GREETING_SECONDS) if greet else heartbeat_at
            if now >= due:
                self._send([HEARTBEAT_TOPIC, self._heartbeat()])
                heartbeat_at, greeted_at, greet = now + _HEARTBEAT_SECONDS, now, False
                continue
            ready = dict(poller.poll(int((due - now) * 1000) + 1))
            if self._incoming in ready:
                goes_on = self._forward()
            if self._socket in ready:
                greet = self._read_subscriptions() or greet
            if self._monitor in ready:
                self._count_connections()
        self._incoming.close()
        self._socket.disable_monitor()
        self._monitor.close()
        self._socket.close()

    def _forward(self) -> bool:
        """Send what waits; False at the end."""
        for _ in range(_READ_AT_ONCE):
            try:
                seq, *frames = self._incoming.recv_multipart(zmq.NOBLOCK)
            except zmq.Again:
                break
            if not frames:
                return False
            self._send(frames)
            self.published = int(seq)
        return True

    def _read_subscriptions(self) -> bool:
        """Read what subscribers want, which the socket heeds by itself; whether somebody new wants heartbeats."""
        greet = False
        for _ in range(_READ_AT_ONCE):
            try:
                frames = self._socket.recv_multipart(zmq.NOBLOCK)
            except zmq.Again:
                break
            greet = greet or any(f[:1] == b"\x01" and HEARTBEAT_TOPIC.startswith(f[1:]) for f in frames)
        return greet

    def _count_connections(self) -> None:
        for _ in range(_READ_AT_ONCE):
            try:
                event = parse_monitor_message(self._monitor.recv_multipart(zmq.NOBLOCK))
            except zmq.Again:
                break
            if event["event"] & _HANDSHAKE_FAILED:
                self._metrics.refused.inc()
            elif event["event"] == zmq.EVENT_ACCEPTED:
                self._connected.add(event["value"])
            else:
                self._connected.discard(event["value"])
        self._metrics.subscribers.set(len(self._connected))

    def _heartbeat(self) -> bytes:
        return encode_document(
            Heartbeat(epoch=self._epoch, seq=self.published, replay=self._replay, generation=self._generation)
        )

    def _send(self, frames: list[bytes]) -> None:
        try:
            self._socket.send_multipart(frames, zmq.NOBLOCK)
        except zmq.Again:
            # Somebody has just reached the high-water mark: all others get it, that one only what comes after a rest.
            self._metrics.overflows.inc()
            self._socket.setsockopt(zmq.XPUB_NODROP, 0)
            self._socket.send_multipart(frames, zmq.NOBLOCK)
            self._socket.setsockopt(zmq.XPUB_NODROP, 1)
