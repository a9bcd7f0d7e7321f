"""What a window network learns: to tell crops of particles from others, as the paper did."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from torch.nn import functional

from frazil_trainer.data.labelled import LabelledMicrograph
from frazil_trainer.examples.crops import CropCutter, DrawnPlaces, Places, fixed_places
from frazil_trainer.examples.sampling import generators
from frazil_trainer.networks import make_network
from frazil_trainer.recipe import CentredCrops, CnnSettings, DrawnCrops, JitteredCrops, MlpSettings, Recipe
from frazil_trainer.training.loop import Batch

__all__ = ["DrawnCropTask", "FixedCropTask"]

_LEFT_OUT_SHARE = 0.1
_HELD_OUT_CROPS = 10_000
_HELD_OUT_BATCH = 500

# Streams of random numbers beside the updates', which are counted from 0: far above any of them.
_SPLIT, _HONEST, _HELD_OUT = 2**40, 2**40 + 1, 2**40 + 2


class _CropLoss:
    """Binary cross entropy over crops; a crop is told right when its score is on its label's side of 0.5."""

    def weight(self, batch: Batch) -> torch.Tensor:
        """The number of crops."""
        return batch[0].new_tensor(float(len(batch[0])))

    def loss(self, logits: torch.Tensor, batch: Batch, weight: torch.Tensor) -> torch.Tensor:
        """Summed over the crops, divided by the weight."""
        entropy = functional.binary_cross_entropy_with_logits(logits[:, 0, 0], batch[1], reduction="sum")
        return entropy / weight

    def count(self, logits: torch.Tensor, batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
        """Crops told right, out of all."""
        right = (logits[:, 0, 0] > 0) == (batch[1] > 0.5)
        return right.sum(), right.sum().new_tensor(right.numel())


class FixedCropTask(_CropLoss):
    """The paper's way: a set of crops made once, a random tenth of it left out.

    Crops of one particle stand on both sides of that split, so the accuracy on the tenth is called ``leaky``; the one
    on crops made by the same rules from the validation micrographs is ``honest``.
    """

    def __init__(
        self,
        recipe: Recipe,
        settings: MlpSettings | CnnSettings,
        crops: CentredCrops | JitteredCrops,
        training: Sequence[LabelledMicrograph],
        validation: Sequence[LabelledMicrograph],
    ) -> None:
        self.network: nn.Module = make_network(settings, recipe.seed)
        self._recipe = recipe
        self._cutter = CropCutter(training, settings.tile_px)
        (rng,) = generators(recipe.seed, _SPLIT, [0])
        every = fixed_places(training, self._cutter, crops, recipe.diameter_px, count=crops.count, rng=rng)
        left_out = round(crops.count * _LEFT_OUT_SHARE)
        order = rng.permutation(crops.count)
        self._places = every.select(order[left_out:])
        honest_cutter = CropCutter(validation, settings.tile_px)
        (rng,) = generators(recipe.seed, _HONEST, [0])
        honest = fixed_places(validation, honest_cutter, crops, recipe.diameter_px, count=left_out, rng=rng)
        self.held_out: Mapping[str, list[Batch]] = {
            "leaky": _batches(self._cutter, every.select(order[:left_out])),
            "honest": _batches(honest_cutter, honest),
        }
        self.updates_per_epoch = max(1, len(self._places) // recipe.batch)
        different = every.different()
        self.provenance: Mapping[str, int] = {
            "crops": len(every),
            "positives": int(every.label.sum()),
            "different_positives": int(different.label.sum()),
            "left_out_crops": left_out,
            "honest_crops": len(honest),
            "parameters": sum(p.numel() for p in self.network.parameters()),
        }
        self._epoch = -1
        self._order: NDArray[np.intp] = np.empty(0, np.intp)

    def draw(self, update: int, share: range) -> Batch:
        """Every epoch goes through the crops in an order of its own, but for those that fill no batch."""
        epoch, k = divmod(update, self.updates_per_epoch)
        if epoch != self._epoch:
            (rng,) = generators(self._recipe.seed, epoch, [0])
            self._epoch, self._order = epoch, rng.permutation(len(self._places))
        of_batch = self._order[k * self._recipe.batch : (k + 1) * self._recipe.batch]
        return _cut(self._cutter, self._places.select(of_batch[share.start : share.stop]))


class DrawnCropTask(_CropLoss):
    """Crops drawn anew for every batch, every other one positive; ``held_out`` are crops of other micrographs."""

    def __init__(
        self,
        recipe: Recipe,
        settings: MlpSettings | CnnSettings,
        crops: DrawnCrops,
        training: Sequence[LabelledMicrograph],
        selection: Sequence[LabelledMicrograph],
    ) -> None:
        self.network: nn.Module = make_network(settings, recipe.seed)
        self._seed = recipe.seed
        self._cutter = CropCutter(training, settings.tile_px)
        self._drawn = DrawnPlaces(training, self._cutter, crops, recipe.diameter_px)
        self.updates_per_epoch = -(-crops.per_epoch // recipe.batch)
        self.provenance: Mapping[str, int] = {"parameters": sum(p.numel() for p in self.network.parameters())}
        held_out_cutter = CropCutter(selection, settings.tile_px)
        held_out = DrawnPlaces(selection, held_out_cutter, crops, recipe.diameter_px)
        places = held_out.draw(
            generators(recipe.seed, _HELD_OUT, range(_HELD_OUT_CROPS)), _labels(range(_HELD_OUT_CROPS))
        )
        self.held_out: Mapping[str, list[Batch]] = {"held_out": _batches(held_out_cutter, places)}

    def draw(self, update: int, share: range) -> Batch:
        """Crops, each out of a generator of its own."""
        return _cut(self._cutter, self._drawn.draw(generators(self._seed, update, share), _labels(share)))


def _labels(examples: range) -> list[float]:
    return [float(i % 2 == 0) for i in examples]


def _cut(cutter: CropCutter, places: Places) -> Batch:
    return torch.from_numpy(cutter.cut(places)), torch.from_numpy(places.label)


def _batches(cutter: CropCutter, places: Places) -> list[Batch]:
    starts = range(0, len(places), _HELD_OUT_BATCH)
    return [_cut(cutter, places.select(slice(start, start + _HELD_OUT_BATCH))) for start in starts]
