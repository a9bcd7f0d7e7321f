"""A recipe for a user's folder of labelled micrographs, in ten lines."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import msgspec
import numpy as np
from msgspec import UNSET
from rich.console import Console

from frazil.errors import FrazilError
from frazil_trainer.data.check import fit_labels
from frazil_trainer.data.labelled import LabelledPaths, find_labelled, find_micrographs, load_labelled
from frazil_trainer.recipe import TrainingSet, find_recipe, read_recipe

__all__ = ["write_recipe"]

_LIKE = "fcn"
_EPOCHS = 20
_SIMULATED = 60
_FEWEST = 4
_LOOKED_AT = 6
_VALIDATION_FRACTION, _MOST_VALIDATION = 0.2, 5
_SELECTION_FRACTION, _MOST_SELECTION = 0.1, 3


def write_recipe(folder: Path, source: TrainingSet, console: Console) -> str:
    """The text of a recipe for a folder of labelled micrographs.

    Some micrographs, spread over all, are set apart for validation and selection. A few are read, to tell what can be
    told before a training is begun.

    Args:
        folder: of the micrographs.
        source: what their labels and their particle are.
        console: for what is found.

    Raises:
        FrazilError: there are too few micrographs with labels, or those that are read cannot be used.
    """
    found = find_labelled(folder, source)
    if len(found) < _FEWEST:
        raise FrazilError(
            f"{folder}: expected at least {_FEWEST} micrographs with labels to train on, found {len(found)}; "
            "to so few a model is adapted (frazil-train adapt)"
        )
    _look_at(folder, source, found, console)
    stems = [one.micrograph.stem for one in found]
    validation = _spread(stems, _VALIDATION_FRACTION, _MOST_VALIDATION)
    selection = _spread([stem for stem in stems if stem not in validation], _SELECTION_FRACTION, _MOST_SELECTION)
    console.print(
        f"{len(found) - len(validation) - len(selection)} micrographs to train on, {len(selection)} for selection, "
        f"{len(validation)} for validation",
        highlight=False,
    )
    source = msgspec.structs.replace(source, validation=tuple(validation), selection=tuple(selection))
    return _text(folder, source)


def _look_at(folder: Path, source: TrainingSet, found: Sequence[LabelledPaths], console: Console) -> None:
    """Read a few micrographs and their labels, and report what they are."""
    recipe = read_recipe(find_recipe(_LIKE))
    chosen = [found[i] for i in sorted({round(i) for i in np.linspace(0, len(found) - 1, _LOOKED_AT)})]
    with console.status("reading some micrographs"):
        micrographs = [load_labelled(one, recipe) for one in chosen]
    picture = micrographs[0].picture
    without = len(find_micrographs(folder)) - len(found)
    console.print(
        f"{len(found)} micrographs with labels *{source.labels_ending}"
        + (f", {without} without" if without else "")
        + f"; {np.mean([len(one.centres) for one in micrographs]):.0f} labels a micrograph, "
        f"{picture.pixel_size_angstrom:g} Å a pixel, a particle of {picture.diameter_px:.0f} px",
        highlight=False,
        soft_wrap=True,
    )
    for doubt in fit_labels(micrographs, recipe.diameter_px).doubts(source):
        console.print(f"warning: {doubt}", markup=False, highlight=False, soft_wrap=True)


def _spread(stems: Sequence[str], fraction: float, most: int) -> list[str]:
    """Some of the stems, at equal distances."""
    count = min(max(1, round(fraction * len(stems))), most)
    return [stems[(2 * i + 1) * len(stems) // (2 * count)] for i in range(count)]


def _text(folder: Path, source: TrainingSet) -> str:
    """The recipe; settings that are as by default are left out."""
    settings: list[tuple[str, object, str]] = [
        ("folder", source.folder, ""),
        ("diameter_angstrom", source.diameter_angstrom, ""),
        ("labels", source.labels, ""),
        ("labels_suffix", source.labels_suffix, ""),
        ("y_axis", source.y_axis, ""),
        ("pixel_size_angstrom", source.pixel_size_angstrom, ""),
        ("validation", source.validation, "scored at the end, never trained on"),
        ("selection", source.selection, "choose the threshold"),
    ]
    defaults = {"labels": ".star", "labels_suffix": "", "y_axis": "down", "pixel_size_angstrom": UNSET}
    lines = [
        f"# frazil-train train --recipe THIS_FILE --data {folder} --out exported_models/NAME",
        f'like = "{_LIKE}"  # the network, and how it is trained',
        f"epochs = {_EPOCHS}",
        f"simulated_micrographs = {_SIMULATED}  # of other molecules, so that it learns what particles have in common",
        "",
        "[[data]]",
        *(
            f"{name} = {json.dumps(value, ensure_ascii=False)}{f'  # {comment}' if comment else ''}"
            for name, value, comment in settings
            if defaults.get(name) != value
        ),
    ]
    return "\n".join(lines) + "\n"
