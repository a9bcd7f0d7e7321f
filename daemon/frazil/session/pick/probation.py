"""Probation: whether a model that has just begun to serve proves good on the first micrographs."""

from __future__ import annotations

__all__ = ["Probation"]

_COLLAPSE = 0.1
"""A model has collapsed on a micrograph where it finds less than this share of what the one before finds."""


class Probation:
    """Counts what becomes of the first micrographs after a swap.

    Args:
        micrographs: how many it lasts.
        faults_allowed: share of them on which the model may fail or collapse.
        usual_picks: mean picks of the model before on its last micrographs.
    """

    def __init__(self, micrographs: int, faults_allowed: float, usual_picks: float) -> None:
        self._micrographs = micrographs
        self._most_faults = int(micrographs * faults_allowed)
        self._usual_picks = usual_picks
        self._seen = 0
        self._errors = 0
        self._collapses = 0

    def is_suspect(self, picks: int) -> bool:
        """Whether so few picks call for a look at what the model before finds on the same micrograph."""
        return picks <= _COLLAPSE * self._usual_picks

    def note_error(self) -> None:
        """The model failed on a micrograph that the one before could pick."""
        self._seen += 1
        self._errors += 1

    def note_picks(self, picks: int, before: int | None = None) -> bool:
        """The model picked a micrograph; where that was suspect, `before` are the picks of the model before.

        Returns:
            Whether it has collapsed on this micrograph.
        """
        self._seen += 1
        collapsed = before is not None and picks < _COLLAPSE * before
        self._collapses += collapsed
        return collapsed

    @property
    def passed(self) -> bool:
        """Whether it is over."""
        return self._seen >= self._micrographs

    @property
    def verdict(self) -> tuple[str, str] | None:
        """Why the model must go, in one word and in one line; None while it may stay."""
        if self._errors + self._collapses <= self._most_faults:
            return None
        reason = "errors" if self._errors > self._collapses else "few_picks"
        return reason, (
            f"expected at most {self._most_faults} of the first {self._micrographs} micrographs with faults, found "
            f"{self._errors} on which it failed and {self._collapses} on which it found almost nothing, "
            f"of {self._seen}"
        )
