"""Tiles: sliding windows (or larger tiles with a halo) gathered from one rescaled picture."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from frazil.model.contract import ModelContract

__all__ = ["Axis", "Batches", "MicrographSize", "Tiling", "plan_tiling", "rescaled_shape"]

_LONGEST_PERIOD = 16


@dataclass(frozen=True, slots=True, kw_only=True)
class MicrographSize:
    """What determines the size of a micrograph's batches."""

    shape: tuple[int, int]
    """(h, w)."""
    diameter_px: float
    """Of its particle."""
    margin_px: float
    """Distance from its edges that needs no scores."""


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

    @property
    def period(self) -> int:
        """Period, in tiles, of the rounded tile spacing; the number of tiles if it never repeats."""
        gaps, count = np.diff(self.origins), self.origins.size
        return next((p for p in range(1, min(_LONGEST_PERIOD, count)) if (gaps[p:] == gaps[:-p]).all()), count)

    def select(self, tiles: NDArray[np.intp]) -> Axis:
        """Some of the tiles."""
        centres = self.centres.reshape(-1, self.grid)[tiles].ravel()
        return Axis(tile_px=self.tile_px, grid=self.grid, origins=self.origins[tiles], centres=centres)


@dataclass(frozen=True, slots=True, kw_only=True)
class Batches:
    """Number of batches in which the tiles of a picture are scored, and how full they are."""

    count: int = 0
    tiles: int = 0
    room: int = 0
    """Capacity of these batches, in tiles."""

    def __add__(self, other: Batches) -> Batches:
        return Batches(count=self.count + other.count, tiles=self.tiles + other.tiles, room=self.room + other.room)


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

    def split(self, parts: int) -> list[Tiling]:
        """Divide into at most `parts` tilings, each of some rows of tiles."""
        rows = np.array_split(np.arange(self.y.origins.size), min(parts, self.y.origins.size))
        return [Tiling(y=self.y.select(some), x=self.x) for some in rows]

    def batch_size(self, largest: int) -> int:
        """Tiles in a batch, where all batches have nearly the same size and at most `largest` tiles."""
        return -(-self.count // -(-self.count // largest))

    def count_batches(self, largest: int) -> Batches:
        """What `batches` will yield."""
        count = -(-self.count // self.batch_size(largest))
        return Batches(count=count, tiles=self.count, room=count * largest)

    def batches(self, picture: NDArray[np.float32], largest: int) -> Iterator[NDArray[np.float32]]:
        """Yield (n, 1, h, w) batches, row by row over the picture, of nearly equal size, at most `largest`.

        The picture is mirrored where tiles reach beyond it. Each batch overwrites the one before: copy what you keep.
        """
        padded, top, left = self._mirror(picture)
        windows = sliding_window_view(padded, self.tile_shape)
        rows, columns = (self.y.origins + top).tolist(), (self.x.origins + left).tolist()
        if self.count == 1:
            # No copy where the one tile is the whole picture.
            yield np.ascontiguousarray(windows[rows[0], columns[0]])[np.newaxis, np.newaxis]
            return
        size, period = self.batch_size(largest), self.x.period
        # One buffer for all batches: to have the system find and clear memory takes longer than to fill it.
        tiles = np.empty((size, 1, *self.tile_shape), np.float32)
        for start in range(0, self.count, size):
            batch = tiles[: self.count - start]
            filled = 0
            while filled < len(batch):
                row, first = divmod(start + filled, len(columns))
                some = columns[first : first + len(batch) - filled]
                _copy_windows(windows[rows[row]], some, period, batch[filled : filled + len(some), 0])
                filled += len(some)
            yield batch

    def assemble(self, scores: NDArray[np.float32]) -> NDArray[np.float32]:
        """(count, gy, gx) scores in the order of the batches → (ky * gy, kx * gx) score map."""
        ky, kx, gy, gx = self.y.origins.size, self.x.origins.size, self.y.grid, self.x.grid
        return scores.reshape(ky, kx, gy, gx).transpose(0, 2, 1, 3).reshape(ky * gy, kx * gx)

    def _mirror(self, picture: NDArray[np.float32]) -> tuple[NDArray[np.float32], int, int]:
        """The rows of the picture that tiles cover, mirrored beyond its edges; and the new place of pixel 0, 0."""
        h, w = picture.shape
        first, last = int(self.y.origins[0]), int(self.y.origins[-1]) + self.y.tile_px
        top, bottom = max(0, -first), max(0, last - h)
        left, right = max(0, -int(self.x.origins[0])), max(0, int(self.x.origins[-1]) + self.x.tile_px - w)
        begin, end = max(0, first), min(h, last)
        if end - begin < max(top, bottom):  # too few to mirror
            begin, end = 0, h
        padded = cv2.copyMakeBorder(picture[begin:end], top, bottom, left, right, cv2.BORDER_REFLECT)
        return np.asarray(padded, np.float32), top - begin, left


def _copy_windows(band: NDArray[np.float32], columns: list[int], period: int, tiles: NDArray[np.float32]) -> None:
    """(W, h, w) windows of a band → (n, h, w) those that start at `columns`.

    They are copied in evenly spaced runs, one slice each, so that NumPy copies a run at once.
    """
    for first in range(min(period, len(columns))):
        regular = columns[first::period]
        # Rounding may put neighbouring windows in the same place: one is then copied to all.
        apart = max(1, regular[1] - regular[0]) if len(regular) > 1 else 1
        tiles[first::period] = band[regular[0] : regular[-1] + 1 : apart]


def rescaled_shape(shape: tuple[int, int], diameter_px: float, model_diameter_px: float) -> tuple[int, int]:
    """(h', w') of a micrograph of (h, w) pixels once its particle has the model's diameter."""
    h, w = (max(1, round(n * (model_diameter_px / diameter_px))) for n in shape)
    return h, w


def plan_tiling(
    shape: tuple[int, int], contract: ModelContract, margins_px: tuple[float, float], *, largest_tile_pixels: int = 0
) -> Tiling | None:
    """Place tiles so that their scores cover a picture but for its margins.

    Args:
        shape: (h, w) of the rescaled picture.
        contract: gives tile, grid, step and offset.
        margins_px: (y, x) distance from the edges, in pixels of the picture, that needs no scores.
        largest_tile_pixels: of a model that takes tiles of any height and width, most pixels in one: the tiles are as
            few as possible, and no larger than the picture needs. 0 for a model that takes the contract's tile only.

    Returns:
        The tiling; None where the margins leave nothing of the picture.
    """
    spans = [_Span(length=n, margin=margin) for n, margin in zip(shape, margins_px, strict=True)]
    if any(span.last < span.first for span in spans):
        return None
    if not largest_tile_pixels:
        y, x = (_plan_axis(span, contract, contract.grid) for span in spans)
        return Tiling(y=y, x=x)
    tiles = [1, 1]
    while True:
        grids = [-(-span.places(contract) // count) for span, count in zip(spans, tiles, strict=True)]
        y, x = (_plan_axis(span, contract, grid) for span, grid in zip(spans, grids, strict=True))
        if y.tile_px * x.tile_px <= largest_tile_pixels or grids == [1, 1]:
            return Tiling(y=y, x=x)
        tiles[int(x.tile_px > y.tile_px)] += 1


@dataclass(frozen=True, slots=True, kw_only=True)
class _Span:
    """What needs scores along one axis. A picture spans -0.5 to length - 0.5: pixel centres are at integers."""

    length: int
    margin: float

    @property
    def first(self) -> float:
        return self.margin - 0.5

    @property
    def last(self) -> float:
        return self.length - 0.5 - self.margin

    def places(self, contract: ModelContract) -> int:
        """Scores that reach from the first to the last place."""
        return int(np.ceil((self.last - self.first) / contract.step_px + 1 - 1e-9))


def _plan_axis(span: _Span, contract: ModelContract, grid: int) -> Axis:
    step = contract.step_px
    tiles = -(-span.places(contract) // grid)
    origins = np.rint(span.first - contract.offset_px + grid * step * np.arange(tiles)).astype(np.intp)
    centres = (origins[:, np.newaxis] + contract.offset_px + step * np.arange(grid)).ravel()
    tile_px = contract.tile_px + round((grid - contract.grid) * step)
    return Axis(tile_px=tile_px, grid=grid, origins=origins, centres=centres)
