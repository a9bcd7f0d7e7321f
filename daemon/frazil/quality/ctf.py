"""The contrast transfer function (CTF), fitted to a power spectrum.

Names and signs are those of A. Rohou and N. Grigorieff, CTFFIND4, J. Struct. Biol. 192 (2015) 216, equations 1 to 4,
and of RELION: CTF = −sin χ, χ(s, α) = π λ s² (Δf(α) − ½ λ² s² Cs) + asin A + phase shift,
Δf(α) = ½ (U + V + (U − V) cos 2(α − angle)), underfocus positive, U ≥ V, angles from x towards y.

Rings are −cos 2χ around a smooth background, since sin² χ = ½ (1 − cos 2χ). What is fitted is the spectrum over its
background, so that the smooth transfer of a detector or a filter cancels. The half plane is averaged in sectors. In
each, the profile is correlated with the rings of every defocus; astigmatism then says which defocus to look up in which
sector, and a search over all of it takes milliseconds. Gauss-Newton steps follow.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from frazil.documents import CtfFit
from frazil.quality.spectrum import PowerSpectrum

__all__ = ["draw_spectrum", "fit_ctf", "measure_drift", "wavelength_angstrom"]

_Floats = NDArray[np.float64]

_COARSEST_ANGSTROM = 30.0
"""Beyond, the spectrum is that of the particles."""
_SECTORS = 24
_DEFOCUS_STEP_ANGSTROM = 100.0
_LARGEST_ASTIGMATISM_ANGSTROM = 3000.0
_ASTIGMATISM_STEP_ANGSTROM = 200.0
_ANGLES = 18
_BACKGROUND_DEGREE = 11
_ENVELOPE_DEGREE = 3
_B_FACTORS_A2 = (50.0, 200.0, 600.0)
"""Decay of the rings' power over the background, exp(−B s² / 2)."""
_MODEL_ERROR = 0.1
_LEAST_RING_STEPS = 3.0
"""Rings that are closer than this many steps of frequency cannot be told from each other."""
_GAUSS_NEWTON_STEPS = 8
_LEAST_GAIN = 1e-4
_WINDOW_STEPS = 4
_STRENGTH_STEPS = 15
"""Of frequency, over which the measured rings of a picture are made equally strong."""
_LEAST_CORRELATION = 0.5
_LEAST_SCORE = 12.0
"""By how many times the noise rings stand out. Below, many fits are off by over 2 %."""
_LEAST_RINGS = 1.5
_WORST_RESOLUTION_ANGSTROM = 15.0
_MOST_SECOND = 0.85
"""Of another defocus's score, as a fraction of the best one's."""


def wavelength_angstrom(voltage_kv: float) -> float:
    """The relativistic wavelength of an electron, in Å; 0.0197 at 300 kV.

    Source: E. J. Kirkland, Advanced Computing in Electron Microscopy, 2nd ed. (2010), equation 2.5.
    """
    return 12.398419843 / math.sqrt(voltage_kv * (2 * 510.99895 + voltage_kv))


@dataclass(frozen=True, slots=True, kw_only=True)
class _Optics:
    voltage_kv: float
    cs_mm: float
    amplitude_contrast: float

    def phase(self, s2: _Floats, defocus_angstrom: _Floats | float, shift_rad: float) -> _Floats:
        """χ at squared frequencies in 1/Å²."""
        wavelength = wavelength_angstrom(self.voltage_kv)
        spherical = wavelength**2 * self.cs_mm * 1e7 / 2
        chi: _Floats = np.pi * wavelength * s2 * (defocus_angstrom - spherical * s2)
        return chi + math.asin(self.amplitude_contrast) + shift_rad

    def equal_s2(self, s2: _Floats, defocus_angstrom: _Floats, mean_angstrom: float) -> _Floats:
        """The squared frequencies at which the mean defocus has the phase that `defocus_angstrom` has at `s2`."""
        spherical = wavelength_angstrom(self.voltage_kv) ** 2 * self.cs_mm * 1e7 / 2
        product = s2 * (defocus_angstrom - spherical * s2)
        if spherical == 0:
            return product / mean_angstrom
        root = np.sqrt(np.maximum(mean_angstrom**2 - 4 * spherical * product, 0))
        equal: _Floats = np.maximum(mean_angstrom - root, 0) / (2 * spherical)
        return equal


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Sectors:
    """The spectrum over its background, in sectors of the half plane."""

    s: _Floats
    """(r,) frequencies in 1/Å."""
    data: _Floats
    """(sectors, r) spectrum over background less 1, times `weight`; what is smooth in s was taken out."""
    weight: _Floats
    """(r,) one over the standard deviation that noise has there."""
    smooth: _Floats
    """(r, k) orthonormal columns: what is smooth, times `weight`."""

    @property
    def angles(self) -> _Floats:
        """(sectors, 1) of their middles, from x towards y."""
        return ((np.arange(_SECTORS) + 0.5) * np.pi / _SECTORS - np.pi / 2)[:, np.newaxis]

    def rings(self, waves: _Floats) -> _Floats:
        """(..., r) waves, weighted and without what is smooth in them."""
        weighted = waves * self.weight
        return weighted - (weighted @ self.smooth) @ self.smooth.T

    def until(self, finest_angstrom: float) -> _Sectors:
        """The same up to a resolution."""
        n = max(int(np.searchsorted(self.s, 1 / finest_angstrom)), 3 * _BACKGROUND_DEGREE)
        smooth, _ = np.linalg.qr(self.smooth[:n])
        data = self.data[:, :n]
        return _Sectors(s=self.s[:n], data=data - (data @ smooth) @ smooth.T, weight=self.weight[:n], smooth=smooth)


