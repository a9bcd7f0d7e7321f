"""How micrographs are judged, and what that costs.

    python -m benchmarks.quality [--data FOLDER] [--pages] [--check]

Grades: micrographs are simulated of which it is known what is wrong with them, one kind at a time, in sessions with as
many good ones. The shipped model picks them; junk is where the simulator drew it, so that the rules are judged, and not
what finds junk. ``--data`` has folders of real micrographs, each a session: those that were published are thought good.

Costs: a real daemon picks simulated micrographs of 4096 x 4096 pixels with assessment and without, in turns: one
every few seconds, of which the latency counts, and all at once, of which the rate counts.

``--pages`` writes the figures into docs/reference/quality.json, and the tables into docs/reference/quality.md.
``--check`` measures nothing: are the tables what the figures give? ``--only grades|costs`` measures one of both, and
keeps the other's figures.
"""

from __future__ import annotations

import argparse
import os
import shutil
import statistics
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import mrcfile
import msgspec
import numpy as np
from numpy.typing import NDArray

from benchmarks.daemon_process import DaemonProcess
from benchmarks.figures import fill_tables, markdown_table
from frazil.client import PickStream
from frazil.documents import JunkArea, MicrographDocument, ModelStamp, QualityDocument
from frazil.model import Model, load_model
from frazil.model.contract import read_calibration
from frazil.picking import (
    Micrograph,
    Picker,
    PickingSettings,
    assess_threshold,
    choose_threshold,
    find_low_peaks,
    read_micrograph,
)
from frazil.quality.assessment import Optics, assess, measure
from frazil.quality.grade import QualityRules, Usual
from frazil.record import record_picks
from frazil.settings import default_model_path
from frazil_trainer.simulate import SimulationSettings, density_model, simulate_micrograph
from frazil_trainer.simulate.surroundings import Surroundings

REPOSITORY = Path(__file__).resolve().parents[1]
PAGE = REPOSITORY / "docs" / "reference" / "quality.md"
FIGURES = PAGE.with_suffix(".json")
SEED = 20261128
PER_KIND, PER_SESSION = 12, 12
"""Micrographs of each kind; of a session, of which each kind makes a part."""
SIDE_PX, PIXEL_ANGSTROM = 1536, 1.2
PARTICLE = "apoferritin"
RULES = QualityRules(least_defocus_um=0.8, most_defocus_um=2.5)
_COST_SIDE_PX, _COST_PICTURES = 4096, 4
_RING_ANGSTROM = (3.62, 3.72)

_Pixels = NDArray[np.float32]


# --- what is wrong with a micrograph ----------------------------------------------------------------------------------


def _good(**changes: Any) -> SimulationSettings:
    """Even ice with particles, as a session's good micrographs are."""
    settings = SimulationSettings(
        shape=(SIDE_PX, SIDE_PX),
        pixel_size_angstrom=PIXEL_ANGSTROM,
        defocus_range_um=(0.9, 2.4),
        b_factor_range_a2=(60.0, 160.0),
        coverage_range=(0.15, 0.35),
        ice_noise_rad_angstrom=0.09,
        ice_sigma_angstrom=1.3,  # its rings are seen beyond 10 Å
        carbon_probability=0.0,
        contamination_range=(0, 0),
        model=PARTICLE,
    )
    return replace(settings, **changes)


def _thicker(pixels: _Pixels) -> _Pixels:
    """As behind 0.8 mean free paths more of ice: so many fewer of the electrons come through."""
    counts = np.rint(pixels)
    fewer = np.random.default_rng(1).binomial(counts.astype(int).clip(0), np.exp(-0.8))
    return np.asarray(fewer + (pixels - counts), np.float32)  # what interpolation makes of counts stays


def _crystalline(pixels: _Pixels) -> _Pixels:
    """With a ring of crystalline ice: noise of that spacing, a third as strong as the shot noise."""
    rng = np.random.default_rng(2)
    frequency = np.hypot(
        np.fft.fftfreq(pixels.shape[0], PIXEL_ANGSTROM)[:, np.newaxis],
        np.fft.rfftfreq(pixels.shape[1], PIXEL_ANGSTROM),
    )
    shortest, longest = _RING_ANGSTROM
    ring = (frequency > 1 / longest) & (frequency < 1 / shortest)
    noise = np.fft.irfft2(np.fft.rfft2(rng.normal(size=pixels.shape)) * ring, pixels.shape)
    added: _Pixels = (pixels + noise / noise.std() * pixels.std() / 3).astype(np.float32)
    return added


