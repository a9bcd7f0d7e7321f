"""Completion: the proof that a file is whole, and what is the matter where there is none.

Proved: a file as long as its own header demands, without space that was set aside and never written. Not provable is
that nobody will still write over what is there: a writer may have filled the space with zeros first, or the file
system may not tell holes from zeros. Such a file betrays itself by blocks of nothing but zeros, which no detector
makes; it is given more time, not refused.
"""

from __future__ import annotations

import errno
import os
from pathlib import Path

from frazil.errors import IncompleteMicrograph
from frazil.files import open_regular
from frazil.picking import check_complete

__all__ = ["check_written", "prove_complete"]


def prove_complete(path: Path, *, shows_holes: bool = True) -> None:
    """Prove from its own header that a file is whole.

    Args:
        path: the file.
        shows_holes: whether the file system's holes mean "not yet written".

    Raises:
        IncompleteMicrograph: it is not, or not as yet.
        MicrographError: it is no micrograph.
        OSError: it cannot be read.
    """
    check_complete(path)
    if shows_holes:
        check_written(path)


def check_written(path: Path) -> None:
    """Make sure that no part of a file is space set aside that nobody has written to.

    Raises:
        IncompleteMicrograph: there is a hole.
        OSError: it cannot be read.
    """
    with open_regular(path) as file:
        size = os.fstat(file.fileno()).st_size
        try:
            hole = os.lseek(file.fileno(), 0, os.SEEK_HOLE)
        except OSError as error:
            if error.errno in (errno.EINVAL, errno.EOPNOTSUPP, errno.ENXIO):
                return  # the file system cannot say, or the file is empty
            raise
    if hole < size:
        raise IncompleteMicrograph(
            path, "truncated", f"expected {size} bytes of data, found a hole at byte {hole} that nobody has written to"
        )
