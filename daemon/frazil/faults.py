"""Faults: whether they belong to a file, to a session or to the machine, and when to retry.

Only the machine's faults are waited for. This module alone tells the kinds apart.

A micrograph's fault is transient if a retry may succeed: the file could not be read, memory ran out, or something
unforeseen happened. Every other fault is the file's own and permanent.
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
        # a shortage in the process or the machine
        *(errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOBUFS, errno.EAGAIN, errno.EINTR),
    }
)
"""Errors of the machine. All others (a name too long, a file in the place of a folder ...) are permanent."""

_OF_ONE_RECORD = (sqlite3.SQLITE_TOOBIG, sqlite3.SQLITE_CONSTRAINT, sqlite3.SQLITE_MISMATCH)

_PROBE_NAME = ".frazil-probe.tmp"

_FIRST_SECONDS = 1.0
_LONGEST_SECONDS = 300.0


def is_passing(error: BaseException | None) -> bool:
    """Whether an error is the machine's, and may end by itself."""
    return isinstance(error, OSError) and error.errno in _PASSING


def is_of_one_record(error: Exception) -> bool:
    """Whether an error of the ledger is caused by the record, so that other records can be written."""
    code: int = getattr(error, "sqlite_errorcode", None) or 0
    return code & 0xFF in _OF_ONE_RECORD


def is_waited_for(error: OSError, folder: Path) -> bool:
    """Whether to wait for the end of an error of writing below a folder: it is the machine's or the whole folder's.

    A missing permission, a read-only file system or a missing directory may concern one file or the whole folder. A
    test file then shows whether the folder can be written.
    """
    if is_passing(error):
        return True
    try:
        prove_writable(folder)
    except OSError:
        return True
    return False


def prove_writable(folder: Path) -> None:
    """Make a folder if it is missing, and write a test file in it.

    Raises:
        OSError: the folder cannot be made or written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    probe = folder / _PROBE_NAME
    try:
        probe.write_bytes(b"frazil")
    finally:
        with contextlib.suppress(OSError):
            probe.unlink(missing_ok=True)


def reason_of(error: OSError) -> str:
    """The system's message for an error."""
    return error.strerror or str(error) or type(error).__name__


def failure_of(path: Path, stage: str, error: Exception) -> MicrographError:
    """The `MicrographError` for an exception in a stage. An unforeseen exception is logged with its traceback."""
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
    """Whether a retry may succeed although the file does not change."""
    return failure.reason in TRANSIENT_REASONS


def backoff_seconds(attempt: int) -> float:
    """Time to wait before the next attempt: twice as long each time, with jitter.

    Args:
        attempt: number of failed attempts so far.
    """
    longest = min(_LONGEST_SECONDS, _FIRST_SECONDS * 2.0 ** min(attempt - 1, 32))
    return longest * random.uniform(0.5, 1.0)  # noqa: S311 - jitter
