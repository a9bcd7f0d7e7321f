"""Evaluation: the daemon's own picker on labelled micrographs, scored one to one."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec
import numpy as np
from rich.console import Console
from rich.table import Table

from frazil.picking import Model, Picker, PickingSettings, Picks
from frazil_trainer.labelled import LabelledPaths, find_labelled, inside_border, read_labelled
from frazil_trainer.matching import Tally, match_picks, tally_matches
from frazil_trainer.recipe import Recipe

__all__ = [
    "ScoreRow",
    "ScoredMicrograph",
    "best_threshold",
    "pick_labelled",
    "score_table",
    "show_table",
    "tally_at",
    "validation_paths",
]

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
    labels: str = ""
    """Ending of the files with the truth: there may be more than one set of them."""


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
        micrograph, particles = read_labelled(one)
        picker = Picker(model, settings)
        picture = picker.prepare(micrograph)
        picks = picker.find(picker.score(picture), picture)
        border, shape = one.source.border_px, micrograph.pixels.shape
        scored.append(
            ScoredMicrograph(
                name=one.micrograph.stem,
                folder=one.source.folder,
                picks=inside_border(picks, shape, border),
                truth=inside_border(particles, shape, border),
                labels=one.source.labels_suffix + one.source.labels,
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


def best_threshold(scored: Sequence[ScoredMicrograph], weights: Mapping[str, float]) -> float:
    """The threshold, to 0.01, with the highest F1 averaged over training sets by their weights."""
    folders = sorted({one.folder for one in scored})

    def mean_f1(threshold: float) -> float:
        f1s = [tally_at([s for s in scored if s.folder == f], threshold).f1 for f in folders]
        return float(np.average(f1s, weights=[weights[f] for f in folders]))

    candidates = [round(float(t), 2) for t in np.arange(_LOWEST_THRESHOLD, 1.0, 0.01)]
    return max(candidates, key=mean_f1)


class ScoreRow(msgspec.Struct, frozen=True, kw_only=True):
    """Scores over the validation micrographs of one training set."""

    folder: str
    labels: str
    """Ending of the files with the labels scored against."""
    micrographs: int
    particles: int
    picks: int
    precision: float
    """Within half a diameter, one to one; so are recall and F1."""
    recall: float
    f1: float
    f1_strict: float
    """Within a fifth of a diameter."""


def validation_paths(data: Path, recipe: Recipe) -> list[LabelledPaths]:
    """The validation micrographs of a recipe, once for each set of labels to score against.

    Raises:
        FrazilError: one is missing.
    """
    sources = [
        msgspec.structs.replace(source, labels_suffix=suffix)
        for source in recipe.data
        for suffix in (source.labels_suffix, *source.other_labels)
    ]
    return [paths for source in sources for paths in find_labelled(data, source) if paths.part == "validation"]


def score_table(model: Model, paths: Sequence[LabelledPaths], threshold: float | None = None) -> list[ScoreRow]:
    """Score a model on labelled micrographs, a row for each training set and kind of labels.

    Args:
        model: loaded as the daemon loads it.
        paths: the micrographs.
        threshold: None takes the model's own.
    """
    threshold = model.contract.threshold if threshold is None else threshold
    scored = pick_labelled(model, paths)
    rows = []
    for folder, labels in sorted({(one.folder, one.labels) for one in scored}):
        members = [one for one in scored if (one.folder, one.labels) == (folder, labels)]
        tally, strict = tally_at(members, threshold), tally_at(members, threshold, 0.2)
        rows.append(
            ScoreRow(
                folder=folder,
                labels=labels,
                micrographs=len(members),
                particles=tally.hits + tally.misses,
                picks=tally.hits + tally.false_picks,
                precision=round(tally.precision, 4),
                recall=round(tally.recall, 4),
                f1=round(tally.f1, 4),
                f1_strict=round(strict.f1, 4),
            )
        )
    return rows


def show_table(rows: Sequence[ScoreRow], console: Console) -> None:
    """Print scores as a table."""
    table = Table(
        "validation set", "labels", "micrographs", "particles", "picks", "precision", "recall", "F1", "F1 within 0.2 d"
    )
    for row in rows:
        figures = (row.precision, row.recall, row.f1, row.f1_strict)
        table.add_row(
            row.folder,
            f"*{row.labels}",
            str(row.micrographs),
            str(row.particles),
            str(row.picks),
            *(f"{value:.3f}" for value in figures),
        )
    console.print(table)
