"""Compares picks that were made on a device with those of the CPU."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from frazil.errors import FrazilError
from frazil.model import load_model
from frazil.picking import Picker, PickingSettings, Picks, match_picks, read_micrograph

__all__ = ["PickComparison", "compare_picks", "pick_on_cpu"]

_SAME_WITHIN_PX = 1.0
_LEAST_FRACTION = 0.99
_LARGEST_DIFFERENCE = 0.02


@dataclass(frozen=True, slots=True, kw_only=True)
class PickComparison:
    """Two sets of picks of one micrograph, one from a device and one from the CPU."""

    picks: int
    cpu_picks: int
    matched: int
    """Number of pairs, matched one to one, within a pixel of the micrograph."""
    largest_distance_px: float
    """Largest distance between matched picks."""
    largest_difference: float
    """Largest difference between the scores of matched picks."""

    @property
    def matched_fraction(self) -> float:
        """Fraction of the larger set that has a match in the other."""
        return self.matched / largest if (largest := max(self.picks, self.cpu_picks)) else 1.0

    def __str__(self) -> str:
        return (
            f"{self.matched} of {self.picks} picks are among the CPU's {self.cpu_picks}, within "
            f"{self.largest_distance_px:.2g} px and {self.largest_difference:.2g} in their scores"
        )

    def check(self) -> None:
        """Check that the picks are equal except for rounding, which may move a pick across the threshold.

        Raises:
            FrazilError: the picks differ.
        """
        if self.matched_fraction < _LEAST_FRACTION or self.largest_difference > _LARGEST_DIFFERENCE:
            raise FrazilError(
                f"expected {_LEAST_FRACTION:.0%} of the picks on the CPU and here to be the same within "
                f"{_SAME_WITHIN_PX:g} px, and their scores within {_LARGEST_DIFFERENCE:g}; found that {self}"
            )


def compare_picks(picks: Picks, cpu_picks: Picks) -> PickComparison:
    """Compare the picks of a device with those of the CPU."""
    partner = match_picks(picks, cpu_picks, _SAME_WITHIN_PX)
    ours, theirs = picks.select(partner >= 0), cpu_picks.select(partner[partner >= 0])
    return PickComparison(
        picks=len(picks),
        cpu_picks=len(cpu_picks),
        matched=len(ours),
        largest_distance_px=float(np.hypot(ours.y - theirs.y, ours.x - theirs.x).max(initial=0.0)),
        largest_difference=float(np.abs(ours.score - theirs.score).max(initial=0.0)),
    )


def pick_on_cpu(micrograph: Path, model: Path, settings: PickingSettings, threads: int | None) -> Picks:
    """Pick a file on the CPU alone.

    Raises:
        FrazilError: the model cannot serve, or the micrograph cannot be picked.
    """
    return Picker(load_model(model, "cpu", threads), settings).pick(read_micrograph(micrograph))
