"""Training computes in bfloat16 only where the device has instructions for it, and says in what it computes and why."""

from __future__ import annotations

import io
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import msgspec
import pytest
import torch
from rich.console import Console

from frazil.model import read_card
from frazil_trainer.recipe import Recipe
from frazil_trainer.run import run_recipe
from frazil_trainer.training import precision
from frazil_trainer.training.precision import bfloat16_instructions, choose_precision, decide_precision
from frazil_trainer.training.processes import Processes

pytestmark = pytest.mark.trainer

HASWELL = {"architecture": "x86_64", "avx2": True, "avx512_f": False, "avx512_bf16": False, "amx_bf16": False}
CASCADE_LAKE = HASWELL | {"avx512_f": True, "avx512_vnni": True}
COOPER_LAKE = CASCADE_LAKE | {"avx512_bf16": True}
GRAVITON_3 = {"architecture": "aarch64", "neon": True, "bf16": True, "sve_max_length": 32}


@pytest.mark.parametrize(
    ("capabilities", "found"),
    [
        (HASWELL, None),
        (CASCADE_LAKE, None),
        (COOPER_LAKE, "avx512_bf16"),
        (COOPER_LAKE | {"amx_bf16": True}, "amx_bf16"),
        (GRAVITON_3, "bf16"),
        ({}, None),  # a torch that cannot say
    ],
)
def test_instructions_are_found_among_what_torch_tells(capabilities: Mapping[str, object], found: str | None) -> None:
    assert bfloat16_instructions(capabilities) == found


def test_bfloat16_is_computed_in_only_if_asked_for_and_by_all_devices() -> None:
    assert decide_precision(asked=True, found="amx_bf16").is_mixed
    for choice, why in (
        (decide_precision(asked=False, found="amx_bf16"), "does not ask"),
        (decide_precision(asked=True, found=None), "this device has no instructions"),
        (decide_precision(asked=True, found="amx_bf16", others_without=1), "another process's device has no"),
    ):
        assert not choice.is_mixed
        assert why in choice.why


@dataclass(frozen=True, kw_only=True)
class WithAnOldOne(Processes):
    """Two processes, the other one on a processor without instructions."""

    count: int = 2

    def sum(self, tensor: torch.Tensor) -> torch.Tensor:
        return tensor


def test_processes_agree(tiny_recipe: Recipe, monkeypatch: pytest.MonkeyPatch) -> None:
    mixed = msgspec.structs.replace(tiny_recipe, mixed_precision=True)
    monkeypatch.setattr(precision, "_cpu_capabilities", lambda: COOPER_LAKE)
    assert choose_precision(mixed, Processes()).name == "bfloat16"
    assert choose_precision(mixed, WithAnOldOne()).name == "float32"
    assert choose_precision(tiny_recipe, Processes()).name == "float32"


@pytest.mark.parametrize(("capabilities", "name"), [(HASWELL, "float32"), (COOPER_LAKE, "bfloat16")])
def test_training_computes_in_what_it_says(
    tiny_recipe: Recipe,
    simulated_data: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capabilities: Mapping[str, object],
    name: str,
) -> None:
    monkeypatch.setattr(precision, "_cpu_capabilities", lambda: capabilities)
    computed: list[torch.dtype] = []

    def watch(module: torch.nn.Module, _: object, result: torch.Tensor) -> None:
        if isinstance(module, torch.nn.Linear) and module.training:
            computed.append(result.dtype)

    recipe = msgspec.structs.replace(
        tiny_recipe,
        epochs=1,
        mixed_precision=True,
        examples=msgspec.structs.replace(tiny_recipe.examples, per_epoch=128),
    )
    said = io.StringIO()
    console = Console(file=said, width=200)
    with torch.nn.modules.module.register_module_forward_hook(watch):
        version = run_recipe(recipe, simulated_data, tmp_path / "m", console, run=tmp_path / "run", device="cpu")
    assert set(computed) == {getattr(torch, name)}
    assert f"trains in {name}: the recipe asks for mixed precision" in said.getvalue()
    assert version is not None
    kept = read_card(version / "card.json").run["precision"]
    assert isinstance(kept, dict)
    assert kept["name"] == name
    assert "instructions" in kept["why"] or "avx512_bf16" in kept["why"]
