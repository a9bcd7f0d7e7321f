"""What is tuned: in place of which settings, and how far the results that there are have been brought to it."""

from __future__ import annotations

import msgspec

from frazil.picking import PickingSettings
from frazil.session.outbox.ledger import TUNED_KEY
from frazil.session.retune.limits import Wanted

__all__ = ["TUNED_KEY", "Tuned"]


class Tuned(msgspec.Struct, frozen=True, kw_only=True):
    """What the daemon remembers of a tuning, so that a restart goes on with it."""

    settings: PickingSettings
    """Over which it was tuned; with other settings it is over."""
    wanted: Wanted
    since: str
    """UTC time in RFC 3339."""
    until_seq: int
    """Results up to this sequence number may be older than the tuning; those after it are not."""
    done_seq: int = 0
    """Those up to this one have been dealt with."""
    revised: int = 0
    """Results that were brought to it."""
    untold: int = 0
    """Results that could not be, since no score map was kept or it does not reach so near to the edges."""

    @property
    def is_done(self) -> bool:
        """Whether all results have been dealt with."""
        return self.done_seq >= self.until_seq

    def encode(self) -> str:
        """As text for the ledger."""
        return msgspec.json.encode(self).decode()

    @classmethod
    def decode(cls, text: str) -> Tuned | None:
        """From the ledger's text; None where there is none."""
        try:
            return msgspec.json.decode(text, type=cls)
        except ValueError:
            return None

    def describe(self) -> str:
        """What is tuned and how far, in one line."""
        says = f"tuned since {self.since}: {self.wanted.describe()}; {self.revised} results revised"
        if self.untold:
            says += f", {self.untold} cannot be"
        return says if self.is_done else f"{says}, going on (at {self.done_seq} of {self.until_seq})"
