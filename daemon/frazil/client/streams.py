"""The pick stream over sockets, for plain programs and for asyncio."""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Generic, Literal, TypedDict, TypeVar, Unpack, cast, overload

import zmq

from frazil.client.cursor import Cursor, Place
from frazil.client.followers import Followers
from frazil.documents import HEARTBEAT_TOPIC, MicrographDocument, NumberedDocument, directory_topic
from frazil.errors import AddressError, SettingsError
from frazil.keys import KeyPair, read_key_pair, read_public_key

__all__ = ["AsyncPickStream", "PickStream", "Topic"]

log = logging.getLogger(__name__)

Topic = Literal["picks", "failed", "model", "session"]
D = TypeVar("D", bound=NumberedDocument)

_OF_MICROGRAPHS = ("picks", "failed")
_HIGH_WATER_MARK = 1000
_POLL_SECONDS = 0.2
_ANSWER_SECONDS = 3.0
"""Time after which a request without an answer is repeated on a new connection; doubled each time ..."""
_MOST_ANSWER_SECONDS = 30.0
"""... up to this time."""
_SILENCE_SECONDS = 5.0
"""Time without a heartbeat, which comes once a second, after which nobody answers."""
_RENEWAL_SECONDS = 15.0
"""Time of silence after which another connection is tried."""
# The kernel finds a dead daemon. libzmq's own heartbeats end a program that reads slowly (its issues 3937, 4767).
_KEEPALIVE_IDLE_SECONDS, _KEEPALIVE_SECONDS, _KEEPALIVE_COUNT = 5, 2, 3
_RECONNECT_MS, _MOST_RECONNECT_MS = 100, 2000


class StreamOptions(TypedDict, total=False):
    """Options of a stream; see `PickStream`."""

    since: int | None
    resume: str | Path | None
    directory: str
    replay: str | None
    key: str | Path | None
    server_key: str | Path | None
    timeout_seconds: float | None


