"""Micrographs: one motion-corrected average each, read from a file and checked."""

from __future__ import annotations

import math
import weakref
from collections.abc import Callable
from dataclasses import dataclass
from io import FileIO
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from frazil.errors import MicrographError
from frazil.files import open_regular
from frazil.picking.formats import StoredImage
from frazil.picking.formats.compressed import open_compressed_mrc
from frazil.picking.formats.mrc import open_mrc
from frazil.picking.formats.tiff import open_tiff
from frazil.picking.rescale import Rescaled, Rescaling, RescalingAhead

__all__ = [
    "LARGEST_MICROGRAPH_BYTES",
    "ChooseRescaling",
    "Micrograph",
    "PixelMemory",
    "check_complete",
    "open_image",
    "read_micrograph",
]

LARGEST_MICROGRAPH_BYTES = 2 << 30
"""Default limit of the memory that reading one micrograph takes: 16384 x 16384 pixels as float32, and as much again to
decode them."""

_MOST_KEPT = 6
"""Micrographs in memory at once: some read ahead, one being picked, one shown to another model."""

ChooseRescaling = Callable[[tuple[int, int], float | None], Rescaling | None]
"""(h, w) and the pixel size in the header → how the micrograph will be rescaled; None where that is not known."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Micrograph:
    """One micrograph in memory."""

    path: Path
    pixels: NDArray[np.generic]
    """(h, w) float32, or integers as stored. Row 0 is an MRC file's first row and a TIFF file's last."""
    pixel_size_angstrom: float | None
    """From the file; None where it is unknown or impossible."""
    pixel_size_doubt: str = ""
    """The impossible value in the file, as the end of a sentence."""
    rescaled: Rescaled | None = None
    """The picture made of the pixels while they were read."""

    def resolve_pixel_size(self, configured_angstrom: float | None) -> float:
        """The pixel size to use: the configured one, else the file's.

        Raises:
            MicrographError: neither is known, or the file's cannot be.
        """
        pixel_size = configured_angstrom if configured_angstrom is not None else self.pixel_size_angstrom
        if pixel_size is None:
            raise MicrographError(
                self.path,
                "pixel_size",
                f"expected a pixel size in the header, found {self.pixel_size_doubt or '0 or 1.0 (unknown)'}; "
                "give it with --pixel-size",
            )
        return pixel_size


class PixelMemory:
    """Memory of micrographs, used again for the next ones.

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


def check_complete(path: Path) -> None:
    """Prove from its own header that a micrograph's file is whole; reads little of it.

    Of a compressed file the end is looked at; that every byte is there and right is proved when it is read.

    Raises:
        IncompleteMicrograph: the file is not all that its header demands.
        MicrographError: the file cannot be read as a micrograph, whatever is still added to it.
        OSError: the file cannot be opened or read.
    """
    with open_regular(path) as file:
        open_image(path, file).prove_complete()


def read_micrograph(
    path: Path,
    *,
    as_stored: bool = False,
    memory: PixelMemory | None = None,
    largest_bytes: int = LARGEST_MICROGRAPH_BYTES,
    cut_off: Callable[[], bool] = lambda: False,
    rescaling: ChooseRescaling = lambda *_: None,
) -> Micrograph:
    """Read a micrograph whole.

    The header's claim is checked against the size of the file and against a limit before anything is allocated.

    Args:
        path: an MRC file, plain or compressed, or a TIFF file; see `frazil.picking.MICROGRAPH_ENDINGS`.
        as_stored: whether integers of 8 or 16 bits stay integers, in less memory than float32. Picking takes them;
            in other computations, mind their range.
        memory: where to take memory for the pixels from. Default: from the system.
        largest_bytes: memory that reading may take.
        cut_off: asked between blocks of half a megabyte; True gives up.
        rescaling: says how the micrograph will be rescaled, as `Picker.rescaling` does: then a thread does that
            meanwhile, if the rows come in order. Default: the picker does it.

    Raises:
        IncompleteMicrograph: the file is shorter than its header demands.
        MicrographError: the file is missing, damaged, of no known format, a stack or volume, or too large; its pixels
            are not finite or all the same; or reading it was given up.
    """
    rescaled = None
    try:
        with open_regular(path) as file:
            image = open_image(path, file)
            dtype = _integer_type(image.dtype) if as_stored else np.dtype(np.float32)
            h, w = image.shape
            needed = dtype.itemsize * h * w + image.working_bytes
            if needed > largest_bytes:
                raise MicrographError(
                    path,
                    "too_large",
                    f"expected a micrograph that takes at most {largest_bytes} bytes of memory to read "
                    f"(max_micrograph_bytes), found {w} x {h} pixels, which take {needed}",
                )
            chosen = rescaling(image.shape, image.pixel_size.angstrom) if image.rows_in_order else None
            pixels = memory.take(image.shape, dtype) if memory else np.empty(image.shape, dtype)
            if chosen is None or chosen.enlarges:
                _fill(path, image, pixels, cut_off)
            else:
                with RescalingAhead(pixels, chosen) as ahead:
                    _fill(path, image, pixels, cut_off, ahead.advance)
                    rescaled = ahead.finish()
    except OSError as error:
        raise MicrographError(path, "unreadable", f"cannot be read: {error.strerror or error}") from error
    return Micrograph(
        path=path,
        pixels=pixels,
        pixel_size_angstrom=image.pixel_size.angstrom,
        pixel_size_doubt=image.pixel_size.doubt,
        rescaled=rescaled,
    )


def _integer_type(stored: np.dtype[np.generic]) -> np.dtype[np.generic]:
    """The type of pixels that stay as stored: integers of at most 16 bits; else float32 (NumPy is slow in float16)."""
    return stored.newbyteorder("=") if stored.kind in "iu" and stored.itemsize <= 2 else np.dtype(np.float32)


def _fill(
    path: Path,
    image: StoredImage,
    pixels: NDArray[np.generic],
    cut_off: Callable[[], bool],
    advance: Callable[[int], None] = lambda _: None,
) -> None:
    """Read the pixels of a stored image and check them; `advance` is called with the number of rows read."""
    first: Any = None
    done, is_constant, looks_finite = 0, True, True
    for block in image.fill(pixels):
        # While it is in the caches. NaN and infinity survive in the sum, which is for nothing else.
        if block.size:
            if done == 0:
                first = block.flat[0]
            is_constant = is_constant and bool((block == first).all())
            looks_finite = looks_finite and _has_finite_sum(block)
        done += block.size
        advance(done // pixels.shape[1])
        if done < pixels.size and cut_off():
            raise MicrographError(
                path,
                "too_slow",
                f"expected {pixels.size} pixels within read_timeout_seconds, found {done} by then",
            )
    # Numbers of 1e30 are finite though their sum is not.
    if not looks_finite and (count := pixels.size - np.count_nonzero(np.isfinite(pixels))):
        raise MicrographError(path, "not_finite", f"expected finite pixels, found {count} that are NaN or infinite")
    if is_constant:
        raise MicrographError(path, "constant", f"expected a picture, found every pixel equal to {float(first):g}")


def _has_finite_sum(block: NDArray[Any]) -> bool:
    if block.dtype.kind != "f":
        return True
    with np.errstate(over="ignore", invalid="ignore"):
        # In a third of the time of block.sum(), which is more exact.
        return math.isfinite(np.einsum("ij->", block))
