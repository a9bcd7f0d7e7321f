"""The pick stream over sockets, for plain programs and for asyncio."""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Generic, Literal, TypedDict, TypeVar, Unpack, cast, overload

import zmq

from frazil.client.cursor import Cursor
from frazil.client.followers import Followers
from frazil.client.source import Source
from frazil.documents import MicrographDocument, NumberedDocument, directory_topic
from frazil.errors import AddressError, SettingsError
from frazil.keys import KeyPair, read_key_pair, read_public_key

__all__ = ["Addresses", "AsyncPickStream", "PickStream", "Topic"]

log = logging.getLogger(__name__)

Topic = Literal["picks", "quality", "square", "advice", "failed", "model", "session"]
Addresses = str | Sequence[str] | Mapping[str, str]
"""Of one daemon, or of several, which may have names."""
D = TypeVar("D", bound=NumberedDocument)
V = TypeVar("V")

_OF_MICROGRAPHS = ("picks", "quality", "failed")
_POLL_SECONDS = 0.2
_MOST_DAEMONS = 200
"""Daemons of one stream: two sockets each, of two files, and 1,024 files are what a program may usually open."""


class StreamOptions(TypedDict, total=False):
    """Options of a stream; see `PickStream`."""

    since: int | None
    resume: str | Path | None
    directory: str
    replay: str | Mapping[str, str | None] | None
    key: str | Path | None
    server_key: str | Path | Mapping[str, str | Path | None] | None
    timeout_seconds: float | None


class _Subscription(Generic[D]):
    """The daemons that a subscriber follows, in turn, and its cursor. It never waits.

    Without topics, it brings the documents of picked micrographs.
    """

    def __init__(
        self,
        address: Addresses,
        session: str | Sequence[str] | None = None,
        *,
        topics: Sequence[Topic] = ("picks",),
        since: int | None = None,
        resume: str | Path | None = None,
        directory: str = "",
        replay: str | Mapping[str, str | None] | None = None,
        key: str | Path | None = None,
        server_key: str | Path | Mapping[str, str | Path | None] | None = None,
        timeout_seconds: float | None = None,
    ) -> None:
        addresses = _by_name(address)
        replays = _of_each("replay", replay, addresses)
        server_keys = _of_each("server_key", server_key, addresses)
        is_each = isinstance(server_key, Mapping)  # one without a key in it is meant to be read unencrypted
        keys = {name: None if is_each and one is None else _read_keys(key, one) for name, one in server_keys.items()}
        prefixes = [
            directory_topic(topic.encode(), directory) if topic in _OF_MICROGRAPHS else topic.encode()
            for topic in topics
        ]
        sessions = [session] if isinstance(session, str) else session
        self._timeout_seconds = timeout_seconds
        self._cursor = Cursor(Path(resume)) if resume is not None else None
        if self._cursor is not None and since is None:
            since = 1
        places = self._cursor.places if self._cursor else None
        self._poller = self._new_poller()
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self._sources: deque[Source] = deque()  # the next one in turn is the first
        self._last: Source | None = None
        self._ledgers: dict[str, Source] = {}
        try:
            for name, one in addresses.items():
                followers = Followers(prefixes, since, places, sessions, source=name if len(addresses) > 1 else "")
                self._sources.append(
                    Source(
                        *(name, one, followers, prefixes),
                        replay=replays[name],
                        keys=keys[name],
                        context=self._context,
                        poller=self._poller,
                    )
                )
        except AddressError:
            self.close()
            raise

    @property
    def connected(self) -> bool:
        """Whether a message, at least a heartbeat, has arrived; of several daemons, from each."""
        return all(source.followers.connected for source in self._sources)

    @property
    def source(self) -> str:
        """Name, or else the address, of the daemon that sent the last document; empty before the first."""
        return self._last.name if self._last else ""

    @property
    def epoch(self) -> str:
        """Identity of the ledger that numbers the documents, of several the last one; empty until it is known."""
        last = self._last or self._sources[0]
        return last.followers.epoch

    @property
    def replayed(self) -> int:
        """Number of documents that came on request: they were published before, or got lost on the way."""
        return sum(source.followers.replayed for source in self._sources)

    @property
    def missing(self) -> list[tuple[int, int]]:
        """Ranges, first and last, of sequence numbers that a daemon no longer has: archived, damaged or lost.

        Those of several daemons and sessions come one after the other; the log has their names.
        """
        return [found for source in self._sources for found in source.followers.missing]

    def acknowledge(self) -> None:
        """Move the cursor past the last document, so that it does not come again after a restart.

        A call for the next document does the same.

        Raises:
            OutputError: the cursor cannot be written.
        """
        if self._cursor is not None and self._last is not None and self._last.place is not None:
            self._cursor.advance(self._last.place)

    def close(self) -> None:
        """Close the sockets and the cursor, which keeps its place."""
        if self._context.closed:
            return
        for source in self._sources:
            source.close()
        self._context.term()
        if self._cursor is not None:
            self._cursor.close()

    def _new_poller(self) -> Any:
        return zmq.Poller()

    def _check_answered(self) -> None:
        """At the end of waiting, check that a daemon has answered: then the stream is only empty.

        Raises:
            AddressError: nobody ever answered.
        """
        if not any(source.followers.connected for source in self._sources):
            raise AddressError("; ".join(source.nobody() for source in self._sources))

    def _receive_now(self) -> D | None:
        """The next document if it has arrived, else None. Daemons take turns."""
        for _ in range(len(self._sources)):
            source = self._sources[0]
            self._sources.rotate(-1)
            document = self._try(source, source.receive)
            if document is not None:
                self._last = source
                self._note_ledger(document.epoch, source)
                return cast("D", document)
        return None

    def _try(self, source: Source, call: Callable[[], V]) -> V | None:
        """Call for what one daemon has; one with which something is wrong does not keep the others away.

        Raises:
            AddressError: something is wrong with each of them.
        """
        try:
            return call()
        except AddressError as error:
            if all(other.rests for other in self._sources if other is not source):
                raise
            source.rest(error)
            return None

    def _note_ledger(self, epoch: str, source: Source) -> None:
        """Say once if two sources are the same daemon, or have copies of one ledger."""
        if self._ledgers.setdefault(epoch, source) is not source:
            first, self._ledgers[epoch] = self._ledgers[epoch], source
            log.warning("%s: its ledger is that of %s, too: its documents may come twice", source.name, first.name)