class _Connection(Generic[D]):
    """Both sockets of a subscriber, its followers and its cursor. It never waits.

    Without topics, it brings the documents of picked micrographs.
    """

    def __init__(
        self,
        address: str,
        session: str | Sequence[str] | None = None,
        *,
        topics: Sequence[Topic] = ("picks",),
        **options: Unpack[StreamOptions],
    ) -> None:
        since, resume, directory = options.get("since"), options.get("resume"), options.get("directory", "")
        self._keys = _read_keys(options.get("key"), options.get("server_key"))
        self._cursor = Cursor(Path(resume)) if resume is not None else None
        topic_prefixes = [
            directory_topic(topic.encode(), directory) if topic in _OF_MICROGRAPHS else topic.encode()
            for topic in topics
        ]
        if self._cursor is not None and since is None:
            since = 1
        self._followers = Followers(
            topic_prefixes,
            since,
            self._cursor.places if self._cursor else None,
            [session] if isinstance(session, str) else session,
        )
        self._address = address
        self._replay = options.get("replay")
        self._timeout_seconds = options.get("timeout_seconds")
        self._handed_out: Place | None = None
        self._asker: zmq.Socket[bytes] | None = None
        self._asked_at = 0.0
        self._patience_seconds = _ANSWER_SECONDS
        self._waiting = False
        self._poller = self._new_poller()
        self._heard_at = self._renewed_at = float("-inf")
        self._is_silent = False
        self._subscriptions = (*topic_prefixes, HEARTBEAT_TOPIC)
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self._socket = self._context.socket(zmq.SUB)
        try:
            self._subscribe()
        except AddressError:
            self.close()
            raise

    @property
    def connected(self) -> bool:
        """Whether a message, at least a heartbeat, has arrived."""
        return self._followers.connected

    @property
    def epoch(self) -> str:
        """Identity of the ledger that numbers the documents, of a microscope the last one; empty until it is known."""
        return self._followers.epoch

    @property
    def replayed(self) -> int:
        """Number of documents that came on request: they were published before, or got lost on the way."""
        return self._followers.replayed

    @property
    def missing(self) -> list[tuple[int, int]]:
        """Ranges, first and last, of sequence numbers that the daemon no longer has: archived, damaged or lost.

        Those of several sessions come one after the other; the log has their names.
        """
        return self._followers.missing

    def acknowledge(self) -> None:
        """Move the cursor past the last document, so that it does not come again after a restart.

        A call for the next document does the same.

        Raises:
            OutputError: the cursor cannot be written.
        """
        if self._cursor is not None and self._handed_out is not None:
            self._cursor.advance(self._handed_out)

    def close(self) -> None:
        """Close the sockets and the cursor, which keeps its place."""
        if self._context.closed:
            return
        self._socket.close(linger=0)
        self._drop_asker()
        self._context.term()
        if self._cursor is not None:
            self._cursor.close()

    def _new_poller(self) -> Any:
        return zmq.Poller()

    def _subscribe(self) -> None:
        self._socket.rcvhwm = _HIGH_WATER_MARK
        for topic in self._subscriptions:
            self._socket.subscribe(topic)
        self._connect(self._socket, self._address)
        self._poller.register(self._socket, zmq.POLLIN)

    def _look_for_silence(self, waiting_since: float) -> None:
        """Log once when nobody answers, and try another connection from time to time."""
        now = time.monotonic()
        silent_since = max(self._heard_at, waiting_since)
        if now - silent_since < _SILENCE_SECONDS:
            return
        if not self._is_silent:
            self._is_silent = True
            log.warning("%s; waiting for it", self._nobody())
        if now - max(silent_since, self._renewed_at) >= _RENEWAL_SECONDS:
            self._renewed_at = now
            self._poller.unregister(self._socket)
            self._socket.close(linger=0)
            self._socket = self._context.socket(zmq.SUB)
            self._subscribe()

    def _nobody(self) -> str:
        if self.connected:
            return f"{self._address}: the daemon no longer answers"
        return (
            f"{self._address}: expected a frazil daemon, found that nobody answers: is it running, and is this the "
            "address in its log? A daemon with keys answers only to clients that it knows"
        )

    def _check_answered(self) -> None:
        """At the end of waiting, check that a daemon has answered: then the stream is only empty.

        Raises:
            AddressError: nobody ever answered.
        """
        if not self.connected:
            raise AddressError(self._nobody())

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

    def _receive_now(self) -> D | None:
        """The next document if it has arrived, else None."""
        document = self._followers.take()
        while document is None and self._read_one():
            document = self._followers.take()
        if document is None or self._waiting or self._followers.lacks:
            self._ask()  # what one session lacks, also while another one always has something
        if document is not None:
            self._handed_out = self._followers.place
        return cast("D | None", document)

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
        self._followers.read_answer(frames)
        return True

    def _read_published(self) -> bool:
        try:
            frames = self._socket.recv_multipart(zmq.NOBLOCK)
        except zmq.Again:
            return False
        self._heard_at = time.monotonic()
        if self._is_silent:
            self._is_silent = False
            log.warning("%s: the daemon answers", self._address)
        self._followers.hear(frames[-1])
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
        request = self._followers.request()
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
        published = self._followers.replay
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


