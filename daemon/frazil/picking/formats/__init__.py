"""The formats that micrographs come in: what a file claims, whether it is whole, and its pixels.

Each format has one module. `open_image` takes the one that the file's name asks for and checks the claims of the
header against the size of the file; nothing is allocated for pixels before that.
"""

from __future__ import annotations

from collections.abc import Iterator
from io import FileIO
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from frazil.picking.formats.compressed import open_compressed_mrc
from frazil.picking.formats.mrc import open_mrc
from frazil.picking.formats.pixel_size import PixelSize
from frazil.picking.formats.tiff import open_tiff

__all__ = ["MICROGRAPH_ENDINGS", "StoredImage", "micrograph_stem", "open_image"]

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


def open_image(path: Path, file: FileIO) -> StoredImage:
    """Read the header of an open file, in the format that its name asks for; without a known ending, MRC.

    Raises:
        IncompleteMicrograph: the file is shorter than its header demands.
        MicrographError: it is not of that format, or no single grey image.
        OSError: it cannot be read.
    """
    match path.suffix.lower():
        case ".gz" | ".bz2":
            return open_compressed_mrc(path, file)
        case ".tif" | ".tiff" | ".eer":
            return open_tiff(path, file)
        case _:
            return open_mrc(path, file)


def micrograph_stem(name: str) -> str:
    """The name of a micrograph's file without its ending: ``a.b`` of ``a.b.mrc.gz``."""
    for ending in MICROGRAPH_ENDINGS:
        if name.lower().endswith(ending) and len(name) > len(ending):
            return name[: -len(ending)]
    return Path(name).stem
