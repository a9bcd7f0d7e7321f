"""What the ledger says of the session, in the shape in which the page asks for it."""

from __future__ import annotations

import contextlib
import functools
import statistics
import time
from datetime import datetime
from pathlib import Path

import msgspec

from frazil.documents import Mark, MicrographDocument, ModelDocument, PickColumns
from frazil.page.troubles import Facts, gather_facts
from frazil.picking import ScoreMap
from frazil.session import retune
from frazil.session.intake.passed_over import Inventory
from frazil.session.outbox.daemon_info import DaemonInfo
from frazil.session.outbox.ledger import (
    CHOICE_KEY,
    INVENTORY_KEY,
    TUNED_KEY,
    LedgerReader,
    MicrographRecord,
    StoredDocument,
)
from frazil.session.retune.repick import unpack_score_map

__all__ = ["Change", "Glance", "Result", "Session", "Standing", "glance", "rate_per_minute"]

_RATE_RESULTS = 60
_RATE_SECONDS = 600.0
_COUNT_REST = 20.0
"""Counting the states is followed by a rest of so many times its own time: of a million files it takes a while."""
_NAMES_SHOWN = 3


class Glance(msgspec.Struct, frozen=True, kw_only=True):
    """A result in a few numbers."""

    seq: int
    path: str
    """Below the watched directory; the ledger's name of the micrograph."""
    at: float | None
    """When it was committed, in seconds of Unix time."""
    shape: tuple[int, int]
    """(h, w)."""
    picks: int
    score: float | None
    """Mean figure of merit; None without picks."""
    supersedes: int
    """The result that this one replaced; 0 for none."""
    mark: Mark
    """A person's verdict on the micrograph."""
    corrected: bool
    """Whether people changed its picks."""


class Change(msgspec.Struct, frozen=True, kw_only=True):
    """What happened to the model."""

    seq: int
    event: str
    model: str
    at: float | None
    reason: str


class TuningSummary(msgspec.Struct, frozen=True, kw_only=True):
    """The changed limits in force, and the progress of the revisions."""

    says: str
    share: float
    """Fraction of the results that are done, 1 at the end."""


class Standing(msgspec.Struct, frozen=True, kw_only=True):
    """The part of the page that changes only with the ledger."""

    epoch: str
    head: int
    """Number of the newest document."""
    daemon: DaemonInfo | None
    counts: dict[str, int]
    """Micrographs in each state."""
    latest: list[Glance]
    """Newest first."""
    picked_at: list[float]
    """When the last micrographs were picked, newest first, in seconds of Unix time."""
    seconds: float | None
    """Median time of the last micrographs from the file known to be complete to its picks."""
    threshold: float | None
    threshold_says: str
    """How it came about; empty without a result."""
    diameter_angstrom: float | None
    failures: list[MicrographRecord]
    changes: list[Change]
    tuned: TuningSummary | None
    passed_over: int
    """Names in the watched directory that are passed over."""
    passed_over_lines: list[str]
    """Why, a line for each reason."""
    layout: str
    """The layout of the watched directory, in some words; empty where none is known."""


class Result(msgspec.Struct, frozen=True, kw_only=True):
    """A micrograph's picks, to be drawn."""

    seq: int
    path: str
    document: MicrographDocument
    superseded_by: int | None
    older: int | None
    """The result of the micrograph that was picked before this one."""
    newer: int | None
    """That of the one after it."""


class _Scores(msgspec.Struct):
    score: list[float]


class _Corrected(msgspec.Struct):
    mark: Mark = ""


class _Short(msgspec.Struct):
    """The little of a document that a glance needs; decoding that alone takes a third of the time."""

    shape: tuple[int, int]
    picks: _Scores
    supersedes: int = 0
    corrections: _Corrected | None = None


_SHORT = msgspec.json.Decoder(_Short)


