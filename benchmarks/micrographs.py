"""Micrographs to measure with: noise and dark discs, in every type that a camera's software writes."""

from __future__ import annotations

import gzip
import os
import shutil
from pathlib import Path

import cv2
import mrcfile
import numpy as np

__all__ = ["KINDS", "drop_from_cache", "write_micrograph"]

KINDS = ("float32", "int16", "float16", "float32.gz")
_NOISE_ROWS = 512
"""After so many the noise begins again: farther than what a compressor remembers."""


def write_micrograph(
    path: Path,
    shape: tuple[int, int],
    kind: str,
    *,
    pixel_size_angstrom: float,
    diameter_px: float,
    seed: int = 0,
) -> None:
    """Write (h, w) pixels of one of `KINDS` as an MRC file.

    The time that picking takes depends little on what is in a micrograph; but a picker that finds nothing has
    nothing to sort and to write, so there are discs, as dark as particles are.
    """
    h, w = shape
    rng = np.random.default_rng(seed)
    noise = rng.normal(100, 10, (_NOISE_ROWS, w)).astype(np.float32)
    pixels = np.tile(noise, (-(-h // _NOISE_ROWS), 1))[:h].copy()
    discs = np.zeros(shape, np.uint8)
    for y, x in rng.uniform((0, 0), (h, w), (round(h * w / (3 * diameter_px) ** 2), 2)):
        cv2.circle(discs, (round(x), round(y)), round(diameter_px / 2), 1, cv2.FILLED)
    pixels -= 8 * discs
    plain = path.with_suffix("") if path.suffix == ".gz" else path
    with mrcfile.new(plain, overwrite=True) as mrc:
        mrc.set_data(pixels.astype(kind.removesuffix(".gz")))
        mrc.voxel_size = pixel_size_angstrom
    if plain != path:
        with plain.open("rb") as raw, gzip.open(path, "wb", compresslevel=1) as packed:
            shutil.copyfileobj(raw, packed, 2**20)
        plain.unlink()


def drop_from_cache(path: Path) -> bool:
    """Make the system forget what it keeps of a file in memory; whether it did."""
    with path.open("rb") as file:
        descriptor = file.fileno()
        os.fsync(descriptor)
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        try:
            # Without waiting for a disk, nothing comes of a file that is not in memory.
            return not os.preadv(descriptor, [bytearray(1)], path.stat().st_size // 2, os.RWF_NOWAIT)
        except BlockingIOError:
            return True
        except OSError:  # the file system cannot say
            return False
