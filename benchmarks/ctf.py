"""How well frazil fits the contrast transfer function: simulated micrographs whose defocus is known.

    python -m benchmarks.ctf [--micrographs N] [--pages]

Micrographs of five detectors, 0.5 to 3 µm, 20 to 60 e/Å², astigmatism of up to 0.2 µm, 200 and 300 kV, pixels of 0.8 to
1.8 Å. Then the same with what spoils a spectrum: no specimen but noise, strong low passes, drift. The daemon's own
functions measure the spectrum and fit it.

``--pages`` writes the figures into docs/reference/ctf.json, the tables into docs/reference/ctf.md, and two pictures
into docs/images. ``--check`` measures nothing: are the tables what the figures give?
"""

from __future__ import annotations

import argparse
import math
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median
from typing import Any

import cv2
import msgspec
import numpy as np
from numpy.typing import NDArray
from rich.console import Console

from benchmarks.figures import fill_tables, markdown_table
from benchmarks.speed.pictures import svg, text
from frazil.documents import CtfFit
from frazil.quality.ctf import draw_spectrum, fit_ctf, measure_drift
from frazil.quality.spectrum import PowerSpectrum, measure_spectrum
from frazil_trainer.simulate.micrograph import SimulatedMicrograph, series_seed, simulate_micrograph
from frazil_trainer.simulate.settings import SimulationSettings

REPOSITORY = Path(__file__).resolve().parents[1]
PAGE = REPOSITORY / "docs" / "reference" / "ctf.md"
FIGURES = PAGE.with_suffix(".json")
IMAGES = REPOSITORY / "docs" / "images"
SEED = 20261128
CLOSE = 0.02
"""Fraction of the defocus by which a fit may be off."""
CLEAR_ASTIGMATISM_ANGSTROM = 500.0
"""From here on, its angle is compared."""
SPEED_SIDE_PX = 4096
SPEED_REPEATS = 7
_SHOWN_PX = 190
"""Of a spectrum, to each side of its middle."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Detector:
    """A detector as the simulator has it: Gaussian transfer of the signal, of which a part acts on the noise too.

    With σ the blur in pixels and c the part of its variance that acts on noise, MTF = exp(−2π²σ²f²) and
    DQE = DQE(0) · exp(−4π²σ²(1 − c)f²), f in 1/pixel.
    """

    dqe: float
    """At zero frequency; electrons beyond it are lost."""
    blur_px: float
    noise_share: float


DETECTORS = {
    "K2": Detector(dqe=0.8, blur_px=0.42, noise_share=0.1),
    "K3": Detector(dqe=0.85, blur_px=0.38, noise_share=0.1),
    "Falcon 3": Detector(dqe=0.6, blur_px=0.55, noise_share=0.3),
    "Falcon 4": Detector(dqe=0.9, blur_px=0.36, noise_share=0.15),
    "CCD": Detector(dqe=0.3, blur_px=0.85, noise_share=0.6),
}
"""Gaussian approximations of what is published, not measured curves: docs/reference/ctf.md names the sources."""


class Case(msgspec.Struct, frozen=True, kw_only=True):
    """A simulated micrograph, and what was fitted to it."""

    detector: str
    spoilt: str
    pixel_size_angstrom: float
    voltage_kv: float
    dose_e_per_a2: float
    true_defocus_angstrom: float
    true_astigmatism_angstrom: float
    true_angle_deg: float
    defocus_angstrom: float
    astigmatism_angstrom: float
    angle_deg: float
    resolution_angstrom: float | None
    is_reliable: bool
    doubt: str
    drift: float | None

    @property
    def error(self) -> float:
        """Of the mean defocus, as a fraction of it."""
        return self.defocus_angstrom / self.true_defocus_angstrom - 1

    @property
    def is_close(self) -> bool:
        """Whether the defocus is within the goal."""
        return abs(self.error) <= CLOSE


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """All figures."""

    side_px: int
    cases: list[Case]
    seconds: list[float]
    """Of one core, for the spectrum and the fit of a micrograph of 4096 x 4096, each run."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Spoiling:
    """What spoils a micrograph."""

    changes: dict[str, Any]
    filtered: Callable[[NDArray[np.float32]], NDArray[np.float32]] | None = None


