"""Replay: the request to a daemon for documents from a sequence number on, and the answer.

A request is one frame of JSON. The answer is an error, or a page: one frame of JSON that describes it, and one frame
for each of its documents.

A microscope is also asked for its catalog, the list of its sessions; the answer is one frame of JSON.
"""

from __future__ import annotations

from typing import Annotated

import msgspec

from frazil.documents import MICROSCOPE_SCHEMA, SCHEMA_VERSION, without_session

__all__ = [
    "MAX_PAGE_BYTES",
    "MAX_PAGE_DOCUMENTS",
    "MAX_PAGE_SESSIONS",
    "MAX_REQUEST_BYTES",
    "CatalogEntry",
    "CatalogPage",
    "CatalogRequest",
    "ReplayError",
    "ReplayPage",
    "ReplayRequest",
    "decode_answer",
    "decode_request",
    "encode_answer",
]

MAX_REQUEST_BYTES = 4096
MAX_PAGE_DOCUMENTS = 100
MAX_PAGE_SESSIONS = 100
MAX_PAGE_BYTES = 256 * 1024
"""A page ends with the document that reaches this size."""

_LAST = 2**63 - 1
_Place = Annotated[int, msgspec.Meta(ge=0, le=_LAST)]
_Session = Annotated[str, msgspec.Meta(max_length=1024)]
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
    session: _Session = ""
    """Name of the session; left out, it is the only one."""


class CatalogRequest(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """A request for the sessions of a microscope."""

    catalog: bool
    """True, which tells it from a request for documents."""
    after: _Session = ""
    """Name of the last session of the page before; left out for the first page."""


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
    session: str = ""
    """Name of the session of a microscope; left out where a daemon has one session."""


class CatalogEntry(msgspec.Struct, frozen=True, kw_only=True):
    """A session of a microscope."""

    session: str
    """Its name."""
    epoch: str
    """Identity of the ledger that numbers its documents."""
    head: int
    """Sequence number of its newest document that was published."""
    generation: str
    """Identity of this run of the ledger."""
    since: int
    """Sequence number of its first document in this run: 1 for a new session."""
    live: bool
    """Whether it is open. A closed one has no heartbeats, but its documents can be requested."""


class CatalogPage(msgspec.Struct, frozen=True, kw_only=True, tag_field="type", tag="catalog"):
    """A page of a microscope's catalog: the sessions whose names come after the one in the request, in this order."""

    schema: int = MICROSCOPE_SCHEMA
    catalog: str
    """Version of the catalog, as in heartbeats."""
    sessions: tuple[CatalogEntry, ...]
    """At most 100, ordered by the code points of their names."""
    more: bool
    """Whether there are others after the last one."""


class ReplayError(msgspec.Struct, frozen=True, kw_only=True, tag_field="type", tag="error"):
    """The request cannot be answered."""

    error: str
    """The reason: what was expected and what was found."""


class _Kind(msgspec.Struct):
    catalog: bool = False


_KINDS = msgspec.json.Decoder(_Kind)
_REQUESTS = msgspec.json.Decoder(ReplayRequest)
_CATALOG_REQUESTS = msgspec.json.Decoder(CatalogRequest)
_Answer = ReplayPage | CatalogPage | ReplayError
_ANSWERS: msgspec.json.Decoder[_Answer] = msgspec.json.Decoder(_Answer)


def decode_request(body: bytes) -> ReplayRequest | CatalogRequest:
    """Decode a request.

    Raises:
        ValueError: the bytes are no request.
    """
    return _CATALOG_REQUESTS.decode(body) if _KINDS.decode(body).catalog else _REQUESTS.decode(body)


def encode_answer(answer: ReplayPage | CatalogPage | ReplayError) -> bytes:
    """Encode the first frame of an answer."""
    return without_session(msgspec.json.encode(answer))


def decode_answer(body: bytes) -> ReplayPage | CatalogPage | ReplayError:
    """Decode the first frame of an answer.

    Raises:
        ValueError: the bytes are no answer.
    """
    return _ANSWERS.decode(body)
