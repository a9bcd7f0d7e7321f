"""Rebuilding: a whole ledger from all that can be read of a damaged one, of its copies, and of the files around it."""

from __future__ import annotations

import contextlib
import re
import sqlite3
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import get_args
from uuid import uuid4

import msgspec

from frazil.documents import FailedDocument, MicrographDocument, NumberedDocument, QualityDocument
from frazil.errors import MicrographError, OutputError
from frazil.files import sync_path
from frazil.session.outbox.file_stamp import stamp_of
from frazil.session.outbox.ledger.check import Ranges
from frazil.session.outbox.ledger.layout import State, checksum, claim, connect, transaction
from frazil.session.outbox.ledger.meta_keys import ARCHIVED_KEY, DAEMON_KEY, DELIVERED_KEY, EPOCH_KEY, LAYOUT_KEY
from frazil.session.outbox.ledger.qualities import FILL_UNASSESSED, QualityRecord, store_quality
from frazil.session.outbox.ledger.reader import StoredDocument
from frazil.session.outbox.ledger.salvage import Row, read_rows
from frazil.session.outbox.ledger.witness import Generation, outputs_of, read_witness

__all__ = ["Rebuilt", "rebuild"]

_STATES = frozenset(get_args(State))
_GENERATION = re.compile("[0-9a-f]{12}")
_MOST = 10**9
"""No number is larger: what says so is damaged."""
_COLUMNS = 13
"""Of the table of micrographs; the last is the number of the newest result."""


@dataclass(slots=True, kw_only=True)
class Rebuilt:
    """What became of a ledger."""

    documents: int = 0
    from_copies: int = 0
    """Of them, those that only a copy still had."""
    lost: Ranges = field(default_factory=Ranges)
    """Numbers whose documents could not be read; those that were archived are in the archive."""
    micrographs: int = 0
    again: list[str] = field(default_factory=list)
    """Micrographs whose newest result is lost: they are picked again."""
    score_maps: int = 0
    edits: int = 0
    aside: Path | None = None
    """Where the damaged ledger is now."""


@dataclass(frozen=True, slots=True)
class _Document:
    """A document that is whole, and the little of what it says that is needed here."""

    stored: StoredDocument
    epoch: str
    supersedes: int
    file: str
    """Of the micrograph that was picked; empty for any other document."""

    @classmethod
    def of(cls, stored: StoredDocument) -> _Document | None:
        document = stored.decode()
        if document is None:
            return None
        stored = _with_path_of(stored, document)
        if isinstance(document, MicrographDocument):
            return cls(stored, document.epoch, document.supersedes, document.path)
        if isinstance(document, QualityDocument):
            return cls(stored, document.epoch, document.supersedes, "")
        return cls(stored, document.epoch, 0, "")


