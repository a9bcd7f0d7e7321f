"""Damage: what SQLite says of a ledger that no waiting mends."""

from __future__ import annotations

import sqlite3
from pathlib import Path

from frazil.errors import LedgerDamagedError, OutputError

__all__ = ["LedgerStoppedError", "explain", "is_fatal"]

_DAMAGE = (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)


class LedgerStoppedError(sqlite3.DatabaseError):
    """The ledger takes nothing more: it is damaged, gone or replaced."""


def is_fatal(error: Exception) -> bool:
    """Whether an error of the database will stay, unlike that of a full or busy disk."""
    if isinstance(error, LedgerStoppedError):
        return True
    if not isinstance(error, sqlite3.Error):
        return False
    code: int | None = getattr(error, "sqlite_errorcode", None)
    if code is None:  # it is Python, not SQLite, that finds text that is no UTF-8
        return "Could not decode to UTF-8" in str(error)
    if code == sqlite3.SQLITE_ERROR:  # a table that is not there; of much else, too
        return str(error).startswith("no such")
    return code & 0xFF in _DAMAGE


def explain(file: Path, error: sqlite3.Error) -> OutputError:
    """What an error means for whoever opened or read a ledger."""
    if not is_fatal(error):
        return OutputError(f"{file}: expected a frazil ledger that can be read: {error}")
    return LedgerDamagedError(
        f"{file}: expected a frazil ledger, found it damaged ({error}): stop the daemon, look with "
        f"`frazil ledger check --ledger {file}`, and make a whole one from all that can be read with "
        f"`frazil ledger rebuild --ledger {file}`"
    )
