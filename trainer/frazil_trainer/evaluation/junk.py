"""Scores of a model that finds junk: of the area, and of the particles that lie in what it calls junk."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import msgspec
import numpy as np
from numpy.typing import NDArray

from frazil.model import MicrographSize, Model
from frazil.picking import Picture
from frazil_trainer.data.labelled import LabelledMicrograph

__all__ = [
    "JunkFigures",
    "JunkRecord",
    "JunkScores",
    "choose_junk_threshold",
    "junk_rows",
    "score_junk",
    "score_picture",
]

_CANDIDATES = tuple(round(0.01 * i, 2) for i in range(5, 100))


class JunkFigures(msgspec.Struct, frozen=True, kw_only=True):
    """Scores on the micrographs of one training set."""

    folder: str
    micrographs: int
    particles: int
    """On good ice: those that the masks do not call junk."""
    lost: int
    """Those of them that lie in what the model calls junk."""
    called: float
    """Fraction of the area that it calls junk."""
    precision: float | None
    """Of the area; None where no mask says what is junk."""
    recall: float | None
    iou: float | None
    """Intersection over union."""


class JunkRecord(msgspec.Struct, frozen=True, kw_only=True):
    """Scores of a new model on the validation micrographs, for its card."""

    threshold: float
    rows: tuple[JunkFigures, ...]
    area_iou: dict[str, float]
    """The training's own metric on its held out examples, by name, after the last epoch."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class JunkScores:
    """A model's scores of one micrograph, where it holds data."""

    folder: str
    cells: NDArray[np.float32]
    """(n,) scores of all cells."""
    is_junk: NDArray[np.bool_] | None
    """(n,) whether half of the cell is junk; None where no mask says so."""
    particles: NDArray[np.float32]
    """(m,) scores at the particles on good ice."""


def score_junk(model: Model, micrograph: LabelledMicrograph) -> JunkScores:
    """Score the picture of one micrograph.

    Raises:
        ModelError: the network gave other than finite scores.
    """
    scores, y, x = score_picture(model, micrograph.picture)
    holds_data = micrograph.holds_data(y[:, np.newaxis], x[np.newaxis, :])
    centres, is_junk = micrograph.centres, None
    if micrograph.junk is not None:
        rows, columns = (np.rint(axis).astype(np.intp) for axis in (y, x))
        is_junk = (micrograph.junk[rows[:, np.newaxis], columns] > 0.5)[holds_data]
        centres = centres[micrograph.junk[_nearest(centres, micrograph.junk.shape)] <= 0]
    cells = (
        np.abs(axis[np.newaxis, :] - v[:, np.newaxis]).argmin(axis=1) for axis, v in zip((y, x), centres.T, strict=True)
    )
    return JunkScores(
        folder=micrograph.source.folder, cells=scores[holds_data], is_junk=is_junk, particles=scores[tuple(cells)]
    )


def score_picture(
    model: Model, picture: Picture
) -> tuple[NDArray[np.float32], NDArray[np.float64], NDArray[np.float64]]:
    """(gy, gx) scores of a picture, and (gy,) and (gx,) their places in it."""
    size = MicrographSize(shape=picture.rescaling.shape, diameter_px=picture.diameter_px, margin_px=0.0)
    tiling = model.plan(size)
    if tiling is None:  # only a margin leaves nothing
        raise AssertionError("expected a tiling without a margin")
    scores = tiling.assemble(model.score_picture(picture.pixels, tiling))
    h, w = picture.pixels.shape
    y, x = tiling.y.centres, tiling.x.centres
    inside_y, inside_x = y <= h - 1, x <= w - 1
    return scores[np.ix_(inside_y, inside_x)], y[inside_y], x[inside_x]


def _nearest(places: NDArray[np.float64], shape: tuple[int, ...]) -> tuple[NDArray[np.intp], ...]:
    """Rows and columns of the pixels nearest to (n, 2) places."""
    return tuple(np.clip(np.rint(v), 0, n - 1).astype(np.intp) for v, n in zip(places.T, shape, strict=True))


def junk_rows(scored: Sequence[JunkScores], threshold: float) -> list[JunkFigures]:
    """Figures at a threshold, a row for each training set."""
    return [
        _figures(folder, [one for one in scored if one.folder == folder], threshold)
        for folder in dict.fromkeys(one.folder for one in scored)
    ]


def choose_junk_threshold(scored: Sequence[JunkScores], largest_loss: float) -> float:
    """The threshold with the best mean IoU of those that lose few enough particles of every training set.

    Where none does, it is the one that loses the fewest.
    """

    def loss(rows: Sequence[JunkFigures]) -> float:
        return max((row.lost / row.particles for row in rows if row.particles), default=0.0)

    def iou(rows: Sequence[JunkFigures]) -> float:
        known = [row.iou for row in rows if row.iou is not None]
        return float(np.mean(known)) if known else 0.0

    tried = {threshold: junk_rows(scored, threshold) for threshold in _CANDIDATES}
    fit = [threshold for threshold, rows in tried.items() if loss(rows) <= largest_loss]
    if not fit:
        return min(tried, key=lambda threshold: loss(tried[threshold]))
    return max(fit, key=lambda threshold: iou(tried[threshold]))


def _figures(folder: str, scored: Sequence[JunkScores], threshold: float) -> JunkFigures:
    particles = np.concatenate([one.particles for one in scored])
    cells = np.concatenate([one.cells for one in scored])
    masked = [one for one in scored if one.is_junk is not None]
    precision = recall = iou = None
    if masked:
        called = np.concatenate([one.cells for one in masked]) >= threshold
        is_junk = np.concatenate([one.is_junk for one in masked if one.is_junk is not None])
        both = int((called & is_junk).sum())
        precision, recall, iou = (both / max(1, int(n.sum())) for n in (called, is_junk, called | is_junk))
    return JunkFigures(
        folder=folder,
        micrographs=len(scored),
        particles=len(particles),
        lost=int((particles >= threshold).sum()),
        called=float((cells >= threshold).mean()) if cells.size else 0.0,
        precision=precision,
        recall=recall,
        iou=iou,
    )
