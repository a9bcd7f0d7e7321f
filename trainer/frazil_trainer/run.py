"""A training run from recipe to exported version."""

from __future__ import annotations

import os
import platform
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import torch
from rich.console import Console
from torch import nn

import frazil
from frazil.errors import FrazilError, OutputError, SettingsError
from frazil.picking import Model, ModelContract, load_model
from frazil.picking.onnx_runtime import ort
from frazil.settings import Device
from frazil_trainer.data.labelled import LabelledMicrograph, LabelledPaths
from frazil_trainer.data.load import TrainingData, load_training_data
from frazil_trainer.evaluation import (
    ScoredMicrograph,
    best_threshold,
    pick_labelled,
    score_table,
    show_table,
    tally_at,
    validation_paths,
)
from frazil_trainer.export.int8 import TwinData, add_twin, has_int8, make_twin, show_twin
from frazil_trainer.export.version import Scorer, export_version, make_scorer
from frazil_trainer.networks import make_network
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
from frazil_trainer.training.dense import PatchSource
from frazil_trainer.training.loop import Checkpoints, EpochReport, ExampleSource, train
from frazil_trainer.training.observers import EventFile, ProgressBar
from frazil_trainer.training.precision import Precision, choose_precision
from frazil_trainer.training.processes import Processes, join_processes
from frazil_trainer.training.run_folder import EVENTS_NAME, RunFolder
from frazil_trainer.training.windows import DrawnCropSource, FixedCropSource

__all__ = ["make_examples", "run_recipe"]

_SHOWN_EXAMPLES = 16
_CURVE_THRESHOLDS = [round(0.05 * i, 2) for i in range(1, 20)]


def run_recipe(
    recipe: Recipe,
    data: Path,
    out: Path,
    console: Console,
    *,
    run: Path,
    resume: bool = False,
    device: Device = "auto",
    checkpoint_minutes: float = 5.0,
    force: bool = False,
    int8: bool = False,
) -> Path | None:
    """Train, choose the threshold, score, and export the next version of a model.

    Args:
        recipe: all settings.
        data: folder with the training sets.
        out: the model's folder in the repository.
        console: shows progress.
        run: folder for checkpoints, TensorBoard events and what came of the run.
        resume: whether to go on with the run in that folder, if there is one.
        device: where to train.
        checkpoint_minutes: least time between two checkpoints.
        force: whether to train on labels that do not seem to lie on particles.
        int8: whether to make an int8 twin as well; it goes beside the model if it picks as well.

    Returns:
        The new version's folder; None in a process that only helps another one to train.

    Raises:
        SettingsError: the run folder holds another run, or one that was not to go on.
        FrazilError: the data cannot be used, the loss is no number, or the export fails its checks.
        OutputError: a file of the run cannot be written.
    """
    _check_writable(out)
    _check_writable(run)
    if int8 and not has_int8():
        console.print("warning: this processor has no instructions for int8: no twin will be made")
        int8 = False
    with join_processes(device) as processes:
        if not processes.is_main:
            console = Console(quiet=True)
        found = load_training_data(data, recipe, console, force=force)
        folder = RunFolder(run, recipe, found.sha256)
        result, state = folder.read_result(), folder.read_checkpoint()
        if (result or state) and not resume:
            raise SettingsError(
                f"{run}: expected a folder without a run, found one; "
                "--resume goes on with it, --run-folder takes another folder"
            )
        if result:
            console.print(f"{run}: this run has ended; it made {result['version']}")
            return Path(result["version"]) if processes.is_main else None
        network, examples = make_network(recipe.network, recipe.seed), make_examples(recipe, found.micrographs)
        counts = {**examples.counts, "parameters": sum(p.numel() for p in network.parameters())}
        console.print(", ".join(f"{count:,} {name.replace('_', ' ')}" for name, count in counts.items()))
        precision = choose_precision(recipe, processes)
        console.print(str(precision), highlight=False, soft_wrap=True)
        checkpoints = Checkpoints(
            write=folder.write_checkpoint if processes.is_main else lambda _: None,
            every_seconds=60 * checkpoint_minutes,
            file=folder.checkpoint,
            resume_from=state,
        )
        if not processes.is_main:
            train(network, examples, recipe, processes=processes, precision=precision, checkpoints=checkpoints)
            return None
        with EventFile(run / EVENTS_NAME, examples) as events:
            history = _train(network, examples, recipe, processes, precision, checkpoints, events, console)
            scorer = make_scorer(recipe, network, examples, found.micrographs["selection"])
            card_run = _provenance(recipe, found, counts, history, processes, precision)
            version, figures = _score_and_export(recipe, scorer, found, out, card_run, events, console, int8=int8)
        folder.write_result(
            {"version": str(version), "run": card_run, "validation": figures, "epochs": msgspec.to_builtins(history)}
        )
        return version


