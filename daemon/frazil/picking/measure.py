"""The particle's diameter, measured on micrographs for which nobody has given one.

Two lengths are measured, and their geometric mean is taken:

- *where the model is surest*: a model knows particles of one diameter in its pictures, so its scores are highest where
  the micrograph was rescaled for the particle's own;
- *where the mean particle ends*: the contrast transfer of an underfocused microscope puts a ring of the opposite
  contrast around each particle. The mean of all picks, averaged over angles, has its first ring just outside.

The first depends on the model and hardly on the microscope, the second the other way round.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache

import cv2
import numpy as np
from numpy.typing import NDArray

from frazil.errors import FrazilError, MicrographError
from frazil.model import Contrast
from frazil.model.model import Model
from frazil.picking.micrograph import Micrograph
from frazil.picking.picker import Picker, PickingSettings
from frazil.picking.picks import Picks
from frazil.picking.picture import Picture

__all__ = ["TRIED_ANGSTROM", "DiameterEstimate", "DiameterPeak", "TriedDiameter", "estimate_diameter", "try_diameters"]

_STEPS_PER_DOUBLING = 4
TRIED_ANGSTROM: tuple[float, ...] = tuple(60.0 * 2 ** (step / _STEPS_PER_DOUBLING) for step in range(15))
"""Diameters that are tried: 60 to 600 Å in equal ratios, and one beyond, so that 600 Å can be a maximum."""

_WIDEST_PX = 760
"""Side of the part of a picture that is scored, the middle: small diameters make large pictures with many particles."""
_PARTICLES = 0.1
"""Picks that are looked at, as a fraction of the squares of one diameter that the micrographs have room for: crowded
micrographs have about five times as many particles, sparse ones about as many."""
_LEAST_PICKS = 6
"""With fewer, a few ice crystals decide. Diameters for which the micrographs have no room for ten times as many are not
considered."""
_LEAST_SCORE = 0.02
_ERRORS = 2.0
"""Standard errors that are taken off the mean score: of a few large picks and many small ones, the many count."""
_SUREST_DIAMETERS = 1.1
"""Where scores of ``fcn/5`` are highest, in diameters of the particle: the median of simulated molecules
(benchmarks/measured_diameters.py). It has seen particles that leave some of their diameter empty, as most do."""
_REACH_DIAMETERS = 0.8
"""Radius of the mean particle, with its surroundings; the ring lies within."""
_BLUR_DIAMETERS = 0.05
"""Standard deviation of the blur of its profile: noise has rings, too."""
_UNSURE = 0.4
_RIVAL = 0.95
_RESAMPLED = 200
_INTERVAL_PERCENT = (2.5, 97.5)
_SCATTER = 1.1
"""Ratio by which either measure is off for a molecule of known diameter, beyond what its picks say (as above)."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class TriedDiameter:
    """One micrograph picked for one diameter."""

    diameter_angstrom: float
    room: float
    """Number of squares of one diameter in the part that was picked."""
    scores: NDArray[np.float64]
    """(n,) figures of merit of its picks, best first."""
    profiles: NDArray[np.float32]
    """(n, radii) how much each pick stands out of the background, by the distance from its centre in pixels of the
    model's picture; positive where it has the contrast of particles."""
    radius_angstrom: float
    """Difference between two neighbouring radii."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DiameterPeak:
    """A diameter at which the model is surer than at those around it."""

    diameter_angstrom: float
    """The measured diameter: the geometric mean of the next two, or the first if there is no ring."""
    surest_angstrom: float
    """From the scores."""
    ring_angstrom: float | None
    """From the ring around the mean particle; None where it has none."""
    low_angstrom: float
    high_angstrom: float
    """From the lowest to the highest that either measure allows."""
    tried_angstrom: float
    """The tried diameter at the peak."""
    value: float
    """Of the curve, there."""
    is_at_end: bool = False
    """Whether it is no peak, but the end of the curve: the particle may be smaller or larger."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DiameterEstimate:
    """The particle's diameter, and all that speaks for it and against."""

    peaks: tuple[DiameterPeak, ...]
    """Best first; at least one."""
    curve: tuple[tuple[float, float], ...]
    """Each diameter in Å, and how sure the model is of its best picks, 0 to 1."""

    @property
    def best(self) -> DiameterPeak:
        """The peak to take."""
        return self.peaks[0]

    @property
    def doubt(self) -> str | None:
        """The reason to doubt the suggestion, in one line, with advice; None if there is none."""
        best = self.best
        if best.is_at_end:
            return (
                f"the curve has no peak from {self.curve[0][0]:.0f} to {self.curve[-1][0]:.0f} Å: the particle may be "
                "smaller or larger, hardly visible, or of the other contrast (--contrast)"
            )
        if best.value < _UNSURE:
            return (
                f"at no diameter is the model sure of its picks ({best.value:.2f}; {_UNSURE:g} or more is usual): are "
                "there particles to be seen, and is the contrast right (--contrast)?"
            )
        if len(self.peaks) > 1 and self.peaks[1].value > _RIVAL * best.value:
            return f"{self.peaks[1].diameter_angstrom:.0f} Å is nearly as likely; look at both with --picture"
        return None


