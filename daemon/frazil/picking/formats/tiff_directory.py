"""The directory of a TIFF file: what it claims, and where each strip or tile lies.

Classic TIFF (TIFF 6.0, Adobe 1992) and BigTIFF, in both byte orders. Only values are read that one grey image needs,
and none before the space that it claims is known to lie inside the file.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from enum import IntEnum
from io import FileIO
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from frazil.errors import IncompleteMicrograph, MicrographError
from frazil.picking.formats import LARGEST_SIDE_PX, PixelSize, file_size, judge_pixel_size

__all__ = ["Compression", "TiffDirectory", "read_directory"]

_MOST_ENTRIES = 4096
_MOST_CHUNKS = 1 << 20
_MOST_FRAMES = 100_000

_NEW_SUBFILE_TYPE, _WIDTH, _HEIGHT, _BITS, _COMPRESSION, _PHOTOMETRIC = 254, 256, 257, 258, 259, 262
_FILL_ORDER, _STRIP_OFFSETS, _SAMPLES, _ROWS_PER_STRIP, _STRIP_BYTES = 266, 273, 277, 278, 279
_X_RESOLUTION, _Y_RESOLUTION, _RESOLUTION_UNIT, _PREDICTOR = 282, 283, 296, 317
_TILE_WIDTH, _TILE_HEIGHT, _TILE_OFFSETS, _TILE_BYTES, _SAMPLE_FORMAT = 322, 323, 324, 325, 339
_TYPES = {1: "u1", 3: "u2", 4: "u4", 5: "u4", 13: "u4", 16: "u8", 18: "u8"}
"""Field types that hold unsigned numbers. A rational (5) is two of them."""
_RATIONAL = 5
_DTYPES = {
    (1, 8): "u1",
    (1, 16): "u2",
    (1, 32): "u4",
    (2, 8): "i1",
    (2, 16): "i2",
    (2, 32): "i4",
    (3, 16): "f2",
    (3, 32): "f4",
}
_EER = range(65000, 65003)
_UNIT_ANGSTROM = {2: 2.54e8, 3: 1e8}


class Compression(IntEnum):
    """What the strips or tiles are packed with, by their numbers in the file."""

    NONE = 1
    LZW = 5
    ADOBE_DEFLATE = 8
    DEFLATE = 32946
    PACKBITS = 32773


@dataclass(frozen=True, slots=True, kw_only=True)
class TiffDirectory:
    """One grey image: its strips or tiles, all of one size, row by row."""

    shape: tuple[int, int]
    """(h, w) of the image."""
    dtype: np.dtype[np.generic]
    """Type of the stored pixels, byte order included."""
    compression: Compression
    predictor: int
    """1 none, 2 differences of integers, 3 differences of the bytes of floats."""
    is_tiled: bool
    chunk_shape: tuple[int, int]
    """(h, w) of a strip or tile. A tile at the edge is stored whole, the last strip is not."""
    offsets: NDArray[np.int64]
    byte_counts: NDArray[np.int64]
    pixel_size: PixelSize
    """From the resolution, where that is one of an image and not of a printer."""


def read_directory(path: Path, file: FileIO) -> TiffDirectory:
    """Read the directory of the one image in a TIFF file.

    Raises:
        IncompleteMicrograph: what it points at lies beyond the end of the file, or is not yet set.
        MicrographError: the file is no TIFF file, a raw movie, or no grey image of a type that is read.
        OSError: it cannot be read.
    """
    reader = _Reader(path, file)
    first, following = reader.read_first()
    compression = first.number(_COMPRESSION, 1)
    if compression in _EER:
        raise MicrographError(
            path,
            "stack",
            "expected one image, found a raw movie in EER (it must be motion-corrected and averaged first)",
        )
    if following:
        frames = 1 + reader.count_frames(following)
        if frames > 1:
            raise MicrographError(
                path,
                "stack",
                f"expected one image, found a movie of {frames} frames "
                "(it must be motion-corrected and averaged first)",
            )
    return _interpret(path, first, compression, file_size(file))


def _interpret(path: Path, entries: _Entries, compression: int, size: int) -> TiffDirectory:
    h, w = entries.number(_HEIGHT), entries.number(_WIDTH)
    if not (0 < h <= LARGEST_SIDE_PX and 0 < w <= LARGEST_SIDE_PX):
        raise _corrupt(path, f"expected sides of 1 to {LARGEST_SIDE_PX} px, found {w} x {h}")
    samples, photometric = entries.number(_SAMPLES, 1), entries.number(_PHOTOMETRIC, 1)
    predictor = entries.number(_PREDICTOR, 1)
    if samples != 1 or photometric > 1:
        raise _unsupported(
            path, "a grey picture", f"colours ({samples} samples, photometric interpretation {photometric})"
        )
    if photometric != 1:
        raise _unsupported(path, "larger values to be brighter", "the opposite (photometric interpretation 0)")
    kind = entries.number(_SAMPLE_FORMAT, 1), entries.number(_BITS, 1)
    if kind not in _DTYPES:
        raise _unsupported(
            path, "integers of 8, 16 or 32 bits or floats of 16 or 32", f"{kind[1]} bits, sample format {kind[0]}"
        )
    if compression not in list(Compression):
        raise _unsupported(path, "no compression, LZW, deflate or PackBits", f"compression {compression}")
    if predictor not in (1, 2, 3) or (predictor == 3 and kind[0] != 3):
        raise _unsupported(path, "predictor 1, 2 or (for floats) 3", f"predictor {predictor}")
    if entries.number(_FILL_ORDER, 1) != 1:
        raise _unsupported(path, "fill order 1", "another")
    tiled = entries.has(_TILE_OFFSETS) or entries.has(_TILE_WIDTH)
    if tiled:
        chunk_h, chunk_w = entries.number(_TILE_HEIGHT), entries.number(_TILE_WIDTH)
    else:
        chunk_h, chunk_w = min(h, entries.number(_ROWS_PER_STRIP, h)), w
    if not (0 < chunk_h <= LARGEST_SIDE_PX and 0 < chunk_w <= LARGEST_SIDE_PX):
        raise _corrupt(path, f"expected strips or tiles of 1 to {LARGEST_SIDE_PX} px, found {chunk_w} x {chunk_h}")
    chunks = -(-h // chunk_h) * -(-w // chunk_w)
    if chunks > _MOST_CHUNKS:
        raise _unsupported(path, f"at most {_MOST_CHUNKS} strips or tiles", f"{chunks}")
    directory = TiffDirectory(
        shape=(h, w),
        dtype=np.dtype(entries.order + _DTYPES[kind]),
        compression=Compression(compression),
        predictor=predictor,
        is_tiled=tiled,
        chunk_shape=(chunk_h, chunk_w),
        offsets=entries.numbers(_TILE_OFFSETS if tiled else _STRIP_OFFSETS, chunks),
        byte_counts=entries.numbers(_TILE_BYTES if tiled else _STRIP_BYTES, chunks),
        pixel_size=_pixel_size(entries),
    )
    _check_extent(path, directory, size)
    return directory


def _check_extent(path: Path, directory: TiffDirectory, size: int) -> None:
    """Check that every strip or tile lies inside the file, and that none is read twice."""
    offsets, counts = directory.offsets, directory.byte_counts
    kind = "tile" if directory.is_tiled else "strip"
    if not (offsets.all() and counts.all()):
        raise IncompleteMicrograph(path, "truncated", f"expected the place of each {kind}, found one not yet set")
    # Offsets are at most 2^63 - 1 and counts are compared first, so no sum overflows.
    outside = (counts > size) | (offsets > size - np.minimum(counts, size))
    if outside.any():
        last = int(np.flatnonzero(outside)[-1])
        raise IncompleteMicrograph(
            path,
            "truncated",
            f"expected {kind} {last + 1} of {len(offsets)} to end at byte {int(offsets[last]) + int(counts[last])}, "
            f"found {size} bytes",
        )
    if int(counts.sum()) > size:
        raise _corrupt(path, f"expected {kind}s side by side, found some that overlap")


def _pixel_size(entries: _Entries) -> PixelSize:
    unit = _UNIT_ANGSTROM.get(entries.number(_RESOLUTION_UNIT, 2))
    if unit is None:
        return PixelSize()
    x, y = (unit / dots if (dots := entries.rational(tag)) else 0.0 for tag in (_X_RESOLUTION, _Y_RESOLUTION))
    return judge_pixel_size(x, y)


class _Entries:
    """The entries of one directory, each read when it is asked for."""

    def __init__(self, reader: _Reader, table: NDArray[np.void]) -> None:
        self.order = reader.order
        self._reader = reader
        self._table = {int(entry["tag"]): entry for entry in table[::-1]}

    def has(self, tag: int) -> bool:
        return tag in self._table

    def number(self, tag: int, default: int | None = None) -> int:
        """The one number of an entry."""
        if default is not None and tag not in self._table:
            return default
        return int(self.numbers(tag, 1)[0])

    def rational(self, tag: int) -> float | None:
        if tag not in self._table or int(self._table[tag]["type"]) != _RATIONAL:
            return None
        numerator, denominator = (int(n) for n in self.numbers(tag, 1))
        return numerator / denominator if denominator else None

    def numbers(self, tag: int, count: int) -> NDArray[np.int64]:
        """The numbers of an entry, which must be so many."""
        path, entry = self._reader.path, self._table.get(tag)
        if entry is None:
            raise _corrupt(path, f"expected tag {tag} in the directory, found none")
        kind, found = int(entry["type"]), int(entry["count"])
        if kind not in _TYPES or found != count:
            raise _corrupt(path, f"expected {count} unsigned numbers in tag {tag}, found {found} of type {kind}")
        dtype = np.dtype(self.order + _TYPES[kind])
        size = dtype.itemsize * count * (2 if kind == _RATIONAL else 1)
        inline = entry["value"].tobytes()
        if size > len(inline):
            offset = int(np.frombuffer(inline, f"{self.order}u{len(inline)}")[0])
            inline = self._reader.read(offset, size)
        numbers = np.frombuffer(inline[:size], dtype)
        if dtype.itemsize == 8 and (numbers > np.iinfo(np.int64).max).any():
            raise _corrupt(path, f"expected numbers below 2^63 in tag {tag}, found larger ones")
        return numbers.astype(np.int64)


class _Reader:
    """Reads directories, and nothing from beyond the end of the file."""

    def __init__(self, path: Path, file: FileIO) -> None:
        self.path = path
        self._file = file
        self._size = file_size(file)
        head = self.read(0, 8)
        if not any(head):
            raise IncompleteMicrograph(path, "truncated", "expected a TIFF header, found only zeros")
        orders = {b"II": "<", b"MM": ">"}
        self.order = orders.get(head[:2], "")
        version = int(np.frombuffer(head, self.order + "u2", 1, 2)[0]) if self.order else 0
        big = version == 43
        if not self.order or version not in (42, 43) or (big and self._unsigned(4, 2) != 8):
            raise MicrographError(path, "not_tiff", "expected a TIFF file, found no TIFF header")
        self._first_at = 8 if big else 4
        self._pointer_bytes = 8 if big else 4
        self._count_bytes = 8 if big else 2
        value = ("value", f"V{self._pointer_bytes}")
        self._entry = np.dtype(
            [
                ("tag", self.order + "u2"),
                ("type", self.order + "u2"),
                ("count", f"{self.order}u{self._pointer_bytes}"),
                value,
            ]
        )

    def read(self, offset: int, count: int) -> bytes:
        """Bytes that lie inside the file."""
        if offset + count <= self._size:
            data = os.pread(self._file.fileno(), count, offset)
            if len(data) == count:
                return data
        raise IncompleteMicrograph(
            self.path,
            "truncated",
            f"expected {count} bytes of TIFF directory at byte {offset}, found {self._size} bytes",
        )

    def read_first(self) -> tuple[_Entries, int]:
        """The entries of the first directory, and where the next one is (0: nowhere)."""
        at = self._unsigned(self._first_at, self._pointer_bytes)
        if not at:
            raise IncompleteMicrograph(self.path, "truncated", "expected a TIFF directory, found none as yet")
        count = self._entry_count(at)
        table = self.read(at + self._count_bytes, count * self._entry.itemsize)
        return _Entries(self, np.frombuffer(table, self._entry)), self._following(at, count)

    def count_frames(self, at: int) -> int:
        """How many of the directories from here on are images of their own, not small previews.

        Raises:
            MicrographError: they form a loop, or are too many.
        """
        seen: set[int] = set()
        frames = 0
        while at:
            if at in seen:
                raise _corrupt(self.path, "expected a last TIFF directory, found a loop")
            if len(seen) >= _MOST_FRAMES:
                raise _corrupt(self.path, f"expected at most {_MOST_FRAMES} TIFF directories, found more")
            seen.add(at)
            count = self._entry_count(at)
            # Entries are sorted by their tags, and none that is in use comes before this one.
            entry = np.frombuffer(self.read(at + self._count_bytes, self._entry.itemsize), self._entry)
            entries = _Entries(self, entry)
            is_preview = entries.has(_NEW_SUBFILE_TYPE) and entries.number(_NEW_SUBFILE_TYPE) & 1
            frames += not is_preview
            at = self._following(at, count)
        return frames

    def _entry_count(self, at: int) -> int:
        count = self._unsigned(at, self._count_bytes)
        if not 0 < count <= _MOST_ENTRIES:
            raise _corrupt(self.path, f"expected 1 to {_MOST_ENTRIES} entries in the TIFF directory, found {count}")
        return count

    def _following(self, at: int, count: int) -> int:
        return self._unsigned(at + self._count_bytes + count * self._entry.itemsize, self._pointer_bytes)

    def _unsigned(self, offset: int, size: int) -> int:
        return int(np.frombuffer(self.read(offset, size), f"{self.order}u{size}")[0])


def _corrupt(path: Path, message: str) -> MicrographError:
    return MicrographError(path, "corrupt", message)


def _unsupported(path: Path, expected: str, found: str) -> MicrographError:
    return MicrographError(path, "unsupported", f"expected {expected}, found {found}")