class Session:
    """Asks the ledger; from one thread."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self._reader: LedgerReader | None = None
        self._counts: dict[str, int] = {}
        self._next_count = 0.0

    @functools.cached_property
    def epoch(self) -> str:
        """Identity of the ledger, which the numbers of results belong to."""
        return self.reader.epoch

    @property
    def reader(self) -> LedgerReader:
        """The ledger, open for reading.

        Raises:
            OutputError: there is none as yet.
        """
        if self._reader is None:
            self._reader = LedgerReader(self._file)
        return self._reader

    def close(self) -> None:
        """Close the ledger."""
        if self._reader is not None:
            self._reader.close()

    def standing(self, latest: int) -> Standing:
        """How things stand, with so many of the latest results."""
        meta = self.reader.meta()
        results, times = self.reader.last_picked_results(latest), self.reader.last_picked_times(_RATE_RESULTS)
        waits = [picked - complete for complete, picked in times[:latest] if complete is not None]
        newest = self.result(results[0].seq) if results else None
        inventory = Inventory.decode(meta.get(INVENTORY_KEY, "")) or Inventory()
        return Standing(
            epoch=meta["epoch"],
            head=self.reader.head(),
            daemon=DaemonInfo.of(self.reader),
            counts=self._count_states(),
            latest=[seen for result in results if (seen := glance(result)) is not None],
            picked_at=[picked for _, picked in times],
            seconds=statistics.median(waits) if waits else None,
            threshold=newest.document.threshold if newest else None,
            threshold_says=self.describe_threshold(newest.document, meta) if newest else "",
            diameter_angstrom=newest.document.diameter_px * newest.document.pixel_size_angstrom if newest else None,
            failures=self.reader.newest_failures(8),
            changes=[change for document in self.reader.newest_changes(8) if (change := _change(document)) is not None],
            tuned=_tuned(meta.get(TUNED_KEY, "")),
            passed_over=sum(passed.count for passed in inventory.passed_over.values()),
            passed_over_lines=inventory.passed_over_lines(_NAMES_SHOWN),
            layout=inventory.describe_layout(),
        )

    def describe_threshold(self, document: MicrographDocument, meta: dict[str, str] | None = None) -> str:
        """How the threshold of a result came about, in a few words."""
        meta = self.reader.meta() if meta is None else meta
        progress = retune.RevisionProgress.decode(meta.get(TUNED_KEY, ""))
        choice = retune.SessionChoice.decode(meta.get(CHOICE_KEY, ""))
        return retune.describe_threshold(document, progress.change if progress else None, choice)

    def facts(self) -> Facts:
        """What the ledger says of how things stand, to be judged."""
        return gather_facts(self.reader, self._count_states(), time.time())

    def _count_states(self) -> dict[str, int]:
        started = time.monotonic()
        if started >= self._next_count:
            self._counts = self.reader.counts()
            now = time.monotonic()
            self._next_count = now + (now - started) * _COUNT_REST
        return self._counts

    def result(self, seq: int) -> Result | None:
        """A micrograph's picks; None where there is no result of that number."""
        stored = self.reader.document(seq)
        document = None if stored is None else stored.decode()
        if stored is None or not isinstance(document, MicrographDocument):
            return None
        older, newer = self.reader.neighbours(stored.path)
        return Result(
            seq=seq,
            path=stored.path,
            document=document,
            superseded_by=stored.superseded_by,
            older=older,
            newer=newer,
        )

    def deleted_picks(self, result: Result) -> PickColumns:
        """The model's picks that edits took away from a result; none of one that a later result has replaced."""
        document, before = result.document, self.reader.uncorrected(result.seq)
        if before is None or isinstance(document.corrections, msgspec.UnsetType):
            return PickColumns(y=[], x=[], score=[])
        rows = zip(before.y, before.x, before.score, strict=True)
        there = set(zip(document.picks.y, document.picks.x, document.picks.score, strict=True))
        deleted = [row for row in rows if row not in there]
        y, x, score = ([row[i] for row in deleted] for i in range(3))
        return PickColumns(y=y, x=x, score=score)

    def score_map(self, seq: int) -> ScoreMap | None:
        """The score map of a result; None where none was kept."""
        packed = self.reader.score_map(seq)
        if packed is None:
            return None
        with contextlib.suppress(ValueError):
            return unpack_score_map(packed)
        return None


def glance(document: StoredDocument) -> Glance | None:
    """A result in a few numbers; None where it is damaged."""
    try:
        short = _SHORT.decode(document.body)
    except msgspec.DecodeError:
        return None
    scores = short.picks.score
    return Glance(
        seq=document.seq,
        path=document.path,
        at=document.committed_at,
        shape=short.shape,
        picks=len(scores),
        score=sum(scores) / len(scores) if scores else None,
        supersedes=short.supersedes,
        mark="" if short.corrections is None else short.corrections.mark,
        corrected=short.corrections is not None,
    )


def rate_per_minute(picked_at: list[float], now: float) -> float:
    """Micrographs a minute over the last ten minutes, or over the time of those given, newest first."""
    within = [at for at in picked_at if now - at <= _RATE_SECONDS]
    if len(within) < 2:
        return len(within) / (_RATE_SECONDS / 60)
    span = now - within[-1] if len(within) == len(picked_at) else _RATE_SECONDS
    return 60 * len(within) / max(span, 1.0)


def _tuned(remembered: str) -> TuningSummary | None:
    progress = retune.RevisionProgress.decode(remembered)
    if progress is None:
        return None
    fraction = 1.0 if progress.is_done else progress.done_seq / progress.until_seq
    return TuningSummary(says=progress.describe(), share=fraction)


def _change(stored: StoredDocument) -> Change | None:
    document = stored.decode()
    if not isinstance(document, ModelDocument):
        return None
    model = document.model
    return Change(
        seq=stored.seq,
        event=document.event,
        model=model.short,
        at=datetime.fromisoformat(document.at).timestamp(),
        reason=document.reason,
    )
