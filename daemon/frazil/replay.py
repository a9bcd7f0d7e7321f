"""Replay: how to ask a daemon for documents from a sequence number on, and what it answers.

A request is one frame of JSON. The answer is a page, one frame of JSON that says what it holds, followed by that many
documents, one a frame, or an error.
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
"""A page ends with the document that reaches this."""

_LAST = 2**63 - 1
_Place = Annotated[int, msgspec.Meta(ge=0, le=_LAST)]
_Topics = Annotated[tuple[Annotated[str, msgspec.Meta(max_length=1024)], ...], msgspec.Meta(max_length=16)]


class ReplayRequest(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """Documents wanted."""

    first: _Place = msgspec.field(name="from")
    """Sequence number of the first one."""
    until: _Place = _LAST
    """Sequence number before which to end."""
    limit: Annotated[int, msgspec.Meta(ge=1, le=MAX_PAGE_DOCUMENTS)] = MAX_PAGE_DOCUMENTS
    """Documents at most."""
    topics: _Topics = ("",)
    """Beginnings of the topics wanted, as in a subscription."""
    generation: Annotated[str, msgspec.Meta(max_length=64)] | None = None
    """During which everything before `first` was read, empty where that is not known: the answer says how much of it
    still holds. None: no such question."""


class ReplayPage(msgspec.Struct, frozen=True, kw_only=True, tag_field="type", tag="page"):
    """What follows in the other frames: every document wanted from `first` on, up to but without `next`."""

    schema: int = SCHEMA_VERSION
    epoch: str
    """Identity of the ledger that counts."""
    first: int = msgspec.field(name="from")
    """As asked."""
    next: int
    """Where to ask on."""
    head: int
    """Place of the newest document that was published."""
    oldest: int
    """Place of the oldest document that the ledger still holds; 0 where it holds none."""
    documents: int
    """Number of frames that follow."""
    generation: str = ""
    """Identity of this run of the ledger."""
    common: int | None = None
    """Asked with a generation: up to this place, what was read then is what the ledger has. Where that is before
    `first` - 1, no documents follow: ask again from behind it."""
    missing: tuple[tuple[int, int], ...] | None = None
    """First and last of the places from `first` on, before `next`, of which the ledger has no readable document of
    any topic any more; None from a frazil that does not say."""


class ReplayError(msgspec.Struct, frozen=True, kw_only=True, tag_field="type", tag="error"):
    """The request cannot be answered."""

    error: str
    """What was expected and what was found."""


_REQUESTS = msgspec.json.Decoder(ReplayRequest)
_ANSWERS: msgspec.json.Decoder[ReplayPage | ReplayError] = msgspec.json.Decoder(ReplayPage | ReplayError)


def decode_request(body: bytes) -> ReplayRequest:
    """A request from JSON.

    Raises:
        ValueError: the bytes are none.
    """
    return _REQUESTS.decode(body)


def decode_answer(body: bytes) -> ReplayPage | ReplayError:
    """The first frame of an answer from JSON.

    Raises:
        ValueError: the bytes are none.
    """
    return _ANSWERS.decode(body)
