"""How much is measured."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["SCALES", "Scale"]


@dataclass(frozen=True, kw_only=True)
class Scale:
    """How much is measured; by default, all of it."""

    sizes_px: tuple[int, ...] = (2048, 4096, 8192)
    """Sides of square micrographs of float32."""
    picked_px: int = 2048
    """Side of the simulated ones whose picks are compared."""
    picked: int = 6
    """Their number."""
    models: tuple[str, ...] = ("mlp", "cnn", "fcn")
    rounds: int = 10
    in_flight: tuple[int, ...] = (1, 2, 4)
    """Pickers at once, each with a session of its own."""
    backlog: int = 500
    backlog_px: int = 4096
    swaps: int = 100
    swapped_px: int = 2048
    full: int = 20
    """Micrographs before, while and after the device is full."""
    train_px: int = 2048
    trained: int = 12
    epochs: int = 5
    adapt_minutes: float = 2.5


SCALES = {
    "full": Scale(),
    # Whether all of it runs, on the CPU.
    "dry": Scale(
        sizes_px=(768,),
        picked_px=768,
        picked=2,
        rounds=2,
        in_flight=(1, 2),
        backlog=20,
        backlog_px=768,
        swaps=6,
        swapped_px=768,
        full=4,
        train_px=768,
        trained=6,
        epochs=1,
        adapt_minutes=0.1,
    ),
}
