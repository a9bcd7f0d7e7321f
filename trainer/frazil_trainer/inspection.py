"""Inspection of training sets: do the labels lie on particles?

No file says which way its y grows, nor whether its particles are dark. The micrographs do: particles differ from
their surroundings, so labels on particles see another contrast than places anywhere, and labels turned upside down
do not.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.markup import escape
from rich.table import Table
from scipy.spatial import cKDTree

from frazil.errors import FrazilError, OutputError
from frazil.picking import Micrograph, Picks, darkness, draw_picks
from frazil_trainer.labelled import (
    LabelledMicrograph,
    check_inside,
    find_labelled,
    inside_border,
    make_labelled,
    read_labelled,
)
from frazil_trainer.micrograph_files import find_micrographs
from frazil_trainer.recipe import Recipe, TrainingSet

__all__ = ["LabelFit", "SetInspection", "fit_labels", "inspect_set", "label_contrasts", "show_inspection"]

_BLANK_TOLD = 0.01
_CLEAR_ERRORS = 4.0
_VISIBLE_ERRORS = 2.0
_OVERLAP_DIAMETERS = 0.5
_LARGEST_OVERLAPPING_SHARE = 0.2


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelFit:
    """How well labels fit their micrographs."""

    contrast: float
    """How much darker it is at the labels than at places anywhere, in standard deviations of such places."""
    contrast_flipped: float
    """The same with the labels upside down."""
    contrast_error: float
    """Standard error of either."""
    overlapping: float
    """Share of the particles that lie closer than half a diameter to another one."""

    def doubts(self, source: TrainingSet) -> list[str]:
        """What speaks against the labels of a training set, a line each."""
        clear = _CLEAR_ERRORS * self.contrast_error
        figures = f"contrast {self.contrast:.2f}, with y flipped {self.contrast_flipped:.2f}"
        flip_fits = abs(self.contrast_flipped) > max(abs(self.contrast) + clear, 2 * abs(self.contrast))
        doubts = []
        if flip_fits:
            other = "down" if source.y_axis == "up" else "up"
            doubts.append(f'the labels fit much better with y flipped ({figures}): set y_axis = "{other}"')
        best = self.contrast_flipped if flip_fits else self.contrast
        if best < -clear:
            doubts.append(f"particles are brighter than what is around them ({figures}): invert the micrographs")
        elif best < _VISIBLE_ERRORS * self.contrast_error:
            doubts.append(
                f"the labels lie on nothing that stands out ({figures}): do they belong to these micrographs, "
                "and are pixel size and diameter right?"
            )
        if self.overlapping > _LARGEST_OVERLAPPING_SHARE:
            doubts.append(
                f"{self.overlapping:.0%} of the particles lie closer than half a diameter to another one: "
                "are pixel size and diameter right?"
            )
        return doubts


def fit_labels(micrographs: Sequence[LabelledMicrograph], diameter_px: float) -> LabelFit:
    """Measure how well labels fit their micrographs.

    Args:
        micrographs: of one training set.
        diameter_px: of the particle in their pictures.
    """
    contrasts = [np.empty((2, 0)), *(label_contrasts(one, diameter_px) for one in micrographs)]
    as_read, flipped = np.concatenate(contrasts, axis=1)
    distances = [np.empty(0), *(_nearest_distances(one.centres) for one in micrographs)]
    measured = max(1, as_read.size)
    return LabelFit(
        contrast=float(as_read.sum() / measured),
        contrast_flipped=float(flipped.sum() / measured),
        contrast_error=float(np.std(as_read) / np.sqrt(as_read.size)) if as_read.size else np.inf,
        overlapping=float((np.concatenate(distances) < _OVERLAP_DIAMETERS * diameter_px).sum() / measured),
    )


def _nearest_distances(centres: NDArray[np.float64]) -> NDArray[np.float64]:
    """(n,) distance of each particle to the nearest other one; infinite where there is none."""
    if len(centres) == 0:
        return np.empty(0)
    return np.asarray(cKDTree(centres).query(centres, 2)[0][:, 1], np.float64)


@dataclass(frozen=True, slots=True, kw_only=True)
class SetInspection:
    """What one training set holds, and whether its labels lie on particles."""

    source: TrainingSet
    micrographs: int
    """With labels."""
    without_labels: int
    """Micrographs in the folder that training leaves out."""
    particles: int
    """Wherever they lie."""
    outside: int
    """Of them, outside their micrograph."""
    shapes: tuple[tuple[int, int], ...]
    """(h, w) of the micrographs, each once."""
    pixel_sizes_angstrom: tuple[float, ...]
    """Of the micrographs, each once."""
    diameters_px: tuple[float, ...]
    """Of the particle in the micrographs, each once."""
    blank_fraction: float
    """Of the micrograph with the least data: what holds none, beside the border of the recipe."""
    blank_labels: int
    """Labels inside the border that lie there, which training leaves out."""
    fit: LabelFit
    refusals: tuple[str, ...]
    """Why training would refuse micrographs of the set, a line each."""


def inspect_set(
    data: Path, source: TrainingSet, recipe: Recipe, out: Path, count: int, progress: Callable[[str], None]
) -> SetInspection:
    """Read one training set as training would, and draw the labels on its first micrographs.

    Labels outside their micrograph are no error here: they are counted, drawn as far as they go, and told.

    Args:
        data: folder with the training sets.
        source: the training set.
        recipe: that it belongs to.
        out: folder for the pictures, ``<folder of the set>/<stem>_labels.png``; made if missing. Slashes within
            the set's folder become underscores.
        count: how many micrographs to draw.
        progress: is told each micrograph's name.

    Raises:
        FrazilError: a micrograph or its labels cannot be read.
        OutputError: a picture cannot be written.
    """
    found = find_labelled(data, source)
    particles = outside = blank_labels = 0
    shapes, pixel_sizes, diameters_px = set(), set(), set()
    refusals = []
    micrographs = []
    for i, paths in enumerate(found):
        micrograph, picks = read_labelled(paths)
        shape = micrograph.pixels.shape
        try:
            check_inside(paths, picks, shape)
        except FrazilError as error:
            refusals.append(str(error))
        labelled = make_labelled(paths, recipe, micrograph, picks)
        particles += len(picks)
        outside += len(picks) - len(inside_border(picks, shape, 0))
        shapes.add((shape[0], shape[1]))
        pixel_sizes.add(labelled.picture.pixel_size_angstrom)
        diameters_px.add(labelled.picture.diameter_px)
        micrographs.append(labelled)
        blank_labels += len(inside_border(picks, shape, source.border_px)) - len(labelled.centres)
        if i < count:
            picture = out / source.folder.strip("./").replace("/", "_") / f"{labelled.name}_labels.png"
            _draw(picture, micrograph, picks, labelled.picture.diameter_px)
        progress(f"{source.folder}/{labelled.name}")
    return SetInspection(
        source=source,
        micrographs=len(found),
        without_labels=len(find_micrographs(data / source.folder)) - len(found),
        particles=particles,
        outside=outside,
        shapes=tuple(sorted(shapes)),
        pixel_sizes_angstrom=tuple(sorted(pixel_sizes)),
        diameters_px=tuple(sorted(diameters_px)),
        blank_fraction=max(one.picture.blank_fraction for one in micrographs),
        blank_labels=blank_labels,
        fit=fit_labels(micrographs, recipe.diameter_px),
        refusals=tuple(refusals),
    )


def label_contrasts(labelled: LabelledMicrograph, diameter_px: float) -> NDArray[np.float64]:
    """(2, n) contrasts at the labels of a picture as they are, and with y flipped.

    The contrast of a place is how much darker a disc of the particle's diameter is than the ring around it, less the
    mean of that over the whole picture inside its border, in standard deviations of it there.

    Args:
        labelled: the picture and its labels.
        diameter_px: of the particle in the picture.
    """
    pixels, border = labelled.picture.pixels, int(np.ceil(labelled.border_px))
    if len(labelled.centres) == 0:
        return np.empty((2, 0))
    h, w = pixels.shape
    dark = darkness(pixels, diameter_px)
    anywhere = dark[border : h - border, border : w - border]
    y, x = np.rint(labelled.centres).astype(np.intp).T
    y, x = y.clip(0, h - 1), x.clip(0, w - 1)
    at_labels = np.stack([dark[y, x], dark[h - 1 - y, x]]).astype(np.float64)
    return np.asarray((at_labels - anywhere.mean()) / max(float(anywhere.std()), 1e-30), np.float64)


def _draw(file: Path, micrograph: Micrograph, picks: Picks, diameter_px: float) -> None:
    _, png = cv2.imencode(".png", draw_picks(micrograph.pixels, picks, diameter_px))
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(png.tobytes())
    except OSError as error:
        raise OutputError(f"{file}: cannot be written: {error.strerror}") from error


def show_inspection(inspection: SetInspection, console: Console) -> None:
    """Print an inspection as a table, and below it what to worry about, a line each."""
    one = inspection
    table = Table(title=escape(one.source.folder), title_justify="left", show_header=False)
    left_out = f", and {one.without_labels} without labels" if one.without_labels else ""
    table.add_row("micrographs", f"{one.micrographs}{left_out}")
    table.add_row("size", ", ".join(f"{w} x {h} px" for h, w in one.shapes))
    table.add_row("pixel size", f"{_span(one.pixel_sizes_angstrom)} Å")
    table.add_row("particle diameter", f"{_span(one.diameters_px)} px")
    table.add_row("particles", str(one.particles))
    table.add_row("particles outside", str(one.outside))
    table.add_row("contrast at the labels", f"{one.fit.contrast:.2f}")
    table.add_row("contrast with y flipped", f"{one.fit.contrast_flipped:.2f}")
    if one.blank_fraction >= _BLANK_TOLD:
        table.add_row("without data", f"up to {one.blank_fraction:.0%}")
    console.print(table)
    more = f" (and {len(one.refusals) - 1} more)" if len(one.refusals) > 1 else ""
    for line in (
        *(f"training would refuse {refusal}{more}" for refusal in one.refusals[:1]),
        *([f"{one.blank_labels} labels lie where there is no data: left out"] if one.blank_labels else []),
        *one.fit.doubts(one.source),
    ):
        console.print(f"warning: {one.source.folder}: {line}", markup=False, highlight=False, soft_wrap=True)


def _span(values: Sequence[float]) -> str:
    """One value, or the least and the largest."""
    ends = dict.fromkeys(f"{value:.4g}" for value in (values[0], values[-1]))
    return " to ".join(ends)
