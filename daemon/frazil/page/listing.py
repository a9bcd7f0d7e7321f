"""The list of micrographs, sorted and filtered, and what stands around one of them in it.

A few numbers of each result are kept in a table of SQLite's own memory, so that each document is read once and the
list is sorted by any of them at once. The order of the last few lists that were asked for is kept until the ledger
changes.
"""

from __future__ import annotations

import sqlite3
import time
from collections import OrderedDict
from collections.abc import Sequence
from typing import Literal

import msgspec

from frazil.page.session import Glance, Session, glance
from frazil.session.outbox.ledger import OLDEST_READABLE, State, open_read_only

__all__ = ["Around", "Listing", "Query", "Row", "Rows", "rest_until"]

Mark = Literal["good", "bad", "corrected", ""]
Sort = Literal["name", "time", "picks", "score"]
_SORTS = {
    "name": "m.path",
    "time": "coalesce(m.picked_at, m.seen_at)",
    "picks": "g.picks",
    "score": "g.score",
}
"""What a list may be sorted by."""

_NUMBERS = (
    "CREATE TEMP TABLE glances "
    "(seq INTEGER PRIMARY KEY, picks INTEGER, score REAL, mark TEXT, corrected INTEGER, at REAL)"
)
_JOINED = "micrographs m LEFT JOIN temp.glances g ON g.seq = m.seq"
_COLUMNS = "m.path, m.state, m.reason, coalesce(m.picked_at, m.seen_at), m.seq, g.picks, g.score, g.mark, g.corrected"
_FAILED = "m.state IN ('failed', 'quarantined')"
_FEW_SHARE = 1 / 3
"""A micrograph with fewer picks than this share of the session's median is one to look at."""
_AT_ONCE = 500
_READ_SECONDS = 0.15
_PATHS_KEPT = 400_000
_MOST_FOLDERS = 200
_FOLDERS_SECONDS = 30.0
_VARIABLES = 500
_SHORT_SECONDS = 0.02
_REST = 10
"""What takes longer is followed by a rest of so many times its own time."""


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
    """The nearest one before it that failed, was marked bad or has few picks."""
    bad_next: str | None
    complete: bool
    stale: bool


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
    sort: Sort = "name"
    order: Literal["up", "down"] = "down"

    @property
    def needs_numbers(self) -> bool:
        """Whether results must have been read to tell."""
        return self.sort in ("picks", "score") or bool(self.mark)

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
        return " AND ".join(terms), values


class _Order(msgspec.Struct, frozen=True):
    version: tuple[int, int]
    """Of the ledger and of what was read of it."""
    until: float
    """Up to when it is good enough, on the monotonic clock."""
    paths: list[str]
    bad: list[int]
    """Positions of those to look at, in order."""
    positions: dict[str, int]


def rest_until(started: float) -> float:
    """Up to when what was begun at a time, on the monotonic clock, and is done now need not be done again.

    So however many browsers ask while a session runs, a long list takes a small part of the time.
    """
    now = time.monotonic()
    took = now - started
    return now + took * _REST if took > _SHORT_SECONDS else now


