"""What is picked beside parts without data, and of noise: the tables of docs/reference/formats.md and decision 0030.

python benchmarks/blank_parts.py
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np

from frazil.machine import KNOWN_DIAMETER_ANGSTROM, KNOWN_MICROGRAPH
from frazil.model import load_model
from frazil.picking import Micrograph, Picker, PickingSettings, Picks, picture, read_micrograph
from frazil.settings import default_model_path

_SHARES = (0.0, 0.1, 0.2, 0.25, 0.3, 0.4, 0.5)
_FILLS: dict[str, Callable[[np.ndarray, tuple[int, int], np.random.Generator], np.ndarray]] = {
    "zeros": lambda _, shape, __: np.zeros(shape),
    "the mean": lambda known, shape, _: np.full(shape, known.mean()),
    "dark, a tenth of the noise": lambda known, shape, rng: rng.normal(known.min(), 0.1 * known.std(), shape),
    "film, 0.3 of the noise": lambda known, shape, rng: rng.normal(known.mean(), 0.3 * known.std(), shape),
    "film, 0.4 of the noise": lambda known, shape, rng: rng.normal(known.mean(), 0.4 * known.std(), shape),
}
_NOISE_SIDE_PX = 512
_NOISE_DIAMETERS_PX = (4, 5, 6, 7, 8, 9, 10, 12, 16, 24)


def main() -> None:
    """Print both tables."""
    model = load_model(default_model_path(), "cpu")
    known = read_micrograph(KNOWN_MICROGRAPH)
    picker = Picker(model, PickingSettings(diameter_angstrom=KNOWN_DIAMETER_ANGSTROM))

    def pick(pixels: np.ndarray) -> Picks:
        return picker.pick(
            Micrograph(
                path=Path("made.mrc"),
                pixels=pixels.astype(np.float32),
                pixel_size_angstrom=known.pixel_size_angstrom,
            )
        )

    h, w = known.pixels.shape
    expected = pick(known.pixels)
    print(_row("picks (of them again)", *(f"{share:.0%}" for share in _SHARES)))
    for name, fill in _FILLS.items():
        cells = []
        for share in _SHARES:
            pixels = fill(known.pixels, (round(h / (1 - share)), w), np.random.default_rng(0))
            pixels[:h] = known.pixels
            found = pick(pixels)
            distances = np.hypot(expected.y[:, None] - found.y, expected.x[:, None] - found.x)
            cells.append(f"{len(found)} ({np.count_nonzero(distances.min(axis=1) < 4)})")
        print(_row(name, *cells))
    print()
    print(_row("px a particle", *(str(d) for d in _NOISE_DIAMETERS_PX)))
    picture._SMALLEST_DIAMETER_PX = 1.0  # what it is chosen by
    noise = np.random.default_rng(0).normal(500, 30, (_NOISE_SIDE_PX,) * 2).astype(np.float32)
    for name, pixels in (("noise", noise), ("the same, blurred by 1 px", cv2.GaussianBlur(noise, (0, 0), 1.0))):
        of_noise = Micrograph(path=Path("noise.mrc"), pixels=pixels, pixel_size_angstrom=1.0)
        picked = (Picker(model, PickingSettings(diameter_angstrom=d)).pick(of_noise) for d in _NOISE_DIAMETERS_PX)
        print(_row(name, *(str(len(picks)) for picks in picked)))


def _row(*cells: str) -> str:
    return f"| {' | '.join(cells)} |"


if __name__ == "__main__":
    main()
