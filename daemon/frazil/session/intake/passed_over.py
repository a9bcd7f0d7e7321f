"""The inventory: how many names in the watched tree are taken for micrographs, how many are passed over, and why."""

from __future__ import annotations

from typing import Literal, get_args

import msgspec

from frazil.errors import printable

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

``not_included``: no pattern of the setting `include` takes its name, though frazil could read it. ``other_format``: an
image, in a format that frazil does not read. ``excluded``: a pattern of `exclude` takes it. ``companion``: what other
programs write beside micrographs. ``link``: a link to what is found under its own name, or round in a circle.
``broken_link``: a link to nothing. ``unreadable``: a folder that cannot be listed. ``unfinished``: a dot file, or the
name of an unfinished copy. ``not_an_image``: any other file.
"""

PASS_REASONS: tuple[PassReason, ...] = get_args(PassReason)

_EVERYDAY = frozenset({"unfinished", "not_an_image"})
"""Passed over in every session: by themselves they are no sign that something is wrong."""

_SAYS: dict[PassReason, str] = {
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
    """Names that are passed over for one reason; a folder counts as one."""

    count: int
    example: str
    """One of them, below the watched directory; a folder with a slash at its end."""


class Inventory(msgspec.Struct, frozen=True, kw_only=True):
    """What the last scan saw in the watched tree."""

    taken: int = 0
    """Names taken for micrographs."""
    passed_over: dict[PassReason, Passed] = {}
    include: tuple[str, ...] = ()
    """Patterns that names had to fit."""

    @classmethod
    def decode(cls, text: str) -> Inventory | None:
        """From the ledger's text; None where there is none."""
        try:
            return msgspec.json.decode(text, type=cls)
        except ValueError:
            return None

    def encode(self) -> str:
        """As text for the ledger."""
        return msgspec.json.encode(self).decode()

    def count(self, reason: PassReason) -> int:
        """Names passed over for a reason."""
        return self.passed_over[reason].count if reason in self.passed_over else 0

    @property
    def nothing_fits(self) -> bool:
        """Whether there are images, but none is taken for a micrograph."""
        return not self.taken and any(reason not in _EVERYDAY for reason in self.passed_over)

    def describe(self) -> str:
        """What was found and what not, in one line."""
        found = f"{self.taken} {'micrograph' if self.taken == 1 else 'micrographs'} found"
        return f"{found}; passed over: {self.describe_passed_over()}" if self.passed_over else found

    def describe_passed_over(self) -> str:
        """How many are passed over, and why, with an example of each, in one line."""
        return ", ".join(self.passed_over_lines())

    def passed_over_lines(self) -> list[str]:
        """The same, a line for each reason."""
        return [
            f"{passed.count} {_SAYS[reason]} (such as {printable(passed.example)})"
            for reason in PASS_REASONS
            if (passed := self.passed_over.get(reason)) is not None
        ]

    @property
    def advice(self) -> str:
        """What to do to have these picked, in one line; empty where nothing but the everyday is passed over."""
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
                return f"If {example} is wanted, take the pattern that fits it out of the setting exclude."
            case "companion":
                return f"If {example} is wanted, name it in include, or set companions = [] in the settings file."
            case "broken_link":
                return f"See what {example} leads to: a mount that is away, or one that frazil may not look into."
            case "unreadable":
                return f"Let the user that frazil runs as read {example}."
            case _:
                return f"Nothing is lost by {example}: what it leads to is found without it."


def _ending(name: str) -> str:
    """``.mrc.gz`` of ``a.b.mrc.gz``."""
    dot = name.rpartition(".")[0].rfind(".") if name.lower().endswith((".gz", ".bz2")) else name.rfind(".")
    return name[dot:] if dot > 0 else name
