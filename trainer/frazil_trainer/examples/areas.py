"""Areas: examples for a network that scores every cell of a coarse tile by the share of it that is junk."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np
from numpy.typing import NDArray

from frazil.picking.picture import WIDE_SIGMAS
from frazil_trainer.data.labelled import LabelledMicrograph
from frazil_trainer.examples.patches import PatchSampler, change_pixels

__all__ = ["AreaSampler"]


class AreaSampler(PatchSampler):
    """Draws batches of pieces from micrographs whose junk is known, everywhere or near their particles.

    The target of a cell is the share of junk in a square of the cell's size around its place.
    """

    def __init__(
        self,
        micrographs: Sequence[LabelledMicrograph],
        *,
        patch_px: int,
        step_px: int,
        diameter_px: float,
        near_junk: float,
        clear_diameters: float,
        augment: bool = True,
    ) -> None:
        super().__init__(
            micrographs,
            patch_px=patch_px,
            step_px=step_px,
            diameter_px=diameter_px,
            spread_diameters=clear_diameters,
            augment=augment,
        )
        self._near_junk = near_junk
        self._clear_px = clear_diameters * diameter_px

    def _draw_centre(self, rng: np.random.Generator, micrograph: LabelledMicrograph) -> tuple[float, float]:
        if micrograph.junk is None or rng.random() >= self._near_junk:
            return super()._draw_centre(rng, micrograph)
        rows, columns = np.nonzero(micrograph.junk > 0.5)
        if not rows.size:
            return super()._draw_centre(rng, micrograph)
        chosen = rng.integers(rows.size)
        y, x = rng.normal((rows[chosen], columns[chosen]), self._patch_px / 6)
        return float(y), float(x)

    def _change(self, rng: np.random.Generator, pixels: NDArray[np.float32]) -> NDArray[np.float32]:
        return change_pixels(rng, pixels, spreads=WIDE_SIGMAS)

    def _target(self, micrograph: LabelledMicrograph, to_patch: NDArray[np.float64]) -> NDArray[np.float32]:
        """(g, g) share of junk in each cell."""
        p, step = self._patch_px, self._step_px
        if micrograph.junk is None:
            return np.zeros((p // step, p // step), np.float32)
        junk = cv2.warpAffine(micrograph.junk, to_patch, (p, p), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT)
        return np.asarray(cv2.blur(junk, (step + 1, step + 1))[::step, ::step], np.float32)

    def _weights(self, micrograph: LabelledMicrograph, to_patch: NDArray[np.float64]) -> NDArray[np.float32]:
        """(g, g) 1 where it is known whether there is junk, 0 elsewhere."""
        weights = super()._weights(micrograph, to_patch)
        if micrograph.junk is not None:
            return weights
        far = np.ones((self._patch_px, self._patch_px), np.uint8)
        centres = np.rint(micrograph.centres[:, ::-1] @ to_patch[:, :2].T + to_patch[:, 2]).astype(np.intp)
        x, y = centres[((centres >= 0) & (centres < self._patch_px)).all(axis=1)].T
        far[y, x] = 0
        distance = cv2.distanceTransform(far, cv2.DIST_L2, cv2.DIST_MASK_PRECISE)[:: self._step_px, :: self._step_px]
        return np.asarray(weights * (distance <= self._clear_px), np.float32)
