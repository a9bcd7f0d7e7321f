"""The check of a ledger: whether all that it should hold can be read."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from frazil.errors import LedgerDamagedError
from frazil.session.outbox.ledger.meta_keys import ARCHIVED_KEY, DAEMON_KEY
from frazil.session.outbox.ledger.reader import LedgerReader
from frazil.session.outbox.ledger.witness import outputs_of, read_witness

__all__ = ["Check", "Ranges", "check"]

_FAULTS_NAMED = 20


class Ranges:
    """Whole numbers as ranges."""

    def __init__(self) -> None:
        self.all: list[tuple[int, int]] = []

    def add(self, first: int, last: int) -> None:
        """Add a range that begins behind those there are."""
        if first > last:
            return
        if self.all and self.all[-1][1] == first - 1:
            first = self.all.pop()[0]
        self.all.append((first, last))

    def count(self) -> int:
        """How many numbers there are."""
        return sum(last - first + 1 for first, last in self.all)

    def __str__(self) -> str:
        shown = [str(first) if first == last else f"{first}-{last}" for first, last in self.all[:_FAULTS_NAMED]]
        return ", ".join(shown) + (" ..." if len(self.all) > _FAULTS_NAMED else "")


@dataclass(slots=True, kw_only=True)
class Check:
    """What was found in a ledger."""

    counts: dict[str, int] = field(default_factory=dict)
    """Micrographs in each state."""
    documents: int = 0
    edits: int = 0
    """Corrections of picks."""
    qualities: int = 0
    """Micrographs that were assessed."""
    head: int = 0
    """The highest sequence number that was ever given out."""
    missing: Ranges = field(default_factory=Ranges)
    """Numbers without a document: it was archived, or lost in a ledger that was restored or rebuilt."""
    generations: int = 0
    faults: list[str] = field(default_factory=list)
    """What is wrong, a line each; empty where all is well."""


def check(file: Path) -> Check:
    """Read all of a ledger, also while its daemon runs.

    Raises:
        OutputError: there is none, it is of another layout, or it cannot be opened at all.
    """
    found = Check()
    with LedgerReader(file) as reader:
        try:
            found.faults += [f"SQLite: {line}" for line in reader.integrity(_FAULTS_NAMED)]
        except LedgerDamagedError as error:
            found.faults.append(str(error))
        for look in (
            _look_at_documents,
            _look_at_micrographs,
            _look_at_edits,
            _look_at_uncorrected,
            _look_at_qualities,
            _look_at_generations,
        ):
            try:
                look(reader, found)
            except LedgerDamagedError:
                found.faults.append(f"cannot be read to the end: {look.__name__.rpartition('_')[2]}")
    return found


def _look_at_documents(reader: LedgerReader, found: Check) -> None:
    damaged = Ranges()
    following = 1
    for stored in reader.documents():
        found.documents += 1
        found.missing.add(following, stored.seq - 1)
        following = stored.seq + 1
        if stored.decode() is None:
            damaged.add(stored.seq, stored.seq)
    found.head = reader.ever_given_out()
    found.missing.add(following, found.head)
    if damaged.all:
        found.faults.append(f"{damaged.count()} documents are damaged: {damaged}")
    if not reader.generations():
        return  # an archive knows less than its ledger
    epoch, seq = read_witness(outputs_of(reader.file, reader.meta().get(DAEMON_KEY, "")))
    if epoch == reader.epoch and seq > found.head:
        found.faults.append(f"numbers up to {seq} were given out, and it knows of {found.head}: it is an older copy")


def _look_at_micrographs(reader: LedgerReader, found: Check) -> None:
    found.counts = reader.counts()
    if reader.generations() and (orphans := reader.without_document()):  # an archive lacks what is in its ledger
        found.faults.append(f"{len(orphans)} micrographs have lost their result, such as {orphans[0]}")


def _look_at_edits(reader: LedgerReader, found: Check) -> None:
    damaged = Ranges()
    for stored in reader.every_edit():
        found.edits += 1
        if stored.edit is None:
            damaged.add(stored.number, stored.number)
    if damaged.all:
        found.faults.append(f"{damaged.count()} edits of picks are damaged: {damaged}")


def _look_at_uncorrected(reader: LedgerReader, found: Check) -> None:
    damaged = Ranges()
    for seq, picks in reader.every_uncorrected():
        if picks is None:
            damaged.add(seq, seq)
    if damaged.all:
        found.faults.append(f"the picks without edits of {damaged.count()} results are damaged: {damaged}")


def _look_at_qualities(reader: LedgerReader, found: Check) -> None:
    records = list(reader.qualities())
    found.qualities = len(records)
    if not reader.generations():
        return
    archived = int(reader.meta()[ARCHIVED_KEY])
    lost = [one for one in records if one.seq > archived and reader.document(one.seq) is None]
    if lost:
        found.faults.append(f"{len(lost)} assessments have lost their document, such as that of {lost[0].path}")


def _look_at_generations(reader: LedgerReader, found: Check) -> None:
    generations = reader.generations()
    found.generations = len(generations)
    firsts = [generation.first for generation in generations]
    if firsts != sorted(firsts):
        found.faults.append("its generations are not in order")
