"""Probation: whether a model that has just begun to serve picks the first micrographs well."""

from __future__ import annotations

__all__ = ["Probation"]

_COLLAPSE = 0.1
"""A model has collapsed on a micrograph if it finds less than this fraction of the earlier model's picks."""


class Probation:
    """Counts failures and collapses on the first micrographs after a swap.

    Args:
        micrographs: length of the probation, in micrographs.
        faults_allowed: fraction of them on which the model may fail or collapse.
        usual_picks: mean number of picks of the earlier model on its last micrographs.
    """

    def __init__(self, micrographs: int, faults_allowed: float, usual_picks: float) -> None:
        self._micrographs = micrographs
        self._most_faults = int(micrographs * faults_allowed)
        self._usual_picks = usual_picks
        self._seen = 0
        self._errors = 0
        self._collapses = 0

    def is_suspect(self, picks: int) -> bool:
        """Whether the number of picks is so small that the earlier model should pick the same micrograph."""
        return picks <= _COLLAPSE * self._usual_picks

    def note_error(self) -> None:
        """Count a micrograph on which the model failed, and which the earlier model could pick."""
        self._seen += 1
        self._errors += 1

    def note_picks(self, picks: int, before: int | None = None) -> bool:
        """Count a micrograph that the model picked.

        Args:
            picks: number of its picks.
            before: number of the earlier model's picks, if the result was suspect.

        Returns:
            Whether the model has collapsed on this micrograph.
        """
        self._seen += 1
        collapsed = before is not None and picks < _COLLAPSE * before
        self._collapses += collapsed
        return collapsed

    @property
    def passed(self) -> bool:
        """Whether the probation is over."""
        return self._seen >= self._micrographs

    @property
    def verdict(self) -> tuple[str, str] | None:
        """The reason to roll the model back, in one word and in one line; None while it may serve."""
        if self._errors + self._collapses <= self._most_faults:
            return None
        reason = "errors" if self._errors > self._collapses else "few_picks"
        return reason, (
            f"expected at most {self._most_faults} of the first {self._micrographs} micrographs with faults, found "
            f"{self._errors} on which it failed and {self._collapses} on which it found almost nothing, "
            f"of {self._seen}"
        )
