"""TIFF: the pixels of the one grey image that a directory tells of.

Rows come out last first, as RELION, IMOD and MotionCor read TIFF: so one picture, saved as TIFF or as MRC, has one
set of coordinates. The orientation tag changes nothing, as it does there.

LZW and PackBits are unpacked by the libtiff in OpenCV. It sees one strip or tile at a time, behind a directory that is
written here: nothing that a file says beyond those packed bytes reaches it.
"""

from __future__ import annotations

import os
import struct
import zlib
from collections.abc import Iterator
from io import FileIO
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from frazil.errors import IncompleteMicrograph, MicrographError
from frazil.picking.formats import BLOCK_BYTES, read_into
from frazil.picking.formats.tiff_directory import Compression, TiffDirectory, read_directory

__all__ = ["TiffImage", "open_tiff"]

_UNPACKED_BY_OPENCV = (Compression.LZW, Compression.PACKBITS)
_DIFFERENCES, _FLOAT_DIFFERENCES = 2, 3
_COPIES_READ = 4
"""Of a block in memory at once: as inflated, as read, and while a predictor is undone."""
_COPIES_UNPACKED = 7
"""Of a strip or tile in memory at once: OpenCV takes samples of 8 bits for colours of 32."""
_INPUT_BYTES = 1 << 18
_WIDEST_PX = 1 << 20
"""That OpenCV takes."""

# OpenCV would tell the terminal what a MicrographError tells in one line.
cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)


