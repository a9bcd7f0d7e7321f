"""Crops with one label each, from which the networks that score windows learn."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional

from frazil_trainer.data.labelled import LabelledMicrograph
from frazil_trainer.examples.crops import CropCutter, CropSampler, Places, fixed_places
from frazil_trainer.examples.sampling import generators
from frazil_trainer.recipe import CentredCrops, DrawnCrops, JitteredCrops, Recipe
from frazil_trainer.training.loop import Batch, Sums

__all__ = ["DrawnCropSource", "FixedCropSource"]

_HELD_OUT_FRACTION = 0.1
_HELD_OUT_CROPS = 10_000
_HELD_OUT_BATCH = 500

# Random streams beside those of the updates, which count from 0.
_SPLIT, _HONEST, _HELD_OUT = 2**40, 2**40 + 1, 2**40 + 2


class _CropLoss:
    """Binary cross entropy; a crop is correct if its score lies on its label's side of 0.5."""

    metric: Literal["accuracy", "iou"] = "accuracy"

    def sums(self, logits: torch.Tensor, batch: Batch) -> Sums:
        """Cross entropy over the number of crops, and correct crops over all."""
        logits, labels = logits[:, 0, 0], batch[1]
        correct = ((logits > 0) == (labels > 0.5)).sum()
        return Sums(
            loss=functional.binary_cross_entropy_with_logits(logits, labels, reduction="sum"),
            weight=labels.new_tensor(float(len(labels))),
            numerator=correct,
            denominator=correct.new_tensor(len(labels)),
        )


class FixedCropSource(_CropLoss):
    """The paper's crops: a set made once, of which a random tenth is held out.

    Crops of one particle lie on both sides of that split, so the accuracy on the tenth is called ``leaky``. The
    accuracy on crops from the validation micrographs, made by the same rules, is called ``honest``.
    """

    def __init__(
        self,
        recipe: Recipe,
        tile_px: int,
        crops: CentredCrops | JitteredCrops,
        training: Sequence[LabelledMicrograph],
        validation: Sequence[LabelledMicrograph],
    ) -> None:
        self._recipe = recipe
        self._cutter = CropCutter(training, tile_px)
        (rng,) = generators(recipe.seed, _SPLIT, [0])
        all_places = fixed_places(training, self._cutter, crops, recipe.diameter_px, count=crops.count, rng=rng)
        held_out = round(crops.count * _HELD_OUT_FRACTION)
        order = rng.permutation(crops.count)
        self._places = all_places.select(order[held_out:])
        honest_cutter = CropCutter(validation, tile_px)
        (rng,) = generators(recipe.seed, _HONEST, [0])
        honest = fixed_places(validation, honest_cutter, crops, recipe.diameter_px, count=held_out, rng=rng)
        self.held_out: Mapping[str, list[Batch]] = {
            "leaky": _batches(self._cutter, all_places.select(order[:held_out])),
            "honest": _batches(honest_cutter, honest),
        }
        self.updates_per_epoch = max(1, len(self._places) // recipe.batch)
        self.counts: Mapping[str, int] = {
            "crops": len(all_places),
            "positives": int(all_places.label.sum()),
            "different_positives": int(all_places.different().label.sum()),
            "left_out_crops": held_out,
            "honest_crops": len(honest),
        }
        self._epoch = -1
        self._order: NDArray[np.intp] = np.empty(0, np.intp)

    def draw(self, update: int, examples: range) -> Batch:
        """Every epoch takes the crops in a new order, without the last ones that fill no batch."""
        epoch, k = divmod(update, self.updates_per_epoch)
        if epoch != self._epoch:
            (rng,) = generators(self._recipe.seed, epoch, [0])
            self._epoch, self._order = epoch, rng.permutation(len(self._places))
        of_batch = self._order[k * self._recipe.batch : (k + 1) * self._recipe.batch]
        return _tensors(self._cutter.cut(self._places.select(of_batch[examples.start : examples.stop])))


class DrawnCropSource(_CropLoss):
    """Crops drawn anew for every batch, every second one positive; those of the selection micrographs are held out."""

    def __init__(
        self,
        recipe: Recipe,
        tile_px: int,
        crops: DrawnCrops,
        training: Sequence[LabelledMicrograph],
        selection: Sequence[LabelledMicrograph],
    ) -> None:
        self._seed = recipe.seed
        self._sampler = CropSampler(training, crops, tile_px=tile_px, diameter_px=recipe.diameter_px)
        self.updates_per_epoch = -(-crops.per_epoch // recipe.batch)
        self.counts: Mapping[str, int] = {}
        held_out = CropSampler(selection, crops, tile_px=tile_px, diameter_px=recipe.diameter_px)
        self.held_out: Mapping[str, list[Batch]] = {
            "held_out": [
                _tensors(held_out.draw(recipe.seed, _HELD_OUT, range(start, start + _HELD_OUT_BATCH)))
                for start in range(0, _HELD_OUT_CROPS, _HELD_OUT_BATCH)
            ]
        }

    def draw(self, update: int, examples: range) -> Batch:
        """Crops, each from a generator of its own."""
        return _tensors(self._sampler.draw(self._seed, update, examples))


def _tensors(crops: tuple[NDArray[np.float32], NDArray[np.float32]]) -> Batch:
    return tuple(torch.from_numpy(array) for array in crops)


def _batches(cutter: CropCutter, places: Places) -> list[Batch]:
    starts = range(0, len(places), _HELD_OUT_BATCH)
    return [_tensors(cutter.cut(places.select(slice(start, start + _HELD_OUT_BATCH)))) for start in starts]
