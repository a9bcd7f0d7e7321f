"""Density models: molecules as clouds of equal Gaussians, and their projections."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

__all__ = ["DensityModel", "project", "random_rotations"]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class DensityModel:
    """A molecule in ice, as pseudo-atoms of one Gaussian shape."""

    name: str
    symmetry: str
    """Point group in Schoenflies notation, main axis along z: C1, C4, D2, O, I."""
    diameter_angstrom: float
    """Diameter of the sphere around the centre of mass that holds every pseudo-atom."""
    positions: NDArray[np.float64]
    """(n, 3) Å, columns x, y, z as `scipy.spatial.transform.Rotation` takes them; centre of mass at 0."""
    weights: NDArray[np.float64]
    """(n,) integrated potential above that of the ice, in V Å³."""
    sigma_angstrom: float
    """Standard deviation of each pseudo-atom."""

    def fragment(self, rng: np.random.Generator) -> DensityModel:
        """A random broken piece: the part of the model in a ball of a third of its radius around one atom.

        The piece is centred on its own centre of mass, and has no symmetry.
        """
        middle = self.positions[rng.integers(len(self.positions))]
        near = np.linalg.norm(self.positions - middle, axis=1) < self.diameter_angstrom * rng.uniform(0.1, 0.2)
        positions, weights = self.positions[near], self.weights[near]
        positions = positions - np.average(positions, axis=0, weights=np.abs(weights))
        return DensityModel(
            name=f"{self.name} fragment",
            symmetry="C1",
            diameter_angstrom=2 * float(np.linalg.norm(positions, axis=1).max()),
            positions=positions,
            weights=weights,
            sigma_angstrom=self.sigma_angstrom,
        )


def random_rotations(count: int, rng: np.random.Generator) -> NDArray[np.float64]:
    """(count, 3, 3) float64 rotation matrices, uniform over all orientations.

    A normalised quaternion of four normal numbers is uniform on the sphere in four dimensions.
    Source: K. Shoemake, Uniform random rotations, Graphics Gems III (1992) 124.
    """
    if not count:
        return np.empty((0, 3, 3))
    rotations: NDArray[np.float64] = Rotation.from_quat(rng.standard_normal((count, 4))).as_matrix()
    return rotations


def project(
    model: DensityModel,
    rotation: NDArray[np.float64],
    *,
    pixel_size_angstrom: float,
    size_px: int,
    centre_px: tuple[float, float],
) -> NDArray[np.float32]:
    """Project a rotated model along z onto a square of pixels, as points.

    Each pseudo-atom falls on its four nearest pixels by bilinear weights, which keeps sum and centre of mass.
    Its Gaussian shape is left out: a caller that transforms the result multiplies it by the Gaussian's transform.

    Args:
        model: the molecule.
        rotation: (3, 3) float64 rotation applied to the columns x, y, z of the positions.
        pixel_size_angstrom: side of a pixel.
        size_px: side of the square.
        centre_px: y, x of the centre of mass in the square; pixel centres at integers.

    Returns:
        (size_px, size_px) float32 projected potential in V Å.

    Raises:
        ValueError: the model reaches over the border of the square.
    """
    turned = model.positions @ rotation[:2].T / pixel_size_angstrom
    x, y = turned[:, 0] + centre_px[1], turned[:, 1] + centre_px[0]
    left, top = np.floor(x).astype(np.intp), np.floor(y).astype(np.intp)
    if min(left.min(), top.min()) < 0 or max(left.max(), top.max()) > size_px - 2:
        raise ValueError(f"{model.name} at {centre_px} reaches over the border of {size_px} pixels")
    fx, fy = x - left, y - top
    weights = model.weights / pixel_size_angstrom**2
    upper, lower = weights * (1 - fy), weights * fy
    corner = top * size_px + left
    index = np.concatenate([corner, corner + 1, corner + size_px, corner + size_px + 1])
    share = np.concatenate([upper * (1 - fx), upper * fx, lower * (1 - fx), lower * fx])
    square: NDArray[np.float32] = np.bincount(index, share, size_px**2).astype(np.float32)
    return square.reshape(size_px, size_px)
