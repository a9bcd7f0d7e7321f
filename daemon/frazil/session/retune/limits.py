"""Changed limits of a session: a threshold for each model, and distances for all."""

from __future__ import annotations

from dataclasses import dataclass

import msgspec

from frazil.limits import LimitsPatch

__all__ = ["LimitsChange", "LimitsRequest"]


class LimitsChange(msgspec.Struct, frozen=True, kw_only=True):
    """A change of limits; those that are not given stay as they are.

    Raises:
        SettingsError: a value is impossible.
    """

    thresholds: dict[str, float] = {}
    """By the sha256 of the model: figures of merit of two models are on two scales."""
    min_distance_angstrom: float | None = None
    edge_margin_angstrom: float | None = None

    def __post_init__(self) -> None:
        for sha256 in ("", *self.thresholds):
            self.for_model(sha256)  # refuses impossible values, as a damaged ledger may have

    @classmethod
    def of(cls, patch: LimitsPatch, model_sha256: str) -> LimitsChange:
        """A patch whose threshold is for one model."""
        given = patch.given()
        threshold = given.pop("threshold", None)
        return cls(thresholds={} if threshold is None else {model_sha256: threshold}, **given)

    def over(self, earlier: LimitsChange) -> LimitsChange:
        """Merge with an earlier change; limits given here win."""
        distances = self._distances.over(earlier._distances)
        return LimitsChange(thresholds={**earlier.thresholds, **self.thresholds}, **distances.given())

    def for_model(self, sha256: str) -> LimitsPatch:
        """The change for the picks of one model."""
        return LimitsPatch(threshold=self.thresholds.get(sha256)).over(self._distances)

    def describe(self) -> str:
        """In a few words."""
        parts = [f"threshold {value:g} for model {sha256[:8]}" for sha256, value in self.thresholds.items()]
        for name, value in self._distances.given().items():
            parts.append(f"{name.removesuffix('_angstrom').replace('_', '-')} {value:g} Å")
        return ", ".join(parts) or "nothing"

    @property
    def _distances(self) -> LimitsPatch:
        return LimitsPatch(
            min_distance_angstrom=self.min_distance_angstrom, edge_margin_angstrom=self.edge_margin_angstrom
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class LimitsRequest:
    """A request on its way through the daemon."""

    text: str
    """As it stands in the ledger."""
    change: LimitsChange
    """The change asked for, merged with the one that holds already."""
