"""The inventory: the number of names in the watched tree that are taken for micrographs or passed over, and why."""

from __future__ import annotations

from typing import Literal, get_args

import msgspec

from frazil.errors import printable
from frazil.session.outbox.ledger import Remembered

__all__ = ["PASS_REASONS", "Inventory", "PassReason", "Passed"]

PassReason = Literal[
    "not_included",
    "other_format",
    "excluded",
    "companion",
    "link",
    "broken_link",
    "unreadable",
    "unfinished",
    "not_an_image",
]
"""Why a file or folder is passed over.

``not_included``: no pattern of the setting `include` matches its name, though frazil could read it. ``other_format``:
an image, in a format that frazil does not read. ``excluded``: a pattern of `exclude` matches it. ``companion``: a file
that other programs write beside micrographs. ``link``: a link to a file that is found under its own name, or a link in
a circle. ``broken_link``: a link to nothing. ``unreadable``: a folder that cannot be listed. ``unfinished``: a dot
file, or the name of an unfinished copy. ``not_an_image``: any other file.
"""

PASS_REASONS: tuple[PassReason, ...] = get_args(PassReason)

_EVERYDAY = frozenset({"unfinished", "not_an_image"})
"""Reasons that occur in every session. They alone are no sign of a fault."""

_DESCRIPTIONS: dict[PassReason, str] = {
    "not_included": "not named by the setting include",
    "other_format": "in a format that frazil does not read",
    "excluded": "left out by the setting exclude",
    "companion": "written beside micrographs by other programs",
    "link": "linked to what is found under its own name",
    "broken_link": "linked to nothing",
    "unreadable": "folders that cannot be listed",
    "unfinished": "dot files or unfinished copies",
    "not_an_image": "no images",
}


class Passed(msgspec.Struct, frozen=True):
    """The names that are passed over for one reason. A folder counts as one."""

    count: int
    example: str
    """Path of one of them below the watched directory; a folder ends in a slash."""


class Inventory(msgspec.Struct, Remembered, frozen=True, kw_only=True):
    """Count of the names that the last scan found in the watched tree."""

    taken: int = 0
    """Number of names taken for micrographs."""
    passed_over: dict[PassReason, Passed] = {}
    include: tuple[str, ...] = ()
    """Patterns of the setting `include`."""

    def count(self, reason: PassReason) -> int:
        """Number of names passed over for a reason."""
        return self.passed_over[reason].count if reason in self.passed_over else 0

    @property
    def nothing_fits(self) -> bool:
        """Whether there are images, but no micrographs."""
        return not self.taken and any(reason not in _EVERYDAY for reason in self.passed_over)

    def describe(self) -> str:
        """The inventory in one line."""
        found = f"{self.taken} {'micrograph' if self.taken == 1 else 'micrographs'} found"
        return f"{found}; passed over: {self.describe_passed_over()}" if self.passed_over else found

    def describe_passed_over(self) -> str:
        """The names that are passed over, in one line: for each reason their number and an example."""
        return ", ".join(self.passed_over_lines())

    def passed_over_lines(self) -> list[str]:
        """The names that are passed over, with one line for each reason."""
        return [
            f"{passed.count} {_DESCRIPTIONS[reason]} (such as {printable(passed.example)})"
            for reason in PASS_REASONS
            if (passed := self.passed_over.get(reason)) is not None
        ]

    @property
    def advice(self) -> str:
        """Advice on how to have these files picked, in one line; empty if only everyday names are passed over."""
        return " ".join(
            self._advise(reason, printable(passed.example))
            for reason in PASS_REASONS
            if reason not in _EVERYDAY and (passed := self.passed_over.get(reason)) is not None
        )

    def _advise(self, reason: PassReason, example: str) -> str:
        name = example.rpartition("/")[2]
        match reason:
            case "not_included":
                pattern = f"*{_ending(name)}"
                has_folders = any("/" in known for known in self.include)
                hint = " In a pattern, * stands for one folder and ** for any number of them." if has_folders else ""
                return (
                    f"If {name} is a micrograph, give --include '{pattern}', or include = [\"{pattern}\"] in the "
                    f"settings file.{hint}"
                )
            case "other_format":
                return (
                    f"frazil picks motion-corrected averages in MRC or TIFF, and {name} is none: watch the folder "
                    "where motion correction writes them."
                )
            case "excluded":
                return f"If {example} should be picked, remove the pattern that matches it from the setting exclude."
            case "companion":
                return (
                    f"If {example} should be picked, name it in include, or set companions = [] in the settings file."
                )
            case "broken_link":
                return f"See what {example} leads to: a mount that is away, or one that frazil may not look into."
            case "unreadable":
                return f"Let the user that frazil runs as read {example}."
            case _:
                return f"Nothing is lost by {example}: what it leads to is found without it."


def _ending(name: str) -> str:
    """The ending of a name: ``.mrc.gz`` of ``a.b.mrc.gz``."""
    dot = name.rpartition(".")[0].rfind(".") if name.lower().endswith((".gz", ".bz2")) else name.rfind(".")
    return name[dot:] if dot > 0 else name
