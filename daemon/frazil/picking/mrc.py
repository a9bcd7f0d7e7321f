"""The MRC header: what a file claims to hold, and how many bytes that takes.

The layout is that of MRC2014 (Cheng et al., J. Struct. Biol. 192, 2015); its fields come from mrcfile.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from mrcfile.dtypes import HEADER_DTYPE

from frazil.errors import IncompleteMicrograph, MicrographError

__all__ = ["HEADER_BYTES", "MrcHeader", "parse_header"]

HEADER_BYTES = 1024
LARGEST_SIDE_PX = 65_536
"""No camera comes near; a header that claims more is no micrograph."""

_DTYPES = {0: "i1", 1: "i2", 2: "f4", 6: "u2", 12: "f2"}
_REFUSED_MODES = {3: "complex int16", 4: "complex float32 (a Fourier transform)", 101: "packed 4-bit"}


@dataclass(frozen=True, slots=True, kw_only=True)
class MrcHeader:
    """What the first 1024 bytes of an MRC file say."""

    shape: tuple[int, int]
    """(h, w) of one image."""
    sections: int
    """Images in the file; a micrograph has one."""
    dtype: np.dtype[np.generic]
    """Type of the stored pixels, byte order included."""
    data_offset: int
    """Bytes before the first pixel: header and extended header."""
    pixel_size_angstrom: float | None
    """None where the header says 0 or 1.0, which writers use for "unknown"."""

    @property
    def file_bytes(self) -> int:
        """Size that a complete file has."""
        h, w = self.shape
        return self.data_offset + self.sections * h * w * self.dtype.itemsize


def parse_header(path: Path, head: bytes) -> MrcHeader:
    """Parse the first 1024 bytes of a file.

    Args:
        path: the file, for messages.
        head: its first bytes, up to 1024.

    Raises:
        IncompleteMicrograph: there are fewer than 1024 bytes, or only zeros (space set aside, not yet written).
        MicrographError: the bytes are no MRC header, or hold a mode that is not an image.
    """
    if len(head) < HEADER_BYTES:
        found = "an empty file" if not head else f"{len(head)} bytes"
        raise IncompleteMicrograph(path, "truncated", f"expected an MRC header of {HEADER_BYTES} bytes, found {found}")
    if not any(head):
        raise IncompleteMicrograph(path, "truncated", "expected an MRC header, found only zeros")
    for order in ("<", ">"):
        raw = np.frombuffer(head[:HEADER_BYTES], HEADER_DTYPE.newbyteorder(order))[0]
        nx, ny, nz, mode, extended = (int(raw[name]) for name in ("nx", "ny", "nz", "mode", "nsymbt"))
        sides_plausible = 0 < nx <= LARGEST_SIDE_PX and 0 < ny <= LARGEST_SIDE_PX and nz > 0
        if sides_plausible and extended >= 0 and (mode in _DTYPES or mode in _REFUSED_MODES):
            break
    else:
        raise MicrographError(path, "not_mrc", "expected an MRC file, found no valid MRC header")
    if mode in _REFUSED_MODES:
        raise MicrographError(
            path,
            "unsupported",
            f"expected a real image (MRC mode 0, 1, 2, 6 or 12), found mode {mode}: {_REFUSED_MODES[mode]}",
        )
    pixel_size = float(raw["cella"]["x"]) / mx if (mx := int(raw["mx"])) > 0 else 0.0
    known = np.isfinite(pixel_size) and pixel_size > 0 and abs(pixel_size - 1.0) > 1e-6
    return MrcHeader(
        shape=(ny, nx),
        sections=nz,
        dtype=np.dtype(order + _DTYPES[mode]),
        data_offset=HEADER_BYTES + extended,
        pixel_size_angstrom=round(pixel_size, 6) if known else None,
    )
