"""The number format of a training: bfloat16 only if the device has instructions for it.

Without them torch emulates every multiplication, which takes many times as long.
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
"""Names in ``torch.cpu.get_capabilities``, of x86 first, then of ARM."""


class Precision(msgspec.Struct, frozen=True, kw_only=True):
    """The number format of a training, and the reason for it."""

    name: Literal["float32", "bfloat16"]
    why: str

    @property
    def is_mixed(self) -> bool:
        """Whether torch computes in bfloat16, except in operations that need float32."""
        return self.name == "bfloat16"

    def __str__(self) -> str:
        return f"trains in {self.name}: {self.why}"


def choose_precision(recipe: Recipe, processes: Processes) -> Precision:
    """Choose by the recipe and the devices of all processes: all compute in bfloat16, or none does."""
    cuda = processes.device.type == "cuda"
    found = _cuda_instructions() if cuda else bfloat16_instructions(_cpu_capabilities())
    # A collective call: every process must make it.
    able = int(processes.sum(torch.tensor(int(found is not None), device=processes.device)))
    return decide_precision(recipe.mixed_precision, found, processes.count - able)


def decide_precision(asked: bool, found: str | None, others_without: int = 0) -> Precision:
    """Decide the number format.

    It depends on the recipe's ``mixed_precision``, on the instructions for bfloat16 found on this process's device, and
    on how many other processes have none.
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
    """A processor's instructions for bfloat16, if any, from its capabilities in torch."""
    return next((name for name in _INSTRUCTIONS if capabilities.get(name) is True), None)


def _cpu_capabilities() -> Mapping[str, Any]:
    # Unknown to torch before 2.12; float32 is always right.
    query = getattr(torch.cpu, "get_capabilities", dict)
    capabilities: Mapping[str, Any] = query()
    return capabilities


def _cuda_instructions() -> str | None:
    """Of Ampere and later; torch emulates them on older GPUs."""
    return "bfloat16 units" if torch.cuda.is_bf16_supported(including_emulation=False) else None
