"""The publisher: documents and heartbeats to all who subscribed."""

from __future__ import annotations

import os
import time

import zmq
from zmq.utils.monitor import parse_monitor_message

from frazil.documents import (
    HEARTBEAT_TOPIC,
    MICROSCOPE_SCHEMA,
    SCHEMA_VERSION,
    Heartbeat,
    add_generation,
    encode_document,
)
from frazil.session.outbox.stream.channels import Channels
from frazil.session.outbox.stream.messages import ChannelState, Frames
from frazil.session.outbox.stream.reports import Reports

__all__ = ["Publisher"]

HIGH_WATER_MARK = 1000
"""Messages kept for one subscriber that is slow; what is beyond, it asks for when it has caught up."""
MAX_SUBSCRIPTION_BYTES = 4096
_HEARTBEAT_SECONDS = 1.0
_GREETING_SECONDS = 0.05
"""Between the heartbeats that greet new subscribers, or tell of a new session, however many come."""
_READ_AT_ONCE = 100
_READ_BYTES = 1 << 16
_HANDSHAKE_FAILED = (
    zmq.EVENT_HANDSHAKE_FAILED_AUTH | zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL | zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL
)


class Publisher:
    """Sends through a bound XPUB socket.

    A subscriber that cannot keep up loses messages of its own beyond the high-water mark and nobody else's; sending
    never waits.

    Args:
        socket: configured and bound.
        reports: counts.
        frames: file descriptor that they are read from.
        channels: takes the channels that come in frames.
        replay: where replays are asked for, for the heartbeats.

    Attributes:
        published_at: when this run's newest document was handed to the socket, by the monotonic clock.
    """

    def __init__(
        self,
        socket: zmq.Socket[bytes],
        reports: Reports,
        *,
        frames: int,
        channels: Channels,
        replay: str,
    ) -> None:
        self.published_at = float("-inf")
        self._socket = socket
        self._reports = reports
        self._file = frames
        self._frames = Frames()
        self._channels = channels
        self._replay = replay
        self._greet = False
        self._connected: set[int] = set()
        socket.setsockopt(zmq.XPUB_NODROP, 1)
        self._monitor = socket.get_monitor_socket(
            zmq.EVENT_ACCEPTED | zmq.EVENT_DISCONNECTED | _HANDSHAKE_FAILED  # connections by their descriptors
        )

    def run(self) -> bool:
        """Send what comes, until nothing more does; whether that was all, and not the end of the daemon."""
        poller = zmq.Poller()
        for source in (self._file, self._socket, self._monitor):
            poller.register(source, zmq.POLLIN)
        heartbeat_at = greeted_at = 0.0
        goes_on = True
        while goes_on:
            now = time.monotonic()
            due = min(heartbeat_at, greeted_at + _GREETING_SECONDS) if self._greet else heartbeat_at
            if now >= heartbeat_at:
                for heartbeat in self._heartbeats():
                    self._send([HEARTBEAT_TOPIC, heartbeat])
                heartbeat_at, greeted_at, self._greet = now + _HEARTBEAT_SECONDS, now, False
                continue
            if now >= due:  # one message, however many sessions there are: it is sent to all subscribers
                if greeting := self._greeting():
                    self._send([HEARTBEAT_TOPIC, greeting])
                greeted_at, self._greet = now, False
                continue
            ready = dict(poller.poll(int((due - now) * 1000) + 1))
            if self._file in ready:
                goes_on = self._forward()
            if self._socket in ready:
                self._read_subscriptions()
            if self._monitor in ready:
                self._count_connections()
        self._socket.disable_monitor()
        self._monitor.close()
        return self._frames.ended

    def _forward(self) -> bool:
        """Send what waits; False at the end."""
        data = os.read(self._file, _READ_BYTES)
        for frame in self._frames.feed(data):
            if isinstance(frame, ChannelState):
                self._channels.put(frame)
                self._greet = True
                continue
            number, seq, topic, body = frame
            if (channel := self._channels.of_number(number)) is None:
                continue  # it was opened again while there was no process; a replay brings the document
            # First, so that whoever has a document can ask for it. After a restart, some come again.
            channel.published = max(seq, channel.published)
            self.published_at = time.monotonic()
            self._send([topic, add_generation(body, channel.generation)])
        return bool(data) and not self._frames.ended

    def _read_subscriptions(self) -> None:
        """Read what subscribers want, which the socket heeds by itself; greet whoever wants heartbeats."""
        for _ in range(_READ_AT_ONCE):
            try:
                frames = self._socket.recv_multipart(zmq.NOBLOCK)
            except zmq.Again:
                break
            if any(f[:1] == b"\x01" and HEARTBEAT_TOPIC.startswith(f[1:]) for f in frames):
                self._greet = True

    def _count_connections(self) -> None:
        for _ in range(_READ_AT_ONCE):
            try:
                event = parse_monitor_message(self._monitor.recv_multipart(zmq.NOBLOCK))
            except zmq.Again:
                break
            if event["event"] & _HANDSHAKE_FAILED:
                self._reports.count(refused=1)
            elif event["event"] == zmq.EVENT_ACCEPTED:
                self._connected.add(event["value"])
            else:
                self._connected.discard(event["value"])
        self._reports.set_subscribers(len(self._connected))

    def _heartbeats(self) -> list[bytes]:
        """Those of all live channels; of a microscope without any, its own."""
        greeting = self._greeting()
        return [self._heartbeat(channel) for channel in self._channels.live.values()] or [greeting] * bool(greeting)

    def _greeting(self) -> bytes:
        """A heartbeat of the only session, or of the microscope; empty as long as there is neither."""
        if catalog := self._channels.version:
            return encode_document(
                Heartbeat(schema=MICROSCOPE_SCHEMA, epoch="", seq=0, replay=self._replay, catalog=catalog)
            )
        return next((self._heartbeat(channel) for channel in self._channels.live.values()), b"")

    def _heartbeat(self, channel: ChannelState) -> bytes:
        return encode_document(
            Heartbeat(
                schema=MICROSCOPE_SCHEMA if channel.session else SCHEMA_VERSION,
                epoch=channel.epoch,
                seq=channel.published,
                replay=self._replay,
                generation=channel.generation,
                session=channel.session,
                catalog=self._channels.version,
            )
        )

    def _send(self, frames: list[bytes]) -> None:
        try:
            self._socket.send_multipart(frames, zmq.NOBLOCK)
        except zmq.Again:
            # Somebody has just reached the high-water mark: all others get it, that one only what comes after a rest.
            self._reports.count(overflows=1)
            self._socket.setsockopt(zmq.XPUB_NODROP, 0)
            self._socket.send_multipart(frames, zmq.NOBLOCK)
            self._socket.setsockopt(zmq.XPUB_NODROP, 1)
