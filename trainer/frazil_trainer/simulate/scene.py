"""Everything in the beam except molecules: uneven ice, carbon film, contamination.

All positions are y, x in pixels of the micrograph, and may lie outside it: the transfer function carries
detail from beyond the border into the micrograph.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

__all__ = ["CarbonFilm", "Contamination", "Frame", "draw_carbon", "draw_contamination", "ice_transmission"]

_Array = NDArray[np.float32]


@dataclass(frozen=True, slots=True, kw_only=True)
class Frame:
    """A grid of pixels that may reach beyond the micrograph."""

    origin: tuple[int, int]
    """y, x of the grid's first pixel in the micrograph."""
    shape: tuple[int, int]
    """Rows and columns of the grid."""

    def window(self, y: float, x: float, radius: float) -> tuple[slice, slice, Frame]:
        """The rows and columns of the grid within `radius` of a point, and the frame of that part."""
        spans = []
        for centre, start, length in zip((y, x), self.origin, self.shape, strict=True):
            first = int(np.clip(np.floor(centre - radius) - start, 0, length))
            last = int(np.clip(np.ceil(centre + radius) + 1 - start, first, length))
            spans.append(slice(first, last))
        rows, columns = spans
        origin = (self.origin[0] + rows.start, self.origin[1] + columns.start)
        return rows, columns, Frame(origin=origin, shape=(rows.stop - rows.start, columns.stop - columns.start))

    def coordinates(self) -> tuple[_Array, _Array]:
        """(h, 1) and (1, w) float32 positions of the pixel centres along y and x."""
        y = np.arange(self.shape[0], dtype=np.float32)[:, None] + np.float32(self.origin[0])
        x = np.arange(self.shape[1], dtype=np.float32)[None, :] + np.float32(self.origin[1])
        return y, x


@dataclass(frozen=True, slots=True, kw_only=True)
class CarbonFilm:
    """The film around a round hole, with a slightly frayed edge; particles count only inside the hole."""

    hole_y: float
    hole_x: float
    hole_radius: float
    """Pixels, as the centre of the hole."""
    fraying: tuple[tuple[float, float, float], ...]
    """Waves of the edge: amplitude in pixels, waves round the hole, phase."""
    transmission: float
    """Transmission of the film, relative to that of ice."""
    phase_rad: float
    """Mean phase of the film above that of the ice."""
    noise_ratio: float
    """Strength of the phase noise on the film over that in the hole."""

    def depth(self, y: NDArray[np.floating], x: NDArray[np.floating]) -> _Array:
        """Depth of points within the film, in pixels, broadcast over y and x; negative in the hole."""
        dy, dx = y - np.float32(self.hole_y), x - np.float32(self.hole_x)
        depth: _Array = np.hypot(dy, dx).astype(np.float32) - np.float32(self.hole_radius)
        near = np.abs(depth) < 3 * sum(amplitude for amplitude, _, _ in self.fraying) + 2
        angle = np.arctan2(*np.broadcast_arrays(dy, dx))[near]
        for amplitude, waves, phase in self.fraying:
            depth[near] += amplitude * np.sin(waves * angle + phase)
        return depth


@dataclass(frozen=True, slots=True, kw_only=True)
class Contamination:
    """One ice crystal or piece of dirt: an irregular blob of low transmission."""

    y: float
    x: float
    radius: float
    """Mean radius in pixels."""
    lobes: tuple[tuple[float, float], ...]
    """Waves 1, 2, 3, ... of the outline: amplitude in radii, phase."""
    transmission: float
    """Transmission of its middle, relative to that of ice."""
    phase_rad: float
    """Phase of its middle above that of the ice."""
    is_small: bool = False
    """Whether it is one of the specks that frozen ethane leaves."""

    @property
    def reach_px(self) -> float:
        """Largest distance of the outline from the centre, in pixels."""
        return self.radius * (1 + sum(amplitude for amplitude, _ in self.lobes)) + 2

    def depth(self, y: NDArray[np.floating], x: NDArray[np.floating]) -> _Array:
        """Depth of points within the blob, in pixels along its radii, broadcast over y and x."""
        dy, dx = np.broadcast_arrays(y - np.float32(self.y), x - np.float32(self.x))
        angle = np.arctan2(dy, dx)
        outline = np.ones_like(angle)
        for wave, (amplitude, phase) in enumerate(self.lobes, start=1):
            outline += amplitude * np.cos(wave * angle + phase)
        depth: NDArray[np.floating] = self.radius * outline - np.hypot(dy, dx)
        return depth.astype(np.float32)

    def thickness(self, y: NDArray[np.floating], x: NDArray[np.floating]) -> _Array:
        """Thickness at points, 0 outside to 1 in the middle: it rises steeply from a hard edge."""
        inside = np.clip(self.depth(y, x) / np.float32(0.35 * self.radius), 0, 1)
        thickness: _Array = np.sqrt(inside)
        return thickness


