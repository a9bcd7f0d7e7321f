"""Patches with a target score for every cell, from which the fully convolutional network learns."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal

import torch
from numpy.typing import NDArray
from torch.nn import functional

from frazil_trainer.data.labelled import LabelledMicrograph
from frazil_trainer.examples.areas import AreaSampler
from frazil_trainer.examples.patches import PatchSampler
from frazil_trainer.networks import Fcn, JunkFinder
from frazil_trainer.recipe import Areas, Patches, Recipe
from frazil_trainer.training.loop import Batch, Sums

__all__ = ["PatchSource", "make_sampler", "quality_focal_loss"]

_HELD_OUT_PATCHES = 32
_HELD_OUT_BATCH = 8

_HELD_OUT = 2**40
"""Random stream beside those of the updates, which count from 0."""


class PatchSource:
    """Patches drawn anew for every batch; those of the selection micrographs are held out."""

    metric: Literal["accuracy", "iou"] = "iou"

    def __init__(
        self,
        recipe: Recipe,
        patches: Patches | Areas,
        training: Sequence[LabelledMicrograph],
        selection: Sequence[LabelledMicrograph],
    ) -> None:
        self._seed = recipe.seed
        self._focus = patches.focus
        self._scores_areas = isinstance(patches, Areas)
        doubt_from, self._doubtful_score = 1.0, 1.0
        if isinstance(patches, Patches):
            doubt_from, self._doubtful_score = patches.doubt_from, patches.doubtful_score
        self._sampler = make_sampler(recipe, patches, training, augment=True)
        self.updates_per_epoch = -(-patches.per_epoch // recipe.batch)
        updates = recipe.epochs * self.updates_per_epoch
        self._first_ignoring, self._first_mild = round(doubt_from * updates), round(patches.calm_from * updates)
        self.counts: Mapping[str, int] = {}
        held_out = make_sampler(recipe, patches, selection, augment=False)
        self.held_out: Mapping[str, list[Batch]] = {
            "held_out": [
                _tensors(held_out.draw(recipe.seed, _HELD_OUT, range(start, start + _HELD_OUT_BATCH)))
                for start in range(0, _HELD_OUT_PATCHES, _HELD_OUT_BATCH)
            ]
        }

    def draw(self, update: int, examples: range) -> Batch:
        """Tiles, target scores, weights of cells, and the cells that may be ignored, of patches with a generator each.

        Augmentation is mild towards the end, so that the network settles on images as in picking (Ge et al., YOLOX,
        arXiv:2107.08430, stop strong augmentation in the same way).
        """
        drawn = self._sampler.draw(self._seed, update, examples, mild=update >= self._first_mild)
        *patches, unlabelled = _tensors(drawn)
        return *patches, unlabelled & (update >= self._first_ignoring)

    def sums(self, logits: torch.Tensor, batch: Batch) -> Sums:
        """Quality focal loss over the number of particles, and intersection over union of cells with particles.

        For areas it is over the number of cells that count, and of cells with junk.

        The loss has an ignore mask over cells that look like unlabelled particles. If labels miss particles, a detector
        that learns them as background scores all similar particles low. It does better if it learns nothing from them
        (Wu et al., Soft Sampling for Robust Object Detection, BMVC 2019).
        """
        _, target, weights, unlabelled = batch
        ignore = unlabelled & (torch.sigmoid(logits.detach()) > self._doubtful_score)
        counts = weights > 0
        predicted, particle = (logits > 0) & counts, (target > 0.5) & counts
        return Sums(
            loss=quality_focal_loss(logits, target, weights * ~ignore, self._focus),
            weight=weights.sum() if self._scores_areas else (target * weights).sum(),
            numerator=(predicted & particle).sum(),
            denominator=(predicted | particle).sum(),
        )


def quality_focal_loss(logits: torch.Tensor, target: torch.Tensor, weights: torch.Tensor, focus: float) -> torch.Tensor:
    """Sum of cross entropy, weighted by the distance between score and target (Li et al., NeurIPS 2020).

    The many easy cells of background do not outweigh the few hard ones, and a score remains a probability.

    Args:
        logits: (n, g, g).
        target: (n, g, g) scores from 0 to 1.
        weights: (n, g, g), 0 for cells that do not count.
        focus: exponent of the distance.
    """
    distance = (torch.sigmoid(logits) - target).abs()
    entropy = functional.binary_cross_entropy_with_logits(logits, target, reduction="none")
    return (entropy * distance**focus * weights).sum()


def make_sampler(
    recipe: Recipe, patches: Patches | Areas, micrographs: Sequence[LabelledMicrograph], *, augment: bool
) -> PatchSampler:
    """What draws patches of some micrographs for a recipe's network."""
    if isinstance(patches, Areas):
        return AreaSampler(
            micrographs,
            patch_px=patches.patch_px,
            step_px=JunkFinder.step_px,
            diameter_px=recipe.diameter_px,
            near_junk=patches.near_junk,
            clear_diameters=patches.clear_diameters,
            augment=augment,
        )
    return PatchSampler(
        micrographs,
        patch_px=patches.patch_px,
        step_px=Fcn.step_px,
        diameter_px=recipe.diameter_px,
        spread_diameters=patches.spread_diameters,
        augment=augment,
    )


def _tensors(arrays: Iterable[NDArray[Any]]) -> Batch:
    return tuple(torch.from_numpy(array) for array in arrays)
