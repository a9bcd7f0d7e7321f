"""The page of documents that answers a replay request, out of the ledger."""

from __future__ import annotations

from frazil.documents import MICROSCOPE_SCHEMA, SCHEMA_VERSION, topic_of
from frazil.replay import MAX_PAGE_BYTES, ReplayPage, ReplayRequest, encode_answer
from frazil.session.outbox.ledger import LedgerReader
from frazil.session.outbox.stream.messages import ChannelState
from frazil.session.outbox.stream.reports import Reports

__all__ = ["Pages"]

_SCANNED_AT_ONCE = 1000
"""Documents looked at for one page, wanted or not: what one request can cost."""


class Pages:
    """Pages of one channel. Documents that are committed but not yet published are not in them.

    Args:
        reports: are told of damaged documents.
        channel: its state, as the publisher keeps it.
        ledger: its ledger.
    """

    def __init__(self, reports: Reports, channel: ChannelState, ledger: LedgerReader) -> None:
        self._reports = reports
        self._channel = channel
        self._ledger = ledger

    def page(self, request: ReplayRequest) -> list[bytes]:
        """The page that answers a request, and its documents, as frames."""
        ledger, channel = self._ledger, self._channel
        published = channel.published
        end = max(request.first, min(request.until, published + 1))
        common = self._common(request)
        if common is not None and common < request.first - 1:
            end = request.first  # what it read is not what is here: it is to ask again from behind what is common
        topics = tuple(topic.encode() for topic in request.topics)
        wanted: list[bytes] = []
        missing: list[tuple[int, int]] = []
        size = 0
        position, following = end, request.first
        for scanned, stored in enumerate(ledger.documents(after=request.first - 1), start=1):
            seq = stored.seq
            if seq >= end:
                break
            document = stored.decode()
            readable = seq if document is not None else seq + 1
            if readable > max(following, 1):
                missing.append((max(following, 1), readable - 1))
            following = seq + 1
            if document is None:
                self._reports.note_damaged(channel.session, seq, stored.path)
            elif topic_of(document).startswith(topics):
                wanted.append(stored.body)
                size += len(stored.body)
            if len(wanted) == request.limit or size >= MAX_PAGE_BYTES or scanned == _SCANNED_AT_ONCE:
                position = following
                break
        if position > max(following, 1):
            missing.append((max(following, 1), position - 1))
        page = ReplayPage(
            schema=MICROSCOPE_SCHEMA if channel.session else SCHEMA_VERSION,
            epoch=channel.epoch,
            first=request.first,
            next=position,
            head=published,
            oldest=ledger.oldest(),
            documents=len(wanted),
            generation=channel.generation,
            common=common,
            missing=tuple(missing),
            session=channel.session,
        )
        return [encode_answer(page), *wanted]

    def _common(self, request: ReplayRequest) -> int | None:
        """Up to where what the client read is what the ledger has; None where it does not ask."""
        read = request.first - 1
        if request.generation is None:
            return None
        if request.generation == "":  # all that can be told is whether it read more than there is
            return read if read <= self._ledger.ever_given_out() else 0
        return self._ledger.common(request.generation, read) or 0
