"""A check of training sets: do the labels lie on particles?

Files do not tell the direction of their y axis, nor whether particles are dark. Micrographs do: the contrast at correct
labels differs from the contrast anywhere, and that at labels turned upside down does not.
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
from frazil_trainer.data.labelled import (
    LabelledMicrograph,
    check_inside,
    find_labelled,
    find_micrographs,
    inside_border,
    make_labelled,
    read_labelled,
)
from frazil_trainer.recipe import Recipe, TrainingSet

__all__ = ["LabelFit", "SetInspection", "fit_labels", "inspect_set", "show_inspection"]

_SHOWN_BLANK_FRACTION = 0.01
_CLEAR_ERRORS = 4.0
_VISIBLE_ERRORS = 2.0
_LARGEST_OFFSET_DIAMETERS = 0.1
"""Labels of people and pickers on real micrographs were off by at most 0.06 diameters."""
_OVERLAP_DIAMETERS = 0.5
_LARGEST_OVERLAPPING_FRACTION = 0.2
_LEAST_REACH = 0.6
"""Labels on a whole micrograph reach to near its last column. Which way rows count does not matter to columns."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelFit:
    """Measures of how well labels fit their micrographs."""

    contrast: float
    """Darkness at the labels above the mean darkness, in standard deviations of darkness anywhere."""
    contrast_flipped: float
    """The same at the labels turned upside down."""
    contrast_error: float
    """Standard error of both."""
    overlapping: float
    """Fraction of the particles closer than half a diameter to another one."""
    reach: float
    """Last column with a label, as a fraction of the micrograph's width."""
    offset_diameters: tuple[float, float] | None
    """Rows and columns from the labels to the middle of the contrast around them; None without contrast."""

    def doubts(self, source: TrainingSet, y_axis_remedy: str = 'set y_axis = "{}"') -> list[str]:
        """Doubts about the labels of a training set, a line each, with the remedy for a wrong y axis."""
        clear = _CLEAR_ERRORS * self.contrast_error
        figures = f"contrast {self.contrast:.2f}, with y flipped {self.contrast_flipped:.2f}"
        flip_fits = abs(self.contrast_flipped) > max(abs(self.contrast) + clear, 2 * abs(self.contrast))
        doubts = []
        if flip_fits:
            other = "down" if source.y_axis == "up" else "up"
            doubts.append(f"the labels fit much better with y flipped ({figures}): {y_axis_remedy.format(other)}")
        best = self.contrast_flipped if flip_fits else self.contrast
        if best < -clear:
            doubts.append(f"particles are brighter than what is around them ({figures}): invert the micrographs")
        elif best < _VISIBLE_ERRORS * self.contrast_error:
            doubts.append(
                f"the labels lie on nothing that stands out ({figures}): do they belong to these micrographs, "
                "and are pixel size and diameter right?"
            )
        if not flip_fits and self.offset_diameters and np.hypot(*self.offset_diameters) > _LARGEST_OFFSET_DIAMETERS:
            y, x = (offset * source.known_diameter_angstrom for offset in self.offset_diameters)
            y = -y if source.y_axis == "up" else y
            doubts.append(
                f"the labels lie off the particles, whose middle is {x:+.0f} Å in x and {y:+.0f} Å in y from them: "
                "were shifts left out, or corners of boxes taken for centres?"
            )
        if self.overlapping > _LARGEST_OVERLAPPING_FRACTION:
            doubts.append(
                f"{self.overlapping:.0%} of the particles lie closer than half a diameter to another one: "
                "are pixel size and diameter right?"
            )
        if doubts and 0 < self.reach < _LEAST_REACH:
            doubts.append(
                f"no label lies beyond {self.reach:.0%} of the width: were they picked on micrographs "
                f"binned by {1 / self.reach:.1f} or so? set labels_binning"
            )
        return doubts


def fit_labels(micrographs: Sequence[LabelledMicrograph], diameter_px: float) -> LabelFit:
    """Measure how well labels fit the micrographs of one training set; `diameter_px` is in their pictures."""
    contrasts, around = [np.empty((2, 0))], [np.zeros((1, 1))]
    for one in micrographs:
        everywhere = _contrasts(one, diameter_px)
        contrasts.append(_at_labels(one, everywhere))
        around.append(_sum_around_labels(one, everywhere, int(np.ceil(diameter_px / 2))))
    as_read, flipped = np.concatenate(contrasts, axis=1)
    distances = [np.empty(0), *(_nearest_distances(one.centres) for one in micrographs)]
    measured = max(1, as_read.size)
    error = float(np.std(as_read) / np.sqrt(as_read.size)) if as_read.size else np.inf
    mean_around = np.asarray(sum(around[1:], around[0]) / measured, np.float64)
    return LabelFit(
        contrast=float(as_read.sum() / measured),
        contrast_flipped=float(flipped.sum() / measured),
        contrast_error=error,
        overlapping=float((np.concatenate(distances) < _OVERLAP_DIAMETERS * diameter_px).sum() / measured),
        reach=max((_reach(one) for one in micrographs), default=0.0),
        offset_diameters=_middle(mean_around, 2 * _CLEAR_ERRORS * error, diameter_px),
    )


