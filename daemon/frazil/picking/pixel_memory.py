"""Memory of micrographs that nobody holds any more, for those that come next."""

from __future__ import annotations

import sys

import numpy as np
from numpy.typing import NDArray

__all__ = ["PixelMemory"]

_MOST_KEPT = 6
"""Micrographs on their way at once: some read ahead, one being picked, one shown to another model."""
_probe = [np.empty(0, np.uint8)]
_IN_NO_USE = sys.getrefcount(_probe[0])
"""References to an array that only a list holds, as counted here."""


class PixelMemory:
    """Gives out arrays, in memory used before where there is some.

    To have the system find and clear 64 MB takes as long as to read as much from its cache. Belongs to one thread; the
    arrays may go anywhere. Memory is used again once no array, and no view of one, is left that lies in it, which
    CPython knows from their counts of references.
    """

    def __init__(self) -> None:
        self._kept: list[NDArray[np.uint8]] = []

    def take(self, shape: tuple[int, int], dtype: np.dtype[np.generic]) -> NDArray[np.generic]:
        """(h, w) array of a type; what it holds is no matter."""
        size = shape[0] * shape[1] * dtype.itemsize
        free = [i for i in range(len(self._kept)) if sys.getrefcount(self._kept[i]) == _IN_NO_USE]
        fitting = next((i for i in free if self._kept[i].size == size), None)
        if fitting is None:
            memory = np.empty(size, np.uint8)
            # Micrographs of another size are over; where all are in use, this one is kept by its user alone.
            for i in reversed(free):
                del self._kept[i]
            if len(self._kept) < _MOST_KEPT:
                self._kept.append(memory)
        else:
            memory = self._kept[fitting]
        return memory.view(dtype).reshape(shape)

    def release(self) -> None:
        """Give back what is in no use."""
        self._kept.clear()
