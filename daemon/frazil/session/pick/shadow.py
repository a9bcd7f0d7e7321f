"""Canary: compares the picks of a new model with those of the serving one, on the same micrographs."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from frazil.errors import ModelError
from frazil.model import ModelIdentity
from frazil.picking import Picks, match_picks

__all__ = ["Canary", "CanaryBounds"]


@dataclass(frozen=True, slots=True, kw_only=True)
class CanaryBounds:
    """Length of the shadow run, and the largest difference from the serving model."""

    micrographs: int
    """Number of micrographs; 0 for no shadow run."""
    agreement: float
    """Smallest fraction of agreeing picks: twice the matched pairs over the picks of both models."""
    picks_ratio: float
    """Largest ratio of the numbers of picks of the two models, in either direction."""


class Canary:
    """Adds up the picks of two models on the same micrographs."""

    def __init__(self, model: ModelIdentity, bounds: CanaryBounds) -> None:
        self._model = model
        self._bounds = bounds
        self.micrographs = 0
        self._matched = 0
        self._counts = [0, 0]
        self._scores: list[list[float]] = [[], []]

    @property
    def complete(self) -> bool:
        """Whether the shadow run is complete."""
        return self.micrographs >= self._bounds.micrographs

    @property
    def agreement(self) -> float:
        """Twice the pairs within half a diameter, matched one to one, over the picks of both; 1 without picks."""
        total = sum(self._counts)
        return 2 * self._matched / total if total else 1.0

    def compare(self, serving: Picks, candidate: Picks, diameter_px: float) -> None:
        """Add a micrograph.

        Args:
            serving: picks of the serving model.
            candidate: picks of the new model.
            diameter_px: diameter of the particle.
        """
        self.micrographs += 1
        self._matched += int((match_picks(serving, candidate, diameter_px / 2) >= 0).sum())
        for i, picks in enumerate((serving, candidate)):
            self._counts[i] += len(picks)
            if len(picks):
                self._scores[i].append(float(np.median(picks.score)))

    def describe(self) -> str:
        """Counts, scores and agreement, in one line."""
        scores = [f"{np.median(medians):.2f}" if medians else "none" for medians in self._scores]
        return (
            f"over {self.micrographs} micrographs {self._counts[1]} picks (serving model: {self._counts[0]}), "
            f"median score {scores[1]} ({scores[0]}), agreement {self.agreement:.2f}"
        )

    def check(self) -> None:
        """Check that the model is within its bounds.

        Raises:
            ModelError: the model is not.
        """
        serving, candidate = self._counts
        bounds = self._bounds
        many, few = max(serving, candidate), min(serving, candidate)
        if many > bounds.picks_ratio * few:
            expected = f"at most {bounds.picks_ratio:g} times as many or as few picks as the serving model"
        elif self.agreement < bounds.agreement:
            expected = f"an agreement of at least {bounds.agreement:g} with the serving model"
        else:
            return
        raise ModelError(f"{self._model}: expected {expected}, found {self.describe()}", "canary")