class Listing:
    """Lists the micrographs of a session; from one thread.

    Args:
        session: whose ledger is read.
    """

    def __init__(self, session: Session) -> None:
        self._session = session
        self._opened: sqlite3.Connection | None = None
        self._orders: OrderedDict[Query, _Order] = OrderedDict()
        self._read = 0
        self._folders: list[str] = []
        self._folders_until = 0.0
        self.complete = False

    def close(self) -> None:
        """Close the ledger."""
        if self._opened is not None:
            self._opened.close()

    def advance(self) -> None:
        """Read what was committed since, for a short while; `complete` tells whether that was all."""
        deadline = time.monotonic() + _READ_SECONDS
        self.complete = False
        while not self.complete and time.monotonic() < deadline:
            results = self._session.reader.results_after(self._read, _AT_ONCE)
            self._note([seen for stored in results if (seen := glance(stored)) is not None])
            self._read = results[-1].seq if results else self._read
            self.complete = len(results) < _AT_ONCE

    def rows(self, query: Query, offset: int, limit: int) -> Rows:
        """A page of the list."""
        self._prepare(query)
        order = self._order(query)
        return Rows(
            count=len(order.paths),
            offset=offset,
            rows=self._rows(order.paths[offset : offset + limit]),
            folders=self._all_folders(),
            complete=self.complete or not query.needs_numbers,
            stale=order.version != self._version(),
        )

    def around(self, query: Query, path: str, each: int) -> Around:
        """What stands around a micrograph, so many on each side."""
        self.advance()
        order = self._order(query)
        at = order.positions.get(path)
        before, after = (-1, 0) if at is None else (at - 1, at + 1)
        first = max(0, after - 1 - each)
        bad_before = [position for position in order.bad if at is not None and position < at]
        bad_after = [position for position in order.bad if at is None or position > at]

        def name(position: int | None) -> str | None:
            return order.paths[position] if position is not None and 0 <= position < len(order.paths) else None

        return Around(
            count=len(order.paths),
            position=at,
            first=first,
            rows=self._rows(order.paths[first : after + each]),
            previous=name(before),
            next=name(after),
            bad_previous=name(bad_before[-1] if bad_before else None),
            bad_next=name(bad_after[0] if bad_after else None),
            complete=self.complete,
            stale=order.version != self._version(),
        )

    def results(self) -> list[tuple[int, float, int, float | None]]:
        """Number, time, picks and mean score of each result that was read and none has replaced, in order of time."""
        return self._database.execute(
            "SELECT g.seq, g.at, g.picks, g.score "
            "FROM micrographs m JOIN temp.glances g ON g.seq = m.seq ORDER BY g.at, g.seq"
        ).fetchall()

    @property
    def _database(self) -> sqlite3.Connection:
        if self._opened is None:
            self._opened = open_read_only(self._session.reader.file, oldest=OLDEST_READABLE)
            self._opened.execute("PRAGMA temp_store = MEMORY")
            self._opened.execute(_NUMBERS)
        return self._opened

    def _prepare(self, query: Query) -> None:
        if query.needs_numbers:
            self.advance()

    def _order(self, query: Query) -> _Order:
        order = self._orders.get(query)
        if order is None or (order.version != self._version() and time.monotonic() >= order.until):
            order = self._orders[query] = self._find(query)
        self._orders.move_to_end(query)
        while len(self._orders) > 1 and sum(len(kept.paths) for kept in self._orders.values()) > _PATHS_KEPT:
            self._orders.popitem(last=False)
        return order

    def _version(self) -> tuple[int, int]:
        return self._database.execute("PRAGMA data_version").fetchone()[0], self._read

    def _find(self, query: Query) -> _Order:
        version, started = self._version(), time.monotonic()
        where, values = query.where()
        way = "DESC" if query.order == "down" else "ASC"
        by = f"m.path {way}" if query.sort == "name" else f"{_SORTS[query.sort]} {way} NULLS LAST, m.path {way}"
        bad = f"{_FAILED} OR g.mark = 'bad' OR coalesce(g.picks < {self._few():.3f}, 0)"
        rows = self._database.execute(
            f"SELECT m.path, {bad} FROM {_JOINED} WHERE {where} ORDER BY {by}",  # noqa: S608
            values,
        ).fetchall()
        paths = [path for path, _ in rows]
        bad_ones = [k for k, (_, is_bad) in enumerate(rows) if is_bad]
        positions = {path: k for k, path in enumerate(paths)}
        return _Order(version, rest_until(started), paths, bad_ones, positions)

    def _few(self) -> float:
        """Picks below which there are few in this session."""
        middle = self._database.execute(
            "SELECT picks FROM temp.glances ORDER BY picks LIMIT 1 OFFSET (SELECT count(*) / 2 FROM temp.glances)"
        ).fetchone()
        return 0.0 if middle is None else middle[0] * _FEW_SHARE

    def _rows(self, paths: Sequence[str]) -> list[Row]:
        found: dict[str, Row] = {}
        for start in range(0, len(paths), _VARIABLES):
            some = list(paths[start : start + _VARIABLES])
            marks = ", ".join("?" * len(some))
            rows = self._database.execute(
                f"SELECT {_COLUMNS} FROM {_JOINED} WHERE m.path IN ({marks})",  # noqa: S608
                some,
            )
            for row in rows.fetchall():
                found[row[0]] = self._row(row)
        return [found[path] for path in paths if path in found]

    def _row(self, row: tuple) -> Row:  # type: ignore[type-arg]
        path, state, reason, at, seq, picks, score, mark, corrected = row
        if seq is not None and picks is None:  # it was not read as yet, or is damaged
            stored = self._session.reader.document(seq)
            seen = None if stored is None else glance(stored)
            if seen is None:
                seq = None
            else:
                self._note([seen])
                picks, score, mark, corrected = seen.picks, seen.score, seen.mark, seen.corrected
        return Row(
            path=path,
            state=state,
            reason=reason,
            at=at,
            seq=seq,
            picks=picks,
            score=score,
            mark=mark or "",
            corrected=bool(corrected),
        )

    def _note(self, seen: Sequence[Glance]) -> None:
        self._database.executemany(
            # A micrograph keeps its place in the session, whatever becomes of its picks.
            "INSERT OR REPLACE INTO temp.glances VALUES "
            "(?, ?, ?, ?, ?, coalesce((SELECT at FROM temp.glances WHERE seq = ?), ?, 0))",
            [(one.seq, one.picks, one.score, one.mark, one.corrected, one.supersedes, one.at) for one in seen],
        )

    def _all_folders(self) -> list[str]:
        if time.monotonic() >= self._folders_until:
            # Without the letters of the name at its end a path is its folder.
            rows = self._database.execute(
                "SELECT DISTINCT rtrim(path, replace(path, '/', '')) AS folder FROM micrographs "
                "ORDER BY folder LIMIT ?",
                (_MOST_FOLDERS,),
            )
            self._folders = [folder.rstrip("/") for (folder,) in rows if folder]
            self._folders_until = time.monotonic() + _FOLDERS_SECONDS
        return self._folders
