"""The followers of all sessions that a subscriber wants: which message is whose, and whose turn it is.

As a follower, they use neither sockets nor clocks.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Collection, Mapping, Sequence

import msgspec

from frazil.client.cursor import Place
from frazil.client.follower import Follower
from frazil.documents import (
    MICROSCOPE_SCHEMA,
    Heartbeat,
    NumberedDocument,
    decode_document,
    read_generation,
)
from frazil.errors import AddressError, printable
from frazil.replay import CatalogEntry, CatalogPage, CatalogRequest, ReplayError, ReplayPage, decode_answer

__all__ = ["Followers"]

log = logging.getLogger(__name__)

_MOST_READY = 10
"""Sessions with documents that wait to be taken, beyond which no more are requested: what a slow program holds."""
_LONGEST_REST = 256
"""Heartbeats after which a session is asked for again whose documents the daemon refused."""


class Followers:
    """Puts the documents of every session in order, and takes from them in turn.

    A daemon with one session is followed as soon as it is heard. The sessions of a microscope are followed once they
    are found in its catalog, which is requested at the beginning and whenever heartbeats have another version of it.

    Args:
        topics: prefixes of the topics.
        since: sequence number of the first document of each session. None: those published from now on, and all of a
            session that begins later.
        places: place of the last document that was handled, by the epoch of its ledger. It takes precedence over
            `since`; unless it is empty at first, ledgers that are not in it are read from their first document.
        sessions: names of the sessions to follow; None for all.
        source: name of the daemon, for the log where there are several.

    Attributes:
        connected: whether a message has arrived.
        replay: address for requests, as the publisher gives it; empty until it is known.
        place: place of the document that was taken last; None before the first.
    """

    def __init__(
        self,
        topics: Sequence[bytes],
        since: int | None = None,
        places: Mapping[str, Place] | None = None,
        sessions: Collection[str] | None = None,
        source: str = "",
    ) -> None:
        self.connected = False
        self.replay = ""
        self.place: Place | None = None
        self._topics = tuple(topics)
        self._since = since
        self._places = {} if places is None else places
        self._is_resumed = bool(self._places)
        self._sessions = None if sessions is None else frozenset(sessions)
        self._source = source
        self._followers: dict[str, Follower] = {}
        self._ready = _Line()
        self._lacking = _Line()
        self._asked: Follower | None = None
        self._heard_catalog = self._read_catalog = ""  # versions
        self._page_catalog = self._after = ""  # of the catalog that is being read
        self._first_run = ""  # of the daemon, as the first catalog has it
        self._beats = 0
        self._refused: dict[str, _Refusal] = {}

    @property
    def settled(self) -> bool:
        """Whether it is known which sessions there are."""
        return self.connected and (not self._heard_catalog or bool(self._read_catalog))

    @property
    def epoch(self) -> str:
        """Identity of the ledger of the only session, or of the document that was taken last; empty if unknown."""
        if (only := self._followers.get("")) is not None:
            return only.epoch
        return self.place.epoch if self.place else ""

    @property
    def replayed(self) -> int:
        """Number of documents that came on request."""
        return sum(follower.replayed for follower in self._followers.values())

    @property
    def missing(self) -> list[tuple[int, int]]:
        """Ranges, first and last, of sequence numbers that the daemon no longer has, session by session."""
        return [found for follower in self._followers.values() for found in follower.missing]

    def hear(self, body: bytes) -> None:
        """Take a message from the publisher. A message that is no document is ignored.

        Raises:
            AddressError: sessions were named, and the daemon has only one.
        """
        try:
            document = decode_document(body)
            generation = read_generation(body)
        except ValueError as error:
            self._warn("ignored a message that is no document: %s", error)
            return
        self.connected = True
        if isinstance(document, Heartbeat):
            self._beats += 1
            self.replay = document.replay
        if document.schema == MICROSCOPE_SCHEMA:
            self._followers.pop("", None)  # of a daemon that was here before
            if isinstance(document, Heartbeat):
                self._heard_catalog = document.catalog
        elif self._is_wanted(""):
            if "" not in self._followers:
                self._follow("", document.epoch, None)
        else:
            names = ", ".join(sorted(self._sessions or ()))
            raise AddressError(
                f"expected a microscope with session {names}, found a daemon with one session: name none"
            )
        if (follower := self._followers.get(document.session)) is not None:
            follower.hear(document, generation)
            self._give_turn(follower)

    def read_answer(self, frames: Sequence[bytes]) -> None:
        """Take the answer to the last request.

        Raises:
            AddressError: the daemon refuses the request, or its answer cannot be understood.
        """
        asked, self._asked = self._asked, None
        try:
            answer = decode_answer(frames[0])
        except ValueError as error:
            raise AddressError(f"the daemon answered a replay with something else: {error}") from error
        match answer:
            case ReplayError():
                if asked is None or not asked.session:
                    raise AddressError(f"the daemon refused a replay: {answer.error}")
                self._let_rest(asked, answer.error)
            case _ if answer.schema > MICROSCOPE_SCHEMA:
                raise AddressError(
                    f"expected schema {MICROSCOPE_SCHEMA} or older, found {answer.schema}: update frazil"
                )
            case CatalogPage() if asked is None:
                self._take_catalog(answer)
            case ReplayPage() if asked is not None:
                self._refused.pop(asked.session, None)
                asked.read_page(answer, frames[1:])
                self._give_turn(asked)

    @property
    def lacks(self) -> bool:
        """Whether there may be something to request."""
        return bool(self._lacking) or self._heard_catalog != self._read_catalog

    def request(self) -> bytes | None:
        """The request to send now; None while nothing is lacking. Without an answer, call it again."""
        if self._asked is not None:
            self._give_turn(self._asked)
            self._asked = None
        if self._heard_catalog != self._read_catalog:
            return msgspec.json.encode(CatalogRequest(catalog=True, after=self._after))
        if len(self._ready) >= _MOST_READY:
            return None
        for _ in range(len(self._lacking)):
            follower = self._lacking.take()
            refusal = self._refused.get(follower.session)
            if refusal is not None and refusal.until > self._beats:
                self._lacking.add(follower)
            elif (request := follower.request()) is not None and follower is self._followers.get(follower.session):
                self._asked = follower
                return request
        return None

    def take(self) -> NumberedDocument | None:
        """The next document; None while there is none. Sessions take turns."""
        if not self._ready:
            return None
        follower = self._ready.take()
        document = follower.take()
        if document is not None:
            self.place = Place(document.epoch, document.seq, follower.generation)
        self._give_turn(follower)
        return document

    def _is_wanted(self, session: str) -> bool:
        return self._sessions is None or session in self._sessions

    def _follow(self, session: str, epoch: str, since: int | None) -> Follower:
        """Begin to follow a session; at `since` if nothing else is known."""
        place = self._places.get(epoch)
        if self._is_resumed:
            since = 1
            if place is None and not session:
                self._warn("the cursor has no place in this ledger: starting at its first document")
        elif self._since is not None:
            since = self._since
        self._followers[session] = Follower(self._topics, since, place, session=session, source=self._source)
        return self._followers[session]

    def _give_turn(self, follower: Follower) -> None:
        if follower.has_ready:
            self._ready.add(follower)
        elif follower.request() is not None:
            self._lacking.add(follower)

    def _let_rest(self, follower: Follower, error: str) -> None:
        """Ask for one session later, so that it does not keep the documents of others away."""
        refusal = self._refused.setdefault(follower.session, _Refusal())
        if refusal.error != error:
            self._warn("%s: the daemon refused a replay, others go on: %s", follower.session, printable(error))
            refusal.error = error
        refusal.beats = min(2 * refusal.beats, _LONGEST_REST)
        refusal.until = self._beats + refusal.beats
        self._give_turn(follower)

    def _take_catalog(self, page: CatalogPage) -> None:
        if not self._after:
            self._page_catalog = page.catalog
        for entry in page.sessions:
            if self._is_wanted(entry.session):
                self._find(entry)
        self._after = page.sessions[-1].session if page.more and page.sessions else ""
        if self._after:
            return
        is_first = not self._read_catalog
        if is_first:
            self._first_run = self._page_catalog.partition("-")[0]
        self._heard_catalog = self._read_catalog = self._page_catalog  # a heartbeat brings what changed since
        if is_first:
            for session in sorted((self._sessions or frozenset()) - self._followers.keys()):
                self._warn("%s: there is no session of this name as yet; waiting for it", session)

    def _begins(self, entry: CatalogEntry) -> int | None:
        """Where a session begins of which the catalog did not know before, for who wants what comes from now on."""
        if not self._read_catalog:
            return None  # it was there already
        run = self._page_catalog.partition("-")[0]
        # A daemon that has just started adds its old sessions one by one; those that another run has are new.
        return entry.since if run == self._first_run else 1

    def _find(self, entry: CatalogEntry) -> None:
        """Take what the catalog knows of a session."""
        follower = self._followers.get(entry.session)
        if follower is None:
            follower = self._follow(entry.session, entry.epoch, self._begins(entry))
        self._refused.pop(entry.session, None)
        beat = Heartbeat(epoch=entry.epoch, seq=entry.head, generation=entry.generation)
        follower.hear(beat, entry.generation)
        self._give_turn(follower)

    def _warn(self, text: str, *values: object) -> None:
        log.warning("%s%s", f"{self._source}: " if self._source else "", text % values)


class _Refusal(msgspec.Struct):
    """A session whose documents the daemon refused."""

    error: str = ""
    beats: int = 1
    """Heartbeats of rest; doubled each time."""
    until: int = 0


class _Line:
    """Followers in line, each once."""

    def __init__(self) -> None:
        self._line: deque[Follower] = deque()
        self._waiting: set[Follower] = set()

    def __len__(self) -> int:
        return len(self._line)

    def add(self, follower: Follower) -> None:
        """Put it at the end, unless it waits already."""
        if follower not in self._waiting:
            self._waiting.add(follower)
            self._line.append(follower)

    def take(self) -> Follower:
        """The first."""
        follower = self._line.popleft()
        self._waiting.remove(follower)
        return follower
