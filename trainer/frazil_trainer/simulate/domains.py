"""Domains of molecules: balls filled with helices, with one point for each residue."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

from frazil_trainer.simulate.density import DensityModel

__all__ = ["PROTEIN_EXCESS_VOLT", "Ball", "Points", "assemble", "fill", "helix"]

Points = NDArray[np.float64]
"""(n, 3) Å, columns x, y, z."""
Ball = tuple[float, float, float, float]
"""x, y, z and radius of a domain in Å."""

_RESIDUE_VOLUME_A3 = 134.0
"""A residue of 110 Da at 1.21 Å³/Da (Harpaz, Gerstein, Chothia, Structure 2 (1994) 641)."""
PROTEIN_EXCESS_VOLT = 2.3
"""Protein (about 7 V) above vitreous ice (about 4.7 V); Vulović et al., J. Struct. Biol. 183 (2013) 19."""
_SIGMA_ANGSTROM = 2.5
"""Half a residue, and the blur by motion within one exposure."""
_HELIX_RISE_ANGSTROM = 1.5
_HELIX_RADIUS_ANGSTROM = 2.3
_TRIALS = 12


def assemble(name: str, symmetry: str, unit: Points, relative_weights: NDArray[np.float64]) -> DensityModel:
    """A molecule of symmetric copies of one unit, with its main axis along z.

    The unit is (n, 3) residues with (n,) weights, 1 for a residue of protein. Symmetry is a point group in Schoenflies
    notation.
    """
    group = Rotation.create_group(symmetry)
    positions = np.concatenate([element.apply(unit) for element in group])
    weights = np.tile(relative_weights, len(group)) * PROTEIN_EXCESS_VOLT * _RESIDUE_VOLUME_A3
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


def helix(rng: np.random.Generator, start: Points, axis: Points, residues: int) -> Points:
    """(residues, 3) points along a helix of 3.6 residues a turn."""
    side = np.cross(axis, rng.standard_normal(3))
    side /= np.linalg.norm(side)
    along = np.arange(residues)[:, None]
    angle = np.deg2rad(100.0) * along
    across = np.cos(angle) * side + np.sin(angle) * np.cross(axis, side)
    points: Points = start + _HELIX_RISE_ANGSTROM * along * axis + _HELIX_RADIUS_ANGSTROM * across
    return points


def fill(rng: np.random.Generator, balls: Iterable[Ball]) -> tuple[Points, Points]:
    """Points that fill all the balls, and a weight of 1 for each."""
    points = np.concatenate([_domain(rng, ball) for ball in balls])
    return points, np.ones(len(points))


def _domain(rng: np.random.Generator, ball: Ball) -> Points:
    """(n, 3) points that fill a ball with helices in random directions, one residue each."""
    centre, radius = np.array(ball[:3]), ball[3]
    residues = round(4 / 3 * np.pi * radius**3 / _RESIDUE_VOLUME_A3)
    pieces: list[Points] = []
    count = 0
    while count < residues:
        axis = rng.standard_normal(3)
        axis /= np.linalg.norm(axis)
        length = round(rng.uniform(0.6, 1.3) * radius / _HELIX_RISE_ANGSTROM)
        starts = rng.uniform(-radius, radius, (_TRIALS, 3))
        # The emptiest of several places: proteins are packed evenly.
        middles = starts + _HELIX_RISE_ANGSTROM * length / 2 * axis
        filled = np.concatenate([np.zeros((1, 3)), *pieces])
        room = np.linalg.norm(middles[:, None] - filled, axis=2).min(1)
        room[np.linalg.norm(middles, axis=1) > radius - _HELIX_RADIUS_ANGSTROM] = -1
        piece = helix(rng, starts[room.argmax()], axis, length)
        piece = piece[np.linalg.norm(piece, axis=1) < radius][: residues - count]
        pieces.append(piece)
        count += len(piece)
    points: Points = np.concatenate(pieces) + centre
    return points
