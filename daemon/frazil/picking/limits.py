"""Limits that make a peak of a score map a pick. They can be applied again to a kept map."""

from __future__ import annotations

from dataclasses import dataclass

from frazil.errors import SettingsError
from frazil.picking.peaks import ScoreMap, find_peaks
from frazil.picking.picks import Picks

__all__ = ["PickLimits", "Tuning", "find_picks"]


@dataclass(frozen=True, slots=True, kw_only=True)
class PickLimits:
    """Limits that make a peak a pick."""

    threshold: float
    """Lowest figure of merit."""
    min_distance_angstrom: float
    """No two picks are closer."""
    edge_margin_angstrom: float
    """No pick is closer to an edge."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Tuning:
    """Changed limits; None leaves one as it was.

    Raises:
        SettingsError: a value is impossible.
    """

    threshold: float | None = None
    min_distance_angstrom: float | None = None
    edge_margin_angstrom: float | None = None

    def __post_init__(self) -> None:
        for name in ("min_distance", "edge_margin"):
            length = getattr(self, f"{name}_angstrom")
            if length is not None and not 0 <= length < float("inf"):
                raise SettingsError(f"{name.replace('_', '-')}: expected a length in Å, found {length:g}")
        if self.threshold is not None and not 0 <= self.threshold <= 1:
            raise SettingsError(f"threshold: expected a number from 0 to 1, found {self.threshold:g}")

    def over(self, limits: PickLimits) -> PickLimits:
        """The limits with these changes."""
        return PickLimits(
            threshold=limits.threshold if self.threshold is None else self.threshold,
            min_distance_angstrom=(
                limits.min_distance_angstrom if self.min_distance_angstrom is None else self.min_distance_angstrom
            ),
            edge_margin_angstrom=(
                limits.edge_margin_angstrom if self.edge_margin_angstrom is None else self.edge_margin_angstrom
            ),
        )


def find_picks(score_map: ScoreMap, limits: PickLimits, pixel_size_angstrom: float) -> Picks:
    """The picks of a score map within the limits, best first."""
    return find_peaks(
        score_map,
        threshold=limits.threshold,
        min_distance_px=limits.min_distance_angstrom / pixel_size_angstrom,
        edge_margin_px=limits.edge_margin_angstrom / pixel_size_angstrom,
    )