class PickStream(_Connection[D]):
    """Documents of a daemon's stream: each once, in order, none missed.

    Iteration ends only when `timeout_seconds` pass without a document. A stream is used from one thread.

    Args:
        address: address of the stream, such as ``tcp://127.0.0.1:5556``.
        session: name of a session of a microscope, or several. Default: all of them, in turn; each document has the
            name of its own. A name may be of a session that begins later.
        since: sequence number of the first document of each session, 1 for everything. Default: the documents published
            from now on, and all of a session that begins later.
        resume: cursor file. If it has been used before, the stream goes on after the last document of each session that
            was handled, whatever `since` is, and begins with the first document of other sessions; else it begins at
            `since`, or with the first document. A document counts as handled when the next one is requested, or with
            `acknowledge`. If the program dies before, the document comes again.
        topics: kinds of documents: ``picks`` (the default), ``failed``, ``model``, ``session``.
        directory: directory below the watched one; only its micrographs, and those of directories below it, come.
        replay: address for earlier documents, if it is not the one that the daemon gives (behind a proxy).
        key, server_key: own ``.key_secret`` file and the daemon's ``.key`` file, if the daemon requires keys.
        timeout_seconds: longest time that iteration waits for a document. Default: no limit.

    If the daemon has another ledger than before, its sequence numbers have another meaning: the stream starts over at
    the new ledger's first document, and `epoch` changes, as in every document. If the ledger was restored to an earlier
    state, the stream goes back to the last document that is unchanged, and logs a warning: later numbers come again,
    with other documents. Documents that the ledger no longer has are listed in `missing`, and logged too.

    While nobody answers, the stream goes on waiting. It logs a warning once (logger ``frazil.client``), and another
    when the daemon answers.

    Raises:
        AddressError: an address is malformed, the answer is not that of a daemon which this version understands, a
            session is named and the daemon has only one, or iteration ended by `timeout_seconds` and nobody ever
            answered.
        SettingsError: a key cannot be used.
        OutputError: the cursor file cannot be used.
    """

    @overload
    def __init__(
        self: PickStream[MicrographDocument],
        address: str,
        session: str | Sequence[str] | None = None,
        **options: Unpack[StreamOptions],
    ) -> None: ...

    @overload
    def __init__(
        self: PickStream[NumberedDocument],
        address: str,
        session: str | Sequence[str] | None = None,
        *,
        topics: Sequence[Topic],
        **options: Unpack[StreamOptions],
    ) -> None: ...

    def __init__(self, address: str, session: str | Sequence[str] | None = None, **options: Any) -> None:
        super().__init__(address, session, **options)

    def __enter__(self) -> PickStream[D]:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __iter__(self) -> PickStream[D]:
        return self

    def __next__(self) -> D:
        document = self.receive(self._timeout_seconds)
        if document is None:
            self._check_answered()
            raise StopIteration
        return document

    def receive(self, timeout_seconds: float | None = None) -> D | None:
        """Wait for the next document and return it; None if none comes within the time."""
        self.acknowledge()
        started = time.monotonic()
        deadline = started + (float("inf") if timeout_seconds is None else timeout_seconds)
        while (document := self._receive_now()) is None:
            left = deadline - time.monotonic()
            if left <= 0:
                return None
            self._look_for_silence(started)
            self._poller.poll(1000 * min(left, _POLL_SECONDS))
        return document

    def wait_connected(self, timeout_seconds: float) -> bool:
        """Wait for the first message, usually a heartbeat, and for the catalog of a microscope. Documents that arrive
        meanwhile are kept for `receive`.

        A publisher sends nothing to a subscriber that it does not know yet. After this, it knows this one.

        Returns:
            Whether they have arrived in time.
        """
        deadline = time.monotonic() + timeout_seconds
        while not self._followers.settled and (left := deadline - time.monotonic()) > 0:
            if not self._read_one():
                if self.connected:
                    self._ask()
                self._poller.poll(1000 * min(left, _POLL_SECONDS))
        return self._followers.settled


class AsyncPickStream(_Connection[D]):
    """`PickStream` for asyncio: ``async for document in stream``. It takes and raises the same."""

    @overload
    def __init__(
        self: AsyncPickStream[MicrographDocument],
        address: str,
        session: str | Sequence[str] | None = None,
        **options: Unpack[StreamOptions],
    ) -> None: ...

    @overload
    def __init__(
        self: AsyncPickStream[NumberedDocument],
        address: str,
        session: str | Sequence[str] | None = None,
        *,
        topics: Sequence[Topic],
        **options: Unpack[StreamOptions],
    ) -> None: ...

    def __init__(self, address: str, session: str | Sequence[str] | None = None, **options: Any) -> None:
        super().__init__(address, session, **options)

    def _new_poller(self) -> Any:
        from zmq.asyncio import Poller  # here, since loading asyncio takes longer than all the rest

        return Poller()

    async def __aenter__(self) -> AsyncPickStream[D]:
        return self

    async def __aexit__(self, *_: object) -> None:
        self.close()

    def __aiter__(self) -> AsyncPickStream[D]:
        return self

    async def __anext__(self) -> D:
        document = await self.receive(self._timeout_seconds)
        if document is None:
            self._check_answered()
            raise StopAsyncIteration
        return document

    async def receive(self, timeout_seconds: float | None = None) -> D | None:
        """Wait for the next document and return it; None if none comes within the time."""
        self.acknowledge()
        started = time.monotonic()
        deadline = started + (float("inf") if timeout_seconds is None else timeout_seconds)
        while (document := self._receive_now()) is None:
            left = deadline - time.monotonic()
            if left <= 0:
                return None
            self._look_for_silence(started)
            await self._poller.poll(1000 * min(left, _POLL_SECONDS))
        return document


def _read_keys(key: str | Path | None, server_key: str | Path | None) -> tuple[KeyPair, bytes] | None:
    if key is None and server_key is None:
        return None
    if key is None or server_key is None:
        raise SettingsError("key, server_key: expected both or neither, found one")
    return read_key_pair(Path(key)), read_public_key(Path(server_key))