def equalised(pixels: NDArray[np.float32]) -> NDArray[np.float32]:
    """Blurred, cut to eight bits and equalised in tiles, as pictures are made for people."""
    blurred = cv2.GaussianBlur(pixels, (0, 0), 3)
    low, high = np.percentile(blurred, [0.5, 99.5])
    eight = (np.clip((blurred - low) / (high - low), 0, 1) * 255).astype(np.uint8)
    return np.asarray(cv2.createCLAHE(4.0, (8, 8)).apply(eight), np.float32)


EMPTY = {
    "coverage_range": (0.0, 0.0),
    "ice_noise_rad_angstrom": 0.0,
    "coarse_noise_range_rad_angstrom": (0.0, 0.0),
    "contamination_range": (0, 0),
    "carbon_probability": 0.0,
}
SPOILT = {
    "nothing but shot noise": Spoiling(changes=EMPTY),
    "blurred by 3 px, equalised": Spoiling(changes={}, filtered=equalised),
    "a thousandth of the contrast": Spoiling(changes={"elastic_share_range": (0.001, 0.001)}),
    "drift of 8 Å": Spoiling(changes={"drift_angstrom": (5.0, 6.2)}),
}


def settings_of(detector: Detector, rng: np.random.Generator, side_px: int) -> SimulationSettings:
    """Settings of a micrograph."""
    return SimulationSettings(
        shape=(side_px, side_px),
        pixel_size_angstrom=float(rng.uniform(0.8, 1.8)),
        voltage_kv=float(rng.choice([200.0, 300.0])),
        defocus_range_um=(0.5, 3.0),
        astigmatism_range_um=(0.0, 0.2),
        b_factor_range_a2=(40.0, 150.0),
        dose_e_per_a2=float(rng.uniform(20, 60)) * detector.dqe,
        detector_blur_px=detector.blur_px,
        noise_blur_share=detector.noise_share,
        ice_noise_rad_angstrom=float(rng.uniform(0.05, 0.12)),
        ice_sigma_angstrom=float(rng.uniform(0.8, 1.5)),
        carbon_probability=0.1,
    )


def simulate(
    detector: str, index: int, side_px: int, spoiling: Spoiling
) -> tuple[SimulationSettings, SimulatedMicrograph]:
    """Micrograph `index` of the series of a detector."""
    seed = series_seed(SEED + list(DETECTORS).index(detector), index)
    settings = settings_of(DETECTORS[detector], np.random.default_rng(seed), side_px)
    settings = replace(settings, **spoiling.changes)
    return settings, simulate_micrograph(settings, seed)


def fit(pixels: NDArray[np.generic], settings: SimulationSettings) -> tuple[PowerSpectrum, CtfFit]:
    """As the daemon does."""
    spectrum = measure_spectrum(pixels, settings.pixel_size_angstrom)
    if spectrum is None:
        raise ValueError(f"expected a spectrum of a micrograph of {pixels.shape}, found none")
    optics = {name: getattr(settings, name) for name in ("voltage_kv", "cs_mm", "amplitude_contrast")}
    return spectrum, fit_ctf(spectrum, **optics)


def measure_case(detector: str, index: int, side_px: int, spoilt: str) -> Case:
    """Simulate and fit one micrograph."""
    spoiling = SPOILT.get(spoilt, Spoiling(changes={}))
    settings, simulated = simulate(detector, index, side_px, spoiling)
    pixels = simulated.pixels if spoiling.filtered is None else spoiling.filtered(simulated.pixels)
    spectrum, found = fit(pixels, settings)
    transfer = simulated.transfer
    drift = measure_drift(spectrum, found)
    return Case(
        detector=detector,
        spoilt=spoilt,
        pixel_size_angstrom=round(settings.pixel_size_angstrom, 3),
        voltage_kv=settings.voltage_kv,
        dose_e_per_a2=round(settings.dose_e_per_a2, 1),
        true_defocus_angstrom=round((transfer.defocus_u_angstrom + transfer.defocus_v_angstrom) / 2, 1),
        true_astigmatism_angstrom=round(transfer.defocus_u_angstrom - transfer.defocus_v_angstrom, 1),
        true_angle_deg=round(transfer.astigmatism_angle_deg, 1),
        defocus_angstrom=round((found.defocus_u_angstrom + found.defocus_v_angstrom) / 2, 1),
        astigmatism_angstrom=round(found.defocus_u_angstrom - found.defocus_v_angstrom, 1),
        angle_deg=round(found.defocus_angle_deg, 1),
        resolution_angstrom=None if found.resolution_angstrom is None else round(found.resolution_angstrom, 2),
        is_reliable=found.is_reliable,
        doubt=found.doubt,
        drift=None if drift is None else round(drift, 3),
    )


