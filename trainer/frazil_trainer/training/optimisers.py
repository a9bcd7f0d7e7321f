"""The optimisers and the way their rates change from update to update."""

from __future__ import annotations

from torch import nn
from torch.optim import SGD, Optimizer
from torch.optim import AdamW as TorchAdamW
from torch.optim.lr_scheduler import LambdaLR, LRScheduler, OneCycleLR

from frazil_trainer.recipe import AdamW, Sgd

__all__ = ["make_optimiser"]

_WARM_UP_SHARE = 0.1


def make_optimiser(network: nn.Module, settings: Sgd | AdamW, updates: int) -> tuple[Optimizer, LRScheduler]:
    """An optimiser and its schedule, which takes a step after every update.

    Args:
        network: whose parameters to optimise.
        settings: kind and rates.
        updates: in the whole training.
    """
    if isinstance(settings, Sgd):
        decay = settings.decay_per_update
        sgd = SGD(network.parameters(), lr=settings.learning_rate, momentum=settings.momentum)
        return sgd, LambdaLR(sgd, lambda update: 1 / (1 + decay * update))
    adamw = TorchAdamW(network.parameters(), lr=settings.learning_rate, weight_decay=settings.weight_decay)
    return adamw, OneCycleLR(adamw, settings.learning_rate, updates, pct_start=_WARM_UP_SHARE)
