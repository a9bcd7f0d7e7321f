"""Imaginary molecules: no two alike, and none like a real one.

They keep a picker from learning the few known shapes as the only ones.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

from frazil_trainer.simulate.density import DensityModel
from frazil_trainer.simulate.domains import Ball, assemble, fill

__all__ = ["IMAGINARY", "imagine_molecule"]

IMAGINARY = "imaginary"
"""Name of every imaginary molecule."""

_SYMMETRIES = ("C1", "C1", "C2", "C3", "C5", "D2", "D3", "D4", "D6", "T", "O", "I")
_RIM_ANGSTROM = 5.0
"""Helices reach a little beyond the domains that they fill, and blur beyond that."""
_DOMAINS = (14, 48)
_SPREAD = (4.0, 12.0)
"""Domains cover the sphere on which those of a symmetric molecule begin once at 4 (it is closed), a third at 12."""


def imagine_molecule(diameter_angstrom: float, rng: np.random.Generator) -> DensityModel:
    """A molecule of touching domains, of random symmetry, hollow or solid.

    It fills the given diameter only roughly, since a training set has one diameter for all of its molecules.
    """
    symmetry = str(rng.choice(_SYMMETRIES))
    order = len(Rotation.create_group(symmetry))
    count = max(1, round(float(rng.uniform(*_DOMAINS)) / order))
    # In units of a domain's radius.
    hollow = float(np.sqrt(4 * order * count / rng.uniform(*_SPREAD))) if order > 1 else 0.0
    centres = [_direction(rng) * hollow]
    while len(centres) < count:
        beside = centres[rng.integers(len(centres))] + 1.5 * _direction(rng)
        if float(np.linalg.norm(beside)) >= 0.7 * hollow:
            centres.append(beside)
    radii = rng.uniform(0.75, 1.25, count)
    reach = max(float(np.linalg.norm(centre)) + radius for centre, radius in zip(centres, radii, strict=True))
    unit_angstrom = (diameter_angstrom / 2 - _RIM_ANGSTROM) / reach
    balls: list[Ball] = [
        (*(unit_angstrom * centre).tolist(), float(unit_angstrom * radius))
        for centre, radius in zip(centres, radii, strict=True)
    ]
    molecule = assemble(IMAGINARY, symmetry, *fill(rng, balls))
    return replace(molecule, diameter_angstrom=max(diameter_angstrom, molecule.diameter_angstrom))


def _direction(rng: np.random.Generator) -> NDArray[np.float64]:
    """(3,) a random unit vector, uniform on the sphere."""
    vector = rng.standard_normal(3)
    direction: NDArray[np.float64] = vector / np.linalg.norm(vector)
    return direction
