"""Crops: positive and negative examples cut from labelled micrographs.

A *place* says where a crop is cut and how it is turned. Places are drawn anew for every batch, or fixed before the
training as in the paper; a `CropCutter` cuts both.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from frazil.errors import FrazilError
from frazil_trainer.data.labelled import LabelledMicrograph
from frazil_trainer.examples.sampling import draw_source, generators, source_probabilities
from frazil_trainer.recipe import CentredCrops, DrawnCrops, JitteredCrops

__all__ = ["CropCutter", "CropSampler", "Places", "fixed_places"]

_TRIES = 1000
_QUARTER_TURNS = 4
_TURNS_AND_MIRRORS = 8
_DRAWS_FOR_A_NEW_PLACE = 20

_Particle = tuple[int, float, float]
"""Source, y, x."""
_Row = tuple[int, int, int, int, float]
"""Source, top, left, turn, label."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Places:
    """Where crops lie, as arrays of equal length."""

    source: NDArray[np.intp]
    """Index of the micrograph."""
    corner: NDArray[np.intp]
    """(n, 2) top and left of the crop, as `CropCutter.corner` gives them."""
    turn: NDArray[np.intp]
    """Quarter turns, from 0 to 3; 4 to 7 for a mirrored crop."""
    label: NDArray[np.float32]
    """1 for a particle, 0 for background."""

    def __len__(self) -> int:
        return self.source.size

    def different(self) -> Places:
        """The places without repetitions."""
        columns = np.column_stack([self.source, self.corner, self.turn, self.label])
        return self.select(np.sort(np.unique(columns, axis=0, return_index=True)[1]))

    def select(self, chosen: NDArray[np.generic] | slice) -> Places:
        """The places at some indices, or under a mask."""
        return Places(
            source=self.source[chosen], corner=self.corner[chosen], turn=self.turn[chosen], label=self.label[chosen]
        )


class CropCutter:
    """Cuts crops of one size from labelled micrographs."""

    def __init__(self, micrographs: Sequence[LabelledMicrograph], tile_px: int) -> None:
        self._tile_px = tile_px
        self._half = tile_px // 2
        # Mirrored at the edges, as in picking.
        self._pictures = [np.pad(m.picture.pixels, self._half, mode="symmetric") for m in micrographs]

    def corner(self, source: int, y: float, x: float) -> tuple[int, int]:
        """Corner of the crop whose centre is nearest to a position in the picture."""
        t, (h, w) = self._tile_px, self._pictures[source].shape
        # In the padded picture a crop starting at floor(y + 1) has its centre at y to within half a pixel.
        top, left = (round(v - (t - 1) / 2) + self._half for v in (y, x))
        return min(max(top, 0), h - t), min(max(left, 0), w - t)

    def cut(self, places: Places) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Places → (n, 1, t, t) crops and their (n,) labels."""
        t = self._tile_px
        tiles = np.empty((len(places), 1, t, t), np.float32)
        rows = zip(places.source.tolist(), places.corner.tolist(), places.turn.tolist(), strict=True)
        for tile, (source, (top, left), turn) in zip(tiles, rows, strict=True):
            crop = self._pictures[source][top : top + t, left : left + t]
            tile[0] = np.rot90(crop if turn < 4 else crop.T, turn)
        return tiles, places.label


class _Background:
    """Positions for negative crops in one micrograph, all some clearance away from every particle."""

    def __init__(self, micrograph: LabelledMicrograph, clearance_px: float) -> None:
        self._micrograph = micrograph
        self._tree = cKDTree(micrograph.centres)
        self._clearance_px = clearance_px

    def draw(
        self, rng: np.random.Generator, *, near_fraction: float = 0.0, reach_px: float = 0.0
    ) -> tuple[float, float]:
        """Draw a position y, x inside the border that holds data.

        Args:
            rng: generator.
            near_fraction: probability of a position near a particle instead of anywhere.
            reach_px: largest distance from that particle.

        Raises:
            FrazilError: no position was found.
        """
        micrograph, clearance = self._micrograph, self._clearance_px
        (h, w), border = micrograph.picture.pixels.shape, micrograph.border_px
        for _ in range(_TRIES):
            if rng.random() < near_fraction:
                y, x = micrograph.centres[rng.integers(len(micrograph.centres))]
                radius, angle = rng.uniform(clearance, reach_px), rng.random() * 2 * np.pi
                y, x = y + radius * np.sin(angle), x + radius * np.cos(angle)
            else:
                y, x = rng.uniform(border, h - border), rng.uniform(border, w - border)
            if micrograph.holds_data(np.array(y), np.array(x)) and self._tree.query((y, x))[0] >= clearance:
                return float(y), float(x)
        raise FrazilError(f"{micrograph.name}: no place for a negative crop; is the diameter right?")


class CropSampler:
    """Draws crops of side `tile_px`, each from a generator of its own."""

    def __init__(
        self, micrographs: Sequence[LabelledMicrograph], crops: DrawnCrops, *, tile_px: int, diameter_px: float
    ) -> None:
        self._micrographs = micrographs
        self._cutter = CropCutter(micrographs, tile_px)
        self._crops = crops
        self._diameter_px = diameter_px
        clearance_px = crops.negative_offset_diameters * diameter_px
        self._backgrounds = [_Background(m, clearance_px) for m in micrographs]
        self._probabilities = source_probabilities(micrographs)

    def draw(self, seed: int, update: int, examples: range) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Draw some crops of an update's batch, every second one positive.

        Returns:
            (n, 1, t, t) crops and (n,) labels.

        Raises:
            FrazilError: a micrograph has no room for a negative crop.
        """
        rngs = zip(generators(seed, update, examples), examples, strict=True)
        return self._cutter.cut(_places([self._draw_one(rng, positive=i % 2 == 0) for rng, i in rngs]))

    def _draw_one(self, rng: np.random.Generator, *, positive: bool) -> _Row:
        source = draw_source(rng, self._probabilities)
        if positive:
            centres = self._micrographs[source].centres
            longest_px = self._crops.positive_offset_diameters * self._diameter_px
            y, x = _near(rng, centres[rng.integers(len(centres))], longest_px)
        else:
            near_fraction = self._crops.near_negatives
            y, x = self._backgrounds[source].draw(rng, near_fraction=near_fraction, reach_px=self._diameter_px)
        return source, *self._cutter.corner(source, y, x), int(rng.integers(_TURNS_AND_MIRRORS)), float(positive)