def measure(micrographs: int, side_px: int, console: Console) -> Report:
    """Everything."""
    cases = []
    for index in range(micrographs):
        cases += [measure_case(detector, index, side_px, "") for detector in DETECTORS]
        console.print(f"{index + 1} of {micrographs}")
    spoilt = max(1, micrographs // 2)
    for name in SPOILT:
        console.print(name)
        cases += [measure_case("K3", index, side_px, name) for index in range(spoilt)]
    settings, simulated = simulate("K3", 0, SPEED_SIDE_PX, Spoiling(changes={"pixel_size_angstrom": 1.0}))
    seconds = []
    for _ in range(SPEED_REPEATS):
        started = time.process_time()
        fit(simulated.pixels, settings)
        seconds.append(round(time.process_time() - started, 3))
    return Report(side_px=side_px, cases=cases, seconds=seconds)


def percent(cases: Sequence[Case], holds: Callable[[Case], bool]) -> str:
    """How many of them, out of how many, and in percent."""
    count = sum(map(holds, cases))
    return f"{count} of {len(cases)} ({100 * count / len(cases):.0f} %)" if cases else "none"


def tables_of(report: Report) -> dict[str, str]:
    """The page's tables."""
    fair = [one for one in report.cases if not one.spoilt]
    rows = []
    for name in (*DETECTORS, "all"):
        of_it = [one for one in fair if name in (one.detector, "all")]
        reliable = [one for one in of_it if one.is_reliable]
        rows.append(
            [
                name,
                percent(of_it, lambda one: one.is_close),
                percent(reliable, lambda one: one.is_close),
                percent([one for one in of_it if not one.is_close], lambda one: not one.is_reliable),
                percent([one for one in of_it if one.is_close], lambda one: not one.is_reliable),
                f"{100 * median(abs(one.error) for one in of_it):.2f} %",
                f"{median(one.resolution_angstrom or math.inf for one in of_it):.1f} Å",
            ]
        )
    head = [
        "detector",
        "within 2 %",
        "of reliable ones",
        "others flagged",
        "good ones flagged",
        "median error",
        "fit to",
    ]
    detectors = markdown_table(head, rows, right=6)

    clear = [one for one in fair if one.is_reliable and one.true_astigmatism_angstrom >= CLEAR_ASTIGMATISM_ANGSTROM]
    angles = [abs((one.angle_deg - one.true_angle_deg + 90) % 180 - 90) for one in clear]
    differences = [abs(one.astigmatism_angstrom - one.true_astigmatism_angstrom) for one in fair if one.is_reliable]
    astigmatism = markdown_table(
        ["of reliable fits", "median", "95 of 100 are below"],
        [
            ["error of U − V", *(f"{value:.0f} Å" for value in np.percentile(differences, [50, 95]))],
            [
                f"error of the angle, from {CLEAR_ASTIGMATISM_ANGSTROM:g} Å on",
                *(f"{value:.1f}°" for value in np.percentile(angles, [50, 95])),
            ],
        ],
        right=2,
    )
    rows = []
    for name in ("", *SPOILT):
        of_it = [one for one in report.cases if one.spoilt == name and (name or one.detector == "K3")]
        wrong = [one for one in of_it if one.is_reliable and not one.is_close]
        drifts = [one.drift for one in of_it if one.drift is not None]
        rows.append(
            [
                name or "nothing (K3)",
                percent(of_it, lambda one: one.is_reliable),
                str(len(wrong)),
                f"{median(drifts):.2f}" if drifts else "",
            ]
        )
    spoilt = markdown_table(["what spoils it", "said to be reliable", "and off by over 2 %", "median drift"], rows, 3)
    speed = (
        f"Spectrum and fit of {SPEED_SIDE_PX} x {SPEED_SIDE_PX} pixels of 1 Å took {median(report.seconds):.2f} s of "
        f"one core (median of {len(report.seconds)}; least {min(report.seconds):.2f} s, most "
        f"{max(report.seconds):.2f} s). The micrographs of the tables have {report.side_px} x {report.side_px} pixels."
    )
    return {"detectors": detectors, "astigmatism": astigmatism, "spoilt": spoilt, "speed": speed}


def scatter(cases: Sequence[Case]) -> str:
    """Fitted against true defocus, as SVG."""
    left, bottom, per_um, most = 46, 330, 95, 3.3
    parts = [
        f'<line x1="{left}" y1="{bottom}" x2="{left + most * per_um}" y2="{bottom - most * per_um}" stroke="#bbb"/>'
    ]
    for tick in (0, 1, 2, 3):
        at = tick * per_um
        parts += [
            f'<line x1="{left + at}" y1="{bottom}" x2="{left + at}" y2="{bottom + 5}" stroke="#444"/>',
            f'<line x1="{left - 5}" y1="{bottom - at}" x2="{left}" y2="{bottom - at}" stroke="#444"/>',
            text(left + at, bottom + 18, str(tick), "middle"),
            text(left - 9, bottom - at + 4, str(tick), "end"),
        ]
    side = round(most * per_um)
    parts += [
        f'<rect x="{left}" y="{bottom - side}" width="{side}" height="{side}" fill="none" stroke="#444"/>',
        text(left + side / 2, bottom + 36, "true defocus (µm)", "middle"),
        f'<g transform="translate(14 {bottom - side / 2:.0f}) rotate(-90)">{text(0, 0, "fitted (µm)", "middle")}</g>',
    ]
    for place, (is_reliable, colour, name) in enumerate(((True, "#1b6ca8", "reliable"), (False, "#d9822b", "flagged"))):
        of_it = [one for one in cases if one.is_reliable == is_reliable]
        for one in of_it:
            x = left + per_um * one.true_defocus_angstrom / 1e4
            y = bottom - per_um * min(one.defocus_angstrom / 1e4, most)
            parts.append(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="2.5" fill="{colour}" fill-opacity="0.7"/>')
        y = bottom - side + 18 + 16 * place
        parts.append(f'<circle cx="{left + 14}" cy="{y - 4}" r="3" fill="{colour}"/>')
        parts.append(text(left + 24, y, f"{name} ({len(of_it)})", "start"))
    return svg(left + side + 12, bottom + 46, parts)


def draw(report: Report) -> None:
    """The two pictures of the page."""
    fair = [one for one in report.cases if not one.spoilt]
    (IMAGES / "ctf-defocus.svg").write_text(scatter(fair), "utf-8")
    changes = {"defocus_range_um": (1.4, 1.5), "astigmatism_range_um": (0.15, 0.2), "voltage_kv": 300.0}
    settings, simulated = simulate("K3", 1, report.side_px, Spoiling(changes=changes))
    picture = draw_spectrum(*fit(simulated.pixels, settings))[:, :, ::-1]
    middle = slice(len(picture) // 2 - _SHOWN_PX, len(picture) // 2 + _SHOWN_PX)
    cv2.imwrite(str(IMAGES / "ctf-spectrum.jpg"), picture[middle, middle], [cv2.IMWRITE_JPEG_QUALITY, 85])


def main() -> None:
    """Measure, print, and write what is asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--micrographs", type=int, default=40, metavar="N", help="of each detector")
    parser.add_argument("--side", type=int, default=3072, metavar="PX", help="of a micrograph")
    made = parser.add_mutually_exclusive_group()
    made.add_argument("--pages", action="store_true", help="write the figures, the page and its pictures")
    made.add_argument("--check", action="store_true", help="measure nothing; is the page what the figures give?")
    args = parser.parse_args()
    if args.check:
        page = PAGE.read_text("utf-8")
        is_stale = fill_tables(page, tables_of(msgspec.json.decode(FIGURES.read_bytes(), type=Report))) != page
        sys.exit(_STALE if is_stale else 0)
    cv2.setNumThreads(1)
    report = measure(args.micrographs, args.side, Console(stderr=True))
    for table in tables_of(report).values():
        print(table, end="\n\n")
    if args.pages:
        FIGURES.write_bytes(msgspec.json.format(msgspec.json.encode(report), indent=1) + b"\n")
        PAGE.write_text(fill_tables(PAGE.read_text("utf-8"), tables_of(report)), "utf-8")
        draw(report)


_STALE = f"{PAGE.name}: not what the figures give; run python -m benchmarks.ctf with --pages"

if __name__ == "__main__":
    main()
