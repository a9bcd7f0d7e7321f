"""Patches: examples for a network that scores every cell of a tile.

A patch is a piece of a labelled micrograph, rotated by any angle, mirrored or not, slightly scaled, with changed
contrast, blur and noise. Each cell has a target score and a weight.
"""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np
from numpy.typing import NDArray
from scipy import fft

from frazil.picking.picture import RANGE_SIGMAS
from frazil_trainer.data.labelled import LabelledMicrograph
from frazil_trainer.examples.sampling import draw_source, generators, micrograph_probabilities

__all__ = ["PatchSampler", "change_pixels"]

_NEAR_PARTICLE_FRACTION = 0.6
_LARGEST_SCALE_STEP = 0.15
_MILD_SCALE_STEP = 0.05
_SPECTRUM_KNOTS = np.array([0.0, 0.03, 0.08, 0.2, 0.5])
"""Radial frequencies in cycles per pixel."""
_SPECTRUM_SPREAD = 0.3
"""Standard deviation of the logarithm of the amplitude's factor at each of them."""
_UNLABELLED_SCORE = 0.1
"""A cell with a lower target score is not near a label."""


class PatchSampler:
    """Draws batches of patches from labelled micrographs.

    A patch has a side of `patch_px`, a multiple of `step_px`; its cell (i, j) belongs to pixel (i * step, j * step).
    The target around a particle is a Gaussian with a standard deviation of `spread_diameters`. Without `augment`,
    patches are neither rotated nor changed.
    """

    def __init__(
        self,
        micrographs: Sequence[LabelledMicrograph],
        *,
        patch_px: int,
        step_px: int,
        diameter_px: float,
        spread_diameters: float,
        augment: bool = True,
    ) -> None:
        self._micrographs = micrographs
        self._patch_px = patch_px
        self._step_px = step_px
        self._spread_px = spread_diameters * diameter_px
        self._augment = augment
        self._probabilities = micrograph_probabilities(micrographs)

    def draw(
        self, seed: int, update: int, examples: range, *, mild: bool = False
    ) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.float32], NDArray[np.bool_]]:
        """Draw some patches of an update's batch, each from a generator of its own.

        Mild ones keep contrast, sharpness and noise, and nearly the scale.

        Returns:
            (n, 1, p, p) tiles; (n, g, g) target scores, g = p / step; (n, g, g) weights, 0 for cells outside the
            micrograph, in its border or without data; (n, g, g) whether a cell may hold an unlabelled particle.
        """
        p, g, count = self._patch_px, self._patch_px // self._step_px, len(examples)
        tiles = np.empty((count, 1, p, p), np.float32)
        target = np.zeros((count, g, g), np.float32)
        weights = np.empty((count, g, g), np.float32)
        unlabelled = np.zeros((count, g, g), np.bool_)
        for i, rng in enumerate(generators(seed, update, examples)):
            micrograph = self._micrographs[draw_source(rng, self._probabilities)]
            to_patch = self._draw_transform(rng, micrograph, _MILD_SCALE_STEP if mild else _LARGEST_SCALE_STEP)
            pixels = cv2.warpAffine(
                micrograph.picture.pixels, to_patch, (p, p), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT
            )
            changes = self._augment and not mild
            tiles[i, 0] = self._change(rng, np.asarray(pixels, np.float32)) if changes else pixels
            target[i] = self._target(micrograph, to_patch)
            weights[i] = self._weights(micrograph, to_patch)
            if not micrograph.source.labels_are_complete(micrograph.name):
                unlabelled[i] = target[i] < _UNLABELLED_SCORE
        return tiles, target, weights, unlabelled

    def _draw_transform(
        self, rng: np.random.Generator, micrograph: LabelledMicrograph, scale_step: float
    ) -> NDArray[np.float64]:
        """(2, 3) affine map from the picture to the patch, x before y as in OpenCV."""
        y, x = self._draw_centre(rng, micrograph)
        angle = rng.uniform(0, 2 * np.pi) if self._augment else 0.0
        scale = float(np.exp(rng.uniform(-1, 1) * scale_step)) if self._augment else 1.0
        mirror = -1.0 if self._augment and rng.random() < 0.5 else 1.0
        turn = scale * np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
        turn = turn @ np.diag([mirror, 1.0])
        middle = (self._patch_px - 1) / 2
        shift = np.array([middle, middle]) - turn @ np.array([x, y])
        return np.concatenate([turn, shift[:, np.newaxis]], axis=1)

    def _draw_centre(self, rng: np.random.Generator, micrograph: LabelledMicrograph) -> tuple[float, float]:
        """The place y, x in the picture that comes into the middle of the patch."""
        if rng.random() < _NEAR_PARTICLE_FRACTION and len(micrograph.centres):
            y, x = micrograph.centres[rng.integers(len(micrograph.centres))]
            return y + rng.normal(0, self._patch_px / 6), x + rng.normal(0, self._patch_px / 6)
        h, w = micrograph.picture.pixels.shape
        return rng.uniform(0, h), rng.uniform(0, w)

    def _change(self, rng: np.random.Generator, pixels: NDArray[np.float32]) -> NDArray[np.float32]:
        """(p, p) the patch with other contrast, sharpness, spectrum and noise."""
        return change_pixels(rng, pixels)

    def _target(self, micrograph: LabelledMicrograph, to_patch: NDArray[np.float64]) -> NDArray[np.float32]:
        """(g, g) maximum of the Gaussians around the particles."""
        cells = np.arange(self._patch_px // self._step_px) * self._step_px
        centres = micrograph.centres[:, ::-1] @ to_patch[:, :2].T + to_patch[:, 2]  # x, y
        reach = 4 * self._spread_px
        inside = np.all((centres > -reach) & (centres < self._patch_px + reach), axis=1)
        target = np.zeros((cells.size, cells.size), np.float32)
        for x, y in centres[inside]:
            along_y = np.exp(-((cells - y) ** 2) / (2 * self._spread_px**2))
            along_x = np.exp(-((cells - x) ** 2) / (2 * self._spread_px**2))
            np.maximum(target, np.outer(along_y, along_x), out=target)
        return target

    def _weights(self, micrograph: LabelledMicrograph, to_patch: NDArray[np.float64]) -> NDArray[np.float32]:
        """(g, g) 1 inside the data of the micrograph, 0 outside."""
        cells = np.arange(self._patch_px // self._step_px) * self._step_px
        back = np.linalg.inv(to_patch[:, :2])
        x, y = np.meshgrid(cells - to_patch[0, 2], cells - to_patch[1, 2])
        source_x, source_y = back[0, 0] * x + back[0, 1] * y, back[1, 0] * x + back[1, 1] * y
        return micrograph.holds_data(source_y, source_x).astype(np.float32)


def change_pixels(
    rng: np.random.Generator, pixels: NDArray[np.float32], *, spreads: float = RANGE_SIGMAS
) -> NDArray[np.float32]:
    """Change contrast, sharpness, spectrum and noise of (p, p) pixels that map ± `spreads` to 0-1."""
    unit = RANGE_SIGMAS / spreads
    if rng.random() < 0.3:
        pixels = np.asarray(cv2.GaussianBlur(pixels, (0, 0), rng.uniform(0.4, 1.2)), np.float32)
    gain = np.float32(np.exp(rng.uniform(-0.35, 0.35)))
    pixels = (pixels - np.float32(0.5)) * gain + np.float32(0.5 + unit * rng.normal(0, 0.02))
    if rng.random() < 0.4:
        pixels = _recoloured(rng, pixels)
    if rng.random() < 0.5:
        noise = rng.standard_normal(pixels.shape, np.float32)
        pixels = pixels + np.float32(unit * rng.uniform(0.01, 0.08)) * noise
    changed: NDArray[np.float32] = np.clip(pixels, 0, 1)
    return changed


def _recoloured(rng: np.random.Generator, pixels: NDArray[np.float32]) -> NDArray[np.float32]:
    """Multiply the amplitudes of the spectrum by a smooth random curve, of about 3 dB, over the radial frequency.

    As Fourier domain adaptation (Yang and Soatto, CVPR 2020, arXiv:2004.05498) exchanges amplitudes, but at random.
    """
    wave = fft.rfft2(pixels - np.float32(0.5))
    fy, fx = fft.fftfreq(pixels.shape[0])[:, None], fft.rfftfreq(pixels.shape[1])[None, :]
    knots = rng.normal(0, _SPECTRUM_SPREAD, _SPECTRUM_KNOTS.size)
    wave *= np.exp(np.interp(np.hypot(fy, fx), _SPECTRUM_KNOTS, knots)).astype(np.float32)
    return np.asarray(fft.irfft2(wave, pixels.shape), np.float32) + np.float32(0.5)
