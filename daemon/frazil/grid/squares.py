"""What came of each grid square and foil hole so far, from the assessments of their micrographs."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from statistics import fmean, median

import msgspec

from frazil.documents import Grade, HoleSummary

__all__ = ["Exposure", "Square", "Squares"]


class Exposure(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """A micrograph, as far as its square is judged by it."""

    seq: int
    """Of its newest assessment."""
    grid: str
    square: str
    hole: str
    stage_x_um: float | None
    stage_y_um: float | None
    grade: Grade
    picks: int
    relative_ice_thickness: float | None
    ctf_resolution_angstrom: float | None

    @property
    def particles(self) -> int:
        """Picks that count: none on a bad micrograph."""
        return 0 if self.grade == "bad" else self.picks


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Square:
    """A grid square and its exposures."""

    grid: str
    name: str
    exposures: Sequence[Exposure]
    """In the order in which they were assessed."""

    def count(self, grade: Grade) -> int:
        """Number of micrographs of a grade."""
        return sum(one.grade == grade for one in self.exposures)

    @property
    def particles(self) -> int:
        """Picks on micrographs that are not bad."""
        return sum(one.particles for one in self.exposures)

    @property
    def stage_um(self) -> tuple[float, float] | None:
        """Mean position of its exposures on the stage, x and y; None where it is not known."""
        return stage_of(self.exposures)

    @property
    def relative_ice_thickness(self) -> float | None:
        """Mean over its micrographs; None where it is not known."""
        return ice_of(self.exposures)

    @property
    def ctf_resolution_angstrom(self) -> float | None:
        """Median over its micrographs; None where it is not known."""
        return resolution_of(self.exposures)

    def holes(self, since: int = 0) -> Iterator[HoleSummary]:
        """What came of its holes, of those with an assessment after a sequence number."""
        by_hole = sorted((one for one in self.exposures if one.hole), key=lambda one: one.hole)
        for hole, found in groupby(by_hole, key=lambda one: one.hole):
            exposures = list(found)
            if max(one.seq for one in exposures) <= since:
                continue
            stage = stage_of(exposures)
            yield HoleSummary(
                hole=hole,
                micrographs=len(exposures),
                good=sum(one.grade == "good" for one in exposures),
                particles=sum(one.particles for one in exposures),
                stage_x_um=None if stage is None else stage[0],
                stage_y_um=None if stage is None else stage[1],
                relative_ice_thickness=ice_of(exposures),
                ctf_resolution_angstrom=resolution_of(exposures),
            )


@dataclass(slots=True, eq=False)
class Squares:
    """All squares of a session. A later assessment of a micrograph replaces an earlier one."""

    _by_micrograph: dict[str, Exposure] = field(default_factory=dict)
    _by_square: dict[tuple[str, str], dict[str, Exposure]] = field(default_factory=dict)

    def note(self, micrograph: str, exposure: Exposure | None) -> set[tuple[str, str]]:
        """Take in the newest assessment of a micrograph, by its path below the watched directory.

        Args:
            micrograph: its name.
            exposure: None where its square is not known.

        Returns:
            Grid and name of the squares that have changed.
        """
        changed = set()
        if (earlier := self._by_micrograph.pop(micrograph, None)) is not None:
            del self._by_square[earlier.grid, earlier.square][micrograph]
            changed.add((earlier.grid, earlier.square))
        if exposure is not None:
            self._by_micrograph[micrograph] = exposure
            self._by_square.setdefault((exposure.grid, exposure.square), {})[micrograph] = exposure
            changed.add((exposure.grid, exposure.square))
        return changed

    def square(self, grid: str, name: str) -> Square:
        """A square; without exposures if nothing came of it."""
        return Square(grid=grid, name=name, exposures=list(self._by_square.get((grid, name), {}).values()))

    def newest(self, grid: str, name: str) -> int:
        """Sequence number of the newest assessment in a square; 0 where there is none."""
        return max((one.seq for one in self._by_square.get((grid, name), {}).values()), default=0)

    def all(self) -> list[Square]:
        """Every square with exposures, in the order in which they came."""
        return [self.square(*key) for key, exposures in self._by_square.items() if exposures]

    def __len__(self) -> int:
        return len(self._by_micrograph)


def stage_of(exposures: Iterable[Exposure]) -> tuple[float, float] | None:
    """Mean position on the stage, x and y in µm; None where it is not known."""
    known = [
        (one.stage_x_um, one.stage_y_um)
        for one in exposures
        if one.stage_x_um is not None and one.stage_y_um is not None
    ]
    return (round(fmean(x for x, _ in known), 3), round(fmean(y for _, y in known), 3)) if known else None


def ice_of(exposures: Iterable[Exposure]) -> float | None:
    """Mean of the relative ice thickness; None where it is not known."""
    known = [one.relative_ice_thickness for one in exposures if one.relative_ice_thickness is not None]
    return round(fmean(known), 4) if known else None


def resolution_of(exposures: Iterable[Exposure]) -> float | None:
    """Median of the resolution to which the CTF fits; None where it is not known."""
    known = [one.ctf_resolution_angstrom for one in exposures if one.ctf_resolution_angstrom is not None]
    return round(median(known), 2) if known else None
