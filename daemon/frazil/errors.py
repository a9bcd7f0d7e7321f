"""Every error that frazil raises on purpose.

::

    FrazilError              anything a user can be told in one line
    ├── MicrographError      one file cannot be picked; the next one can
    │   └── IncompleteMicrograph   ... as yet: it is not all there
    ├── ModelError           a model cannot serve
    ├── SettingsError        a setting is unknown, of the wrong type, or impossible
    ├── RetuneError          a micrograph's picks cannot be made again from what was kept of it
    ├── OutputError          results cannot be written where they should go
    │   └── LedgerDamagedError     ... since the ledger is damaged, which no retry mends
    └── AddressError         a socket cannot be bound or reached

A message names the file, what was expected and what was found.
"""

from __future__ import annotations

from pathlib import Path

MICROGRAPH_REASONS = (
    "truncated",
    "not_mrc",
    "not_tiff",
    "corrupt",
    "unsupported",
    "stack",
    "too_large",
    "too_slow",
    "not_a_file",
    "not_finite",
    "constant",
    "blank",
    "pixel_size",
    "diameter",
    "unreadable",
    "memory",
    "name",
    "output",
    "model",
    "internal",
)
"""Every reason for which a micrograph cannot be picked."""

TRANSIENT_REASONS = frozenset({"unreadable", "memory", "internal"})
"""Those of them that another moment may change."""

MODEL_REASONS = (
    "missing",
    "card",
    "hash",
    "not_onnx",
    "external_data",
    "operators",
    "contract",
    "shapes",
    "reference",
    "not_finite",
    "unfit",
    "memory",
    "crash",
    "hang",
    "interrupted",
    "provider",
    "canary",
)
"""Every reason for which a model is refused."""


_OUT_OF_MEMORY = ("out of memory", "failed to allocate memory", "bad_alloc", "cudaerrormemoryallocation")
"""How ONNX Runtime and OpenCV say it; they have no class of their own for it."""


class FrazilError(Exception):
    """Base of all errors with a message for the user."""


def is_out_of_memory(error: Exception) -> bool:
    """Whether an exception, of whatever library, means that there was too little memory."""
    return isinstance(error, MemoryError) or any(words in str(error).lower() for words in _OUT_OF_MEMORY)


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
        reason: one word for counters, among `MICROGRAPH_REASONS`.
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
        reason: one word for counters, among `MODEL_REASONS` where the model was to serve.
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


class RetuneError(FrazilError):
    """A micrograph's picks cannot be made again from what was kept of it.

    Attributes:
        reason: one word for counters (``no_map``, ``margin``, ``no_result``, ``damaged``).
    """

    def __init__(self, message: str, reason: str) -> None:
        super().__init__(message)
        self.reason = reason


class OutputError(FrazilError):
    """Results cannot be written where they should go."""


class LedgerDamagedError(OutputError):
    """A ledger is damaged: neither waiting nor another start mends it."""


class AddressError(FrazilError):
    """A socket address is malformed, taken, or not allowed."""
