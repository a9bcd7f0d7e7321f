"""Edits in the ledger: left by whoever corrects, from any process, and granted by the daemon, which applies them.

They are never deleted: they hold also for what is picked later.
"""

from __future__ import annotations

import logging
import sqlite3
import time
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path

import msgspec

from frazil.documents import PickColumns
from frazil.errors import OutputError
from frazil.session.correct import (
    MOST_EDITS_OF_MICROGRAPH,
    MOST_OUTLINES,
    Edit,
    JunkOutline,
    UndoEdit,
    check_edit,
    read_edit,
)
from frazil.session.outbox.ledger.layout import checksum, connect, open_read_only, transaction

__all__ = [
    "AppliedEdits",
    "LeftEdits",
    "StoredEdit",
    "decode_edit",
    "decode_uncorrected",
    "leave_edits",
    "next_to_correct",
    "note_granted",
    "select_edits",
    "select_uncorrected",
    "store_applied",
    "whole",
]

log = logging.getLogger(__name__)

_EDITS = "SELECT number, body, checksum, seq FROM edits WHERE path = ? ORDER BY number"
_WAITING = (
    "SELECT m.path FROM edits e JOIN micrographs m ON m.path = e.path JOIN documents d ON d.seq = m.seq "
    "WHERE e.seq IS NULL ORDER BY e.number LIMIT 1"
)
"""Of a micrograph without a result they wait until it is picked."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredEdit:
    """An edit as it stands in the ledger."""

    number: int
    """Its place among all."""
    edit: Edit | None
    """None where it is damaged."""
    seq: int | None
    """The first result that it is in; None while it waits."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AppliedEdits:
    """The edits that are in a result which is to be committed."""

    number: int
    """Up to which they were applied; later ones wait."""
    uncorrected: PickColumns
    """The picks without them, kept so that an edit can be undone."""


@dataclass(slots=True, kw_only=True)
class LeftEdits:
    """What became of edits that were to be left."""

    accepted: int = 0
    """Those that are in the ledger now, those that were there before included."""
    merged: list[str] = field(default_factory=list)
    """Micrographs with a newer result than was seen: the edits hold for that one."""
    refused: list[tuple[str, str]] = field(default_factory=list)
    """The id of each edit that cannot be one, and why."""


def leave_edits(file: Path, edits: Sequence[Edit], *, by: str = "") -> LeftEdits:
    """Leave edits in the ledger. A running daemon applies them within a second, another at its start.

    One that is in the ledger already is not left again, so whoever is not sure may send it once more.

    Args:
        file: the ledger.
        edits: in their order.
        by: who made them.

    Raises:
        OutputError: there is no ledger, or it cannot be written.
    """
    open_read_only(file).close()  # nothing is made or migrated here
    left, now = LeftEdits(), time.time()
    try:
        with closing(connect(file)) as database:
            known = {path: _look_up(database, path) for path in dict.fromkeys(edit.path for edit in edits)}
            with transaction(database):
                for edit in edits:
                    one = known[edit.path]
                    stamped = msgspec.structs.replace(edit, by=by, at=now)
                    why = _why_not(database, stamped, one)
                    if why is None:
                        left.accepted += 1
                    elif why:
                        left.refused.append((edit.id, why))
                    else:
                        _insert(database, stamped, one)
                        left.accepted += 1
                        if one is not None and 0 < edit.seq < one.seq and edit.path not in left.merged:
                            left.merged.append(edit.path)
    except sqlite3.Error as error:
        raise OutputError(f"{file}: the edits cannot be left in the ledger: {error}") from error
    return left


@dataclass(slots=True, kw_only=True)
class _Known:
    """The little of a micrograph that an edit is checked against."""

    seq: int
    shape: tuple[int, int] | None
    edits: int
    outlines: int


class _Shape(msgspec.Struct):
    shape: tuple[int, int]


_SHAPE = msgspec.json.Decoder(_Shape)


def _look_up(database: sqlite3.Connection, path: str) -> _Known | None:
    row = database.execute(
        "SELECT m.seq, d.body FROM micrographs m LEFT JOIN documents d ON d.seq = m.seq WHERE m.path = ?", (path,)
    ).fetchone()
    if row is None:
        return None
    shape = None
    if row[1] is not None:
        try:
            shape = _SHAPE.decode(row[1]).shape
        except msgspec.MsgspecError:
            log.debug("result %s of %s is damaged", row[0], path)
    edits = whole(select_edits(database, path))
    outlines = sum(isinstance(edit, JunkOutline) for edit in edits)
    return _Known(seq=row[0] or 0, shape=shape, edits=len(edits), outlines=outlines)


