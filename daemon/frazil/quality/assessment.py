"""The assessment of a micrograph: what is measured of its pixels and of its picks, and the grade that follows.

Pixels are looked at once. When picks are made again of the same file, what was measured of the pixels still holds.
"""

from __future__ import annotations

import math

import msgspec
import numpy as np
from numpy.typing import NDArray

from frazil.documents import CtfFit, MicrographDocument, PickColumns, QualityDocument
from frazil.picking import Outlines
from frazil.picking.rescale import Rescaling, rescale
from frazil.quality.ctf import fit_ctf, measure_drift
from frazil.quality.grade import QualityRules, Usual, find_faults, grade, junk_category
from frazil.quality.ice import ice_ring, mean_counts, relative_ice_thickness
from frazil.quality.spectrum import measure_spectrum
from frazil.quality.usable import UsableArea, clumping, find_usable, perimeter_px

__all__ = ["Optics", "PixelMeasures", "assess", "measure"]

_DECIMALS = 4


class Optics(msgspec.Struct, frozen=True, kw_only=True):
    """What the microscope was set to, which a micrograph does not say."""

    voltage_kv: float = 300.0
    cs_mm: float = 2.7
    """Spherical aberration."""
    amplitude_contrast: float = 0.1
    phase_plate: bool = False


class PixelMeasures(msgspec.Struct, frozen=True, kw_only=True):
    """What the pixels of a micrograph say, by the names and in the units of `QualityDocument`."""

    usable_fraction: float
    junk_fraction: float = 0.0
    junk_brightness: float | None = None
    mean_counts: float | None = None
    ice_ring: float | None = None
    drift: float | None = None
    ctf: CtfFit | msgspec.UnsetType = msgspec.UNSET

    @classmethod
    def of(cls, earlier: QualityDocument) -> PixelMeasures:
        """What an earlier assessment of the same file measured."""
        return cls(**{name: getattr(earlier, name) for name in cls.__struct_fields__})


def measure(
    pixels: NDArray[np.generic],
    document: MicrographDocument,
    optics: Optics,
    *,
    facility_ctf: CtfFit | None = None,
    thinner_is_brighter: bool = True,
) -> PixelMeasures:
    """Measure what the pixels of a micrograph say.

    Args:
        pixels: (h, w) micrograph, as stored.
        document: its picks, which say its pixel size, the particle's diameter, and where junk is.
        optics: of the microscope.
        facility_ctf: the fit of another program, in place of frazil's own.
        thinner_is_brighter: whether more electrons are brighter, as where particles are dark.
    """
    area = find_usable(pixels, document.diameter_px, _outlines(document))
    brightness = _junk_brightness(pixels, area)
    spectrum = measure_spectrum(pixels, document.pixel_size_angstrom, ~area.usable)
    fit, ring, drift = facility_ctf, None, None
    if spectrum is not None:
        power = spectrum.rotational_average()
        ring = ice_ring(power, np.arange(power.size) * spectrum.step_per_angstrom)
        fit = fit or fit_ctf(spectrum, **msgspec.structs.asdict(optics))
        drift = measure_drift(spectrum, fit)
    return PixelMeasures(
        usable_fraction=round(area.fraction, _DECIMALS),
        junk_fraction=round(float(area.junk.mean()), _DECIMALS),
        junk_brightness=brightness if thinner_is_brighter or brightness is None else -brightness,
        mean_counts=_rounded(mean_counts(pixels, area.usable)),
        ice_ring=_rounded(ring),
        drift=_rounded(drift),
        ctf=msgspec.UNSET if fit is None else _rounded_fit(fit),
    )


def assess(
    document: MicrographDocument,
    picks: PickColumns,
    measured: PixelMeasures,
    usual: Usual,
    rules: QualityRules,
    *,
    estimated_precision: float | None = None,
) -> QualityDocument:
    """Grade a micrograph. The document has no epoch, and 0 for its own number and that of what it supersedes.

    Args:
        document: the picks, as committed.
        picks: those of the model, before any correction: what people change in them says nothing of the picture.
        measured: of the pixels.
        usual: what is usual in the session.
        rules: what is allowed.
        estimated_precision: fraction of the picks that are expected to be particles; None where that is not known.
    """
    y, x, _ = picks.arrays()
    area_px = measured.usable_fraction * math.prod(document.shape)
    counts = measured.mean_counts
    assessed = QualityDocument(
        epoch="",
        seq=0,
        micrograph=document.micrograph,
        path=document.path,
        directory=document.directory,
        of=document.seq,
        grade="good",
        picks=len(document.picks.score),
        pixel_size_angstrom=document.pixel_size_angstrom,
        relative_ice_thickness=None
        if counts is None
        else round(relative_ice_thickness(counts, usual.thinnest_counts(counts)), _DECIMALS),
        pick_density=round(y.size * document.diameter_px**2 / area_px, _DECIMALS) if area_px else 0.0,
        clumping=_rounded(
            clumping(y, x, area_px=area_px, perimeter_px=perimeter_px(document.shape, _outlines(document)))
        ),
        estimated_precision=_rounded(estimated_precision),
        **msgspec.structs.asdict(measured),
    )
    junk = junk_category(_outlines(document), document.shape, measured.junk_brightness)
    found, category, reasons = grade(list(find_faults(assessed, y.size, usual, rules, junk=junk)))
    return msgspec.structs.replace(assessed, grade=found, category=category, reasons=reasons)


def _outlines(document: MicrographDocument) -> Outlines:
    return () if isinstance(document.junk, msgspec.UnsetType) else document.junk.outlines


def _junk_brightness(pixels: NDArray[np.generic], area: UsableArea) -> float | None:
    """Mean of the junk less that of the usable area, over the standard deviation there, in coarse pixels."""
    usable = area.usable
    if not area.junk.any() or not usable.any():
        return None
    h, w = pixels.shape
    coarse = rescale(pixels, Rescaling(shape=(h, w), rescaled_shape=(usable.shape[0], usable.shape[1])))
    spread = float(coarse[usable].std())
    return _rounded(float(coarse[area.junk].mean() - coarse[usable].mean()) / spread) if spread > 0 else None


def _rounded_fit(fit: CtfFit) -> CtfFit:
    return msgspec.structs.replace(
        fit,
        defocus_u_angstrom=round(fit.defocus_u_angstrom, 1),
        defocus_v_angstrom=round(fit.defocus_v_angstrom, 1),
        defocus_angle_deg=round(fit.defocus_angle_deg, 2),
        phase_shift_deg=round(fit.phase_shift_deg, 2),
        resolution_angstrom=_rounded(fit.resolution_angstrom),
        correlation=_rounded(fit.correlation),
    )


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, _DECIMALS)