_KINDS: dict[str, tuple[Callable[[], SimulationSettings], Surroundings, Callable[[_Pixels], _Pixels]]] = {
    "good": (_good, Surroundings(), lambda pixels: pixels),
    "empty": (lambda: _good(particles_per_micrograph=(0, 0)), Surroundings(), lambda pixels: pixels),
    "crystalline ice": (_good, Surroundings(), _crystalline),
    "carbon": (
        lambda: _good(carbon_probability=1.0),
        Surroundings(film_edge_range=(0.2, 0.8)),
        lambda pixels: pixels,
    ),
    "contamination": (lambda: _good(contamination_range=(20, 40)), Surroundings(), lambda pixels: pixels),
    "cracked": (_good, Surroundings(cracks=4), lambda pixels: pixels),
    "out of focus": (lambda: _good(defocus_range_um=(3.0, 4.8)), Surroundings(), lambda pixels: pixels),
    "thick ice": (
        lambda: _good(b_factor_range_a2=(300.0, 500.0), elastic_share_range=(0.3, 0.45)),
        Surroundings(),
        _thicker,
    ),
}


def simulate(kind: str, number: int) -> tuple[_Pixels, NDArray[np.uint8]]:
    """A micrograph of a kind, and where it has junk."""
    settings, surroundings, change = _KINDS[kind]
    seeds = np.random.SeedSequence([SEED, list(_KINDS).index(kind), number])
    made = simulate_micrograph(settings(), seeds, density_model(PARTICLE), surroundings)
    return change(made.pixels), made.junk


def _outlined(junk: NDArray[np.uint8]) -> JunkArea:
    """What was drawn as junk, with outlines as the daemon's."""
    step = 8
    coarse = cv2.resize((junk > 0).astype(np.uint8), None, fx=1 / step, fy=1 / step, interpolation=cv2.INTER_AREA)
    padded = np.pad(coarse, 1)
    contours, _ = cv2.findContours(padded, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_SIMPLE)
    outlines = [
        [(float((y - 0.5) * step), float((x - 0.5) * step)) for x, y in contour[:, 0, :]]
        for contour in contours
        if len(contour) >= 3
    ]
    return JunkArea(
        fraction=float((junk > 0).mean()), outlines=outlines, model=ModelStamp(name="drawn", version=0, sha256="")
    )


# --- grades -----------------------------------------------------------------------------------------------------------


class Judge:
    """Picks and assesses the micrographs of a session, as the daemon does.

    Args:
        model: that picks.
        diameter_angstrom: of the particle.
    """

    def __init__(self, model: Model, diameter_angstrom: float) -> None:
        self._model = model
        self._picker = Picker(model, PickingSettings(diameter_angstrom=diameter_angstrom))
        self._calibration = read_calibration(model.contract.calibration)

    def judge(
        self, session: Sequence[tuple[Micrograph, JunkArea | None]], rules: QualityRules
    ) -> list[QualityDocument]:
        """Assess the micrographs of a session, in their order, after a threshold was chosen for them."""
        peaks = []
        for micrograph, _ in session:
            picture = self._picker.prepare(micrograph)
            found = find_low_peaks(self._picker.score(picture), self._picker.limits, picture.pixel_size_angstrom)
            peaks.append(found.score.astype(np.float32))
        chosen = choose_threshold(peaks, self._picker.threshold, calibration=self._calibration).threshold
        picker = Picker(self._model, msgspec.structs.replace(self._picker.settings, threshold=chosen))
        usual, assessed = Usual(), []
        for (micrograph, junk), scores in zip(session, peaks, strict=True):
            document = record_picks(picker, micrograph, read_seconds=0.0, since=0.0).document
            if junk is not None:
                document = msgspec.structs.replace(document, junk=junk)
            measured = measure(micrograph.pixels, document, Optics())
            precision = assess_threshold([scores], chosen, calibration=self._calibration).precision
            quality = assess(document, document.picks, measured, usual, rules, estimated_precision=precision)
            ctf = None if isinstance(quality.ctf, msgspec.UnsetType) else quality.ctf
            usual.note(
                document.path,
                particles=quality.expected_particles,
                mean_counts=quality.mean_counts,
                is_reliable=None if ctf is None else ctf.is_reliable,
            )
            assessed.append(quality)
        return assessed


