"""The molecules that the simulator knows: built from domains of helices, the same in every run.

None is an atomic structure. Each has the symmetry, the size, the mass and the rough layout of domains of a
molecule that is common in cryo-EM, which is what a picker sees.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import cache

import numpy as np
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

from frazil.errors import SettingsError
from frazil_trainer.simulate.density import DensityModel

__all__ = ["MODEL_NAMES", "density_model"]

_Points = NDArray[np.float64]
_Ball = tuple[float, float, float, float]
"""x, y, z and radius of a domain in Å."""

_RESIDUE_VOLUME_A3 = 134.0
"""A residue of 110 Da at 1.21 Å³/Da (Harpaz, Gerstein, Chothia, Structure 2 (1994) 641)."""
_EXCESS_POTENTIAL_VOLT = 2.3
"""Protein (about 7 V) above vitreous ice (about 4.7 V); Vulović et al., J. Struct. Biol. 183 (2013) 19."""
_SIGMA_ANGSTROM = 2.5
"""Half a residue, and the blur by motion within one exposure."""
_HELIX_RISE_ANGSTROM = 1.5
_HELIX_RADIUS_ANGSTROM = 2.3
_TRIALS = 12


def density_model(name: str) -> DensityModel:
    """The molecule of that name, built on first use and then kept.

    Raises:
        SettingsError: there is none; the message lists those there are.
    """
    if name not in _BUILDERS:
        raise SettingsError(f"model: expected one of {', '.join(MODEL_NAMES)}, found {name!r}")
    return _build(name)


@cache
def _build(name: str) -> DensityModel:
    symmetry, build = _BUILDERS[name]
    unit, relative_weights = build(np.random.default_rng(20170401))
    group = Rotation.create_group(symmetry)
    positions = np.concatenate([element.apply(unit) for element in group])
    weights = np.tile(relative_weights, len(group)) * _EXCESS_POTENTIAL_VOLT * _RESIDUE_VOLUME_A3
    positions -= np.average(positions, axis=0, weights=weights)
    radius = float(np.linalg.norm(positions, axis=1).max()) + _SIGMA_ANGSTROM
    positions.setflags(write=False)
    weights.setflags(write=False)
    return DensityModel(
        name=name,
        symmetry=symmetry,
        diameter_angstrom=round(2 * radius, 1),
        positions=positions,
        weights=weights,
        sigma_angstrom=_SIGMA_ANGSTROM,
    )


def _helix(rng: np.random.Generator, start: _Points, axis: _Points, residues: int) -> _Points:
    """(residues, 3) points along a helix of 3.6 residues a turn."""
    side = np.cross(axis, rng.standard_normal(3))
    side /= np.linalg.norm(side)
    along = np.arange(residues)[:, None]
    angle = np.deg2rad(100.0) * along
    across = np.cos(angle) * side + np.sin(angle) * np.cross(axis, side)
    points: _Points = start + _HELIX_RISE_ANGSTROM * along * axis + _HELIX_RADIUS_ANGSTROM * across
    return points


def _domain(rng: np.random.Generator, ball: _Ball) -> _Points:
    """(n, 3) points that fill a ball with helices in random directions, one residue each."""
    centre, radius = np.array(ball[:3]), ball[3]
    wanted = round(4 / 3 * np.pi * radius**3 / _RESIDUE_VOLUME_A3)
    pieces: list[_Points] = []
    count = 0
    while count < wanted:
        axis = rng.standard_normal(3)
        axis /= np.linalg.norm(axis)
        length = round(rng.uniform(0.6, 1.3) * radius / _HELIX_RISE_ANGSTROM)
        starts = rng.uniform(-radius, radius, (_TRIALS, 3))
        # The emptiest of several places: proteins are packed evenly.
        middles = starts + _HELIX_RISE_ANGSTROM * length / 2 * axis
        filled = np.concatenate([np.zeros((1, 3)), *pieces])
        room = np.linalg.norm(middles[:, None] - filled, axis=2).min(1)
        room[np.linalg.norm(middles, axis=1) > radius - _HELIX_RADIUS_ANGSTROM] = -1
        helix = _helix(rng, starts[room.argmax()], axis, length)
        helix = helix[np.linalg.norm(helix, axis=1) < radius][: wanted - count]
        pieces.append(helix)
        count += len(helix)
    points: _Points = np.concatenate(pieces) + centre
    return points


def _domains(rng: np.random.Generator, balls: Iterable[_Ball]) -> tuple[_Points, _Points]:
    """Points that fill all the balls, and a weight of 1 for each."""
    points = np.concatenate([_domain(rng, ball) for ball in balls])
    return points, np.ones(len(points))


def _galactosidase(rng: np.random.Generator) -> tuple[_Points, _Points]:
    """One of four monomers of a flat diamond with a hole, like beta-galactosidase (465 kDa)."""
    return _domains(rng, [(17, 18, 8, 20), (26, 42, -10, 19), (47, 32, 8, 20), (50, 10, -14, 19), (66, 14, 6, 18)])


def _apoferritin(rng: np.random.Generator) -> tuple[_Points, _Points]:
    """One of 24 bundles of four helices that make a hollow shell, like apoferritin (480 kDa)."""
    outwards = np.array([0.42, 0.25, 0.87])
    outwards /= np.linalg.norm(outwards)
    axis = np.cross(outwards, [0.3, 1.0, 0.1])
    axis /= np.linalg.norm(axis)
    across = np.cross(outwards, axis)
    helices = [
        _helix(rng, (50 + 5 * out) * outwards + 5 * side * across - 24 * axis, axis, 33)
        for out in (-1, 1)
        for side in (-1, 1)
    ]
    fifth = _helix(rng, 47 * outwards + 26 * axis - 10 * across, across, 16)
    points = np.concatenate([*helices, fifth])
    return points, np.full(len(points), 174 / len(points))


def _proteasome(rng: np.random.Generator) -> tuple[_Points, _Points]:
    """Two of 28 subunits of a barrel of four rings, like the 20S proteasome (700 kDa)."""
    return _domains(rng, [(36, 9, 53, 20), (45, 14, 45, 9), (36, -8, 18, 20), (45, -15, 24, 9)])


def _channel(rng: np.random.Generator) -> tuple[_Points, _Points]:
    """One of four subunits of a membrane channel in a belt of detergent, like TRPV1 (380 kDa)."""
    points, weights = _domains(
        rng, [(13, 5, 32, 14), (29, -7, 30, 13), (35, 12, -12, 17), (46, -10, -28, 14), (24, 2, 2, 12)]
    )
    # Detergent is hardly denser than ice: the belt shows as a faint halo.
    angle = rng.uniform(0, np.pi / 2, 450)
    radius = 48 + rng.normal(0, 5, angle.size)
    belt = np.stack([radius * np.cos(angle), radius * np.sin(angle), 30 + rng.normal(0, 7, angle.size)], 1)
    return np.concatenate([points, belt]), np.concatenate([weights, np.full(len(belt), 0.4)])


def _polymerase(rng: np.random.Generator) -> tuple[_Points, _Points]:
    """A claw with two arms and a stalk, like RNA polymerase II (510 kDa)."""
    base = [(0, 0, 0, 27), (-22, 14, 8, 25), (-18, -24, -6, 25), (-38, -6, -10, 22), (6, 6, 28, 22)]
    upper_arm = [(18, 30, 4, 23), (38, 36, 12, 20), (52, 28, 2, 17), (8, 40, -18, 19)]
    lower_arm = [(13, -33, 6, 22), (34, -39, -6, 20), (50, -28, -14, 16)]
    stalk = [(-46, 18, 20, 17), (-58, 28, 28, 14), (-14, -8, -30, 19)]
    return _domains(rng, [*base, *upper_arm, *lower_arm, *stalk])


def _ribosome(rng: np.random.Generator) -> tuple[_Points, _Points]:
    """A round large subunit with three horns and a flatter small one with a head, like a 70S (2.5 MDa)."""
    balls: list[_Ball] = [(-30, 0, 0, 40)]
    for x, y, z in rng.standard_normal((24, 3)):
        scale = 52 / float(np.linalg.norm((x, y, z)))
        balls.append((-26 + 0.85 * scale * x, scale * y, 1.1 * scale * z, float(rng.uniform(20, 28))))
    balls += [(-34, 78, 42, 19), (-20, 0, 92, 20), (-34, -84, 36, 17)]
    for at in np.linspace(-1, 1, 9):
        bend = float(14 * at * at)
        balls.append((48 + float(rng.uniform(-6, 6)) - bend, 66 * float(at), -8 + 30 * float(at), 24))
    balls += [(50, 32, -34, 22), (48, -18, 22, 23), (42, -44, -36, 20), (44, 84, 52, 16)]
    points, weights = _domains(rng, balls)
    # Domains overlap; thinning them to the mass of a ribosome keeps its lumps. RNA is denser than protein.
    kept = rng.permutation(len(points))[:14000]
    return points[kept], weights[kept] * 1.6


def _capsid(rng: np.random.Generator) -> tuple[_Points, _Points]:
    """One of 60 proteins of a hollow capsid with spikes at its threefold axes, like AAV (3.7 MDa)."""
    directions = {
        "barrel": (0.36, 0.62, 0.76, 112, 20),
        "spike": (0.52, 0.50, 0.72, 131, 12),
        "edge": (0.10, 0.42, 0.92, 110, 15),
        "pore": (0.02, 0.62, 0.80, 124, 8),
    }
    balls: list[_Ball] = []
    for x, y, z, height, radius in directions.values():
        scale = height / float(np.linalg.norm((x, y, z)))
        balls.append((scale * x, scale * y, scale * z, radius))
    return _domains(rng, balls)


_BUILDERS: dict[str, tuple[str, Callable[[np.random.Generator], tuple[_Points, _Points]]]] = {
    "galactosidase": ("D2", _galactosidase),
    "apoferritin": ("O", _apoferritin),
    "proteasome": ("D7", _proteasome),
    "channel": ("C4", _channel),
    "polymerase": ("C1", _polymerase),
    "ribosome": ("C1", _ribosome),
    "capsid": ("I", _capsid),
}
MODEL_NAMES: tuple[str, ...] = tuple(_BUILDERS)
"""Names that `density_model` knows."""
