"""The witness: a small file among the outputs that knows how far the ledger had come.

A ledger that is restored from a copy, or opened without its write-ahead log, looks like one that was always so. The
witness lies outside it. With its help no sequence number is given out twice, and a lock on it keeps a second daemon,
whatever its ledger, off the same output directory.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import logging
import os
import socket
import time
from pathlib import Path
from typing import IO

import msgspec

from frazil.errors import InUseError, OutputError, printable
from frazil.paths import is_same_file

__all__ = ["WITNESS_NAME", "Generation", "Witness", "outputs_of", "read_witness", "watched_of"]

log = logging.getLogger(__name__)

WITNESS_NAME = ".frazil-witness"
_RECORD_BYTES = 512
"""A sector of a disk: no write of it can be torn."""
_GENERATIONS = 1000
"""Of the last ones: whoever knows an older one only starts over."""
_OTHER_HOST_SECONDS = 3.0
"""For so long a daemon on another host is watched for a sign of life; a running one gives one each second."""


class Generation(msgspec.Struct, frozen=True, array_like=True):
    """One run of a daemon with a ledger: within it, the history only grew."""

    id: str
    first: int
    """The first sequence number that it could give out."""


class _Place(msgspec.Struct, frozen=True):
    epoch: str
    seq: int


class _Owner(msgspec.Struct, frozen=True, kw_only=True):
    host: str
    pid: int
    watch: str
    ledger: str
    generations: tuple[Generation, ...] = ()
    ended: bool = False


class Witness:
    """The witness of one output directory; one daemon at a time holds it.

    Args:
        out: the output directory.
        watch: the watched directory, for whoever is refused.
        ledger: the ledger, likewise.
        ledger_epoch: its identity; empty if it is not there yet. Its results are its own, wherever it was moved.

    Attributes:
        epoch: of the ledger whose numbers were given out last; empty without any.
        seq: the highest number that was given out.
        generations: of that ledger.

    Raises:
        OutputError: another daemon writes to this directory, it has the results of another watched directory, or the
            file cannot be made.
    """

    def __init__(self, out: Path, *, watch: Path, ledger: Path, ledger_epoch: str = "") -> None:
        self.file = out / WITNESS_NAME
        self._out = out
        self._owner = _Owner(host=socket.gethostname(), pid=os.getpid(), watch=str(watch), ledger=str(ledger))
        self._is_new = False
        self._said = False
        try:
            self._lock = self._claim()
        except OSError as error:
            raise OutputError(f"{self.file}: expected a file that can be written: {error.strerror}") from error
        place, owner = _read(self._lock)
        if (
            place is not None
            and owner is not None
            and place.seq
            and place.epoch != ledger_epoch
            and self._is_of_others(owner)
        ):
            os.close(self._lock)
            raise OutputError(
                printable(
                    f"{out}: expected an output directory of {watch}, found that of {owner.watch}, with {place.seq} "
                    f"documents in the ledger {owner.ledger}: give another --out"
                )
            )
        self._watched_before = owner.watch if owner else str(watch)
        self.epoch, self.seq = (place.epoch, place.seq) if place else ("", 0)
        self.generations = owner.generations if owner else ()
        try:
            self._write_all()
        except OSError as error:
            os.close(self._lock)
            raise OutputError(f"{self.file}: cannot be written: {error.strerror}") from error

    def disown(self) -> None:
        """Name the watched directory of before again: the results stay those of that one."""
        self._owner = msgspec.structs.replace(self._owner, watch=self._watched_before)

    def begin(self, epoch: str, seq: int, generations: tuple[Generation, ...]) -> None:
        """Take down whose numbers are given out from now on.

        Raises:
            OutputError: it cannot be written.
        """
        self.epoch, self.seq, self.generations = epoch, seq, generations[-_GENERATIONS:]
        try:
            self._write_all()
        except OSError as error:
            raise OutputError(f"{self.file}: cannot be written: {error.strerror}") from error

    def note(self, seq: int) -> None:
        """Take down that a number is given out, before it is; where that cannot be written, the log says so once."""
        self.seq = seq
        try:
            with self._open() as file:
                os.pwrite(file.fileno(), self._record(), 0)
        except OSError as error:
            if not self._said:
                log.warning("%s: cannot be written (%s): a ledger that is restored is not recognised", self.file, error)
            self._said = True
        else:
            self._is_new, self._said = True, False

    def beat(self) -> None:
        """Give a sign of life and flush what was noted; once a second or so.

        Raises:
            OutputError: the file was taken away, and another daemon has the directory.
        """
        with contextlib.suppress(OSError):
            if self._is_new:
                with self._open() as file:
                    os.fdatasync(file.fileno())
                self._is_new = False
            os.utime(self._lock)  # on a network's file system this goes to the server at once
        try:
            if os.path.samestat(self.file.stat(), os.fstat(self._lock)):
                return
        except FileNotFoundError:
            pass
        except OSError:
            return
        with contextlib.suppress(OSError):  # the directory is gone, too, or away: it is looked for again
            lock = self._claim()
            before, self._lock = self._lock, lock
            os.close(before)
            self._write_all()

    def close(self) -> None:
        """Flush it and let others have the directory."""
        self._owner = msgspec.structs.replace(self._owner, ended=True)
        with contextlib.suppress(OSError):
            self._write_all()
        os.close(self._lock)
        self._lock = -1  # a number that no other file can have

    def _claim(self, *, writable: bool = False) -> int:
        # Open for reading alone, so that the disk can still be mounted read-only.
        descriptor = os.open(self.file, (os.O_RDWR if writable else os.O_RDONLY) | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno == errno.EBADF and not writable:  # NFS
                os.close(descriptor)
                return self._claim(writable=True)
            _, owner = _read(descriptor)
            if error.errno in (errno.EWOULDBLOCK, errno.EACCES):
                os.close(descriptor)
                raise self._refusal(owner) from error
            log.warning("%s: cannot be locked (%s): take care that no second daemon writes here", self.file, error)
        _, owner = _read(descriptor)
        if owner is not None and not owner.ended and owner.host != self._owner.host and self._shows_life(descriptor):
            os.close(descriptor)
            raise self._refusal(owner)
        return descriptor

    def _shows_life(self, descriptor: int) -> bool:
        """Whether a daemon on another host, to which a lock may not reach, goes on touching the file."""
        before = os.fstat(descriptor).st_mtime_ns
        deadline = time.monotonic() + _OTHER_HOST_SECONDS
        while time.monotonic() < deadline:
            time.sleep(0.1)
            # A new descriptor asks the server again.
            with contextlib.suppress(OSError), self.file.open("rb") as again:
                if os.fstat(again.fileno()).st_mtime_ns != before:
                    return True
        return False

    def _is_of_others(self, owner: _Owner) -> bool:
        """Whether the results here are of another watched directory."""
        watch = self._owner.watch
        return owner.watch != watch and not is_same_file(Path(owner.watch), Path(watch))

    def _refusal(self, owner: _Owner | None) -> InUseError:
        who = "another frazil daemon"
        if owner is not None:
            who += f" (process {owner.pid} on {owner.host}, watching {owner.watch}, with the ledger {owner.ledger})"
        return InUseError(
            printable(
                f"{self._out}: expected an output directory that is free, found it in use by {who}: "
                "give each an --out of its own"
            )
        )

    def _record(self) -> bytes:
        return msgspec.json.encode(_Place(self.epoch, self.seq)).ljust(_RECORD_BYTES - 1) + b"\n"

    def _open(self) -> IO[bytes]:
        """The file that is locked, for a moment, to write to it."""
        file = self.file.open("r+b", buffering=0)
        if not os.path.samestat(os.fstat(file.fileno()), os.fstat(self._lock)):
            file.close()
            raise FileNotFoundError(errno.ENOENT, "another file is in its place", str(self.file))
        return file

    def _write_all(self) -> None:
        owner = msgspec.structs.replace(self._owner, generations=self.generations)
        content = self._record() + msgspec.json.encode(owner) + b"\n"
        with self._open() as file:
            file.write(content)
            file.truncate()
            os.fsync(file.fileno())


def watched_of(out: Path) -> str:
    """The watched directory whose results lie in an output directory; empty if no daemon has written there."""
    try:
        descriptor = os.open(out / WITNESS_NAME, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return ""
    try:
        _, owner = _read(descriptor)
    finally:
        os.close(descriptor)
    return owner.watch if owner else ""


def read_witness(out: Path) -> tuple[str, int]:
    """Epoch and highest number that the witness of an output directory knows; empty and 0 where there is none."""
    try:
        descriptor = os.open(out / WITNESS_NAME, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return "", 0
    try:
        place, _ = _read(descriptor)
    finally:
        os.close(descriptor)
    return (place.epoch, place.seq) if place else ("", 0)


class _Whereabouts(msgspec.Struct):
    out: str


def outputs_of(ledger: Path, info: str) -> Path:
    """The output directory of a ledger, from its daemon's info; without that, the folder of the ledger."""
    with contextlib.suppress(ValueError):
        return Path(msgspec.json.decode(info, type=_Whereabouts).out)
    return ledger.parent


def _read(descriptor: int) -> tuple[_Place | None, _Owner | None]:
    """What the file says; None for what cannot be read, which protects less and stops nobody."""
    try:
        content = os.pread(descriptor, 1 << 20, 0)
    except OSError:
        return None, None
    place, owner = None, None
    with contextlib.suppress(ValueError):
        place = msgspec.json.decode(content[:_RECORD_BYTES], type=_Place)
    with contextlib.suppress(ValueError):
        owner = msgspec.json.decode(content[_RECORD_BYTES:], type=_Owner)
    return place, owner
