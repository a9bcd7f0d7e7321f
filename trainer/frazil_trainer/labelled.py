"""Labelled micrographs: the pictures that the daemon's picker would see, with the particles in them."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from frazil.errors import FrazilError
from frazil.picking import Picks, Picture, make_picture, read_micrograph, read_star
from frazil_trainer.recipe import Recipe, TrainingSet

__all__ = ["LabelledMicrograph", "LabelledPaths", "find_labelled", "load_labelled", "training_set_sha256"]


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelledPaths:
    """A micrograph and its labels on disk."""

    micrograph: Path
    labels: Path
    source: TrainingSet

    @property
    def part(self) -> str:
        """``validation``, ``selection`` or ``training``."""
        if self.micrograph.stem in self.source.validation:
            return "validation"
        return "selection" if self.micrograph.stem in self.source.selection else "training"


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class LabelledMicrograph:
    """A picture with its particles."""

    name: str
    picture: Picture
    centres: NDArray[np.float64]
    """(n, 2) particle centres y, x, in pixels of the picture."""
    border_px: float
    """Frame of the picture, in its pixels, that holds no data."""
    source: TrainingSet


def find_labelled(data: Path, source: TrainingSet) -> list[LabelledPaths]:
    """List the labelled micrographs of one training set, sorted by name.

    Raises:
        FrazilError: the folder holds none, or a stem named in validation or selection is not among them.
    """
    folder = data / source.folder
    found = [
        LabelledPaths(micrograph=mrc, labels=labels, source=source)
        for mrc in sorted(folder.glob("*.mrc"))
        if (labels := mrc.with_name(f"{mrc.stem}{source.labels_suffix}.star")).is_file()
    ]
    if not found:
        raise FrazilError(
            f"{folder}: expected micrographs (*.mrc) with labels (*{source.labels_suffix}.star), found none"
        )
    stems = {paths.micrograph.stem for paths in found}
    unknown = [stem for stem in (*source.validation, *source.selection) if stem not in stems]
    if unknown:
        raise FrazilError(f"{folder}: expected the micrographs {', '.join(unknown)} of the recipe, found none so named")
    return found


def load_labelled(paths: LabelledPaths, recipe: Recipe) -> LabelledMicrograph:
    """Read a micrograph and its labels as the picker would see them.

    Raises:
        MicrographError: the micrograph cannot be picked.
        FrazilError: the labels cannot be read, or none lies inside the micrograph's border.
    """
    micrograph = read_micrograph(paths.micrograph)
    picture = make_picture(
        micrograph,
        diameter_angstrom=paths.source.diameter_angstrom,
        pixel_size_angstrom=None,
        model_diameter_px=recipe.diameter_px,
        normalisation=recipe.normalisation,
        invert=False,
    )
    truth = inside_border(read_star(paths.labels), micrograph.pixels.shape, paths.source.border_px)
    if len(truth) == 0:
        raise FrazilError(f"{paths.labels}: expected particles inside the micrograph, found none")
    rescaling = picture.rescaling
    centres = np.stack([rescaling.to_rescaled(truth.y, 0), rescaling.to_rescaled(truth.x, 1)], axis=1)
    border_px = paths.source.border_px * max(rescaling.factors)
    return LabelledMicrograph(
        name=paths.micrograph.stem, picture=picture, centres=centres, border_px=border_px, source=paths.source
    )


def inside_border(picks: Picks, shape: tuple[int, ...], border_px: float) -> Picks:
    """The picks whose centres lie inside the frame that holds no data."""
    h, w = shape
    y, x = picks.y, picks.x
    return picks.select((y >= border_px) & (y < h - border_px) & (x >= border_px) & (x < w - border_px))


def training_set_sha256(paths: list[LabelledPaths]) -> str:
    """Hash over the content of micrographs and labels, in order."""
    digest = hashlib.sha256()
    for one in paths:
        for file in (one.micrograph, one.labels):
            with file.open("rb") as content:
                digest.update(hashlib.file_digest(content, "sha256").digest())
    return digest.hexdigest()
