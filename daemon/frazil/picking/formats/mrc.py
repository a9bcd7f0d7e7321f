"""MRC: what the header claims, how many bytes that takes, and the pixels behind it.

The layout is that of MRC2014 (Cheng et al., J. Struct. Biol. 192, 2015); its fields come from mrcfile. Whether bytes
are signed follows IMOD (https://bio3d.colorado.edu/imod/doc/mrc_format.txt).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from io import FileIO
from pathlib import Path

import numpy as np
from mrcfile.dtypes import HEADER_DTYPE
from numpy.typing import NDArray

from frazil.errors import IncompleteMicrograph, MicrographError
from frazil.picking.formats import (
    BLOCK_BYTES,
    LARGEST_SIDE_PX,
    PixelSize,
    Source,
    file_size,
    judge_pixel_size,
    read_into,
)

__all__ = ["HEADER_BYTES", "MrcHeader", "MrcImage", "fill_rows", "open_mrc", "parse_header"]

HEADER_BYTES = 1024

_DTYPES = {0: "i1", 1: "i2", 2: "f4", 6: "u2", 12: "f2"}
_REFUSED_MODES = {
    3: "complex int16",
    4: "complex float32 (a Fourier transform)",
    16: "RGB colours",
    101: "packed 4-bit",
}
_BIG_ENDIAN_STAMP = 0x11
_IMOD_STAMP = 1146047817
_IMOD_STAMP_OFFSET, _IMOD_FLAGS_OFFSET = 152, 156
_IMOD_SIGNED_BYTES = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class MrcHeader:
    """What the first 1024 bytes of an MRC file say."""

    shape: tuple[int, int]
    """(h, w) of one image."""
    sections: int
    """Images in the file; a micrograph has one."""
    is_volume: bool
    """Whether several sections are one volume, and not a stack of images."""
    dtype: np.dtype[np.generic]
    """Type of the stored pixels, byte order included."""
    data_offset: int
    """Bytes before the first pixel: header and extended header."""
    pixel_size: PixelSize
    """Unknown where the header says 0 or 1.0, which writers use for that."""

    @property
    def image_bytes(self) -> int:
        """Size of one image."""
        h, w = self.shape
        return h * w * self.dtype.itemsize

    @property
    def file_bytes(self) -> int:
        """Size that a complete file has."""
        return self.data_offset + self.sections * self.image_bytes


def parse_header(path: Path, head: bytes) -> MrcHeader:
    """Parse the first 1024 bytes of a file, of which there may be fewer.

    Raises:
        IncompleteMicrograph: there are fewer than 1024 bytes, or only zeros (space set aside, not yet written).
        MicrographError: the bytes are no MRC header, or hold a mode that is not an image.
    """
    if len(head) < HEADER_BYTES:
        found = "an empty file" if not head else f"{len(head)} bytes"
        raise IncompleteMicrograph(path, "truncated", f"expected an MRC header of {HEADER_BYTES} bytes, found {found}")
    if not any(head):
        raise IncompleteMicrograph(path, "truncated", "expected an MRC header, found only zeros")
    # Some headers are plausible both ways; the machine stamp then decides. Old ones have none.
    stamped_big = head[HEADER_DTYPE.fields["machst"][1]] == _BIG_ENDIAN_STAMP
    for order in (">", "<") if stamped_big else ("<", ">"):
        raw = np.frombuffer(head[:HEADER_BYTES], HEADER_DTYPE.newbyteorder(order))[0]
        nx, ny, nz, mode, extended = (int(raw[name]) for name in ("nx", "ny", "nz", "mode", "nsymbt"))
        sides_plausible = 0 < nx <= LARGEST_SIDE_PX and 0 < ny <= LARGEST_SIDE_PX and nz > 0
        if sides_plausible and extended >= 0 and (mode in _DTYPES or mode in _REFUSED_MODES):
            break
    else:
        raise MicrographError(path, "not_mrc", "expected an MRC file, found no valid MRC header")
    if mode in _REFUSED_MODES:
        raise MicrographError(
            path,
            "unsupported",
            f"expected a real image (MRC mode 0, 1, 2, 6 or 12), found mode {mode}: {_REFUSED_MODES[mode]}",
        )
    stored = "u1" if mode == 0 and _has_unsigned_bytes(head, raw, order) else _DTYPES[mode]
    return MrcHeader(
        shape=(ny, nx),
        sections=nz,
        is_volume=int(raw["ispg"]) != 0,
        dtype=np.dtype(order + stored),
        data_offset=HEADER_BYTES + extended,
        pixel_size=_pixel_size(raw),
    )


def _pixel_size(raw: np.void) -> PixelSize:
    x, y = (float(raw["cella"][axis]) / count if (count := int(raw[f"m{axis}"])) > 0 else 0.0 for axis in ("x", "y"))
    # 1.0 in both is what writers put for "unknown".
    return PixelSize() if _is_one(x) and (y == 0 or _is_one(y)) else judge_pixel_size(x, y)


def _is_one(pixel_size: float) -> bool:
    return abs(pixel_size - 1.0) <= 1e-6


def _has_unsigned_bytes(head: bytes, raw: np.void, order: str) -> bool:
    """Whether mode 0 means 0 to 255: IMOD's flag says so, or without one a range that no signed byte has."""
    stamp, flags = np.frombuffer(head[_IMOD_STAMP_OFFSET : _IMOD_FLAGS_OFFSET + 4], order + "i4")
    if stamp == _IMOD_STAMP:
        return not flags & _IMOD_SIGNED_BYTES
    return bool(raw["dmin"] >= 0 and 127 < raw["dmax"] <= 255)


