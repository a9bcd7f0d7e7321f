"""One daemon as a subscriber sees it: two sockets, and the followers of what it publishes."""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Sequence
from typing import Any

import zmq

from frazil.client.cursor import Place
from frazil.client.followers import Followers
from frazil.documents import HEARTBEAT_TOPIC, NumberedDocument
from frazil.errors import AddressError
from frazil.keys import KeyPair

__all__ = ["Source"]

log = logging.getLogger(__name__)

_HIGH_WATER_MARK = 1000
_ANSWER_SECONDS = 3.0
"""Time after which a request without an answer is repeated on a new connection; doubled each time ..."""
_MOST_ANSWER_SECONDS = 30.0
"""... up to this time."""
_SILENCE_SECONDS = 5.0
"""Time without a heartbeat, which comes once a second, after which nobody answers."""
_RENEWAL_SECONDS = 15.0
"""Time of silence, or of rest, after which another connection is tried."""
# The kernel finds a dead daemon. libzmq's own heartbeats end a program that reads slowly (its issues 3937, 4767).
_KEEPALIVE_IDLE_SECONDS, _KEEPALIVE_SECONDS, _KEEPALIVE_COUNT = 5, 2, 3
_RECONNECT_MS, _MOST_RECONNECT_MS = 100, 2000


