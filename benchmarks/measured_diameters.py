"""How near ``frazil measure`` comes to known diameters, and what a wrong one costs.

- *sets*: folders of real micrographs, three at a time;
- *molecules*: micrographs simulated of molecules that no model was trained on, three of each, with a pixel size, a
  voltage and defoci of their own;
- *wrong*: F1 of the picks on the sets, against the labels beside them, with a diameter too small or too large.

The molecules' folder holds ``index.csv`` (file, name, longest_side_A, median_bead_spacing_A) and, for each of them, an
NPZ file with `positions` (n, 3) in Å and `weights` (n,) in electrons. Their diameter is the simulator's: that of the
sphere around the centre of mass that holds every atom.
"""

from __future__ import annotations

import argparse
import csv
import os
import statistics
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from frazil.model import Model, load_model
from frazil.picking import (
    DiameterEstimate,
    Micrograph,
    Picker,
    PickingSettings,
    estimate_diameter,
    match_picks,
    read_micrograph,
    read_star,
    try_diameters,
)
from frazil.settings import default_model_path
from frazil_trainer.simulate import DensityModel, SimulationSettings, series_seed, simulate_micrograph

MICROGRAPHS = 3
FACTORS = (0.5, 0.65, 0.8, 0.9, 1.0, 1.1, 1.25, 1.5, 2.0)
PIXEL_SIZES_ANGSTROM = (1.0, 1.5, 2.2, 3.0, 4.5, 6.0)
_FIELD_ANGSTROM, _FIELD_DIAMETERS = 2600.0, 9.0
_LEAST_DIAMETER_PX = 14.0
_VOLT_A3_PER_ELECTRON = 5.2
"""Potential above that of ice: 2.3 V in the 134 Å³ of a residue, which has 59 electrons."""
_LEAST_SIGMA_ANGSTROM = 2.5
WITHIN = 1.2


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One particle, measured."""

    name: str
    known_angstrom: float
    longest_angstrom: float | None
    pixel_size_angstrom: float
    note: str
    estimate: DiameterEstimate
    seconds: float

    @property
    def ratio(self) -> float:
        """Suggested over known diameter."""
        return self.estimate.best.diameter_angstrom / self.known_angstrom

    def cells(self) -> list[str]:
        """Of the table."""
        best = self.estimate.best
        ring = "–" if best.ring_angstrom is None else f"{best.ring_angstrom / self.known_angstrom:.2f}"
        return [
            self.name,
            f"{self.known_angstrom:.0f}",
            "" if self.longest_angstrom is None else f"{self.longest_angstrom:.0f}",
            f"{self.pixel_size_angstrom:.2f}",
            self.note,
            f"{best.diameter_angstrom:.0f}",
            f"{best.low_angstrom:.0f}–{best.high_angstrom:.0f}",
            f"{self.ratio:.2f}",
            "" if self.longest_angstrom is None else f"{best.diameter_angstrom / self.longest_angstrom:.2f}",
            f"{best.surest_angstrom / self.known_angstrom:.2f}",
            ring,
            f"{best.value:.2f}",
            f"{self.seconds:.1f}",
        ]


HEADS = (
    *("particle", "Å", "longest side", "Å a pixel", "defocus, µm"),
    *("suggested", "range", "ratio", "to longest side", "by scores", "by ring", "peak", "CPU s"),
)


def main() -> None:
    """Measure, print the tables."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--set", action="append", default=[], metavar="DIR=DIAMETER", help="MRC files; repeat for more")
    parser.add_argument("--molecules", type=Path, help="folder of molecules")
    parser.add_argument("--every", type=int, default=1, help="take every n-th molecule")
    parser.add_argument("--first", type=int, default=0, help="begin with this one, counted from 0")
    parser.add_argument("--wrong", action="store_true", help="also pick the sets with wrong diameters")
    parser.add_argument("--model", type=Path, default=default_model_path(), help="default: the default model")
    args = parser.parse_args()
    cv2.setNumThreads(1)
    model = load_model(args.model, "cpu", 1)
    sets = [(Path(folder), float(diameter)) for folder, _, diameter in (one.rpartition("=") for one in args.set)]
    if sets:
        summarise(show(row for folder, diameter in sets for row in measure_set(model, folder, diameter)))
    if args.molecules:
        rows = show(measure_molecules(model, args.molecules, args.first, args.every))
        for least in (0, 110, 130):
            print(f"\nof at least {least} Å:", end="")
            summarise([row for row in rows if row.known_angstrom >= least])
    if args.wrong:
        print_rows(["set", *(f"{factor:g}" for factor in FACTORS)])
        for folder, diameter in sets:
            print_row([folder.name, *(f"{pick_wrong(model, folder, diameter, factor):.2f}" for factor in FACTORS)])


def measure_set(model: Model, folder: Path, diameter: float) -> Iterator[Row]:
    """Three micrographs at a time."""
    files = sorted(folder.glob("*.mrc"))
    for first in range(0, len(files) - MICROGRAPHS + 1, MICROGRAPHS):
        some = files[first : first + MICROGRAPHS]
        started = processor_seconds()
        estimate = measure(model, (read_micrograph(file, as_stored=True) for file in some))
        yield Row(
            name=f"{folder.name}, {first + 1} to {first + MICROGRAPHS}",
            known_angstrom=diameter,
            longest_angstrom=None,
            pixel_size_angstrom=read_micrograph(some[0]).resolve_pixel_size(None),
            note="",
            estimate=estimate,
            seconds=processor_seconds() - started,
        )


