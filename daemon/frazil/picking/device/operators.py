"""Rescaling, blurring, mirroring and percentiles as arrays that a graph multiplies with or gathers by.

Each is built once for a shape, on the CPU, and gives the same result as its function on the CPU.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from frazil.picking.rescale import Rescaling, rescale

__all__ = ["Ranks", "blur_matrix", "mirror", "percentile_ranks", "resampling_matrices"]

_COLUMNS = 512
"""Columns of a unit matrix rescaled at once: all of it would take as much memory as the micrograph."""

Ranks = tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float32]]
"""For percentiles in a sorted sample: (k,) the rank below, the rank above, and the weight of the one above."""


def resampling_matrices(rescaling: Rescaling) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """(h', h) and (w, w') matrices: multiplied with a micrograph from the left and from the right they rescale it.

    They are what `rescale` makes of a unit matrix, one axis at a time, so they cannot differ from it.
    """
    (h, w), (rescaled_h, rescaled_w) = rescaling.shape, rescaling.rescaled_shape
    return _rescale_unit(h, rescaled_h), np.ascontiguousarray(_rescale_unit(w, rescaled_w).T)


def _rescale_unit(size: int, rescaled: int) -> NDArray[np.float32]:
    """(rescaled, size) the unit matrix, with its columns rescaled."""
    result = np.empty((rescaled, size), np.float32)
    for start in range(0, size, _COLUMNS):
        count = min(_COLUMNS, size - start)
        unit = np.eye(size, count, -start, dtype=np.float32)
        part = Rescaling(shape=unit.shape, rescaled_shape=(rescaled, count))
        result[:, start : start + count] = rescale(unit, part)
    return result


def blur_matrix(size: int, side: int) -> NDArray[np.float32]:
    """(size, size) matrix that takes means over `side` pixels, mirrored at the ends about the last pixel's centre."""
    offsets = np.arange(side) - side // 2
    period = max(1, 2 * (size - 1))
    places = np.abs((np.arange(size)[:, np.newaxis] + offsets) % period)
    places = np.minimum(places, period - places) if size > 1 else np.zeros_like(places)
    counts = np.zeros((size, size), np.float32)
    np.add.at(counts, (np.arange(size)[:, np.newaxis], places), 1)
    return counts / np.float32(side)


def mirror(origins: NDArray[np.intp], tile_px: int, size: int) -> NDArray[np.int64]:
    """(k,) first pixels of tiles → (k, t) their pixels in a line of `size`, mirrored at its edges."""
    places = (origins[:, np.newaxis] + np.arange(tile_px)) % (2 * size)
    mirrored: NDArray[np.int64] = np.minimum(places, 2 * size - 1 - places).astype(np.int64)
    return mirrored


def percentile_ranks(count: int, percents: Sequence[float]) -> Ranks:
    """Ranks of the percentiles of `count` sorted values, as in `numpy.percentile`."""
    places = np.asarray(percents, np.float64) / 100 * (count - 1)
    below = np.floor(places).astype(np.int64)
    above = np.minimum(below + 1, count - 1)
    return below, above, (places - below).astype(np.float32)
