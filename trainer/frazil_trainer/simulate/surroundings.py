"""What lies around the particles and is none: other molecules, clumps, filaments, crystalline ice, cracks.

Nothing of it counts as a particle.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from frazil_trainer.simulate.density import DensityModel
from frazil_trainer.simulate.domains import PROTEIN_EXCESS_VOLT
from frazil_trainer.simulate.scene import Frame

__all__ = [
    "Clump",
    "Crack",
    "Filament",
    "Speckle",
    "Surroundings",
    "draw_clumps",
    "draw_cracks",
    "draw_filaments",
    "draw_speckle",
    "filament_phase",
]

_Array = NDArray[np.float32]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Surroundings:
    """What is drawn beside the particles."""

    strangers: tuple[tuple[DensityModel, int], ...] = ()
    """Molecules of other sizes than the particle's, and how many of each."""
    clumps: int = 0
    """Number of aggregates, of the particle's own molecule."""
    filaments: int = 0
    speckles: int = 0
    """Number of areas of crystalline ice."""
    small_dirt: int = 0
    """Number of dark round specks about as large as a particle, as frozen ethane leaves them."""
    large_dirt: int = 0
    """Number of ice crystals several particles wide."""
    cracks: int = 0
    """Number of cracks in the ice, which branch."""
    metal: bool = False
    """Whether the film, if there is one, is of gold: it stops nearly everything."""
    film_edge_range: tuple[float, float] = (0.35, 0.85)
    """Distance of the film's edge from the middle of the micrograph, over that of its farthest corner; below 0 the film
    covers more than half."""
    on_film: int = 0
    """Number of molecules of the particle's own kind that stick to the film, if there is one."""
    view_spread_deg: float | None = None
    """Spread of the particles' views about one of them; None for all views alike."""
    variants: tuple[DensityModel, ...] = ()
    """Shapes that the particle takes. Default: one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Clump:
    """Molecules that stick together."""

    y: float
    x: float
    radius: float
    """Pixels, as its centre."""
    count: int

    def depth(self, y: NDArray[np.floating], x: NDArray[np.floating]) -> _Array:
        """Depth of points within it, in pixels, broadcast over y and x."""
        depth: NDArray[np.floating] = self.radius - np.hypot(y - self.y, x - self.x)
        return depth.astype(np.float32)

    def places(self, rng: np.random.Generator) -> NDArray[np.float64]:
        """(count, 2) centres y, x of its molecules, denser in its middle."""
        angle, radius = rng.uniform(0, 2 * np.pi, self.count), self.radius * rng.uniform(0, 1, self.count)
        return np.column_stack([self.y + radius * np.sin(angle), self.x + radius * np.cos(angle)])


@dataclass(frozen=True, slots=True, kw_only=True)
class Filament:
    """A long rod or tube, bent to an arc."""

    centre_y: float
    centre_x: float
    arc_radius: float
    """Pixels, as the arc's centre."""
    radius_px: float
    hollow: float
    """Radius of its hole over its own."""

    def thickness(self, y: NDArray[np.floating], x: NDArray[np.floating]) -> _Array:
        """(h, w) of material along the beam, in pixels."""
        distance = np.hypot(y - np.float32(self.centre_y), x - np.float32(self.centre_x)) - np.float32(self.arc_radius)
        squared = (distance * distance).astype(np.float32)
        outer, inner = np.float32(self.radius_px**2), np.float32((self.hollow * self.radius_px) ** 2)
        thickness: _Array = 2 * (np.sqrt(np.maximum(outer - squared, 0)) - np.sqrt(np.maximum(inner - squared, 0)))
        return thickness


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Crack:
    """A crack in the ice: a jagged line with branches, and its displaced edge beside it, of the opposite contrast."""

    lines: tuple[NDArray[np.float64], ...]
    """(n, 2) corners y, x of each branch, in pixels."""
    half_width: float
    """Pixels."""
    contrast: float
    """Of the transmission on the line; above 0 it is bright, as where there is less ice."""
    edge: tuple[float, float]
    """Displacement y, x of the edge, in pixels."""
    phase_rad: float
    """Phase on the line above that of the ice."""

    def profile(self, frame: Frame) -> _Array:
        """(h, w) 1 on the line and -0.6 on its edge, falling to 0 beside them."""
        on, beside = (
            np.exp(-((self._distance(frame, shift) / np.float32(0.7 * self.half_width)) ** 2))
            for shift in ((0.0, 0.0), self.edge)
        )
        profile: _Array = on - np.float32(0.6) * beside
        return profile

    def depth(self, frame: Frame) -> _Array:
        """(h, w) depth of each pixel within the crack and its edge, in pixels."""
        y, x = self.edge
        between = ((y * part, x * part) for part in (0.0, 1 / 3, 2 / 3, 1.0))
        distance = np.minimum.reduce([self._distance(frame, shift) for shift in between])
        depth: _Array = np.float32(self.half_width) - distance
        return depth

    def _distance(self, frame: Frame, shift: tuple[float, float] = (0.0, 0.0)) -> _Array:
        """(h, w) distance from the displaced line, in pixels."""
        elsewhere = np.full(frame.shape, 255, np.uint8)
        corners = [np.rint(line + shift - np.array(frame.origin)).astype(np.int32)[:, ::-1] for line in self.lines]
        cv2.polylines(elsewhere, corners, isClosed=False, color=0)
        if elsewhere.all():
            return np.full(frame.shape, np.inf, np.float32)
        return np.asarray(cv2.distanceTransform(elsewhere, cv2.DIST_L2, cv2.DIST_MASK_5), np.float32)


