"""Spectra: the power spectrum of a micrograph with the rings that were fitted to it, drawn when a browser asks."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path

import cv2
import msgspec
import numpy as np

from frazil.documents import CtfFit, MicrographDocument
from frazil.page.pictures import PictureError, encode_picture, read_shown
from frazil.picking import Micrograph
from frazil.quality.ctf import draw_spectrum
from frazil.quality.spectrum import measure_spectrum
from frazil.quality.usable import find_usable

__all__ = ["Spectra"]

_KEPT_BYTES = 8 << 20


class Spectra:
    """Draws spectra and keeps the last ones, up to a number of bytes. Used from one thread.

    Args:
        read: reads a micrograph, within limits of memory and time.
    """

    def __init__(self, read: Callable[[Path], Micrograph]) -> None:
        self._read = read
        self._kept: OrderedDict[int, bytes] = OrderedDict()

    def of(self, seq: int, fit: CtfFit, document: MicrographDocument) -> bytes:
        """PNG of a spectrum: measured on the left, the fitted rings on the right.

        Args:
            seq: of the assessment.
            fit: of the CTF, in it.
            document: the picks that were assessed, which say where junk is.

        Raises:
            PictureError: the file is gone or cannot be read, or is too small; with the reason in a line.
        """
        if seq not in self._kept:
            self._kept[seq] = self._draw(fit, document)
        self._kept.move_to_end(seq)
        while sum(map(len, self._kept.values())) > _KEPT_BYTES and len(self._kept) > 1:
            self._kept.popitem(last=False)
        return self._kept[seq]

    def _draw(self, fit: CtfFit, document: MicrographDocument) -> bytes:
        pixels = read_shown(self._read, document)
        outlines = () if isinstance(document.junk, msgspec.UnsetType) else document.junk.outlines
        usable = find_usable(pixels, document.diameter_px, outlines).usable
        spectrum = measure_spectrum(pixels, document.pixel_size_angstrom, ~usable)
        if spectrum is None:
            raise PictureError(f"{document.micrograph}: expected an area with data, large enough for a spectrum")
        picture = cv2.cvtColor(draw_spectrum(spectrum, fit), cv2.COLOR_RGB2BGR)
        return encode_picture(".png", np.asarray(picture, np.uint8), [cv2.IMWRITE_PNG_COMPRESSION, 6])
