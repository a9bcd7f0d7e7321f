"""Completeness: whether a file is as long as its own header demands, and free of holes.

A hole is space that was allocated and never written. It cannot be proved that nobody will overwrite what is there: a
writer may have filled the space with zeros first, or the file system may not tell holes from zeros. Such a file has
blocks of zeros, which no detector makes. It is given more time, and not refused.
"""

from __future__ import annotations

import errno
import os
from pathlib import Path

from frazil.errors import IncompleteMicrograph
from frazil.files import open_regular
from frazil.picking import ImageClaims, check_complete

__all__ = ["check_written", "prove_complete"]


def prove_complete(path: Path, *, shows_holes: bool = True) -> ImageClaims:
    """Check that a file is complete, and return what its header claims.

    Args:
        path: the file.
        shows_holes: whether a hole on this file system means "not yet written".

    Raises:
        IncompleteMicrograph: the file is not complete, or not yet.
        MicrographError: the file is no micrograph.
        OSError: the file cannot be read.
    """
    claims = check_complete(path)
    if shows_holes:
        check_written(path)
    return claims


def check_written(path: Path) -> None:
    """Check that a file has no holes.

    Raises:
        IncompleteMicrograph: the file has a hole.
        OSError: the file cannot be read.
    """
    with open_regular(path) as file:
        size = os.fstat(file.fileno()).st_size
        try:
            hole = os.lseek(file.fileno(), 0, os.SEEK_HOLE)
        except OSError as error:
            if error.errno in (errno.EINVAL, errno.EOPNOTSUPP, errno.ENXIO):
                return  # the file system does not report holes, or the file is empty
            raise
    if hole < size:
        raise IncompleteMicrograph(
            path, "truncated", f"expected {size} bytes of data, found a hole at byte {hole} that was never written"
        )
