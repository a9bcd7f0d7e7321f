"""Rescaling: a micrograph becomes a picture in which the particle has the model's diameter."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache

import cv2
import numpy as np
from numpy.typing import NDArray

from frazil.model.tiling import rescaled_shape

__all__ = ["Rescaled", "Rescaling", "RescalingAhead", "rescale"]

_LARGEST_PRODUCT = 2**18
"""Multiplications in one matrix product: beyond, OpenBLAS starts several threads, which spin while they wait."""
_STRIP_ROWS = 128
_STEPS_AHEAD = 16
"""Steps in which a micrograph is rescaled while it is read; only the last one is not overlapped with reading."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Rescaling:
    """The mapping between positions in a micrograph and in its rescaled picture.

    Both are counted from pixel centres, so the two grids coincide at a pixel edge, not at a centre.
    """

    shape: tuple[int, int]
    """(h, w) of the micrograph."""
    rescaled_shape: tuple[int, int]
    """(h, w) of the rescaled picture; rounded, so the two axes differ by a little in scale."""

    @classmethod
    def for_diameter(cls, shape: tuple[int, int], diameter_px: float, model_diameter_px: float) -> Rescaling:
        """The rescaling that makes a particle of diameter_px (in the micrograph) model_diameter_px wide."""
        return cls(shape=shape, rescaled_shape=rescaled_shape(shape, diameter_px, model_diameter_px))

    @property
    def factors(self) -> tuple[float, float]:
        """(y, x) rescaled pixels per pixel of the micrograph."""
        return self.rescaled_shape[0] / self.shape[0], self.rescaled_shape[1] / self.shape[1]

    @property
    def enlarges(self) -> bool:
        """Whether the picture has more pixels than the micrograph, along either axis."""
        return self.rescaled_shape[0] > self.shape[0] or self.rescaled_shape[1] > self.shape[1]

    def to_micrograph(self, positions: NDArray[np.float64], axis: int) -> NDArray[np.float64]:
        """(n,) positions along one axis (0: y, 1: x) of the rescaled picture → of the micrograph."""
        return (positions + 0.5) / self.factors[axis] - 0.5

    def to_rescaled(self, positions: NDArray[np.float64], axis: int) -> NDArray[np.float64]:
        """(n,) positions along one axis (0: y, 1: x) of the micrograph → of the rescaled picture."""
        return (positions + 0.5) * self.factors[axis] - 0.5


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Rescaled:
    """A micrograph, rescaled."""

    rescaling: Rescaling
    pixels: NDArray[np.float32]
    """(h', w')."""


def rescale(pixels: NDArray[np.generic], rescaling: Rescaling) -> NDArray[np.float32]:
    """(h, w) micrograph → (h', w') picture; area averages when shrinking, linear when enlarging."""
    h, w = rescaling.rescaled_shape
    if rescaling.enlarges:
        return np.asarray(cv2.resize(_single(pixels), (w, h), interpolation=cv2.INTER_LINEAR), np.float32)
    averages = np.empty((h, w), np.float32)
    _average(pixels, _row_blocks(rescaling), averages)
    return averages