@dataclass(frozen=True, slots=True, kw_only=True)
class Speckle:
    """An area of crystalline ice, with grains that diffract: bright and dark spots."""

    y: float
    x: float
    radius: float
    """Pixels, as its centre."""
    grain_px: float
    contrast: float
    """Standard deviation of the transmission."""

    def transmission(self, frame: Frame, rng: np.random.Generator) -> _Array:
        """(h, w) relative transmission on a frame, mean 1."""
        y, x = frame.coordinates()
        white = rng.standard_normal(frame.shape, np.float32)
        noise = np.asarray(cv2.GaussianBlur(white, (0, 0), self.grain_px), np.float32)
        noise /= np.float32(max(float(noise.std()), 1e-12))
        grains = np.maximum(np.abs(noise) - 0.6, 0) * np.sign(noise)
        transmission: _Array = np.clip(1 + self.contrast * self._fade(y, x) * grains, 0.1, 2.0).astype(np.float32)
        return transmission

    def covers(self, frame: Frame) -> NDArray[np.bool_]:
        """(h, w) whether the grains at each pixel have at least half of their contrast."""
        covers: NDArray[np.bool_] = self._fade(*frame.coordinates()) >= 0.5
        return covers

    def _fade(self, y: _Array, x: _Array) -> NDArray[np.floating]:
        fade: NDArray[np.floating] = np.clip(
            (self.radius - np.hypot(y - self.y, x - self.x)) / (0.3 * self.radius), 0, 1
        )
        return fade


def draw_clumps(count: int, shape: tuple[int, int], diameter_px: float, rng: np.random.Generator) -> tuple[Clump, ...]:
    """Random clumps of 6 to 40 molecules."""
    clumps = []
    for _ in range(count):
        molecules = int(rng.integers(6, 40))
        clumps.append(
            Clump(
                y=float(rng.uniform(0, shape[0])),
                x=float(rng.uniform(0, shape[1])),
                radius=float(diameter_px * np.sqrt(molecules) * rng.uniform(0.3, 0.5)),
                count=molecules,
            )
        )
    return tuple(clumps)