def try_diameters(
    micrograph: Micrograph,
    model: Model,
    *,
    pixel_size_angstrom: float | None = None,
    contrast: Contrast = "dark",
    diameters_angstrom: Sequence[float] = TRIED_ANGSTROM,
    progress: Callable[[], None] = lambda: None,
) -> list[TriedDiameter]:
    """Pick a micrograph for each of several diameters.

    Args:
        micrograph: as read.
        model: scores.
        pixel_size_angstrom: of the micrograph; None takes the file's.
        contrast: how particles look in the micrograph.
        diameters_angstrom: that are tried; those that the micrograph cannot show are left out.
        progress: called after each.

    Raises:
        MicrographError: the pixel size is unknown, the micrograph can show none of the diameters, or next to nothing
            of it holds data.
        ModelError: the network gave other than finite scores.
    """
    pixel_size = micrograph.resolve_pixel_size(pixel_size_angstrom)
    tried, refused = [], None
    for diameter in diameters_angstrom:
        settings = PickingSettings(
            diameter_angstrom=diameter, pixel_size_angstrom=pixel_size, contrast=contrast, threshold=_LEAST_SCORE
        )
        middle = _middle(micrograph, _WIDEST_PX / model.contract.diameter_px * diameter / pixel_size)
        try:
            tried.append(_try_diameter(middle, Picker(model, settings)))
        except MicrographError as error:
            if error.reason != "diameter":
                raise
            refused = error
        progress()
    if refused is not None and not tried:
        raise refused
    return tried


def _middle(micrograph: Micrograph, side_px: float) -> Micrograph:
    """The micrograph, or the square in its middle."""
    parts = (slice(max(0, round((n - side_px) / 2)), round((n + side_px) / 2)) for n in micrograph.pixels.shape)
    return dataclasses.replace(micrograph, pixels=np.ascontiguousarray(micrograph.pixels[tuple(parts)]), rescaled=None)


def _try_diameter(micrograph: Micrograph, picker: Picker) -> TriedDiameter:
    picture = picker.prepare(micrograph)
    picks = picker.find(picker.score(picture), picture)
    contract = picker.model.contract
    h, w = picture.pixels.shape
    room = h * w / contract.diameter_px**2 * (1 - picture.blank_fraction)
    # Of all micrographs together the best are taken; they are not spread evenly.
    picks = picks.select(np.arange(min(len(picks), _LEAST_PICKS + round(3 * _PARTICLES * room))))
    profiles = _profiles(picture, picks, contract.diameter_px)
    return TriedDiameter(
        diameter_angstrom=picker.settings.diameter_angstrom,
        room=room,
        scores=picks.score,
        profiles=profiles if contract.contrast == "bright" else -profiles,
        radius_angstrom=picker.settings.diameter_angstrom / contract.diameter_px,
    )


def _profiles(picture: Picture, picks: Picks, diameter_px: float) -> NDArray[np.float32]:
    """(n, radii) mean grey value on circles around each pick, less that of the background."""
    radii = round(_REACH_DIAMETERS * diameter_px) + 1
    side = 2 * radii - 1
    background = 0.5
    padded = cv2.copyMakeBorder(
        picture.pixels - np.float32(background), radii, radii, radii, radii, cv2.BORDER_CONSTANT, value=0
    )
    y, x = (picture.rescaling.to_rescaled(at, axis) + radii for axis, at in enumerate((picks.y, picks.x)))
    crops = np.empty((len(picks), side * side), np.float32)
    for crop, at in zip(crops, zip(x.tolist(), y.tolist(), strict=True), strict=True):
        crop[:] = cv2.getRectSubPix(padded, (side, side), at).ravel()
    return np.asarray(crops @ _circles(radii), np.float32)


@lru_cache(maxsize=4)
def _circles(radii: int) -> NDArray[np.float32]:
    """((2 radii - 1)², radii) weight of each pixel of a square in the mean on each circle around its middle."""
    across = np.arange(1 - radii, radii)
    distance = np.hypot(across[:, np.newaxis], across).reshape(-1, 1)
    weights = np.clip(1 - np.abs(distance - np.arange(radii)), 0, None)
    return np.asarray(weights / weights.sum(axis=0), np.float32)


