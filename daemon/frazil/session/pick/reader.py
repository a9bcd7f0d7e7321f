"""Reading a micrograph within limits of memory and time."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path

from frazil.picking import ChooseRescaling, Micrograph, PixelMemory, read_micrograph

__all__ = ["MicrographReader"]


@dataclass(frozen=True, slots=True, kw_only=True)
class MicrographReader:
    """Reads micrographs for the pipeline and for the page.

    Args:
        largest_bytes: largest size of one micrograph in memory.
        timeout_seconds: time after which reading is given up.
    """

    largest_bytes: int
    timeout_seconds: float

    def __call__(
        self, path: Path, memory: PixelMemory | None = None, rescaling: ChooseRescaling = lambda *_: None
    ) -> Micrograph:
        """Read a micrograph; arguments and errors are those of `read_micrograph`."""
        deadline = time.monotonic() + self.timeout_seconds
        return read_micrograph(
            path,
            as_stored=True,
            memory=memory,
            largest_bytes=self.largest_bytes,
            cut_off=lambda: time.monotonic() > deadline,
            rescaling=rescaling,
        )
