"""What is wanted of the limits: a threshold for each model, and distances for all."""

from __future__ import annotations

from dataclasses import dataclass

import msgspec

from frazil.documents import MicrographDocument
from frazil.picking import PickLimits, Tuning, default_limits

__all__ = ["Asked", "Wanted", "limits_of"]


class Wanted(msgspec.Struct, frozen=True, kw_only=True):
    """Limits that somebody asked for; those that are not there stay as they are."""

    thresholds: dict[str, float] = {}
    """By the sha256 of the model whose figures of merit it cuts: those of another model are another scale."""
    min_distance_angstrom: float | None = None
    edge_margin_angstrom: float | None = None

    @classmethod
    def of(cls, tuning: Tuning, model_sha256: str) -> Wanted:
        """A tuning whose threshold is for one model."""
        return cls(
            thresholds={} if tuning.threshold is None else {model_sha256: tuning.threshold},
            min_distance_angstrom=tuning.min_distance_angstrom,
            edge_margin_angstrom=tuning.edge_margin_angstrom,
        )

    def over(self, earlier: Wanted) -> Wanted:
        """This, and what was wanted earlier of what this leaves as it is."""
        distance, margin = self.min_distance_angstrom, self.edge_margin_angstrom
        return Wanted(
            thresholds={**earlier.thresholds, **self.thresholds},
            min_distance_angstrom=earlier.min_distance_angstrom if distance is None else distance,
            edge_margin_angstrom=earlier.edge_margin_angstrom if margin is None else margin,
        )

    def for_model(self, sha256: str) -> Tuning:
        """What is wanted of the picks of one model."""
        return Tuning(
            threshold=self.thresholds.get(sha256),
            min_distance_angstrom=self.min_distance_angstrom,
            edge_margin_angstrom=self.edge_margin_angstrom,
        )

    def describe(self) -> str:
        """In a few words."""
        says = [f"threshold {value:g} for model {sha256[:8]}" for sha256, value in self.thresholds.items()]
        if self.min_distance_angstrom is not None:
            says.append(f"min-distance {self.min_distance_angstrom:g} Å")
        if self.edge_margin_angstrom is not None:
            says.append(f"edge-margin {self.edge_margin_angstrom:g} Å")
        return ", ".join(says) or "nothing"


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """A request on its way through the daemon."""

    text: str
    """As the ledger holds it."""
    wanted: Wanted
    """With what was tuned before."""


def limits_of(document: MicrographDocument) -> PickLimits:
    """The limits within which a document's picks were made; distances that it does not say are the default ones."""
    usual = default_limits(document.diameter_px * document.pixel_size_angstrom, document.threshold)
    return Tuning(
        min_distance_angstrom=document.min_distance_angstrom, edge_margin_angstrom=document.edge_margin_angstrom
    ).over(usual)
