"""Which model it is: on disk, while it serves, and in every document."""

from __future__ import annotations

import msgspec

__all__ = ["ModelIdentity"]


class ModelIdentity(msgspec.Struct, frozen=True, kw_only=True):
    """Which model made the picks."""

    name: str
    version: int
    """Number of its version folder; 0 for a lone file."""
    sha256: str
    """Of its ONNX file."""
    precision: str = "float32"
    """In which it computed: ``float32``, or ``int8`` by its twin."""

    @property
    def short(self) -> str:
        """Name and version; of a lone file, the name alone."""
        return f"{self.name}/{self.version}" if self.version else self.name

    def __str__(self) -> str:
        return f"{self.short} (sha256 {self.sha256[:12]})"
