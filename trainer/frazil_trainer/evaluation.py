"""Evaluation: the daemon's own picker on labelled micrographs, scored one to one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from frazil.picking import Model, Picker, PickingSettings, Picks, read_micrograph, read_star
from frazil_trainer.labelled import LabelledPaths, inside_border
from frazil_trainer.matching import Tally, match_picks, tally_matches

__all__ = ["ScoredMicrograph", "best_threshold", "pick_labelled", "tally_at"]

_LOWEST_THRESHOLD = 0.05


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoredMicrograph:
    """One micrograph's picks down to a very low threshold, with its truth."""

    name: str
    folder: str
    """Training set that it belongs to."""
    picks: Picks
    truth: Picks
    diameter_px: float


def pick_labelled(
    model: Model, paths: Sequence[LabelledPaths], progress: Callable[[str], None] = lambda _: None
) -> list[ScoredMicrograph]:
    """Pick labelled micrographs with the daemon's picker.

    Everything down to a figure of merit of 0.05 is kept, so that thresholds can be compared without the network;
    a threshold only ever drops picks, since better ones are placed first.

    Raises:
        FrazilError: a micrograph or its labels cannot be read.
    """
    scored = []
    for one in paths:
        settings = PickingSettings(
            diameter_angstrom=one.source.diameter_angstrom, threshold=min(_LOWEST_THRESHOLD, model.contract.threshold)
        )
        micrograph = read_micrograph(one.micrograph)
        picker = Picker(model, settings)
        picture = picker.prepare(micrograph)
        picks = picker.find(picker.score(picture), picture)
        border, shape = one.source.border_px, micrograph.pixels.shape
        scored.append(
            ScoredMicrograph(
                name=one.micrograph.stem,
                folder=one.source.folder,
                picks=inside_border(picks, shape, border),
                truth=inside_border(read_star(one.labels), shape, border),
                diameter_px=picture.diameter_px,
            )
        )
        progress(one.micrograph.stem)
    return scored


def tally_at(scored: Sequence[ScoredMicrograph], threshold: float, distance_diameters: float = 0.5) -> Tally:
    """Hits, misses and false picks over all micrographs, at one threshold, within a share of the diameter."""
    total = Tally()
    for one in scored:
        picks = one.picks.select(one.picks.score >= threshold)
        matched = match_picks(picks, one.truth, distance_diameters * one.diameter_px)
        total += tally_matches(matched, len(one.truth))
    return total


def best_threshold(scored: Sequence[ScoredMicrograph]) -> float:
    """The threshold, to 0.01, with the highest F1 averaged over training sets."""
    folders = sorted({one.folder for one in scored})

    def mean_f1(threshold: float) -> float:
        return float(np.mean([tally_at([s for s in scored if s.folder == f], threshold).f1 for f in folders]))

    candidates = [round(float(t), 2) for t in np.arange(_LOWEST_THRESHOLD, 1.0, 0.01)]
    return max(candidates, key=mean_f1)
