"""Overlays: hits, misses and false picks of each picker on pictures of the micrographs."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain, zip_longest

import cv2
import numpy as np
from numpy.typing import NDArray

from frazil.picking import Picks, grey_picture, match_picks
from frazil_trainer.data.labelled import LabelledPaths, read_micrograph_file
from frazil_trainer.evaluation.micrographs import ScoredMicrograph
from frazil_trainer.evaluation.sources import PickSource, printable

__all__ = ["Marks", "Overlay", "choose_overlays", "make_overlays"]

_LONGEST_SIDE_PX = 1000
_JPEG_QUALITY = 70


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Marks:
    """One picker's picks against the truth, each (n, 2) y, x in pixels of the picture."""

    picker: str
    hits: NDArray[np.float64]
    """Positions of the picks."""
    misses: NDArray[np.float64]
    """Positions of the particles."""
    false_picks: NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Overlay:
    """A micrograph with the marks of its pickers."""

    name: str
    folder: str
    labels: str
    jpeg_base64: str
    """The picture."""
    shape: tuple[int, int]
    """(h, w) of the picture."""
    radius_px: float
    """Radius of the particle, in pixels of the picture."""
    marks: tuple[Marks, ...]


def choose_overlays(paths: Sequence[LabelledPaths], count: int) -> list[LabelledPaths]:
    """Choose micrographs to show: the first of each set, then the second of each, and so on."""
    of_set: dict[str, dict[str, LabelledPaths]] = {}
    for one in paths:
        of_set.setdefault(one.source.folder, {}).setdefault(one.micrograph.stem, one)
    turns = zip_longest(*(members.values() for members in of_set.values()))
    chosen = [one for one in chain.from_iterable(turns) if one is not None][:count]
    return sorted(chosen, key=lambda one: list(of_set).index(one.source.folder))


def make_overlays(
    chosen: Sequence[LabelledPaths], scored: Sequence[ScoredMicrograph], sources: Sequence[PickSource]
) -> list[Overlay]:
    """Mark the picks in the chosen micrographs, at the pickers' own thresholds.

    Raises:
        MicrographError: a micrograph cannot be read again.
    """
    thresholds = {source.name: source.threshold for source in sources}
    overlays = []
    for one in chosen:
        place = (printable(one.micrograph.stem), one.source.folder, one.source.labels_ending)
        members = [s for s in scored if (s.name, s.folder, s.labels) == place]
        if not members:
            continue
        pixels, diameter_px = read_micrograph_file(one.micrograph).pixels, members[0].diameter_px
        grey = grey_picture(pixels, diameter_px, longest_side_px=_LONGEST_SIDE_PX)
        factor = grey.shape[0] / pixels.shape[0]
        _, jpeg = cv2.imencode(".jpg", grey, [cv2.IMWRITE_JPEG_QUALITY, _JPEG_QUALITY])
        overlays.append(
            Overlay(
                name=members[0].name,
                folder=members[0].folder,
                labels=members[0].labels,
                jpeg_base64=base64.b64encode(jpeg.tobytes()).decode("ascii"),
                shape=(grey.shape[0], grey.shape[1]),
                radius_px=diameter_px * factor / 2,
                marks=tuple(_mark(s, thresholds[s.picker], factor) for s in members),
            )
        )
    return overlays


def _mark(one: ScoredMicrograph, threshold: float | None, factor: float) -> Marks:
    picks = one.picks if threshold is None else one.picks.select(one.picks.score >= threshold)
    matched = match_picks(picks, one.truth, 0.5 * one.diameter_px)
    found = np.zeros(len(one.truth), bool)
    found[matched[matched >= 0]] = True

    def place(which: Picks) -> NDArray[np.float64]:
        return (np.stack([which.y, which.x], axis=1) + 0.5) * factor

    return Marks(
        picker=one.picker,
        hits=place(picks.select(matched >= 0)),
        misses=place(one.truth.select(~found)),
        false_picks=place(picks.select(matched < 0)),
    )
