"""The follower: turns messages that come late, twice or not at all into every document of a session, once, in order.

It uses neither sockets nor clocks. It takes published documents, and requests those that it lacks.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Sequence

import msgspec

from frazil.client.cursor import Place
from frazil.documents import Document, Heartbeat, NumberedDocument, decode_document
from frazil.replay import ReplayPage, ReplayRequest

__all__ = ["Follower"]

log = logging.getLogger(__name__)

_MOST_HELD = 1000
"""Largest number of documents that are held until an earlier one arrives. Others are requested later."""


class Follower:
    """Puts the documents of one session in order.

    Args:
        topics: prefixes of the topics.
        since: sequence number of the first document; None for those published from now on.
        place: place of the last document that was handled, if known; it takes precedence over `since`.
        session: name of the session, for requests; empty for the only one of a daemon.
        source: name of the daemon, for the log where there are several.

    Attributes:
        session: as given.
        epoch: identity of the ledger that is followed; empty until it is known.
        generation: generation of that ledger during which every document up to here was read, or found unchanged.
        replayed: number of documents that came on request.
        missing: ranges, first and last, of sequence numbers that the daemon no longer has.
    """

    def __init__(
        self,
        topics: Sequence[bytes],
        since: int | None = None,
        place: Place | None = None,
        *,
        session: str = "",
        source: str = "",
    ) -> None:
        self.session = session
        self.epoch = place.epoch if place else ""
        self.generation = place.generation if place else ""
        self.replayed = 0
        self.missing: list[tuple[int, int]] = []
        self._serving: str | None = None  # the daemon's present generation, None until it is known
        self._names = "".join(f"{name}: " for name in (source, session) if name)
        self._topics = tuple(topics)
        self._next = place.seq + 1 if place else since
        self._head = 0
        self._ready: deque[NumberedDocument] = deque()
        self._held: dict[int, NumberedDocument] = {}

    def hear(self, document: Document, generation: str) -> None:
        """Take a document that was published live, with the generation of its message."""
        if isinstance(document, Heartbeat):
            self._follow(document.epoch, document.seq, document.generation)
        else:
            self._take_live(document, generation)

    def read_page(self, page: ReplayPage, bodies: Sequence[bytes]) -> None:
        """Take the answer to a request, with its documents. An answer to an older request is ignored."""
        self._follow(page.epoch, page.head, page.generation)
        if page.first != self._next or page.epoch != self.epoch:
            return
        if page.common is not None and page.common < page.first - 1:
            self._go_back(page)
            return
        if page.common is not None:
            self.generation = page.generation
        if not self._is_verified:
            return  # the daemon was restarted meanwhile: first a request verifies the documents read so far
        self._note_missing(page)
        for body in bodies:
            self._take_replayed(body)
        self._next = max(self._next, page.next)
        self._release_held()

    @property
    def has_ready(self) -> bool:
        """Whether a document is there to be taken."""
        return bool(self._ready)

    def request(self) -> bytes | None:
        """The request to send now; None while no document is lacking, or documents wait to be taken."""
        if self._ready or self._next is None or self._serving is None or not self.epoch:
            return None
        if self._head < self._next and self._is_verified:
            return None
        request = ReplayRequest(
            first=self._next,
            until=min(self._held, default=self._head + 1),
            topics=tuple(topic.decode("ascii") for topic in self._topics),
            generation=None if self._is_verified else self.generation,
            session=self.session,
        )
        return msgspec.json.encode(request)

    def take(self) -> NumberedDocument | None:
        """The next document; None while there is none."""
        return self._ready.popleft() if self._ready else None

    def _take_live(self, document: NumberedDocument, generation: str) -> None:
        if self._next is None:  # from now on
            self.epoch, self._next = document.epoch, document.seq
            self.generation = self._serving = generation
        if document.epoch != self.epoch:
            return  # a heartbeat will give the present ledger, and a replay bring this document
        if generation != self._serving:
            self._note_generation(generation)
        self._head = max(self._head, document.seq)
        if self._is_verified and document.seq >= self._next and len(self._held) < _MOST_HELD:
            self._held[document.seq] = document
            self._release_held()

    def _note_generation(self, generation: str) -> None:
        self._serving = generation
        self._held.clear()  # these are of an earlier generation; a replay brings the valid ones

    def _release_held(self) -> None:
        """Make ready the held documents that follow without a gap. Drop those that have come another way."""
        for seq in sorted(self._held):
            if self._next is None or seq > self._next:
                break
            document = self._held.pop(seq)
            if seq == self._next:
                self._ready.append(document)
                self._next = seq + 1

    @property
    def _is_verified(self) -> bool:
        """Whether the documents read so far are known to be in the ledger."""
        return self.generation == self._serving

    def _follow(self, epoch: str, head: int, generation: str) -> None:
        """Note the present ledger, its generation, and its newest document."""
        is_first = self._serving is None
        if generation != self._serving:
            self._note_generation(generation)
        if self.epoch and epoch != self.epoch:
            self._warn("the ledger is another one: starting over at its first document")
            self._next, self._head = 1, 0
            self._held.clear()
        elif (not self.epoch or (is_first and not generation)) and self._next is not None and self._next > head + 1:
            self._warn("expected a stream of %d documents or more, found %d: starting over", self._next - 1, head)
            self._next = 1
        if epoch != self.epoch or not generation:
            # Nothing of this ledger was read yet, or an earlier frazil serves it, which cannot verify it.
            self.epoch, self.generation = epoch, generation
        if self._next is None:
            self._next = head + 1
        self._head = max(self._head, head)

    def _go_back(self, page: ReplayPage) -> None:
        """Go on after the last document that the ledger has as it was read."""
        common = page.common or 0
        if common > 0:
            self._warn(
                "the ledger was restored to an earlier state: it no longer has documents %d to %d as they were read; "
                "going on after number %d",
                common + 1,
                page.first - 1,
                common,
            )
        else:
            self._warn("the ledger no longer has the documents read from it: starting over at its first document")
        self.generation, self._next, self._head = page.generation, common + 1, page.head

    def _note_missing(self, page: ReplayPage) -> None:
        missing = page.missing
        if missing is None:  # an earlier frazil gives only the beginning of its ledger
            missing = ((page.first, page.oldest - 1),) if page.oldest > page.first > 0 else ()
        for first, last in missing:
            self._warn("documents %d to %d are no longer in the ledger", first, last)
        self.missing.extend(missing)

    def _take_replayed(self, body: bytes) -> None:
        try:
            document = decode_document(body)
        except ValueError as error:
            self._warn("ignored a document that cannot be read: %s", error)
            return
        if not isinstance(document, Heartbeat) and self._next is not None and document.seq >= self._next:
            self._ready.append(document)
            self.replayed += 1

    def _warn(self, text: str, *values: object) -> None:
        log.warning("%s%s", self._names, text % values)
