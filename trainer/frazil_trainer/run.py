"""A training run from recipe to exported version."""

from __future__ import annotations

import os
import platform
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import onnxruntime
import torch
from numpy.typing import NDArray
from rich.console import Console
from torch import nn

import frazil
from frazil.errors import FrazilError, OutputError, SettingsError
from frazil.picking import Model, ModelContract, load_model
from frazil_trainer.crop_training import DrawnCropTask, FixedCropTask
from frazil_trainer.dense_training import PatchTask
from frazil_trainer.evaluation import best_threshold, pick_labelled, score_table, show_table, validation_paths
from frazil_trainer.export import export_version
from frazil_trainer.labelled import LabelledMicrograph, LabelledPaths, find_labelled, load_labelled, training_set_sha256
from frazil_trainer.networks import Fcn, FcnConfig
from frazil_trainer.patches import PatchSampler
from frazil_trainer.progress import ProgressBar
from frazil_trainer.recipe import (
    CentredCrops,
    CnnSettings,
    DrawnCrops,
    FcnSettings,
    JitteredCrops,
    MlpSettings,
    Patches,
    Recipe,
)
from frazil_trainer.sampling import generators
from frazil_trainer.task import Task
from frazil_trainer.training import train

__all__ = ["run_recipe"]

_CHECK = 2**40 + 16
"""Stream of random numbers of the tiles that an export is checked on."""
_CHECK_TILES = 256
_CHECK_DENSE_TILES = 3
_TILE_LEVELS = 64


def run_recipe(recipe: Recipe, data: Path, out: Path, console: Console) -> Path:
    """Train, choose the threshold, score, and export the next version of a model.

    Args:
        recipe: all settings.
        data: folder with the training sets.
        out: the model's folder in the repository.
        console: shows progress.

    Returns:
        The new version's folder.

    Raises:
        FrazilError: the data cannot be used, the loss is no number, or the export fails its checks.
    """
    parts: dict[str, list[LabelledPaths]] = {"training": [], "selection": [], "validation": []}
    for source in recipe.data:
        for paths in find_labelled(data, source):
            parts[paths.part].append(paths)
    missing = [part for part, paths in parts.items() if not paths]
    if missing:
        raise FrazilError(f"{data}: the recipe leaves no micrograph for {', '.join(missing)}; each part needs one")
    _check_writable(out)
    with console.status("reading micrographs"):
        loaded = {part: [load_labelled(one, recipe) for one in paths] for part, paths in parts.items()}
    counts = ", ".join(f"{len(paths)} for {part}" for part, paths in parts.items())
    console.print(f"micrographs: {counts}; {sum(len(m.centres) for m in loaded['training'])} particles to learn from")

    task = _task(recipe, loaded)
    console.print(", ".join(f"{count:,} {name.replace('_', ' ')}" for name, count in task.provenance.items()))
    with ProgressBar(recipe, task.updates_per_epoch, console) as bar:
        history = train(task, recipe, bar)
    trained = _trained(recipe, task, loaded["selection"])

    sha256 = training_set_sha256(parts["training"])
    # The threshold needs the picker, the picker a model: a first export stands in, with any threshold.
    drafts = out.parent / f".{out.name}-draft"
    try:
        _, draft = _export(trained, _contract(recipe, trained, 0.5, sha256, {}), drafts, {}, {})
        chosen = best_threshold(
            pick_labelled(draft, parts["selection"]), {source.folder: source.weight for source in recipe.data}
        )
        table = score_table(draft, validation_paths(data, recipe), threshold=chosen)
        compared = None
        if recipe.compare_threshold is not None:
            compared = score_table(draft, validation_paths(data, recipe), threshold=recipe.compare_threshold)
    finally:
        shutil.rmtree(drafts, ignore_errors=True)
    show_table(table, console)
    if compared is not None:
        console.print(f"at threshold {recipe.compare_threshold:g}:")
        show_table(compared, console)
    run = {
        "recipe": msgspec.to_builtins(recipe),
        "data": {part: [str(p.micrograph.relative_to(data)) for p in paths] for part, paths in parts.items()},
        "learnt_from": dict(task.provenance),
        "last_epoch": msgspec.to_builtins(history[-1]),
        "threshold": f"{chosen}: highest F1 on the selection micrographs, averaged over the sets by weight",
        "versions": {
            "frazil": frazil.__version__,
            "python": platform.python_version(),
            "torch": str(torch.__version__),
            "onnxruntime": onnxruntime.__version__,
            "numpy": np.__version__,
        },
    }
    figures = {"threshold": chosen, "rows": msgspec.to_builtins(table), "crop_accuracy": history[-1].held_out}
    if compared is not None:
        figures |= {"compared_threshold": recipe.compare_threshold, "compared_rows": msgspec.to_builtins(compared)}
    brief = {f"{row.folder}/*{row.labels}": round(row.f1, 3) for row in table}
    version, _ = _export(trained, _contract(recipe, trained, chosen, sha256, brief), out, run, figures)
    return version


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Trained:
    """A network, where its scores lie in a tile, and real tiles to check its export on."""

    network: nn.Module
    tile_px: int
    grid: int
    step_px: float
    offset_px: float
    check_tiles: NDArray[np.float32]


