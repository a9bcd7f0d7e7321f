"""What real molecules have beside their structure: a belt of lipid or detergent, parts that move, views that recur."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

from frazil_trainer.simulate.density import DensityModel, random_rotations

__all__ = ["bend", "embed", "empty_disc", "preferred_rotations"]

_SHEET_DISTANCE_ANGSTROM = (34.0, 42.0)
"""Between the two sheets of head groups of a bilayer."""
_SHEET_SPREAD_ANGSTROM = 5.0
_SHEET_EXCESS_VOLT = (1.2, 2.6)
"""Head groups, or the shell of a micelle, above the ice; protein has 2.3."""
_CORE_EXCESS_VOLT = (-0.6, 0.9)
"""Tails, above the ice: oil scatters about as ice, detergent and scaffold protein more."""
_POINT_SPACING_ANGSTROM = 6.0


def embed(model: DensityModel, rng: np.random.Generator) -> DensityModel:
    """The molecule in a nanodisc or a micelle: a belt of two sheets of head groups around its shortest or longest axis.

    The belt is up to twice as wide as the molecule is across, and displaced along the axis.
    """
    axes = np.linalg.svd(model.positions[:: max(1, len(model.positions) // 2000)], full_matrices=False)[2]
    axis = axes[rng.choice([0, 2])]
    along = model.positions @ axis
    across = model.positions - along[:, None] * axis
    middle = float(rng.uniform(-0.3, 0.3) * np.ptp(along))
    near = np.abs(along - middle) < _SHEET_DISTANCE_ANGSTROM[0] / 2
    inner = float(np.percentile(np.linalg.norm(across[near], axis=1), 80)) if near.any() else 20.0
    outer = min(max(inner * rng.uniform(1.2, 1.9), inner + 12.0), inner + 45.0)
    points, weights = _belt(inner, outer, rng)
    turn = _turn_onto(axis, rng)
    return _joined(model, points @ turn.T + middle * axis, weights)


def empty_disc(diameter_angstrom: float, rng: np.random.Generator) -> DensityModel:
    """A nanodisc or a micelle without a molecule in it."""
    points, weights = _belt(0.0, diameter_angstrom / 2, rng)
    return DensityModel(
        name="empty disc",
        symmetry="C1",
        diameter_angstrom=round(2 * float(np.linalg.norm(points, axis=1).max()) + 4, 1),
        positions=points - np.average(points, axis=0, weights=np.abs(weights)),
        weights=weights,
        sigma_angstrom=4.0,
    )


def bend(model: DensityModel, rng: np.random.Generator) -> DensityModel:
    """The molecule with one side turned about a hinge through it, as flexible ones are."""
    direction = random_rotations(1, rng)[0][:, 0]
    along = model.positions @ direction
    hinge = np.quantile(along, rng.uniform(0.35, 0.65))
    ramp = np.clip((along - hinge) / (0.25 * max(float(np.ptp(along)), 1e-6)), 0, 1)
    axis = np.cross(direction, random_rotations(1, rng)[0][:, 0])
    axis /= max(float(np.linalg.norm(axis)), 1e-6)
    angles = np.deg2rad(rng.normal(0, 14)) * ramp
    pivot = hinge * direction
    positions = Rotation.from_rotvec(angles[:, None] * axis).apply(model.positions - pivot) + pivot
    positions -= np.average(positions, axis=0, weights=np.abs(model.weights))
    reach = float(np.linalg.norm(positions, axis=1).max())
    return replace(model, positions=positions, diameter_angstrom=max(model.diameter_angstrom, 2 * reach + 2))


def preferred_rotations(count: int, spread_deg: float, rng: np.random.Generator) -> NDArray[np.float64]:
    """(count, 3, 3) rotation matrices about one view, tilted by some `spread_deg`, turned by any angle in the plane."""
    if not count:
        return np.empty((0, 3, 3))
    view = Rotation.from_matrix(random_rotations(1, rng)[0])
    tilts = Rotation.from_rotvec(
        np.deg2rad(spread_deg) * np.column_stack([rng.standard_normal((count, 2)), np.zeros(count)])
    )
    turns = Rotation.from_euler("z", rng.uniform(0, 2 * np.pi, (count, 1)))
    rotations: NDArray[np.float64] = (turns * tilts * view).as_matrix()
    return rotations


def _belt(inner: float, outer: float, rng: np.random.Generator) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """(n, 3) points of a ring about z, and (n,) weights in V Å³."""
    distance = float(rng.uniform(*_SHEET_DISTANCE_ANGSTROM))
    area = np.pi * (outer**2 - inner**2)
    count = max(24, round(area / _POINT_SPACING_ANGSTROM**2))

    def ring(z: NDArray[np.float64]) -> NDArray[np.float64]:
        radius, angle = np.sqrt(rng.uniform(inner**2, outer**2, len(z))), rng.uniform(0, 2 * np.pi, len(z))
        return np.column_stack([radius * np.cos(angle), radius * np.sin(angle), z])

    sheets = ring(rng.choice([-0.5, 0.5], count) * distance)
    core = ring(rng.uniform(-0.4, 0.4, count) * distance)
    sheet_weight = rng.uniform(*_SHEET_EXCESS_VOLT) * 2 * _SHEET_SPREAD_ANGSTROM * 2 * area / count
    core_weight = rng.uniform(*_CORE_EXCESS_VOLT) * 0.8 * distance * area / count
    return np.concatenate([sheets, core]), np.repeat([sheet_weight, core_weight], count)


def _turn_onto(axis: NDArray[np.float64], rng: np.random.Generator) -> NDArray[np.float64]:
    """(3, 3) a rotation that brings z onto `axis`."""
    side = np.cross(axis, rng.standard_normal(3))
    side /= np.linalg.norm(side)
    return np.column_stack([side, np.cross(axis, side), axis])


def _joined(model: DensityModel, points: NDArray[np.float64], weights: NDArray[np.float64]) -> DensityModel:
    positions = np.concatenate([model.positions, points])
    positions = positions - np.average(model.positions, axis=0, weights=model.weights)
    radius = float(np.linalg.norm(positions, axis=1).max())
    return DensityModel(
        name=model.name,
        symmetry="C1",
        diameter_angstrom=round(2 * radius + model.sigma_angstrom, 1),
        positions=positions,
        weights=np.concatenate([model.weights, weights]),
        sigma_angstrom=model.sigma_angstrom,
    )
