"""What finding junk costs: the same micrographs are read and picked with and without it, by turns, in one process.

    python benchmarks/junk_speed.py --pages

``--pages`` writes the figures into docs/reference/junk-speed.json and the table into docs/reference/junk.md. Times are
of the processor, of all threads, so that what else the machine does counts little; beside them stands the clock.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import cv2
import mrcfile
import numpy as np
from figures import fill_tables, markdown_table, summary
from micrographs import write_micrograph

from frazil.junk_area import JunkSearch
from frazil.model import load_model
from frazil.picking import JunkFinder, Picker, PickingSettings, read_micrograph
from frazil.record import Record, record_picks
from frazil.settings import default_junk_model_path, default_model_path

DIAMETER_ANGSTROM, PIXEL_SIZE_ANGSTROM = 191.0, 1.77
SIDE_PX = 4096
KINDS = ("int8", "float32")
DOCS = Path(__file__).resolve().parents[1] / "docs" / "reference"


def measure(rounds: int, threads: int) -> dict[str, object]:
    """Pick with and without, by turns, so many rounds."""
    cv2.setNumThreads(threads)
    settings = PickingSettings(diameter_angstrom=DIAMETER_ANGSTROM, pixel_size_angstrom=PIXEL_SIZE_ANGSTROM)
    picker = Picker(load_model(default_model_path(), "cpu", threads), settings)
    finding = load_model(default_junk_model_path(), "cpu", threads, finds="junk")
    search = JunkSearch(finder=JunkFinder(finding, "dark"), picks="drop")
    cases = []
    with tempfile.TemporaryDirectory() as folder:
        for kind in KINDS:
            path = Path(folder) / f"{kind}.mrc"
            write_dirty_micrograph(path, kind)

            def pick(path: Path = path, *, with_junk: bool) -> Record:
                micrograph = read_micrograph(path, as_stored=True, rescaling=picker.rescaling)
                found = {"find_junk": search.find} if with_junk else {}
                return record_picks(picker, micrograph, read_seconds=0.0, since=time.monotonic(), **found)

            seconds: dict[str, list[tuple[float, float]]] = {"with": [], "without": []}
            for number in range(rounds + 1):
                order = ("with", "without") if number % 2 else ("without", "with")
                for which in order:
                    taken = both_seconds(lambda which=which: pick(with_junk=which == "with"))  # type: ignore[misc]
                    if number:  # the first round warms up
                        seconds[which].append(taken)
            medians = {
                name: [statistics.median(values) for values in zip(*taken, strict=True)]
                for name, taken in seconds.items()
            }
            cases.append(
                {
                    "kind": kind,
                    "junk_fraction": pick(with_junk=True).document.junk.fraction,  # type: ignore[union-attr]
                    "processor_seconds": {name: summary([one for one, _ in taken]) for name, taken in seconds.items()},
                    "clock_seconds": {name: summary([one for _, one in taken]) for name, taken in seconds.items()},
                    "more_processor_percent": round(100 * (medians["with"][0] / medians["without"][0] - 1), 1),
                    "more_clock_percent": round(100 * (medians["with"][1] / medians["without"][1] - 1), 1),
                }
            )
    return {
        "model": picker.model.identity.short,
        "junk_model": finding.identity.short,
        "threads": threads,
        "rounds": rounds,
        "side_px": SIDE_PX,
        "cores": os.cpu_count(),
        "cases": cases,
    }


def write_dirty_micrograph(path: Path, kind: str) -> None:
    """Noise and discs, a part of which is far darker, as by a film."""
    diameter_px = DIAMETER_ANGSTROM / PIXEL_SIZE_ANGSTROM
    write_micrograph(
        path, (SIDE_PX, SIDE_PX), "float32", pixel_size_angstrom=PIXEL_SIZE_ANGSTROM, diameter_px=diameter_px
    )
    rows, columns = np.indices((SIDE_PX, SIDE_PX), np.float32)
    with mrcfile.open(path, "r+") as mrc:
        pixels = mrc.data - 40 - 60 * (np.hypot(rows, columns) > 1.2 * SIDE_PX)
        mrc.set_data(np.clip(pixels, -128, 127).astype(kind))
        mrc.voxel_size = PIXEL_SIZE_ANGSTROM


def both_seconds(work: Callable[[], object]) -> tuple[float, float]:
    """Seconds of the processor, of all threads, and of the clock."""
    processor, clock = time.process_time(), time.perf_counter()
    work()
    return time.process_time() - processor, time.perf_counter() - clock


def table(measured: dict[str, object]) -> str:
    """What it costs, for people."""
    rows = []
    for case in measured["cases"]:  # type: ignore[attr-defined]
        of = case["processor_seconds"]
        rows.append(
            (
                f"{SIDE_PX} x {SIDE_PX}, {case['kind']}",
                *(f"{1000 * of[name]['median']:.0f} ms" for name in ("without", "with")),
                f"{case['more_processor_percent']:+.1f} %",
                f"{case['more_clock_percent']:+.1f} %",
            )
        )
    head = ("micrograph", "processor, without", "with", "more", "more by the clock")
    return markdown_table(head, rows, right=4)


def main() -> None:
    """Measure, and write the page if that is asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=25)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--pages", action="store_true")
    given = parser.parse_args()
    measured = measure(given.rounds, given.threads)
    print(table(measured))
    if given.pages:
        (DOCS / "junk-speed.json").write_text(json.dumps(measured, indent=2) + "\n")
        page = DOCS / "junk.md"
        page.write_text(fill_tables(page.read_text(), {"cost": table(measured)}))


if __name__ == "__main__":
    main()
