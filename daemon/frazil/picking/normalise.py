"""Normalisation: brings micrographs of any dose, scale and ice thickness to one range.

Each normalisation has a name, which a model's contract states; a name never changes its meaning.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import cv2
import numpy as np
from numpy.typing import NDArray

from frazil.errors import ModelError

__all__ = [
    "BACKGROUND_DIAMETERS",
    "NORMALISERS",
    "QUARTILES_PER_SIGMA",
    "RANGE_SIGMAS",
    "SAMPLE_STRIDE",
    "normalise",
]

SAMPLE_STRIDE = 4
BACKGROUND_DIAMETERS = 2.5
RANGE_SIGMAS = 4.0
QUARTILES_PER_SIGMA = 1.349
_STRIP_PIXELS = 2**16


def normalise(
    picture: NDArray[np.float32],
    name: str,
    diameter_px: float,
    *,
    invert: bool,
    blank: NDArray[np.bool_] | None = None,
) -> NDArray[np.float32]:
    """(h, w) rescaled picture → (h, w) picture as the model wants it, in the same memory.

    Args:
        picture: the rescaled micrograph; overwritten.
        name: one of ``NORMALISERS``.
        diameter_px: particle diameter in pixels of the picture.
        invert: whether particles in the picture have the opposite contrast to the model's.
        blank: (h, w) which pixels hold no data: they do not affect the others, and become background. None where all
            hold data.

    Raises:
        ModelError: the name is not known to this version of frazil.
    """
    try:
        method = NORMALISERS[name]
    except KeyError:
        known = ", ".join(sorted(NORMALISERS))
        raise ModelError(f"expected a normalisation among {known}; found {name!r}") from None
    if invert:
        np.negative(picture, out=picture)
    return method(picture, diameter_px, blank)


def _flat_01(picture: NDArray[np.float32], diameter_px: float, blank: NDArray[np.bool_] | None) -> NDArray[np.float32]:
    """Subtract the local background, divide by one robust spread, map ±4 spreads to 0-1.

    The background is the mean over a square of 2.5 particle diameters: an ice gradient or a carbon film goes, a
    particle stays. Outliers (hot pixels, ice crystals) are clipped first, so that they cannot shift it.
    """
    lowest, middle, highest = _percentiles(picture, blank, 0.05, 50, 99.95)
    flat = picture
    for rows in _strips(flat):
        np.clip(rows, lowest, highest, out=rows)
        rows -= np.float32(middle)  # around zero, so that counts of any size keep their precision in float32
    side = 2 * round(BACKGROUND_DIAMETERS * diameter_px / 2) + 1
    flat -= _background(flat, side, blank)
    lower, upper = _percentiles(flat, blank, 25, 75)
    spread = max((upper - lower) / QUARTILES_PER_SIGMA, float(np.finfo(np.float32).tiny))
    for rows in _strips(flat):
        rows *= np.float32(1 / (2 * RANGE_SIGMAS * spread))
        rows += np.float32(0.5)
        np.clip(rows, 0, 1, out=rows)
    if blank is not None:
        flat[blank] = 0.5
    return flat


def _background(flat: NDArray[np.float32], side: int, blank: NDArray[np.bool_] | None) -> NDArray[np.float32]:
    """(h, w) mean of the pixels that hold data in the square around each; the blank ones of `flat` become 0."""
    if blank is None:
        return np.asarray(cv2.blur(flat, (side, side), borderType=cv2.BORDER_REFLECT_101), np.float32)
    flat[blank] = 0
    total, counted = (
        cv2.blur(values, (side, side), borderType=cv2.BORDER_REFLECT_101)
        for values in (flat, (~blank).astype(np.float32))
    )
    return np.asarray(total / np.maximum(counted, np.float32(0.5 / side**2)), np.float32)


def _strips(picture: NDArray[np.float32]) -> Iterator[NDArray[np.float32]]:
    """The picture in strips that stay in the caches from one step to the next."""
    count = max(1, _STRIP_PIXELS // picture.shape[1])
    for top in range(0, len(picture), count):
        yield picture[top : top + count]


def _percentiles(picture: NDArray[np.float32], blank: NDArray[np.bool_] | None, *percents: float) -> list[float]:
    """As np.percentile gives them, of every fourth pixel of every fourth row; numpy sorts faster than it selects."""
    sample = picture[::SAMPLE_STRIDE, ::SAMPLE_STRIDE]
    ordered = np.sort(sample if blank is None else sample[~blank[::SAMPLE_STRIDE, ::SAMPLE_STRIDE]], axis=None)
    places = (ordered.size - 1) * np.array(percents) / 100
    below = places.astype(np.intp)
    above = np.minimum(below + 1, ordered.size - 1)
    values = ordered[[below, above]].astype(np.float64)
    between: list[float] = (values[0] + (values[1] - values[0]) * (places - below)).tolist()
    return between


NORMALISERS: dict[str, Callable[[NDArray[np.float32], float, NDArray[np.bool_] | None], NDArray[np.float32]]] = {
    "flat-01": _flat_01
}
"""Name → method: (h, w) picture, particle diameter in its pixels and (h, w) which hold no data → (h, w) picture."""
