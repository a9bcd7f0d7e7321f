"""What happened to the serving model, or did not."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from frazil.model import ModelIdentity
from frazil.model.runtime import Placement

__all__ = ["Change"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """A change of models, in its place between two micrographs."""

    event: Literal["loaded", "refused", "rolled_back"]
    """``loaded`` and ``rolled_back``: `model` serves from here on. ``refused``: it does not."""
    model: ModelIdentity
    placement: Placement | None = None
    """Where `model` runs, if it serves."""
    withdrawn: ModelIdentity | None = None
    """The model that served until it was rolled back."""
    reason: str = ""
    """Of a refusal or a roll-back, in one word."""
    message: str = ""
    """The same in one line."""
    current: str = ""
    """Stamp of the ``CURRENT`` that asked for what was refused or rolled back."""