class PickStream(_Subscription[D]):
    """Documents of a daemon's stream, or of those of several daemons: each once, in order, none missed.

    Iteration ends only when `timeout_seconds` pass without a document. A stream is used from one thread.

    Args:
        address: address of the stream, such as ``tcp://127.0.0.1:5556``. For several daemons, a list of addresses, or a
            mapping of names to addresses: their documents come in turn, each daemon's in order, and `source` names
            the one that sent the last. One that is down, or with which something is wrong, does not hold up the others.
        session: name of a session of a microscope, or several. Default: all of them, in turn; each document has the
            name of its own. A name may be of a session that begins later.
        since: sequence number of the first document of each session, 1 for everything. Default: the documents published
            from now on, and all of a session that begins later.
        resume: cursor file. If it has been used before, the stream goes on after the last document of each session that
            was handled, whatever `since` is, and begins with the first document of other sessions; else it begins at
            `since`, or with the first document. A document counts as handled when the next one is requested, or with
            `acknowledge`. If the program dies before, the document comes again. One file serves several daemons.
        topics: kinds of documents: ``picks`` (the default), ``failed``, ``model``, ``session``.
        directory: directory below the watched one; only its micrographs, and those of directories below it, come.
        replay: address for earlier documents, if it is not the one that the daemon gives (behind a proxy).
        key, server_key: own ``.key_secret`` file and the daemon's ``.key`` file, if the daemon requires keys.
        timeout_seconds: longest time that iteration waits for a document. Default: no limit.

    For several daemons, `replay` and `server_key` may be mappings from each name (or address) to its value.

    If the daemon has another ledger than before, its sequence numbers have another meaning: the stream starts over at
    the new ledger's first document, and `epoch` changes, as in every document. If the ledger was restored to an earlier
    state, the stream goes back to the last document that is unchanged, and logs a warning: later numbers come again,
    with other documents. Documents that the ledger no longer has are listed in `missing`, and logged too.

    While nobody answers, the stream goes on waiting. It logs a warning once (logger ``frazil.client``), and another
    when the daemon answers.

    Raises:
        AddressError: an address is malformed, the answer is not that of a daemon which this version understands, a
            session is named and the daemon has only one, or iteration ended by `timeout_seconds` and nobody ever
            answered. Where one of several daemons is at fault, this is logged; it is raised when all are.
        SettingsError: a key cannot be used; daemons are listed twice, lack a value, or are more than 200.
        OutputError: the cursor file cannot be used.
        TypeError: an option is not one of these.
    """

    @overload
    def __init__(
        self: PickStream[MicrographDocument],
        address: Addresses,
        session: str | Sequence[str] | None = None,
        **options: Unpack[StreamOptions],
    ) -> None: ...

    @overload
    def __init__(
        self: PickStream[NumberedDocument],
        address: Addresses,
        session: str | Sequence[str] | None = None,
        *,
        topics: Sequence[Topic],
        **options: Unpack[StreamOptions],
    ) -> None: ...

    def __init__(self, address: Addresses, session: str | Sequence[str] | None = None, **options: Any) -> None:
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
        deadline = time.monotonic() + (float("inf") if timeout_seconds is None else timeout_seconds)
        while (document := self._receive_now()) is None:
            left = deadline - time.monotonic()
            if left <= 0:
                return None
            self._poller.poll(1000 * min(left, _POLL_SECONDS))
        return document

    def wait_connected(self, timeout_seconds: float) -> bool:
        """Wait for the first message, usually a heartbeat, and for the catalog of a microscope; of several daemons, for
        those of each. Documents that arrive meanwhile are kept for `receive`.

        A publisher sends nothing to a subscriber that it does not know yet. After this, it knows this one.

        Returns:
            Whether they have arrived in time.
        """
        deadline = time.monotonic() + timeout_seconds
        while (unsettled := [source for source in self._sources if not source.followers.settled]) and (
            left := deadline - time.monotonic()
        ) > 0:
            if not any(self._try(source, source.read_ahead) for source in unsettled):
                self._poller.poll(1000 * min(left, _POLL_SECONDS))
        return not unsettled