def fixed_places(
    micrographs: Sequence[LabelledMicrograph],
    cutter: CropCutter,
    crops: CentredCrops | JitteredCrops,
    diameter_px: float,
    *,
    count: int,
    rng: np.random.Generator,
) -> Places:
    """Make the paper's fixed set of crops: half positive, half negative, with no negative twice.

    All particles are equally frequent, and a micrograph gives as many negatives as positives. Positives repeat only if
    there are too few different ones. The cutter must be one of the same micrographs.

    Raises:
        FrazilError: a micrograph has no room for its negatives.
    """
    particles = [(source, y, x) for source, m in enumerate(micrographs) for y, x in m.centres.tolist()]
    positives = count - count // 2
    if isinstance(crops, CentredCrops):
        rows = _centred(particles, cutter, positives, rng)
    else:
        rows = _jittered(particles, cutter, positives, crops.positive_offset_diameters * diameter_px, rng)
    per_source = np.bincount([row[0] for row in rows], minlength=len(micrographs))
    per_source[np.argmax(per_source)] -= positives - count // 2
    clearance_px = crops.negative_offset_diameters * diameter_px
    for source, micrograph in enumerate(micrographs):
        rows += _negatives(source, micrograph, cutter, int(per_source[source]), clearance_px, rng)
    return _places(rows)


def _centred(particles: list[_Particle], cutter: CropCutter, count: int, rng: np.random.Generator) -> list[_Row]:
    rows = [
        (source, *cutter.corner(source, y, x), turn, 1.0)
        for source, y, x in particles
        for turn in range(_QUARTER_TURNS)
    ]
    return [rows[i] for i in _in_rounds(len(rows), count, rng)]


def _jittered(
    particles: list[_Particle], cutter: CropCutter, count: int, longest_px: float, rng: np.random.Generator
) -> list[_Row]:
    rows: list[_Row] = []
    for n, i in enumerate(_in_rounds(len(particles), count, rng)):
        source, y, x = particles[i]
        if n >= len(particles):  # the first round is centred
            y, x = _near(rng, (y, x), longest_px)
        rows.append((source, *cutter.corner(source, y, x), 0, 1.0))
    return rows


def _in_rounds(choices: int, count: int, rng: np.random.Generator) -> list[int]:
    """Draw indices, each choice once before any is drawn twice."""
    rounds = [rng.permutation(choices) for _ in range(-(-count // choices))]
    return [int(i) for i in np.concatenate(rounds)[:count]]


def _negatives(
    source: int,
    micrograph: LabelledMicrograph,
    cutter: CropCutter,
    count: int,
    clearance_px: float,
    rng: np.random.Generator,
) -> list[_Row]:
    background = _Background(micrograph, clearance_px)
    corners: dict[tuple[int, int], None] = {}
    for _ in range(_DRAWS_FOR_A_NEW_PLACE * count):
        if len(corners) == count:
            break
        corners[cutter.corner(source, *background.draw(rng))] = None
    if len(corners) < count:
        raise FrazilError(f"{micrograph.name}: expected room for {count} negative crops, found {len(corners)}")
    return [(source, top, left, 0, 0.0) for top, left in corners]


def _near(
    rng: np.random.Generator, centre: NDArray[np.float64] | tuple[float, float], longest_px: float
) -> tuple[float, float]:
    """A position in the disc around a centre, drawn uniformly."""
    radius, angle = longest_px * np.sqrt(rng.random()), rng.random() * 2 * np.pi
    return float(centre[0] + radius * np.sin(angle)), float(centre[1] + radius * np.cos(angle))


def _places(rows: Sequence[_Row]) -> Places:
    source, top, left, turn, label = zip(*rows, strict=True)
    return Places(
        source=np.array(source, np.intp),
        corner=np.stack([np.array(top, np.intp), np.array(left, np.intp)], axis=1),
        turn=np.array(turn, np.intp),
        label=np.array(label, np.float32),
    )
