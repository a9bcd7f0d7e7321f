"""Other pickers, those of them that are installed: how they are found and called, and their picks.

RELION's Laplacian of Gaussian has the diameter as a person gives it, and else its defaults. Topaz picks with the
detector that comes with it. How much its micrographs are reduced decides how well it picks, and no one rule is right
for all particles, so it gets what the labels of the first micrograph choose. ``benchmarks/install_peers.sh`` installs
both.
"""

from __future__ import annotations

import math
import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from frazil.picking import Picks, read_coordinates

__all__ = [
    "Sample",
    "find_relion",
    "find_topaz",
    "missing_peers",
    "pick_with_relion",
    "pick_with_topaz",
    "reductions_for_topaz",
    "relion_command",
]

_TOPAZ = Path(__file__).resolve().parents[1] / ".venv-topaz" / "bin" / "topaz"
_TOPAZ_DIAMETERS_PX = (18.0, 27.0)
"""Of the particle in reduced micrographs, about: one of these."""
_TOPAZ_RADIUS_DIAMETERS = 0.7
"""Picks are at least so far apart. With half a diameter, its usual advice, the best F1 was lower on three proteins."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """A micrograph for another picker."""

    micrograph: Path
    pixel_size_angstrom: float
    diameter_angstrom: float


def missing_peers() -> list[str]:
    """The pickers that are not installed."""
    return [name for name, program in (("RELION", find_relion()), ("Topaz", find_topaz())) if program is None]


def pick_with_relion(samples: Sequence[Sample]) -> list[Picks] | None:
    """The picks of RELION's Laplacian of Gaussian; None where it is not installed."""
    program = find_relion()
    if program is None:
        return None
    found = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for stem, one in _linked(samples, folder):
            command = relion_command(program, f"{stem}.mrc", one.diameter_angstrom, one.pixel_size_angstrom)
            subprocess.run(command, cwd=folder, check=True, capture_output=True)
            found.append(read_coordinates(folder / "log" / f"{stem}_log.star", may_be_empty=True))
    return found


def relion_command(program: str, micrograph: str, diameter_angstrom: float, pixel_size_angstrom: float) -> list[str]:
    """The call of RELION's Laplacian of Gaussian, as RELION's own window makes it, for a file in the current folder."""
    command = [program, "--i", micrograph, "--odir", "log/", "--pickname", "log", "--LoG", "--shrink", "0"]
    command += ["--lowpass", "20", "--angpix", f"{pixel_size_angstrom}"]
    command += ["--LoG_diam_min", f"{0.9 * diameter_angstrom:.0f}", "--LoG_diam_max", f"{1.1 * diameter_angstrom:.0f}"]
    return command


def pick_with_topaz(samples: Sequence[Sample], judge: Callable[[Picks], float]) -> list[Picks] | None:
    """The picks of Topaz's own detector with their scores; None where it is not installed.

    Args:
        samples: micrographs of one protein.
        judge: how good picks in the first of them are. The reduction that is best there is taken for all.
    """
    program = find_topaz()
    if program is None:
        return None
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        linked = _linked(samples, folder)
        tried = {
            reduction: _run_topaz(program, folder, *linked[0], reduction)
            for reduction in reductions_for_topaz(samples[0])
        }
        best = max(tried, key=lambda reduction: judge(tried[reduction]))
        return [tried[best], *(_run_topaz(program, folder, *one, best) for one in linked[1:])]


def reductions_for_topaz(sample: Sample) -> list[int]:
    """How many times smaller a micrograph may be for Topaz: whole numbers, the closest in proportion."""
    diameter_px = sample.diameter_angstrom / sample.pixel_size_angstrom
    return sorted({_closest_in_proportion(diameter_px / side_px) for side_px in _TOPAZ_DIAMETERS_PX})


def _closest_in_proportion(wanted: float) -> int:
    around = (max(1, math.floor(wanted)), max(1, math.ceil(wanted)))
    return min(around, key=lambda one: abs(math.log(one / wanted)))


def _run_topaz(program: str, folder: Path, stem: str, sample: Sample, reduction: int) -> Picks:
    """The picks in one micrograph of the folder."""
    diameter_px = sample.diameter_angstrom / sample.pixel_size_angstrom / reduction
    radius, device = f"{_TOPAZ_RADIUS_DIAMETERS * diameter_px:.0f}", ("-d", "-1")
    preprocess = [program, "preprocess", "-s", f"{reduction}", *device, "-o", "reduced/", f"{stem}.mrc"]
    extract = [program, "extract", "-m", "resnet16", "-r", radius, "-x", f"{reduction}", *device]
    extract += ["-j", os.environ.get("OMP_NUM_THREADS", "0"), "-o", f"{stem}.txt", f"reduced/{stem}.mrc"]
    for command in (preprocess, extract):
        subprocess.run(command, cwd=folder, check=True, capture_output=True)
    return read_coordinates(folder / f"{stem}.txt", stem=stem, may_be_empty=True)


def _linked(samples: Sequence[Sample], folder: Path) -> list[tuple[str, Sample]]:
    """The micrographs under short names in a folder, which both programs can read, with these names."""
    linked = [(f"m{number}", one) for number, one in enumerate(samples)]
    for stem, one in linked:
        (folder / f"{stem}.mrc").symlink_to(one.micrograph.resolve())
    return linked


def find_relion() -> str | None:
    """RELION's program that picks; None where it is not installed."""
    return shutil.which("relion_autopick")


def find_topaz() -> str | None:
    """Topaz's program; None where it is not installed."""
    return shutil.which(_TOPAZ) or shutil.which("topaz")