def _background(spectrum: PowerSpectrum) -> _Floats:
    """(r,) what is smooth in the rotational average, from the coarsest detail that is fitted on."""
    average = np.log(spectrum.rotational_average()[_first(spectrum) :])
    at = np.linspace(-1, 1, len(average))
    weights = np.sqrt(np.arange(len(average)) + 1.0 * _first(spectrum))
    fitted = np.polynomial.chebyshev.chebfit(at, average, _BACKGROUND_DEGREE, w=weights)
    return np.exp(np.polynomial.chebyshev.chebval(at, fitted))


def _first(spectrum: PowerSpectrum) -> int:
    return max(2, math.ceil(1 / (_COARSEST_ANGSTROM * spectrum.step_per_angstrom)))


def _in_sectors(spectrum: PowerSpectrum, background: _Floats) -> _Sectors:
    first = _first(spectrum)
    fy, fx = spectrum.frequencies()
    radius = spectrum.radii()
    inside = (radius >= first) & (radius < spectrum.power.shape[1])
    inside[:, 0] = False
    inside[len(inside) // 2] = False
    sector = ((np.arctan2(fy, fx) / np.pi + 0.5) * _SECTORS).astype(np.intp).clip(0, _SECTORS - 1)
    n = len(background)
    place = sector[inside] * n + radius[inside] - first
    counts = np.bincount(place, minlength=_SECTORS * n).reshape(_SECTORS, n)
    sums = np.bincount(place, spectrum.power[inside], minlength=_SECTORS * n).reshape(_SECTORS, n)
    mean = sums.sum(axis=0) / np.maximum(counts.sum(axis=0), 1)
    relative = np.where(counts > 0, sums / np.maximum(counts, 1), mean) / background - 1
    weight = 1 / np.sqrt(_SECTORS / (counts.sum(axis=0) * spectrum.tiles) + _MODEL_ERROR**2)
    smooth, _ = np.linalg.qr(
        np.polynomial.chebyshev.chebvander(np.linspace(-1, 1, n), _BACKGROUND_DEGREE) * weight[:, np.newaxis]
    )
    data = relative * weight
    return _Sectors(
        s=(first + np.arange(n, dtype=np.float64)) * spectrum.step_per_angstrom,
        data=data - (data @ smooth) @ smooth.T,
        weight=weight,
        smooth=smooth,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Guess:
    """Parameters of a CTF, in Å and radians."""

    mean: float
    cos: float
    """Half of the astigmatism times cos 2 angle."""
    sin: float
    shift: float
    score: float = 0.0
    """By how many standard deviations of noise the rings stand out."""

    def defocus(self, angles: _Floats) -> _Floats:
        return self.mean + self.cos * np.cos(2 * angles) + self.sin * np.sin(2 * angles)


def fit_ctf(
    spectrum: PowerSpectrum,
    *,
    voltage_kv: float,
    cs_mm: float,
    amplitude_contrast: float,
    phase_plate: bool = False,
    defocus_um: tuple[float, float] = (0.3, 5.0),
) -> CtfFit:
    """Fit defocus, astigmatism and, with a phase plate, the phase shift.

    Args:
        spectrum: of a micrograph.
        voltage_kv: acceleration voltage.
        cs_mm: spherical aberration.
        amplitude_contrast: fraction of it.
        phase_plate: fit a phase shift between 0 and 180 degrees too; else there is none.
        defocus_um: least and greatest mean underfocus.

    Returns:
        The best fit, and whether it can be relied on.
    """
    optics = _Optics(voltage_kv=voltage_kv, cs_mm=cs_mm, amplitude_contrast=amplitude_contrast)
    background = _background(spectrum)
    sectors = _in_sectors(spectrum, background)
    low, high = (1e4 * one for one in defocus_um)
    best, second = _search(sectors, optics, low, high, phase_plate)
    best = _refine(sectors, optics, best, phase_plate)
    agreement = _agreement(spectrum, optics, best, background)
    half = math.hypot(best.cos, best.sin)
    doubt = _doubt(best, second, agreement)
    return CtfFit(
        defocus_u_angstrom=best.mean + half,
        defocus_v_angstrom=best.mean - half,
        defocus_angle_deg=math.degrees(math.atan2(best.sin, best.cos) / 2) % 180,
        phase_shift_deg=math.degrees(best.shift),
        resolution_angstrom=agreement.resolution_angstrom,
        correlation=agreement.correlation,
        voltage_kv=voltage_kv,
        cs_mm=cs_mm,
        amplitude_contrast=amplitude_contrast,
        is_reliable=not doubt,
        doubt=doubt,
    )


def _spacing_steps(step: float, s: _Floats, optics: _Optics, defocus: _Floats | float) -> _Floats:
    """The distance between rings at frequencies s, in steps of frequency."""
    wavelength = wavelength_angstrom(optics.voltage_kv)
    slope = 2 * wavelength * s * np.abs(defocus - wavelength**2 * optics.cs_mm * 1e7 * s * s)
    spacing: _Floats = 1 / (np.maximum(slope, 1e-9) * step)
    return spacing


def _visible(sectors: _Sectors, optics: _Optics, defocus: _Floats | float) -> _Floats:
    """Where rings are far enough apart to be seen: 0 where they are not."""
    spacing = _spacing_steps(sectors.s[1] - sectors.s[0], sectors.s, optics, defocus)
    return np.clip(spacing - _LEAST_RING_STEPS + 1, 0, 1)


def _search(
    sectors: _Sectors, optics: _Optics, low: float, high: float, phase_plate: bool
) -> tuple[_Guess, _Guess | None]:
    """The best of all defocus values and astigmatisms, and the best with another defocus."""
    reach = round(_LARGEST_ASTIGMATISM_ANGSTROM / 2 / _DEFOCUS_STEP_ANGSTROM)
    steps = max(1, round((high - low) / _DEFOCUS_STEP_ANGSTROM) + 1)
    defocus = low + np.arange(-reach, steps + reach, dtype=np.float64) * _DEFOCUS_STEP_ANGSTROM
    s2 = sectors.s**2
    shifts = np.deg2rad(np.arange(0, 180, 15)) if phase_plate else np.zeros(1)
    found: list[_Guess] = []
    peaks = np.full(steps, -np.inf)
    angles = np.arange(_ANGLES) * np.pi / _ANGLES
    halves = np.arange(0, _LARGEST_ASTIGMATISM_ANGSTROM + 1, _ASTIGMATISM_STEP_ANGSTROM) / 2
    waves = optics.phase(s2, defocus[:, np.newaxis], 0.0)
    visible = _visible(sectors, optics, defocus[:, np.newaxis])
    for shift in shifts:
        cosines = -np.cos(2 * (waves + shift)) * visible
        for b_factor in _B_FACTORS_A2:
            rings = sectors.rings(cosines * np.exp(-b_factor / 2 * s2))
            rings /= np.maximum(np.linalg.norm(rings, axis=1, keepdims=True), 1e-9) * math.sqrt(_SECTORS)
            table = sectors.data @ rings.T
            for half in halves:
                for angle in angles if half else angles[:1]:
                    offsets = half * np.cos(2 * (sectors.angles[:, 0] - angle)) / _DEFOCUS_STEP_ANGSTROM
                    score = np.zeros(steps)
                    for row, offset in zip(table, np.rint(offsets).astype(int) + reach, strict=True):
                        score += row[offset : offset + steps]
                    peaks = np.maximum(peaks, score)
                    at = int(score.argmax())
                    found.append(
                        _Guess(
                            mean=float(defocus[reach + at]),
                            cos=half * math.cos(2 * angle),
                            sin=half * math.sin(2 * angle),
                            shift=float(shift),
                            score=float(score[at]),
                        )
                    )
    best = max(found, key=lambda one: one.score)
    means = defocus[reach : reach + steps]
    others = peaks[np.abs(means - best.mean) > max(1000.0, 0.1 * best.mean)]
    is_peak = others.size > 0
    second = _Guess(mean=0, cos=0, sin=0, shift=0, score=float(others.max())) if is_peak else None
    return best, second


def _rings(sectors: _Sectors, optics: _Optics, guess: _Guess) -> tuple[_Floats, _Floats]:
    """(sectors, r) rings of a guess as of one strength everywhere, and their derivatives by χ; neither is weighted."""
    twice = 2 * optics.phase(sectors.s**2, guess.defocus(sectors.angles), guess.shift)
    visible = _visible(sectors, optics, guess.mean)
    return -np.cos(twice) * visible, 2 * np.sin(twice) * visible


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Strength:
    """The strength of a guess's rings at each frequency, which fits best."""

    envelope: _Floats
    """(r,)."""
    columns: list[_Floats]
    score: float
    """By how many standard deviations of noise the rings stand out."""


def _strength(sectors: _Sectors, waves: _Floats) -> _Strength:
    """A smooth strength, linear in its coefficients, so that they are solved for and never searched."""
    shapes = np.polynomial.chebyshev.chebvander(np.linspace(-1, 1, len(sectors.s)), _ENVELOPE_DEGREE).T
    columns = [sectors.rings(waves * shape).ravel() for shape in shapes]
    matrix = np.stack(columns, axis=1)
    solved = np.linalg.lstsq(matrix, sectors.data.ravel(), rcond=1e-6)[0]
    return _Strength(envelope=solved @ shapes, columns=columns, score=float(np.linalg.norm(matrix @ solved)))


def _refine(sectors: _Sectors, optics: _Optics, guess: _Guess, phase_plate: bool) -> _Guess:
    """Gauss-Newton steps from a guess, as long as they make the fit better.

    Strength and parameters are separated: G. H. Golub and V. Pereyra, SIAM J. Numer. Anal. 10 (1973) 413.
    """
    by_defocus = np.pi * wavelength_angstrom(optics.voltage_kv) * sectors.s**2
    cos, sin = np.cos(2 * sectors.angles), np.sin(2 * sectors.angles)
    waves, slopes = _rings(sectors, optics, guess)
    strength = _strength(sectors, waves)
    for _ in range(_GAUSS_NEWTON_STEPS):
        slope = slopes * strength.envelope * by_defocus
        by_parameter = [slope, slope * cos, slope * sin, *([slopes * strength.envelope] if phase_plate else [])]
        matrix = np.stack([*(sectors.rings(one).ravel() for one in by_parameter), *strength.columns], axis=1)
        scale = np.maximum(np.linalg.norm(matrix, axis=0), 1e-12)
        change = np.linalg.lstsq(matrix / scale, sectors.data.ravel(), rcond=1e-6)[0]
        dmean, dcos, dsin, *dshift = (change / scale)[: len(by_parameter)].tolist()
        for fraction in (1.0, 0.3, 0.1):
            tried = _Guess(
                mean=guess.mean + fraction * dmean,
                cos=guess.cos + fraction * dcos,
                sin=guess.sin + fraction * dsin,
                shift=(guess.shift + fraction * dshift[0]) % math.pi if phase_plate else 0.0,
            )
            waves, slopes = _rings(sectors, optics, tried)
            better = _strength(sectors, waves)
            if better.score > strength.score:
                break
        else:
            break
        gain, strength, guess = better.score - strength.score, better, tried
        if gain < _LEAST_GAIN * strength.score:
            break
    return _Guess(mean=guess.mean, cos=guess.cos, sin=guess.sin, shift=guess.shift, score=strength.score)


def _equiphase(spectrum: PowerSpectrum, optics: _Optics, guess: _Guess, background: _Floats) -> tuple[_Floats, _Floats]:
    """(r,) frequencies, and the mean over places of equal phase of the spectrum over its background, less 1.

    Source: K. Zhang, Gctf, J. Struct. Biol. 193 (2016) 1, the equiphase average.
    """
    first = _first(spectrum)
    fy, fx = (axis.astype(np.float64) for axis in spectrum.frequencies())
    s2 = fy * fy + fx * fx
    cos2, sin2 = fx * fx - fy * fy, 2 * fx * fy  # times s²
    defocus = guess.mean + (guess.cos * cos2 + guess.sin * sin2) / np.maximum(s2, 1e-12)
    steps = np.sqrt(optics.equal_s2(s2, defocus, guess.mean)) / spectrum.step_per_angstrom - first
    radius = spectrum.radii() - first
    inside = (radius >= 0) & (radius < len(background)) & (steps >= 0) & (steps < len(background) - 1)
    inside[:, 0] = False
    inside[len(inside) // 2] = False
    relative = spectrum.power[inside] / background[radius[inside]] - 1
    at = steps[inside]
    lower = at.astype(np.intp)
    share = at - lower
    n = len(background)
    sums = np.bincount(lower, relative * (1 - share), n) + np.bincount(lower + 1, relative * share, n)
    weights = np.bincount(lower, 1 - share, n) + np.bincount(lower + 1, share, n)
    s = (first + np.arange(n, dtype=np.float64)) * spectrum.step_per_angstrom
    return s, sums / np.maximum(weights, 1e-9)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Agreement:
    """How the equiphase average follows the fitted rings."""

    resolution_angstrom: float | None
    """To which it does; None if nowhere."""
    correlation: float
    rings: float
    """Number of rings up to there."""


def _agreement(spectrum: PowerSpectrum, optics: _Optics, guess: _Guess, background: _Floats) -> _Agreement:
    """Follow the correlation in windows of two rings outwards, until it stays below a half.

    Source of the criterion: Rohou and Grigorieff (2015), section 2.6: the fit holds to where it falls below 0.5.
    """
    s, found = _equiphase(spectrum, optics, guess, background)
    phase = optics.phase(s * s, guess.mean, guess.shift)
    model = -np.cos(2 * phase)
    rising = np.maximum.accumulate(phase)
    index = np.arange(len(s))
    low = np.minimum(np.searchsorted(rising, phase - np.pi), index - _WINDOW_STEPS).clip(0)
    high = np.maximum(np.searchsorted(rising, phase + np.pi, "right"), index + _WINDOW_STEPS + 1).clip(None, len(s))
    local = _windowed_correlation(found, model, low, high)
    visible = _spacing_steps(spectrum.step_per_angstrom, s, optics, guess.mean) >= _LEAST_RING_STEPS
    first = int(np.searchsorted(phase, phase[0] + np.pi / 2))
    holds = (local >= _LEAST_CORRELATION) & visible
    fails = np.flatnonzero(~holds[first:])
    last = first + int(fails[0]) if len(fails) else len(s) - 1
    if last <= first:
        return _Agreement(resolution_angstrom=None, correlation=0.0, rings=0.0)
    part = slice(0, last + 1)
    return _Agreement(
        resolution_angstrom=float(1 / s[last]),
        correlation=float(_windowed_correlation(found[part], model[part], np.zeros(1, int), np.full(1, last + 1))[0]),
        rings=float((phase[last] - phase[0]) / np.pi),
    )


def _windowed_correlation(a: _Floats, b: _Floats, low: NDArray[np.intp], high: NDArray[np.intp]) -> _Floats:
    """(n,) Pearson correlations of two profiles from `low` to before `high`."""

    def mean(values: _Floats) -> _Floats:
        sums = np.concatenate([[0.0], np.cumsum(values)])
        result: _Floats = (sums[high] - sums[low]) / (high - low)
        return result

    of_a, of_b = mean(a), mean(b)
    spread = np.maximum(mean(a * a) - of_a**2, 1e-18) * np.maximum(mean(b * b) - of_b**2, 1e-18)
    correlation: _Floats = (mean(a * b) - of_a * of_b) / np.sqrt(spread)
    return correlation


def _doubt(best: _Guess, second: _Guess | None, agreement: _Agreement) -> str:
    """Why a fit is not to be relied on; empty if it is."""
    if agreement.resolution_angstrom is None:
        return "no rings where the fit has them"
    if best.score < _LEAST_SCORE:
        return f"rings stand out by {best.score:.1f} standard deviations, expected {_LEAST_SCORE:g}"
    if agreement.rings < _LEAST_RINGS:
        return f"{agreement.rings:.1f} rings follow the fit, expected {_LEAST_RINGS:g}"
    if agreement.resolution_angstrom > _WORST_RESOLUTION_ANGSTROM:
        return f"the fit holds to {agreement.resolution_angstrom:.1f} Å, expected {_WORST_RESOLUTION_ANGSTROM:g} Å"
    if second is not None and second.score > _MOST_SECOND * best.score:
        return "another defocus fits about as well"
    return ""


def measure_drift(spectrum: PowerSpectrum, fit: CtfFit) -> float | None:
    """How much weaker rings are along one direction than across it, 0 to 1; None where that cannot be told.

    The strength of the fitted rings in each sector, as a + b cos 2(α − direction): what is measured is 2b / (a + b).
    Drift, or a stage that shakes, blurs along its direction alone. Astigmatism is in the fit already.
    """
    if not fit.is_reliable or fit.resolution_angstrom is None:
        return None
    optics, guess = _optics_of(fit), _guess_of(fit)
    sectors = _in_sectors(spectrum, _background(spectrum)).until(fit.resolution_angstrom)
    waves = _rings(sectors, optics, guess)[0]
    rings = sectors.rings(waves * _strength(sectors, waves).envelope)
    power = (rings * rings).sum(axis=1)
    strength = (rings * sectors.data).sum(axis=1) / power
    basis = np.concatenate(
        [np.ones_like(sectors.angles), np.cos(2 * sectors.angles), np.sin(2 * sectors.angles)], axis=1
    )
    mean, cos, sin = np.linalg.lstsq(basis, strength, rcond=None)[0].tolist()
    if mean <= 0:
        return None
    uneven = math.hypot(cos, sin) / float(mean)
    return min(1.0, 2 * uneven / (1 + uneven))


def draw_spectrum(spectrum: PowerSpectrum, fit: CtfFit) -> NDArray[np.uint8]:
    """(2k + 1, 2k + 1, 3) picture: the measured rings on the left, the fitted ones on the right.

    As CTFFIND's diagnostic image. The measured rings are averaged over sectors, and made equally strong. Both halves
    are the same half plane, the left one seen from the other side of zero frequency. Row 0 is the most negative
    frequency along y.
    """
    first = _first(spectrum)
    sectors = _in_sectors(spectrum, _background(spectrum))
    relative = sectors.data / sectors.weight
    relative = (np.roll(relative, 1, axis=0) + 2 * relative + np.roll(relative, -1, axis=0)) / 4
    strength = np.sqrt(cv2.blur((relative**2).mean(axis=0)[np.newaxis], (_STRENGTH_STEPS, 1))[0])
    fy, fx = (axis.astype(np.float64) for axis in spectrum.frequencies())
    sector = (np.arctan2(fy, fx) / np.pi + 0.5) * _SECTORS - 0.5
    radius = np.hypot(fy, fx) / spectrum.step_per_angstrom - first
    measured = cv2.remap(
        (np.concatenate([relative, relative[:1]]) / np.maximum(strength, 1e-9)).astype(np.float32),
        radius.astype(np.float32),
        (sector % _SECTORS).astype(np.float32),
        cv2.INTER_LINEAR,
        borderMode=cv2.BORDER_REPLICATE,
    )
    measured = np.clip(0.5 + measured / 4, 0, 1)
    measured[(radius < 0) | (radius > len(sectors.s) - 1)] = 0
    guess = _guess_of(fit)
    s2 = fy * fy + fx * fx
    defocus = guess.defocus(np.arctan2(fy, fx))
    fitted = np.sin(_optics_of(fit).phase(s2, defocus, guess.shift)) ** 2
    finest = fit.resolution_angstrom or spectrum.finest_angstrom
    for half in (measured, fitted):
        half[s2 > 1 / finest**2] *= 0.5
    grey = np.concatenate([measured[::-1, :0:-1], fitted], axis=1)
    k = spectrum.power.shape[1] - 1
    picture = cv2.cvtColor((grey * 255).astype(np.uint8), cv2.COLOR_GRAY2RGB)
    if fit.resolution_angstrom is not None:
        edge = round(1 / (finest * spectrum.step_per_angstrom))
        cv2.circle(picture, (k, k), edge, (240, 160, 0), 1, cv2.LINE_AA)
    return np.asarray(picture, np.uint8)


def _optics_of(fit: CtfFit) -> _Optics:
    return _Optics(voltage_kv=fit.voltage_kv, cs_mm=fit.cs_mm, amplitude_contrast=fit.amplitude_contrast)


def _guess_of(fit: CtfFit) -> _Guess:
    half = (fit.defocus_u_angstrom - fit.defocus_v_angstrom) / 2
    angle = math.radians(2 * fit.defocus_angle_deg)
    return _Guess(
        mean=(fit.defocus_u_angstrom + fit.defocus_v_angstrom) / 2,
        cos=half * math.cos(angle),
        sin=half * math.sin(angle),
        shift=math.radians(fit.phase_shift_deg),
    )
