"""Changed limits of a session: a threshold for each model, and distances for all.

The ledger remembers those that are requested, and those in force with the progress of the revisions.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass

import msgspec

from frazil.errors import SettingsError
from frazil.limits import ChosenThreshold, LimitsPatch
from frazil.picking import PickingSettings
from frazil.session.outbox.ledger import Remembered

__all__ = ["LimitsChange", "LimitsRequest", "RevisionProgress", "decode_request"]

log = logging.getLogger(__name__)


class LimitsChange(msgspec.Struct, Remembered, frozen=True, kw_only=True):
    """A change of limits; those that are not given stay as they are.

    Raises:
        SettingsError: a value is impossible.
    """

    thresholds: dict[str, float | None] = {}
    """By the sha256 of the model: figures of merit of two models are on two scales. None lets frazil choose it."""
    min_distance_angstrom: float | None = None
    edge_margin_angstrom: float | None = None
    chosen: dict[str, ChosenThreshold] = {}
    """Thresholds that frazil chose, likewise. The operator's win over them; a request has none."""

    def __post_init__(self) -> None:
        for sha256 in ("", *self.thresholds):
            self.for_model(sha256)  # refuses impossible values, as a damaged ledger may have

    @classmethod
    def of(cls, patch: LimitsPatch, model_sha256: str) -> LimitsChange:
        """A patch whose threshold is for one model."""
        return cls(
            thresholds={} if patch.threshold is None else {model_sha256: patch.threshold},
            min_distance_angstrom=patch.min_distance_angstrom,
            edge_margin_angstrom=patch.edge_margin_angstrom,
        )

    def over(self, earlier: LimitsChange) -> LimitsChange:
        """Merge with an earlier change; limits given here win."""
        distances = self._distances.over(earlier._distances)
        return LimitsChange(
            thresholds={**earlier.thresholds, **self.thresholds},
            chosen={**earlier.chosen, **self.chosen},
            min_distance_angstrom=distances.min_distance_angstrom,
            edge_margin_angstrom=distances.edge_margin_angstrom,
        )

    def for_model(self, sha256: str) -> LimitsPatch:
        """The change for the picks of one model."""
        threshold, chosen = self.thresholds.get(sha256), self.chosen_for(sha256)
        return LimitsPatch(threshold=chosen.threshold if chosen else threshold).over(self._distances)

    def chosen_for(self, sha256: str) -> ChosenThreshold | None:
        """The threshold of a model as frazil chose it; None where the operator set it, or nothing is chosen as yet."""
        return None if self.thresholds.get(sha256) is not None else self.chosen.get(sha256)

    def lets_choose(self, sha256: str, *, by_default: bool) -> bool:
        """Whether frazil chooses the threshold of a model.

        Args:
            sha256: of the model.
            by_default: whether it does where the operator has tuned no threshold.
        """
        return self.thresholds[sha256] is None if sha256 in self.thresholds else by_default

    @property
    def is_tuned(self) -> bool:
        """Whether any of it is the operator's."""
        return bool(self.thresholds or self._distances.given())

    def describe(self) -> str:
        """In a few words; of what frazil chose only where nothing else is changed."""
        parts = [
            f"threshold {'chosen by frazil' if value is None else f'{value:g}'} for model {sha256[:8]}"
            for sha256, value in self.thresholds.items()
        ]
        for name, value in self._distances.given().items():
            parts.append(f"{name.removesuffix('_angstrom').replace('_', '-')} {value:g} Å")
        if not parts:
            parts = [f"threshold {one.threshold:g} for model {sha256[:8]}" for sha256, one in self.chosen.items()]
        return ", ".join(parts) or "nothing"

    @property
    def _distances(self) -> LimitsPatch:
        return LimitsPatch(
            min_distance_angstrom=self.min_distance_angstrom, edge_margin_angstrom=self.edge_margin_angstrom
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class LimitsRequest:
    """A request on its way through the daemon, or a threshold that frazil has chosen."""

    text: str
    """As it stands in the ledger; empty where nobody asked."""
    change: LimitsChange
    """The change asked for, merged with the one that holds already."""


class RevisionProgress(msgspec.Struct, Remembered, frozen=True, kw_only=True):
    """A change of limits and how many results were revised, kept in the ledger so that a restart goes on with it.

    Two fields keep the names that they have had in ledgers and in ``frazil status --json`` since 0.1.
    """

    settings: PickingSettings
    """The settings that the change overrides; it ends when they are changed."""
    change: LimitsChange = msgspec.field(name="wanted")
    """The limits in force."""
    since: str
    """UTC time in RFC 3339."""
    until_seq: int
    """Results up to this sequence number may be older than the change; later ones were picked within its limits."""
    done_seq: int = 0
    """Results up to this sequence number are done."""
    revised: int = 0
    """Number of results that were revised."""
    unrevisable: int = msgspec.field(default=0, name="untold")
    """Number of results without a score map, or with one that ends too far from the edges."""

    @property
    def is_done(self) -> bool:
        """Whether all results are done."""
        return self.done_seq >= self.until_seq

    def describe(self) -> str:
        """The limits in force and the progress, in one line."""
        since = f"{self.since[:19].replace('T', ' ')} UTC"
        how = "tuned" if self.change.is_tuned else "threshold chosen"
        line = f"{how} since {since}: {self.change.describe()}; {self.revised} results revised"
        if self.unrevisable:
            line += f", {self.unrevisable} cannot be"
        return line if self.is_done else f"{line}, going on (at {self.done_seq} of {self.until_seq})"


def decode_request(text: str) -> LimitsChange:
    """The requested change, from the ledger's text; an empty change where there is none, or it is damaged."""
    try:
        return msgspec.json.decode(text, type=LimitsChange) if text else LimitsChange()
    except (ValueError, SettingsError) as error:
        log.warning("passed over a request to tune that is damaged in the ledger: %s", error)
        return LimitsChange()
