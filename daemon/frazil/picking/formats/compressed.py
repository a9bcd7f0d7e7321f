"""Compressed MRC: .mrc.gz and .mrc.bz2, as a stream that never gives more than the header demands.

The first kibibyte says how long the stream must be, and reading proves it to the last checksum. A look at a file that
may still grow decompresses no more than that kibibyte: the end of the file shows whether it can be whole.
"""

from __future__ import annotations

import bz2
import os
import zlib
from collections.abc import Iterator
from io import FileIO
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from frazil.errors import IncompleteMicrograph, MicrographError
from frazil.picking.formats import BLOCK_BYTES, file_size, read_into
from frazil.picking.formats.mrc import HEADER_BYTES, MrcHeader, check_single, fill_rows, parse_header

__all__ = ["CompressedMrcImage", "open_compressed_mrc"]

_INPUT_BYTES = 1 << 18
_MOST_MEMBERS = 1 << 16
"""Blocked gzip has one for every 64 KiB; a file of endless empty ones would take for ever."""
_BZIP2_STREAM_END = 0x177245385090
_BZIP2_FOOTER_BYTES = 11
"""The end mark has 48 bits, the checksum 32, and 0 to 7 more fill the last byte."""


class _GzipMember:
    """One member of a gzip file, in the shape of `bz2.BZ2Decompressor`."""

    def __init__(self) -> None:
        self._inflate = zlib.decompressobj(wbits=16 + zlib.MAX_WBITS)

    @property
    def eof(self) -> bool:
        return self._inflate.eof

    @property
    def unused_data(self) -> bytes:
        return self._inflate.unused_data

    @property
    def needs_input(self) -> bool:
        return not self._inflate.unconsumed_tail

    def decompress(self, data: bytes, max_length: int) -> bytes:
        return self._inflate.decompress(self._inflate.unconsumed_tail + data, max_length)


_FORMATS: dict[str, tuple[str, bytes, type[_GzipMember | bz2.BZ2Decompressor]]] = {
    ".gz": ("gzip", b"\x1f\x8b", _GzipMember),
    ".bz2": ("bzip2", b"BZh", bz2.BZ2Decompressor),
}


class _Decompressed:
    """The bytes that a compressed file holds; its members follow one another."""

    def __init__(self, path: Path, file: FileIO) -> None:
        self._path = path
        self._file = file
        self.format, self._magic, self._new_member = _FORMATS[path.suffix.lower()]
        self._given = 0
        self._members = 1
        self._pending = file.read(_INPUT_BYTES)
        if not any(self._pending):
            found = "only zeros" if self._pending else "an empty file"
            raise IncompleteMicrograph(path, "truncated", f"expected a {self.format} file, found {found}")
        if not self._begins_member(self._pending):
            raise MicrographError(path, "corrupt", f"expected a {self.format} file, found none")
        self._member = self._new_member()

    def readinto(self, buffer: memoryview, /) -> int:
        """Decompress into the front of a buffer; 0 at the end, which `finish` tells from a break.

        Raises:
            MicrographError: the compressed bytes are damaged.
            OSError: the file cannot be read.
        """
        while True:
            if self._member.eof:
                rest = self._member.unused_data or self._input()
                # What follows the last member is padding.
                if not rest or not self._begins_member(rest):
                    return 0
                self._member, self._pending = self._new_member(), rest
                self._members += 1
                if self._members > _MOST_MEMBERS:
                    raise MicrographError(
                        self._path, "corrupt", f"expected at most {_MOST_MEMBERS} members of {self.format}, found more"
                    )
            data = self._input() if self._member.needs_input else b""
            try:
                found = self._member.decompress(data, len(buffer))
            except (zlib.error, OSError, ValueError) as error:
                raise MicrographError(
                    self._path,
                    "corrupt",
                    f"expected whole {self.format} data, found damage after {self._given} bytes: {error}",
                ) from error
            if found:
                buffer[: len(found)] = found
                self._given += len(found)
                return len(found)
            if not data and not self._member.eof:
                return 0

    def finish(self) -> None:
        """Prove that the stream ends here, its checksum included.

        Raises:
            IncompleteMicrograph: the file breaks off.
            MicrographError: there is more to come, or a checksum is wrong.
            OSError: the file cannot be read.
        """
        if self.readinto(memoryview(bytearray(1))):
            raise MicrographError(
                self._path,
                "corrupt",
                f"expected {self._given - 1} bytes from {self.format}, as the header demands, found more",
            )
        if not self._member.eof:
            raise IncompleteMicrograph(
                self._path, "truncated", f"expected the end of the {self.format} stream, found the end of the file"
            )

    def _input(self) -> bytes:
        data, self._pending = self._pending or self._file.read(_INPUT_BYTES), b""
        return data

    def _begins_member(self, data: bytes) -> bool:
        return data.startswith(self._magic[: len(data)])


