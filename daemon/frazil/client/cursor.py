"""The cursor: a small file that remembers a program's place in the stream."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import time
from dataclasses import dataclass
from pathlib import Path

import msgspec

from frazil.errors import OutputError
from frazil.faults import reason_of

__all__ = ["Cursor", "Place"]

_RECORD_BYTES = 128
"""Size of the record. It is smaller than a disk's sector, so that a write is never torn."""
_SYNC_SECONDS = 1.0


@dataclass(frozen=True, slots=True)
class Place:
    """A place in the stream of one ledger."""

    epoch: str
    seq: int
    generation: str = ""
    """Generation of the ledger when it had been read up to here; empty if an earlier frazil, or daemon, wrote it."""


class Cursor:
    """An open cursor file, which one program at a time holds.

    Each advance overwrites the last one at once, in one piece, so that it is not lost if the program is killed. It is
    flushed to disk at most once a second and at the end. After a loss of power the cursor may be a second old; then the
    documents of that second come again.

    Attributes:
        place: place of the last document that was handled; None before the first.

    Raises:
        OutputError: the file cannot be written, is no cursor, or another program holds it.
    """

    def __init__(self, file: Path) -> None:
        self._file = file
        try:
            self._descriptor = os.open(file, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        except OSError as error:
            raise OutputError(f"{file}: expected a cursor file that can be written: {reason_of(error)}") from error
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            self.place = self._read()
        except BlockingIOError as error:
            os.close(self._descriptor)
            raise OutputError(f"{file}: expected a free cursor, found another program holds it") from error
        except BaseException:
            os.close(self._descriptor)
            raise
        self._synced_at = 0.0

    def advance(self, place: Place) -> None:
        """Remember that every document up to this place was handled.

        Raises:
            OutputError: the file cannot be written.
        """
        if place == self.place:
            return
        record = msgspec.json.encode(place).ljust(_RECORD_BYTES - 1) + b"\n"
        now = time.monotonic()
        try:
            if os.pwrite(self._descriptor, record, 0) != len(record):  # the first record, on a full disk
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            if now - self._synced_at >= _SYNC_SECONDS:
                os.fsync(self._descriptor)
                self._synced_at = now
        except OSError as error:
            self._drop_torn_record()
            raise OutputError(f"{self._file}: the cursor cannot be written: {reason_of(error)}") from error
        self.place = place

    def close(self) -> None:
        """Flush the file and release it.

        Raises:
            OutputError: the file cannot be flushed: after a loss of power the cursor may be at an earlier place.
        """
        try:
            os.fsync(self._descriptor)
        except OSError as error:
            raise OutputError(f"{self._file}: the cursor cannot be written: {reason_of(error)}") from error
        finally:
            os.close(self._descriptor)

    def _drop_torn_record(self) -> None:
        """Remove the half of a first record, which the next start would not take for a cursor."""
        if self.place is None:
            with contextlib.suppress(OSError):
                os.ftruncate(self._descriptor, 0)

    def _read(self) -> Place | None:
        record = os.pread(self._descriptor, _RECORD_BYTES + 1, 0)
        if not record:
            return None
        try:
            if len(record) != _RECORD_BYTES:
                raise ValueError(f"{len(record)} bytes")
            return msgspec.json.decode(record, type=Place)
        except ValueError as error:
            raise OutputError(f"{self._file}: expected a frazil cursor, found something else ({error})") from error
