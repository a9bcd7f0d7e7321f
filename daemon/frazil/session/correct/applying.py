"""Edits applied: picks as a person wants them, from those of the model and all edits that hold."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

import msgspec
import numpy as np
from numpy.typing import NDArray

from frazil.documents import Corrections, Mark, MicrographDocument, PickColumns, columns_of
from frazil.junk_area import flag_picks
from frazil.picking import Picks, lie_inside
from frazil.session.correct.edits import AddPick, DeletePick, Edit, JunkOutline, MarkMicrograph, UndoEdit

__all__ = ["REACH_DIAMETERS", "Corrected", "apply", "correct_document", "live_edits", "uncorrected_picks", "undone_by"]

REACH_DIAMETERS = 0.25
"""A pick is meant by a place that is nearer to it than this, in particle diameters."""
ADDED_SCORE = 1.0


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Corrected:
    """Picks of a micrograph after edits."""

    picks: Picks
    """Best first; those of equal score by whether a person added them, then as the model has them, or by place."""
    added: NDArray[np.intp]
    """Indices of the picks that a person added."""
    deleted: int
    """Number of the model's picks that edits took away."""
    junk: tuple[JunkOutline, ...]
    mark: Mark


def undone_by(edits: Sequence[Edit]) -> dict[str, str]:
    """The edits that do not hold, each with the undo that took it back. An undo may be undone itself.

    Args:
        edits: of one micrograph, in the order in which they were left.
    """
    undone: dict[str, str] = {}
    for edit in reversed(edits):  # an undo comes after what it undoes
        if isinstance(edit, UndoEdit) and edit.id not in undone:
            undone[edit.edit] = edit.id
    return undone


def live_edits(edits: Sequence[Edit]) -> list[Edit]:
    """The edits of one micrograph that hold, in their order, without the undos."""
    undone = undone_by(edits)
    return [edit for edit in edits if not isinstance(edit, UndoEdit) and edit.id not in undone]


def apply(edits: Sequence[Edit], picks: Picks, diameter_px: float, shape: tuple[int, int]) -> Corrected:
    """Apply edits to the picks that model and limits give.

    A deleted place takes the nearest pick within a quarter of the diameter; where there is none, it takes nothing. A
    place that is added within that distance of a pick means that pick, so two people who add the same particle add
    one. What lies out of the picture, as after a file was written again in another size, adds nothing.

    Args:
        edits: all of the micrograph, in the order in which they were left.
        picks: of the model.
        diameter_px: particle diameter in pixels of the micrograph.
        shape: (h, w) of the micrograph.
    """
    mark: Mark = ""
    junk: list[JunkOutline] = []
    current = _Places(picks, REACH_DIAMETERS * diameter_px)
    for edit in live_edits(edits):
        match edit:
            case AddPick():
                if _is_inside(edit, shape) and current.nearest(edit.y, edit.x) is None:
                    current.add(edit.y, edit.x)
            case DeletePick():
                if (nearest := current.nearest(edit.y, edit.x)) is not None:
                    current.remove(nearest)
            case JunkOutline():
                junk.append(edit)
                current.remove_inside(edit)
            case MarkMicrograph():
                mark = edit.mark
    if mark == "bad":
        current.clear()
    result, added = current.picks()
    return Corrected(
        picks=result, added=added, deleted=len(picks) - (len(result) - added.size), junk=tuple(junk), mark=mark
    )


def correct_document(document: MicrographDocument, edits: Sequence[Edit]) -> MicrographDocument:
    """A document with its picks corrected; as it would be without corrections where no edit holds.

    Args:
        document: with the picks that model and limits give.
        edits: all of the micrograph, in the order in which they were left.
    """
    live = live_edits(edits)
    if not live:
        return flag_picks(msgspec.structs.replace(document, corrections=msgspec.UNSET))
    y, x, score = document.picks.arrays()
    corrected = apply(edits, Picks(y=y, x=x, score=score), document.diameter_px, document.shape)
    corrections = Corrections(
        at=datetime.fromtimestamp(max(edit.at for edit in live), UTC).isoformat(timespec="milliseconds"),
        by=sorted({edit.by for edit in live} - {""}),
        mark=corrected.mark,
        added=corrected.added.tolist(),
        deleted=corrected.deleted,
        junk=[list(edit.outline) for edit in corrected.junk],
    )
    return flag_picks(msgspec.structs.replace(document, picks=columns_of(corrected.picks), corrections=corrections))


