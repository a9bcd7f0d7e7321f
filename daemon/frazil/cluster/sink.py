"""What a run needs of the place to which its results go, and how that place tells what is done."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import Protocol

import msgspec

from frazil.cluster.run import RepickRun
from frazil.cluster.work import Picked
from frazil.errors import MicrographError, OutputError
from frazil.picking import Picker
from frazil.session.outbox.handover import Handover
from frazil.session.outbox.ledger import Handled, LedgerReader

__all__ = ["Results", "Sink", "is_of_model", "newest_run"]


class Sink(Protocol):
    """Is told what has become of results."""

    def written(self, key: str, picks: int) -> None:
        """A result is in the ledger, with so many picks."""

    def refused(self, key: str, why: str) -> None:
        """A result was not taken; it may be the next time."""


class Results(Protocol):
    """Where results go. All methods raise `OutputError` or `sqlite3.Error` where it can no longer be written.

    Attributes:
        is_live: whether a daemon has the ledger, and goes on picking what is new.
    """

    is_live: bool

    @property
    def waiting(self) -> Collection[str]:
        """Keys of the results that are handed over, and not written as yet."""

    @property
    def waits_for(self) -> str:
        """What keeps results from being written, in one line; empty where nothing does."""

    @property
    def head(self) -> int:
        """The newest sequence number."""

    def recall(self, key: str) -> str:
        """What the ledger remembers under a key; empty where that is nothing."""

    def remember(self, key: str, value: str) -> None:
        """Have the ledger remember a value; a daemon's own ledger does not."""

    def earlier(self) -> RepickRun | None:
        """The run that was begun last."""

    def begin(self, run: RepickRun, picker: Picker) -> None:
        """Begin a run, or go on with one."""

    def done(self, keys: Sequence[str]) -> set[str]:
        """Those of these keys that have a result of the run."""

    def given_up(self) -> set[str]:
        """Keys of the micrographs that the run has given up."""

    def left_alone(self, keys: Sequence[str], *, holds: bool) -> set[str]:
        """Those of these keys that are not to be picked: they are held, or the daemon's own affair."""

    def write(self, picked: Picked, path: Path) -> None:
        """Write a result.

        Raises:
            MicrographError: this one can never be written.
        """

    def fail(
        self,
        error: MicrographError,
        key: str,
        handled: Handled,
        *,
        max_attempts: int,
        on_commit: Callable[[int, bool], None],
    ) -> None:
        """Record that a micrograph cannot be picked, as `Outbox.fail` does."""

    def look(self) -> None:
        """See that the ledger is still what it was; called each second."""

    def finish(self) -> None:
        """Wait until all that was handed over is written, or refused."""

    def fault(self, error: Exception) -> OutputError:
        """What an error of SQLite, or `Stopped`, means for the user."""

    def close(self) -> None:
        """Let others have it."""


class _OfModel(msgspec.Struct):
    """The model of a document, without all else."""

    class Identity(msgspec.Struct):
        sha256: str = ""

    model: Identity


def is_of_model(reader: LedgerReader, key: str, run: RepickRun) -> bool:
    """Whether a micrograph's newest result is of the run's model, and newer than its begin."""
    record = reader.micrograph(key)
    if record is None or record.seq is None or record.seq <= run.after_seq:
        return False
    stored = reader.document(record.seq)
    with contextlib.suppress(msgspec.MsgspecError):
        return stored is not None and msgspec.json.decode(stored.body, type=_OfModel).model.sha256 == run.sha256
    return False


def newest_run(remembered: str, handover: Handover | None) -> RepickRun | None:
    """The run that was begun last, by the ledger or its handover."""
    begun = None if handover is None else handover.run()
    runs = [RepickRun.decode(text) for text in (remembered, begun.run if begun else "")]
    return max((run for run in runs if run is not None), key=lambda run: (run.since, run.beside_daemon), default=None)
