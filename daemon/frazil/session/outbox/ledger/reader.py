"""Reading a ledger: while its daemon runs, or when none does."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any

import msgspec

from frazil.documents import Heartbeat, NumberedDocument, PickColumns, decode_document
from frazil.session.outbox.ledger.damage import explain
from frazil.session.outbox.ledger.edits import (
    StoredEdit,
    decode_edit,
    decode_uncorrected,
    select_edits,
    select_uncorrected,
)
from frazil.session.outbox.ledger.layout import (
    CHECKSUMS,
    EDITS,
    HEAD,
    LAYOUT,
    OLDEST_READABLE,
    QUALITY,
    State,
    checksum,
    open_read_only,
)
from frazil.session.outbox.ledger.meta_keys import ARCHIVED_KEY, EPOCH_KEY, LAYOUT_KEY, MIGRATED_KEY
from frazil.session.outbox.ledger.qualities import (
    SELECT_QUALITIES,
    QualityRecord,
    Unassessed,
    count_unassessed,
    next_unassessed,
    quality_of,
)
from frazil.session.outbox.ledger.witness import Generation

__all__ = ["KeptResult", "LedgerReader", "MicrographRecord", "StoredDocument"]


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
    checksum: int | None = None
    """Of the document; None where an earlier frazil committed it."""

    @classmethod
    def statement(cls, where: str, *, layout: int = LAYOUT) -> str:
        """What selects the first of some results, for `of`."""
        columns = f"d.path, d.seq, d.body, s.body, {'d.checksum' if layout >= CHECKSUMS else 'NULL'}"
        joined = "documents d LEFT JOIN score_maps s ON s.seq = d.seq"
        return f"SELECT {columns} FROM {joined} WHERE {where} ORDER BY d.seq LIMIT 1"  # noqa: S608

    @classmethod
    def of(cls, row: tuple) -> KeptResult:  # type: ignore[type-arg]
        """From a row of these columns."""
        return cls(**dict(zip(cls.__struct_fields__, row, strict=True)))


NEWEST_OF = "d.seq = (SELECT seq FROM micrographs WHERE path = ?)"
"""The newest result of a micrograph."""


class StoredDocument(msgspec.Struct, frozen=True, kw_only=True):
    """A document as it was committed."""

    seq: int
    topic: str
    path: str
    """Of its micrograph, below the watched directory; empty where it is about none."""
    committed_at: float | None
    """In seconds of Unix time; None where unknown."""
    superseded_by: int | None
    """The result that replaced this one."""
    body: bytes
    """As published."""
    checksum: int | None = None
    """Of the body; None where an earlier frazil committed it."""

    def __iter__(self) -> Iterator[Any]:
        """Number and body, which is what most callers want."""
        yield from (self.seq, self.body)

    @classmethod
    def columns(cls, *, layout: int = LAYOUT) -> str:
        """What to select from the table of documents, for `of`."""
        names = [name for name in cls.__struct_fields__ if name != "checksum" or layout >= CHECKSUMS]
        return ", ".join(names)

    @classmethod
    def of(cls, row: tuple) -> StoredDocument:  # type: ignore[type-arg]
        """From a row of these columns."""
        return cls(**dict(zip(cls.__struct_fields__, row, strict=False)))

    def is_whole(self) -> bool:
        """Whether it is what was committed, as far as can be told."""
        return self.decode() is not None if self.checksum is None else self.checksum == checksum(self.body)

    def decode(self) -> NumberedDocument | None:
        """The document; None where it is damaged: what was committed has become something else since."""
        try:
            if self.checksum is not None and self.checksum != checksum(self.body):
                return None
            document = decode_document(self.body)
        except (ValueError, TypeError, RecursionError):
            return None
        return None if isinstance(document, Heartbeat) or document.seq != self.seq else document


class _Supersedes(msgspec.Struct):
    """The little of a document that leads to the one before it."""

    supersedes: int = 0


_SUPERSEDES = msgspec.json.Decoder(_Supersedes)
_COLUMNS = ", ".join(MicrographRecord.__struct_fields__)


class LedgerReader:
    """A ledger open for reading; its daemon does not notice.

    Its methods raise `LedgerDamagedError` where the ledger is damaged, and `OutputError` where it cannot be read.

    Raises:
        LedgerDamagedError: it is damaged.
        OutputError: there is no ledger in that place, or it is of another layout.
    """

    def __init__(self, file: Path) -> None:
        self.file = file
        self._database = open_read_only(file, oldest=OLDEST_READABLE)
        self.layout = int(self.meta()[LAYOUT_KEY])
        self._columns = StoredDocument.columns(layout=self.layout)

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
        return self.meta()[EPOCH_KEY]

    def meta(self) -> dict[str, str]:
        """What is remembered by name: epoch, delivered, daemon ..."""
        return dict(self._rows("SELECT key, value FROM meta"))

    def head(self) -> int:
        """The newest sequence number; 0 before the first."""
        return int(next(self._rows("SELECT coalesce(max(seq), 0) FROM documents"))[0])

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
            yield _record(row)

    def search(
        self, words: str, states: Sequence[State] = (), *, offset: int = 0, limit: int
    ) -> tuple[int, list[MicrographRecord]]:
        """Records of micrographs whose path holds the words, whatever their case, last path first.

        Args:
            words: sought; every path holds none.
            states: only these; all without any.
            offset: so many are passed over.
            limit: at most so many.

        Returns:
            The number of all that were found, and those asked for.
        """
        marks = ", ".join("?" * len(states))
        where = f"({f'state IN ({marks})' if states else '1'}) AND (? = '' OR instr(lower(path), lower(?)) > 0)"
        values = (*states, words, words)
        count = next(self._rows(f"SELECT count(*) FROM micrographs WHERE {where}", *values))[0]  # noqa: S608
        rows = self._rows(
            f"SELECT {_COLUMNS} FROM micrographs WHERE {where} ORDER BY path DESC LIMIT ? OFFSET ?",  # noqa: S608
            *values,
            limit,
            offset,
        )
        return count, [_record(row) for row in rows]

    def micrograph(self, path: str) -> MicrographRecord | None:
        """The record of one micrograph; None where the ledger has none."""
        row = next(self._rows(f"SELECT {_COLUMNS} FROM micrographs WHERE path = ?", path), None)  # noqa: S608
        return None if row is None else _record(row)

    def matching(self, pattern: str) -> list[str]:
        """Paths of micrographs that match a pattern, as SQLite's GLOB has it: ``*`` crosses folders."""
        return [path for (path,) in self._rows("SELECT path FROM micrographs WHERE path GLOB ? ORDER BY path", pattern)]

    def documents(self, *, after: int = 0, limit: int | None = None) -> Iterator[StoredDocument]:
        """What was committed after a sequence number, in order."""
        statement = f"SELECT {self._columns} FROM documents WHERE seq > ? ORDER BY seq LIMIT ?"  # noqa: S608
        yield from map(StoredDocument.of, self._rows(statement, after, -1 if limit is None else limit))

    def oldest(self) -> int:
        """The oldest sequence number that there is a document of; 0 without any."""
        return int(next(self._rows("SELECT coalesce(min(seq), 0) FROM documents"))[0])

    def common(self, generation: str, seq: int) -> int | None:
        """Up to which sequence number a history and this one are the same.

        Args:
            generation: during which the history was read.
            seq: up to which it was read.

        Returns:
            That number, or one before it; None where nothing is known of that generation.
        """
        rows = self._rows(
            "SELECT n.first - 1 FROM generations g LEFT JOIN generations n ON n.number > g.number "
            "WHERE g.id = ? ORDER BY n.number LIMIT 1",
            generation,
        )
        row = next(rows, None)
        if row is None:
            return None
        return min(seq, self.ever_given_out() if row[0] is None else int(row[0]))

    def generations(self) -> list[Generation]:
        """Every run of the ledger, in order; none of an archive, or of a ledger of an earlier layout."""
        if self.layout < CHECKSUMS:
            return []
        return [Generation(*row) for row in self._rows("SELECT id, first FROM generations ORDER BY number")]

    def without_document(self) -> list[str]:
        """Paths of micrographs that have a result of which there is no document, though it was not archived."""
        statement = (
            "SELECT path FROM micrographs m WHERE state = 'picked' AND seq > "
            "(SELECT CAST(value AS INTEGER) FROM meta WHERE key = 'archived') "
            "AND NOT EXISTS (SELECT 1 FROM documents d WHERE d.seq = m.seq) ORDER BY path"
        )
        return [path for (path,) in self._rows(statement)]

    def integrity(self, limit: int) -> list[str]:
        """What SQLite finds wrong with the file, a line each; empty where nothing is."""
        lines = [str(line) for (line,) in self._rows(f"PRAGMA integrity_check({limit})")]
        return [] if lines == ["ok"] else lines

    def ever_given_out(self) -> int:
        """The highest sequence number that was ever given out, also where its document was archived or lost."""
        if self.layout < CHECKSUMS:
            return max(self.head(), int(self.meta()[ARCHIVED_KEY]))
        return int(next(self._rows(HEAD))[0])

    def document(self, seq: int) -> StoredDocument | None:
        """One document; None where there is none of that number."""
        return next(iter(self._documents("seq = ?", seq)), None)

    def last_picked_results(self, limit: int) -> list[StoredDocument]:
        """Results of the micrographs that were picked last, that one first."""
        statement = (
            f"SELECT {', '.join(f'd.{column}' for column in self._columns.split(', '))} FROM "  # noqa: S608
            "(SELECT seq, picked_at FROM micrographs WHERE picked_at IS NOT NULL ORDER BY picked_at DESC LIMIT ?) m "
            "JOIN documents d ON d.seq = m.seq ORDER BY m.picked_at DESC"
        )
        return [StoredDocument.of(row) for row in self._rows(statement, limit)]

    def last_picked_times(self, limit: int) -> list[tuple[float | None, float]]:
        """When the files of the micrographs that were picked last were complete, and when they were picked."""
        return list(
            self._rows(
                "SELECT complete_at, picked_at FROM micrographs WHERE picked_at IS NOT NULL "
                "ORDER BY picked_at DESC LIMIT ?",
                limit,
            )
        )

    def count_since(self, since: float) -> tuple[int, int]:
        """Micrographs that were picked since a time, in seconds of Unix time, and that were found since and failed."""
        picked = next(self._rows("SELECT count(*) FROM micrographs WHERE picked_at >= ?", since))[0]
        failed = next(
            self._rows(
                "SELECT count(*) FROM micrographs WHERE state IN ('failed', 'quarantined') AND seen_at >= ?", since
            )
        )[0]
        return picked, failed

    def neighbours(self, path: str) -> tuple[int | None, int | None]:
        """Numbers of the results of the micrographs picked before and after one; None where there is none."""
        before, after = (
            next(
                self._rows(
                    f"SELECT seq FROM micrographs WHERE picked_at {than} (SELECT picked_at FROM micrographs "  # noqa: S608
                    f"WHERE path = ?) ORDER BY picked_at {order} LIMIT 1",
                    path,
                ),
                (None,),
            )[0]
            for than, order in (("<", "DESC"), (">", "ASC"))
        )
        return before, after

    def newest_changes(self, limit: int) -> list[StoredDocument]:
        """The newest documents about the model, newest first."""
        # The first term is that of the index over what is rare.
        return self._documents("topic != 'picks' AND topic = 'model' ORDER BY seq DESC LIMIT ?", limit)

    def results_after(self, seq: int, limit: int) -> list[StoredDocument]:
        """Results of micrographs in the order of their numbers."""
        return self._documents("seq > ? AND topic = 'picks' ORDER BY seq LIMIT ?", seq, limit)

    def newest_failures(self, limit: int) -> list[MicrographRecord]:
        """Records of micrographs that could not be picked, those found last first."""
        rows = self._rows(
            f"SELECT {_COLUMNS} FROM micrographs WHERE state IN ('failed', 'quarantined') "  # noqa: S608
            "ORDER BY seen_at DESC, path DESC LIMIT ?",
            limit,
        )
        return [_record(row) for row in rows]

    def changes(self) -> int:
        """A number that differs whenever the ledger was written to since it was last asked for."""
        return int(next(self._rows("PRAGMA data_version"))[0])

    def history(self, path: str) -> list[tuple[int, bytes]]:
        """Sequence number and document of every result of one micrograph, oldest first."""
        results = None if MIGRATED_KEY in self.meta() else self._superseded_by_newest(path)
        if results is None:
            every = "SELECT seq, body FROM documents WHERE path = ? AND topic = 'picks' ORDER BY seq"
            results = list(self._rows(every, path))
        return results

    def _superseded_by_newest(self, path: str) -> list[tuple[int, bytes]] | None:
        """The newest result and those that it superseded, each found by its number: no look at all documents.

        None where that says too little: an archive may hold older results alone, and documents of the first layout do
        not say what they supersede.
        """
        row = next(self._rows("SELECT seq FROM micrographs WHERE path = ?", path), (None,))
        seq: int = row[0] or 0
        results: list[tuple[int, bytes]] = []
        while seq and (stored := self.document(seq)) is not None:
            results.append((seq, stored.body))
            try:
                seq = min(_SUPERSEDES.decode(stored.body).supersedes, seq - 1)
            except msgspec.DecodeError:
                return None
        return None if seq and not results else results[::-1]

    def results(self) -> list[str]:
        """Paths of all micrographs that have a result, in the order of their newest ones."""
        return [path for (path,) in self._rows("SELECT path FROM micrographs WHERE seq IS NOT NULL ORDER BY seq")]

    def result(self, path: str) -> KeptResult | None:
        """The newest result of a micrograph with its score map, as they are at one moment; None where there is none."""
        return self._kept(NEWEST_OF, path)

    def next_result(self, *, after: int, until: int) -> KeptResult | None:
        """The first result after one sequence number and up to another that no later one supersedes."""
        return self._kept("d.seq > ? AND d.seq <= ? AND d.topic = 'picks' AND d.superseded_by IS NULL", after, until)

    def newest_result(self) -> KeptResult | None:
        """The newest result of all that is not damaged; None where there is none."""
        before = 2**63 - 1
        while newest := self._documents("topic = 'picks' AND seq < ? ORDER BY seq DESC LIMIT 1", before):
            before = newest[0].seq
            if newest[0].is_whole():
                return self._kept("d.seq = ?", before)
        return None

    def _kept(self, where: str, *values: object) -> KeptResult | None:
        row = next(self._rows(KeptResult.statement(where, layout=self.layout), *values), None)
        return None if row is None else KeptResult.of(row)

    def score_map(self, seq: int) -> bytes | None:
        """The packed score map of a result; None where none was kept."""
        row = next(self._rows("SELECT body FROM score_maps WHERE seq = ?", seq), None)
        return None if row is None else row[0]

    def edits(self, path: str) -> list[StoredEdit]:
        """The edits of a micrograph, in the order in which they were left."""
        if self.layout < EDITS:
            return []
        with self._faults():
            return select_edits(self._database, path)

    def corrected_results(self, limit: int) -> list[StoredDocument]:
        """Newest results of micrographs that were ever edited, in the order of their first edits."""
        if self.layout < EDITS:
            return []
        statement = (
            f"SELECT {', '.join(f'd.{column}' for column in self._columns.split(', '))} FROM "  # noqa: S608
            "(SELECT path, min(number) AS first FROM edits GROUP BY path ORDER BY first LIMIT ?) e "
            "JOIN micrographs m ON m.path = e.path JOIN documents d ON d.seq = m.seq ORDER BY e.first"
        )
        return [StoredDocument.of(row) for row in self._rows(statement, limit)]

    def waiting_edits(self) -> int:
        """Number of edits that the daemon has not applied as yet."""
        if self.layout < EDITS:
            return 0
        return int(next(self._rows("SELECT count(*) FROM edits WHERE seq IS NULL"))[0])

    def every_edit(self) -> Iterator[StoredEdit]:
        """The edits of all micrographs, in the order in which they were left."""
        if self.layout < EDITS:
            return
        for number, body, expected, seq in self._rows("SELECT number, body, checksum, seq FROM edits ORDER BY number"):
            yield decode_edit(number, body, expected, seq)

    def uncorrected(self, seq: int) -> PickColumns | None:
        """The picks of a result without edits; None where there are none in it, or nothing was kept."""
        if self.layout < EDITS:
            return None
        with self._faults():
            return select_uncorrected(self._database, seq)

    def every_uncorrected(self) -> Iterator[tuple[int, PickColumns | None]]:
        """The picks without edits of all results that were corrected, by the result's number; None where damaged."""
        if self.layout < EDITS:
            return
        for seq, body, expected in self._rows("SELECT seq, body, checksum FROM uncorrected_picks ORDER BY seq"):
            yield seq, decode_uncorrected(body, expected)

    def qualities(self, *, below: str = "") -> Iterator[QualityRecord]:
        """The newest assessments, by path; of all micrographs whose path begins so."""
        if self.layout < QUALITY:
            return
        statement = f"{SELECT_QUALITIES} WHERE path >= ? AND substr(path, 1, ?) = ? ORDER BY path"
        for row in self._rows(statement, below, len(below), below):
            yield quality_of(row)

    def last_qualities(self, limit: int) -> list[QualityRecord]:
        """The assessments that were made last, that one first."""
        if self.layout < QUALITY:
            return []
        return [quality_of(row) for row in self._rows(f"{SELECT_QUALITIES} ORDER BY seq DESC LIMIT ?", limit)]

    def qualities_after(self, seq: int) -> list[QualityRecord]:
        """The newest assessments with a higher sequence number than this, in order."""
        if self.layout < QUALITY:
            return []
        return [quality_of(row) for row in self._rows(f"{SELECT_QUALITIES} WHERE seq > ? ORDER BY seq", seq)]

    def quality(self, path: str) -> QualityRecord | None:
        """The newest assessment of a micrograph; None where there is none."""
        if self.layout < QUALITY:
            return None
        row = next(self._rows(f"{SELECT_QUALITIES} WHERE path = ?", path), None)
        return None if row is None else quality_of(row)

    def grades(self, *, since: float = 0.0) -> dict[tuple[str, str], int]:
        """Number of micrographs of each grade and category; of those assessed since a time in seconds of Unix time."""
        if self.layout < QUALITY:
            return {}
        rows = self._rows(
            "SELECT grade, category, count(*) FROM qualities WHERE coalesce(assessed_at, 0) >= ? "
            "GROUP BY grade, category",
            since,
        )
        return {(grade, category): count for grade, category, count in rows}

    def next_unassessed(self, *, before: int = 2**63 - 1) -> Unassessed | None:
        """The newest picks, below a sequence number, that wait to be assessed; None where none do."""
        if self.layout < QUALITY:
            return None
        with self._faults():
            return next_unassessed(self._database, before=before)

    def unassessed(self) -> int:
        """Number of micrographs that wait to be assessed."""
        if self.layout < QUALITY:
            return 0
        with self._faults():
            return count_unassessed(self._database)

    def last_picked(self) -> MicrographRecord | None:
        """The micrograph that was picked last; a revision of its picks does not count."""
        row = next(
            self._rows("SELECT path FROM micrographs WHERE picked_at IS NOT NULL ORDER BY picked_at DESC LIMIT 1"), None
        )
        return None if row is None else self.micrograph(row[0])

    def _documents(self, where: str, *values: object) -> list[StoredDocument]:
        rows = self._rows(f"SELECT {self._columns} FROM documents WHERE {where}", *values)  # noqa: S608
        return [StoredDocument.of(row) for row in rows]

    def _rows(self, statement: str, *values: object) -> Iterator[tuple]:  # type: ignore[type-arg]
        with self._faults():
            yield from self._database.execute(statement, values)

    @contextmanager
    def _faults(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.Error as error:
            raise explain(self.file, error) from error


def _record(row: tuple) -> MicrographRecord:  # type: ignore[type-arg]
    return MicrographRecord(**dict(zip(MicrographRecord.__struct_fields__, row, strict=True)))
