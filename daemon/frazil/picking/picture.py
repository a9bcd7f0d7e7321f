"""The picture that a model sees: a micrograph rescaled to the model's grid and normalised, its blank parts left out.

The trainer makes its crops from the same pictures, so training and serving cannot drift apart.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from frazil.errors import MicrographError, ModelError
from frazil.picking.micrograph import Micrograph
from frazil.picking.rescale import Rescaling, rescale

__all__ = [
    "BACKGROUND_DIAMETERS",
    "LARGEST_PICTURE_PIXELS",
    "MOST_BLANK",
    "NORMALISERS",
    "QUARTILES_PER_SIGMA",
    "RANGE_SIGMAS",
    "SAMPLE_STRIDE",
    "WIDE_SIGMAS",
    "BlankArea",
    "Picture",
    "find_blank",
    "is_possible_diameter",
    "make_picture",
    "normalise",
]

PrepareOnDevice = Callable[[NDArray[np.generic], Rescaling, bool], tuple[NDArray[np.float32], object] | None]
"""(h, w) micrograph, how to rescale it, whether to invert it → (h', w') picture in memory and on the device."""

LARGEST_PICTURE_PIXELS = 2**26
"""Of a picture at the model's scale. A field of 1.5 µm full of particles of 50 Å has as many; more is a mistake, and
takes minutes and gigabytes."""

_SMALLEST_DIAMETER_PX = 9.0
"""Micrographs binned to this are picked nearly as well as at 24 px. In mere noise of 512 x 512 px there are 3 picks at
9 px, 45 at 8 and 4,400 at 4 (docs/decisions/0030)."""

# Normalisation.
SAMPLE_STRIDE = 4
BACKGROUND_DIAMETERS = 2.5
RANGE_SIGMAS = 4.0
WIDE_SIGMAS = 12.0
"""Where a value is half way from the middle to the end of its range."""
QUARTILES_PER_SIGMA = 1.349
_STRIP_PIXELS = 2**16

# Blank parts.
MOST_BLANK = 0.95
"""A micrograph with a larger blank fraction is refused."""

_NEGLIGIBLE = 0.01
"""A smaller blank fraction changes no statistic of the micrograph, if its levels are not far from those of the rest."""
_SAMPLES_PER_DIAMETER = 12
_NARROW, _NARROW_NOISE = 5, 0.2
"""Side of a window in samples, half a diameter; and the fraction of the usual noise below which it is blank."""
_NARROW_OF_PIXELS = 7
"""Side where every pixel is a sample: the noise of neighbouring pixels is correlated."""
_WIDE, _WIDE_NOISE = 23, 0.5
"""The same for larger windows, whose noise is better known: film that stops most electrons, but not all."""
_EDGE_NOISE = 0.65
"""The same fraction for narrow windows on the edge of such film: half of one, half of the other."""
_LAG = 2
"""Distance, in samples, between two that are compared."""
_LEAST_COUNTED = 0.5
_USUAL_PERCENTILE = 65
"""Of the windows' noise: up to a third of the picture may be ice crystals or carbon, noisier than the ice."""
_LARGEST_SAMPLE = 2**14
_STEP_PERCENTILE, _STEP_NOISE = 80, 4.0
"""A difference of this many times this percentile is a step, perhaps from a blank part to the ice."""
_ROUNDING = 1e-12
"""Fraction of the largest noise that rounding gives to windows without noise."""


def is_possible_diameter(diameter_px: float, shape: tuple[int, int]) -> bool:
    """Whether a particle is neither too small nor too large to be picked in a micrograph of (h, w) pixels."""
    return _SMALLEST_DIAMETER_PX <= diameter_px <= min(shape)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Picture:
    """A micrograph as the model sees it."""

    pixels: NDArray[np.float32]
    """(h', w') rescaled and normalised."""
    rescaling: Rescaling
    diameter_px: float
    """Of the particle, in pixels of the micrograph."""
    pixel_size_angstrom: float
    """Of the micrograph."""
    blank: BlankArea | None = None
    """Where the micrograph holds no data; None where it does everywhere."""
    on_device: object | None = None
    """The same picture on the device that runs the model, if it was prepared there."""

    @property
    def blank_fraction(self) -> float:
        """Of the micrograph, 0 to 1."""
        return 0.0 if self.blank is None else self.blank.fraction