@dataclass(slots=True)
class _Found:
    """What was read, of one file."""

    documents: dict[int, _Document] = field(default_factory=dict)
    micrographs: dict[str, Row] = field(default_factory=dict)
    meta: dict[str, str] = field(default_factory=dict)
    generations: dict[int, Generation] = field(default_factory=dict)
    requests: list[Row] = field(default_factory=list)
    edits: dict[str, Row] = field(default_factory=dict)
    """By their ids."""
    qualities: dict[str, QualityRecord] = field(default_factory=dict)
    """By path; wanted are those whose documents were archived."""

    @classmethod
    def of(cls, rows: Iterable[Row]) -> _Found:
        found = cls()
        for row in rows:
            found._sort(row)
        return found

    def _sort(self, row: Row) -> None:
        """Put a row where it belongs, by its shape; what is of no table, or damaged, is left out."""
        match row:
            case (int(seq), str(topic), str(path), bytes(body), committed_at, superseded_by, *rest) if len(rest) <= 1:
                stored = StoredDocument(
                    seq=seq,
                    topic=topic,
                    path=path,
                    committed_at=_seconds(committed_at),
                    superseded_by=superseded_by if isinstance(superseded_by, int) else None,
                    body=body,
                    checksum=rest[0] if rest and isinstance(rest[0], int) else None,
                )
                if (document := _Document.of(stored)) is not None:
                    self.documents[seq] = document
            case (int(), str(name), str(path), float() | int(), bytes(body), int(expected), None | int()) if (
                checksum(body) == expected
            ):
                if row[-1] is not None or name not in self.edits:
                    self.edits[name] = row
            case (str(path), int(), int(), str(), str(), *_) if len(row) == len(QualityRecord.__struct_fields__):
                with contextlib.suppress(msgspec.ValidationError):
                    record = msgspec.convert(
                        dict(zip(QualityRecord.__struct_fields__, row, strict=True)), QualityRecord
                    )
                    if path not in self.qualities or self.qualities[path].seq < record.seq:
                        self.qualities[path] = record
            case (str(key), str(value)) if key not in _STATES:
                self.meta[key] = value
            case (int(number), str(name), int(first)) if _GENERATION.fullmatch(name) and first < _MOST:
                self.generations[number] = Generation(name, first)
            case (int(_), str(path), float() | int()) if path:
                self.requests.append(row[1:])
            case (str(path), str(state), int(), int(), str(), str(), str(), int(), *rest) if (
                len(row) == _COLUMNS
                and state in _STATES
                and _seq(row) < _MOST
                and all(value is None or isinstance(value, int | float) for value in rest)
            ):
                older = self.micrographs.get(path)
                if older is None or _newest(row) >= _newest(older):
                    self.micrographs[path] = row

    def epoch(self) -> str:
        """Of the ledger; empty where nothing says it."""
        if epoch := self.meta.get(EPOCH_KEY):
            return epoch
        epochs = Counter(document.epoch for document in self.documents.values())
        return epochs.most_common(1)[0][0] if epochs else ""


def rebuild(file: Path, *, out: Path | None = None) -> Rebuilt:
    """Put a whole ledger in the place of a damaged one, which is kept beside it. No daemon may run.

    Documents, score maps, records and edits are taken from the damaged file, page by page, and what it lacks from
    copies beside it (``<name>.bak``, ``<name>.*.bak``). Numbers stay as they are; those whose documents are lost stay
    empty. A micrograph whose newest result is lost is picked again, and its STAR file stays until then.

    Args:
        file: the ledger, or where it was.
        out: the output directory, where neither the ledger says it nor lies in it.

    Raises:
        OutputError: there is nothing to rebuild from, a daemon uses the ledger, or the new one cannot be written.
    """
    copies = sorted({*file.parent.glob(f"{file.name}.*.bak"), *file.parent.glob(f"{file.name}.bak")}, reverse=True)
    if not file.is_file() and not copies:
        raise OutputError(f"{file}: expected a ledger to rebuild, or a copy of it ({file.name}*.bak), found neither")
    with closing(claim(file)):
        try:
            sources = [file, *copies] if file.is_file() else copies
            found, rebuilt = _Found.of(read_rows(sources[0])), Rebuilt()
            for copy in sources[1:]:
                _add(found, _Found.of(read_rows(copy)), rebuilt)
            return _write(file, sources, found, rebuilt, out or outputs_of(file, found.meta.get(DAEMON_KEY, "")))
        except OSError as error:
            raise OutputError(f"{file}: cannot be rebuilt: {error.strerror or error}") from error
        except sqlite3.Error as error:
            raise OutputError(f"{file}: cannot be rebuilt: {error}") from error


def _add(found: _Found, copy: _Found, rebuilt: Rebuilt) -> None:
    """Take from a copy what is lacking."""
    if found.epoch() not in ("", copy.epoch()):
        return
    lacking = copy.documents.keys() - found.documents.keys()
    rebuilt.from_copies += len(lacking)
    found.documents.update({seq: copy.documents[seq] for seq in lacking})
    for name in ("micrographs", "meta", "generations", "edits", "qualities"):
        setattr(found, name, {**getattr(copy, name), **getattr(found, name)})


