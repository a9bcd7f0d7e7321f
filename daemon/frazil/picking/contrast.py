"""Contrast: whether particles are dark or bright, as the settings have it.

A model also finds something in a micrograph of the opposite contrast, often half of the particles. But then, where it
looks for dark particles, its picks are brighter than their surroundings; and with the other contrast it finds at least
as many picks that are not.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from frazil.picking.picker import Picker
from frazil.picking.picks import ScoreMap
from frazil.picking.picture import Picture

__all__ = ["ContrastEvidence", "darkness", "weigh_contrast"]

_RING_DIAMETERS = (1.1, 1.6)
_CLEARLY = 3.0
_CLEAR_ERRORS = 4.0


@dataclass(frozen=True, slots=True, kw_only=True)
class ContrastEvidence:
    """How much picks stand out, with the contrast as set and with the opposite one; a sum over micrographs."""

    picks: int = 0
    as_set: float = 0.0
    """Sum over picks of score times how much the pick stands out, in standard deviations."""
    other_picks: int = 0
    other: float = 0.0
    """The same sum over the picks made with the opposite contrast."""
    other_variance: float = 0.0
    """Variance of `other` for picks at random places."""

    def __add__(self, more: ContrastEvidence) -> ContrastEvidence:
        names = [field.name for field in dataclasses.fields(self)]
        return ContrastEvidence(**{name: getattr(self, name) + getattr(more, name) for name in names})

    @property
    def speaks_for_other(self) -> bool:
        """Whether the opposite contrast is clearly right."""
        is_clear = self.other > _CLEAR_ERRORS * self.other_variance**0.5
        return is_clear and self.other > _CLEARLY * max(0.0, self.as_set)


def weigh_contrast(picker: Picker, picture: Picture, score_map: ScoreMap) -> ContrastEvidence:
    """Score a picture again with inverted contrast, and compare; takes as long as to score it."""
    pixels, contract = picture.pixels, picker.model.contract
    stands_out = darkness(pixels, contract.diameter_px)
    stands_out -= stands_out.mean()
    stands_out *= (1 if contract.contrast == "dark" else -1) / max(float(stands_out.std()), 1e-30)
    inverted = dataclasses.replace(picture, pixels=np.float32(1) - pixels, on_device=None)
    picks, as_set, _ = _weigh(picker, picture, score_map, stands_out)
    other_picks, other, variance = _weigh(picker, inverted, picker.score(inverted), -stands_out)
    return ContrastEvidence(picks=picks, as_set=as_set, other_picks=other_picks, other=other, other_variance=variance)


def _weigh(
    picker: Picker, picture: Picture, score_map: ScoreMap, stands_out: NDArray[np.float32]
) -> tuple[int, float, float]:
    """Number of picks, the sum of how much they stand out, and its variance for random places."""
    picks = picker.find(score_map, picture)
    h, w = stands_out.shape
    y, x = (
        np.clip(np.rint(picture.rescaling.to_rescaled(positions, axis)), 0, last - 1).astype(np.intp)
        for axis, (positions, last) in enumerate(((picks.y, h), (picks.x, w)))
    )
    return len(picks), float((picks.score * stands_out[y, x]).sum()), float((picks.score**2).sum())


def darkness(pixels: NDArray[np.float32], diameter_px: float) -> NDArray[np.float32]:
    """(h, w) picture → (h, w) how much darker a particle's disc around each place is than the ring around the disc."""
    inner, outer = (diameters * diameter_px / 2 for diameters in _RING_DIAMETERS)
    half = int(np.ceil(outer))
    r = np.hypot(*np.mgrid[-half : half + 1, -half : half + 1])
    ring, disc = (r > inner) & (r <= outer), r <= diameter_px / 2
    kernel = (ring / ring.sum() - disc / disc.sum()).astype(np.float32)
    return np.asarray(cv2.filter2D(pixels, -1, kernel, borderType=cv2.BORDER_REFLECT_101), np.float32)
