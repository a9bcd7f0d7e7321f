"""The networks."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn

__all__ = ["Mlp", "MlpConfig"]


@dataclass(frozen=True, slots=True, kw_only=True)
class MlpConfig:
    """Size of an `Mlp`."""

    tile_px: int = 64
    hidden: int = 256
    dropout: float = 0.2


class Mlp(nn.Module):
    """The paper's first picker: 4096 inputs, two hidden layers of 256, one output; dropout before every dense layer."""

    def __init__(self, config: MlpConfig) -> None:
        super().__init__()
        self.config = config
        inputs = config.tile_px**2
        self.layers = nn.Sequential(
            nn.Dropout(config.dropout),
            nn.Linear(inputs, config.hidden),
            nn.ReLU(),
            nn.Dropout(config.dropout),
            nn.Linear(config.hidden, config.hidden),
            nn.ReLU(),
            nn.Dropout(config.dropout),
            nn.Linear(config.hidden, 1),
        )

    def initialise(self, generator: torch.Generator) -> None:
        """He initialisation (He et al., ICCV 2015); biases zero."""
        for layer in self.layers:
            if isinstance(layer, nn.Linear):
                nn.init.kaiming_normal_(layer.weight, nonlinearity="relu", generator=generator)
                nn.init.zeros_(layer.bias)

    def forward(self, tiles: torch.Tensor) -> torch.Tensor:
        """(n, 1, t, t) tiles → (n, 1, 1) logits."""
        flat = tiles.flatten(1)  # (n, t * t)
        logits: torch.Tensor = self.layers(flat)  # (n, 1)
        return logits.reshape(-1, 1, 1)
