"""Survey: what a daemon would find in a tree: its layout, and the number of files that each pattern decides on."""

from __future__ import annotations

from pathlib import Path

import msgspec

from frazil.session.intake.passed_over import Inventory, PassReason
from frazil.session.intake.scan import Scanner
from frazil.session.intake.selection import Selection

__all__ = ["PatternCount", "Survey", "survey"]


class PatternCount(msgspec.Struct, kw_only=True):
    """The files and folders that one pattern decides on. A folder counts as one."""

    reason: PassReason | None
    """Why they are passed over; None if they are taken."""
    pattern: str
    """Empty where no pattern decides."""
    count: int = 0
    example: str
    """Path of one of them below the directory; a folder ends in a slash."""


class Survey(msgspec.Struct, frozen=True, kw_only=True):
    """What is in a tree."""

    inventory: Inventory
    patterns: list[PatternCount]
    """What is taken first; within that, what decides on most first."""


def survey(root: Path, selection: Selection, link_roots: list[Path]) -> Survey:
    """Scan a tree once, as a daemon does at its start.

    Raises:
        OSError: the directory cannot be seen.
    """
    root = root.resolve()
    root.stat()
    counts: dict[tuple[PassReason | None, str], PatternCount] = {}

    def note(key: str, reason: PassReason | None) -> None:
        is_folder = key.endswith("/")
        if is_folder and reason is None:
            return
        judged, pattern = selection.judge_folder(key[:-1]) if is_folder else selection.judge(key)
        known = (reason, pattern if judged == reason else "")
        counts.setdefault(known, PatternCount(reason=reason, pattern=known[1], example=key)).count += 1

    # Known to nobody, so that each name is judged.
    scanner = Scanner(root, selection, {}, link_roots=link_roots, on_name=note, on_restart=counts.clear)
    inventory = scanner.scan().inventory
    return Survey(
        inventory=inventory,
        patterns=sorted(counts.values(), key=lambda one: (one.reason is not None, -one.count, one.pattern)),
    )
