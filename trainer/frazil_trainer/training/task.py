"""What the training loop trains."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

import torch
from torch import nn

__all__ = ["Batch", "Task"]

Batch = tuple[torch.Tensor, ...]
"""Tensors of one length, (n, 1, t, t) tiles first."""


class Task(Protocol):
    """A network and the examples that it learns from.

    Nothing in it changes from update to update but the network: a batch is decided by the seed and the number of the
    update alone, so a training may stop anywhere and go on as if it had not.
    """

    network: nn.Module
    """Initialised; gives (n, g, g) logits."""
    updates_per_epoch: int
    held_out: Mapping[str, list[Batch]]
    """Examples that are only looked at, by the name of the accuracy on them."""
    provenance: Mapping[str, int]
    """Counts that belong in the card."""

    def draw(self, update: int, share: range) -> Batch:
        """Draw a share of the batch of an update, both counted from 0; may run in another thread."""
        ...

    def weight(self, batch: Batch) -> torch.Tensor:
        """How much a batch counts among the shares of one update; summed over them, it divides the loss."""
        ...

    def loss(self, logits: torch.Tensor, batch: Batch, weight: torch.Tensor) -> torch.Tensor:
        """The loss of a share, divided by the weight of the whole batch."""
        ...

    def count(self, logits: torch.Tensor, batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
        """How many were told right, out of how many that were told."""
        ...