def measure_grades(model: Model) -> dict[str, Any]:
    """Grades and categories of each kind of micrograph, each in sessions with as many good ones."""
    judge = Judge(model, density_model(PARTICLE).diameter_angstrom)

    def made(kind: str, number: int) -> tuple[Micrograph, JunkArea | None]:
        pixels, junk = simulate(kind, number)
        path = Path(f"/{kind}/{number}.mrc")
        micrograph = Micrograph(path=path, pixels=pixels, pixel_size_angstrom=PIXEL_ANGSTROM)
        return micrograph, _outlined(junk) if junk.any() else None

    goods = [made("good", number) for number in range(PER_KIND)]
    counts: dict[str, Counter[str]] = {}
    for kind in _KINDS:
        found: Counter[str] = Counter()
        for first in range(0, PER_KIND, PER_SESSION):
            numbers = range(first, first + PER_SESSION)
            session = [goods[number] for number in numbers]
            if kind != "good":
                session += [made(kind, number) for number in numbers]
                order = np.random.default_rng(SEED + first).permutation(len(session))
                session = [session[i] for i in order]
            for quality in judge.judge(session, RULES):
                if quality.path.startswith(f"/{kind}/"):
                    found[f"{quality.grade}|{quality.category}"] += 1
        counts[kind] = found
        print(kind, dict(found), flush=True)
    return {kind: dict(sorted(found.items())) for kind, found in counts.items()}


def measure_real(model: Model, data: Path) -> dict[str, Any]:
    """Grades of published micrographs, each folder a session; its diameter is measured by its name."""
    counts = {}
    for folder in sorted(path for path in data.iterdir() if path.is_dir() and path.name in _REAL_DIAMETERS):
        micrographs = [read_micrograph(path, as_stored=True) for path in sorted(folder.glob("*.mrc"))]
        judged = Judge(model, _REAL_DIAMETERS[folder.name]).judge([(one, None) for one in micrographs], QualityRules())
        found = Counter(f"{quality.grade}|{quality.category}" for quality in judged)
        fits = [one.ctf for one in judged if not isinstance(one.ctf, msgspec.UnsetType)]
        counts[folder.name] = {
            "grades": dict(sorted(found.items())),
            "with rings": sum(fit.is_reliable for fit in fits),
            "with counts": sum(one.mean_counts is not None for one in judged),
        }
        print(folder.name, counts[folder.name], flush=True)
    return counts


_REAL_DIAMETERS = {"apoferritin": 130.0, "beta-galactosidase": 191.0, "ribosome-80s": 270.0, "trpv1": 150.0}


# --- costs ------------------------------------------------------------------------------------------------------------


