"""Limits that make a peak of a score map a pick: complete ones, and patches that change some of them.

They lie below settings, documents and picking, which all speak of them.
"""

from __future__ import annotations

from typing import Literal, TypeVar

import msgspec

from frazil.errors import SettingsError

__all__ = [
    "LARGEST_DISTANCE_ANGSTROM",
    "LARGEST_THRESHOLD",
    "ChoiceBasis",
    "ChosenThreshold",
    "JunkPicks",
    "LimitsPatch",
    "PickLimits",
    "default_limits",
]

LARGEST_THRESHOLD = 1.0
LARGEST_DISTANCE_ANGSTROM = 100_000.0
"""Of a minimum distance or an edge margin; beyond the size of any micrograph. The smallest of all limits is 0."""


JunkPicks = Literal["drop", "flag"]
"""What becomes of picks in junk: they are left out, or kept and flagged."""


class PickLimits(msgspec.Struct, frozen=True, kw_only=True):
    """Limits that make a peak a pick."""

    threshold: float
    """Lowest figure of merit."""
    min_distance_angstrom: float
    """No two picks are closer."""
    edge_margin_angstrom: float
    """No pick is closer to an edge."""


class LimitsPatch(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Changed limits; None leaves one as it was.

    Raises:
        SettingsError: a value is impossible.
    """

    threshold: float | None = None
    min_distance_angstrom: float | None = None
    edge_margin_angstrom: float | None = None

    def __post_init__(self) -> None:
        for name, value in self.given().items():
            option = name.removesuffix("_angstrom").replace("_", "-")
            if name == "threshold":
                largest, expected = LARGEST_THRESHOLD, "a number from 0 to 1"
            else:
                largest, expected = LARGEST_DISTANCE_ANGSTROM, f"0 to {LARGEST_DISTANCE_ANGSTROM:g} Å"
            if not 0 <= value <= largest:
                raise SettingsError(f"{option}: expected {expected}, found {value:g}")

    def given(self) -> dict[str, float]:
        """The limits that it changes, by name."""
        values = {name: getattr(self, name) for name in LimitsPatch.__struct_fields__}
        return {name: value for name, value in values.items() if value is not None}

    def over(self, under: _Limits) -> _Limits:
        """The limits, or the patch, below it with these changes."""
        return msgspec.structs.replace(under, **self.given())


_Limits = TypeVar("_Limits", PickLimits, LimitsPatch)


class ChoiceBasis(msgspec.Struct, frozen=True, kw_only=True):
    """How frazil came to the threshold that it chose."""

    precision: float | None
    """Estimated fraction of the picks that are particles; None where nothing is picked."""
    micrographs: int
    """Number of micrographs that the choice rests on."""
    picks_per_micrograph: float
    """Mean number of picks in these."""
    held: bool = False
    """Whether the choice is held; else further micrographs may change it."""

    def describe(self) -> str:
        """In one line."""
        many = "1 micrograph" if self.micrographs == 1 else f"{self.micrographs} micrographs"
        precise = "no picks" if self.precision is None else f"estimated precision {self.precision:.2f}"
        return f"chosen from {many}{'' if self.held else ' so far'}, {precise}"


class ChosenThreshold(ChoiceBasis, frozen=True, kw_only=True):
    """A threshold that frazil chose.

    Raises:
        SettingsError: the threshold is impossible.
    """

    threshold: float

    def __post_init__(self) -> None:
        LimitsPatch(threshold=self.threshold)

    @property
    def basis(self) -> ChoiceBasis:
        """How frazil came to it."""
        return ChoiceBasis(**{name: getattr(self, name) for name in ChoiceBasis.__struct_fields__})


def default_limits(diameter_angstrom: float, threshold: float) -> PickLimits:
    """Default limits for a particle and the threshold of a model."""
    return PickLimits(
        threshold=threshold,
        min_distance_angstrom=0.5 * diameter_angstrom,
        edge_margin_angstrom=0.25 * diameter_angstrom,
    )
