"""Reading a ledger: while its daemon runs, or when none does."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import TracebackType

import msgspec

from frazil.errors import OutputError
from frazil.service.ledger.layout import State, open_read_only

__all__ = ["KeptResult", "LedgerReader", "MicrographRecord"]


class MicrographRecord(msgspec.Struct, frozen=True, kw_only=True):
    """What the ledger knows of one micrograph. Times are seconds of Unix time; None where unknown."""

    path: str
    """Below the watched directory."""
    state: State
    reason: str
    """Of its failure, as one word."""
    message: str
    """Of its failure, as a line."""
    attempts: int
    """How often picking was tried."""
    size: int
    """In bytes."""
    fingerprint: str
    """Hash of its size, header and sampled blocks."""
    seen_at: float | None
    complete_at: float | None
    picked_at: float | None
    published_at: float | None
    seq: int | None
    """Of its newest document."""


class KeptResult(msgspec.Struct, frozen=True, kw_only=True):
    """The newest result of a micrograph."""

    path: str
    seq: int
    body: bytes
    """The document."""
    score_map: bytes | None
    """Packed; None where none was kept."""


_RESULTS = "SELECT d.path, d.seq, d.body, s.body FROM documents d LEFT JOIN score_maps s ON s.seq = d.seq"
_COLUMNS = ", ".join(MicrographRecord.__struct_fields__)


class LedgerReader:
    """A ledger open for reading; its daemon does not notice.

    Raises:
        OutputError: there is no ledger in that place, or it is of another layout.
    """

    def __init__(self, file: Path) -> None:
        self.file = file
        self._database = open_read_only(file)

    def __enter__(self) -> LedgerReader:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close it."""
        self._database.close()

    @property
    def epoch(self) -> str:
        """Identity of the ledger."""
        return self.meta()["epoch"]

    def meta(self) -> dict[str, str]:
        """What is remembered by name: epoch, delivered, daemon ..."""
        return dict(self._rows("SELECT key, value FROM meta"))

    def counts(self) -> dict[str, int]:
        """Number of micrographs in each state."""
        return dict(self._rows("SELECT state, count(*) FROM micrographs GROUP BY state"))

    def micrographs(
        self, states: Sequence[State] = (), *, below: str = "", limit: int | None = None
    ) -> Iterator[MicrographRecord]:
        """Records of micrographs, by path.

        Args:
            states: only these; all without any.
            below: only paths that begin so.
            limit: at most so many.
        """
        marks = ", ".join("?" * len(states))
        where = f"state IN ({marks})" if states else "1"
        # A range instead of LIKE: it uses the order of the paths, and no letter of a path has a meaning in it.
        rows = self._rows(
            f"SELECT {_COLUMNS} FROM micrographs WHERE {where} AND path >= ? AND substr(path, 1, ?) = ? "  # noqa: S608
            "ORDER BY path LIMIT ?",
            *states,
            below,
            len(below),
            below,
            -1 if limit is None else limit,
        )
        for row in rows:
            yield MicrographRecord(**dict(zip(MicrographRecord.__struct_fields__, row, strict=True)))

    def micrograph(self, path: str) -> MicrographRecord | None:
        """The record of one micrograph; None where the ledger has none."""
        row = next(self._rows(f"SELECT {_COLUMNS} FROM micrographs WHERE path = ?", path), None)  # noqa: S608
        return (
            None if row is None else MicrographRecord(**dict(zip(MicrographRecord.__struct_fields__, row, strict=True)))
        )

    def documents(self, *, after: int = 0, limit: int | None = None) -> Iterator[tuple[int, bytes]]:
        """Sequence number and document of what was committed after a sequence number, in order."""
        yield from self._rows(
            "SELECT seq, body FROM documents WHERE seq > ? ORDER BY seq LIMIT ?", after, -1 if limit is None else limit
        )

    def history(self, path: str) -> list[tuple[int, bytes]]:
        """Sequence number and document of every result of one micrograph, oldest first."""
        return list(self._rows("SELECT seq, body FROM documents WHERE path = ? AND topic = 'picks' ORDER BY seq", path))

    def results(self) -> list[str]:
        """Paths of all micrographs that have a result, in the order of their newest ones."""
        return [path for (path,) in self._rows("SELECT path FROM micrographs WHERE seq IS NOT NULL ORDER BY seq")]

    def result(self, path: str) -> KeptResult | None:
        """The newest result of a micrograph with its score map, as they are at one moment; None where there is none."""
        return self._kept("d.seq = (SELECT seq FROM micrographs WHERE path = ?)", path)

    def next_result(self, *, after: int, until: int) -> KeptResult | None:
        """The first result after one sequence number and up to another that no later one supersedes."""
        return self._kept("d.seq > ? AND d.seq <= ? AND d.topic = 'picks' AND d.superseded_by IS NULL", after, until)

    def newest_result(self) -> KeptResult | None:
        """The newest result of all; None where there is none."""
        row = next(self._rows("SELECT max(seq) FROM documents WHERE topic = 'picks'"))
        return None if row[0] is None else self._kept("d.seq = ?", row[0])

    def _kept(self, where: str, *values: object) -> KeptResult | None:
        row = next(self._rows(f"{_RESULTS} WHERE {where} ORDER BY d.seq LIMIT 1", *values), None)
        return None if row is None else KeptResult(path=row[0], seq=row[1], body=row[2], score_map=row[3])

    def score_map(self, seq: int) -> bytes | None:
        """The packed score map of a result; None where none was kept."""
        row = next(self._rows("SELECT body FROM score_maps WHERE seq = ?", seq), None)
        return None if row is None else row[0]

    def last_picked(self) -> MicrographRecord | None:
        """The micrograph that was picked last; a revision of its picks does not count."""
        row = next(
            self._rows("SELECT path FROM micrographs WHERE picked_at IS NOT NULL ORDER BY picked_at DESC LIMIT 1"), None
        )
        return None if row is None else self.micrograph(row[0])

    def _rows(self, statement: str, *values: object) -> Iterator[tuple]:  # type: ignore[type-arg]
        try:
            yield from self._database.execute(statement, values)
        except sqlite3.Error as error:
            raise OutputError(f"{self.file}: expected a ledger that can be read: {error}") from error