def draw_filaments(
    count: int, shape: tuple[int, int], pixel_size_angstrom: float, rng: np.random.Generator
) -> tuple[Filament, ...]:
    """Random filaments, as thin as DNA or as thick as a microtubule, that cross the micrograph."""
    filaments = []
    for _ in range(count):
        y, x, angle = rng.uniform(0, shape[0]), rng.uniform(0, shape[1]), rng.uniform(0, 2 * np.pi)
        arc = max(shape) * float(np.exp(rng.uniform(np.log(0.6), np.log(30))))
        thick = float(np.exp(rng.uniform(np.log(18), np.log(260)))) / 2
        filaments.append(
            Filament(
                centre_y=float(y + arc * np.sin(angle)),
                centre_x=float(x + arc * np.cos(angle)),
                arc_radius=arc,
                radius_px=thick / pixel_size_angstrom,
                hollow=float(rng.uniform(0.3, 0.75)) if thick > 50 and rng.random() < 0.6 else 0.0,
            )
        )
    return tuple(filaments)


def filament_phase(
    filament: Filament, frame: Frame, *, pixel_size_angstrom: float, interaction_rad_per_volt_angstrom: float
) -> _Array:
    """(h, w) float32 phase in rad of a filament of protein."""
    phase: _Array = filament.thickness(*frame.coordinates())
    phase *= np.float32(pixel_size_angstrom * PROTEIN_EXCESS_VOLT * interaction_rad_per_volt_angstrom)
    return phase


def draw_cracks(
    count: int, shape: tuple[int, int], pixel_size_angstrom: float, rng: np.random.Generator
) -> tuple[Crack, ...]:
    """Random cracks through the micrograph."""
    cracks = []
    for _ in range(count):
        half_width = float(np.exp(rng.uniform(np.log(15), np.log(120)))) / pixel_size_angstrom
        step = max(2 * half_width, max(shape) / 60)

        def walk(start: NDArray[np.float64], heading: float, length: float, step: float = step) -> NDArray[np.float64]:
            turns = heading + np.cumsum(rng.normal(0, 0.12, max(2, round(length / step))))
            jagged = turns + rng.normal(0, 0.4, turns.size)
            steps = step * np.column_stack([np.sin(jagged), np.cos(jagged)])
            return np.concatenate([start[np.newaxis], start + np.cumsum(steps, axis=0)])

        heading, middle = rng.uniform(0, 2 * np.pi), rng.uniform(0.15, 0.85, 2) * shape
        reach = max(shape) * rng.uniform(0.4, 1.2)
        main = np.concatenate([walk(middle, heading + np.pi, reach)[:0:-1], walk(middle, heading, reach)])
        lines = [main]
        for _ in range(int(rng.integers(0, 5))):
            angle = heading + rng.choice([-1, 1]) * rng.uniform(0.35, 1.2)
            lines.append(walk(main[rng.integers(len(main))], angle, max(shape) * rng.uniform(0.1, 0.6)))
        aside, away = rng.uniform(1.5, 3) * half_width, rng.uniform(0, 2 * np.pi)
        cracks.append(
            Crack(
                lines=tuple(lines),
                half_width=half_width,
                contrast=float(rng.choice([-1, 1]) * rng.uniform(0.06, 0.4)),
                edge=(float(aside * np.sin(away)), float(aside * np.cos(away))),
                phase_rad=float(rng.uniform(-0.3, 0.3)),
            )
        )
    return tuple(cracks)


def draw_speckle(
    count: int, shape: tuple[int, int], pixel_size_angstrom: float, rng: np.random.Generator
) -> tuple[Speckle, ...]:
    """Random areas of crystalline ice; some cover the whole micrograph."""
    return tuple(
        Speckle(
            y=float(rng.uniform(0, shape[0])),
            x=float(rng.uniform(0, shape[1])),
            radius=float(max(shape) * rng.uniform(0.15, 1.2)),
            grain_px=float(np.exp(rng.uniform(np.log(15), np.log(90)))) / pixel_size_angstrom,
            contrast=float(rng.uniform(0.03, 0.16)),
        )
        for _ in range(count)
    )