def draw_carbon(
    shape: tuple[int, int],
    pixel_size_angstrom: float,
    rng: np.random.Generator,
    edge_range: tuple[float, float] = (0.35, 0.85),
) -> CarbonFilm:
    """A random film whose edge crosses the micrograph; by default it leaves most of it free.

    The edge lies at a fraction, from `edge_range`, of the way from the middle to a corner.
    """
    direction = rng.uniform(0, 2 * np.pi)
    dy, dx = float(np.sin(direction)), float(np.cos(direction))
    # Half the length of the micrograph in that direction, as far as a corner.
    half = (abs(dy) * shape[0] + abs(dx) * shape[1]) / 2
    edge = half * rng.uniform(*edge_range)
    radius = max(float(np.exp(rng.uniform(np.log(5e3), np.log(3e4)))) / pixel_size_angstrom, 1.2 * edge)
    fraying = tuple(
        (
            float(rng.exponential(6.0 / order) / pixel_size_angstrom),
            float(np.round(2 * np.pi * radius * pixel_size_angstrom * order / 1500)),
            float(rng.uniform(0, 2 * np.pi)),
        )
        for order in (1, 2.3, 5.1, 9.7)
    )
    return CarbonFilm(
        hole_y=(shape[0] - 1) / 2 + dy * (edge - radius),
        hole_x=(shape[1] - 1) / 2 + dx * (edge - radius),
        hole_radius=radius,
        fraying=fraying,
        transmission=float(rng.uniform(0.78, 0.92)),
        phase_rad=float(rng.uniform(0.1, 0.25)),
        noise_ratio=float(rng.uniform(1.6, 3.2)),
    )


def draw_contamination(
    count: int, shape: tuple[int, int], least_radius_px: float, rng: np.random.Generator
) -> tuple[Contamination, ...]:
    """Random blobs on the micrograph, each larger than `least_radius_px`."""
    return tuple(
        Contamination(
            y=float(rng.uniform(0, shape[0])),
            x=float(rng.uniform(0, shape[1])),
            radius=float(least_radius_px * (1 + rng.exponential(0.7))),
            lobes=tuple(
                (float(rng.uniform(0, 0.3) / order), float(rng.uniform(0, 2 * np.pi))) for order in range(1, 8)
            ),
            transmission=float(rng.uniform(0.4, 0.85)),
            phase_rad=float(rng.uniform(0.1, 0.5)),
        )
        for _ in range(count)
    )


def ice_transmission(shape: tuple[int, int], gradient: float, rng: np.random.Generator) -> _Array:
    """(h, w) float32 transmission of ice of uneven thickness: mean 1, 1 ± `gradient` at most.

    A tilted plane and a bowl or saddle, as ice in a hole is thinnest in its middle.
    """
    y = np.linspace(-1, 1, shape[0], dtype=np.float32)[:, None]
    x = np.linspace(-1, 1, shape[1], dtype=np.float32)[None, :]
    slope_y, slope_x, bowl_y, bowl_x, twist = rng.uniform(-1, 1, 5).astype(np.float32)
    surface: _Array = slope_y * y + slope_x * x + bowl_y * y * y + bowl_x * x * x + twist * y * x
    surface -= surface.mean(dtype=np.float64).astype(np.float32)
    surface *= np.float32(gradient * rng.uniform(0.3, 1.0)) / np.abs(surface).max()
    surface += 1
    return surface
