"""The grade of a micrograph: good, doubtful or bad, by rules that are stated and can be set, with reasons in words."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterator, Sequence
from typing import Annotated, Literal

import msgspec

from frazil.documents import Category, Grade, QualityDocument
from frazil.picking import Outlines
from frazil.quality.usable import outline_length

__all__ = ["Finding", "QualityRules", "Usual", "find_faults", "grade", "junk_category"]

_ICE_RING = 1.5
"""Strength of the ring at which ice is crystalline."""
_THINNER = 1.5
"""Brightness of junk, in standard deviations of the rest, from which it is thinner than ice: a crack."""
_LARGE_FRACTION = 0.05
"""Fraction of the area that a crack, or one piece of film, takes at least."""
_ELONGATED = 0.21
"""4 pi area over the square of the outline's length: 1 of a disc, some 0.4 of film, and less than this of a crack."""
_ALONE, _CORNER = 0.8, 2
"""Film is most of the junk, and reaches in over so many edges."""
_FAR = 2.0
"""A limit that is missed by so much makes a micrograph bad, and not only doubtful."""
_HARDLY_ANY = 0.25
"""Of the fewest picks: below this a micrograph is bad."""
_RELIABLE_SESSION = 0.5
"""Where at least this fraction of the session's micrographs shows its rings, one without is doubtful."""
_LEAST_USUAL = 5
"""Micrographs from which it is known what is usual in a session."""
_CLUMPED = 0.6
_NEAR_NYQUIST = 1.25
_MOST_KEPT = 500
_THINNEST_PERCENT = 95

_Fraction = Annotated[float, msgspec.Meta(ge=0, le=1)]
_ORDER: tuple[Category, ...] = ("crystalline ice", "cracked", "carbon", "contamination", "out of focus", "empty", "")
"""Which category is named where several would do: the one that explains the others."""
_WORST: tuple[Grade, ...] = ("bad", "doubtful", "good")


class QualityRules(msgspec.Struct, frozen=True, kw_only=True):
    """What a good micrograph is. A rule is not applied to what could not be measured."""

    least_usable_fraction: _Fraction = 0.5
    """One with less usable area is bad."""
    most_junk_fraction: _Fraction = 0.2
    """One with more junk is doubtful."""
    worst_resolution_angstrom: float = 8.0
    """One whose CTF fits to no better than this is doubtful; beyond twice this, bad."""
    least_defocus_um: float | None = None
    most_defocus_um: float | None = None
    """One beyond the range that was asked for is doubtful; beyond twice or half of it, bad. None: no such limit."""
    thickest_ice: float = 0.5
    """One with thicker ice, in mean free paths beyond the session's thinnest, is doubtful; beyond twice this, bad."""
    fewest_picks_fraction: _Fraction = 0.3
    """One with fewer picks that are expected to be particles, of the session's median, is doubtful; with a quarter of
    that, bad."""
    least_precision: _Fraction = 0.5
    """One is doubtful if a smaller fraction of its picks are expected to be particles."""
    most_drift: _Fraction = 0.5
    """One with more is doubtful."""


class Usual(msgspec.Struct, kw_only=True):
    """What is usual in a session, from its last micrographs."""

    particles: dict[str, float] = {}
    """Picks that are expected to be particles, by path."""
    counts: dict[str, float] = {}
    reliable: dict[str, bool] = {}

    def note(self, path: str, *, particles: float, mean_counts: float | None, is_reliable: bool | None) -> None:
        """Add what was measured of a micrograph, in place of an earlier assessment of it."""
        values: Sequence[tuple[dict, object]] = (  # type: ignore[type-arg]
            (self.particles, particles),
            (self.counts, mean_counts),
            (self.reliable, is_reliable),
        )
        for known, value in values:
            known.pop(path, None)
            if value is not None:
                known[path] = value
            if len(known) > _MOST_KEPT:
                del known[next(iter(known))]

    @property
    def median_particles(self) -> float | None:
        """Of a micrograph; None before it is known."""
        return statistics.median(self.particles.values()) if len(self.particles) >= _LEAST_USUAL else None

    def thinnest_counts(self, counts: float) -> float:
        """Mean counts of the session's thinnest micrographs, among them one with these: the upper twentieth.

        An empty hole or a lonely bright micrograph is not what others are compared with.
        """
        known = sorted([*self.counts.values(), counts])
        return known[math.ceil(_THINNEST_PERCENT / 100 * len(known)) - 1]

    @property
    def shows_rings(self) -> bool:
        """Whether the session's micrographs show the rings of their CTF, as a rule."""
        known = self.reliable.values()
        return len(known) >= _LEAST_USUAL and sum(known) >= _RELIABLE_SESSION * len(known)