def _write(file: Path, sources: list[Path], found: _Found, rebuilt: Rebuilt, out: Path) -> Rebuilt:
    witness_epoch, witness_seq = read_witness(out)
    epoch = found.epoch() or witness_epoch or uuid4().hex
    given_out = witness_seq if witness_epoch == epoch else 0
    documents = {seq: found.documents[seq] for seq in sorted(found.documents) if found.documents[seq].epoch == epoch}
    archived = _number(found.meta.get(ARCHIVED_KEY))
    head = max(
        archived,
        given_out,
        *documents,
        *(_seq(row) for row in found.micrographs.values()),
        *(generation.first - 1 for generation in found.generations.values()),
        0,
    )
    superseded = {document.supersedes: seq for seq, document in documents.items()}
    current = {seq for seq, d in documents.items() if not (d.stored.superseded_by or superseded.get(seq))}
    records = _records(found.micrographs, documents, archived, rebuilt)
    meta = {DELIVERED_KEY: str(given_out), ARCHIVED_KEY: "0", **found.meta, EPOCH_KEY: epoch}
    meta.pop(LAYOUT_KEY, None)
    new = file.with_name(f"{file.name}.rebuilt")
    _remove(new)
    try:
        with closing(connect(new)) as database, transaction(database):
            database.executemany("INSERT OR REPLACE INTO meta VALUES (?, ?)", meta.items())
            database.executemany(
                "INSERT INTO generations (id, first) VALUES (?, ?)",
                [(g.id, g.first) for _, g in sorted(found.generations.items())] + [(uuid4().hex[:12], head + 1)],
            )
            database.executemany(
                "INSERT INTO documents (seq, topic, path, body, committed_at, superseded_by, checksum) "
                "VALUES (?, ?, ?, ?, ?, ?, ?)",
                (
                    (
                        s.seq,
                        s.topic,
                        s.path,
                        s.body,
                        s.committed_at,
                        s.superseded_by or superseded.get(s.seq),
                        checksum(s.body),
                    )
                    for s in (document.stored for document in documents.values())
                ),
            )
            database.executemany("INSERT INTO score_maps VALUES (?, ?)", _score_maps(sources, set(current)))
            database.executemany("INSERT INTO uncorrected_picks VALUES (?, ?, ?)", _uncorrected(sources, set(current)))
            database.executemany(
                "INSERT INTO edits (id, path, made_at, body, checksum, seq) VALUES (?, ?, ?, ?, ?, ?)",
                _edits(found.edits, documents, archived),
            )
            database.executemany(f"INSERT INTO micrographs VALUES ({', '.join('?' * _COLUMNS)})", records)  # noqa: S608
            for quality in found.qualities.values():
                if quality.seq <= archived:
                    store_quality(database, quality)
            _add_qualities(database, documents, {str(record[0]): record for record in records})
            known = {record[0] for record in records}  # a damaged row of another table may look like a request
            requests = [request for request in found.requests if request[0] in known]
            database.executemany("INSERT INTO requests (path, made_at) VALUES (?, ?)", requests)
            rebuilt.edits = len(found.edits)
            rebuilt.score_maps = database.execute("SELECT count(*) FROM score_maps").fetchone()[0]
        rebuilt.aside = _replace(file, new)
    finally:
        _remove(new)
    rebuilt.documents, rebuilt.micrographs = len(documents), len(records)
    following = archived + 1
    for seq in documents:
        rebuilt.lost.add(following, seq - 1)
        following = max(following, seq + 1)
    rebuilt.lost.add(following, head)
    return rebuilt


def _score_maps(sources: list[Path], wanted: set[int]) -> Iterator[tuple[int, bytes]]:
    """Score maps of results that no later one supersedes, each once; all of them would not fit into memory."""
    for source in sources:
        for row in read_rows(source):
            match row:
                case (int(seq), bytes(body)) if seq in wanted:
                    wanted.remove(seq)
                    yield seq, body


def _uncorrected(sources: list[Path], wanted: set[int]) -> Iterator[tuple[int, int, bytes]]:
    """The picks without edits of those results, each once."""
    for source in sources:
        for row in read_rows(source):
            match row:
                case (int(seq), int(expected), bytes(body)) if seq in wanted and checksum(body) == expected:
                    wanted.remove(seq)
                    yield seq, expected, body


