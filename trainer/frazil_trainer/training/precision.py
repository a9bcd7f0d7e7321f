"""The precision that a network computes in while it trains: bfloat16 only where the device has instructions for it.

Without them torch emulates each multiplication, and a training that takes an hour elsewhere hardly moves.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import msgspec
import torch

from frazil_trainer.recipe import Recipe
from frazil_trainer.training.processes import Processes

__all__ = ["Precision", "bfloat16_instructions", "choose_precision", "decide_precision"]

_INSTRUCTIONS = ("amx_bf16", "avx512_bf16", "sve_bf16", "bf16")
"""As ``torch.cpu.get_capabilities`` calls them, x86 first, then ARM."""


class Precision(msgspec.Struct, frozen=True, kw_only=True):
    """What training computes in, and why."""

    name: Literal["float32", "bfloat16"]
    why: str

    @property
    def is_mixed(self) -> bool:
        """Whether torch is to compute in bfloat16 where that loses little."""
        return self.name == "bfloat16"

    def __str__(self) -> str:
        return f"trains in {self.name}: {self.why}"


def choose_precision(recipe: Recipe, processes: Processes) -> Precision:
    """Choose by the recipe and by the device of each process: all compute in bfloat16, or none does."""
    cuda = processes.device.type == "cuda"
    found = _cuda_instructions() if cuda else bfloat16_instructions(_cpu_capabilities())
    # Every process takes part in this sum, whatever it found itself.
    able = int(processes.sum(torch.tensor(int(found is not None), device=processes.device)))
    return decide_precision(recipe.mixed_precision, found, processes.count - able)


def decide_precision(asked: bool, found: str | None, others_without: int = 0) -> Precision:
    """The choice itself.

    Args:
        asked: the recipe's ``mixed_precision``.
        found: what this process's device computes bfloat16 with; None if it has nothing.
        others_without: how many of the processes that train together have nothing.
    """
    if not asked:
        return Precision(name="float32", why="the recipe does not ask for mixed precision")
    if found is None:
        return Precision(
            name="float32",
            why="the recipe asks for mixed precision, but this device has no instructions for bfloat16",
        )
    if others_without:
        return Precision(
            name="float32",
            why="the recipe asks for mixed precision, but another process's device has no instructions for bfloat16",
        )
    return Precision(name="bfloat16", why=f"the recipe asks for mixed precision, and this device has {found}")


def bfloat16_instructions(capabilities: Mapping[str, Any]) -> str | None:
    """A processor's instructions for bfloat16, out of its capabilities as torch tells them; None if it has none."""
    return next((name for name in _INSTRUCTIONS if capabilities.get(name) is True), None)


def _cpu_capabilities() -> Mapping[str, Any]:
    # torch before 2.12 cannot say: float32 is never wrong.
    query = getattr(torch.cpu, "get_capabilities", dict)
    capabilities: Mapping[str, Any] = query()
    return capabilities


def _cuda_instructions() -> str | None:
    """GPUs before Ampere have none; torch would emulate them."""
    return "bfloat16 units" if torch.cuda.is_bf16_supported(including_emulation=False) else None