class AsyncPickStream(_Subscription[D]):
    """`PickStream` for asyncio: ``async for document in stream``. It takes and raises the same."""

    @overload
    def __init__(
        self: AsyncPickStream[MicrographDocument],
        address: Addresses,
        session: str | Sequence[str] | None = None,
        **options: Unpack[StreamOptions],
    ) -> None: ...

    @overload
    def __init__(
        self: AsyncPickStream[NumberedDocument],
        address: Addresses,
        session: str | Sequence[str] | None = None,
        *,
        topics: Sequence[Topic],
        **options: Unpack[StreamOptions],
    ) -> None: ...

    def __init__(self, address: Addresses, session: str | Sequence[str] | None = None, **options: Any) -> None:
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
        deadline = time.monotonic() + (float("inf") if timeout_seconds is None else timeout_seconds)
        while (document := self._receive_now()) is None:
            left = deadline - time.monotonic()
            if left <= 0:
                return None
            await self._poller.poll(1000 * min(left, _POLL_SECONDS))
        return document


def _by_name(address: Addresses) -> dict[str, str]:
    """Addresses by what the user calls them; an address without a name is its own."""
    if isinstance(address, str):
        return {address: address}
    listed = list(address.items()) if isinstance(address, Mapping) else [(one, one) for one in address]
    if not listed:
        raise SettingsError("address: expected the address of a daemon, found none")
    if len(listed) > _MOST_DAEMONS:
        raise SettingsError(f"address: expected at most {_MOST_DAEMONS} daemons, found {len(listed)}: use two streams")
    for position in (0, 1):
        given = [pair[position] for pair in listed]
        if twice := next((one for one in given if given.count(one) > 1), ""):
            raise SettingsError(f"address: expected every daemon once, found {twice} twice")
    return dict(listed)


def _of_each(option: str, value: object, names: Mapping[str, str]) -> dict[str, Any]:
    """What an option is for each daemon: the same for all, or as a mapping has it."""
    if not isinstance(value, Mapping):
        return dict.fromkeys(names, value)
    if value.keys() != names.keys():
        expected, found = (", ".join(one) or "none" for one in (names, value))
        raise SettingsError(f"{option}: expected a value for each of {expected}, found {found}")
    return dict(value)


def _read_keys(key: str | Path | None, server_key: str | Path | None) -> tuple[KeyPair, bytes] | None:
    if key is None and server_key is None:
        return None
    if key is None or server_key is None:
        raise SettingsError("key, server_key: expected both or neither, found one")
    return read_key_pair(Path(key)), read_public_key(Path(server_key))
