"""The list of micrographs, sorted and filtered, and what stands around one of them in it.

A few numbers of each result are kept in a table of SQLite's own memory, so that each document is read once and the
list is sorted by any of them at once. The order of the last few lists that were asked for is kept until the ledger
changes.
"""

from __future__ import annotations

import sqlite3
import time
from bisect import bisect_left
from collections import OrderedDict
from collections.abc import Sequence

import msgspec
import numpy as np
from numpy.typing import NDArray

from frazil.page.query import DEFOCUS_UM, RESOLUTION_ANGSTROM, VERDICT, Query
from frazil.page.rows import Around, Row, Rows
from frazil.page.session import Glance, Session, glance
from frazil.session.outbox.ledger import OLDEST_READABLE, open_read_only

__all__ = ["Listing", "rest_until"]

_NUMBERS = (
    "CREATE TEMP TABLE glances "
    "(seq INTEGER PRIMARY KEY, picks INTEGER, score REAL, mark TEXT, corrected INTEGER, at REAL)"
)
_JOINED = "micrographs m LEFT JOIN temp.glances g ON g.seq = m.seq LEFT JOIN qualities q ON q.path = m.path"
_QUALITY = (
    f"coalesce(q.grade, ''), coalesce(q.category, ''), q.estimated_precision, {DEFOCUS_UM}, {RESOLUTION_ANGSTROM}, "
    "q.relative_ice_thickness, q.junk_fraction"
)
_COLUMNS = (
    "m.path, m.state, m.reason, coalesce(m.picked_at, m.seen_at), m.seq, g.picks, g.score, g.mark, g.corrected, "
    f"{_QUALITY}"
)
_NO_QUALITIES = (
    "CREATE TEMP TABLE qualities (path TEXT PRIMARY KEY, grade TEXT, category TEXT, picks INTEGER, "
    "estimated_precision REAL, defocus_u_angstrom REAL, defocus_v_angstrom REAL, ctf_resolution_angstrom REAL, "
    "ctf_is_reliable INTEGER, relative_ice_thickness REAL, junk_fraction REAL, square TEXT)"
)
"""In place of the ledger's table, where an earlier frazil wrote it."""
_FAILED = "m.state IN ('failed', 'quarantined')"
_MEASURED = np.dtype(
    [("seq", np.int64), ("at", np.float64)]
    + [(name, np.float64) for name in ("picks", "defocus_um", "resolution_angstrom", "ice", "junk", "precision")]
)
_RESULT = np.dtype([("seq", np.int64), ("at", np.float64), ("picks", np.int64), ("score", np.float64)])
_FEW_SHARE = 1 / 3
"""A micrograph with fewer picks than this share of the session's median is one to look at."""
_GROWTH = 1.02
_AT_ONCE = 500
_READ_SECONDS = 0.15
_PATHS_KEPT = 400_000
_MOST_FOLDERS = 200
_FOLDERS_SECONDS = 30.0
_VARIABLES = 500
_SHORT_SECONDS = 0.1
_REST = 10
"""What takes longer is followed by a rest of so many times its own time."""


