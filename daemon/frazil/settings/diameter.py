"""Diameters that no particle has: most often nanometres that were given for Å."""

from __future__ import annotations

__all__ = ["doubt_diameter"]

_SMALLEST_ANGSTROM = 30.0
"""Lysozyme, of 14 kDa, is as large, and too small to be seen."""
_LARGEST_ANGSTROM = 10_000.0
"""The largest viruses."""
_PER_NANOMETRE = 10


def doubt_diameter(angstrom: float) -> str | None:
    """What speaks against a diameter, whatever the micrographs are; None where nothing does."""
    if _SMALLEST_ANGSTROM <= angstrom <= _LARGEST_ANGSTROM:
        return None
    found = f"expected {_SMALLEST_ANGSTROM:g} to {_LARGEST_ANGSTROM:g} Å, found {angstrom:g} Å"
    if _SMALLEST_ANGSTROM <= _PER_NANOMETRE * angstrom <= _LARGEST_ANGSTROM:
        return f"{found}; if {angstrom:g} nm were meant, give {_PER_NANOMETRE * angstrom:g}"
    return found
