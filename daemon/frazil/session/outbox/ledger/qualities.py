"""Assessments in the ledger: what was found of each micrograph, in columns, and which micrographs lack one.

A row of ``unassessed`` is written in the transaction of the picks, and deleted in that of the assessment. So whenever
the daemon ends between both, the next one knows what is left to do, and finds it without a look at all micrographs.
"""

from __future__ import annotations

import sqlite3
from datetime import datetime

import msgspec

from frazil.documents import Category, Grade, Place, QualityDocument

__all__ = [
    "FILL_UNASSESSED",
    "QUALITIES",
    "SELECT_QUALITIES",
    "QualityRecord",
    "Unassessed",
    "count_unassessed",
    "mark_unassessed",
    "next_unassessed",
    "note_attempt",
    "quality_of",
    "store_quality",
]

_MOST_ATTEMPTS = 3
"""To assess the same picks."""

QUALITIES = f"""
CREATE TABLE qualities (
    path TEXT PRIMARY KEY,
    seq INTEGER NOT NULL,
    of INTEGER NOT NULL,
    fingerprint TEXT NOT NULL,
    grade TEXT NOT NULL,
    category TEXT NOT NULL,
    picks INTEGER NOT NULL,
    usable_fraction REAL NOT NULL,
    junk_fraction REAL NOT NULL,
    pixel_size_angstrom REAL NOT NULL,
    voltage_kv REAL,
    cs_mm REAL,
    amplitude_contrast REAL,
    defocus_u_angstrom REAL,
    defocus_v_angstrom REAL,
    defocus_angle_deg REAL,
    phase_shift_deg REAL,
    ctf_resolution_angstrom REAL,
    ctf_correlation REAL,
    ctf_is_reliable INTEGER,
    mean_counts REAL,
    relative_ice_thickness REAL,
    ice_ring REAL,
    drift REAL,
    pick_density REAL NOT NULL,
    clumping REAL,
    estimated_precision REAL,
    grid TEXT NOT NULL,
    square TEXT NOT NULL,
    hole TEXT NOT NULL,
    stage_x_um REAL,
    stage_y_um REAL,
    assessed_at REAL
) WITHOUT ROWID;
CREATE INDEX qualities_by_seq ON qualities (seq);
CREATE TABLE unassessed (
    path TEXT PRIMARY KEY, seq INTEGER NOT NULL, attempts INTEGER NOT NULL DEFAULT 0
) WITHOUT ROWID;
CREATE INDEX unassessed_by_seq ON unassessed (seq) WHERE attempts < {_MOST_ATTEMPTS}
"""
FILL_UNASSESSED = (
    "INSERT INTO unassessed (path, seq) SELECT m.path, m.seq FROM micrographs m JOIN documents d ON d.seq = m.seq "
    "WHERE m.state = 'picked' AND NOT EXISTS (SELECT 1 FROM qualities q WHERE q.path = m.path AND q.of = m.seq)"
)
"""Micrographs with picks whose newest ones were not assessed."""


