"""Molecules from files: real assemblies as pseudo-atoms."""

from __future__ import annotations

import csv
import zipfile
from pathlib import Path

import numpy as np

from frazil.errors import FrazilError
from frazil_trainer.simulate.density import DensityModel

__all__ = ["read_molecule", "read_molecules"]

_EXCESS_PER_ELECTRON_V_A3 = 5.2
"""Protein: 7.0 V at 0.44 electrons per Å³, less the 4.7 V of the ice that it displaces (Vulović et al., J. Struct.
Biol. 183 (2013) 19)."""
_NUCLEIC_EXCESS_PER_ELECTRON_V_A3 = 7.2
"""The same for nucleic acids, which hold 0.54 electrons per Å³."""
_LEAST_SIGMA_ANGSTROM = 3.0
_MOST_POINTS = 200_000
_INDEX_NAME = "index.csv"


def read_molecules(folder: Path) -> list[DensityModel]:
    """The molecules in a folder, in the order of its ``index.csv``.

    The table needs the columns ``file``, ``name``, ``median_bead_spacing_A`` and ``nucleic_mass_fraction``.

    Raises:
        FrazilError: the folder or a file in it is not as expected.
    """
    index = folder / _INDEX_NAME
    try:
        with index.open(newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
        return [
            read_molecule(
                folder / Path(row["file"]).name,
                name=row["name"],
                spacing_angstrom=float(row["median_bead_spacing_A"]),
                nucleic_fraction=float(row["nucleic_mass_fraction"]),
            )
            for row in rows
        ]
    except OSError as error:
        raise FrazilError(f"{index}: expected a table of molecules, cannot read it: {error.strerror}") from error
    except (KeyError, ValueError) as error:
        raise FrazilError(
            f"{index}: expected the columns file, name, median_bead_spacing_A and nucleic_mass_fraction, found {error}"
        ) from error


def read_molecule(path: Path, *, name: str, spacing_angstrom: float, nucleic_fraction: float) -> DensityModel:
    """One molecule from an .npz file with ``positions``, (n, 3) Å, and ``weights``, (n,) electrons.

    Args:
        path: of the file.
        name: of the molecule.
        spacing_angstrom: between neighbouring pseudo-atoms; they are blurred by as much.
        nucleic_fraction: of its mass.

    Raises:
        FrazilError: the file cannot be read or holds something else.
    """
    try:
        with np.load(path, allow_pickle=False) as arrays:
            positions = arrays["positions"].astype(np.float64)
            electrons = arrays["weights"].astype(np.float64)
    except OSError as error:
        raise FrazilError(f"{path}: expected a molecule, cannot read it: {error.strerror or error}") from error
    except (KeyError, ValueError, zipfile.BadZipFile) as error:
        raise FrazilError(f"{path}: expected arrays positions and weights, found {error}") from error
    fits = positions.ndim == 2 and positions.shape[1:] == (3,) and electrons.shape == positions.shape[:1]
    if not fits or not 0 < len(electrons) <= _MOST_POINTS:
        raise FrazilError(
            f"{path}: expected (n, 3) positions and (n,) weights of at most {_MOST_POINTS} points, "
            f"found shapes {positions.shape} and {electrons.shape}"
        )
    if not (np.isfinite(positions).all() and np.isfinite(electrons).all() and electrons.sum() > 0):
        raise FrazilError(f"{path}: expected finite positions, and weights of a sum above 0")
    excess = np.average(
        [_EXCESS_PER_ELECTRON_V_A3, _NUCLEIC_EXCESS_PER_ELECTRON_V_A3], weights=[1 - nucleic_fraction, nucleic_fraction]
    )
    positions -= np.average(positions, axis=0, weights=electrons)
    sigma = max(_LEAST_SIGMA_ANGSTROM, spacing_angstrom)
    return DensityModel(
        name=name,
        symmetry="C1",
        diameter_angstrom=round(2 * float(np.linalg.norm(positions, axis=1).max()) + sigma, 1),
        positions=positions,
        weights=electrons * excess,
        sigma_angstrom=sigma,
    )
