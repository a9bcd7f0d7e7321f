"""Micrograph files: MRC and TIFF as in the daemon, and PNG and JPEG pictures of published sets.

Row 0 of a picture is its top row in a viewer. A picture has no pixel size.
"""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from frazil.errors import FrazilError, MicrographError
from frazil.picking import Micrograph, read_micrograph

__all__ = ["MICROGRAPH_ENDINGS", "find_micrographs", "read_micrograph_file"]

_PICTURE_ENDINGS = (".png", ".jpg", ".jpeg")
MICROGRAPH_ENDINGS = (".mrc", ".tif", ".tiff", *_PICTURE_ENDINGS)
"""Of one micrograph in several formats, the first of these is taken."""

_JPEG_END = b"\xff\xd9"
_JPEG_TAIL_BYTES = 1024


def find_micrographs(folder: Path) -> list[Path]:
    """The micrographs in a folder, one for each stem, sorted by name.

    Raises:
        FrazilError: two files of one format have the same stem, so that their labels are ambiguous.
    """
    by_stem: dict[str, Path] = {}
    for ending in reversed(MICROGRAPH_ENDINGS):
        of_ending: dict[str, Path] = {}
        for path in sorted(folder.glob("*")):
            if path.suffix.lower() == ending and (other := of_ending.setdefault(path.stem, path)) != path:
                raise FrazilError(f"{folder}: {path.stem} stands for {other.name} and {path.name}; keep one")
        by_stem |= of_ending
    return sorted(by_stem.values())


def read_micrograph_file(path: Path) -> Micrograph:
    """Read a micrograph from an MRC or TIFF file or from a picture.

    The three colours of a picture must be equal everywhere; transparency is ignored.

    Raises:
        MicrographError: the file is missing, truncated or no image; it holds several images, colours, pixels that
            are not finite, or only equal pixels.
    """
    if path.suffix.lower() not in _PICTURE_ENDINGS:
        return read_micrograph(path)
    pixels = _grey(path, _decode(path)).astype(np.float32)
    if pixels.min() == pixels.max():
        raise MicrographError(path, "constant", f"expected a picture, found every pixel equal to {pixels.flat[0]:g}")
    return Micrograph(path=path, pixels=pixels, pixel_size_angstrom=None)


def _decode(path: Path) -> NDArray[np.generic]:
    """(h, w) or (h, w, channels) the image in a file, in the file's type."""
    # OpenCV would print its own message beside the error below.
    level = cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)
    try:
        content_end = path.read_bytes()[-_JPEG_TAIL_BYTES:]
        count = cv2.imcount(str(path))
        image = cv2.imread(str(path), cv2.IMREAD_UNCHANGED) if count == 1 else None
    except OSError as error:
        raise MicrographError(path, "unreadable", f"cannot be read: {error.strerror or error}") from error
    except cv2.error as error:
        raise MicrographError(path, "unreadable", f"expected an image, OpenCV refuses it: {error.err}") from error
    finally:
        cv2.utils.logging.setLogLevel(level)
    if count > 1:
        raise MicrographError(path, "stack", f"expected one image, found {count} (movies must be averaged first)")
    # OpenCV decodes half a JPEG without an error; only the end marker shows that it is complete.
    cut = path.suffix.lower() in (".jpg", ".jpeg") and _JPEG_END not in content_end
    if image is None or cut:
        raise MicrographError(path, "unreadable", "expected a whole image, found one that is cut short or no image")
    return np.asarray(image)


def _grey(path: Path, image: NDArray[np.generic]) -> NDArray[np.generic]:
    """(h, w) the grey channel of an image."""
    if image.ndim == 2:
        return image
    colours = image[..., :3]
    if colours.shape[-1] == 3 and not (colours == colours[..., :1]).all():
        raise MicrographError(path, "unsupported", "expected a grey picture, found colours")
    return image[..., 0]