class Finding(msgspec.Struct, frozen=True, kw_only=True):
    """What speaks against a micrograph."""

    grade: Literal["doubtful", "bad"]
    category: Category
    reason: str
    """In one line: what was found, and what is allowed."""


def junk_category(outlines: Outlines, shape: tuple[int, int], brightness: float | None) -> Category:
    """What most of the junk is: a crack is thin or runs long, film reaches in from a corner, and dirt lies about.

    Args:
        outlines: corners y, x in pixels of the micrograph.
        shape: (h, w) of the micrograph.
        brightness: of the junk beside the rest, in its standard deviations, where thinner is brighter; None if unknown.
    """
    areas = [_area(outline) for outline in outlines]
    if brightness is not None and brightness > _THINNER:
        return "cracked"
    if not areas or max(areas) < _LARGE_FRACTION * shape[0] * shape[1]:
        return "contamination"
    area, largest = max(zip(areas, outlines, strict=True), key=lambda one: one[0])
    if 4 * math.pi * area < _ELONGATED * outline_length(largest) ** 2:
        return "cracked"
    is_alone = area >= _ALONE * sum(areas)
    return "carbon" if is_alone and _edges_touched(largest, shape) >= _CORNER else "contamination"


def find_faults(
    measured: QualityDocument, picks: int, usual: Usual, rules: QualityRules, *, junk: Category = "contamination"
) -> Iterator[Finding]:
    """What speaks against a micrograph.

    Args:
        measured: all that was measured of it; its grade does not matter.
        picks: number of the model's picks, before any correction.
        usual: what is usual in its session.
        rules: what is allowed.
        junk: what its junk is.
    """
    yield from _area_faults(measured, rules, junk)
    if measured.ice_ring is not None and measured.ice_ring >= _ICE_RING:
        yield Finding(
            grade="bad",
            category="crystalline ice",
            reason=f"crystalline ice: a ring at 3.7 to 3.9 Å, {measured.ice_ring:.1f} times the spectrum beside it",
        )
    yield from _ctf_faults(measured, usual, rules)
    ice = measured.relative_ice_thickness
    if ice is not None and ice > rules.thickest_ice:
        yield Finding(
            grade="bad" if ice > _FAR * rules.thickest_ice else "doubtful",
            category="",
            reason=f"thick ice: {ice:.2f} mean free paths more than the session's thinnest (at most "
            f"{rules.thickest_ice:g})",
        )
    if measured.drift is not None and measured.drift > rules.most_drift:
        yield Finding(
            grade="doubtful",
            category="",
            reason=f"drift: the spectrum is {measured.drift:.0%} weaker along one direction (at most "
            f"{rules.most_drift:.0%})",
        )
    yield from _pick_faults(measured, picks, usual, rules)


def grade(findings: Sequence[Finding]) -> tuple[Grade, Category, list[str]]:
    """The worst of the findings' grades, the category that explains it, and all reasons, the worst first."""
    ordered = sorted(findings, key=lambda one: (_WORST.index(one.grade), _ORDER.index(one.category)))
    if not ordered:
        return "good", "", []
    worst = ordered[0].grade
    category: Category = next((one.category for one in ordered if one.grade == worst and one.category), "")
    return worst, category, [one.reason for one in ordered]


