"""Where the pictures of a model are prepared: on the device that runs it, as long as that works, or on the CPU."""

from __future__ import annotations

import logging
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from frazil.model.model import Model
from frazil.model.runtime import RUNTIME_ERRORS, device_of
from frazil.model.tiling import Tiling
from frazil.picking.device.accelerator import Accelerator, PictureOnDevice
from frazil.picking.device.graphs import NORMALISATIONS_ON_DEVICE
from frazil.picking.device.self_check import compare_with_cpu
from frazil.picking.rescale import Rescaling

__all__ = ["Preparation", "PreparationOnDevice"]

log = logging.getLogger(__name__)

Preparation = Literal["auto", "device", "host"]
"""Where pictures are prepared: on the device that runs the model, or on the CPU. ``auto`` means there on a GPU."""


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