class QualityRecord(msgspec.Struct, frozen=True, kw_only=True):
    """The newest assessment of a micrograph as the ledger has it; units and meanings are those of the document."""

    path: str
    """Below the watched directory."""
    seq: int
    """Of the assessment."""
    of: int
    """Of the picks that were assessed."""
    fingerprint: str
    """Of the file that was looked at."""
    grade: Grade
    category: Category
    picks: int
    usable_fraction: float
    junk_fraction: float
    pixel_size_angstrom: float
    voltage_kv: float | None
    cs_mm: float | None
    amplitude_contrast: float | None
    defocus_u_angstrom: float | None
    defocus_v_angstrom: float | None
    defocus_angle_deg: float | None
    phase_shift_deg: float | None
    ctf_resolution_angstrom: float | None
    ctf_correlation: float | None
    ctf_is_reliable: int | None
    mean_counts: float | None
    relative_ice_thickness: float | None
    ice_ring: float | None
    drift: float | None
    pick_density: float
    clumping: float | None
    estimated_precision: float | None
    grid: str
    square: str
    """Of the grid; empty where it is not known, as are grid and hole."""
    hole: str
    stage_x_um: float | None
    stage_y_um: float | None
    assessed_at: float | None
    """In seconds of Unix time."""

    @classmethod
    def of_document(cls, document: QualityDocument, path: str, fingerprint: str) -> QualityRecord:
        """The record of a numbered document."""
        ctf = None if isinstance(document.ctf, msgspec.UnsetType) else document.ctf
        place = Place() if isinstance(document.place, msgspec.UnsetType) else document.place
        given = {name: getattr(document, name) for name in cls.__struct_fields__ if hasattr(document, name)}
        given |= {
            name: getattr(ctf, name, None)
            for name in (
                "voltage_kv",
                "cs_mm",
                "amplitude_contrast",
                "defocus_u_angstrom",
                "defocus_v_angstrom",
                "defocus_angle_deg",
                "phase_shift_deg",
            )
        }
        given |= {name: getattr(place, name) for name in ("grid", "square", "hole", "stage_x_um", "stage_y_um")}
        return cls(
            **{
                **given,
                "path": path,
                "fingerprint": fingerprint,
                "ctf_resolution_angstrom": None if ctf is None else ctf.resolution_angstrom,
                "ctf_correlation": None if ctf is None else ctf.correlation,
                "ctf_is_reliable": None if ctf is None else int(ctf.is_reliable),
                "assessed_at": _unix_seconds(document.assessed_at),
            }
        )


class Unassessed(msgspec.Struct, frozen=True, kw_only=True):
    """A micrograph whose newest picks were not assessed."""

    path: str
    seq: int
    """Of the picks."""
    attempts: int


_COLUMNS = ", ".join(QualityRecord.__struct_fields__)
SELECT_QUALITIES = f"SELECT {_COLUMNS} FROM qualities"  # noqa: S608


def quality_of(row: tuple) -> QualityRecord:  # type: ignore[type-arg]
    """From a row of `SELECT_QUALITIES`."""
    return QualityRecord(**dict(zip(QualityRecord.__struct_fields__, row, strict=True)))


def store_quality(database: sqlite3.Connection, record: QualityRecord) -> None:
    """Store an assessment in place of the earlier one; its picks are no longer without."""
    values = msgspec.structs.astuple(record)
    database.execute(f"INSERT OR REPLACE INTO qualities VALUES ({', '.join('?' * len(values))})", values)  # noqa: S608
    database.execute("DELETE FROM unassessed WHERE path = ? AND seq <= ?", (record.path, record.of))


def mark_unassessed(database: sqlite3.Connection, path: str, seq: int) -> None:
    """Note that a micrograph has new picks."""
    database.execute("INSERT OR REPLACE INTO unassessed (path, seq) VALUES (?, ?)", (path, seq))


def note_attempt(database: sqlite3.Connection, found: Unassessed, *, is_last: bool) -> None:
    """Note that assessing some picks failed; after the last attempt they are left alone."""
    attempts = _MOST_ATTEMPTS if is_last else found.attempts + 1
    database.execute("UPDATE unassessed SET attempts = ? WHERE path = ? AND seq = ?", (attempts, found.path, found.seq))


def next_unassessed(database: sqlite3.Connection, *, before: int) -> Unassessed | None:
    """The newest picks below a sequence number that wait to be assessed; None where none do."""
    row = database.execute(
        f"SELECT path, seq, attempts FROM unassessed WHERE attempts < {_MOST_ATTEMPTS} AND seq < ? "  # noqa: S608
        "ORDER BY seq DESC LIMIT 1",
        (before,),
    ).fetchone()
    return None if row is None else Unassessed(path=row[0], seq=row[1], attempts=row[2])


def count_unassessed(database: sqlite3.Connection) -> int:
    """Number of micrographs that wait to be assessed."""
    statement = f"SELECT count(*) FROM unassessed WHERE attempts < {_MOST_ATTEMPTS}"  # noqa: S608
    return int(database.execute(statement).fetchone()[0])


def _unix_seconds(at: str) -> float | None:
    try:
        return datetime.fromisoformat(at).timestamp()
    except ValueError:
        return None
