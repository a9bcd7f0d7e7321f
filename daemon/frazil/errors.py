"""Every error that frazil raises on purpose.

::

    FrazilError              anything a user can be told in one line
    ├── MicrographError      one file cannot be picked; the next one can
    │   └── IncompleteMicrograph   ... as yet: it is not all there
    ├── ModelError           a model cannot serve
    ├── SettingsError        a setting is unknown, of the wrong type, or impossible
    ├── OutputError          results cannot be written where they should go
    └── AddressError         a socket cannot be bound or reached

A message names the file, what was expected and what was found.
"""

from __future__ import annotations

from pathlib import Path


class FrazilError(Exception):
    """Base of all errors with a message for the user."""


def printable(text: str) -> str:
    """Text as one line without control characters: a file name, which may hold any, then moves no terminal's cursor."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def error_lines(program: str, error: FrazilError) -> list[str]:
    """An error as its user sees it: a line, or one for each fault of the settings."""
    if isinstance(error, SettingsError):
        return [error_line(program, FrazilError(fault)) for fault in error.faults]
    return [error_line(program, error)]


def error_line(program: str, error: FrazilError) -> str:
    """An error as the one line that a user sees, whatever characters a file name in it holds."""
    return printable(f"{program}: error: {' '.join(str(error).split())}")


class MicrographError(FrazilError):
    """A micrograph cannot be picked.

    Attributes:
        path: the file.
        reason: one word for counters (``truncated``, ``corrupt``, ``stack``, ``not_finite``, ...).
    """

    def __init__(self, path: Path, reason: str, message: str) -> None:
        super().__init__(f"{path}: {message}")
        self.path = path
        self.reason = reason


class IncompleteMicrograph(MicrographError):
    """A micrograph is not what its own header demands, as yet: still being written, or truncated."""


class ModelError(FrazilError):
    """A model is missing, lacks the contract, or does not reproduce its reference output.

    Attributes:
        reason: one word for counters (``missing``, ``hash``, ``contract``, ``reference``, ``crash``, ...).
    """

    def __init__(self, message: str, reason: str = "unfit") -> None:
        super().__init__(message)
        self.reason = reason


class SettingsError(FrazilError):
    """Settings are unknown, of the wrong type, or impossible.

    Attributes:
        faults: every one of them, a line for each.
    """

    def __init__(self, *faults: str) -> None:
        super().__init__("; ".join(faults))
        self.faults = faults


class OutputError(FrazilError):
    """Results cannot be written where they should go."""


class AddressError(FrazilError):
    """A socket address is malformed, taken, or not allowed."""
