"""How a ledger is laid out, and how an older one becomes a newer one."""

from __future__ import annotations

import fcntl
import sqlite3
import time
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Literal
from uuid import uuid4

from frazil.errors import InUseError, OutputError
from frazil.session.outbox.ledger.damage import explain
from frazil.session.outbox.ledger.meta_keys import ARCHIVED_KEY, DELIVERED_KEY, EPOCH_KEY, LAYOUT_KEY
from frazil.session.outbox.ledger.qualities import FILL_UNASSESSED, QUALITIES

__all__ = [
    "CHECKSUMS",
    "EDITS",
    "HEAD",
    "LAYOUT",
    "LEDGER_NAME",
    "OLDEST_READABLE",
    "QUALITY",
    "UNLIKE",
    "State",
    "checksum",
    "claim",
    "connect",
    "ledger_file",
    "open_read_only",
    "transaction",
]

LEDGER_NAME = "frazil-ledger.sqlite"
LAYOUT = 5
CHECKSUMS = 3
"""From this layout on documents have checksums, and runs of the daemon are known."""
EDITS = 4
"""From this layout on there are edits."""
QUALITY = 5
"""From this layout on there are assessments."""
OLDEST_READABLE = 2
"""Ledgers of this layout and later are read as they are; it is what an archive of an earlier frazil has."""
HEAD = (
    "SELECT max((SELECT coalesce(max(seq), 0) FROM documents), "
    "(SELECT CAST(value AS INTEGER) FROM meta WHERE key = 'archived'), "
    "(SELECT coalesce(max(first), 1) - 1 FROM generations))"
)
"""Finds the highest sequence number that was ever given out, also where its document is no longer there."""
BUSY_SECONDS = 5.0
"""How long one process waits for another's short transaction."""

UNLIKE = "unlike"
"""Reason of a micrograph that waits until somebody requests it, since it is unlike its session's."""

State = Literal["seen", "waiting", "picked", "failed", "quarantined", "gone"]
"""What is known of a micrograph.

``seen``: found, not yet picked. ``waiting``: incomplete, or it cannot be read as yet, or it is held. ``picked``.
``failed``: picking failed, and is tried again. ``quarantined``: it is not tried again until its content changes.
``gone``: the file is no longer there; what was found out about it stays.
"""

_GENERATIONS = "CREATE TABLE generations (number INTEGER PRIMARY KEY, id TEXT NOT NULL, first INTEGER NOT NULL)"
_EDITS = """
CREATE TABLE edits (
    number INTEGER PRIMARY KEY,
    id TEXT NOT NULL UNIQUE,
    path TEXT NOT NULL,
    made_at REAL NOT NULL,
    body BLOB NOT NULL,
    checksum INTEGER NOT NULL,
    seq INTEGER
);
CREATE INDEX edits_by_path ON edits (path, number);
CREATE INDEX edits_waiting ON edits (number) WHERE seq IS NULL;
CREATE TABLE uncorrected_picks (seq INTEGER PRIMARY KEY, checksum INTEGER NOT NULL, body BLOB NOT NULL)
"""
_TABLES = f"""
CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE micrographs (
    path TEXT PRIMARY KEY,
    state TEXT NOT NULL CHECK (state IN ('seen', 'waiting', 'picked', 'failed', 'quarantined', 'gone')),
    size INTEGER NOT NULL,
    mtime_ns INTEGER NOT NULL,
    fingerprint TEXT NOT NULL DEFAULT '',
    reason TEXT NOT NULL DEFAULT '',
    message TEXT NOT NULL DEFAULT '',
    attempts INTEGER NOT NULL DEFAULT 0,
    seen_at REAL,
    complete_at REAL,
    picked_at REAL,
    published_at REAL,
    seq INTEGER
) WITHOUT ROWID;
CREATE INDEX micrographs_by_state ON micrographs (state);
CREATE TABLE documents (
    seq INTEGER PRIMARY KEY,
    topic TEXT NOT NULL,
    path TEXT NOT NULL,
    body BLOB NOT NULL,
    committed_at REAL,
    superseded_by INTEGER,
    checksum INTEGER
);
{_GENERATIONS};
CREATE TABLE score_maps (seq INTEGER PRIMARY KEY, body BLOB NOT NULL);
CREATE TABLE requests (id INTEGER PRIMARY KEY, path TEXT NOT NULL, made_at REAL NOT NULL);
{_EDITS};
{QUALITIES};
"""

_FROM_1 = """
ALTER TABLE micrographs RENAME TO micrographs_1;
ALTER TABLE documents RENAME TO documents_1;
{tables}
INSERT INTO micrographs (path, state, size, mtime_ns, fingerprint, reason, attempts, seq)
    SELECT path, CASE state WHEN 'failed' THEN 'quarantined' ELSE state END, size, mtime_ns, fingerprint, reason, 1, seq
    FROM micrographs_1;
INSERT INTO documents (seq, topic, path, body, superseded_by)
    SELECT d.seq, 'picks', d.path, d.body, (SELECT min(n.seq) FROM newer n WHERE n.path = d.path AND n.seq > d.seq)
    FROM documents_1 d;
DROP TABLE newer;
DROP TABLE micrographs_1;
DROP TABLE documents_1;
UPDATE meta SET value = '{layout}' WHERE key = 'layout';
"""
_FROM_2 = f"""
ALTER TABLE documents ADD COLUMN checksum INTEGER;
{_GENERATIONS};
"""
_FROM_3 = f"""
{_EDITS};
"""
_FROM_4 = f"""
{QUALITIES};
{FILL_UNASSESSED};
UPDATE meta SET value = '{LAYOUT}' WHERE key = 'layout'
"""  # noqa: S608
_NEWER = "CREATE TEMP TABLE newer AS SELECT path, seq FROM documents; CREATE INDEX temp.newer_path ON newer (path, seq)"

