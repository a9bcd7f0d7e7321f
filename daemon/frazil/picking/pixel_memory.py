"""Memory of micrographs, used again for the next ones."""

from __future__ import annotations

import weakref

import numpy as np
from numpy.typing import NDArray

__all__ = ["PixelMemory"]

_MOST_KEPT = 6
"""Micrographs on their way at once: some read ahead, one being picked, one shown to another model."""


class PixelMemory:
    """Hands out arrays, in used memory where there is some free.

    For the system to find and clear 64 MB takes as long as to read as much from its cache. Belongs to one thread; the
    arrays may go anywhere. Memory is used again once no array, and no view of one, is left that lies in it.
    """

    def __init__(self) -> None:
        self._free: list[NDArray[np.uint8]] = []

    def take(self, shape: tuple[int, int], dtype: np.dtype[np.generic]) -> NDArray[np.generic]:
        """(h, w) array of a type, its values undefined."""
        size = shape[0] * shape[1] * dtype.itemsize
        fitting = next((i for i, memory in enumerate(self._free) if memory.size == size), None)
        if fitting is None:
            self._free.clear()  # micrographs of another size are over
            memory = np.empty(size, np.uint8)
        else:
            memory = self._free.pop(fitting)
        # Every view refers to this array, and none to the memory itself: NumPy does not look behind a buffer.
        lent = np.asarray(memory.data)
        weakref.finalize(lent, self._give_back, memory).atexit = False
        return lent.view(dtype).reshape(shape)

    def release(self) -> None:
        """Return free memory to the system."""
        self._free.clear()

    def _give_back(self, memory: NDArray[np.uint8]) -> None:
        if len(self._free) < _MOST_KEPT:
            self._free.append(memory)
