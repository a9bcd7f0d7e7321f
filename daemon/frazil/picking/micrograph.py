"""Micrographs: one motion-corrected average each, read from an MRC file and checked."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

from frazil.errors import IncompleteMicrograph, MicrographError
from frazil.picking.mrc import HEADER_BYTES, MrcHeader, parse_header

__all__ = ["Micrograph", "check_complete", "read_micrograph"]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Micrograph:
    """One micrograph in memory."""

    path: Path
    pixels: NDArray[np.float32]
    """(h, w), row 0 first, as stored in the file."""
    pixel_size_angstrom: float | None
    """What the file says; None where it does not know."""

    def resolve_pixel_size(self, configured_angstrom: float | None) -> float:
        """The pixel size to use: the configured one, else the file's.

        Raises:
            MicrographError: neither is known.
        """
        pixel_size = configured_angstrom if configured_angstrom is not None else self.pixel_size_angstrom
        if pixel_size is None:
            raise MicrographError(
                self.path,
                "pixel_size",
                "expected a pixel size in the header, found 0 or 1.0 (unknown); give it with --pixel-size",
            )
        return pixel_size


def check_complete(path: Path) -> MrcHeader:
    """Prove from its own header that an MRC file is whole; reads 1 KiB.

    Raises:
        IncompleteMicrograph: the file is shorter than its header demands.
        MicrographError: the file is no MRC file, or no single image.
        OSError: the file cannot be opened or read.
    """
    with path.open("rb") as file:
        return _checked_header(path, file)


def read_micrograph(path: Path) -> Micrograph:
    """Read a micrograph whole.

    The header's claim is checked against the size of the file before anything is allocated.

    Raises:
        MicrographError: the file is missing, truncated, no MRC file, a stack or volume, or its pixels are not
            finite or all the same.
    """
    try:
        with path.open("rb") as file:
            header = _checked_header(path, file)
            file.seek(header.data_offset)
            h, w = header.shape
            stored = np.fromfile(file, header.dtype, h * w)
    except OSError as error:
        raise MicrographError(path, "unreadable", f"cannot be read: {error.strerror or error}") from error
    if stored.size != h * w:
        raise IncompleteMicrograph(
            path, "truncated", f"expected {h * w} pixels, found {stored.size}: it shrank while it was read"
        )
    pixels = stored.reshape(h, w).astype(np.float32, copy=False)
    _check_pixels(path, pixels)
    return Micrograph(path=path, pixels=pixels, pixel_size_angstrom=header.pixel_size_angstrom)


def _checked_header(path: Path, file: BinaryIO) -> MrcHeader:
    header = parse_header(path, file.read(HEADER_BYTES))
    if header.sections != 1:
        raise MicrographError(
            path,
            "stack",
            f"expected one image, found a stack or volume of {header.sections} sections "
            "(raw movies must be motion-corrected and averaged first)",
        )
    found = os.fstat(file.fileno()).st_size
    if found < header.file_bytes:
        h, w = header.shape
        raise IncompleteMicrograph(
            path,
            "truncated",
            f"expected {header.file_bytes} bytes for {w} x {h} pixels of {header.dtype.name}, found {found}",
        )
    return header


def _check_pixels(path: Path, pixels: NDArray[np.float32]) -> None:
    # NaN and infinity both survive into the extremes, so two fast passes check everything.
    lowest, highest = float(pixels.min()), float(pixels.max())
    if not (np.isfinite(lowest) and np.isfinite(highest)):
        count = int(pixels.size - np.count_nonzero(np.isfinite(pixels)))
        raise MicrographError(path, "not_finite", f"expected finite pixels, found {count} that are NaN or infinite")
    if lowest == highest:
        raise MicrographError(path, "constant", f"expected a picture, found every pixel equal to {lowest:g}")
