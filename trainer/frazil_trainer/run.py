"""A training run from recipe to exported version."""

from __future__ import annotations

import os
import platform
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import onnxruntime
import torch
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from torch import nn

import frazil
from frazil.errors import FrazilError, OutputError
from frazil.picking import Model, ModelContract, load_model
from frazil_trainer.crops import CropSampler
from frazil_trainer.dense_training import train_dense
from frazil_trainer.evaluation import best_threshold, pick_labelled, score_table, show_table, validation_paths
from frazil_trainer.export import export_version
from frazil_trainer.labelled import LabelledMicrograph, LabelledPaths, find_labelled, load_labelled, training_set_sha256
from frazil_trainer.networks import Fcn
from frazil_trainer.patches import PatchSampler
from frazil_trainer.recipe import Recipe
from frazil_trainer.training import EpochReport, train

__all__ = ["run_recipe"]

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
        training = [load_labelled(paths, recipe) for paths in parts["training"]]
        selection = [load_labelled(paths, recipe) for paths in parts["selection"]]
        for paths in parts["validation"]:  # a fault in them must not wait until the training is over
            load_labelled(paths, recipe)
    counts = ", ".join(f"{len(paths)} for {part}" for part, paths in parts.items())
    console.print(f"micrographs: {counts}; {sum(len(m.centres) for m in training)} particles to learn from")

    history: list[EpochReport] = []
    columns = (
        "{task.description}",
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[figures]}"),
    )
    with Progress(*columns, console=console) as progress:
        task = progress.add_task("epoch", total=recipe.epochs, figures="")

        def report(epoch: EpochReport) -> None:
            history.append(epoch)
            figures = f"loss {epoch.loss:.3f}, accuracy {epoch.accuracy:.3f}, held out {epoch.held_out_accuracy:.3f}"
            progress.update(task, advance=1, figures=figures)
            if not console.is_terminal:  # a log file shows no bar
                console.print(f"epoch {epoch.epoch}/{recipe.epochs}: {figures}")

        trained = _train(recipe, training, selection, report)

    sha256 = training_set_sha256(parts["training"])
    # The threshold needs the picker, the picker a model: a first export stands in, with any threshold.
    drafts = out.parent / f".{out.name}-draft"
    try:
        _, draft = _export(trained, _contract(recipe, trained, 0.5, sha256, {}), drafts, {}, {})
        chosen = best_threshold(
            pick_labelled(draft, parts["selection"]), {source.folder: source.weight for source in recipe.data}
        )
        table = score_table(draft, validation_paths(data, recipe), threshold=chosen, name=out.name)
    finally:
        shutil.rmtree(drafts, ignore_errors=True)
    show_table(table, console)
    run = {
        "recipe": msgspec.to_builtins(recipe),
        "data": {part: [str(p.micrograph.relative_to(data)) for p in paths] for part, paths in parts.items()},
        "last_epoch": {
            "loss": round(history[-1].loss, 4),
            "accuracy": round(history[-1].accuracy, 4),
            "held_out_accuracy": round(history[-1].held_out_accuracy, 4),
        },
        "threshold": f"{chosen}: highest F1 on the selection micrographs, averaged over the sets by weight",
        "versions": {
            "frazil": frazil.__version__,
            "python": platform.python_version(),
            "torch": str(torch.__version__),
            "onnxruntime": onnxruntime.__version__,
            "numpy": np.__version__,
        },
    }
    figures = {"threshold": chosen, "rows": msgspec.to_builtins(table)}
    brief = {f"{row.folder}/*{row.labels}": round(row.half.micro.f1, 3) for row in table}
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


def _train(
    recipe: Recipe,
    training: Sequence[LabelledMicrograph],
    selection: Sequence[LabelledMicrograph],
    report: Callable[[EpochReport], None],
) -> _Trained:
    if recipe.dense is None:
        check_tiles, _ = CropSampler(selection, recipe, recipe.seed + 2).draw(_CHECK_TILES)
        return _Trained(
            network=train(recipe, training, selection, report),
            tile_px=recipe.tile_px,
            grid=1,
            step_px=recipe.stride_px,
            offset_px=(recipe.tile_px - 1) / 2,
            check_tiles=check_tiles,
        )
    dense = recipe.dense
    patches = PatchSampler(
        selection,
        patch_px=dense.tile_px,
        step_px=Fcn.step_px,
        diameter_px=recipe.diameter_px,
        spread_diameters=dense.spread_diameters,
        seed=recipe.seed + 2,
        augment=False,
    )
    # In steps that deflate well: the card holds such a tile.
    check_tiles = np.round(patches.draw(_CHECK_DENSE_TILES)[0] * _TILE_LEVELS) / np.float32(_TILE_LEVELS)
    return _Trained(
        network=train_dense(recipe, training, selection, report),
        tile_px=dense.tile_px,
        grid=dense.tile_px // Fcn.step_px - 2 * dense.halo_cells,
        step_px=float(Fcn.step_px),
        offset_px=float(Fcn.step_px * dense.halo_cells),
        check_tiles=check_tiles,
    )


def _contract(
    recipe: Recipe, trained: _Trained, threshold: float, sha256: str, validation: dict[str, float]
) -> ModelContract:
    return ModelContract(
        architecture=recipe.architecture,
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
