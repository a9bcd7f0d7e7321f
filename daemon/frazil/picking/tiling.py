"""Tiles: sliding windows (or larger tiles with a halo) gathered from one rescaled picture."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from frazil.picking.contract import ModelContract

__all__ = ["Axis", "Batches", "Tiling", "plan_tiling"]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Axis:
    """Tiles along one axis of the rescaled picture."""

    origins: NDArray[np.intp]
    """(k,) first pixel of each tile; may lie before the picture or reach beyond it."""
    centres: NDArray[np.float64]
    """(k * g,) position of each score."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Batches:
    """In how many batches the tiles of a picture are scored, and how full they are."""

    count: int = 0
    tiles: int = 0
    room: int = 0
    """Most tiles that these batches could hold."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Tiling:
    """All tiles of one picture."""

    y: Axis
    x: Axis
    tile_px: int
    grid: int

    @property
    def count(self) -> int:
        """Number of tiles."""
        return self.y.origins.size * self.x.origins.size

    def batch_size(self, largest: int) -> int:
        """Tiles in a batch, when all batches are of nearly one size and none is above `largest`."""
        return -(-self.count // -(-self.count // largest))

    def count_batches(self, largest: int) -> Batches:
        """What `batches` will yield."""
        count = -(-self.count // self.batch_size(largest))
        return Batches(count=count, tiles=self.count, room=count * largest)

    def batches(self, picture: NDArray[np.float32], largest: int) -> Iterator[NDArray[np.float32]]:
        """Yield (n, 1, t, t) batches, row by row over the picture, all of nearly one size and none above `largest`.

        The picture is mirrored where tiles reach beyond it.
        """
        t = self.tile_px
        padded, top, left = self._mirror(picture)
        windows = sliding_window_view(padded, (t, t))
        rows = np.repeat(self.y.origins + top, self.x.origins.size)
        columns = np.tile(self.x.origins + left, self.y.origins.size)
        size = self.batch_size(largest)
        for start in range(0, self.count, size):
            chosen = slice(start, start + size)
            yield windows[rows[chosen], columns[chosen]][:, np.newaxis]

    def assemble(self, scores: NDArray[np.float32]) -> NDArray[np.float32]:
        """(count, g, g) scores in the order of the batches → (ky * g, kx * g) score map."""
        ky, kx, g = self.y.origins.size, self.x.origins.size, self.grid
        return np.ascontiguousarray(scores.reshape(ky, kx, g, g).swapaxes(1, 2).reshape(ky * g, kx * g))

    def _mirror(self, picture: NDArray[np.float32]) -> tuple[NDArray[np.float32], int, int]:
        h, w = picture.shape
        top, left = max(0, -int(self.y.origins[0])), max(0, -int(self.x.origins[0]))
        bottom = max(0, int(self.y.origins[-1]) + self.tile_px - h)
        right = max(0, int(self.x.origins[-1]) + self.tile_px - w)
        padded = cv2.copyMakeBorder(picture, top, bottom, left, right, cv2.BORDER_REFLECT)
        return np.asarray(padded, np.float32), top, left


def plan_tiling(shape: tuple[int, int], contract: ModelContract, margins_px: tuple[float, float]) -> Tiling | None:
    """Place tiles so that their scores cover a picture but for its margins.

    Args:
        shape: (h, w) of the rescaled picture.
        contract: gives tile, grid, step and offset.
        margins_px: (y, x) distance from the edges, in pixels of the picture, that needs no scores.

    Returns:
        The tiling; None where the margins leave nothing of the picture.
    """
    y = _plan_axis(shape[0], contract, margins_px[0])
    x = _plan_axis(shape[1], contract, margins_px[1])
    if y is None or x is None:
        return None
    return Tiling(y=y, x=x, tile_px=contract.tile_px, grid=contract.grid)


def _plan_axis(length: int, contract: ModelContract, margin: float) -> Axis | None:
    # The picture spans -0.5 to length - 0.5: pixel centres are at whole numbers.
    first, last = margin - 0.5, length - 0.5 - margin
    if last < first:
        return None
    stride = contract.grid * contract.step_px
    tiles = int(np.ceil(((last - first) / contract.step_px + 1 - 1e-9) / contract.grid))
    origins = np.rint(first - contract.offset_px + stride * np.arange(tiles)).astype(np.intp)
    within = contract.offset_px + contract.step_px * np.arange(contract.grid)
    centres = (origins[:, np.newaxis] + within).ravel()
    return Axis(origins=origins, centres=centres)