def make_picture(
    micrograph: Micrograph,
    *,
    diameter_angstrom: float,
    pixel_size_angstrom: float | None,
    model_diameter_px: float,
    normalisation: str,
    invert: bool,
    prepare_on_device: PrepareOnDevice | None = None,
    largest_pixels: int | None = LARGEST_PICTURE_PIXELS,
) -> Picture:
    """Rescale a micrograph so that the particle has the model's diameter, and normalise it.

    Args:
        micrograph: as read.
        diameter_angstrom: of the particle.
        pixel_size_angstrom: of the micrograph; None takes the file's.
        model_diameter_px: diameter that the model was trained for.
        normalisation: name of the normalisation.
        invert: whether particles look the other way round in the model's tiles.
        prepare_on_device: is asked first; not if there are blank parts to leave out, which only the CPU does.
        largest_pixels: of the picture; None for any.

    Raises:
        MicrographError: the pixel size is unknown, or makes the particle too small or too large to be picked; or next
            to nothing of the micrograph holds data.
        ModelError: the normalisation is not known here.
    """
    pixel_size = micrograph.resolve_pixel_size(pixel_size_angstrom)
    diameter_px = diameter_angstrom / pixel_size
    h, w = micrograph.pixels.shape
    particle = f"{diameter_angstrom:g} Å at {pixel_size:g} Å a pixel"
    if not is_possible_diameter(diameter_px, (h, w)):
        raise MicrographError(
            micrograph.path,
            "diameter",
            f"expected a particle of {_SMALLEST_DIAMETER_PX:g} to {min(h, w)} px, "
            f"found {diameter_px:.1f} px ({particle})",
        )
    rescaling = Rescaling.for_diameter((h, w), diameter_px, model_diameter_px)
    rescaled_h, rescaled_w = rescaling.rescaled_shape
    if largest_pixels is not None and rescaled_h * rescaled_w > largest_pixels:
        raise MicrographError(
            micrograph.path,
            "diameter",
            f"expected a particle that makes a picture of at most {largest_pixels} pixels, found {diameter_px:.1f} px "
            f"({particle}), which makes one of {rescaled_w} x {rescaled_h}; is that right, in Å? (unusual_diameter "
            "takes it all the same)",
        )
    blank = find_blank(micrograph.pixels, diameter_px)
    if blank is not None and blank.fraction > MOST_BLANK:
        raise MicrographError(
            micrograph.path,
            "blank",
            f"expected a picture, found no data (hardly any noise) in {blank.fraction:.1%} of it",
        )
    left_out = None if blank is None or blank.is_negligible else blank.rescaled(rescaling)
    on_device: object | None = None
    prepared = (
        prepare_on_device(micrograph.pixels, rescaling, invert) if prepare_on_device and left_out is None else None
    )
    if prepared is not None:
        pixels, on_device = prepared
    else:
        ahead = micrograph.rescaled
        rescaled = (
            ahead.pixels.copy()
            if ahead is not None and ahead.rescaling == rescaling
            else rescale(micrograph.pixels, rescaling)
        )
        pixels = normalise(rescaled, normalisation, model_diameter_px, invert=invert, blank=left_out)
    return Picture(
        pixels=pixels,
        on_device=on_device,
        rescaling=rescaling,
        diameter_px=diameter_px,
        pixel_size_angstrom=pixel_size,
        blank=blank,
    )


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


