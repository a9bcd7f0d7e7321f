"""Diameters that no particle has: most often given in nanometres instead of Å."""

from __future__ import annotations

__all__ = ["doubt_diameter"]

_SMALLEST_ANGSTROM = 30.0
"""About the size of lysozyme (14 kDa), which is too small to be seen."""
_LARGEST_ANGSTROM = 10_000.0
"""The largest viruses."""
_PER_NANOMETRE = 10


def doubt_diameter(angstrom: float) -> str | None:
    """The reason to doubt a diameter, whatever the micrographs are, with advice; None if there is none."""
    if _SMALLEST_ANGSTROM <= angstrom <= _LARGEST_ANGSTROM:
        return None
    found = f"expected {_SMALLEST_ANGSTROM:g} to {_LARGEST_ANGSTROM:g} Å, found {angstrom:g} Å"
    if _SMALLEST_ANGSTROM <= _PER_NANOMETRE * angstrom <= _LARGEST_ANGSTROM:
        return f"{found}; for {angstrom:g} nm, give {_PER_NANOMETRE * angstrom:g}"
    return found
