"""The formats that micrographs come in, a module for each, and what these have in common.

Nothing is allocated for pixels before the claims of the header were checked against the size of the file.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from io import FileIO
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

__all__ = [
    "BLOCK_BYTES",
    "LARGEST_SIDE_PX",
    "MICROGRAPH_ENDINGS",
    "PixelSize",
    "Source",
    "StoredImage",
    "file_size",
    "judge_pixel_size",
    "micrograph_stem",
    "read_into",
]

MICROGRAPH_ENDINGS = (".mrc", ".mrc.gz", ".mrc.bz2", ".tif", ".tiff")
"""How the names of files end that can be read, in small letters or capitals."""


class StoredImage(Protocol):
    """One image in an open file, its claims checked against the size of the file."""

    @property
    def shape(self) -> tuple[int, int]:
        """(h, w)."""

    @property
    def pixel_size(self) -> PixelSize:
        """What the file says of it."""

    @property
    def dtype(self) -> np.dtype[np.generic]:
        """Type of the pixels as they lie in the file, byte order included."""

    @property
    def working_bytes(self) -> int:
        """Memory that `fill` needs beside the array it fills."""

    @property
    def rows_in_order(self) -> bool:
        """Whether `fill` fills whole rows, first row first."""

    def prove_complete(self) -> None:
        """Prove that the file is whole, from its end where that is possible.

        Raises:
            IncompleteMicrograph: it is not, as yet.
            MicrographError: it never will be.
            OSError: it cannot be read.
        """

    def fill(self, pixels: NDArray[np.generic]) -> Iterator[NDArray[np.generic]]:
        """Fill a (h, w) array of the stored type or float32, block by block.

        Yields:
            Each block of the array once it is filled, so that a caller can look at it, and stop at any; an empty one
                where that took a while without.

        Raises:
            IncompleteMicrograph: the file ends before its image.
            MicrographError: the stored bytes cannot be decoded.
            OSError: the file cannot be read.
        """


def micrograph_stem(name: str) -> str:
    """The name of a micrograph's file without its ending: ``a.b`` of ``a.b.mrc.gz``."""
    for ending in MICROGRAPH_ENDINGS:
        if name.lower().endswith(ending) and len(name) > len(ending):
            return name[: -len(ending)]
    return Path(name).stem


_LEAST_ANGSTROM, _MOST_ANGSTROM = 0.01, 1000.0
"""Metres, nanometres and the dots per inch of a printer lie far outside."""
_MOST_DIFFERENCE = 0.01
"""Between x and y, as a fraction: picks have one pixel size."""


@dataclass(frozen=True, slots=True)
class PixelSize:
    """The pixel size that a file tells of."""

    angstrom: float | None = None
    """None where the file tells of none, or of none that can be used."""
    doubt: str = ""
    """Why it cannot be used, as the end of a sentence; empty where it can, and where the file tells of none."""


def judge_pixel_size(x_angstrom: float, y_angstrom: float) -> PixelSize:
    """Judge what a file says of its pixels' width and height; 0 where it says nothing."""
    if x_angstrom == 0:
        return PixelSize()
    if not _LEAST_ANGSTROM <= x_angstrom <= _MOST_ANGSTROM:
        return PixelSize(doubt=f"{x_angstrom:g} Å, which is no pixel size of a micrograph")
    # Negated, since nothing compares with what is no number.
    if y_angstrom != 0 and not abs(y_angstrom - x_angstrom) <= _MOST_DIFFERENCE * x_angstrom:
        return PixelSize(doubt=f"{x_angstrom:g} Å along x and {y_angstrom:g} Å along y, which must be equal within 1 %")
    return PixelSize(round(x_angstrom, 6))


LARGEST_SIDE_PX = 65_536
"""No camera comes near; a file that claims more is no micrograph."""

BLOCK_BYTES = 1 << 19
"""Pixels are read in blocks of about this size: small enough to be looked at while they are in the caches."""


class Source(Protocol):
    """Something that bytes are read from."""

    def readinto(self, buffer: memoryview, /) -> int | None:
        """Read into the front of a buffer; how many bytes, 0 at the end."""


def file_size(file: FileIO) -> int:
    """Size of an open file in bytes."""
    return os.fstat(file.fileno()).st_size


def read_into(file: Source, buffer: memoryview) -> int:
    """Fill a buffer of bytes; how many there were, fewer only at the end of the file."""
    filled = 0
    while filled < len(buffer):
        count = file.readinto(buffer[filled:])
        if not count:
            break
        filled += count
    return filled
