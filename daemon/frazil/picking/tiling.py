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

    tile_px: int
    """Length of a tile."""
    grid: int
    """Scores of a tile."""
    origins: NDArray[np.intp]
    """(k,) first pixel of each tile; may lie before the picture or reach beyond it."""
    centres: NDArray[np.float64]
    """(k * grid,) position of each score."""


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

    @property
    def count(self) -> int:
        """Number of tiles."""
        return self.y.origins.size * self.x.origins.size

    @property
    def tile_shape(self) -> tuple[int, int]:
        """(h, w) of a tile."""
        return self.y.tile_px, self.x.tile_px

    def batch_size(self, largest: int) -> int:
        """Tiles in a batch, when all batches are of nearly one size and none is above `largest`."""
        return -(-self.count // -(-self.count // largest))

    def count_batches(self, largest: int) -> Batches:
        """What `batches` will yield."""
        count = -(-self.count // self.batch_size(largest))
        return Batches(count=count, tiles=self.count, room=count * largest)

    def batches(self, picture: NDArray[np.float32], largest: int) -> Iterator[NDArray[np.float32]]:
        """Yield (n, 1, h, w) batches, row by row over the picture, all of nearly one size and none above `largest`.

        The picture is mirrored where tiles reach beyond it.
        """
        padded, top, left = self._mirror(picture)
        windows = sliding_window_view(padded, self.tile_shape)
        rows = np.repeat(self.y.origins + top, self.x.origins.size)
        columns = np.tile(self.x.origins + left, self.y.origins.size)
        size = self.batch_size(largest)
        for start in range(0, self.count, size):
            chosen = slice(start, start + size)
            yield windows[rows[chosen], columns[chosen]][:, np.newaxis]

    def assemble(self, scores: NDArray[np.float32]) -> NDArray[np.float32]:
        """(count, gy, gx) scores in the order of the batches → (ky * gy, kx * gx) score map."""
        ky, kx, gy, gx = self.y.origins.size, self.x.origins.size, self.y.grid, self.x.grid
        return scores.reshape(ky, kx, gy, gx).transpose(0, 2, 1, 3).reshape(ky * gy, kx * gx)

    def _mirror(self, picture: NDArray[np.float32]) -> tuple[NDArray[np.float32], int, int]:
        h, w = picture.shape
        top, left = max(0, -int(self.y.origins[0])), max(0, -int(self.x.origins[0]))
        bottom = max(0, int(self.y.origins[-1]) + self.y.tile_px - h)
        right = max(0, int(self.x.origins[-1]) + self.x.tile_px - w)
        padded = cv2.copyMakeBorder(picture, top, bottom, left, right, cv2.BORDER_REFLECT)
        return np.asarray(padded, np.float32), top, left


def plan_tiling(
    shape: tuple[int, int], contract: ModelContract, margins_px: tuple[float, float], *, largest_tile_px: int = 0
) -> Tiling | None:
    """Place tiles so that their scores cover a picture but for its margins.

    Args:
        shape: (h, w) of the rescaled picture.
        contract: gives tile, grid, step and offset.
        margins_px: (y, x) distance from the edges, in pixels of the picture, that needs no scores.
        largest_tile_px: of a model that takes tiles of any side, the longest one wanted: tiles are then as few as
            can be and no larger than the picture needs. 0 for a model that takes the contract's tile alone.

    Returns:
        The tiling; None where the margins leave nothing of the picture.
    """
    y = _plan_axis(shape[0], contract, margins_px[0], largest_tile_px)
    x = _plan_axis(shape[1], contract, margins_px[1], largest_tile_px)
    if y is None or x is None:
        return None
    return Tiling(y=y, x=x)


def _plan_axis(length: int, contract: ModelContract, margin: float, largest_tile_px: int) -> Axis | None:
    # The picture spans -0.5 to length - 0.5: pixel centres are at whole numbers.
    first, last = margin - 0.5, length - 0.5 - margin
    if last < first:
        return None
    step, grid = contract.step_px, contract.grid
    places = (last - first) / step + 1 - 1e-9
    if largest_tile_px:
        largest_grid = max(1, grid + int((largest_tile_px - contract.tile_px) // step))
        wanted = int(np.ceil(places))
        grid = -(-wanted // -(-wanted // largest_grid))
    tiles = int(np.ceil(places / grid))
    origins = np.rint(first - contract.offset_px + grid * step * np.arange(tiles)).astype(np.intp)
    centres = (origins[:, np.newaxis] + contract.offset_px + step * np.arange(grid)).ravel()
    tile_px = contract.tile_px + round((grid - contract.grid) * step)
    return Axis(tile_px=tile_px, grid=grid, origins=origins, centres=centres)
