"""Edits: one person's change of one micrograph each, as the ledger keeps it."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec

__all__ = [
    "MOST_EDITS_OF_MICROGRAPH",
    "MOST_NAME_LETTERS",
    "MOST_OUTLINES",
    "AddPick",
    "DeletePick",
    "Edit",
    "JunkOutline",
    "MarkMicrograph",
    "UndoEdit",
    "check_edit",
    "read_edit",
]

MOST_EDITS_OF_MICROGRAPH = 40_000
"""Also those that were undone. More than anybody clicks; an import of 10,000 particles fits several times."""
MOST_OUTLINES = 200
"""Of junk, in one micrograph."""
MOST_NAME_LETTERS = 100
"""Of the person who makes an edit."""
_FARTHEST_PX = 1_000_000
_MOST_PATH_LETTERS = 4096

EditId = Annotated[str, msgspec.Meta(pattern=r"^[A-Za-z0-9-]{8,64}\Z")]
Place = Annotated[float, msgspec.Meta(ge=-_FARTHEST_PX, le=_FARTHEST_PX)]
Corner = tuple[Place, Place]


class _Edit(msgspec.Struct, frozen=True, kw_only=True, tag_field="kind", forbid_unknown_fields=True):
    """What all edits have. Places are rows and columns in pixels of the micrograph; pixel centres are integers."""

    id: EditId
    """Chosen by who makes it; the same one again is the same edit."""
    path: Annotated[str, msgspec.Meta(min_length=1, max_length=_MOST_PATH_LETTERS)]
    """The ledger's name of the micrograph."""
    seq: Annotated[int, msgspec.Meta(ge=0, le=2**63 - 1)] = 0
    """Number of the result that the person saw; 0 where that is not known."""
    by: Annotated[str, msgspec.Meta(max_length=MOST_NAME_LETTERS)] = ""
    """Who made it; empty where nobody said."""
    at: float = 0.0
    """When it was left in the ledger, in seconds of Unix time."""


class AddPick(_Edit, frozen=True, kw_only=True, tag="add"):
    """A particle that the model missed."""

    y: Place
    x: Place


class DeletePick(_Edit, frozen=True, kw_only=True, tag="delete"):
    """A pick that is no particle: the nearest one within a quarter of the particle's diameter is meant."""

    y: Place
    x: Place


class JunkOutline(_Edit, frozen=True, kw_only=True, tag="junk"):
    """A region without particles worth picking, such as ice or carbon: all picks inside go."""

    outline: Annotated[tuple[Corner, ...], msgspec.Meta(min_length=3, max_length=200)]
    """Its corners y, x in their order."""


class MarkMicrograph(_Edit, frozen=True, kw_only=True, tag="mark"):
    """A verdict on the whole micrograph. One marked bad has no picks until the mark is lifted."""

    mark: Literal["good", "bad", ""]
    """Empty lifts an earlier one."""


class UndoEdit(_Edit, frozen=True, kw_only=True, tag="undo"):
    """An earlier edit of the same micrograph does not hold; where that is an undo itself, what it undid holds again."""

    edit: EditId


Edit = AddPick | DeletePick | JunkOutline | MarkMicrograph | UndoEdit

_DECODER: msgspec.json.Decoder[Edit] = msgspec.json.Decoder(Edit)


def read_edit(body: bytes | msgspec.Raw) -> Edit:
    """Decode an edit from JSON.

    Raises:
        ValueError: it is none, or a value in it is impossible.
    """
    try:
        return _DECODER.decode(body)
    except msgspec.MsgspecError as error:
        raise ValueError(f"expected an edit: {error}") from error


def check_edit(edit: Edit, shape: tuple[int, int] | None) -> str:
    """Why an edit cannot be of a micrograph, in one line; empty where it can.

    Args:
        edit: to be left in the ledger.
        shape: (h, w) of the micrograph; None where it has no result yet.
    """
    if isinstance(edit, MarkMicrograph | UndoEdit):
        return ""
    if shape is None:
        return "expected a micrograph with a result in the ledger, found none as yet, or one that was archived"
    if isinstance(edit, JunkOutline):
        (top, left), (bottom, right) = (tuple(pick(c) for c in zip(*edit.outline, strict=True)) for pick in (min, max))
        is_inside = _meets(top, bottom, shape[0]) and _meets(left, right, shape[1])
        found = f"an outline from y {top:g}, x {left:g} to y {bottom:g}, x {right:g}"
    else:
        is_inside = _meets(edit.y, edit.y, shape[0]) and _meets(edit.x, edit.x, shape[1])
        found = f"y {edit.y:g}, x {edit.x:g}"
    return "" if is_inside else f"expected a place in a picture of {shape[1]} x {shape[0]} px, found {found}"


def _meets(low: float, high: float, size: int) -> bool:
    """Whether a range of pixels has any in a picture of that size; its edges are half a pixel off their centres."""
    return low <= size - 0.5 and high >= -0.5
