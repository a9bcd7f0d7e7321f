"""What a check of the machine found."""

from __future__ import annotations

from typing import Literal

import msgspec

__all__ = ["Finding", "Level"]

Level = Literal["ok", "warning", "fault"]
"""``warning``: it runs, and not as well as it could, or not for long. ``fault``: it does not run."""


class Finding(msgspec.Struct, frozen=True, kw_only=True):
    """One line of ``frazil doctor``."""

    check: str
    level: Level
    says: str
    do: str = ""
    """What to do about it; empty where nothing is to be done."""
