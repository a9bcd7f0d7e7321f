"""What the network learns from: patches of the labelled micrographs, and as many of others, to forget nothing.

On the others, the replay set, the target is what the model said before it was adapted (Li and Hoiem, Learning without
Forgetting, ECCV 2016). So no labels are needed, and scores keep their height.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from frazil_trainer.data.labelled import LabelledMicrograph
from frazil_trainer.examples.sampling import generators
from frazil_trainer.recipe import Patches, Recipe
from frazil_trainer.training.dense import make_sampler, quality_focal_loss
from frazil_trainer.training.loop import Batch, Sums

__all__ = ["AdaptationSource"]

_LABEL_WEIGHT = 4.0
"""Additional weight of a cell on a label. Faint particles get low scores from a loss that counts all cells alike; with
it the best threshold for them stays near that of the model."""
_LEAST_LOGIT = -5.0
"""Lower logits of the replay set need not be kept: the place is no particle, however sure."""
_LEAST_CELL_WEIGHT = 0.02

_REPLAY_WEIGHT = 0.5

_REPLAY = 2**20
"""Added to the seed for the replay set's random streams."""


class AdaptationSource:
    """Patches for every update: the first half of a batch is of the labelled micrographs, the second of the replay set.

    Args:
        recipe: of the adaptation.
        patches: of the same.
        own: the labelled micrographs.
        replay: the others.
        before: the network before it was adapted.
    """

    metric: Literal["accuracy", "iou"] = "iou"

    def __init__(
        self,
        recipe: Recipe,
        patches: Patches,
        own: Sequence[LabelledMicrograph],
        replay: Sequence[LabelledMicrograph],
        before: nn.Module,
    ) -> None:
        self._seed = recipe.seed
        self._patches = patches
        self._own_count = recipe.batch // 2
        self._own, self._replay = (
            make_sampler(recipe, patches, micrographs, augment=True) for micrographs in (own, replay)
        )
        self._before = before
        self.updates_per_epoch = patches.per_epoch // recipe.batch
        updates = recipe.epochs * self.updates_per_epoch
        self._first_ignoring, self._first_mild = round(patches.doubt_from * updates), round(patches.calm_from * updates)
        self.counts: Mapping[str, int] = {
            "labelled_particles": sum(len(one.centres) for one in own),
            "replay_micrographs": len(replay),
        }
        self.held_out: Mapping[str, list[Batch]] = {}

    def draw(self, update: int, examples: range) -> Batch:
        """Tiles, target scores, weights of cells, the cells that may be ignored, and which examples are replayed.

        Augmentation is mild towards the end, as in a training from the beginning.
        """
        split = min(max(self._own_count, examples.start), examples.stop)
        mild = update >= self._first_mild
        own = self._own.draw(self._seed, update, range(examples.start, split), mild=mild)
        of_replay = range(split, examples.stop)
        replayed = self._replay.draw(self._seed + _REPLAY, update, of_replay, mild=mild)
        for tile, rng in zip(replayed[0], generators(self._seed + 2 * _REPLAY, update, of_replay), strict=True):
            tile[0] = _filter(rng, tile[0])
        tiles, target, weights, unlabelled = (
            torch.from_numpy(np.concatenate(pair)) for pair in zip(own, replayed, strict=True)
        )
        is_replayed = torch.arange(examples.start, examples.stop) >= self._own_count
        return tiles, target, weights, unlabelled & (update >= self._first_ignoring), is_replayed

    def sums(self, logits: torch.Tensor, batch: Batch) -> Sums:
        """Quality focal loss on labelled micrographs, and squared distance to the former logits on the others.

        The ignore mask is that of a training on incomplete labels.
        """
        tiles, target, weights, unlabelled, replayed = batch
        ignore = unlabelled & (torch.sigmoid(logits.detach()) > self._patches.doubtful_score)
        own_weights = weights * ~ignore * (1 + _LABEL_WEIGHT * target)
        own = quality_focal_loss(logits[~replayed], target[~replayed], own_weights[~replayed], self._patches.focus)
        particles = (target * weights)[~replayed].sum().clamp(min=1)
        counts = (weights > 0) & ~replayed[:, None, None]
        predicted, particle = (logits > 0) & counts, (target > 0.5) & counts
        return Sums(
            loss=own / particles
            + _REPLAY_WEIGHT * self._distance(tiles[replayed], logits[replayed], weights[replayed]),
            weight=logits.new_ones(()),
            numerator=(predicted & particle).sum(),
            denominator=(predicted | particle).sum(),
        )

    def _distance(self, tiles: torch.Tensor, logits: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
        """Squared distance of logits to those before, most where a particle was or is seen, over particles seen."""
        with torch.no_grad():
            former: torch.Tensor = self._before.to(tiles.device)(tiles)
            seen = torch.sigmoid(former)
            cells = weights * (torch.maximum(seen, torch.sigmoid(logits)) + _LEAST_CELL_WEIGHT)
        distance = (logits - former.clamp(min=_LEAST_LOGIT)) ** 2
        of_replay: torch.Tensor = (distance * cells).sum() / (seen * weights).sum().clamp(min=1)
        return of_replay


def _filter(rng: np.random.Generator, pixels: NDArray[np.float32]) -> NDArray[np.float32]:
    """Filter a picture as programs and people do before it is published: blurred and stretched, or its waves flattened.

    Simulated micrographs alone are too much alike to stand for all that the model knew.
    """
    middle = np.float32(0.5)
    if rng.random() < 0.5:
        spread = max(float(pixels.std()), 1e-3)
        blurred = np.asarray(cv2.GaussianBlur(pixels, (0, 0), rng.uniform(0.7, 2.2)), np.float32)
        gain = min(spread / max(float(blurred.std()), 1e-3), 4.0) * np.exp(rng.uniform(-0.3, 0.3))
        pixels = (blurred - blurred.mean()) * np.float32(gain) + middle
    if rng.random() < 0.3:
        waves = np.asarray(cv2.GaussianBlur(pixels, (0, 0), rng.uniform(3, 12)), np.float32)
        pixels = pixels - np.float32(rng.uniform(0.2, 1)) * (waves - middle)
    filtered: NDArray[np.float32] = np.clip(pixels, 0, 1)
    return filtered
