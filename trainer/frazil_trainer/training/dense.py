"""What the fully convolutional network learns: a score for every place of a patch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from frazil_trainer.data.labelled import LabelledMicrograph
from frazil_trainer.examples.patches import PatchSampler
from frazil_trainer.examples.sampling import generators
from frazil_trainer.networks import Fcn, make_network
from frazil_trainer.recipe import FcnSettings, Patches, Recipe
from frazil_trainer.training.loop import Batch

__all__ = ["PatchTask", "quality_focal_loss"]

_HELD_OUT_PATCHES = 32
_HELD_OUT_BATCH = 8

_HELD_OUT = 2**40
"""Stream of random numbers beside the updates', which are counted from 0."""


class PatchTask:
    """Patches drawn anew for every batch; ``held_out`` are patches of other micrographs."""

    def __init__(
        self,
        recipe: Recipe,
        settings: FcnSettings,
        patches: Patches,
        training: Sequence[LabelledMicrograph],
        selection: Sequence[LabelledMicrograph],
    ) -> None:
        self.network: nn.Module = make_network(settings, recipe.seed)
        self._seed = recipe.seed
        self._patches = patches
        self._sampler = _sampler(recipe, patches, training, augment=True)
        self.updates_per_epoch = -(-patches.per_epoch // recipe.batch)
        updates = recipe.epochs * self.updates_per_epoch
        self._first_doubt, self._first_calm = round(patches.doubt_from * updates), round(patches.calm_from * updates)
        self.provenance: Mapping[str, int] = {"parameters": sum(p.numel() for p in self.network.parameters())}
        aside = _sampler(recipe, patches, selection, augment=False)
        self.held_out: Mapping[str, list[Batch]] = {
            "held_out": [
                _draw(aside, generators(recipe.seed, _HELD_OUT, range(start, start + _HELD_OUT_BATCH)))
                for start in range(0, _HELD_OUT_PATCHES, _HELD_OUT_BATCH)
            ]
        }

    def draw(self, update: int, share: range) -> Batch:
        """Patches, each out of a generator of its own: tiles, wanted scores, weights of cells, which are doubtful.

        Towards the end they are changed less, so that the network settles on what it will really see (Ge et al.,
        YOLOX, arXiv:2107.08430, stop their strong augmentation so).
        """
        rngs = generators(self._seed, update, share)
        *patches, doubtful = _draw(self._sampler, rngs, calm=update >= self._first_calm)
        return *patches, doubtful & (update >= self._first_doubt)

    def weight(self, batch: Batch) -> torch.Tensor:
        """The particles in a batch, as the sum of all wanted scores."""
        _, wanted, weights, _ = batch
        return (wanted * weights).sum()

    def loss(self, logits: torch.Tensor, batch: Batch, weight: torch.Tensor) -> torch.Tensor:
        """Quality focal loss per particle, without the cells that seem to hold particles but have no label.

        Where labels miss particles, a detector taught that there is nothing grows shy of all particles that look
        alike; to teach it nothing there is better (Wu et al., Soft Sampling for Robust Object Detection, BMVC 2019).
        """
        _, wanted, weights, doubtful = batch
        seen = torch.sigmoid(logits.detach()) > self._patches.doubtful_score
        return quality_focal_loss(logits, wanted, weights * ~(doubtful & seen), self._patches.focus, weight)

    def count(self, logits: torch.Tensor, batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
        """Cells that hold a particle and were taken for one; and those of which either is true."""
        _, wanted, weights, _ = batch
        counts = weights > 0
        taken, particle = (logits > 0) & counts, (wanted > 0.5) & counts
        return (taken & particle).sum(), (taken | particle).sum()


def quality_focal_loss(
    logits: torch.Tensor, wanted: torch.Tensor, weights: torch.Tensor, focus: float, particles: torch.Tensor
) -> torch.Tensor:
    """Cross entropy weighed by how far the score is off, per particle (Li et al., NeurIPS 2020).

    The many easy cells of background do not drown the few hard ones, and the score still means what it says.

    Args:
        logits: (n, g, g).
        wanted: (n, g, g) scores from 0 to 1.
        weights: (n, g, g), 0 where a cell does not count.
        focus: power of the distance.
        particles: that the sum is divided by, at least 1.
    """
    distance = (torch.sigmoid(logits) - wanted).abs()
    entropy = functional.binary_cross_entropy_with_logits(logits, wanted, reduction="none")
    return (entropy * distance**focus * weights).sum() / particles.clamp(min=1)


def _sampler(
    recipe: Recipe, patches: Patches, micrographs: Sequence[LabelledMicrograph], *, augment: bool
) -> PatchSampler:
    return PatchSampler(
        micrographs,
        patch_px=patches.patch_px,
        step_px=Fcn.step_px,
        diameter_px=recipe.diameter_px,
        spread_diameters=patches.spread_diameters,
        augment=augment,
    )


def _draw(sampler: PatchSampler, rngs: Sequence[np.random.Generator], *, calm: bool = False) -> Batch:
    return tuple(torch.from_numpy(array) for array in sampler.draw(rngs, calm=calm))