def measure_costs(
    folder: Path, *, every_seconds: float, of_trickle: int, of_backlog: int, turns: int
) -> dict[str, Any]:
    """Latency of a trickle and rate of a backlog, with assessment and without, in turns."""
    pictures = []
    for number in range(_COST_PICTURES):
        settings = _good(shape=(_COST_SIDE_PX, _COST_SIDE_PX))
        made = simulate_micrograph(settings, np.random.SeedSequence([SEED, 99, number]), density_model(PARTICLE))
        pictures.append(folder / f"picture{number}.mrc")
        with mrcfile.new(pictures[-1], overwrite=True) as mrc:
            mrc.set_data(made.pixels.astype(np.float32))
            mrc.voxel_size = PIXEL_ANGSTROM
    latencies: dict[bool, list[float]] = {True: [], False: []}
    rates: dict[bool, list[float]] = {True: [], False: []}
    processor: dict[bool, list[float]] = {True: [], False: []}
    seconds: list[float] = []
    for turn in range(turns):
        for assesses in (True, False) if turn % 2 == 0 else (False, True):
            found, lasted = _trickle(folder, pictures, assesses, every_seconds, of_trickle)
            latencies[assesses] += found
            seconds += lasted
            rate, busy = _backlog(folder, pictures, assesses, of_backlog)
            rates[assesses].append(rate)
            processor[assesses].append(busy)
            print(
                f"turn {turn}, assess {assesses}: latency {statistics.median(found):.3f} s, "
                f"rate {rate:.3f} /s, processor {busy:.3f} s a micrograph, load {os.getloadavg()[0]:.1f}",
                flush=True,
            )
    return {
        "every_seconds": every_seconds,
        "micrographs of a trickle": len(latencies[True]),
        "micrographs of a backlog": of_backlog,
        "turns": turns,
        "latency_seconds": {"with": _middle(latencies[True]), "without": _middle(latencies[False])},
        "latency_ratio": round(statistics.median(latencies[True]) / statistics.median(latencies[False]), 4),
        "micrographs_per_second": {"with": _middle(rates[True]), "without": _middle(rates[False])},
        "rate_ratio": round(statistics.median(rates[True]) / statistics.median(rates[False]), 4),
        "processor_seconds_per_micrograph": {"with": _middle(processor[True]), "without": _middle(processor[False])},
        "processor_ratio": round(statistics.median(processor[True]) / statistics.median(processor[False]), 4),
        "assessment_seconds": _middle(seconds),
        "load": round(os.getloadavg()[0], 1),
    }


def _middle(values: Sequence[float]) -> float:
    return round(statistics.median(values), 4)


def _serving(folder: Path, assesses: bool) -> tuple[Path, DaemonProcess]:
    watched = folder / "watched"
    for used in (watched, folder / "out"):
        shutil.rmtree(used, ignore_errors=True)
    watched.mkdir()
    diameter = density_model(PARTICLE).diameter_angstrom
    options = ["--diameter", diameter, "--device", "cpu", "--threads", "1", "--threshold", "0.3"]
    return watched, DaemonProcess(watched, folder / "out", *options, "--assess" if assesses else "--no-assess")


def _put(watched: Path, picture: Path, number: int) -> None:
    aside = watched.parent / "aside.mrc"
    shutil.copyfile(picture, aside)
    aside.rename(watched / f"m{number:04}.mrc")


def _trickle(
    folder: Path, pictures: Sequence[Path], assesses: bool, every_seconds: float, count: int
) -> tuple[list[float], list[float]]:
    """From each micrograph's file in its place to its picks at a subscriber; and how long assessments took."""
    watched, serving = _serving(folder, assesses)
    put: dict[str, float] = {}
    latencies, seconds = [], []
    topics = ("picks", "quality")
    with serving as daemon, PickStream(daemon.stream, topics=topics, since=1) as stream:
        stream.wait_connected(60)
        for number in range(count + 1):
            began = time.monotonic()
            put[f"m{number:04}.mrc"] = began
            _put(watched, pictures[number % len(pictures)], number)
            while (left := began + every_seconds - time.monotonic()) > 0:
                document = stream.receive(left)
                if isinstance(document, MicrographDocument):
                    latencies.append(time.monotonic() - put[document.micrograph])
                elif isinstance(document, QualityDocument):
                    seconds.append(document.seconds)
    return latencies[1:], seconds  # the first one warms up


def _backlog(folder: Path, pictures: Sequence[Path], assesses: bool, count: int) -> tuple[float, float]:
    """Micrographs a second, and the daemon's processor time for each, from the first result to the last of many that
    lie there at the start.
    """
    watched, serving = _serving(folder, assesses)
    for number in range(count):
        _put(watched, pictures[number % len(pictures)], number)
    with serving as daemon:
        first, _ = daemon.wait_for(r"picked m")
        before = _processor_seconds(daemon)
        last, _ = daemon.wait_for(r"picked m", count - 1)
        busy = _processor_seconds(daemon) - before
    return (count - 1) / (last - first), busy / (count - 1)