def measure_molecules(model: Model, folder: Path, first: int, every: int) -> Iterator[Row]:
    """Each on micrographs of its own."""
    with (folder / "index.csv").open(newline="") as file:
        listed = list(csv.DictReader(file))
    for index in range(first, len(listed), every):
        row = listed[index]
        molecule = read_molecule(folder / row["file"], row["name"], float(row["median_bead_spacing_A"]))
        rng = np.random.default_rng([1, index])
        pixel_size = min(float(rng.choice(PIXEL_SIZES_ANGSTROM)), molecule.diameter_angstrom / _LEAST_DIAMETER_PX)
        side = round(max(_FIELD_ANGSTROM, _FIELD_DIAMETERS * molecule.diameter_angstrom) / pixel_size)
        settings = SimulationSettings(
            shape=(side, side * 11 // 10),
            pixel_size_angstrom=pixel_size,
            voltage_kv=float(rng.choice([200.0, 300.0])),
            defocus_range_um=(0.8, 3.0),
        )
        made = [simulate_micrograph(settings, series_seed(index, i), molecule) for i in range(MICROGRAPHS)]
        micrographs = [
            Micrograph(path=Path(row["name"]), pixels=one.pixels, pixel_size_angstrom=pixel_size) for one in made
        ]
        started = processor_seconds()
        estimate = measure(model, micrographs)
        yield Row(
            name=row["name"],
            known_angstrom=molecule.diameter_angstrom,
            longest_angstrom=float(row["longest_side_A"]),
            pixel_size_angstrom=pixel_size,
            note=" ".join(f"{one.defocus_um:.1f}" for one in made),
            estimate=estimate,
            seconds=processor_seconds() - started,
        )


def measure(model: Model, micrographs: Iterable[Micrograph]) -> DiameterEstimate:
    """As ``frazil measure`` does."""
    return estimate_diameter([tried for micrograph in micrographs for tried in try_diameters(micrograph, model)])


def read_molecule(file: Path, name: str, spacing_angstrom: float) -> DensityModel:
    """A molecule of pseudo-atoms, in ice."""
    stored = np.load(file)
    positions, weights = stored["positions"].astype(np.float64), stored["weights"].astype(np.float64)
    positions -= np.average(positions, axis=0, weights=weights)
    radius = float(np.linalg.norm(positions, axis=1).max()) + _LEAST_SIGMA_ANGSTROM
    return DensityModel(
        name=name,
        symmetry="C1",
        diameter_angstrom=round(2 * radius, 1),
        positions=positions,
        weights=weights * _VOLT_A3_PER_ELECTRON,
        sigma_angstrom=max(_LEAST_SIGMA_ANGSTROM, spacing_angstrom),
    )


def pick_wrong(model: Model, folder: Path, diameter: float, factor: float) -> float:
    """F1 of the first three micrographs of a set within half of the true diameter, picked with a wrong one."""
    picker = Picker(model, PickingSettings(diameter_angstrom=factor * diameter))
    hits = picked = labelled = 0
    for file in sorted(folder.glob("*.mrc"))[:MICROGRAPHS]:
        micrograph = read_micrograph(file, as_stored=True)
        picks, truth = picker.pick(micrograph), read_star(file.with_suffix(".star"))
        reach = diameter / 2 / micrograph.resolve_pixel_size(None)
        hits += int((match_picks(picks, truth, reach) >= 0).sum())
        picked, labelled = picked + len(picks), labelled + len(truth)
    return 2 * hits / max(1, picked + labelled)


def processor_seconds() -> float:
    """Of this process so far, user and system."""
    times = os.times()
    return times.user + times.system


def show(rows: Iterable[Row]) -> list[Row]:
    """Print rows as they come."""
    print_rows(HEADS)
    shown = []
    for row in rows:
        shown.append(row)
        print_row(row.cells())
    return shown


def print_rows(heads: Sequence[str]) -> None:
    """The head of a table."""
    print()
    print_row(heads)
    print_row(["---"] * len(heads))


def print_row(cells: Sequence[str]) -> None:
    """One line of it."""
    print(f"| {' | '.join(cells)} |", flush=True)


def summarise(rows: Sequence[Row]) -> None:
    """Medians, and how many are near."""
    bests = [(row.estimate.best, row.known_angstrom) for row in rows]
    held = sum(best.low_angstrom <= known <= best.high_angstrom for best, known in bests)
    by_scores = statistics.median(best.surest_angstrom / known for best, known in bests)
    by_ring = statistics.median(best.ring_angstrom / known for best, known in bests if best.ring_angstrom is not None)
    print(f"\n{len(rows)} measured: {near([row.ratio for row in rows])}; {held} are in the range given; ", end="")
    print(f"medians by scores {by_scores:.2f}, by ring {by_ring:.2f}")
    if all(row.longest_angstrom for row in rows):
        longest = [row.estimate.best.diameter_angstrom / (row.longest_angstrom or 1) for row in rows]
        print(f"of the longest side: {near(longest)}")


def near(ratios: Sequence[float]) -> str:
    """How many are."""
    count = sum(1 / WITHIN <= ratio <= WITHIN for ratio in ratios)
    return f"{count} within a factor of {WITHIN}, median ratio {statistics.median(ratios):.2f}"


if __name__ == "__main__":
    main()
