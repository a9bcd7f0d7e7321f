"""The cursor: a small file that remembers a program's place in the stream of each session."""

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
"""Size of a record. It divides a disk's sector, so that overwriting one is never torn."""
_MOST_RECORDS = 100_000
_SYNC_SECONDS = 1.0


@dataclass(frozen=True, slots=True)
class Place:
    """A place in the stream of one ledger."""

    epoch: str
    seq: int
    generation: str = ""
    """Generation of the ledger when it had been read up to here; empty if an earlier frazil, or daemon, wrote it."""


class Cursor:
    """An open cursor file, which one program at a time holds: a record for each ledger that was read from.

    Each advance overwrites the ledger's record at once, in one piece, so that it is not lost if the program is killed.
    It is flushed to disk at most once a second and at the end. After a loss of power the cursor may be a second old;
    then the documents of that second come again.

    Attributes:
        places: place of the last document that was handled, by the epoch of its ledger; empty before the first.

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
            self.places = {place.epoch: place for place in self._read()}
        except BlockingIOError as error:
            os.close(self._descriptor)
            raise OutputError(f"{file}: expected a free cursor, found another program holds it") from error
        except BaseException:
            os.close(self._descriptor)
            raise
        self._records = {epoch: number for number, epoch in enumerate(self.places)}
        self._synced_at = 0.0

    def advance(self, place: Place) -> None:
        """Remember that every document of a ledger up to this place was handled.

        Raises:
            OutputError: the file cannot be written.
        """
        if place == self.places.get(place.epoch):
            return
        number = self._records.get(place.epoch, len(self._records))
        if number == _MOST_RECORDS:
            raise OutputError(
                f"{self._file}: expected at most {_MOST_RECORDS} ledgers, found one more: use a new cursor"
            )
        record = msgspec.json.encode(place).ljust(_RECORD_BYTES - 1) + b"\n"
        now = time.monotonic()
        try:
            if os.pwrite(self._descriptor, record, number * _RECORD_BYTES) != len(record):  # a new one, on a full disk
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            if now - self._synced_at >= _SYNC_SECONDS:
                os.fsync(self._descriptor)
                self._synced_at = now
        except OSError as error:
            self._drop_torn_record()
            raise OutputError(f"{self._file}: the cursor cannot be written: {reason_of(error)}") from error
        self.places[place.epoch] = place
        self._records[place.epoch] = number

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
        """Remove the half of a new record."""
        with contextlib.suppress(OSError):
            os.ftruncate(self._descriptor, len(self._records) * _RECORD_BYTES)

    def _read(self) -> list[Place]:
        content = os.pread(self._descriptor, (_MOST_RECORDS + 1) * _RECORD_BYTES, 0)
        places: list[Place] = []
        try:
            for start in range(0, len(content), _RECORD_BYTES):
                places.append(_decode(content[start : start + _RECORD_BYTES]))
        except ValueError as error:
            # A loss of power may leave a part of a new record, or blanks in its place. The first is not dropped: the
            # file may be something else.
            if not places or len(content) > (len(places) + 1) * _RECORD_BYTES:
                raise OutputError(f"{self._file}: expected a frazil cursor, found something else ({error})") from error
            os.ftruncate(self._descriptor, len(places) * _RECORD_BYTES)
        if len(places) > _MOST_RECORDS:
            raise OutputError(f"{self._file}: expected a cursor of at most {_MOST_RECORDS} ledgers, found more")
        return places


def _decode(record: bytes) -> Place:
    if len(record) != _RECORD_BYTES:
        raise ValueError(f"{len(record)} bytes")
    return msgspec.json.decode(record, type=Place)
