"""Other pickers on labelled micrographs, for `benchmarks.unseen`; those of them that are installed.

RELION's Laplacian of Gaussian has the diameter as a person gives it, and else its defaults. Topaz picks with the
detector that comes with it, on micrographs reduced to about 7 Å a pixel, down to its default threshold; its scores are
kept, so that the best threshold can be found. ``benchmarks/install_peers.sh`` installs both.
"""

from __future__ import annotations

import math
import os
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from frazil.picking import Picks, read_coordinates

__all__ = ["Sample", "missing_peers", "pick_with_relion", "pick_with_topaz"]

_TOPAZ = Path(__file__).resolve().parents[1] / ".venv-topaz" / "bin" / "topaz"
_TOPAZ_ANGSTROM = 7.0
"""Pixel size for which Topaz wants micrographs to be reduced."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """A micrograph for another picker."""

    micrograph: Path
    pixel_size_angstrom: float
    diameter_angstrom: float


def missing_peers() -> list[str]:
    """The pickers that are not installed."""
    return [name for name, program in (("RELION", _relion()), ("Topaz", _topaz())) if program is None]


def pick_with_relion(samples: Sequence[Sample]) -> list[Picks] | None:
    """The picks of RELION's Laplacian of Gaussian; None where it is not installed."""
    program = _relion()
    if program is None:
        return None
    found = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for stem, one in _linked(samples, folder):
            command = [program, "--i", f"{stem}.mrc", "--odir", "log/", "--pickname", "log", "--LoG", "--shrink", "0"]
            command += ["--lowpass", "20", "--angpix", f"{one.pixel_size_angstrom}"]
            command += ["--LoG_diam_min", f"{0.9 * one.diameter_angstrom:.0f}"]
            command += ["--LoG_diam_max", f"{1.1 * one.diameter_angstrom:.0f}"]
            subprocess.run(command, cwd=folder, check=True, capture_output=True)
            found.append(read_coordinates(folder / "log" / f"{stem}_log.star", may_be_empty=True))
    return found


def pick_with_topaz(samples: Sequence[Sample]) -> list[Picks] | None:
    """The picks of Topaz's own detector with their scores; None where it is not installed."""
    program = _topaz()
    if program is None:
        return None
    found = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for stem, one in _linked(samples, folder):
            reduction = reduction_for_topaz(one.pixel_size_angstrom)
            radius = round(one.diameter_angstrom / one.pixel_size_angstrom / reduction / 2)
            where = ("-d", "-1")
            preprocess = [program, "preprocess", "-s", f"{reduction}", *where, "-o", "reduced/", f"{stem}.mrc"]
            extract = [program, "extract", "-m", "resnet16", "-r", f"{radius}", "-x", f"{reduction}", *where]
            extract += ["-j", os.environ.get("OMP_NUM_THREADS", "0"), "-o", f"{stem}.txt", f"reduced/{stem}.mrc"]
            for command in (preprocess, extract):
                subprocess.run(command, cwd=folder, check=True, capture_output=True)
            found.append(read_coordinates(folder / f"{stem}.txt", stem=stem, may_be_empty=True))
    return found


def reduction_for_topaz(pixel_size_angstrom: float) -> int:
    """How many times smaller a micrograph is for Topaz, a whole number: the one closest, in proportion, to 7 Å."""
    wanted = _TOPAZ_ANGSTROM / pixel_size_angstrom
    return min((max(1, math.floor(wanted)), max(1, math.ceil(wanted))), key=lambda one: abs(math.log(one / wanted)))


def _linked(samples: Sequence[Sample], folder: Path) -> list[tuple[str, Sample]]:
    """The micrographs under short names in a folder, which both programs can read, with these names."""
    linked = [(f"m{number}", one) for number, one in enumerate(samples)]
    for stem, one in linked:
        (folder / f"{stem}.mrc").symlink_to(one.micrograph.resolve())
    return linked


def _relion() -> str | None:
    return shutil.which("relion_autopick")


def _topaz() -> str | None:
    return shutil.which(_TOPAZ) or shutil.which("topaz")
