"""The picture that a model sees: a micrograph rescaled to the model's grid and normalised.

The trainer makes its crops from the same pictures, so training and serving cannot drift apart.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from frazil.errors import MicrographError
from frazil.picking.blank import MOST_BLANK, BlankArea, find_blank
from frazil.picking.micrograph import Micrograph
from frazil.picking.normalise import normalise
from frazil.picking.rescale import Rescaling, rescale

__all__ = ["LARGEST_PICTURE_PIXELS", "Picture", "is_possible_diameter", "make_picture"]

PrepareOnDevice = Callable[[NDArray[np.generic], Rescaling, bool], tuple[NDArray[np.float32], object] | None]
"""(h, w) micrograph, how to rescale it, whether to invert it → (h', w') picture in memory and on the device."""

LARGEST_PICTURE_PIXELS = 2**26
"""Of a picture at the model's scale. A field of 1.5 µm full of particles of 50 Å has as many; more is a mistake, and
takes minutes and gigabytes."""

_SMALLEST_DIAMETER_PX = 9.0
"""Micrographs binned to this are picked nearly as well as at 24 px. In mere noise of 512 x 512 px there are 3 picks at
9 px, 45 at 8 and 4,400 at 4 (docs/decisions/0030)."""


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
