"""Changed limits of a session: a threshold for each model, and distances for all.

The ledger remembers those that are requested, and those in force with the progress of the revisions.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass

import msgspec

from frazil.errors import SettingsError
from frazil.limits import LimitsPatch
from frazil.picking import PickingSettings
from frazil.session.outbox.ledger import Remembered

__all__ = ["LimitsChange", "LimitsRequest", "RevisionProgress", "decode_request"]

log = logging.getLogger(__name__)


class LimitsChange(msgspec.Struct, Remembered, frozen=True, kw_only=True):
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
        line = f"tuned since {since}: {self.change.describe()}; {self.revised} results revised"
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
