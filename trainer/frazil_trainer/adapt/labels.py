"""The labelled micrographs that a model is adapted to: read, checked, and a part of each held out."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec
import numpy as np
from msgspec import UNSET
from numpy.typing import NDArray
from rich.console import Console

from frazil.errors import FrazilError, MicrographError
from frazil.model import KeptOut
from frazil.picking import Picks
from frazil_trainer.data.check import fit_labels
from frazil_trainer.data.labelled import (
    LabelledMicrograph,
    LabelledPaths,
    find_labelled,
    load_labelled,
    training_set_sha256,
)
from frazil_trainer.recipe import Recipe, TrainingSet

__all__ = ["Labels", "Strip", "load_labels"]

_FEWEST_LABELS = 10
_FEWEST_TO_HOLD_OUT = 40
_HELD_OUT_FRACTION = 0.25
_MOST_MICROGRAPHS = 200


@dataclass(frozen=True, slots=True, kw_only=True)
class Strip:
    """A strip along one side of a micrograph, in pixels of the micrograph."""

    axis: int
    """0 for a strip of rows, 1 for one of columns."""
    first: int
    end: int

    def holds(self, positions: Picks) -> NDArray[np.bool_]:
        """(n,) which positions lie in it."""
        along = positions.y if self.axis == 0 else positions.x
        return (along >= self.first - 0.5) & (along < self.end - 0.5)

    def region(self, shape: tuple[int, int]) -> tuple[float, float, float, float]:
        """First y, first x, end y and end x in a micrograph of (h, w) pixels."""
        sides = [(-0.5, length - 0.5) for length in shape]
        sides[self.axis] = (self.first - 0.5, self.end - 0.5)
        (first_y, end_y), (first_x, end_x) = sides
        return first_y, first_x, end_y, end_x


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Labels:
    """Labelled micrographs, and the part of each that is not learnt from."""

    source: TrainingSet
    paths: Sequence[LabelledPaths]
    whole: Sequence[LabelledMicrograph]
    training: Sequence[LabelledMicrograph]
    """Without the strips that are held out, as if these held no data."""
    held_out: Sequence[Strip | None]
    """Of each micrograph; None where there are too few labels to hold some out."""
    sha256: str
    """Checksum over the content of micrographs and labels."""

    @property
    def count(self) -> int:
        """Number of labels."""
        return sum(len(one.centres) for one in self.whole)

    def kept_out(self, known_as: Mapping[str, str]) -> list[KeptOut]:
        """What is held out, for a card; micrographs may have other names there."""
        names = [known_as.get(one.micrograph.name, one.micrograph.name) for one in self.paths]
        return [
            KeptOut(path=name, region=strip.region(one.picture.rescaling.shape))
            for name, one, strip in zip(names, self.whole, self.held_out, strict=True)
            if strip is not None
        ]

    def as_incomplete(self) -> Labels:
        """The same, with micrographs whose labels miss particles."""
        source = msgspec.structs.replace(self.source, incomplete=tuple(one.name for one in self.whole))
        paths = [dataclasses.replace(one, source=source) for one in self.paths]
        whole, training = (
            [dataclasses.replace(one, source=source) for one in micrographs]
            for micrographs in (self.whole, self.training)
        )
        return dataclasses.replace(self, source=source, paths=paths, whole=whole, training=training)


def load_labels(folder: Path, source: TrainingSet, recipe: Recipe, console: Console, *, force: bool) -> Labels:
    """Read the labelled micrographs of a folder, and refuse labels from which nothing good is learnt.

    Raises:
        FrazilError: a micrograph or its labels cannot be used; there are too few labels; they do not seem to lie on
            particles, and `force` is not given.
    """
    paths = find_labelled(folder.resolve().parent, source)
    if len(paths) > _MOST_MICROGRAPHS:
        raise FrazilError(
            f"{folder}: expected a few labelled micrographs, at most {_MOST_MICROGRAPHS}, found {len(paths)}; "
            "from so many a model is trained (frazil-train new-recipe)"
        )
    whole = [_load(one, recipe) for one in paths]
    count = sum(len(one.centres) for one in whole)
    if count < _FEWEST_LABELS:
        raise FrazilError(f"{folder}: expected at least {_FEWEST_LABELS} labelled particles, found {count}")
    fit = fit_labels(whole, recipe.diameter_px)
    for doubt in fit.doubts(source, "give --y-axis {}"):
        line = f"{folder}: {doubt}"
        if not force:
            raise FrazilError(f"{line}; --force adapts all the same")
        console.print(f"warning: {line}", markup=False, highlight=False, soft_wrap=True)
    strips = [_choose_strip(one) if count >= _FEWEST_TO_HOLD_OUT else None for one in whole]
    training = [one if strip is None else _without(one, strip) for one, strip in zip(whole, strips, strict=True)]
    return Labels(
        source=source,
        paths=paths,
        whole=whole,
        training=training,
        held_out=strips,
        sha256=training_set_sha256(paths),
    )


def _load(paths: LabelledPaths, recipe: Recipe) -> LabelledMicrograph:
    try:
        return load_labelled(paths, recipe)
    except MicrographError as error:
        if error.reason == "pixel_size" and paths.source.pixel_size_angstrom is UNSET:
            message = str(error).partition("; give ")[0].removeprefix(f"{paths.micrograph}: ")
            raise MicrographError(paths.micrograph, "pixel_size", f"{message}; give --pixel-size") from error
        raise


def _choose_strip(one: LabelledMicrograph) -> Strip | None:
    """The strip along a side that holds nearest to its fraction of the labels; None where none leaves and holds any."""
    rescaling = one.picture.rescaling
    y, x = rescaling.to_micrograph(one.centres[:, 0], 0), rescaling.to_micrograph(one.centres[:, 1], 1)
    positions = Picks(y=y, x=x, score=np.ones(len(y)))
    strips = []
    for axis, length in enumerate(rescaling.shape):
        width = round(_HELD_OUT_FRACTION * length)
        strips += [Strip(axis=axis, first=0, end=width), Strip(axis=axis, first=length - width, end=length)]
    fractions = [float(strip.holds(positions).mean()) for strip in strips]
    nearest = int(np.argmin([abs(fraction - _HELD_OUT_FRACTION) for fraction in fractions]))
    return strips[nearest] if 0 < fractions[nearest] < 1 else None


def _without(one: LabelledMicrograph, strip: Strip) -> LabelledMicrograph:
    """The micrograph as if there were no data in a strip of it."""
    shape, rescaling = one.picture.pixels.shape, one.picture.rescaling
    along = rescaling.to_micrograph(np.arange(shape[strip.axis], dtype=np.float64), strip.axis)
    lines = (along >= strip.first - 0.5) & (along < strip.end - 0.5)
    blank = np.zeros(shape, np.bool_) if one.blank is None else one.blank.copy()
    blank[lines if strip.axis == 0 else (slice(None), lines)] = True
    labelled = dataclasses.replace(one, blank=blank)
    return dataclasses.replace(labelled, centres=one.centres[labelled.holds_data(one.centres[:, 0], one.centres[:, 1])])
