"""Pixel sizes as files tell them: which can be used, and what is wrong with the others."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["PixelSize", "judge_pixel_size"]

_LEAST_ANGSTROM, _MOST_ANGSTROM = 0.01, 1000.0
"""Metres, nanometres and the dots per inch of a printer lie far outside."""
_MOST_DIFFERENCE = 0.01
"""Between x and y, as a fraction: picks have one pixel size."""


@dataclass(frozen=True, slots=True)
class PixelSize:
    """The pixel size that a file tells of."""

    angstrom: float | None = None
    """None where the file tells of none, or of none that can be used."""
    doubt: str = ""
    """Why it cannot be used, as the end of a sentence; empty where it can, and where the file tells of none."""


def judge_pixel_size(x_angstrom: float, y_angstrom: float) -> PixelSize:
    """Judge what a file says of its pixels' width and height; 0 where it says nothing."""
    if x_angstrom == 0:
        return PixelSize()
    if not _LEAST_ANGSTROM <= x_angstrom <= _MOST_ANGSTROM:
        return PixelSize(doubt=f"{x_angstrom:g} Å, which is no pixel size of a micrograph")
    # Negated, since nothing compares with what is no number.
    if y_angstrom != 0 and not abs(y_angstrom - x_angstrom) <= _MOST_DIFFERENCE * x_angstrom:
        return PixelSize(doubt=f"{x_angstrom:g} Å along x and {y_angstrom:g} Å along y, which must be equal within 1 %")
    return PixelSize(round(x_angstrom, 6))