def _task(recipe: Recipe, loaded: Mapping[str, Sequence[LabelledMicrograph]]) -> Task:
    training, selection = loaded["training"], loaded["selection"]
    match recipe.network, recipe.examples:
        case FcnSettings() as settings, Patches() as patches:
            return PatchTask(recipe, settings, patches, training, selection)
        case MlpSettings() | CnnSettings() as settings, DrawnCrops() as crops:
            return DrawnCropTask(recipe, settings, crops, training, selection)
        case MlpSettings() | CnnSettings() as settings, CentredCrops() | JitteredCrops() as crops:
            return FixedCropTask(recipe, settings, crops, training, loaded["validation"])
    raise SettingsError("expected a network with the examples that it can learn from")


def _trained(recipe: Recipe, task: Task, selection: Sequence[LabelledMicrograph]) -> _Trained:
    settings = recipe.network
    if isinstance(settings, FcnSettings):
        scorer = Fcn(FcnConfig(widths=settings.widths, dilations=settings.dilations, halo_cells=settings.halo_cells))
        scorer.load_state_dict(task.network.state_dict())
        tiles = _whole_tiles(recipe, settings, selection)
        return _Trained(
            network=scorer.eval(),
            tile_px=settings.tile_px,
            grid=settings.tile_px // Fcn.step_px - 2 * settings.halo_cells,
            step_px=float(Fcn.step_px),
            offset_px=float(Fcn.step_px * settings.halo_cells),
            check_tiles=tiles,
        )
    held_out = torch.cat([tiles for tiles, *_ in next(iter(task.held_out.values()))])
    return _Trained(
        network=task.network,
        tile_px=settings.tile_px,
        grid=1,
        step_px=settings.stride_px,
        offset_px=(settings.tile_px - 1) / 2,
        check_tiles=held_out[:_CHECK_TILES].numpy(),
    )


def _whole_tiles(
    recipe: Recipe, settings: FcnSettings, micrographs: Sequence[LabelledMicrograph]
) -> NDArray[np.float32]:
    sampler = PatchSampler(
        micrographs,
        patch_px=settings.tile_px,
        step_px=Fcn.step_px,
        diameter_px=recipe.diameter_px,
        spread_diameters=1.0,  # of wanted scores, which are not used
        augment=False,
    )
    tiles, _, _ = sampler.draw(generators(recipe.seed, _CHECK, range(_CHECK_DENSE_TILES)))
    # In steps that deflate well: the card holds such a tile.
    return np.asarray(np.round(tiles * _TILE_LEVELS) / _TILE_LEVELS, np.float32)


def _contract(
    recipe: Recipe, trained: _Trained, threshold: float, sha256: str, validation: dict[str, float]
) -> ModelContract:
    return ModelContract(
        architecture=str(recipe.network.__struct_config__.tag),
        tile_px=trained.tile_px,
        grid=trained.grid,
        step_px=trained.step_px,
        offset_px=trained.offset_px,
        diameter_px=recipe.diameter_px,
        normalisation=recipe.normalisation,
        contrast="dark",
        threshold=threshold,
        training_set_sha256=sha256,
        validation=msgspec.json.encode({"f1_within_half_a_diameter": validation}).decode(),
    )


def _export(
    trained: _Trained, contract: ModelContract, out: Path, run: dict[str, Any], validation: dict[str, Any]
) -> tuple[Path, Model]:
    version = export_version(trained.network, contract, trained.check_tiles, out, run=run, validation=validation)
    return version, load_model(version, "cpu")


def _check_writable(out: Path) -> None:
    """Find out before the training, not after it, that its model has nowhere to go."""
    nearest = next(folder for folder in (out, *out.resolve().parents) if folder.exists())
    if not (nearest.is_dir() and os.access(nearest, os.W_OK | os.X_OK)):
        raise OutputError(f"{out}: expected a folder that can be written, found {nearest} in the way")
