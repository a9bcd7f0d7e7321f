"""Crops: positive and negative examples cut from labelled micrographs, drawn anew for every batch.

The rules are the paper's ``jittered`` ones, in particle diameters instead of pixels: a positive crop lies within
0.28 diameters of a particle, a negative one at least 0.3 away from all of them. Each is turned by a random
multiple of 90 degrees and may be mirrored.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from frazil.errors import FrazilError
from frazil_trainer.labelled import LabelledMicrograph
from frazil_trainer.recipe import Recipe
from frazil_trainer.sampling import set_shares

__all__ = ["CropSampler"]


class CropSampler:
    """Draws batches of crops, half of them positive, from labelled micrographs."""

    def __init__(self, micrographs: Sequence[LabelledMicrograph], recipe: Recipe, seed: int) -> None:
        self._recipe = recipe
        self._rng = np.random.default_rng(seed)
        self._half = recipe.tile_px // 2
        # Mirrored once, so that crops near an edge look as they will in picking.
        self._pictures = [np.pad(m.picture.pixels, self._half, mode="symmetric") for m in micrographs]
        self._micrographs = micrographs
        self._trees = [cKDTree(m.centres) for m in micrographs]
        self._shares = set_shares(micrographs)

    def draw(self, count: int) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Draw a batch.

        Returns:
            (count, 1, t, t) float32 tiles and (count,) float32 labels, 1 for a particle.

        Raises:
            FrazilError: a micrograph has no place for a negative.
        """
        t = self._recipe.tile_px
        tiles = np.empty((count, 1, t, t), np.float32)
        labels = np.zeros(count, np.float32)
        labels[: count // 2] = 1
        sources = self._rng.choice(len(self._micrographs), size=count, p=self._shares)
        for i, source in enumerate(sources.tolist()):
            y, x = self._positive(source) if labels[i] else self._negative(source)
            tiles[i, 0] = self._cut(source, y, x)
        return tiles, labels

    def _positive(self, source: int) -> tuple[float, float]:
        centres = self._micrographs[source].centres
        y, x = centres[self._rng.integers(len(centres))]
        radius = self._recipe.positive_offset_diameters * self._recipe.diameter_px * np.sqrt(self._rng.random())
        angle = self._rng.random() * 2 * np.pi
        return y + radius * np.sin(angle), x + radius * np.cos(angle)

    def _negative(self, source: int) -> tuple[float, float]:
        micrograph, recipe = self._micrographs[source], self._recipe
        h, w = micrograph.picture.pixels.shape
        border = micrograph.border_px
        clearance = recipe.negative_offset_diameters * recipe.diameter_px
        for _ in range(1000):
            if self._rng.random() < recipe.near_negatives:
                y, x = micrograph.centres[self._rng.integers(len(micrograph.centres))]
                radius, angle = self._rng.uniform(clearance, recipe.diameter_px), self._rng.random() * 2 * np.pi
                y, x = y + radius * np.sin(angle), x + radius * np.cos(angle)
            else:
                y, x = self._rng.uniform(border, h - border), self._rng.uniform(border, w - border)
            inside = border <= y < h - border and border <= x < w - border
            if inside and self._trees[source].query((y, x))[0] >= clearance:
                return y, x
        raise FrazilError(f"{micrograph.name}: no place for a negative crop; is the diameter right?")

    def _cut(self, source: int, y: float, x: float) -> NDArray[np.float32]:
        """(t, t) crop whose centre, between its middle pixels, is nearest to the position."""
        t, picture = self._recipe.tile_px, self._pictures[source]
        # In the padded picture a crop starting at floor(y + 1) has its centre at y to within half a pixel.
        top = int(np.clip(round(y - (t - 1) / 2) + self._half, 0, picture.shape[0] - t))
        left = int(np.clip(round(x - (t - 1) / 2) + self._half, 0, picture.shape[1] - t))
        crop = picture[top : top + t, left : left + t]
        if self._rng.random() < 0.5:
            crop = crop.T
        return np.rot90(crop, int(self._rng.integers(4)))
