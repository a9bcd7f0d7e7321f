"""Memory: what a micrograph took goes back to the system once it is picked."""

from __future__ import annotations

import contextlib
import ctypes

__all__ = ["give_back_large_blocks"]

_M_MMAP_THRESHOLD = -3
"""As in malloc.h of glibc."""
_LARGE_BYTES = 1 << 20


def give_back_large_blocks() -> None:
    """Have glibc take every block of 1 MiB or more from the system by itself, and give it back when it is freed.

    Left alone, glibc raises that bound to the size of a picture, and keeps pictures beside small blocks: one of
    these that stays keeps tens of megabytes of nothing in memory for good. Elsewhere than on glibc it does nothing.
    """
    with contextlib.suppress(AttributeError, OSError):
        ctypes.CDLL(None).mallopt(_M_MMAP_THRESHOLD, _LARGE_BYTES)
