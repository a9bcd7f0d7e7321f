"""What a list of micrographs shows: its rows, a page of them, and what stands around one micrograph."""

from __future__ import annotations

import msgspec

from frazil.session.outbox.ledger import State

__all__ = ["Around", "Row", "Rows"]


class Row(msgspec.Struct, frozen=True, kw_only=True):
    """A line of the list of micrographs."""

    path: str
    state: State
    reason: str
    at: float | None
    seq: int | None
    picks: int | None
    score: float | None
    mark: str = ""
    """``good`` or ``bad``, as a person said; empty where nobody did."""
    corrected: bool = False
    """Whether a person changed its picks."""
    grade: str = ""
    """``good``, ``doubtful`` or ``bad``, as frazil finds; empty where it was not assessed."""
    category: str = ""
    """What is wrong with it."""
    precision: float | None = None
    """Fraction of its picks that are expected to be particles."""
    defocus_um: float | None = None
    """Underfocus, the mean of both axes; None where the fit is not reliable, as is the next one."""
    resolution_angstrom: float | None = None
    """To which the CTF fits."""
    ice: float | None = None
    """Relative thickness of the ice."""
    junk_fraction: float | None = None


class Rows(msgspec.Struct, frozen=True, kw_only=True):
    """A page of the list of micrographs."""

    count: int
    """Of all that were found."""
    offset: int
    rows: list[Row]
    folders: list[str]
    """Of all micrographs, below the watched directory; the first ones where there are very many."""
    complete: bool
    """Whether every result was read as yet; until then a list by picks or score is of those that were."""
    stale: bool
    """Whether the ledger has changed since the list was ordered, which of a long one is not done at every change."""


class Around(msgspec.Struct, frozen=True, kw_only=True):
    """What stands around a micrograph in a list."""

    count: int
    """Of all that were found."""
    position: int | None
    """Of the micrograph, from 0; None where it is not in the list."""
    first: int
    """Position of the first of the rows."""
    rows: list[Row]
    """The micrograph among its neighbours."""
    previous: str | None
    next: str | None
    bad_previous: str | None
    """The nearest one before it to look at: failed, not good, or with few picks where no person says that it is."""
    bad_next: str | None
    complete: bool
    stale: bool
