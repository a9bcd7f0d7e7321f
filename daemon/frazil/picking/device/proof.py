"""The proof that the device's path gives what the host's gives, made each time a model is loaded to run on a device.

Both paths take one simulated micrograph to the scores of the same session; only preparation and tiling differ.
"""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

import cv2
import numpy as np
from numpy.typing import NDArray

from frazil.picking.contract import ModelContract
from frazil.picking.device.accelerator import Accelerator
from frazil.picking.micrograph import Micrograph
from frazil.picking.picture import make_picture
from frazil.picking.tiling import plan_tiling

__all__ = ["PICTURE_TOLERANCE", "SCORE_TOLERANCE", "find_difference"]

PICTURE_TOLERANCE = 1e-4
"""Largest difference of a pixel, where all are 0 to 1."""
SCORE_TOLERANCE = 5e-3
"""Largest difference of a score."""

_SHRINKS_BY = 2.7
_SPANS = (1.6, 2.3)
"""Height and width of the picture, in tiles of a window model or in what a tile of a dense one scores."""
_PARTICLES = 12


class Scorer(Protocol):
    """What a model is asked for."""

    contract: ModelContract
    largest_tile_pixels: int

    def largest_batch(self, tile_shape: tuple[int, int], /) -> int:
        """Most tiles in a batch."""
        ...

    def score(self, tiles: NDArray[np.float32], /) -> NDArray[np.float32]:
        """(n, 1, h, w) tiles → (n, gy, gx) scores."""
        ...


def find_difference(accelerator: Accelerator, model: Scorer) -> str | None:
    """Where the accelerator's results are not those of the host; None if they are the same within the tolerances."""
    contract = model.contract
    micrograph, diameter_px = _simulate(contract)
    for invert in (False, True):
        host, device = (
            make_picture(
                micrograph,
                diameter_angstrom=diameter_px,
                pixel_size_angstrom=1.0,
                model_diameter_px=contract.diameter_px,
                normalisation=contract.normalisation,
                invert=invert,
                accelerator=chosen,
            )
            for chosen in (None, accelerator)
        )
        if (found := _largest(host.pixels, device.pixels)) > PICTURE_TOLERANCE:
            return f"expected the picture of the CPU within {PICTURE_TOLERANCE:g}, found a difference of {found:g}"
        if invert:
            continue
        most = min(contract.tile_px**2, model.largest_tile_pixels)  # so that there is more than one tile
        tiling = plan_tiling(host.rescaling.rescaled_shape, contract, (0.0, 0.0), largest_tile_pixels=most)
        if tiling is None or device.on_device is None:
            return "expected a picture on the device, found none"
        # More than one batch, the last one not full.
        several = min(model.largest_batch(tiling.tile_shape), max(1, 2 * tiling.count // 3))
        expected = np.concatenate([model.score(tiles) for tiles in tiling.batches(host.pixels, several)])
        scores = accelerator.score(device.on_device, tiling, several)
        if (found := _largest(expected, scores)) > SCORE_TOLERANCE:
            return (
                f"expected the scores of the CPU's picture within {SCORE_TOLERANCE:g}, found a difference of {found:g}"
            )
    return None


def _largest(expected: NDArray[np.float32], found: NDArray[np.float32]) -> float:
    """The largest difference; infinite where there are other shapes or values that are no numbers."""
    if expected.shape != found.shape:
        return float("inf")
    difference = float(np.abs(expected - found).max())
    return difference if np.isfinite(difference) else float("inf")


def _simulate(contract: ModelContract) -> tuple[Micrograph, float]:
    """Discs in noise on a slope, with an outlier; and the diameter of the discs."""
    random = np.random.default_rng(1)
    span = contract.tile_px if contract.grid == 1 else contract.grid * contract.step_px
    diameter_px = contract.diameter_px * _SHRINKS_BY
    h, w = (round(spans * max(span, contract.diameter_px) * _SHRINKS_BY) for spans in _SPANS)
    pixels = random.normal(1000, 30, (h, w)).astype(np.float32)
    pixels += np.linspace(0, 200, w, dtype=np.float32)
    discs = np.zeros((h, w), np.uint8)
    for y, x in random.integers((0, 0), (h, w), (_PARTICLES, 2)).tolist():
        cv2.circle(discs, (x, y), round(diameter_px / 2), 1, cv2.FILLED)
    pixels -= np.float32(40) * discs
    pixels[h // 3, w // 3] = 1e6
    return Micrograph(path=Path("simulated.mrc"), pixels=pixels, pixel_size_angstrom=None), diameter_px