def _area_faults(measured: QualityDocument, rules: QualityRules, junk: Category) -> Iterator[Finding]:
    # What holds no data is a mask or the film that it was put over.
    category = junk if measured.junk_fraction >= (1 - measured.usable_fraction) / 2 else "carbon"
    if measured.usable_fraction < rules.least_usable_fraction:
        yield Finding(
            grade="bad",
            category=category,
            reason=f"{measured.usable_fraction:.0%} of the area is usable (at least {rules.least_usable_fraction:.0%})",
        )
    elif measured.junk_fraction > rules.most_junk_fraction:
        yield Finding(
            grade="doubtful",
            category=junk,
            reason=f"{measured.junk_fraction:.0%} of the area is junk (at most {rules.most_junk_fraction:.0%})",
        )


def _ctf_faults(measured: QualityDocument, usual: Usual, rules: QualityRules) -> Iterator[Finding]:
    ctf = measured.ctf
    if isinstance(ctf, msgspec.UnsetType):
        return
    if not ctf.is_reliable:
        if usual.shows_rings:
            yield Finding(
                grade="doubtful",
                category="out of focus",
                reason=f"no CTF can be fitted, unlike in the session's others: {ctf.doubt or 'it is not reliable'}",
            )
        return
    # A fit that reaches to where the pixels end is no worse than they are.
    worst = max(rules.worst_resolution_angstrom, _NEAR_NYQUIST * 2 * measured.pixel_size_angstrom)
    resolution = ctf.resolution_angstrom
    if resolution is not None and resolution > worst:
        yield Finding(
            grade="bad" if resolution > _FAR * worst else "doubtful",
            category="out of focus",
            reason=f"the CTF fits to {resolution:.1f} Å (at worst {worst:.3g} Å)",
        )
    defocus_um = 0.5e-4 * (ctf.defocus_u_angstrom + ctf.defocus_v_angstrom)
    least, most = rules.least_defocus_um, rules.most_defocus_um
    if least is not None and defocus_um < least:
        yield Finding(
            grade="bad" if defocus_um * _FAR < least else "doubtful",
            category="out of focus",
            reason=f"defocus {defocus_um:.2f} µm (at least {least:g} µm)",
        )
    if most is not None and defocus_um > most:
        yield Finding(
            grade="bad" if defocus_um > _FAR * most else "doubtful",
            category="out of focus",
            reason=f"defocus {defocus_um:.2f} µm (at most {most:g} µm)",
        )


def _pick_faults(measured: QualityDocument, picks: int, usual: Usual, rules: QualityRules) -> Iterator[Finding]:
    precision = measured.estimated_precision
    particles, median = picks * (1.0 if precision is None else precision), usual.median_particles
    fewest = None if median is None else rules.fewest_picks_fraction * median
    if fewest is not None and particles < fewest:
        yield Finding(
            grade="bad" if particles < _HARDLY_ANY * fewest else "doubtful",
            category="empty",
            reason=f"{picks} picks, {particles:.0f} of them particles, where the session's median is {median:.0f} (at "
            f"least {fewest:.0f})",
        )
    elif picks == 0 and median is None:
        yield Finding(grade="doubtful", category="empty", reason="no picks")
    if precision is not None and precision < rules.least_precision:
        yield Finding(
            grade="doubtful",
            category="",
            reason=f"{precision:.0%} of the picks are expected to be particles (at least {rules.least_precision:.0%})",
        )
    if measured.clumping is not None and measured.clumping < _CLUMPED:
        yield Finding(
            grade="doubtful",
            category="",
            reason=f"the picks clump: the nearest is {measured.clumping:.2f} times as far as if they were scattered",
        )


def _edges_touched(outline: Sequence[tuple[float, float]], shape: tuple[int, int]) -> int:
    """Number of edges of the micrograph that an outline reaches; outlines are those of coarse pixels."""
    h, w = shape
    y, x = [corner[0] for corner in outline], [corner[1] for corner in outline]
    near_y, near_x = h / 50, w / 50
    return sum((min(y) <= near_y, max(y) >= h - near_y, min(x) <= near_x, max(x) >= w - near_x))


def _area(outline: Sequence[tuple[float, float]]) -> float:
    """Of a closed outline, by the shoelace formula."""
    around = zip(outline, (*outline[1:], *outline[:1]), strict=True)
    return abs(sum(y0 * x1 - y1 * x0 for (y0, x0), (y1, x1) in around)) / 2
