"""Make the micrograph that ``frazil selftest`` picks: simulated, on a coarse grid, in six bits, so that it is small.

Run it again only to change it: ``python benchmarks/make_known_micrograph.py daemon/frazil/machine/known``.
"""

from __future__ import annotations

import argparse
import gzip
import io
import subprocess
import sys
import tempfile
from pathlib import Path

import cv2
import mrcfile
import numpy as np

from frazil.picking import Picks, read_micrograph, read_star, write_star

BINNING = 4
LEVELS_PER_SIGMA = 8


def main() -> None:
    """Simulate, reduce and write it, with the truth beside it."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("out", type=Path)
    out = parser.parse_args().out
    with tempfile.TemporaryDirectory() as folder:
        command = [Path(sys.executable).parent / "frazil-train", "simulate", "--out", folder, "--count", "1"]
        subprocess.run([*command, "--seed", "22", "--size", "3072", "--height", "2304"], check=True)
        micrograph = read_micrograph(Path(folder, "simulated_0001.mrc"))
        truth = read_star(Path(folder, "simulated_0001.star"))
    h, w = micrograph.pixels.shape
    reduced = cv2.resize(micrograph.pixels, (w // BINNING, h // BINNING), interpolation=cv2.INTER_AREA)
    levels = np.clip(np.round((reduced - np.median(reduced)) / reduced.std() * LEVELS_PER_SIGMA), -32, 31)
    plain = io.BytesIO()
    with tempfile.NamedTemporaryFile(suffix=".mrc") as file:
        with mrcfile.new(file.name, overwrite=True) as mrc:
            mrc.set_data(levels.astype(np.int8))
            mrc.voxel_size = micrograph.pixel_size_angstrom * BINNING
        plain.write(Path(file.name).read_bytes())
    out.mkdir(parents=True, exist_ok=True)
    (out / "micrograph.mrc.gz").write_bytes(gzip.compress(plain.getvalue(), 9, mtime=0))
    y, x = ((positions + 0.5) / BINNING - 0.5 for positions in (truth.y, truth.x))
    write_star(out / "truth.star", Picks(y=y, x=x, score=truth.score))


if __name__ == "__main__":
    main()