def _reach(labelled: LabelledMicrograph) -> float:
    """The last column with a label, as a fraction of the picture's width."""
    return float(labelled.centres[:, 1].max(initial=0.0) / labelled.picture.pixels.shape[1])


def _middle(around: NDArray[np.float64], clear: float, diameter_px: float) -> tuple[float, float] | None:
    """The middle of the contrast in a (2 r + 1, 2 r + 1) map, in diameters from the map's centre.

    It is the centre of mass above half the peak, since the peak itself is flat.
    """
    around = around * np.sign(around[np.unravel_index(np.abs(around).argmax(), around.shape)])
    if not around.max() > clear:
        return None
    weights = np.clip(around - around.max() / 2, 0, None)
    r = (len(around) - 1) // 2
    y, x = np.mgrid[-r : r + 1, -r : r + 1]
    return tuple(float((weights * axis).sum() / weights.sum() / diameter_px) for axis in (y, x))  # type: ignore[return-value]


def _nearest_distances(centres: NDArray[np.float64]) -> NDArray[np.float64]:
    """(n,) distance of each particle to the nearest other one, infinite for a single particle."""
    if len(centres) == 0:
        return np.empty(0)
    return np.asarray(cKDTree(centres).query(centres, 2)[0][:, 1], np.float64)


@dataclass(frozen=True, slots=True, kw_only=True)
class SetInspection:
    """The contents of one training set, and how well its labels fit."""

    source: TrainingSet
    micrographs: int
    """Number of micrographs with labels."""
    without_labels: int
    """Number of micrographs without labels, which training leaves out."""
    particles: int
    """Number of all particles."""
    outside: int
    """Number of particles outside their micrograph."""
    shapes: tuple[tuple[int, int], ...]
    """(h, w) of the micrographs, without repetitions."""
    pixel_sizes_angstrom: tuple[float, ...]
    """Pixel sizes of the micrographs, without repetitions."""
    diameters_px: tuple[float, ...]
    """Diameters of the particle in the micrographs, without repetitions."""
    blank_fraction: float
    """Largest fraction of a micrograph without data, beside the border of the recipe."""
    blank_labels: int
    """Number of labels there, which training leaves out."""
    fit: LabelFit
    refusals: tuple[str, ...]
    """Reasons for training to refuse micrographs of the set, a line each."""


def inspect_set(
    data: Path, source: TrainingSet, recipe: Recipe, out: Path, count: int, progress: Callable[[str], None]
) -> SetInspection:
    """Read one training set as training does, and draw the labels on its first micrographs, `count` of them.

    Labels outside their micrograph are not an error here: they are counted and reported. The pictures are
    ``<folder of the set>/<stem>_labels.png`` below `out`; slashes in the set's folder become underscores. `progress`
    receives each micrograph's name.

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


def _contrasts(labelled: LabelledMicrograph, diameter_px: float) -> NDArray[np.float32]:
    """(h, w) contrast of each pixel of a picture.

    The contrast is the darkness of a disc of the particle's diameter against the ring around it, less the mean inside
    the picture's border, in standard deviations.
    """
    pixels, border = labelled.picture.pixels, int(np.ceil(labelled.border_px))
    h, w = pixels.shape
    dark = darkness(pixels, diameter_px)
    anywhere = dark[border : h - border, border : w - border]
    return np.asarray((dark - anywhere.mean()) / max(float(anywhere.std()), 1e-30), np.float32)


def _at_labels(labelled: LabelledMicrograph, contrasts: NDArray[np.float32]) -> NDArray[np.float64]:
    """(2, n) contrasts at the labels of a picture, as read and with y flipped."""
    h, w = contrasts.shape
    y, x = np.rint(labelled.centres).astype(np.intp).reshape(-1, 2).T
    y, x = y.clip(0, h - 1), x.clip(0, w - 1)
    return np.stack([contrasts[y, x], contrasts[h - 1 - y, x]]).astype(np.float64)


def _sum_around_labels(
    labelled: LabelledMicrograph, contrasts: NDArray[np.float32], reach_px: int
) -> NDArray[np.float64]:
    """(2 r + 1, 2 r + 1) sum of the contrasts around all labels."""
    padded = np.pad(contrasts, reach_px)  # 0 is the mean contrast
    h, w = contrasts.shape
    total = np.zeros((2 * reach_px + 1, 2 * reach_px + 1))
    for y, x in np.rint(labelled.centres).astype(np.intp):
        if 0 <= y < h and 0 <= x < w:
            total += padded[y : y + len(total), x : x + len(total)]
    return total


def _draw(file: Path, micrograph: Micrograph, picks: Picks, diameter_px: float) -> None:
    _, png = cv2.imencode(".png", draw_picks(micrograph.pixels, picks, diameter_px))
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(png.tobytes())
    except OSError as error:
        raise OutputError(f"{file}: cannot be written: {error.strerror}") from error


def show_inspection(inspection: SetInspection, console: Console) -> None:
    """Print an inspection as a table, and its warnings below, a line each."""
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
    if one.blank_fraction >= _SHOWN_BLANK_FRACTION:
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
    """A single value, or the least and the largest."""
    ends = dict.fromkeys(f"{value:.4g}" for value in (values[0], values[-1]))
    return " to ".join(ends)
