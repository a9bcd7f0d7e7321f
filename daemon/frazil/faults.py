"""Faults: whose they are, which of them waiting can cure, and when to try again.

A fault belongs to a file, to a session or to the machine, and only the machine's is waited for. This is the one place
that tells them apart.

Of one micrograph, transient is what another moment may change: the file could not be read, memory ran out, or something
unforeseen happened. All else is the file's own and permanent.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import random
import sqlite3
from pathlib import Path

from frazil.errors import TRANSIENT_REASONS, MicrographError, ModelError, is_out_of_memory

__all__ = [
    "backoff_seconds",
    "failure_of",
    "is_of_one_record",
    "is_passing",
    "is_transient",
    "is_waited_for",
    "prove_writable",
    "reason_of",
]

log = logging.getLogger(__name__)

_PASSING = frozenset(
    {
        # a full disk
        *(errno.ENOSPC, errno.EDQUOT),
        # a disk, mount or server that does not answer
        *(errno.EIO, errno.ESTALE, errno.ENOTCONN, errno.ETIMEDOUT, errno.ENODEV, errno.ENXIO, errno.EREMOTEIO),
        *(errno.ENETDOWN, errno.ENETUNREACH, errno.ENETRESET, errno.EHOSTDOWN, errno.EHOSTUNREACH, errno.ESHUTDOWN),
        *(errno.ECONNREFUSED, errno.ECONNRESET, errno.ECONNABORTED, errno.ENOLCK),
        # a process or machine short of something
        *(errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOBUFS, errno.EAGAIN, errno.EINTR),
    }
)
"""Errors of the machine. All others (a name too long, a file where a folder must go ...) stay, however long one waits.
"""

_OF_ONE_RECORD = (sqlite3.SQLITE_TOOBIG, sqlite3.SQLITE_CONSTRAINT, sqlite3.SQLITE_MISMATCH)

_PROBE_NAME = ".frazil-probe.tmp"

_FIRST_SECONDS = 1.0
_LONGEST_SECONDS = 300.0


def is_passing(error: BaseException | None) -> bool:
    """Whether an error is the machine's, which may be over in a moment or an hour."""
    return isinstance(error, OSError) and error.errno in _PASSING


def is_of_one_record(error: Exception) -> bool:
    """Whether an error of the ledger is that of the record to be written: others can be."""
    code: int = getattr(error, "sqlite_errorcode", None) or 0
    return code & 0xFF in _OF_ONE_RECORD


def is_waited_for(error: OSError, folder: Path) -> bool:
    """Whether waiting may cure an error of writing below a folder: it is the machine's, or that of the whole folder.

    No permission, a read-only file system and a missing directory may be either: then it is tried whether the folder
    itself can be written.
    """
    if is_passing(error):
        return True
    try:
        prove_writable(folder)
    except OSError:
        return True
    return False


def prove_writable(folder: Path) -> None:
    """Make a folder if it is missing, and prove that files can be written there.

    Raises:
        OSError: it cannot be made or written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    probe = folder / _PROBE_NAME
    try:
        probe.write_bytes(b"frazil")
    finally:
        with contextlib.suppress(OSError):
            probe.unlink(missing_ok=True)


def reason_of(error: OSError) -> str:
    """What the system says of an error, in a few words."""
    return error.strerror or str(error) or type(error).__name__


def failure_of(path: Path, stage: str, error: Exception) -> MicrographError:
    """What an exception in one stage means for a micrograph; one that nobody foresaw is logged whole."""
    if isinstance(error, MicrographError):
        return error
    if isinstance(error, ModelError):
        return MicrographError(path, "model", str(error))
    if isinstance(error, OSError):
        return MicrographError(path, "unreadable", f"cannot be read: {error.strerror or error}")
    if is_out_of_memory(error):
        line = str(error).strip().splitlines()
        return MicrographError(path, "memory", f"{stage} ran out of memory{': ' + line[0] if line else ''}")
    log.error("%s of %s failed unexpectedly", stage, path, exc_info=error)
    return MicrographError(path, "internal", f"{stage} failed: {error}")


def is_transient(failure: MicrographError) -> bool:
    """Whether another try may succeed though the file stays as it is."""
    return failure.reason in TRANSIENT_REASONS


def backoff_seconds(attempt: int) -> float:
    """Time to wait after so many failed attempts: twice as long each time, and never in step with others."""
    longest = min(_LONGEST_SECONDS, _FIRST_SECONDS * 2.0 ** min(attempt - 1, 32))
    return longest * random.uniform(0.5, 1.0)  # noqa: S311 - jitter