def _processor_seconds(daemon: DaemonProcess) -> float:
    """User and system time of the daemon's own process."""
    fields = Path(f"/proc/{daemon.process.pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


# --- the page ---------------------------------------------------------------------------------------------------------


def _tables(figures: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    grades = figures["grades"]
    categories = list(dict.fromkeys(key.partition("|")[2] for found in grades.values() for key in found))
    categories.sort(key=lambda one: (one != "", list(_KINDS).index(one) if one in _KINDS else 99))
    rows = [
        [
            kind,
            *(str(sum(n for key, n in found.items() if key.startswith(f"{grade}|"))) for grade in _GRADES),
            *(str(sum(n for key, n in found.items() if key.endswith(f"|{category}"))) for category in categories),
        ]
        for kind, found in grades.items()
    ]
    head = ["micrographs with", *_GRADES, *(category or "none" for category in categories)]
    yield "grades", markdown_table(head, rows, len(head) - 1)
    if "real" in figures:
        rows = [
            [
                name,
                str(sum(found["grades"].values())),
                *(str(sum(n for key, n in found["grades"].items() if key.startswith(f"{g}|"))) for g in _GRADES),
                str(found["with rings"]),
                str(found["with counts"]),
            ]
            for name, found in figures["real"].items()
        ]
        head = ["session", "micrographs", *_GRADES, "with a CTF", "with counts"]
        yield "real", markdown_table(head, rows, len(head) - 1)
    costs = figures["costs"]
    latency, rate = costs["latency_seconds"], costs["micrographs_per_second"]
    busy = costs["processor_seconds_per_micrograph"]
    yield (
        "costs",
        markdown_table(
            ["", "with assessment", "without", "ratio"],
            [
                [
                    f"one every {costs['every_seconds']:g} s: median latency, s",
                    f"{latency['with']:.3f}",
                    f"{latency['without']:.3f}",
                    f"{costs['latency_ratio']:.3f}",
                ],
                [
                    f"{costs['micrographs of a backlog']} at once: micrographs a second",
                    f"{rate['with']:.3f}",
                    f"{rate['without']:.3f}",
                    f"{costs['rate_ratio']:.3f}",
                ],
                [
                    "processor time of a micrograph then, s",
                    f"{busy['with']:.3f}",
                    f"{busy['without']:.3f}",
                    f"{costs['processor_ratio']:.3f}",
                ],
                ["median time of an assessment, s", f"{costs['assessment_seconds']:.3f}", "", ""],
            ],
            3,
        ),
    )


_GRADES = ("good", "doubtful", "bad")


def main() -> int:
    """Measure, write, or compare; 1 where the page is not what the figures give."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--data", type=Path, help="folders of real micrographs")
    parser.add_argument("--only", choices=("grades", "costs"), help="measure this alone")
    parser.add_argument("--every", type=float, default=4.0, help="seconds between micrographs of the trickle")
    parser.add_argument("--turns", type=int, default=4)
    parser.add_argument("--pages", action="store_true", help="write the figures and the page")
    parser.add_argument("--check", action="store_true", help="measure nothing, compare page and figures")
    args = parser.parse_args()
    figures = msgspec.json.decode(FIGURES.read_bytes()) if FIGURES.exists() else {}
    if not args.check:
        cv2.setNumThreads(1)
        if args.only != "costs":
            model = load_model(default_model_path(), "cpu", 1)
            figures["grades"] = measure_grades(model)
            if args.data is not None:
                figures["real"] = measure_real(model, args.data)
        if args.only != "grades":
            with tempfile.TemporaryDirectory() as folder:
                figures["costs"] = measure_costs(
                    Path(folder), every_seconds=args.every, of_trickle=8, of_backlog=60, turns=args.turns
                )
        print(msgspec.json.format(msgspec.json.encode(figures), indent=1).decode())
        if not args.pages:
            return 0
        FIGURES.write_bytes(msgspec.json.format(msgspec.json.encode(figures), indent=1) + b"\n")
    text = fill_tables(PAGE.read_text("utf-8"), dict(_tables(figures)))
    if args.check:
        return 0 if text == PAGE.read_text("utf-8") else 1
    PAGE.write_text(text, "utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
