"""State of a retune: the limits in force, the settings they override, and the progress of the revisions."""

from __future__ import annotations

import msgspec

from frazil.errors import SettingsError
from frazil.picking import PickingSettings
from frazil.session.outbox.ledger import TUNED_KEY
from frazil.session.retune.limits import LimitsChange

__all__ = ["TUNED_KEY", "RevisionProgress"]


class RevisionProgress(msgspec.Struct, frozen=True, kw_only=True):
    """A change of limits and how many results were revised, kept in the ledger so that a restart goes on with it.

    Two fields keep the names that they have had in ledgers and in ``frazil status --json`` since 0.1.
    """

    settings: PickingSettings
    """The settings that the change overrides; it ends when they are changed."""
    change: LimitsChange = msgspec.field(name="wanted")
    """The limits in force."""
    since: str
    """UTC time in RFC 3339."""
    until_seq: int
    """Results up to this sequence number may be older than the change; later ones were picked within its limits."""
    done_seq: int = 0
    """Results up to this sequence number are done."""
    revised: int = 0
    """Number of results that were revised."""
    unrevisable: int = msgspec.field(default=0, name="untold")
    """Number of results without a score map, or with one that ends too far from the edges."""

    @property
    def is_done(self) -> bool:
        """Whether all results are done."""
        return self.done_seq >= self.until_seq

    def encode(self) -> str:
        """As text for the ledger."""
        return msgspec.json.encode(self).decode()

    @classmethod
    def decode(cls, text: str) -> RevisionProgress | None:
        """From the ledger's text; None where there is none, or it is damaged."""
        try:
            return msgspec.json.decode(text, type=cls)
        except (ValueError, SettingsError):
            return None

    def describe(self) -> str:
        """The limits in force and the progress, in one line."""
        since = f"{self.since[:19].replace('T', ' ')} UTC"
        line = f"tuned since {since}: {self.change.describe()}; {self.revised} results revised"
        if self.unrevisable:
            line += f", {self.unrevisable} cannot be"
        return line if self.is_done else f"{line}, going on (at {self.done_seq} of {self.until_seq})"
