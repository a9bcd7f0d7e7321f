"""Junk in documents: where it is, and what becomes of the picks that lie in it."""

from __future__ import annotations

from dataclasses import dataclass

import msgspec
import numpy as np

from frazil.documents import JunkArea, MicrographDocument
from frazil.limits import JunkPicks
from frazil.picking import JunkFinder, Micrograph, Outlines, Picks, Picture, lie_inside

__all__ = [
    "JunkSearch",
    "MaybeJunk",
    "describe_junk",
    "flag_picks",
    "no_junk",
    "outlines_of",
    "outside_junk",
    "sift_picks",
]

MaybeJunk = JunkArea | msgspec.UnsetType
"""Of a document; unset where junk was not looked for."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class JunkSearch:
    """How junk is looked for."""

    finder: JunkFinder
    picks: JunkPicks
    """What becomes of picks that lie in it."""

    def find(self, micrograph: Micrograph, picture: Picture) -> JunkArea:
        """Find the junk of a micrograph; arguments and errors are those of `JunkFinder.find`."""
        found = self.finder.find(micrograph, picture)
        return JunkArea(
            fraction=found.fraction, outlines=found.outlines, picks=self.picks, model=self.finder.model.identity
        )


def no_junk(micrograph: Micrograph, picture: Picture) -> MaybeJunk:  # noqa: ARG001 - those of `JunkSearch.find`
    """Where junk is not looked for."""
    return msgspec.UNSET


def outlines_of(junk: MaybeJunk) -> Outlines:
    """The outlines of junk; none where it was not looked for."""
    return () if isinstance(junk, msgspec.UnsetType) else junk.outlines


def outside_junk(junk: MaybeJunk, picks: Picks) -> Picks:
    """The picks that lie in no junk."""
    return picks.select(~lie_inside(outlines_of(junk), picks.y, picks.x))


def sift_picks(junk: MaybeJunk, picks: Picks) -> tuple[Picks, MaybeJunk]:
    """Leave out the picks that lie in junk, or flag them; and the junk, with what became of them.

    A pick lies in junk where its centre does.

    Args:
        junk: of the micrograph.
        picks: that model and limits give.
    """
    if isinstance(junk, msgspec.UnsetType):
        return picks, junk
    inside = lie_inside(junk.outlines, picks.y, picks.x)
    if junk.picks == "flag":
        return picks, msgspec.structs.replace(junk, dropped=0, flagged=np.flatnonzero(inside).tolist())
    return picks.select(~inside), msgspec.structs.replace(junk, dropped=int(inside.sum()), flagged=[])


def flag_picks(document: MicrographDocument) -> MicrographDocument:
    """A document whose picks were changed by a person, with those flagged that lie in junk now."""
    if isinstance(document.junk, msgspec.UnsetType):
        return document
    y, x, _ = document.picks.arrays()
    flagged = np.flatnonzero(lie_inside(document.junk.outlines, y, x)).tolist()
    return msgspec.structs.replace(document, junk=msgspec.structs.replace(document.junk, flagged=flagged))


def describe_junk(document: MicrographDocument) -> str:
    """The junk of a micrograph as the end of a line for people; empty where there is none to speak of."""
    junk = document.junk
    if isinstance(junk, msgspec.UnsetType) or not junk.outlines:
        return ""
    if junk.picks == "drop":
        return f", {junk.fraction:.0%} of it junk ({junk.dropped} picks left out)"
    return f", {junk.fraction:.0%} of it junk ({len(junk.flagged)} picks flagged)"
