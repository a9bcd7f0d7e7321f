"""A run over an archive: what the ledger remembers of it, what has come of it, and whose ledger it is."""

from __future__ import annotations

import contextlib
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec

from frazil.errors import FrazilError, OutputError, SettingsError
from frazil.picking import PickingSettings
from frazil.session.outbox.daemon_info import DaemonInfo
from frazil.session.outbox.ledger import LedgerReader, Remembered
from frazil.session.retune.repick import read_document

__all__ = ["RepickRun", "Tally", "session_of", "watched_by"]


class RepickRun(msgspec.Struct, Remembered, frozen=True, kw_only=True):
    """One run over an archive, kept in the ledger so that it can be resumed."""

    since: str
    """UTC time in RFC 3339."""
    after_seq: int
    """What has a result, or was given up, with a higher sequence number is done."""
    sha256: str
    """Of the model."""
    settings: PickingSettings
    target_precision: float | None = None
    junk: str = ""
    """How junk is found: the sha256 of the model, and what becomes of picks there; empty where it is not."""
    beside_daemon: bool = False
    """Whether it was, once, beside a daemon that went on picking: then only results of this model are the run's."""

    def resume(self, begun: RepickRun) -> RepickRun:
        """The run that goes on, where one with the same model and settings is begun.

        Raises:
            SettingsError: they are others.
        """
        beside_daemon = self.beside_daemon or begun.beside_daemon
        resumed = msgspec.structs.replace(self, beside_daemon=beside_daemon)
        if resumed == msgspec.structs.replace(
            begun, since=self.since, after_seq=self.after_seq, beside_daemon=beside_daemon
        ):
            return resumed
        raise SettingsError(
            f"--resume: expected model and settings of the run that began at {self.since}, found others: "
            f"give {self._difference_from(begun)} as before, or leave --resume out to pick all again"
        )

    def _difference_from(self, other: RepickRun) -> str:
        """What it has, in a few words, where another has something else."""
        if self.sha256 != other.sha256:
            return f"the model {self.sha256[:12]}"
        if self.target_precision != other.target_precision:
            return f"target-precision {self.target_precision}"
        if self.junk != other.junk:
            return "find-junk, junk-model and junk-picks"
        others: dict[str, Any] = msgspec.structs.asdict(other.settings)
        return ", ".join(
            f"{name} {value}" for name, value in msgspec.structs.asdict(self.settings).items() if others[name] != value
        )


@dataclass(slots=True, kw_only=True)
class Tally:
    """What has come of the run so far."""

    total: int = 0
    """Number of names."""
    already: int = 0
    """Done before, by the run that is resumed."""
    picked: int = 0
    picks: int = 0
    failed: Counter[str] = field(default_factory=Counter)
    """Given up, by reason."""
    left: int = 0
    """Neither: they change, or are to be tried again."""
    gone: int = 0
    """No longer there."""
    held: int = 0
    """Left out, since the session's ledger holds them."""
    new: int = 0
    """Left to the live daemon, which has no result of them as yet."""
    waits_for: str = ""
    """What keeps all from going on, in one line."""

    @property
    def done(self) -> int:
        """Number of names that need no more work."""
        return self.already + self.picked + self.failed.total() + self.gone + self.held + self.new


def watched_by(ledger: Path) -> Path | None:
    """The watched directory of a session, by its ledger; None where there is none as yet."""
    with contextlib.suppress(OutputError), LedgerReader(ledger) as reader:
        info = DaemonInfo.of(reader)
        return None if info is None else Path(info.watch)
    return None


def session_of(ledger: Path) -> str:
    """The name of a microscope's session, as its newest document has it; empty for the only one of a daemon."""
    with contextlib.suppress(FrazilError), LedgerReader(ledger) as reader:
        newest = reader.newest_result()
        return "" if newest is None else read_document(newest).session
    return ""
