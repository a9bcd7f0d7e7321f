"""The keys of the ledger's `meta` table: everything that the ledger remembers by name.

Values are text, some of them a record as JSON. Statements in SQL spell the keys out; everything else uses these names.
"""

from __future__ import annotations

from typing import Self

import msgspec

from frazil.errors import SettingsError

__all__ = [
    "ARCHIVED_KEY",
    "BASELINE_KEY",
    "CHOICE_KEY",
    "DAEMON_KEY",
    "DELIVERED_KEY",
    "DRIFT_KEY",
    "EPOCH_KEY",
    "HANDOVER_KEY",
    "INVENTORY_KEY",
    "LAYOUT_KEY",
    "LIKENESS_KEY",
    "MIGRATED_KEY",
    "MOUNT_POINT_KEY",
    "QUALITY_DRIFT_KEY",
    "REPICK_KEY",
    "RETUNE_KEY",
    "SESSION_KEY",
    "SQUARES_KEY",
    "STANDING_KEY",
    "TUNED_KEY",
    "Remembered",
]

LAYOUT_KEY = "layout"
"""Number of the layout of the tables."""
EPOCH_KEY = "epoch"
"""Identity of the ledger, in every document that it numbers."""
DELIVERED_KEY = "delivered"
"""Sequence number up to which every document was delivered."""
ARCHIVED_KEY = "archived"
"""Highest sequence number that was moved to an archive; 0 if none was."""
MIGRATED_KEY = "migrated_at"
"""When the ledger was brought up to date from layout 1, in seconds of Unix time; absent otherwise."""
DAEMON_KEY = "daemon"
"""The daemon that uses or last used the ledger: a `DaemonInfo` as JSON."""
MOUNT_POINT_KEY = "mount_point"
"""Mount point of the file system on which the watched directory was last seen."""
INVENTORY_KEY = "inventory"
"""The last scan's count of names, taken and passed over: an `Inventory` as JSON."""
SESSION_KEY = "session"
"""What was last announced of the session, and its settings then, as JSON."""
LIKENESS_KEY = "likeness"
"""Shapes and pixel sizes that the session's micrographs have, as JSON."""
STANDING_KEY = "standing"
"""The model that serves and the versions that were refused, as JSON."""
DRIFT_KEY = "drift"
"""The session's baseline and its charts: a `Drift` as JSON."""
QUALITY_DRIFT_KEY = "quality_drift"
"""The session's baseline and charts of what assessments say: a `QualityDrift` as JSON."""
SQUARES_KEY = "squares"
"""Up to which assessment the documents of squares tell everything; its sequence number."""
REPICK_KEY = "repick"
"""The last run of ``frazil repick``: where it began, with what, and its threshold, as JSON."""
HANDOVER_KEY = "handover"
"""The result that was taken last from the file beside the ledger in which ``frazil repick`` leaves them."""
BASELINE_KEY = "baseline_asked"
"""When a new baseline was requested, in seconds of Unix time; absent if it never was."""
RETUNE_KEY = "retune"
"""Limits that were requested and not yet granted, as JSON; absent if there are none."""
TUNED_KEY = "tuned"
"""Limits in force in place of the settings', and the progress of revising earlier results, as JSON."""

CHOICE_KEY = "choice"
"""How the threshold comes about, and what frazil's choice rests on: a `SessionChoice` as JSON."""


class Remembered:
    """What a record has more than its fields when the ledger remembers it under one of these keys, as JSON."""

    __slots__ = ()

    def encode(self) -> str:
        """Encode as text for the ledger."""
        return msgspec.json.encode(self).decode()

    @classmethod
    def decode(cls, text: str) -> Self | None:
        """Decode the ledger's text; None if there is none, or it is damaged or of another version."""
        try:
            return msgspec.json.decode(text, type=cls)
        except (ValueError, SettingsError):
            return None
