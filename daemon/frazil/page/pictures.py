"""Pictures of micrographs; the large ones are made when a browser asks: with nobody looking, they cost nothing."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from frazil.documents import MicrographDocument
from frazil.errors import FrazilError, MicrographError
from frazil.page.session import Result
from frazil.picking import Micrograph, ScoreMap, grey_picture
from frazil.session.outbox.thumbnails import THUMBNAIL_PX, Thumbnails

__all__ = ["Picture", "PictureError", "Pictures", "draw_score_map", "encode_picture", "read_shown"]

_LONGEST_SIDE_PX = 1024
_JPEG_QUALITY = 82
_CACHE_BYTES = 48 << 20


class PictureError(FrazilError):
    """A micrograph cannot be shown; its picks still can."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Picture:
    """A micrograph as JPEG, its contrast stretched."""

    large: bytes
    """At most 1024 pixels a side."""
    small: bytes
    """At most so many as a thumbnail."""


class Pictures:
    """Makes pictures and keeps the last ones, up to a number of bytes. Used from one thread.

    Args:
        read: reads a micrograph, within limits of memory and time.
        thumbnails: keeps the small ones.
    """

    def __init__(self, read: Callable[[Path], Micrograph], thumbnails: Thumbnails) -> None:
        self._thumbnails = thumbnails
        self._read = read
        self._kept: OrderedDict[int, Picture] = OrderedDict()
        self._bytes = 0

    def of(self, result: Result) -> Picture:
        """The picture of a result's micrograph, from its file.

        Raises:
            PictureError: the file is gone or is another by now, with the reason in a line.
        """
        kept = self._kept.get(result.seq)
        if kept is not None:
            self._kept.move_to_end(result.seq)
            return kept
        picture = self._make(result)
        if self._thumbnails.find(result.path) is None:
            self._thumbnails.keep(result.path, picture.small)
        self._kept[result.seq] = picture
        self._bytes += len(picture.large) + len(picture.small)
        while self._bytes > _CACHE_BYTES:
            _, oldest = self._kept.popitem(last=False)
            self._bytes -= len(oldest.large) + len(oldest.small)
        return picture

    def _make(self, result: Result) -> Picture:
        document = result.document
        pixels = read_shown(self._read, document)
        large = grey_picture(pixels, document.diameter_px, longest_side_px=_LONGEST_SIDE_PX)
        factor = min(1.0, THUMBNAIL_PX / max(large.shape))
        small = cv2.resize(large, None, fx=factor, fy=factor, interpolation=cv2.INTER_AREA)
        return Picture(large=_jpeg(large), small=_jpeg(np.asarray(small, np.uint8)))


def read_shown(read: Callable[[Path], Micrograph], document: MicrographDocument) -> NDArray[np.generic]:
    """(h, w) pixels of a result's micrograph, from its file.

    Raises:
        PictureError: the file is gone or is another by now, with the reason in a line.
    """
    try:
        pixels = read(Path(document.path)).pixels
    except (MicrographError, OSError, MemoryError) as error:
        if isinstance(error.__cause__ or error, FileNotFoundError):
            raise PictureError(f"{document.micrograph}: the file is gone; its picks are kept") from error
        raise PictureError(str(error) or f"{document.micrograph}: not enough memory to show it") from error
    if pixels.shape != document.shape:
        raise PictureError(f"{document.micrograph}: the file was written again since it was picked")
    return pixels


def draw_score_map(score_map: ScoreMap) -> bytes:
    """A score map as PNG, one pixel a score: the higher, the lighter and the less transparent."""
    scores = np.clip(score_map.scores, 0, 1)
    steps = np.round(scores * 255).astype(np.uint8)
    coloured = cv2.cvtColor(cv2.applyColorMap(steps, cv2.COLORMAP_VIRIDIS), cv2.COLOR_BGR2BGRA)
    coloured[..., 3] = np.round(np.sqrt(scores) * 200)
    return encode_picture(".png", np.asarray(coloured, np.uint8), [cv2.IMWRITE_PNG_COMPRESSION, 1])


def _jpeg(picture: NDArray[np.uint8]) -> bytes:
    return encode_picture(".jpg", picture, [cv2.IMWRITE_JPEG_QUALITY, _JPEG_QUALITY])


def encode_picture(ending: str, picture: NDArray[np.uint8], options: list[int]) -> bytes:
    """A picture in a format, by the ending of its files."""
    done, encoded = cv2.imencode(ending, picture, options)
    if not done:
        raise PictureError(f"expected a picture as {ending}, OpenCV made none")
    return encoded.tobytes()
