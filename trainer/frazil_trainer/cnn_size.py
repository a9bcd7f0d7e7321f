"""The size of a convolutional network over windows, which recipes give and check; needs no torch."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["CnnConfig"]


@dataclass(frozen=True, slots=True, kw_only=True)
class CnnConfig:
    """Size of a `Cnn`."""

    tile_px: int = 64
    channels: int = 8
    """Of the first stage; every further stage has twice as many."""
    convolutions: tuple[int, ...] = (1, 1, 1, 2, 2)
    """In each stage, before it is pooled."""
    hidden: int = 256
    dropout: float = 0.2
    padding: bool = True
    """Whether every convolution sees a frame of zeros around its input, and so keeps its size."""

    @property
    def step_px(self) -> int:
        """Distance between neighbouring features after the last stage: each stage halves the resolution."""
        return int(2 ** len(self.convolutions))

    @property
    def side(self) -> int:
        """Features along one side of a window, after the last stage; 0 where nothing is left of it."""
        side = self.tile_px
        for count in self.convolutions:
            side = max(0, side - (0 if self.padding else 2 * count)) // 2
        return side

    @property
    def scores_whole_tiles(self) -> bool:
        """Whether windows a whole number of steps apart share their features, so that a larger tile gives the very
        scores of all windows in it: not where a window is padded, nor where pooling leaves out its last pixels.
        """
        field = self.side
        for count in reversed(self.convolutions):
            field = 2 * field + 2 * count
        return not self.padding and field == self.tile_px