def make_examples(recipe: Recipe, micrographs: Mapping[str, Sequence[LabelledMicrograph]]) -> ExampleSource:
    """The source of a recipe's examples.

    Args:
        recipe: all settings.
        micrographs: of the parts training, selection and validation.

    Raises:
        FrazilError: the micrographs have too little room for the examples.
    """
    training, selection = micrographs["training"], micrographs["selection"]
    match recipe.network, recipe.examples:
        case FcnSettings(), Patches() as patches:
            return PatchSource(recipe, patches, training, selection)
        case MlpSettings(tile_px=tile_px) | CnnSettings(tile_px=tile_px), DrawnCrops() as crops:
            return DrawnCropSource(recipe, tile_px, crops, training, selection)
        case (
            MlpSettings(tile_px=tile_px) | CnnSettings(tile_px=tile_px),
            CentredCrops() | JitteredCrops() as crops,
        ):
            return FixedCropSource(recipe, tile_px, crops, training, micrographs["validation"])
    raise SettingsError("expected a network with examples that it can learn from")


def _train(
    network: nn.Module,
    examples: ExampleSource,
    recipe: Recipe,
    processes: Processes,
    precision: Precision,
    checkpoints: Checkpoints,
    events: EventFile,
    console: Console,
) -> list[EpochReport]:
    done = checkpoints.resume_from["done"] if checkpoints.resume_from else 0
    if done:
        console.print(f"going on from update {done}, {checkpoints.file}")
    events.show_tiles(examples.draw(0, processes.shard(recipe.batch))[0][:_SHOWN_EXAMPLES].numpy())
    with ProgressBar(recipe, examples, done, console) as bar:
        return train(
            network, examples, recipe, [bar, events], processes=processes, precision=precision, checkpoints=checkpoints
        )


def _score_and_export(
    recipe: Recipe,
    scorer: Scorer,
    found: TrainingData,
    out: Path,
    run: dict[str, Any],
    events: EventFile,
    console: Console,
    *,
    int8: bool,
) -> tuple[Path, dict[str, Any]]:
    # The threshold needs the picker, the picker a model: a first export stands in, with any threshold.
    drafts = out.parent / f".{out.name}-draft"
    try:
        _, draft = _export(scorer, _contract(recipe, scorer, 0.5, found.sha256, {}), drafts, {}, {})
        selected = pick_labelled(draft, _to_choose_on(found))
        chosen = best_threshold(selected, {source.folder: source.weight for source in recipe.data})
        validation = validation_paths(found.folder, recipe.data)
        table = score_table(draft, validation, threshold=chosen, name=out.name)
        compared = None
        if recipe.compare_threshold is not None:
            compared = score_table(draft, validation, threshold=recipe.compare_threshold, name=out.name)
    finally:
        shutil.rmtree(drafts, ignore_errors=True)
    events.show_thresholds(_curve(selected))
    show_table(table, console)
    figures: dict[str, Any] = {
        "threshold": chosen,
        "rows": msgspec.to_builtins(table),
        "crop_accuracy": run["last_epoch"]["held_out"],
    }
    if compared is not None:
        console.print(f"at threshold {recipe.compare_threshold:g}:")
        show_table(compared, console)
        figures |= {"compared_threshold": recipe.compare_threshold, "compared_rows": msgspec.to_builtins(compared)}
    run["threshold"] = (
        f"{chosen}: highest F1 on selection and completely labelled training micrographs, averaged over sets by "
        "weight; the middle one of those as good"
    )
    brief = {f"{row.folder}/*{row.labels}": round(row.half.micro.f1, 3) for row in table}
    contract = _contract(recipe, scorer, chosen, found.sha256, brief)
    if int8 and (version := _export_with_twin(recipe, scorer, contract, found, out, run, figures, console)):
        return version, figures
    version, _ = _export(scorer, contract, out, run, figures)
    return version, figures