_INDEXES = (
    "CREATE INDEX IF NOT EXISTS documents_by_rare_topic ON documents (topic, seq) WHERE topic != 'picks'",
    "CREATE INDEX IF NOT EXISTS micrographs_by_picked_at ON micrographs (picked_at)",
)
"""With them changes of the model, and what was picked last, are found among any number without a look at each."""


def ledger_file(where: Path) -> Path:
    """The ledger that a path means: the file itself, or the one in an output directory."""
    return where / LEDGER_NAME if where.is_dir() else where


def claim(file: Path) -> IO[bytes]:
    """Take the lock that keeps a second daemon off a ledger; the system frees it when the process ends.

    Raises:
        OutputError: another daemon has it, or it cannot be made.
    """
    try:
        lock = file.with_name(f"{file.name}.lock").open("ab")
    except OSError as error:
        raise OutputError(f"{file}: expected a ledger that can be written: {error.strerror}") from error
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        lock.close()
        raise InUseError(f"{file}: expected a free ledger, found it in use by another frazil daemon") from error
    except OSError as error:
        lock.close()
        raise OutputError(f"{file}: expected a ledger that can be locked: {error.strerror}") from error
    return lock


def connect(file: Path) -> sqlite3.Connection:
    """Open a ledger to write to it; it is made, or brought to the present layout, where needed.

    Raises:
        OutputError: it is no ledger, or one of a later frazil.
    """
    try:
        database = _open(file)
    except sqlite3.Error as error:
        raise explain(file, error) from error
    try:
        # One step, whatever process comes first: another one finds it done.
        with transaction(database):
            layout = _layout(database)
            if layout is None:
                for statement in _TABLES.split(";"):
                    database.execute(statement)
                database.executemany(
                    "INSERT INTO meta VALUES (?, ?)",
                    [(LAYOUT_KEY, str(LAYOUT)), (EPOCH_KEY, uuid4().hex), (DELIVERED_KEY, "0"), (ARCHIVED_KEY, "0")],
                )
            elif layout == 1:
                _migrate_1(database)
            elif layout in (2, 3, 4):
                for statement in ";".join((_FROM_2, _FROM_3, _FROM_4)[layout - 2 :]).split(";"):
                    database.execute(statement)
            elif layout != LAYOUT:
                raise OutputError(f"{file}: expected ledger layout {LAYOUT} or older, found {layout}")
            for statement in _INDEXES:
                database.execute(statement)
        if layout == 1:
            database.execute("VACUUM")  # from now on freed pages can be given back
    except sqlite3.Error as error:
        database.close()
        raise explain(file, error) from error
    except OutputError:
        database.close()
        raise
    return database


def open_read_only(file: Path, *, oldest: int = LAYOUT) -> sqlite3.Connection:
    """Open a ledger to read it, also while a daemon writes to it.

    Args:
        file: the ledger.
        oldest: layout that it must have at least.

    Raises:
        LedgerDamagedError: it is damaged.
        OutputError: there is none, or it is of another layout.
    """
    if not file.is_file():
        raise OutputError(f"{file}: expected a ledger, found none (give it, or the output directory, with --ledger)")
    try:
        uri = f"{file.absolute().as_uri()}?mode=ro"
        database = sqlite3.connect(uri, uri=True, timeout=BUSY_SECONDS, isolation_level=None, check_same_thread=False)
        layout = _layout(database)
    except sqlite3.Error as error:
        raise explain(file, error) from error
    if layout is None or not oldest <= layout <= LAYOUT:
        database.close()
        raise OutputError(
            f"{file}: expected ledger layout {LAYOUT}, found {layout} (frazil serve brings an older one up to date)"
        )
    return database


def checksum(body: bytes) -> int:
    """Of a document: CRC-32 of its bytes."""
    return zlib.crc32(body)


@contextmanager
def transaction(database: sqlite3.Connection) -> Iterator[None]:
    """All of it or nothing."""
    database.execute("BEGIN IMMEDIATE")
    try:
        yield
        database.execute("COMMIT")
    except BaseException:
        if database.in_transaction:  # a full disk rolls back by itself
            database.execute("ROLLBACK")
        raise


def _open(file: Path) -> sqlite3.Connection:
    database = sqlite3.connect(file, timeout=BUSY_SECONDS, check_same_thread=False, isolation_level=None)
    try:
        # Freed pages can be given back while others read; it takes effect only in a file without tables.
        database.execute("PRAGMA auto_vacuum=INCREMENTAL")
        database.execute("PRAGMA journal_mode=WAL")
        database.execute("PRAGMA synchronous=FULL")
    except sqlite3.Error:
        database.close()
        raise
    return database


def _layout(database: sqlite3.Connection) -> int | None:
    """Layout of an open ledger; None where there is nothing in it."""
    if database.execute("SELECT count(*) FROM sqlite_master").fetchone()[0] == 0:
        return None
    row = database.execute("SELECT value FROM meta WHERE key = 'layout'").fetchone()
    if row is None or not str(row[0]).isdecimal():
        raise sqlite3.DatabaseError("it does not say its layout")
    return int(row[0])


def _migrate_1(database: sqlite3.Connection) -> None:
    for statement in _NEWER.split(";"):
        database.execute(statement)
    tables = _TABLES.partition(";")[2]  # all but `meta`, which is as it was
    for statement in _FROM_1.format(tables=tables, layout=LAYOUT).split(";"):
        database.execute(statement)
    database.execute(FILL_UNASSESSED)
    database.execute("INSERT OR IGNORE INTO meta VALUES ('archived', '0'), ('migrated_at', ?)", (str(time.time()),))
