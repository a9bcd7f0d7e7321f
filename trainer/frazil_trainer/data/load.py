"""The data of a training run, read and checked before the training takes time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from msgspec import UNSET
from rich.console import Console

from frazil.errors import FrazilError
from frazil_trainer.data.check import fit_labels
from frazil_trainer.data.labelled import (
    LabelledMicrograph,
    LabelledPaths,
    content_digest,
    find_labelled,
    load_labelled,
    training_set_sha256,
)
from frazil_trainer.data.simulated import simulate_labelled
from frazil_trainer.recipe import Recipe

__all__ = ["CALIBRATION", "PARTS", "TrainingData", "load_training_data"]

PARTS = ("training", "selection", "validation")
"""Parts that every training needs."""
CALIBRATION = "calibration"
"""The part of sets that are kept for the calibration of scores."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingData:
    """The labelled micrographs of a recipe, by part: training, selection, validation."""

    folder: Path
    paths: Mapping[str, Sequence[LabelledPaths]]
    """Also those for calibration, which are not read before the training."""
    micrographs: Mapping[str, Sequence[LabelledMicrograph]]
    sha256: str
    """Checksum over the content of the training micrographs and their labels, in order."""


def load_training_data(data: Path, recipe: Recipe, console: Console, *, force: bool = False) -> TrainingData:
    """Read all training sets of a recipe, and refuse data that cannot be trained on.

    Raises:
        FrazilError: a micrograph or its labels cannot be used; a part has no micrograph; one micrograph is in two
            parts; labels do not seem to lie on particles, and `force` is not given.
    """
    paths: dict[str, list[LabelledPaths]] = {part: [] for part in (*PARTS, CALIBRATION)}
    for source in recipe.data:
        for one in find_labelled(data, source):
            if one.part in paths:
                paths[one.part].append(one)
    missing = [part for part in PARTS if not paths[part]]
    if missing:
        raise FrazilError(f"{data}: the recipe leaves no micrograph for {', '.join(missing)}; each part needs one")
    if not any(one.source.chooses_threshold for one in paths["selection"]):
        raise FrazilError(f"{data}: the recipe leaves no micrograph for selection that chooses the threshold")
    with console.status("reading micrographs"):
        _check_parts_apart(paths)
        micrographs = {part: [load_labelled(one, recipe) for one in paths[part]] for part in PARTS}
    sha256 = training_set_sha256(paths["training"])
    _check_fit(micrographs, recipe, console, force=force)
    micrographs["training"] += _simulate(recipe, console)
    counts = ", ".join(f"{len(found)} for {part}" for part, found in paths.items() if found)
    if recipe.simulated_micrographs:
        counts += f", and {recipe.simulated_micrographs} simulated for training"
    particles = sum(len(m.centres) for m in micrographs["training"])
    console.print(f"micrographs: {counts}; {particles} particles to learn from")
    return TrainingData(folder=data, paths=paths, micrographs=micrographs, sha256=sha256)


def _simulate(recipe: Recipe, console: Console) -> list[LabelledMicrograph]:
    """The simulated micrographs of a recipe, as likely to be drawn as all training sets together."""
    if not recipe.simulated_micrographs:
        return []
    with console.status("simulating micrographs") as status:
        return simulate_labelled(
            recipe.simulated_micrographs,
            seed=recipe.seed,
            diameter_px=recipe.diameter_px,
            normalisation=recipe.normalisation,
            weight=sum(source.weight for source in recipe.data if not source.only_scored),
            progress=status.update,
        )


def _check_parts_apart(paths: Mapping[str, Sequence[LabelledPaths]]) -> None:
    """Refuse a micrograph that is in two parts, even under two names."""
    seen: dict[bytes, tuple[str, Path]] = {}
    for part, found in paths.items():
        for one in found:
            other_part, other = seen.setdefault(content_digest(one.micrograph), (part, one.micrograph))
            if other_part != part:
                raise FrazilError(
                    f"{one.micrograph}: expected a micrograph for {part} that is in no other part, "
                    f"found the pixels of {other}, which is for {other_part}; remove one of them"
                )


def _check_fit(
    micrographs: Mapping[str, Sequence[LabelledMicrograph]], recipe: Recipe, console: Console, *, force: bool
) -> None:
    doubts = []
    for source in recipe.data:
        if source.diameter_angstrom is UNSET or source.calibrates:
            continue  # simulated, each with another particle; or not read yet
        of_set = [m for part in PARTS for m in micrographs[part] if m.source == source]
        doubts += [f"{source.folder}: {doubt}" for doubt in fit_labels(of_set, recipe.diameter_px).doubts(source)]
    if doubts and not force:
        raise FrazilError(
            f"{doubts[0]}{f' (and {len(doubts) - 1} more)' if len(doubts) > 1 else ''}; "
            "frazil-train check-data shows the labels, --force trains all the same"
        )
    for doubt in doubts:
        console.print(f"warning: {doubt}", markup=False, highlight=False, soft_wrap=True)