def _export_with_twin(
    recipe: Recipe,
    scorer: Scorer,
    contract: ModelContract,
    found: TrainingData,
    out: Path,
    run: dict[str, Any],
    figures: dict[str, Any],
    console: Console,
) -> Path | None:
    """Export with an int8 twin, or with a card that says why there is none; None where no twin can be made."""
    data = TwinData(
        training=found.micrographs["training"],
        selection=found.micrographs["selection"],
        validation=validation_paths(found.folder, recipe.data),
        seed=recipe.seed,
    )
    drafts = out.parent / f".{out.name}-draft"
    try:
        draft, _ = _export(scorer, contract, drafts, run, figures)
        with console.status("making the int8 twin") as status:
            twin, content = make_twin(draft, data, status.update)
        show_twin(twin, console)
        return add_twin(draft, out, twin, content)
    except OutputError:
        raise
    except FrazilError as error:  # the training must not be lost for it
        console.print(f"warning: no int8 twin: {error}", markup=False, highlight=False, soft_wrap=True)
        return None
    finally:
        shutil.rmtree(drafts, ignore_errors=True)


def _provenance(
    recipe: Recipe,
    found: TrainingData,
    counts: Mapping[str, int],
    history: list[EpochReport],
    processes: Processes,
    precision: Precision,
) -> dict[str, Any]:
    return {
        "recipe": msgspec.to_builtins(recipe),
        "data": {
            part: [str(p.micrograph.relative_to(found.folder)) for p in paths] for part, paths in found.paths.items()
        },
        "learnt_from": dict(counts),
        "last_epoch": msgspec.to_builtins(history[-1]),
        "device": processes.device.type,
        "processes": processes.count,
        "precision": msgspec.to_builtins(precision),
        "versions": {
            "frazil": frazil.__version__,
            "python": platform.python_version(),
            "torch": str(torch.__version__),
            "onnxruntime": ort.__version__,
            "numpy": np.__version__,
        },
    }


def _to_choose_on(found: TrainingData) -> list[LabelledPaths]:
    """The micrographs that choose the threshold.

    A handful held out is too few: their best thresholds differ more among each other than those of micrographs trained
    on differ from those of others. Where labels are incomplete, true picks count as false, and the threshold gets high.
    """
    complete = [one for one in found.paths["training"] if one.source.labels_are_complete(one.micrograph.stem)]
    return [one for one in (*found.paths["selection"], *complete) if one.source.chooses_threshold]


def _curve(selected: list[ScoredMicrograph]) -> dict[float, dict[str, float]]:
    """Precision, recall and F1 on the micrographs that choose the threshold."""
    tallies = {threshold: tally_at(selected, threshold) for threshold in _CURVE_THRESHOLDS}
    return {
        threshold: {"precision": tally.precision, "recall": tally.recall, "f1": tally.f1}
        for threshold, tally in tallies.items()
    }


def _contract(
    recipe: Recipe, scorer: Scorer, threshold: float, sha256: str, validation: dict[str, float]
) -> ModelContract:
    return ModelContract(
        architecture=str(recipe.network.__struct_config__.tag),
        tile_px=scorer.tile_px,
        grid=scorer.grid,
        step_px=scorer.step_px,
        offset_px=scorer.offset_px,
        diameter_px=recipe.diameter_px,
        normalisation=recipe.normalisation,
        contrast="dark",
        threshold=threshold,
        training_set_sha256=sha256,
        validation=msgspec.json.encode({"f1_within_half_a_diameter": validation}).decode(),
    )


def _export(
    scorer: Scorer, contract: ModelContract, out: Path, run: dict[str, Any], validation: dict[str, Any]
) -> tuple[Path, Model]:
    version = export_version(scorer.network, contract, scorer.check_tiles, out, run=run, validation=validation)
    return version, load_model(version, "cpu")


def _check_writable(out: Path) -> None:
    """Find out before the training, not after it, that its model has nowhere to go."""
    nearest = next(folder for folder in (out, *out.resolve().parents) if folder.exists())
    if not (nearest.is_dir() and os.access(nearest, os.W_OK | os.X_OK)):
        raise OutputError(f"{out}: expected a folder that can be written, found {nearest} in the way")
