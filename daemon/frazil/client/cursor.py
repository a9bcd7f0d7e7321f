"""The cursor: a small file that remembers how far a program has come in the stream."""

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
"""Less than a disk's sector, so that no write of it can be torn."""
_SYNC_SECONDS = 1.0


@dataclass(frozen=True, slots=True)
class Place:
    """A place in the stream of one ledger."""

    epoch: str
    seq: int
    generation: str = ""
    """Of the ledger, when it had been read up to here; empty where an earlier frazil, or daemon, did not say."""


class Cursor:
    """An open cursor file; one program at a time holds it.

    Each advance is written over the last one at once, in one piece, so a program that is killed finds it. It is
    flushed to disk at most once a second and at the end: after a loss of power the cursor may be a second old, and that
    second's documents come once more.

    Args:
        file: made if missing.

    Attributes:
        place: of the last document that was dealt with; None before the first.

    Raises:
        OutputError: the file cannot be written, holds something else, or another program holds it.
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
        """Remember that everything up to this place was dealt with.

        Raises:
            OutputError: it cannot be written.
        """
        if place == self.place:
            return
        record = msgspec.json.encode(place).ljust(_RECORD_BYTES - 1) + b"\n"
        now = time.monotonic()
        try:
            if os.pwrite(self._descriptor, record, 0) != len(record):  # the first one, on a disk that is full
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            if now - self._synced_at >= _SYNC_SECONDS:
                os.fsync(self._descriptor)
                self._synced_at = now
        except OSError as error:
            self._drop_torn_record()
            raise OutputError(f"{self._file}: the cursor cannot be written: {reason_of(error)}") from error
        self.place = place

    def close(self) -> None:
        """Flush the file and let others have it.

        Raises:
            OutputError: it cannot be flushed: after a loss of power it may be where it was before.
        """
        try:
            os.fsync(self._descriptor)
        except OSError as error:
            raise OutputError(f"{self._file}: the cursor cannot be written: {reason_of(error)}") from error
        finally:
            os.close(self._descriptor)

    def _drop_torn_record(self) -> None:
        """Leave no half of a first record, which the next start would take for something else."""
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