class Source:
    """The documents of one daemon: each once, in order, none missed. It never waits.

    Args:
        name: what the user calls it; its address if the user has no name for it.
        address: of its stream.
        followers: of its sessions.
        topics: prefixes of the topics.
        replay: address for earlier documents; None for the one that the daemon gives.
        keys: the subscriber's own pair, and the daemon's public key; None without encryption.
        context: of the sockets. The source does not close it.
        poller: in which the sockets are registered.

    Raises:
        AddressError: the address is malformed.
    """

    def __init__(
        self,
        name: str,
        address: str,
        followers: Followers,
        topics: Sequence[bytes],
        *,
        replay: str | None,
        keys: tuple[KeyPair, bytes] | None,
        context: zmq.Context[zmq.Socket[bytes]],
        poller: Any,
    ) -> None:
        self.name = name
        self.followers = followers
        self._address = address
        self._label = address if name == address else f"{name} ({address})"
        self._subscriptions = (*topics, HEARTBEAT_TOPIC)
        self._replay = replay
        self._keys = keys
        self._context = context
        self._poller = poller
        self._asker: zmq.Socket[bytes] | None = None
        self._asked_at = 0.0
        self._patience_seconds = _ANSWER_SECONDS
        self._waiting = False
        self._heard_at: float | None = None  # or first listened to
        self._renewed_at = float("-inf")
        self._is_silent = False
        self._rests_until = 0.0
        self._fault = ""
        self._socket: zmq.Socket[bytes] | None = None
        self._subscribe()

    @property
    def place(self) -> Place | None:
        """Place of the document that was received last."""
        return self.followers.place

    @property
    def rests(self) -> bool:
        """Whether it was put aside."""
        return self._socket is None

    def close(self) -> None:
        """Close the sockets."""
        self._drop_asker()
        if self._socket is not None:
            if self._socket in self._poller:
                self._poller.unregister(self._socket)
            self._socket.close(linger=0)
            self._socket = None

    def rest(self, error: AddressError) -> None:
        """Put it aside for a while, since something is wrong with it, so that others go on."""
        self.close()
        self._heard_at = None
        self._rests_until = time.monotonic() + _RENEWAL_SECONDS
        if str(error) != self._fault:
            self._fault = str(error)
            log.warning("%s: put aside, other daemons go on: %s", self._label, error)

    def receive(self) -> NumberedDocument | None:
        """The next document if it has arrived, else None.

        Raises:
            AddressError: the daemon's answer is not one that this version understands.
        """
        if self._socket is None:
            if time.monotonic() < self._rests_until:
                return None
            self._subscribe()
        document = self.followers.take()
        while document is None and self._read_one():
            document = self.followers.take()
        if document is None or self._waiting or self.followers.lacks:
            self._ask()  # what one session lacks, also while another one always has something
        if document is None:
            self._look_for_silence()
        return document

    def read_ahead(self) -> bool:
        """Read one message and keep its document for `receive`; return whether there was one.

        Raises:
            AddressError: as in `receive`.
        """
        if self._read_one():
            return True
        if self.followers.connected:
            self._ask()
        return False

    def nobody(self) -> str:
        """What to say while nobody answers."""
        if self.followers.connected:
            return f"{self._label}: the daemon no longer answers"
        return (
            f"{self._label}: expected a frazil daemon, found that nobody answers: is it running, and is this the "
            "address in its log? A daemon with keys answers only to clients that it knows"
        )

    def _subscribe(self) -> None:
        self._socket = self._context.socket(zmq.SUB)
        self._socket.rcvhwm = _HIGH_WATER_MARK
        for topic in self._subscriptions:
            self._socket.subscribe(topic)
        try:
            self._connect(self._socket, self._address)
        except AddressError:
            self.close()
            raise
        self._poller.register(self._socket, zmq.POLLIN)

    def _look_for_silence(self) -> None:
        """Log once when nobody answers, and try another connection from time to time."""
        now = time.monotonic()
        if self._heard_at is None:
            self._heard_at = now
        if now - self._heard_at < _SILENCE_SECONDS:
            return
        if not self._is_silent:
            self._is_silent = True
            log.warning("%s; waiting for it", self.nobody())
        if now - max(self._heard_at, self._renewed_at) >= _RENEWAL_SECONDS:
            self._renewed_at = now
            self.close()
            self._subscribe()

    def _connect(self, socket: zmq.Socket[bytes], address: str) -> None:
        socket.linger = 0
        socket.tcp_keepalive = 1
        socket.tcp_keepalive_idle = _KEEPALIVE_IDLE_SECONDS
        socket.tcp_keepalive_intvl, socket.tcp_keepalive_cnt = _KEEPALIVE_SECONDS, _KEEPALIVE_COUNT
        socket.reconnect_ivl, socket.reconnect_ivl_max = _RECONNECT_MS, _MOST_RECONNECT_MS
        if self._keys is not None:
            own, server = self._keys
            socket.curve_serverkey = server
            socket.curve_publickey, socket.curve_secretkey = own.public, own.secret
        try:
            socket.connect(address)
        except zmq.ZMQError as error:
            raise AddressError(f"{address}: expected an address such as tcp://127.0.0.1:5556 ({error})") from error

    def _read_one(self) -> bool:
        """Read one message from either socket; return whether there was one."""
        return self._read_answer() or self._read_published()

    def _read_answer(self) -> bool:
        if self._asker is None or not self._waiting:
            return False
        try:
            frames = self._asker.recv_multipart(zmq.NOBLOCK)
        except zmq.Again:
            return False
        self._waiting = False
        self._patience_seconds = _ANSWER_SECONDS
        self.followers.read_answer(frames)
        return True

    def _read_published(self) -> bool:
        if self._socket is None:
            return False
        try:
            frames = self._socket.recv_multipart(zmq.NOBLOCK)
        except zmq.Again:
            return False
        self._heard_at = time.monotonic()
        if self._is_silent:
            self._is_silent = False
            log.warning("%s: the daemon answers", self._label)
        self.followers.hear(frames[-1])
        return True

    def _ask(self) -> None:
        """Send a request for lacking documents, and repeat it if no answer comes."""
        now = time.monotonic()
        if self._waiting:
            if now - self._asked_at < self._patience_seconds:
                return
            # An answer to the earlier request must not be taken for the next one: its socket is closed.
            self._drop_asker()
            self._patience_seconds = min(2 * self._patience_seconds, _MOST_ANSWER_SECONDS)
        request = self.followers.request()
        address = self._replay_address() if request is not None else None
        if request is None or address is None:
            return
        if self._asker is None:
            self._asker = self._context.socket(zmq.DEALER)
            self._connect(self._asker, address)
            self._poller.register(self._asker, zmq.POLLIN)
        self._asker.send(request, zmq.NOBLOCK)
        self._waiting, self._asked_at = True, now

    def _replay_address(self) -> str | None:
        published = self.followers.replay
        if self._replay or not published:
            return self._replay
        host = re.match(r"tcp://(\[[^\]]+\]|[^:/]+):", self._address)
        return published.replace("*", host[1], 1) if host else published

    def _drop_asker(self) -> None:
        if self._asker is not None:
            if self._asker in self._poller:
                self._poller.unregister(self._asker)
            self._asker.close(linger=0)
        self._asker, self._waiting = None, False
