"""Which micrographs a list shows, and in which order: as an address says, and as SQL."""

from __future__ import annotations

from typing import Literal

import msgspec

from frazil.documents import Category, Grade
from frazil.session.outbox.ledger import State

__all__ = ["DEFOCUS_UM", "RESOLUTION_ANGSTROM", "VERDICT", "Query"]

Mark = Literal["good", "bad", "corrected", ""]
Verdict = Grade | Literal["usable", ""]
"""``usable`` is all but what is bad."""
Sort = Literal["name", "time", "picks", "score", "grade", "precision", "defocus", "resolution", "ice", "junk"]

VERDICT = "coalesce(nullif(g.mark, ''), q.grade)"
"""Whether a micrograph is worth keeping, as SQL: a person's mark, else the grade; null where there is neither."""
DEFOCUS_UM = "CASE WHEN q.ctf_is_reliable THEN (q.defocus_u_angstrom + q.defocus_v_angstrom) / 2e4 END"
"""Underfocus, the mean of both axes, as SQL; null where the fit is not reliable."""
RESOLUTION_ANGSTROM = "CASE WHEN q.ctf_is_reliable THEN q.ctf_resolution_angstrom END"
_NUMBERED = {
    "time": "coalesce(m.picked_at, m.seen_at)",
    "picks": "g.picks",
    "score": "g.score",
    "grade": "CASE q.grade WHEN 'bad' THEN 0 WHEN 'doubtful' THEN 1 WHEN 'good' THEN 2 END",
    "precision": "q.estimated_precision",
    "defocus": DEFOCUS_UM,
    "resolution": RESOLUTION_ANGSTROM,
    "ice": "q.relative_ice_thickness",
    "junk": "q.junk_fraction",
}
"""What a list may be sorted by besides the name, which is the order of the ledger itself."""


class Query(msgspec.Struct, frozen=True, kw_only=True):
    """Which micrographs, and in which order."""

    search: str = ""
    """Words that the name holds, whatever their case."""
    states: tuple[State, ...] = ()
    """Only these; all without any."""
    folder: str = ""
    """Only micrographs in this folder or below it."""
    mark: Mark = ""
    """Only micrographs that a person marked so, or corrected."""
    grade: Verdict = ""
    """Only micrographs of this grade; a person's mark decides before frazil's grade."""
    category: Category = ""
    """Only micrographs of which this is wrong."""
    square: str = ""
    """Only micrographs taken in this grid square."""
    sort: Sort = "name"
    order: Literal["up", "down"] = "down"

    @property
    def is_by_path(self) -> bool:
        """Whether the order is that of the ledger itself."""
        return self.sort == "name"

    @property
    def order_term(self) -> str:
        """What a list is sorted by besides the name, as SQL."""
        return _NUMBERED[self.sort]

    @property
    def needs_numbers(self) -> bool:
        """Whether results must have been read to tell."""
        return self.sort in ("picks", "score") or bool(self.mark) or bool(self.grade)

    def where(self) -> tuple[str, list[object]]:
        """As SQL, and its values."""
        terms, values = ["1"], []  # type: tuple[list[str], list[object]]
        if self.search:
            terms.append("instr(lower(m.path), lower(?)) > 0")
            values.append(self.search)
        if self.states:
            terms.append(f"m.state IN ({', '.join('?' * len(self.states))})")
            values += self.states
        if self.folder:
            below = f"{self.folder.rstrip('/')}/"
            terms.append("substr(m.path, 1, ?) = ?")
            values += [len(below), below]
        if self.mark == "corrected":
            terms.append("g.corrected")
        elif self.mark:
            terms.append("g.mark = ?")
            values.append(self.mark)
        if self.grade == "usable":
            terms.append(f"{VERDICT} != 'bad'")
        elif self.grade:
            terms.append(f"{VERDICT} = ?")
            values.append(self.grade)
        if self.category:
            terms.append("q.category = ?")
            values.append(self.category)
        if self.square:
            terms.append("q.square = ?")
            values.append(self.square)
        return " AND ".join(terms), values