class TiffImage:
    """The one image of a TIFF file."""

    rows_in_order = False

    def __init__(self, path: Path, file: FileIO, directory: TiffDirectory) -> None:
        self._path = path
        self._file = file
        self._directory = directory
        self.shape = directory.shape
        self.dtype = directory.dtype
        self.pixel_size = directory.pixel_size

    @property
    def working_bytes(self) -> int:
        """Memory that `fill` needs beside the array it fills."""
        directory = self._directory
        h, w = directory.chunk_shape
        chunk = h * w * directory.dtype.itemsize
        if directory.compression in _UNPACKED_BY_OPENCV:
            return 2 * int(directory.byte_counts.max()) + _COPIES_UNPACKED * chunk
        return _COPIES_READ * min(chunk, BLOCK_BYTES)

    def prove_complete(self) -> None:
        """Nothing is left to prove: `open_tiff` found every strip or tile inside the file."""

    def fill(self, pixels: NDArray[np.generic]) -> Iterator[NDArray[np.generic]]:
        """See `frazil.picking.formats.StoredImage`."""
        directory = self._directory
        (h, w), (chunk_h, chunk_w) = directory.shape, directory.chunk_shape
        turned = pixels[::-1]
        for index in range(len(directory.offsets)):
            row, column = divmod(index, -(-w // chunk_w))
            top, left = row * chunk_h, column * chunk_w
            rows = chunk_h if directory.is_tiled else min(chunk_h, h - top)
            wanted = turned[top : min(top + chunk_h, h), left : min(left + chunk_w, w)]
            for first, block in self._rows(index, rows):
                target = wanted[first : first + len(block)]
                target[...] = self._undo_predictor(block)[: len(target), : target.shape[1]]
                yield target

    def _rows(self, index: int, rows: int) -> Iterator[tuple[int, NDArray[np.uint8]]]:
        """The rows of one strip or tile as bytes, some at a time: the number of the first, and (n, bytes of a row)."""
        directory = self._directory
        row_bytes = directory.chunk_shape[1] * directory.dtype.itemsize
        stored = _Stored(self._path, self._file, int(directory.offsets[index]), int(directory.byte_counts[index]))
        if directory.compression in _UNPACKED_BY_OPENCV:
            yield 0, self._unpack(index, stored.read(stored.left), rows, row_bytes)
            return
        source = stored if directory.compression is Compression.NONE else _Inflated(stored)
        block_rows = min(rows, BLOCK_BYTES // row_bytes)  # the longest row takes half a block
        for first in range(0, rows, block_rows):
            block = np.empty((min(block_rows, rows - first), row_bytes), np.uint8)
            try:
                found = read_into(source, block.data.cast("B"))
            except zlib.error as error:
                raise self._damaged(index, "deflate data", f"damage: {error}") from error
            if found < block.nbytes:
                raise self._damaged(index, f"{rows * row_bytes} bytes", str(first * row_bytes + found))
            yield first, block

    def _undo_predictor(self, block: NDArray[np.uint8]) -> NDArray[np.generic]:
        """(n, chunk width) pixels of (n, bytes of a row)."""
        dtype, predictor = self._directory.dtype, self._directory.predictor
        if predictor == _FLOAT_DIFFERENCES:
            # The bytes of all pixels of a row by their weight, the largest first, whatever the order of the file.
            planes = np.cumsum(block, axis=1, dtype=np.uint8).reshape(len(block), dtype.itemsize, -1)
            return np.ascontiguousarray(planes.transpose(0, 2, 1)).view(dtype.newbyteorder(">"))[..., 0]
        pixels = block.view(dtype)
        if predictor == _DIFFERENCES:
            whole = np.dtype(f"u{dtype.itemsize}")
            sums = np.cumsum(pixels.view(whole.newbyteorder(dtype.byteorder)), axis=1, dtype=whole)
            return sums.view(dtype.newbyteorder("="))
        return pixels

    def _unpack(self, index: int, packed: bytes, rows: int, row_bytes: int) -> NDArray[np.uint8]:
        """(rows, row_bytes) of one strip or tile that is packed with LZW or PackBits."""
        # Samples of 16 bits, whatever they are, since OpenCV takes broken data for whole ones in samples of 8.
        if row_bytes % 2 == 0:
            return self._unpack_as(np.uint16, index, packed, rows, row_bytes // 2).view(np.uint8)
        if rows % 2 == 0:
            unpacked = self._unpack_as(np.uint16, index, packed, rows // 2, row_bytes)
            return unpacked.view(np.uint8).reshape(rows, row_bytes)
        if samples := rows * row_bytes // 2:
            # Unpacked a first time as proof that nothing is broken, up to the last few of the bytes.
            h = -(-samples // _WIDEST_PX)
            self._unpack_as(np.uint16, index, packed, h, samples // h)
        return self._unpack_as(np.uint8, index, packed, rows, row_bytes).view(np.uint8)

    def _unpack_as(
        self, sample: type[np.uint8 | np.uint16], index: int, packed: bytes, h: int, w: int
    ) -> NDArray[np.uint8 | np.uint16]:
        bits = np.dtype(sample).itemsize * 8
        fields = [(256, 4, w), (257, 4, h), (258, 3, bits), (259, 3, self._directory.compression), (262, 3, 1)]
        fields += [(273, 4, 0), (277, 3, 1), (278, 4, h), (279, 4, len(packed)), (339, 3, 1)]
        data_at = 8 + 2 + 12 * len(fields) + 4
        entries = (struct.pack("<HHII", tag, kind, 1, data_at if tag == 273 else n) for tag, kind, n in fields)
        wrapped = struct.pack("<2sHIH", b"II", 42, 8, len(fields)) + b"".join(entries) + bytes(4) + packed
        try:
            image = cv2.imdecode(np.frombuffer(wrapped, np.uint8), cv2.IMREAD_UNCHANGED)
        except cv2.error:
            image = None
        if image is None or image.shape != (h, w) or image.dtype != sample:
            raise self._damaged(index, f"whole {self._directory.compression.name} data", "damage or too little")
        return np.ascontiguousarray(image)

    def _damaged(self, index: int, expected: str, found: str) -> MicrographError:
        kind = "tile" if self._directory.is_tiled else "strip"
        count = len(self._directory.offsets)
        return MicrographError(
            self._path, "corrupt", f"expected {expected} in {kind} {index + 1} of {count}, found {found}"
        )


class _Stored:
    """The bytes of one strip or tile as they lie in the file."""

    def __init__(self, path: Path, file: FileIO, offset: int, count: int) -> None:
        self._path = path
        self._file = file
        self._offset = offset
        self.left = count

    def read(self, count: int) -> bytes:
        """At most so many bytes; none at the end."""
        count = min(count, self.left)
        data = os.pread(self._file.fileno(), count, self._offset)
        if len(data) < count:
            raise IncompleteMicrograph(
                self._path, "truncated", f"expected {count} bytes at byte {self._offset}, found {len(data)}"
            )
        self._offset += count
        self.left -= count
        return data

    def readinto(self, buffer: memoryview, /) -> int:
        data = self.read(len(buffer))
        buffer[: len(data)] = data
        return len(data)


class _Inflated:
    """The bytes of one strip or tile behind deflate."""

    def __init__(self, stored: _Stored) -> None:
        self._stored = stored
        self._inflate = zlib.decompressobj()

    def readinto(self, buffer: memoryview, /) -> int:
        while not self._inflate.eof:
            packed = self._inflate.unconsumed_tail or self._stored.read(_INPUT_BYTES)
            data = self._inflate.decompress(packed, len(buffer))
            if data or not packed:
                buffer[: len(data)] = data
                return len(data)
        return 0


def open_tiff(path: Path, file: FileIO) -> TiffImage:
    """Read the directory and check that every strip or tile lies inside the file.

    Raises:
        IncompleteMicrograph: one does not, as yet.
        MicrographError: the file is no TIFF file, a raw movie, or no grey image of a type that is read.
        OSError: it cannot be read.
    """
    return TiffImage(path, file, read_directory(path, file))
