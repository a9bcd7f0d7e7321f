"""The training loop."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from frazil.errors import FrazilError
from frazil_trainer.crops import CropSampler
from frazil_trainer.labelled import LabelledMicrograph
from frazil_trainer.networks import Mlp, MlpConfig
from frazil_trainer.recipe import Recipe

__all__ = ["EpochReport", "mean_loss", "train"]

_HELD_OUT_CROPS = 10_000


@dataclass(frozen=True, slots=True, kw_only=True)
class EpochReport:
    """Figures after one epoch."""

    epoch: int
    """From 1."""
    loss: float
    """Mean loss of the epoch's batches."""
    accuracy: float
    """Share of the epoch's crops that were told right, dropout on. A dense network: of the cells that hold a particle,
    or were taken for one, the share that are both."""
    held_out_accuracy: float
    """The same on a fixed draw from micrographs that are not trained on."""


def train(
    recipe: Recipe,
    training: Sequence[LabelledMicrograph],
    held_out: Sequence[LabelledMicrograph],
    report: Callable[[EpochReport], None],
) -> Mlp:
    """Train the paper's way: SGD with momentum and a decaying rate on binary cross entropy.

    The recipe's seed decides every random draw: the same seed gives the same network on the same machine.

    Args:
        recipe: all settings.
        training: micrographs to draw crops from.
        held_out: micrographs only looked at.
        report: called after every epoch.

    Raises:
        FrazilError: the loss is no longer a number.
    """
    torch.manual_seed(recipe.seed)
    network = Mlp(MlpConfig(tile_px=recipe.tile_px, hidden=recipe.hidden, dropout=recipe.dropout))
    network.initialise(torch.Generator().manual_seed(recipe.seed))
    optimiser = torch.optim.SGD(network.parameters(), lr=recipe.learning_rate, momentum=recipe.momentum)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimiser, lambda k: 1 / (1 + recipe.decay_per_update * k))
    loss_of = nn.BCEWithLogitsLoss()
    sampler = CropSampler(training, recipe, recipe.seed)
    held_out_crops = CropSampler(held_out, recipe, recipe.seed + 1).draw(_HELD_OUT_CROPS)
    updates = math.ceil(recipe.samples_per_epoch / recipe.batch)
    for epoch in range(1, recipe.epochs + 1):
        network.train()
        losses, correct = [], 0
        for _ in range(updates):
            tiles, labels = (torch.from_numpy(array) for array in sampler.draw(recipe.batch))
            logits = network(tiles)[:, 0, 0]
            loss = loss_of(logits, labels)
            optimiser.zero_grad(set_to_none=True)
            loss.backward()
            optimiser.step()
            schedule.step()
            losses.append(loss.detach())
            correct += int(((logits > 0) == (labels > 0.5)).sum())
        report(
            EpochReport(
                epoch=epoch,
                loss=mean_loss(losses, epoch, recipe),
                accuracy=correct / (updates * recipe.batch),
                held_out_accuracy=_accuracy(network, *held_out_crops),
            )
        )
    network.eval()
    return network


def mean_loss(losses: Sequence[torch.Tensor], epoch: int, recipe: Recipe) -> float:
    """Mean over an epoch's batches.

    Raises:
        FrazilError: it is no longer a number.
    """
    mean = float(torch.stack(list(losses)).mean())
    if not math.isfinite(mean):
        raise FrazilError(f"epoch {epoch}: the loss is {mean}; lower learning_rate (now {recipe.learning_rate:g})")
    return mean


@torch.no_grad()
def _accuracy(network: Mlp, tiles: NDArray[np.float32], labels: NDArray[np.float32]) -> float:
    network.eval()
    logits = network(torch.from_numpy(tiles))[:, 0, 0].numpy()
    return float(((logits > 0) == (labels > 0.5)).mean())
