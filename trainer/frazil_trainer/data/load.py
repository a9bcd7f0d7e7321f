"""The data of a training run, read and checked before the training takes time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec
from msgspec import UNSET
from rich.console import Console

from frazil.errors import FrazilError, SettingsError
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
from frazil_trainer.recipe import Recipe, TrainingSet

__all__ = ["CALIBRATION", "PARTS", "TrainingData", "load_training_data", "skip_missing"]

PARTS = ("training", "selection", "validation")
"""Parts that every training needs."""
CALIBRATION = "calibration"
"""The part of sets that are kept for the calibration of scores."""
_HELD_BACK = 0.05
"""Fraction of the micrographs that is taken for validation, and for selection, where a recipe names none."""


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


def skip_missing(recipe: Recipe, data: Path) -> tuple[Recipe, tuple[str, ...]]:
    """The same recipe without those training sets that are not there, and the folders of these.

    What the others leave undone is done by them all: if none of them has micrographs for validation or for selection,
    the first ones of each are taken, and if none was to choose the threshold, they all do.

    Raises:
        SettingsError: none is there.
        FrazilError: a set holds no labelled micrographs.
    """
    found = [source for source in recipe.data if (data / source.folder).is_dir()]
    missing = tuple(source.folder for source in recipe.data if source not in found)
    if not missing:
        return recipe, ()
    trained = [source for source in found if not source.calibrates and not source.only_scored]
    if not trained:
        raise SettingsError(f"{data}: expected one of the training sets {', '.join(missing)}, found none")
    if not any(source.validation for source in found if not source.calibrates):
        trained = [msgspec.structs.replace(source, validation=_first_stems(data, source)) for source in trained]
    if not any(source.selection for source in trained):
        trained = [msgspec.structs.replace(source, selection=_first_stems(data, source)) for source in trained]
    if not any(source.selection and source.chooses_threshold for source in trained):
        trained = [msgspec.structs.replace(source, chooses_threshold=True) for source in trained]
    changed = {source.folder: source for source in trained}
    data_left = tuple(changed.get(source.folder, source) for source in found)
    return msgspec.structs.replace(recipe, data=data_left), missing


def _first_stems(data: Path, source: TrainingSet) -> tuple[str, ...]:
    """The stems of the first micrographs that are still for training."""
    stems = [one.micrograph.stem for one in find_labelled(data, source)]
    free = [stem for stem in stems if stem not in (*source.validation, *source.selection)]
    return tuple(free[: max(1, round(_HELD_BACK * len(stems)))])


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
