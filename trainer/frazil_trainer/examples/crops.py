"""Crops: positive and negative examples cut from labelled micrographs.

A *place* says where a crop is cut and how it is turned; the places of a training run are drawn, or fixed before it
begins, and the cutting is the same.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from frazil.errors import FrazilError
from frazil_trainer.data.labelled import LabelledMicrograph

__all__ = ["CropCutter", "Places", "Surroundings"]

_TRIES = 1000


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Places:
    """Where crops lie, as columns of one length."""

    source: NDArray[np.intp]
    """Which micrograph."""
    corner: NDArray[np.intp]
    """(n, 2) top and left of the crop, as `CropCutter.corner` gives them."""
    turn: NDArray[np.intp]
    """Quarter turns; 4 to 7 after the crop was mirrored."""
    label: NDArray[np.float32]
    """1 for a particle."""

    def __len__(self) -> int:
        return self.source.size

    def different(self) -> Places:
        """Without repetitions."""
        columns = np.column_stack([self.source, self.corner, self.turn, self.label])
        return self.select(np.sort(np.unique(columns, axis=0, return_index=True)[1]))

    def select(self, chosen: NDArray[np.generic] | slice) -> Places:
        """The places that an index array or mask chooses."""
        return Places(
            source=self.source[chosen], corner=self.corner[chosen], turn=self.turn[chosen], label=self.label[chosen]
        )


class CropCutter:
    """Cuts crops of one size from labelled micrographs."""

    def __init__(self, micrographs: Sequence[LabelledMicrograph], tile_px: int) -> None:
        self._tile_px = tile_px
        self._half = tile_px // 2
        # Mirrored once, so that crops near an edge look as they will in picking.
        self._pictures = [np.pad(m.picture.pixels, self._half, mode="symmetric") for m in micrographs]

    def corner(self, source: int, y: float, x: float) -> tuple[int, int]:
        """Corner of the crop whose centre, between its middle pixels, is nearest to a position in the picture."""
        t, (h, w) = self._tile_px, self._pictures[source].shape
        # In the padded picture a crop starting at floor(y + 1) has its centre at y to within half a pixel.
        top, left = (round(v - (t - 1) / 2) + self._half for v in (y, x))
        return min(max(top, 0), h - t), min(max(left, 0), w - t)

    def cut(self, places: Places) -> NDArray[np.float32]:
        """(n, 1, t, t) the crops."""
        t = self._tile_px
        tiles = np.empty((len(places), 1, t, t), np.float32)
        rows = zip(places.source.tolist(), places.corner.tolist(), places.turn.tolist(), strict=True)
        for tile, (source, (top, left), turn) in zip(tiles, rows, strict=True):
            crop = self._pictures[source][top : top + t, left : left + t]
            tile[0] = np.rot90(crop if turn < 4 else crop.T, turn)
        return tiles


class Surroundings:
    """Where in one labelled micrograph a negative crop may lie.

    Args:
        micrograph: with its particles.
        clearance_px: least distance from every particle.
    """

    def __init__(self, micrograph: LabelledMicrograph, clearance_px: float) -> None:
        self._micrograph = micrograph
        self._tree = cKDTree(micrograph.centres)
        self._clearance_px = clearance_px

    def draw(self, rng: np.random.Generator, *, near_share: float = 0.0, reach_px: float = 0.0) -> tuple[float, float]:
        """Draw a position y, x that holds data, inside the border, and away from all particles.

        Args:
            rng: of the draw.
            near_share: chance that it is drawn from around a particle instead of from anywhere.
            reach_px: how far from the particle, then.

        Raises:
            FrazilError: there seems to be none.
        """
        micrograph, clearance = self._micrograph, self._clearance_px
        (h, w), border = micrograph.picture.pixels.shape, micrograph.border_px
        for _ in range(_TRIES):
            if rng.random() < near_share:
                y, x = micrograph.centres[rng.integers(len(micrograph.centres))]
                radius, angle = rng.uniform(clearance, reach_px), rng.random() * 2 * np.pi
                y, x = y + radius * np.sin(angle), x + radius * np.cos(angle)
            else:
                y, x = rng.uniform(border, h - border), rng.uniform(border, w - border)
            if micrograph.holds_data(np.array(y), np.array(x)) and self._tree.query((y, x))[0] >= clearance:
                return float(y), float(x)
        raise FrazilError(f"{micrograph.name}: no place for a negative crop; is the diameter right?")
