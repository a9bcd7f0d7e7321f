"""Failures of one micrograph: which are worth another try, and when.

Transient is what another moment may change: the file could not be read, memory ran out, or something unforeseen
happened. All else is the file's own and permanent. What the whole daemon suffers from is neither: a directory that is
away is the watcher's affair, a disk that is full that of `frazil.session.outbox.retry`.
"""

from __future__ import annotations

import logging
import random
from pathlib import Path

from frazil.errors import MicrographError, ModelError, is_out_of_memory

__all__ = ["TRANSIENT_REASONS", "backoff_seconds", "failure_of", "is_transient"]

log = logging.getLogger(__name__)

TRANSIENT_REASONS = frozenset({"unreadable", "memory", "internal"})
_FIRST_SECONDS = 1.0
_LONGEST_SECONDS = 300.0


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