class RescalingAhead:
    """Rescales a micrograph in a thread while its rows still come. Used as a context manager.

    Reading and averaging take about as long as each other, and what was just read is still in the caches: together
    some 10 ms less a micrograph (decision 0026).

    Args:
        pixels: (h, w) of the micrograph; filled meanwhile, first row first.
        rescaling: that does not enlarge.
    """

    def __init__(self, pixels: NDArray[np.generic], rescaling: Rescaling) -> None:
        self._pixels = pixels
        self._rescaling = rescaling
        self._blocks = _row_blocks(rescaling)
        self._averages = np.empty(rescaling.rescaled_shape, np.float32)
        self._step_rows = -(-rescaling.shape[0] // _STEPS_AHEAD)
        self._begun_rows = 0
        self._begun_blocks = 0
        self._thread = ThreadPoolExecutor(1, "frazil-rescaling")
        self._begun: list[Future[None]] = []

    def __enter__(self) -> RescalingAhead:
        return self

    def __exit__(self, *_: object) -> None:
        # Waits: the memory of the pixels is given to another micrograph next.
        self._thread.shutdown()

    def advance(self, rows: int) -> None:
        """Begin with what these first rows, all read by now, make possible."""
        if rows - self._begun_rows < self._step_rows and rows < self._rescaling.shape[0]:
            return
        self._begun_rows, first = rows, self._begun_blocks
        while self._begun_blocks < len(self._blocks) and self._blocks[self._begun_blocks].pixels.stop <= rows:
            self._begun_blocks += 1
        if blocks := self._blocks[first : self._begun_blocks]:
            self._begun.append(self._thread.submit(_average, self._pixels, blocks, self._averages))

    def finish(self) -> Rescaled:
        """The rescaled micrograph, once all rows have come."""
        for part in self._begun:
            part.result()
        return Rescaled(rescaling=self._rescaling, pixels=self._averages)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Block:
    """Neighbouring averages, and their pixels."""

    averages: slice
    pixels: slice
    weights: NDArray[np.float32]
    """(averages, pixels) weight of each pixel in each average."""


@lru_cache(maxsize=16)
def _area_blocks(length: int, count: int, largest: int) -> tuple[_Block, ...]:
    """Blocks that average a line of `length` pixels to `count`, each with at most `largest` weights or one average.

    Most weights of a block are zero. Still, products of small dense matrices take less than half of the processor time
    of cv2's INTER_AREA, which gives the same.
    """
    edges = np.linspace(0, length, count + 1)  # of the averages, in pixels
    averages = min(max(1, int(np.sqrt(largest * count / length)) - 1), _STRIP_ROWS)
    blocks = []
    for start in range(0, count, averages):
        stop = min(start + averages, count)
        first, last = int(edges[start]), min(length, int(np.ceil(edges[stop] - 1e-9)))
        at = np.arange(first, last)
        lower, upper = edges[start:stop, np.newaxis], edges[start + 1 : stop + 1, np.newaxis]
        overlaps = np.clip(np.minimum(at + 1, upper) - np.maximum(at, lower), 0, None)
        weights = (overlaps / overlaps.sum(axis=1, keepdims=True)).astype(np.float32)
        blocks.append(_Block(averages=slice(start, stop), pixels=slice(first, last), weights=weights))
    return tuple(blocks)


def _row_blocks(rescaling: Rescaling) -> tuple[_Block, ...]:
    return _area_blocks(rescaling.shape[0], rescaling.rescaled_shape[0], _LARGEST_PRODUCT // rescaling.shape[1])


def _average(pixels: NDArray[np.generic], blocks: Sequence[_Block], averages: NDArray[np.float32]) -> None:
    """Write some rows of the (h, w) averages: along y first, over contiguous rows, in strips that fit the caches."""
    top, bottom = blocks[0].averages.start, blocks[-1].averages.stop
    strip = np.empty((min(bottom - top, _STRIP_ROWS), pixels.shape[1]), np.float32)
    filled = 0
    with np.errstate(over="ignore", invalid="ignore"):  # the reader checks pixels
        for block in blocks:
            count = len(block.weights)
            if filled + count > len(strip):
                _average_columns(strip[:filled], averages[top : top + filled])
                top, filled = top + filled, 0
            np.matmul(block.weights, _single(pixels[block.pixels]), out=strip[filled : filled + count])
            filled += count
        _average_columns(strip[:filled], averages[top:bottom])


def _average_columns(strip: NDArray[np.float32], averages: NDArray[np.float32]) -> None:
    """(n, columns) → (n, w), written into `averages`."""
    for block in _area_blocks(strip.shape[1], averages.shape[1], _LARGEST_PRODUCT // _STRIP_ROWS):
        np.matmul(strip[:, block.pixels], block.weights.T, out=averages[:, block.averages])


def _single(pixels: NDArray[np.generic]) -> NDArray[np.float32]:
    """The same in float32; not copied if they are."""
    return pixels.astype(np.float32, copy=False)