class _Order(msgspec.Struct, frozen=True):
    version: tuple[int, int]
    """Of the ledger and of what was read of it."""
    until: float
    """Up to when it is good enough, on the monotonic clock."""
    paths: list[str]
    bad: list[int]
    """Positions of those to look at, in order."""


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
        self._few_read, self._few_picks = 0, 0.0
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
        if query.needs_numbers:
            self.advance()
        if query.is_by_path:
            count, paths, stale = self._count(query), self._paths(query, limit=limit, offset=offset), False
        else:
            order = self._order(query)
            count, paths, stale = len(order.paths), order.paths[offset : offset + limit], self._is_stale(order)
        return Rows(
            count=count,
            offset=offset,
            rows=self._rows(paths),
            folders=self._all_folders(),
            complete=self.complete or not query.needs_numbers,
            stale=stale,
        )

    def paths(self, query: Query) -> list[str]:
        """All micrographs of a list, in its order, as far as results were read."""
        return self._paths(query, limit=-1) if query.is_by_path else self._order(query).paths

    def around(self, query: Query, path: str, each: int) -> Around:
        """What stands around a micrograph, so many on each side."""
        self.advance()
        return self._around_path(query, path, each) if query.is_by_path else self._around_place(query, path, each)

    def _around_path(self, query: Query, path: str, each: int) -> Around:
        """Around one in a list by name: found by the order that the ledger has anyway, however long it is."""
        is_there = self._count(query, "m.path = ?", path) > 0
        earlier, later = ("m.path > ?", "m.path < ?") if query.order == "down" else ("m.path < ?", "m.path > ?")
        before = self._paths(query, earlier, path, limit=each, is_backward=True)[::-1] if is_there else []
        # Outside of the list there is nothing before, and the list itself comes after.
        after = self._paths(query, *((later, path) if is_there else ()), limit=each)
        bad_before = self._paths(query, f"{earlier} AND {self._bad()}", path, limit=1, is_backward=True)
        bad_after = self._paths(query, f"{later} AND {self._bad()}", path, limit=1)
        if not is_there:
            bad_before, bad_after = [], self._paths(query, self._bad(), limit=1)
        position = self._count(query, earlier, path) if is_there else None
        return Around(
            count=self._count(query),
            position=position,
            first=(position or 0) - len(before),
            rows=self._rows([*before, path, *after] if is_there else after),
            previous=before[-1] if before else None,
            next=after[0] if after else None,
            bad_previous=bad_before[0] if bad_before else None,
            bad_next=bad_after[0] if bad_after else None,
            complete=self.complete,
            stale=False,
        )

    def _around_place(self, query: Query, path: str, each: int) -> Around:
        """Around one in a list by a number, whose order is kept."""
        order = self._order(query)
        try:
            at: int | None = order.paths.index(path)
        except ValueError:
            at = None
        before, after = (-1, 0) if at is None else (at - 1, at + 1)
        first = max(0, after - 1 - each)
        last_bad = bisect_left(order.bad, 0 if at is None else at)
        next_bad = bisect_left(order.bad, after)

        def name(position: int) -> str | None:
            return order.paths[position] if 0 <= position < len(order.paths) else None

        return Around(
            count=len(order.paths),
            position=at,
            first=first,
            rows=self._rows(order.paths[first : after + each]),
            previous=name(before),
            next=name(after),
            bad_previous=name(order.bad[last_bad - 1]) if last_bad else None,
            bad_next=name(order.bad[next_bad]) if next_bad < len(order.bad) else None,
            complete=self.complete,
            stale=self._is_stale(order),
        )

    def results(self) -> NDArray[np.void]:
        """(n,) results that were read and none has replaced, in order of time: seq, at, picks and score (NaN: none)."""
        rows = self._database.execute(
            "SELECT g.seq, g.at, g.picks, coalesce(g.score, -1) "
            "FROM micrographs m JOIN temp.glances g ON g.seq = m.seq ORDER BY g.at, g.seq"
        )
        found = np.fromiter(rows, _RESULT)  # a million rows as objects would take some hundred MiB
        found["score"][found["score"] < 0] = np.nan
        return found

    def qualities(self) -> NDArray[np.void]:
        """(n,) assessments in the order of time: number of the result, time, and what was measured (NaN: not known)."""
        rows = self._database.execute(
            f"SELECT m.seq, coalesce(m.picked_at, m.seen_at, 0) AS at, q.picks, {DEFOCUS_UM}, {RESOLUTION_ANGSTROM}, "  # noqa: S608
            "q.relative_ice_thickness, q.junk_fraction, q.estimated_precision "
            "FROM qualities q JOIN micrographs m ON m.path = q.path WHERE m.seq IS NOT NULL ORDER BY at, m.seq"
        )
        known = ((*row[:2], *(np.nan if value is None else value for value in row[2:])) for row in rows)
        return np.fromiter(known, _MEASURED)

    @property
    def _database(self) -> sqlite3.Connection:
        if self._opened is None:
            self._opened = open_read_only(self._session.reader.file, oldest=OLDEST_READABLE)
            self._opened.execute("PRAGMA temp_store = MEMORY")
            self._opened.execute(_NUMBERS)
            if self._opened.execute("SELECT 1 FROM sqlite_master WHERE name = 'qualities'").fetchone() is None:
                self._opened.execute(_NO_QUALITIES)
        return self._opened

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

    def _is_stale(self, order: _Order) -> bool:
        return order.version != self._version()

    def _find(self, query: Query) -> _Order:
        version, started = self._version(), time.monotonic()
        where, values = query.where()
        way = "DESC" if query.order == "down" else "ASC"
        rows = self._database.execute(
            f"SELECT m.path, {self._bad()} FROM {_JOINED} WHERE {where} "  # noqa: S608
            f"ORDER BY {query.order_term} {way} NULLS LAST, m.path {way}",
            values,
        ).fetchall()
        bad = [k for k, (_, is_bad) in enumerate(rows) if is_bad]
        return _Order(version, rest_until(started), [path for path, _ in rows], bad)

    def _count(self, query: Query, more: str = "1", *values: object) -> int:
        where, given = query.where()
        of = _JOINED if query.needs_numbers or query.category or query.square else "micrographs m"
        statement = f"SELECT count(*) FROM {of} WHERE {where} AND {more}"  # noqa: S608
        return int(self._database.execute(statement, [*given, *values]).fetchone()[0])

    def _paths(
        self,
        query: Query,
        more: str = "1",
        *values: object,
        limit: int,
        offset: int = 0,
        is_backward: bool = False,
    ) -> list[str]:
        """Paths of a list by name, or of those of it that a term in SQL chooses."""
        where, given = query.where()
        way = "DESC" if (query.order == "down") != is_backward else "ASC"
        statement = f"SELECT m.path FROM {_JOINED} WHERE {where} AND {more} ORDER BY m.path {way} LIMIT ? OFFSET ?"  # noqa: S608
        return [path for (path,) in self._database.execute(statement, [*given, *values, limit, offset])]

    def _bad(self) -> str:
        """As SQL: what tells a micrograph to look at."""
        is_few = f"(coalesce(g.mark, '') = '' AND coalesce(g.picks < {self._few():.3f}, 0))"
        return f"({_FAILED} OR coalesce({VERDICT} != 'good', 0) OR {is_few})"

    def _few(self) -> float:
        """Picks below which there are few in this session; found anew once it has grown by some percent."""
        if self._read > self._few_read * _GROWTH:
            middle = self._database.execute(
                "SELECT picks FROM temp.glances ORDER BY picks LIMIT 1 OFFSET (SELECT count(*) / 2 FROM temp.glances)"
            ).fetchone()
            self._few_read, self._few_picks = self._read, 0.0 if middle is None else middle[0] * _FEW_SHARE
        return self._few_picks

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
        path, state, reason, at, seq, picks, score, mark, corrected, *quality = row
        grade, category, precision, defocus_um, resolution_angstrom, ice, junk_fraction = quality
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
            grade=grade,
            category=category,
            precision=precision,
            defocus_um=defocus_um,
            resolution_angstrom=resolution_angstrom,
            ice=ice,
            junk_fraction=junk_fraction,
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