def _wide_01(picture: NDArray[np.float32], diameter_px: float, blank: NDArray[np.bool_] | None) -> NDArray[np.float32]:
    """Subtract the median, divide by one robust spread, and map z of them to 0.5 + z / (2 (12 + |z|)), within 0-1.

    No local background is subtracted: carbon film and thick ice keep their levels. These may be a hundred spreads
    apart, and noise still shows on both. The spread is that of `flat-01`, about the mean over a square of 2.5 particle
    diameters, so that a film over half of the picture does not widen it.
    """
    lowest, middle, highest = _percentiles(picture, blank, 0.05, 50, 99.95)
    flat = np.clip(picture, lowest, highest)
    flat -= np.float32(middle)
    flat -= _background(flat, 2 * round(BACKGROUND_DIAMETERS * diameter_px / 2) + 1, blank)
    lower, upper = _percentiles(flat, blank, 25, 75)
    spread = max((upper - lower) / QUARTILES_PER_SIGMA, float(np.finfo(np.float32).tiny))
    for rows in _strips(picture):
        rows -= np.float32(middle)  # first, so that counts of any size keep their precision in float32
        rows *= np.float32(1 / spread)
        rows /= 2 * (np.float32(WIDE_SIGMAS) + np.abs(rows))
        rows += np.float32(0.5)
    if blank is not None:
        picture[blank] = 0.5
    return picture


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
    "flat-01": _flat_01,
    "wide-01": _wide_01,
}
"""Name → method: (h, w) picture, particle diameter in its pixels and (h, w) which hold no data → (h, w) picture."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class BlankArea:
    """Where a micrograph holds no data."""

    samples: NDArray[np.bool_]
    """Every `step`-th pixel of every `step`-th row: whether it is blank."""
    step: int
    is_negligible: bool
    """Whether it changes no statistic of the rest: then the picture is made as if it held data, to the bit."""

    @property
    def fraction(self) -> float:
        """Of the micrograph, 0 to 1."""
        return float(self.samples.mean())

    def rescaled(self, rescaling: Rescaling) -> NDArray[np.bool_]:
        """(h', w') whether each pixel of the rescaled picture is blank, or averages over some that are."""
        y, x = (
            np.clip(rescaling.to_micrograph(np.arange(n, dtype=np.float64), axis) / self.step, 0, count - 1)
            for axis, (n, count) in enumerate(zip(rescaling.rescaled_shape, self.samples.shape, strict=True))
        )
        near = self.samples[np.rint(y).astype(np.intp)[:, np.newaxis], np.rint(x).astype(np.intp)]
        # The edge lies somewhere between two samples, and a rescaled pixel has a width of its own.
        height, width = (2 * int(np.ceil(0.5 * (self.step + 1) * factor)) + 1 for factor in rescaling.factors)
        return _dilate(near, (height, width))


def find_blank(pixels: NDArray[np.generic], diameter_px: float) -> BlankArea | None:
    """Find the parts of a micrograph that hold no data, as padding, a mask or metal film; None where there are none.

    Shot noise is everywhere in a picture of electrons, so a part with hardly any noise holds no data. Noise is measured
    by the differences between neighbouring samples, in small windows, and compared with that of the rest.

    Args:
        pixels: (h, w) micrograph.
        diameter_px: of the particle, in its pixels; parts narrower than about two thirds of it are not looked for.
    """
    step = max(1, round(diameter_px / _SAMPLES_PER_DIAMETER))
    narrow = _NARROW if step > 1 else _NARROW_OF_PIXELS
    samples = pixels[::step, ::step].astype(np.float32)
    if min(samples.shape) <= narrow + _LAG:
        return None
    differences = np.abs(samples[:-_LAG, _LAG:] - samples[:-_LAG, :-_LAG])
    differences += np.abs(samples[_LAG:, :-_LAG] - samples[:-_LAG, :-_LAG])
    noise = _window_means(differences, narrow)
    usual = _percentile(noise[np.isfinite(noise)], _USUAL_PERCENTILE)
    if np.count_nonzero(noise < _WIDE_NOISE * usual) < _WIDE**2 // 4 and noise.min() > _NARROW_NOISE * usual:
        return None  # as nearly always
    # Windows with a step in them have more than noise, and there are many where blank parts have long edges.
    is_step = differences > _STEP_NOISE * _percentile(differences, _STEP_PERCENTILE)
    usual = _percentile(noise[np.isfinite(noise) & ~_dilate(is_step, (narrow, narrow))], _USUAL_PERCENTILE)
    empty = _dilate(noise <= _NARROW_NOISE * usual, (narrow, narrow))
    # A difference is that of a sample to one below it and one to its right.
    blank = _dilate(np.pad(empty, ((0, _LAG), (0, _LAG))), (_LAG + 1, _LAG + 1), (_LAG, _LAG))
    if min(samples.shape) > _WIDE + _LAG:
        # Of what is left: windows that reach from an empty part into the ice are not blank all over.
        quiet = _dilate(_window_means(differences, _WIDE, without=empty) < _WIDE_NOISE * usual, (_WIDE, _WIDE))
        quiet &= cv2.blur(differences, (narrow, narrow)) < _EDGE_NOISE * usual
        blank |= np.pad(quiet, _LAG // 2, mode="edge")
    if not blank.any():
        return None
    return BlankArea(
        samples=blank, step=step, is_negligible=bool(blank.mean() < _NEGLIGIBLE) and not _is_far(samples, blank)
    )


def _percentile(noise: NDArray[np.float32], percent: float) -> float:
    """Percentile of an array of any shape without its values of no noise; 0 if none is left."""
    varied = noise[noise > _ROUNDING * noise.max(initial=0)]
    if varied.size == 0:
        return 0.0
    return float(np.percentile(varied[:: 1 + varied.size // _LARGEST_SAMPLE], percent))


def _is_far(samples: NDArray[np.float32], blank: NDArray[np.bool_]) -> bool:
    """Whether the blank part's levels are so far from the rest that they would spoil the pixels around it."""
    lowest, highest = np.percentile(samples[~blank][::4], (0.05, 99.95))
    reach = highest - lowest
    return bool(samples[blank].min() < lowest - reach or samples[blank].max() > highest + reach)


def _window_means(
    values: NDArray[np.float32], side: int, *, without: NDArray[np.bool_] | None = None
) -> NDArray[np.float32]:
    """(h, w) → (h, w) mean in the window around each place; infinite where the window is not whole.

    Places in `without` count in no window; the mean is also infinite where they are half of the window or more.
    """
    h, w = values.shape
    half = side // 2
    means = np.full((h, w), np.inf, np.float32)
    inside = np.s_[half : h - half, half : w - half]
    if without is None:
        means[inside] = cv2.blur(values, (side, side))[inside]
        return means
    total = cv2.blur(np.where(without, np.float32(0), values), (side, side))[inside]
    counted = cv2.blur((~without).astype(np.float32), (side, side))[inside]
    np.divide(total, counted, out=means[inside], where=counted > _LEAST_COUNTED)
    return means


def _dilate(places: NDArray[np.bool_], side: tuple[int, int], anchor: tuple[int, int] = (-1, -1)) -> NDArray[np.bool_]:
    """(h, w) centres of windows of a height and a width → (h, w) pixels that the windows cover."""
    return np.asarray(cv2.dilate(places.astype(np.uint8), np.ones(side, np.uint8), anchor=anchor), np.bool_)
