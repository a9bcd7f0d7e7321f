"""The archive: old results leave the ledger for another file of the same layout, so that it does not grow for ever."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from frazil.errors import OutputError
from frazil.faults import reason_of
from frazil.session.outbox.ledger.damage import explain, is_fatal
from frazil.session.outbox.ledger.layout import connect, open_read_only, transaction
from frazil.session.outbox.ledger.qualities import SELECT_QUALITIES, quality_of, store_quality

__all__ = ["Archived", "archive"]

_AT_ONCE = 500
"""Results in one transaction: short, since the daemon waits for it."""
_PAGES_AT_ONCE = 2000


@dataclass(slots=True, kw_only=True)
class Archived:
    """What was moved."""

    results: int = 0
    """Documents, with their score maps."""
    micrographs: int = 0
    """Records of micrographs whose files are gone."""


def archive(file: Path, to: Path, *, before: float, below: str = "") -> Archived:
    """Move results into an archive, also while the daemon runs.

    Documents and score maps go; the record of a micrograph goes with them if its file is gone, and stays otherwise,
    since without it the file would be picked again. Edits stay, and are copied. It is safe to be interrupted and to be
    repeated: a result is deleted here only when it is on disk there. Sequence numbers go on where they were.

    Args:
        file: the ledger.
        to: the archive; made if missing, and added to.
        before: results committed before this go, in seconds of Unix time.
        below: only micrographs whose path begins so.

    Raises:
        OutputError: one of the files is no ledger or cannot be written, or the archive belongs to another ledger.
    """
    open_read_only(file).close()
    if _is_same(to, file):
        raise OutputError(f"{to}: expected another file than the ledger")
    moved = Archived()
    try:
        with closing(connect(to)) as archived, closing(connect(file)) as ledger:
            _adopt(ledger, archived, to)
            # What one transaction holds may be lost with the power only if the older one is not yet deleted.
            archived.execute("PRAGMA synchronous=FULL")
            last: int | None = 0
            while last is not None:
                last = _move_some(ledger, archived, moved, last, before, below)
            _move_gone(ledger, archived, moved, before, below)
            while ledger.execute("PRAGMA freelist_count").fetchone()[0] > 0:
                ledger.execute(f"PRAGMA incremental_vacuum({_PAGES_AT_ONCE})").fetchall()
    except sqlite3.Error as error:
        if is_fatal(error):
            raise explain(file, error) from error
        raise OutputError(f"{to}: the archive cannot be written: {error}") from error
    return moved


def _is_same(to: Path, file: Path) -> bool:
    try:
        return to.exists() and to.samefile(file)
    except OSError as error:
        raise OutputError(f"{to}: expected a place for an archive: {reason_of(error)}") from error


def _adopt(ledger: sqlite3.Connection, archived: sqlite3.Connection, to: Path) -> None:
    epoch = ledger.execute("SELECT value FROM meta WHERE key = 'epoch'").fetchone()[0]
    with transaction(archived):
        if archived.execute("SELECT 1 FROM micrographs LIMIT 1").fetchone() is None:
            archived.execute("UPDATE meta SET value = ? WHERE key = 'epoch'", (epoch,))
        elif archived.execute("SELECT value FROM meta WHERE key = 'epoch'").fetchone()[0] != epoch:
            raise OutputError(f"{to}: expected an archive of this ledger, found one of another")


def _move_some(
    ledger: sqlite3.Connection, archived: sqlite3.Connection, moved: Archived, after: int, before: float, below: str
) -> int | None:
    """Move one portion of what comes after a number; the last number moved, None when there was nothing left."""
    documents = ledger.execute(
        "SELECT seq, topic, path, body, committed_at, superseded_by, checksum FROM documents WHERE "
        "seq > ? AND seq <= (SELECT CAST(value AS INTEGER) FROM meta WHERE key = 'delivered') "
        "AND coalesce(committed_at, 0) < ? AND substr(path, 1, ?) = ? ORDER BY seq LIMIT ?",
        (after, before, len(below), below, _AT_ONCE),
    ).fetchall()
    if not documents:
        return None
    numbers = [(row[0],) for row in documents]
    paths = [(path,) for path in dict.fromkeys(row[2] for row in documents)]
    with transaction(archived):
        archived.executemany("INSERT OR REPLACE INTO documents VALUES (?, ?, ?, ?, ?, ?, ?)", documents)
        for number in numbers:
            for row in ledger.execute("SELECT seq, body FROM score_maps WHERE seq = ?", number):
                archived.execute("INSERT OR REPLACE INTO score_maps VALUES (?, ?)", row)
            for row in ledger.execute("SELECT * FROM uncorrected_picks WHERE seq = ?", number):
                archived.execute("INSERT OR REPLACE INTO uncorrected_picks VALUES (?, ?, ?)", row)
        for path in paths:
            row = ledger.execute("SELECT * FROM micrographs WHERE path = ?", path).fetchone()
            if row is not None:
                archived.execute(f"INSERT OR REPLACE INTO micrographs VALUES ({', '.join('?' * len(row))})", row)  # noqa: S608
            _copy_edits(ledger, archived, path)
            _copy_quality(ledger, archived, path)
    with transaction(ledger):
        ledger.executemany("DELETE FROM documents WHERE seq = ?", numbers)
        ledger.executemany("DELETE FROM score_maps WHERE seq = ?", numbers)
        ledger.executemany("DELETE FROM uncorrected_picks WHERE seq = ?", numbers)
        ledger.executemany("DELETE FROM unassessed WHERE seq = ?", numbers)
        ledger.execute(
            "UPDATE meta SET value = max(CAST(value AS INTEGER), ?) WHERE key = 'archived'", (numbers[-1][0],)
        )
    moved.results += len(documents)
    return int(documents[-1][0])


def _move_gone(
    ledger: sqlite3.Connection, archived: sqlite3.Connection, moved: Archived, before: float, below: str
) -> None:
    """Move the records of files that are gone and never had a result, or have none left here."""
    rows = ledger.execute(
        "SELECT * FROM micrographs m WHERE state = 'gone' AND coalesce(seen_at, 0) < ? AND substr(path, 1, ?) = ? "
        "AND NOT EXISTS (SELECT 1 FROM documents d WHERE d.seq = m.seq)",
        (before, len(below), below),
    ).fetchall()
    for start in range(0, len(rows), _AT_ONCE):
        portion = rows[start : start + _AT_ONCE]
        marks = ", ".join("?" * len(portion[0]))
        with transaction(archived):
            archived.executemany(f"INSERT OR REPLACE INTO micrographs VALUES ({marks})", portion)  # noqa: S608
            for row in portion:
                _copy_edits(ledger, archived, (row[0],))
                _copy_quality(ledger, archived, (row[0],))
        with transaction(ledger):
            for table, of_gone in (("micrographs", " AND state = 'gone'"), ("qualities", ""), ("unassessed", "")):
                ledger.executemany(
                    f"DELETE FROM {table} WHERE path = ?{of_gone}",  # noqa: S608
                    [(row[0],) for row in portion],
                )
        moved.micrographs += len(portion)


def _copy_edits(ledger: sqlite3.Connection, archived: sqlite3.Connection, path: tuple[str]) -> None:
    """Copy the edits of a micrograph; here they stay, since they hold also for what is picked later."""
    for row in ledger.execute("SELECT * FROM edits WHERE path = ?", path):
        archived.execute("INSERT OR REPLACE INTO edits VALUES (?, ?, ?, ?, ?, ?, ?)", row)


def _copy_quality(ledger: sqlite3.Connection, archived: sqlite3.Connection, path: tuple[str]) -> None:
    """Copy the assessment of a micrograph; here it stays as long as the record of the micrograph does."""
    for row in ledger.execute(f"{SELECT_QUALITIES} WHERE path = ?", path).fetchall():
        store_quality(archived, quality_of(row))