def estimate_diameter(tried: Iterable[TriedDiameter]) -> DiameterEstimate:
    """Measure the particle's diameter.

    Args:
        tried: of all micrographs, all diameters.

    Raises:
        FrazilError: the micrographs have too little room for so much as three diameters.
    """
    by_diameter: dict[float, list[TriedDiameter]] = {}
    for one in tried:
        by_diameter.setdefault(one.diameter_angstrom, []).append(one)
    scales = [
        _Scale.of(several)
        for _, several in sorted(by_diameter.items())
        if _PARTICLES * sum(one.room for one in several) >= _LEAST_PICKS
    ]
    if len(scales) < 3:
        raise FrazilError(
            f"expected micrographs with room for {_LEAST_PICKS / _PARTICLES:g} particles of three diameters of "
            f"{TRIED_ANGSTROM[0]:g} to 600 Å, found room for those of {len(scales)}; give more micrographs, and check "
            "the pixel size"
        )
    values = [scale.value() for scale in scales]
    last = len(scales) - 1
    tops = [i for i in range(1, last) if values[i] >= values[i - 1] and values[i] > values[i + 1]]
    ordered = sorted(tops or [int(np.argmax(values))], key=lambda i: -values[i])
    return DiameterEstimate(
        peaks=tuple(_measure_peak(scales, min(max(i, 1), last - 1), is_at_end=not tops) for i in ordered),
        curve=tuple((scale.diameter_angstrom, float(value)) for scale, value in zip(scales, values, strict=True)),
    )


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Scale:
    """The best picks of all micrographs for one diameter."""

    diameter_angstrom: float
    scores: NDArray[np.float64]
    profiles: NDArray[np.float32]
    radius_angstrom: float

    @classmethod
    def of(cls, several: Sequence[TriedDiameter]) -> _Scale:
        count = round(_PARTICLES * sum(one.room for one in several))
        scores = np.concatenate([one.scores for one in several])
        best = np.argsort(-scores, kind="stable")[:count]
        found = np.full(count, _LEAST_SCORE)
        found[: best.size] = scores[best]
        profiles = np.concatenate([one.profiles for one in several])
        return cls(
            diameter_angstrom=several[0].diameter_angstrom,
            scores=found,
            profiles=profiles[best],
            radius_angstrom=several[0].radius_angstrom,
        )

    def value(self) -> float:
        """How sure the model is of them, at least."""
        return float(self.scores.mean() - _ERRORS * self.scores.std() / np.sqrt(self.scores.size))

    def ring(self) -> float | None:
        """Diameter of the first ring around their mean; None where there is none."""
        if not len(self.profiles):
            return None
        across_px = self.diameter_angstrom / self.radius_angstrom
        profile = cv2.GaussianBlur(
            self.profiles.mean(axis=0)[np.newaxis], (0, 0), _BLUR_DIAMETERS * across_px, borderType=cv2.BORDER_REPLICATE
        )[0]
        densest = int(np.argmax(profile[: round(across_px / 2)]))
        outside = np.flatnonzero(profile[densest:] < 0)
        if profile[densest] <= 0 or not outside.size:
            return None
        edge = densest + int(outside[0])
        steps = np.diff(profile[edge - 1 :])
        bottoms = np.flatnonzero((steps[:-1] < 0) & (steps[1:] >= 0))
        if not bottoms.size:
            return None
        at = edge + int(bottoms[0])
        return 2 * self.radius_angstrom * (at + _vertex(*profile[at - 1 : at + 2].tolist()))

    def resampled(self, rng: np.random.Generator) -> _Scale:
        """As many picks, drawn from these with replacement."""
        return dataclasses.replace(
            self,
            scores=rng.choice(self.scores, self.scores.size),
            profiles=self.profiles[rng.integers(len(self.profiles), size=len(self.profiles))],
        )


def _measure_peak(scales: Sequence[_Scale], at: int, *, is_at_end: bool) -> DiameterPeak:
    around = scales[at - 1 : at + 2]
    surest, ring = _surest(around), scales[at].ring()
    rng = np.random.default_rng(0)
    redrawn = [_surest([scale.resampled(rng) for scale in around]) for _ in range(_RESAMPLED)]
    lengths = [surest, *np.percentile(redrawn, _INTERVAL_PERCENT)]
    if ring is not None:
        rings = [found for _ in range(_RESAMPLED) if (found := scales[at].resampled(rng).ring()) is not None]
        lengths += [ring, *np.percentile(rings or [ring], _INTERVAL_PERCENT)]
    return DiameterPeak(
        diameter_angstrom=surest if ring is None else float(np.sqrt(surest * ring)),
        surest_angstrom=surest,
        ring_angstrom=ring,
        low_angstrom=float(min(lengths)) / _SCATTER,
        high_angstrom=float(max(lengths)) * _SCATTER,
        tried_angstrom=scales[at].diameter_angstrom,
        value=scales[at].value(),
        is_at_end=is_at_end,
    )


def _surest(around: Sequence[_Scale]) -> float:
    """The diameter at the top of the parabola through three scales' values, over the logarithm."""
    before, middle, after = (scale.value() for scale in around)
    ratio = around[1].diameter_angstrom / around[0].diameter_angstrom
    step = _vertex(before, middle, after)
    return float(around[1].diameter_angstrom * ratio**step / _SUREST_DIAMETERS)


def _vertex(before: float, middle: float, after: float) -> float:
    """Where the parabola through three values, one step apart, has its vertex: -1 to 1 steps from the middle one."""
    bend = before - 2 * middle + after
    return float(np.clip(0.5 * (before - after) / bend, -1, 1)) if bend else 0.0