def uncorrected_picks(document: MicrographDocument, kept: PickColumns | None) -> PickColumns:
    """The picks of a document without edits.

    Args:
        document: of the result.
        kept: what the ledger has of them. Where that was lost, picks that were taken away stay so.
    """
    if kept is not None or isinstance(document.corrections, msgspec.UnsetType):
        return kept or document.picks
    added = set(document.corrections.added)

    def of_model(column: list[float]) -> list[float]:
        return [value for i, value in enumerate(column) if i not in added]

    picks = document.picks
    return PickColumns(y=of_model(picks.y), x=of_model(picks.x), score=of_model(picks.score))


class _Places:
    """Picks that are looked for by place: each lies in a cell as wide as the reach, and is met from those around it."""

    def __init__(self, picks: Picks, reach_px: float) -> None:
        self._reach_px = max(reach_px, 1e-6)
        self._model = picks
        self._y, self._x = picks.y.tolist(), picks.x.tolist()
        self._is_there = [True] * len(picks)
        self._cells: dict[tuple[int, int], list[int]] = {}
        for i in range(len(picks)):
            self._cells.setdefault(self._cell(i), []).append(i)

    def nearest(self, y: float, x: float) -> int | None:
        """The pick nearest to a place, if it is within reach."""
        row, column = int(y // self._reach_px), int(x // self._reach_px)
        around = (
            (math.hypot(self._y[i] - y, self._x[i] - x), i)
            for near_row in (row - 1, row, row + 1)
            for near_column in (column - 1, column, column + 1)
            for i in self._cells.get((near_row, near_column), ())
        )
        distance, i = min(around, default=(math.inf, -1))
        return i if distance <= self._reach_px else None

    def add(self, y: float, x: float) -> None:
        self._y.append(y)
        self._x.append(x)
        self._is_there.append(True)
        i = len(self._y) - 1
        self._cells.setdefault(self._cell(i), []).append(i)

    def remove(self, i: int) -> None:
        self._is_there[i] = False
        self._cells[self._cell(i)].remove(i)

    def remove_inside(self, junk: JunkOutline) -> None:
        """Remove the picks inside an outline."""
        for i in self._there()[lie_inside([junk.outline], *self._arrays())].tolist():
            self.remove(i)

    def clear(self) -> None:
        self._is_there = [False] * len(self._is_there)

    def picks(self) -> tuple[Picks, NDArray[np.intp]]:
        """The picks that are there, and the indices of the added ones among them.

        Added ones of equal score are in the order of their places, so that it does not matter who was first.
        """
        there, (y, x) = self._there(), self._arrays()
        is_added = there >= len(self._model)
        score = np.full(there.size, ADDED_SCORE)
        score[~is_added] = self._model.score[there[~is_added]]
        order = np.lexsort(
            (np.where(is_added, 0, there), np.where(is_added, x, 0), np.where(is_added, y, 0), ~is_added, -score)
        )
        return Picks(y=y, x=x, score=score).select(order), np.flatnonzero(is_added[order])

    def _cell(self, i: int) -> tuple[int, int]:
        return int(self._y[i] // self._reach_px), int(self._x[i] // self._reach_px)

    def _there(self) -> NDArray[np.intp]:
        return np.flatnonzero(np.array(self._is_there, bool))

    def _arrays(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        there = self._there()
        return np.array(self._y, np.float64)[there], np.array(self._x, np.float64)[there]


def _is_inside(edit: AddPick, shape: tuple[int, int]) -> bool:
    return -0.5 <= edit.y <= shape[0] - 0.5 and -0.5 <= edit.x <= shape[1] - 0.5