class CompressedMrcImage:
    """The one image of a compressed MRC file."""

    working_bytes = 3 * BLOCK_BYTES
    """A block of pixels, and the decompressor's output twice while it grows."""
    rows_in_order = True

    def __init__(self, path: Path, file: FileIO, stream: _Decompressed, header: MrcHeader) -> None:
        self._path = path
        self._file = file
        self._stream = stream
        self._header = header
        self.shape = header.shape
        self.dtype = header.dtype
        self.pixel_size = header.pixel_size

    def prove_complete(self) -> None:
        """Prove from the end of the file that it can be whole; `fill` proves the rest.

        Raises:
            IncompleteMicrograph: it is not, as yet.
            MicrographError: it holds other than the header demands.
            OSError: it cannot be read.
        """
        demanded = self._header.file_bytes
        if self._stream.format == "bzip2":
            end = int.from_bytes(self._tail(_BZIP2_FOOTER_BYTES), "big")
            if not any(end >> 32 + fill & 2**48 - 1 == _BZIP2_STREAM_END for fill in range(8)):
                raise IncompleteMicrograph(self._path, "truncated", "expected the end mark of bzip2, found none")
            return
        said = int.from_bytes(self._tail(4), "little")
        if said == demanded % 2**32:
            return
        if said > demanded:
            raise IncompleteMicrograph(
                self._path, "truncated", f"expected {demanded} bytes by the end mark of gzip, found {said}"
            )
        # The last of several members tells of its own part only. Few truncated files come here by chance.
        for _ in self._skip(demanded - HEADER_BYTES):
            pass
        self._stream.finish()

    def fill(self, pixels: NDArray[np.generic]) -> Iterator[NDArray[np.generic]]:
        """See `frazil.picking.formats.StoredImage`."""
        for _ in self._skip(self._header.data_offset - HEADER_BYTES):
            yield pixels[:0]
        yield from fill_rows(self._path, self._stream, self._header.dtype, pixels)
        self._stream.finish()

    def _skip(self, count: int) -> Iterator[int]:
        scratch = memoryview(bytearray(min(count, BLOCK_BYTES)))
        while count:
            wanted = min(count, len(scratch))
            if read_into(self._stream, scratch[:wanted]) < wanted:
                raise IncompleteMicrograph(
                    self._path,
                    "truncated",
                    f"expected {count} more bytes, found the end of the {self._stream.format} data",
                )
            count -= wanted
            yield 0

    def _tail(self, count: int) -> bytes:
        return os.pread(self._file.fileno(), count, max(0, file_size(self._file) - count))


def open_compressed_mrc(path: Path, file: FileIO) -> CompressedMrcImage:
    """Decompress and check the header.

    Raises:
        IncompleteMicrograph: the file breaks off before the header does.
        MicrographError: it is not compressed, or damaged, or holds no single real MRC image.
        OSError: it cannot be read.
    """
    stream = _Decompressed(path, file)
    head = bytearray(HEADER_BYTES)
    found = read_into(stream, memoryview(head))
    header = parse_header(path, bytes(head[:found]))
    check_single(path, header)
    return CompressedMrcImage(path, file, stream, header)
