"""The follower: from messages that come late, twice or not at all to every document once and in order.

It knows nothing of sockets and clocks. What was published while it listened it hears; what it lacks, it asks for.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Sequence

import msgspec

from frazil.client.cursor import Place
from frazil.documents import (
    SCHEMA_VERSION,
    Document,
    Heartbeat,
    NumberedDocument,
    decode_document,
)
from frazil.errors import AddressError
from frazil.replay import ReplayError, ReplayRequest, decode_answer

__all__ = ["Follower"]

log = logging.getLogger(__name__)

_MOST_HELD = 1000
"""Documents kept that came before an earlier one; what is beyond is asked for when its turn comes."""


class Follower:
    """The order of one stream.

    Args:
        topics: beginnings of the topics wanted.
        since: sequence number of the first document wanted; None for those published from now on.
        place: of the last document dealt with, where known; beats `since`.

    Attributes:
        epoch: identity of the ledger that is followed; empty until it is known.
        replay: where to ask for what is lacking, as the publisher says it; empty until it is known.
        connected: whether anything has been heard.
        replayed: documents that came on request.
    """

    def __init__(self, topics: Sequence[bytes], since: int | None = None, place: Place | None = None) -> None:
        self.epoch = place.epoch if place else ""
        self.replay = ""
        self.connected = False
        self.replayed = 0
        self._topics = tuple(topics)
        self._next = place.seq + 1 if place else since
        self._head = 0
        self._ready: deque[NumberedDocument] = deque()
        self._held: dict[int, NumberedDocument] = {}

    def hear(self, body: bytes) -> None:
        """Take a message from the publisher; what is no document is passed over."""
        try:
            document: Document = decode_document(body)
        except ValueError as error:
            log.warning("ignored a message that is no document: %s", error)
            return
        self.connected = True
        if isinstance(document, Heartbeat):
            self.replay = document.replay
            self._follow(document.epoch, document.seq)
        else:
            self._take_live(document)

    def read_answer(self, frames: list[bytes]) -> None:
        """Take the answer to a request; one to an older request is passed over.

        Raises:
            AddressError: the daemon cannot answer, or in a way that this program does not understand.
        """
        try:
            page = decode_answer(frames[0])
            if isinstance(page, ReplayError):
                raise AddressError(f"the daemon refused a replay: {page.error}")
            if page.schema > SCHEMA_VERSION:
                raise AddressError(f"expected schema {SCHEMA_VERSION} or older, found {page.schema}: update frazil")
            self._follow(page.epoch, page.head)
            if page.first != self._next or page.epoch != self.epoch:
                return
            documents = [decode_document(body) for body in frames[1:]]
        except ValueError as error:
            raise AddressError(f"the daemon answered a replay with something else: {error}") from error
        if page.oldest > page.first and page.first != 0:
            log.warning("documents %d to %d are no longer in the ledger", page.first, page.oldest - 1)
        for document in documents:
            if not isinstance(document, Heartbeat) and document.seq >= self._next:
                self._ready.append(document)
                self.replayed += 1
        self._next = max(self._next, page.next)
        self._release_held()

    def request(self) -> bytes | None:
        """What to ask for now; None while nothing is lacking, or what there is has not been taken."""
        if self._ready or self._next is None or self._head < self._next or not self.epoch:
            return None
        request = ReplayRequest(
            first=self._next,
            until=min(self._held, default=self._head + 1),
            topics=tuple(topic.decode("ascii") for topic in self._topics),
        )
        return msgspec.json.encode(request)

    def take(self) -> NumberedDocument | None:
        """The next document; None while there is none."""
        return self._ready.popleft() if self._ready else None

    def _take_live(self, document: NumberedDocument) -> None:
        if self._next is None:  # from now on
            self.epoch, self._next = document.epoch, document.seq
        if document.epoch != self.epoch:
            return  # a heartbeat will say which ledger counts now, and a replay bring what was passed over
        self._head = max(self._head, document.seq)
        if document.seq >= self._next and len(self._held) < _MOST_HELD:
            self._held[document.seq] = document
            self._release_held()

    def _release_held(self) -> None:
        """Make ready what is held and follows without a gap; forget what has come another way."""
        for seq in sorted(self._held):
            if self._next is None or seq > self._next:
                break
            document = self._held.pop(seq)
            if seq == self._next:
                self._ready.append(document)
                self._next = seq + 1

    def _follow(self, epoch: str, head: int) -> None:
        """Take note of the ledger that counts, and of its newest document."""
        if not self.epoch:
            if self._next is not None and self._next > head + 1:
                log.warning("expected a stream of %d documents or more, found %d: starting over", self._next - 1, head)
                self._next = 1
            self.epoch = epoch
        elif epoch != self.epoch:
            log.warning("the ledger is another one: starting over at its first document")
            self.epoch, self._next, self._head = epoch, 1, 0
            self._held.clear()
        if self._next is None:
            self._next = head + 1
        self._head = max(self._head, head)
