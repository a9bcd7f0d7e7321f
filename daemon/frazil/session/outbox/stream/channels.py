"""The channels of the process of the sockets: each has the documents of one session."""

from __future__ import annotations

import secrets
import threading
from bisect import bisect_right

from frazil.replay import MAX_PAGE_SESSIONS, CatalogEntry, CatalogPage, CatalogRequest
from frazil.session.outbox.stream.messages import ChannelState

__all__ = ["Channels"]


class Channels:
    """Channels by number and by session. One thread puts them, both read them.

    Args:
        awaited: number of channels without which no request can be answered.
        is_microscope: whether there is a catalog before the first channel.

    Attributes:
        complete: set once the awaited channels are there.
        live: those that are open, by number.
    """

    def __init__(self, *, awaited: int, is_microscope: bool) -> None:
        self.complete = threading.Event()
        self.live: dict[int, ChannelState] = {}
        self._awaited = awaited
        self._is_microscope = is_microscope
        self._by_number: dict[int, ChannelState] = {}
        self._by_session: dict[str, ChannelState] = {}
        self._names: list[str] = []  # in order
        self._lock = threading.Lock()
        self._run, self._changes = secrets.token_hex(4), 0
        self._check_complete()

    def put(self, state: ChannelState) -> None:
        """Add a channel, or close one that is there."""
        with self._lock:
            channel = self._by_number.setdefault(state.number, state)
            channel.live = state.live
            if channel.live:
                self.live[channel.number] = channel
            else:
                self.live.pop(channel.number, None)
            self._is_microscope = self._is_microscope or channel.session != ""
            newest = self._by_session.get(channel.session)
            if newest is None:
                self._names.insert(bisect_right(self._names, channel.session), channel.session)
            # A session that is opened again at once: its new channel may come before the end of its old one.
            if newest is None or newest.number <= channel.number:
                self._by_session[channel.session] = channel
            self._changes += 1
            self._check_complete()

    def of_number(self, number: int) -> ChannelState | None:
        """The channel of this number."""
        return self._by_number.get(number)

    def of_session(self, session: str) -> ChannelState:
        """The channel of this session; the only one if no session is named.

        Raises:
            LookupError: there is none, or more than one.
        """
        with self._lock:
            if not session and len(self._names) == 1:
                return self._by_session[self._names[0]]
            if (channel := self._by_session.get(session)) is not None:
                return channel
        if not self._is_microscope:
            raise LookupError(f"this daemon has one session: expected a request without one, found {session!r}")
        if not session:
            raise LookupError("this daemon has several sessions: expected the name of one in `session`, found none")
        raise LookupError(f"expected a session of this daemon's catalog, found {session!r}")

    @property
    def version(self) -> str:
        """Version of the catalog; empty if there is none."""
        return f"{self._run}-{self._changes}" if self._is_microscope else ""

    def page(self, request: CatalogRequest) -> CatalogPage:
        """A page of the catalog.

        Raises:
            LookupError: this daemon has none.
        """
        if not self._is_microscope:
            raise LookupError("this daemon has one session, and no catalog")
        with self._lock:
            start = bisect_right(self._names, request.after) if request.after else 0
            names = self._names[start : start + MAX_PAGE_SESSIONS]
            return CatalogPage(
                catalog=self.version,
                sessions=tuple(_entry(self._by_session[name]) for name in names),
                more=start + len(names) < len(self._names),
            )

    def _check_complete(self) -> None:
        if len(self._by_number) >= self._awaited:
            self.complete.set()


def _entry(channel: ChannelState) -> CatalogEntry:
    return CatalogEntry(
        session=channel.session,
        epoch=channel.epoch,
        head=channel.published,
        generation=channel.generation,
        since=channel.since,
        live=channel.live,
    )