def _why_not(database: sqlite3.Connection, edit: Edit, known: _Known | None) -> str | None:
    """Why an edit is refused; empty where it is to be left, None where it is there already."""
    if known is None:
        return "expected a micrograph that the ledger knows"
    there = database.execute("SELECT body FROM edits WHERE id = ?", (edit.id,)).fetchone()
    if there is not None:
        return None if _is_same(there[0], edit) else "expected an id of its own, found that of another edit"
    if isinstance(edit, UndoEdit):
        undone = database.execute("SELECT 1 FROM edits WHERE id = ? AND path = ?", (edit.edit, edit.path)).fetchone()
        if undone is None:
            return "expected the id of an earlier edit of this micrograph to undo"
    if known.edits >= MOST_EDITS_OF_MICROGRAPH:
        return f"expected at most {MOST_EDITS_OF_MICROGRAPH} edits of one micrograph"
    if isinstance(edit, JunkOutline) and known.outlines >= MOST_OUTLINES:
        return f"expected at most {MOST_OUTLINES} outlines in one micrograph"
    return check_edit(edit, known.shape)


def _is_same(body: bytes, edit: Edit) -> bool:
    try:
        earlier = read_edit(body)
    except ValueError:
        return False
    return msgspec.structs.replace(earlier, by="", at=0.0, seq=0) == msgspec.structs.replace(edit, by="", at=0.0, seq=0)


def _insert(database: sqlite3.Connection, edit: Edit, known: _Known | None) -> None:
    body = msgspec.json.encode(edit)
    database.execute(
        "INSERT INTO edits (id, path, made_at, body, checksum) VALUES (?, ?, ?, ?, ?)",
        (edit.id, edit.path, edit.at, body, checksum(body)),
    )
    if known is not None:
        known.edits += 1
        known.outlines += isinstance(edit, JunkOutline)


def select_edits(database: sqlite3.Connection, path: str) -> list[StoredEdit]:
    """The edits of a micrograph in their order."""
    return [decode_edit(*row) for row in database.execute(_EDITS, (path,)).fetchall()]


def decode_edit(number: int, body: bytes, expected: int, seq: int | None) -> StoredEdit:
    """An edit from its row."""
    edit = None
    try:
        if checksum(body) == expected:
            edit = read_edit(body)
    except (ValueError, TypeError) as error:
        log.debug("edit %d: %s", number, error)
    if edit is None:
        log.warning("passed over edit %d: expected it as it was left, found it damaged", number)
    return StoredEdit(number=number, edit=edit, seq=seq)


def whole(stored: Sequence[StoredEdit]) -> list[Edit]:
    """The edits among these that are not damaged."""
    return [one.edit for one in stored if one.edit is not None]


def next_to_correct(database: sqlite3.Connection) -> str | None:
    """The micrograph with a result whose edits have waited longest; None where none waits."""
    row = database.execute(_WAITING).fetchone()
    return None if row is None else str(row[0])


def select_uncorrected(database: sqlite3.Connection, seq: int) -> PickColumns | None:
    """The picks of a result without edits; None where nothing was kept, or it is damaged."""
    row = database.execute("SELECT body, checksum FROM uncorrected_picks WHERE seq = ?", (seq,)).fetchone()
    return None if row is None else decode_uncorrected(*row)


def decode_uncorrected(body: bytes, expected: int) -> PickColumns | None:
    """Picks without edits from their row; None where they are damaged."""
    try:
        return msgspec.json.decode(body, type=PickColumns) if checksum(body) == expected else None
    except (ValueError, TypeError):
        return None


def store_applied(database: sqlite3.Connection, path: str, seq: int, applied: AppliedEdits) -> None:
    """Note, in the transaction that commits a result, which edits are in it, and what it was without them."""
    body = msgspec.json.encode(applied.uncorrected)
    database.execute(
        "INSERT INTO uncorrected_picks (seq, checksum, body) VALUES (?, ?, ?)", (seq, checksum(body), body)
    )
    note_granted(database, path, seq, applied.number)


def note_granted(database: sqlite3.Connection, path: str, seq: int, number: int) -> None:
    """Note that edits of a micrograph up to a number do not wait any more, but are in a result."""
    database.execute("UPDATE edits SET seq = ? WHERE path = ? AND seq IS NULL AND number <= ?", (seq, path, number))
