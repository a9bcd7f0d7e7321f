"""Replay: the request to a daemon for documents from a sequence number on, and the answer.

A request is one frame of JSON. The answer is an error, or a page: one frame of JSON that describes it, and one frame
for each of its documents.
"""

from __future__ import annotations

from typing import Annotated

import msgspec

from frazil.documents import SCHEMA_VERSION

__all__ = [
    "MAX_PAGE_BYTES",
    "MAX_PAGE_DOCUMENTS",
    "MAX_REQUEST_BYTES",
    "ReplayError",
    "ReplayPage",
    "ReplayRequest",
    "decode_answer",
    "decode_request",
]

MAX_REQUEST_BYTES = 4096
MAX_PAGE_DOCUMENTS = 100
MAX_PAGE_BYTES = 256 * 1024
"""A page ends with the document that reaches this size."""

_LAST = 2**63 - 1
_Place = Annotated[int, msgspec.Meta(ge=0, le=_LAST)]
_Topics = Annotated[tuple[Annotated[str, msgspec.Meta(max_length=1024)], ...], msgspec.Meta(max_length=16)]


class ReplayRequest(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """A request for documents."""

    first: _Place = msgspec.field(name="from")
    """Sequence number of the first document."""
    until: _Place = _LAST
    """Sequence number before which to end."""
    limit: Annotated[int, msgspec.Meta(ge=1, le=MAX_PAGE_DOCUMENTS)] = MAX_PAGE_DOCUMENTS
    """Largest number of documents."""
    topics: _Topics = ("",)
    """Prefixes of the topics, as in a subscription."""
    generation: Annotated[str, msgspec.Meta(max_length=64)] | None = None
    """Generation during which everything before `first` was read; empty if that is not known. The answer then gives, in
    `common`, how much of it is still valid. None: `common` is not requested."""


class ReplayPage(msgspec.Struct, frozen=True, kw_only=True, tag_field="type", tag="page"):
    """The head of a page. The other frames hold every requested document from `first` on, up to but without `next`."""

    schema: int = SCHEMA_VERSION
    epoch: str
    """Identity of the ledger that numbers the documents."""
    first: int = msgspec.field(name="from")
    """Sequence number from the request."""
    next: int
    """Sequence number for the next request."""
    head: int
    """Sequence number of the newest document that was published."""
    oldest: int
    """Sequence number of the oldest document that the ledger still holds; 0 if it holds none."""
    documents: int
    """Number of frames that follow."""
    generation: str = ""
    """Identity of this run of the ledger."""
    common: int | None = None
    """Answer to a request with a generation: up to this sequence number, the documents that were read then are still in
    the ledger. If it is smaller than `first` - 1, no documents follow: request again from the number after it."""
    missing: tuple[tuple[int, int], ...] | None = None
    """Ranges, first and last, of sequence numbers from `first` on, before `next`, whose documents the ledger no longer
    has in readable form, whatever their topic; None from an earlier frazil, which does not report them."""


class ReplayError(msgspec.Struct, frozen=True, kw_only=True, tag_field="type", tag="error"):
    """The request cannot be answered."""

    error: str
    """The reason: what was expected and what was found."""


_REQUESTS = msgspec.json.Decoder(ReplayRequest)
_ANSWERS: msgspec.json.Decoder[ReplayPage | ReplayError] = msgspec.json.Decoder(ReplayPage | ReplayError)


def decode_request(body: bytes) -> ReplayRequest:
    """Decode a request.

    Raises:
        ValueError: the bytes are no request.
    """
    return _REQUESTS.decode(body)


def decode_answer(body: bytes) -> ReplayPage | ReplayError:
    """Decode the first frame of an answer.

    Raises:
        ValueError: the bytes are no answer.
    """
    return _ANSWERS.decode(body)