def _add_qualities(database: sqlite3.Connection, documents: dict[int, _Document], records: dict[str, Row]) -> None:
    """The newest assessment of each micrograph, from its document; what lacks one is assessed again."""
    for document in documents.values():
        stored, found = document.stored, document.stored.decode()
        if isinstance(found, QualityDocument) and (record := records.get(stored.path)) is not None:
            # What the file was is known as long as the picks are those that were assessed.
            fingerprint = str(record[4]) if _seq(record) == found.of else ""
            store_quality(database, QualityRecord.of_document(found, stored.path, fingerprint))
    database.execute(FILL_UNASSESSED)


def _edits(known: dict[str, Row], documents: dict[int, _Document], archived: int) -> list[Row]:
    """The edits in their order, without their numbers; those whose result is lost wait again."""
    rows = sorted(known.values(), key=lambda row: (_seconds(row[0]) or 0.0, str(row[1])))
    return [
        (*row[1:-1], row[-1] if row[-1] in documents or (_seq(row) and _seq(row) <= archived) else None) for row in rows
    ]


def _records(known: dict[str, Row], documents: dict[int, _Document], archived: int, rebuilt: Rebuilt) -> list[Row]:
    """The records of micrographs, in agreement with the documents that there are."""
    newest = {document.stored.path: seq for seq, document in documents.items() if document.file}
    records: list[Row] = []
    for path in sorted(known.keys() | newest.keys()):
        row, seq = known.get(path), newest.get(path, 0)
        if row is not None and _seq(row) in documents and documents[_seq(row)].stored.path != path:
            row = None  # its path is damaged: the document says the right one
            if not seq:
                continue
        if row is None or _seq(row) < seq:
            records.append(_record_of(documents[seq], rebuilt))
        elif _seq(row) > max(seq, archived):
            rebuilt.again.append(path)
            records.append((path, "seen", *row[2:4], "", "", "", 0, *row[8:]))
        else:
            records.append(row)
    return records


def _record_of(document: _Document, rebuilt: Rebuilt) -> Row:
    """The record of a micrograph of which only the result is known: it counts if its file is older than that."""
    from frazil.session.outbox.file_stamp import sample  # here, with all of picking, which others need not wait for

    state, size, mtime_ns, fingerprint = "gone", 0, 0, ""
    stored, file = document.stored, Path(document.file)
    with contextlib.suppress(OSError):
        stamp = stamp_of(file)
        state, size, mtime_ns = "seen", stamp.size, stamp.mtime_ns
        if stored.committed_at is not None and mtime_ns < stored.committed_at * 1e9:
            with contextlib.suppress(MicrographError):
                state, fingerprint = "picked", sample(file).fingerprint
    if state == "seen":
        rebuilt.again.append(stored.path)
    times = (stored.committed_at, None, stored.committed_at, None)
    return (stored.path, state, size, mtime_ns, fingerprint, "", "", 1, *times, stored.seq)


def _replace(file: Path, new: Path) -> Path | None:
    """Put the new ledger in its place, and the old one with what belongs to it aside."""
    aside = file.with_name(f"{file.name}.{datetime.now(UTC):%Y%m%dT%H%M%S}.damaged")
    moved = None
    for ending in ("-wal", "-shm", ""):
        old = file.with_name(file.name + ending)
        if old.exists():
            old.rename(aside.with_name(aside.name + ending))
            moved = aside
    new.rename(file)
    sync_path(file.parent)
    return moved


def _remove(file: Path) -> None:
    for ending in ("", "-wal", "-shm"):
        file.with_name(file.name + ending).unlink(missing_ok=True)


def _newest(row: Row) -> tuple[float, float]:
    return _seq(row), _seconds(row[8]) or 0.0


def _with_path_of(stored: StoredDocument, document: NumberedDocument) -> StoredDocument:
    """With the path that the document says, which its checksum covers; an early one says no directory."""
    if isinstance(document, MicrographDocument | QualityDocument | FailedDocument) and (
        document.directory or "/" not in stored.path
    ):
        path = f"{document.directory}/{document.micrograph}".lstrip("/")
        return msgspec.structs.replace(stored, path=path)
    return stored


def _seq(row: Row) -> int:
    seq = row[-1]
    return seq if isinstance(seq, int) else 0


def _seconds(value: object) -> float | None:
    return float(value) if isinstance(value, int | float) else None


def _number(text: str | None) -> int:
    return int(text) if text is not None and text.isdecimal() else 0
