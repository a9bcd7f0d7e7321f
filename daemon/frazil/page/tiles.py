"""Tiles of a micrograph at every scale, cut from its file when a browser zooms, and the values of single pixels."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from frazil.documents import MicrographDocument
from frazil.page.pictures import PictureError, encode_picture, read_shown
from frazil.page.session import Result
from frazil.picking import Micrograph, contrast_range

__all__ = ["COARSEST_LEVEL", "TILE_PX", "Tiles"]

TILE_PX = 512
"""Side of a tile, in its own pixels."""
COARSEST_LEVEL = 6
"""At level 0 a pixel of a tile is one of the file; at each next level it is the mean of four of the one before."""
_JPEG_QUALITY = 95
_KEPT_BYTES = 192 << 20
"""Micrographs in memory: the one that was asked for last is kept however large it is, up to the reader's own limit."""
_SIGMA_PER_RESOLUTION = 0.1874
"""A Gaussian of so many times d, in Å, lets half of the amplitude of what repeats every d pass."""
_LEAST_SIGMA_PX = 0.3
_MOST_SIGMA_PX = 64.0
_REACH_SIGMAS = 3


class _Kept:
    """A micrograph in memory, with the ranges of its values at the scales that were looked at."""

    def __init__(self, pixels: NDArray[np.generic], pixel_size_angstrom: float) -> None:
        self.pixels = pixels
        self._pixel_size = pixel_size_angstrom
        self._ranges: dict[tuple[int, int], tuple[float, float]] = {}

    def tile(self, level: int, row: int, column: int, lowpass_angstrom: int) -> NDArray[np.uint8]:
        """(h, w) picture of a tile, stretched as every tile of its level and low-pass is."""
        low, high = self._range(level, lowpass_angstrom)
        side = TILE_PX << level
        part = self._part(level, row * side, column * side, side, lowpass_angstrom)
        return np.asarray(np.clip((part - low) * (255 / (high - low)) + 0.5, 0, 255), np.uint8)

    def _part(self, level: int, top: int, left: int, side: int, lowpass_angstrom: int) -> NDArray[np.float32]:
        """(h, w) part of the micrograph at a level: averaged, and smoothed with what lies around it."""
        step = 1 << level
        sigma = self._sigma_px(lowpass_angstrom) / step
        reach = (int(_REACH_SIGMAS * sigma) + 1) if sigma >= _LEAST_SIGMA_PX else 0
        around = reach * step
        h, w = self.pixels.shape
        first_y, first_x = max(0, top - around), max(0, left - around)
        region = self.pixels[first_y : min(h, top + side + around), first_x : min(w, left + side + around)]
        part = np.asarray(region, np.float32)
        if level:
            size = -(-part.shape[1] // step), -(-part.shape[0] // step)
            # Whole blocks: the last ones, of fewer pixels, are filled up with what is next to them.
            padding = size[1] * step - part.shape[0], size[0] * step - part.shape[1]
            part = cv2.copyMakeBorder(part, 0, padding[0], 0, padding[1], cv2.BORDER_REPLICATE)  # type: ignore[assignment]
            part = cv2.resize(part, size, interpolation=cv2.INTER_AREA)  # type: ignore[assignment]
        if reach:
            part = cv2.GaussianBlur(part, (0, 0), sigma, borderType=cv2.BORDER_REFLECT)  # type: ignore[assignment]
        y, x = (top - first_y) // step, (left - first_x) // step
        return part[y : y + -(-min(side, h - top) // step), x : x + -(-min(side, w - left) // step)]

    def _range(self, level: int, lowpass_angstrom: int) -> tuple[float, float]:
        known = self._ranges.get((level, lowpass_angstrom))
        if known is None:
            # What is smoothed anyway is averaged before, which changes little and is far less work.
            finest = int(np.log2(max(1.0, self._sigma_px(lowpass_angstrom))))
            coarse = max(level, min(finest, COARSEST_LEVEL))
            if coarse:
                whole = self._part(coarse, 0, 0, max(self.pixels.shape), lowpass_angstrom)
            else:
                whole = self._part(0, 0, 0, max(self.pixels.shape), 0)[::4, ::4]
            known = self._ranges[level, lowpass_angstrom] = contrast_range(whole)
        return known

    def _sigma_px(self, lowpass_angstrom: int) -> float:
        return min(_MOST_SIGMA_PX, _SIGMA_PER_RESOLUTION * lowpass_angstrom / self._pixel_size)


class Tiles:
    """Cuts tiles, and keeps the micrographs that were looked at last, up to a number of bytes. Used from one thread.

    Args:
        read: reads a micrograph, within limits of memory and time.
    """

    def __init__(self, read: Callable[[Path], Micrograph]) -> None:
        self._read = read
        self._kept: OrderedDict[int, _Kept] = OrderedDict()

    def tile(self, result: Result, level: int, row: int, column: int, lowpass_angstrom: int) -> bytes:
        """A tile as JPEG.

        Args:
            result: of the micrograph.
            level: scale, 0 is the file's.
            row: from the top, in tiles.
            column: from the left, in tiles.
            lowpass_angstrom: resolution down to which it is smoothed; 0 for none.

        Raises:
            PictureError: the file is gone or is another by now, or there is no such tile.
        """
        self._check_inside(result.document, row * (TILE_PX << level), column * (TILE_PX << level), "tile")
        tile = self._micrograph(result).tile(level, row, column, lowpass_angstrom)
        return encode_picture(".jpg", tile, [cv2.IMWRITE_JPEG_QUALITY, _JPEG_QUALITY])

    def value(self, result: Result, y: int, x: int) -> float:
        """The value of one pixel, as the file has it.

        Raises:
            PictureError: the file is gone or is another by now, or there is no such pixel.
        """
        self._check_inside(result.document, y, x, "pixel")
        return float(self._micrograph(result).pixels[y, x])

    def _check_inside(self, document: MicrographDocument, y: int, x: int, what: str) -> None:
        h, w = document.shape
        if y >= h or x >= w:
            raise PictureError(f"{document.micrograph}: expected a {what} in its {w} x {h} pixels, found {x}, {y}")

    def _micrograph(self, result: Result) -> _Kept:
        kept = self._kept.get(result.seq)
        if kept is None:
            pixels = read_shown(self._read, result.document)
            kept = self._kept[result.seq] = _Kept(pixels, result.document.pixel_size_angstrom)
        self._kept.move_to_end(result.seq)
        while len(self._kept) > 1 and sum(one.pixels.nbytes for one in self._kept.values()) > _KEPT_BYTES:
            self._kept.popitem(last=False)
        return kept
