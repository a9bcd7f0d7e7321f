"""Where the pictures of a model are prepared: on the device that runs it, as long as that works, or on the CPU.

That the device gives what the CPU gives is checked each time a model is loaded to run on one: both paths take one
simulated micrograph to the scores of the same session; only preparation and tiling differ.
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Literal

import cv2
import numpy as np
from numpy.typing import NDArray

from frazil.model.contract import ModelContract
from frazil.model.model import Model
from frazil.model.runtime import RUNTIME_ERRORS, device_of
from frazil.model.tiling import Tiling, plan_tiling
from frazil.picking.device.accelerator import Accelerator, PictureOnDevice
from frazil.picking.device.graphs import NORMALISATIONS_ON_DEVICE
from frazil.picking.micrograph import Micrograph
from frazil.picking.picture import make_picture
from frazil.picking.rescale import Rescaling

__all__ = [
    "PICTURE_TOLERANCE",
    "SCORE_TOLERANCE",
    "Preparation",
    "PreparationOnDevice",
    "compare_with_cpu",
]

log = logging.getLogger(__name__)

Preparation = Literal["auto", "device", "host"]
"""Where pictures are prepared: on the device that runs the model, or on the CPU. ``auto`` means there on a GPU."""
PICTURE_TOLERANCE = 1e-4
"""Largest difference of a pixel, where all are 0 to 1."""
SCORE_TOLERANCE = 5e-3
"""Largest difference of a score."""

_SHRINKS_BY = 2.7
_SPANS = (1.6, 2.3)
"""Height and width of the picture, in tiles of a window model or in what a tile of a dense one scores."""
_PARTICLES = 12


class PreparationOnDevice:
    """Prepares and scores pictures on the device of a model. It is checked against the CPU when it is made.

    If that check or a later picture fails, the CPU prepares all pictures from then on.

    Attributes:
        accelerator: does the work; None where the CPU prepares pictures.
        problem: why the CPU does although the device was to.
    """

    def __init__(self, model: Model, preparation: Preparation = "auto") -> None:
        self.accelerator: Accelerator | None = None
        self.problem: str | None = None
        self._model = model
        if preparation == "device" or (preparation == "auto" and device_of(model.session) == "cuda"):
            self._start()

    def describe(self) -> str:
        """Where pictures are prepared, in a few words."""
        if self.accelerator is not None:
            return "pictures prepared on the device"
        return f"pictures prepared on the CPU{f': {self.problem}' if self.problem else ''}"

    def prepare(
        self, pixels: NDArray[np.generic], rescaling: Rescaling, invert: bool
    ) -> tuple[NDArray[np.float32], PictureOnDevice] | None:
        """(h, w) micrograph → (h', w') picture in memory and on the device; None where the CPU has to prepare it."""
        if self.accelerator is None:
            return None
        try:
            picture = self.accelerator.prepare(pixels, rescaling, invert=invert)
            return picture.to_host(), picture
        except RUNTIME_ERRORS as error:
            self._give_up(error)
            return None

    def score(self, picture: object, tiling: Tiling) -> NDArray[np.float32] | None:
        """A picture on the device → (count, gy, gx) scores as `Model.score` gives; None where the CPU has to tile it.

        Raises:
            ModelError: the network gave other than finite scores.
        """
        if self.accelerator is None or not isinstance(picture, PictureOnDevice):
            return None
        try:
            scores = self.accelerator.score(picture, tiling, self._model.largest_batch(tiling.tile_shape))
        except RUNTIME_ERRORS as error:
            self._give_up(error)
            return None
        return self._model.check_finite(scores)

    def _start(self) -> None:
        model = self._model
        if model.contract.normalisation not in NORMALISATIONS_ON_DEVICE:
            self._give_up(f"the normalisation {model.contract.normalisation} is not known there")
            return
        try:
            accelerator = Accelerator(model.session, model.contract, model.threads)
            problem = compare_with_cpu(accelerator, model)
        except RUNTIME_ERRORS as error:
            self._give_up(error)
            return
        if problem is None:
            self.accelerator = accelerator
        else:
            self._give_up(problem)

    def _give_up(self, problem: Exception | str) -> None:
        self.accelerator, self.problem = None, " ".join(str(problem).split()) or type(problem).__name__
        log.warning("model %s: pictures are prepared on the CPU: %s", self._model.identity.short, self.problem)


def compare_with_cpu(accelerator: Accelerator, model: Model) -> str | None:
    """How the accelerator's results differ from the CPU's; None if they are the same within the tolerances."""
    contract = model.contract
    micrograph, diameter_px = _simulate(contract)
    for invert in (False, True):
        host = make_picture(
            micrograph,
            diameter_angstrom=diameter_px,
            pixel_size_angstrom=1.0,
            model_diameter_px=contract.diameter_px,
            normalisation=contract.normalisation,
            invert=invert,
        )
        device = accelerator.prepare(micrograph.pixels, host.rescaling, invert=invert)
        if (found := _largest(host.pixels, device.to_host())) > PICTURE_TOLERANCE:
            return f"expected the picture of the CPU within {PICTURE_TOLERANCE:g}, found a difference of {found:g}"
        if invert:
            continue
        most = min(contract.tile_px**2, model.largest_tile_pixels)  # so that there is more than one tile
        tiling = plan_tiling(host.rescaling.rescaled_shape, contract, (0.0, 0.0), largest_tile_pixels=most)
        if tiling is None:
            return "expected tiles on the picture, found none"
        # More than one batch, the last one not full.
        several = min(model.largest_batch(tiling.tile_shape), max(1, 2 * tiling.count // 3))
        expected = np.concatenate([model.score(tiles) for tiles in tiling.batches(host.pixels, several)])
        scores = accelerator.score(device, tiling, several)
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