def check_single(path: Path, header: MrcHeader) -> None:
    """Check that a header tells of one image.

    Raises:
        MicrographError: it tells of a stack or a volume.
    """
    if header.sections != 1:
        kind = "volume of {} sections" if header.is_volume else "stack of {} images"
        raise MicrographError(
            path,
            "stack",
            f"expected one image, found a {kind.format(header.sections)} "
            "(raw movies must be motion-corrected and averaged first)",
        )


class MrcImage:
    """The one image of an uncompressed MRC file."""

    working_bytes = BLOCK_BYTES
    rows_in_order = True

    def __init__(self, path: Path, file: FileIO, header: MrcHeader) -> None:
        self._path = path
        self._file = file
        self._header = header
        self.shape = header.shape
        self.dtype = header.dtype
        self.pixel_size = header.pixel_size

    def prove_complete(self) -> None:
        """Nothing is left to prove: `open_mrc` compared the size of the file.

        Only a whole further image shows that more is coming than the header tells of as yet.

        Raises:
            IncompleteMicrograph: there is a further image.
        """
        found = file_size(self._file)
        if found >= self._header.file_bytes + self._header.image_bytes:
            raise IncompleteMicrograph(
                self._path,
                "stack",
                f"expected {self._header.file_bytes} bytes for the one image that the header tells of, "
                f"found {found}: further images",
            )

    def fill(self, pixels: NDArray[np.generic]) -> Iterator[NDArray[np.generic]]:
        """See `frazil.picking.formats.StoredImage`."""
        self._file.seek(self._header.data_offset)
        yield from fill_rows(self._path, self._file, self._header.dtype, pixels)


def open_mrc(path: Path, file: FileIO) -> MrcImage:
    """Read the header and compare what it demands with the size of the file.

    Raises:
        IncompleteMicrograph: the file is shorter than its header demands.
        MicrographError: it is no MRC file, or no single real image.
        OSError: it cannot be read.
    """
    header = parse_header(path, file.read(HEADER_BYTES))
    check_single(path, header)
    found = file_size(file)
    if found < header.file_bytes:
        h, w = header.shape
        raise IncompleteMicrograph(
            path,
            "truncated",
            f"expected {header.file_bytes} bytes for {w} x {h} pixels of {header.dtype.name}, found {found}",
        )
    return MrcImage(path, file, header)


def fill_rows(
    path: Path, source: Source, dtype: np.dtype[np.generic], pixels: NDArray[np.generic]
) -> Iterator[NDArray[np.generic]]:
    """Fill a (h, w) array with the rows that come from a source, first row first.

    Yields:
        Each block of rows once it is filled.

    Raises:
        IncompleteMicrograph: the source ends before.
    """
    h, w = pixels.shape
    block_rows = min(h, BLOCK_BYTES // (w * dtype.itemsize))  # the longest row takes half a block
    as_stored = None if dtype == pixels.dtype else np.empty((block_rows, w), dtype)
    for top in range(0, h, block_rows):
        wanted = pixels[top : top + block_rows]
        block = wanted if as_stored is None else as_stored[: len(wanted)]
        found = read_into(source, block.view(np.uint8).data.cast("B"))
        if found < block.nbytes:
            there = top * w + found // dtype.itemsize
            raise IncompleteMicrograph(
                path, "truncated", f"expected {h * w} pixels, found {there}: the file ends before its image does"
            )
        if block is not wanted:
            wanted[...] = block
        yield wanted
