"""The picture that a model sees: a micrograph rescaled so that the particle has the model's diameter."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

__all__ = ["Rescaling", "rescale"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Rescaling:
    """How positions in a micrograph and in its rescaled picture belong together.

    Both are counted from pixel centres, so a pixel edge, not a centre, is where the two grids coincide.
    """

    shape: tuple[int, int]
    """(h, w) of the micrograph."""
    rescaled_shape: tuple[int, int]
    """(h, w) of the rescaled picture; rounded, so the two axes differ by a little in scale."""

    @classmethod
    def for_diameter(cls, shape: tuple[int, int], diameter_px: float, model_diameter_px: float) -> Rescaling:
        """The rescaling that makes a particle of diameter_px (in the micrograph) model_diameter_px wide."""
        factor = model_diameter_px / diameter_px
        h, w = shape
        return cls(shape=shape, rescaled_shape=(max(1, round(h * factor)), max(1, round(w * factor))))

    @property
    def factors(self) -> tuple[float, float]:
        """(y, x) rescaled pixels per pixel of the micrograph."""
        return self.rescaled_shape[0] / self.shape[0], self.rescaled_shape[1] / self.shape[1]

    def to_micrograph(self, positions: NDArray[np.float64], axis: int) -> NDArray[np.float64]:
        """(n,) positions along one axis (0: y, 1: x) of the rescaled picture → of the micrograph."""
        return (positions + 0.5) / self.factors[axis] - 0.5

    def to_rescaled(self, positions: NDArray[np.float64], axis: int) -> NDArray[np.float64]:
        """(n,) positions along one axis (0: y, 1: x) of the micrograph → of the rescaled picture."""
        return (positions + 0.5) * self.factors[axis] - 0.5


def rescale(pixels: NDArray[np.float32], rescaling: Rescaling) -> NDArray[np.float32]:
    """(h, w) micrograph → (h', w') picture; area averages when shrinking, linear when enlarging."""
    shrinks = rescaling.rescaled_shape[0] <= rescaling.shape[0]
    h, w = rescaling.rescaled_shape
    resized = cv2.resize(pixels, (w, h), interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR)
    return np.asarray(resized, np.float32)
