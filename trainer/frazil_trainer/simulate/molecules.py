"""The named molecules of the simulator, built from domains of helices, the same in every run.

They are no atomic structures. Each has the symmetry, size, mass and rough layout of domains of a common molecule,
which is all that a picker sees.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import numpy as np

from frazil.errors import SettingsError
from frazil_trainer.simulate.density import DensityModel
from frazil_trainer.simulate.domains import Ball, Points, assemble, fill, helix

__all__ = ["MODEL_NAMES", "density_model"]


def density_model(name: str) -> DensityModel:
    """A molecule by name, built on first use and cached.

    Raises:
        SettingsError: the name is unknown; the message lists the known ones.
    """
    if name not in _BUILDERS:
        raise SettingsError(f"model: expected one of {', '.join(MODEL_NAMES)}, found {name!r}")
    return _build(name)


@cache
def _build(name: str) -> DensityModel:
    symmetry, build = _BUILDERS[name]
    unit, relative_weights = build(np.random.default_rng(20170401))
    return assemble(name, symmetry, unit, relative_weights)


def _galactosidase(rng: np.random.Generator) -> tuple[Points, Points]:
    """One of four monomers of a flat diamond with a hole, like beta-galactosidase (465 kDa)."""
    return fill(rng, [(17, 18, 8, 20), (26, 42, -10, 19), (47, 32, 8, 20), (50, 10, -14, 19), (66, 14, 6, 18)])


def _apoferritin(rng: np.random.Generator) -> tuple[Points, Points]:
    """One of 24 bundles of four helices that make a hollow shell, like apoferritin (480 kDa)."""
    outwards = np.array([0.42, 0.25, 0.87])
    outwards /= np.linalg.norm(outwards)
    axis = np.cross(outwards, [0.3, 1.0, 0.1])
    axis /= np.linalg.norm(axis)
    across = np.cross(outwards, axis)
    helices = [
        helix(rng, (50 + 5 * out) * outwards + 5 * side * across - 24 * axis, axis, 33)
        for out in (-1, 1)
        for side in (-1, 1)
    ]
    fifth = helix(rng, 47 * outwards + 26 * axis - 10 * across, across, 16)
    points = np.concatenate([*helices, fifth])
    return points, np.full(len(points), 174 / len(points))


def _proteasome(rng: np.random.Generator) -> tuple[Points, Points]:
    """Two of 28 subunits of a barrel of four rings, like the 20S proteasome (700 kDa)."""
    return fill(rng, [(36, 9, 53, 20), (45, 14, 45, 9), (36, -8, 18, 20), (45, -15, 24, 9)])


def _channel(rng: np.random.Generator) -> tuple[Points, Points]:
    """One of four subunits of a membrane channel in a belt of detergent, like TRPV1 (380 kDa)."""
    points, weights = fill(
        rng, [(13, 5, 32, 14), (29, -7, 30, 13), (35, 12, -12, 17), (46, -10, -28, 14), (24, 2, 2, 12)]
    )
    # Detergent is hardly denser than ice: the belt shows as a faint halo.
    angle = rng.uniform(0, np.pi / 2, 450)
    radius = 48 + rng.normal(0, 5, angle.size)
    belt = np.stack([radius * np.cos(angle), radius * np.sin(angle), 30 + rng.normal(0, 7, angle.size)], 1)
    return np.concatenate([points, belt]), np.concatenate([weights, np.full(len(belt), 0.4)])


def _polymerase(rng: np.random.Generator) -> tuple[Points, Points]:
    """A claw with two arms and a stalk, like RNA polymerase II (510 kDa)."""
    base = [(0, 0, 0, 27), (-22, 14, 8, 25), (-18, -24, -6, 25), (-38, -6, -10, 22), (6, 6, 28, 22)]
    upper_arm = [(18, 30, 4, 23), (38, 36, 12, 20), (52, 28, 2, 17), (8, 40, -18, 19)]
    lower_arm = [(13, -33, 6, 22), (34, -39, -6, 20), (50, -28, -14, 16)]
    stalk = [(-46, 18, 20, 17), (-58, 28, 28, 14), (-14, -8, -30, 19)]
    return fill(rng, [*base, *upper_arm, *lower_arm, *stalk])


def _ribosome(rng: np.random.Generator) -> tuple[Points, Points]:
    """A round large subunit with three horns and a flatter small one with a head, like a 70S (2.5 MDa)."""
    balls: list[Ball] = [(-30, 0, 0, 40)]
    for x, y, z in rng.standard_normal((24, 3)):
        scale = 52 / float(np.linalg.norm((x, y, z)))
        balls.append((-26 + 0.85 * scale * x, scale * y, 1.1 * scale * z, float(rng.uniform(20, 28))))
    balls += [(-34, 78, 42, 19), (-20, 0, 92, 20), (-34, -84, 36, 17)]
    for at in np.linspace(-1, 1, 9):
        bend = float(14 * at * at)
        balls.append((48 + float(rng.uniform(-6, 6)) - bend, 66 * float(at), -8 + 30 * float(at), 24))
    balls += [(50, 32, -34, 22), (48, -18, 22, 23), (42, -44, -36, 20), (44, 84, 52, 16)]
    points, weights = fill(rng, balls)
    # Domains overlap; thinning them to the mass of a ribosome keeps its lumps. RNA is denser than protein.
    kept = rng.permutation(len(points))[:14000]
    return points[kept], weights[kept] * 1.6


def _capsid(rng: np.random.Generator) -> tuple[Points, Points]:
    """One of 60 proteins of a hollow capsid with spikes at its threefold axes, like AAV (3.7 MDa)."""
    directions = {
        "barrel": (0.36, 0.62, 0.76, 112, 20),
        "spike": (0.52, 0.50, 0.72, 131, 12),
        "edge": (0.10, 0.42, 0.92, 110, 15),
        "pore": (0.02, 0.62, 0.80, 124, 8),
    }
    balls: list[Ball] = []
    for x, y, z, height, radius in directions.values():
        scale = height / float(np.linalg.norm((x, y, z)))
        balls.append((scale * x, scale * y, scale * z, radius))
    return fill(rng, balls)


_BUILDERS: dict[str, tuple[str, Callable[[np.random.Generator], tuple[Points, Points]]]] = {
    "galactosidase": ("D2", _galactosidase),
    "apoferritin": ("O", _apoferritin),
    "proteasome": ("D7", _proteasome),
    "channel": ("C4", _channel),
    "polymerase": ("C1", _polymerase),
    "ribosome": ("C1", _ribosome),
    "capsid": ("I", _capsid),
}
MODEL_NAMES: tuple[str, ...] = tuple(_BUILDERS)
"""Names for `density_model`."""
