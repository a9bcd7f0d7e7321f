"""Every error that frazil raises on purpose.

::

    FrazilError              an error with a message of one line for the user
    ├── MicrographError      one file cannot be picked; others can
    │   └── IncompleteMicrograph   ... because it is not complete yet
    ├── ModelError           a model cannot serve
    ├── SettingsError        a setting is unknown, of the wrong type, or impossible
    ├── RetuneError          picks cannot be made again from the kept score map
    ├── OutputError          results cannot be written
    │   └── LedgerDamagedError     ... because the ledger is damaged, which no retry repairs
    └── AddressError         a socket cannot be bound or reached

A message names the file, what was expected and what was found.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

MICROGRAPH_REASONS = (
    # the file
    *("truncated", "not_mrc", "not_tiff", "corrupt", "unsupported", "stack", "too_large", "too_slow", "not_a_file"),
    # its picture
    *("not_finite", "constant", "blank", "pixel_size", "diameter"),
    # what is around it
    *("unreadable", "memory", "name", "output", "model", "internal"),
)
"""All reasons of a `MicrographError`."""

TRANSIENT_REASONS = frozenset({"unreadable", "memory", "internal"})
"""The reasons for which a retry may succeed."""

MODEL_REASONS = (
    # its files, before it is run
    *("missing", "card", "hash", "not_onnx", "external_data", "operators", "contract"),
    # how it runs
    *("shapes", "reference", "not_finite", "unfit", "memory", "crash", "hang", "interrupted", "provider", "canary"),
    # what it picks, beside what was corrected
    "worse",
)
"""All reasons to refuse a model."""

_OUT_OF_MEMORY = ("out of memory", "failed to allocate memory", "bad_alloc", "cudaerrormemoryallocation")
"""Words in the messages of ONNX Runtime and OpenCV, which have no class of their own for this error."""


class FrazilError(Exception):
    """Base class of all errors with a message for the user. It can be pickled, as a worker's error is."""

    def __reduce__(self) -> tuple[Any, ...]:
        return _restore, (type(self), self.args, self.__dict__)


def _restore(kind: type[FrazilError], args: tuple[Any, ...], attributes: dict[str, Any]) -> FrazilError:
    """Make an error of its message: those who take more than that would be called with it alone."""
    error = kind.__new__(kind, *args)
    error.__dict__.update(attributes)
    return error


def is_out_of_memory(error: Exception) -> bool:
    """Whether an exception of any library means that there was too little memory."""
    return isinstance(error, MemoryError) or any(words in str(error).lower() for words in _OUT_OF_MEMORY)


def printable(text: str) -> str:
    """Escape control characters, which a file name may contain, so that text cannot move a terminal's cursor."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def error_lines(program: str, error: FrazilError) -> list[str]:
    """The lines that a user sees of an error: one, or one for each fault of the settings."""
    if isinstance(error, SettingsError):
        return [error_line(program, FrazilError(fault)) for fault in error.faults]
    return [error_line(program, error)]


def error_line(program: str, error: FrazilError) -> str:
    """An error as one printable line."""
    return printable(f"{program}: error: {' '.join(str(error).split())}")


class MicrographError(FrazilError):
    """A micrograph cannot be picked.

    Attributes:
        path: path of the micrograph.
        reason: one of `MICROGRAPH_REASONS`, for counters.
    """

    def __init__(self, path: Path, reason: str, message: str) -> None:
        super().__init__(f"{path}: {message}")
        self.path = path
        self.reason = reason


class IncompleteMicrograph(MicrographError):
    """A micrograph is shorter than its own header demands: it is still being written, or truncated."""


class ModelError(FrazilError):
    """A model is missing, lacks the contract, or does not reproduce its reference output.

    Attributes:
        reason: one word for counters; one of `MODEL_REASONS` if the model is refused for serving.
    """

    def __init__(self, message: str, reason: str = "unfit") -> None:
        super().__init__(message)
        self.reason = reason


class SettingsError(FrazilError):
    """Settings are unknown, of the wrong type, or impossible.

    Attributes:
        faults: all faults, in one line each.
    """

    def __init__(self, *faults: str) -> None:
        super().__init__("; ".join(faults))
        self.faults = faults


class RetuneError(FrazilError):
    """Picks cannot be made again from the score map that was kept, or none was kept.

    Attributes:
        reason: one word for counters (``no_map``, ``margin``, ``no_result``, ``damaged``).
    """

    def __init__(self, message: str, reason: str) -> None:
        super().__init__(message)
        self.reason = reason


class OutputError(FrazilError):
    """Results cannot be written."""


class InUseError(OutputError):
    """Another process has the ledger or the output directory."""


class LedgerDamagedError(OutputError):
    """A ledger is damaged. Neither waiting nor another start repairs it."""


class AddressError(FrazilError):
    """A socket address is malformed, taken, or not allowed."""
