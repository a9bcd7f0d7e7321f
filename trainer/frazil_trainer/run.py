"""A training run, from the recipe to the exported version."""

from __future__ import annotations

import contextlib
import functools
import os
import platform
import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from rich.console import Console

import frazil
from frazil.errors import FrazilError, OutputError, SettingsError
from frazil.model import Device, int8_instructions, load_model
from frazil.model.runtime import ort
from frazil_trainer.data.labelled import LabelledMicrograph, LabelledPaths
from frazil_trainer.data.load import CALIBRATION, TrainingData, load_training_data
from frazil_trainer.evaluation import (
    ModelSource,
    ScoredMicrograph,
    ScoreRow,
    ValidationRecord,
    best_threshold,
    score_micrographs,
    score_table,
    show_table,
    validation_paths,
)
from frazil_trainer.evaluation.calibration import fit_calibration
from frazil_trainer.evaluation.junk import JunkRecord, choose_junk_threshold, junk_rows, score_junk
from frazil_trainer.evaluation.ranking import Ranking
from frazil_trainer.export.int8 import add_twin, load_twin_data, make_twin, show_twin
from frazil_trainer.export.version import Scorer, export_version, make_scorer
from frazil_trainer.networks import make_network
from frazil_trainer.recipe import (
    Areas,
    CentredCrops,
    CnnSettings,
    DrawnCrops,
    FcnSettings,
    JitteredCrops,
    JunkSettings,
    MlpSettings,
    Patches,
    Recipe,
)
from frazil_trainer.training.dense import PatchSource
from frazil_trainer.training.loop import Checkpoints, EpochReport, ExampleSource, train
from frazil_trainer.training.observers import EventFile, ProgressBar
from frazil_trainer.training.precision import choose_precision
from frazil_trainer.training.processes import join_processes
from frazil_trainer.training.run_folder import EVENTS_NAME, RunFolder, RunRecord, read_version
from frazil_trainer.training.windows import DrawnCropSource, FixedCropSource

__all__ = ["check_writable", "draft_folder", "make_examples", "program_versions", "run_recipe"]

_SHOWN_EXAMPLES = 16
_HOW_CHOSEN = (
    "highest F1 on selection and completely labelled training micrographs, averaged over sets by weight; "
    "the middle one of those as good"
)
_HOW_JUNK_CHOSEN = (
    "highest IoU of the area on selection and training micrographs, averaged over sets with masks, of those that lose "
    "few enough particles of every set"
)
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

    The training sets are below `data`, the model's folder in the repository is `out`, and `run` is the folder for
    checkpoints, TensorBoard events and the result.

    Returns:
        The new version's folder, or None in a process that is not the main one.

    Raises:
        SettingsError: the run folder holds another run, or one that was not to be resumed.
        FrazilError: the data cannot be used, the loss is not finite, or the export fails its checks.
        OutputError: a file of the run cannot be written.
    """
    check_writable(out)
    check_writable(run)
    if int8 and int8_instructions() is None:
        console.print("warning: this processor has no instructions for int8: no twin will be made")
        int8 = False
    with join_processes(device) as processes:
        if not processes.is_main:
            console = Console(quiet=True)
        found = load_training_data(data, recipe, console, force=force)
        folder = RunFolder(run, recipe, found.sha256)
        finished, state = read_version(folder.folder), folder.read_checkpoint()
        if (finished or state) and not resume:
            raise SettingsError(
                f"{run}: expected a folder without a run, found one; "
                "--resume goes on with it, --run-folder takes another folder"
            )
        if finished:
            console.print(f"{run}: this run has ended; it made {finished}")
            return finished if processes.is_main else None
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
        train_with = functools.partial(
            train, network, examples, recipe, processes=processes, precision=precision, checkpoints=checkpoints
        )
        if not processes.is_main:
            train_with()
            return None
        done = state["done"] if state else 0
        if done:
            console.print(f"going on from update {done}, {folder.checkpoint}")
        with EventFile(run / EVENTS_NAME, examples) as events:
            events.show_tiles(examples.draw(0, processes.shard(recipe.batch))[0][:_SHOWN_EXAMPLES].numpy())
            with ProgressBar(recipe, examples, done, console) as bar:
                history = train_with([bar, events])
            scorer = make_scorer(recipe, network, examples, found.micrographs["selection"])
            validation = _score(recipe, scorer, found, out, history[-1], events, console)
        record = RunRecord(
            recipe=recipe,
            data={
                part: [str(one.micrograph.relative_to(data)) for one in paths]
                for part, paths in found.paths.items()
                if paths
            },
            learnt_from=counts,
            last_epoch=history[-1],
            device=processes.device.type,
            processes=processes.count,
            precision=precision,
            versions=program_versions(),
            threshold=f"{validation.threshold}: "
            + (_HOW_JUNK_CHOSEN if isinstance(validation, JunkRecord) else _HOW_CHOSEN),
        )
        version = _export(recipe, scorer, found, out, record, validation, console, int8=int8)
        folder.write_result(version, record, validation, history)
        return version


def make_examples(recipe: Recipe, micrographs: Mapping[str, Sequence[LabelledMicrograph]]) -> ExampleSource:
    """The source of a recipe's examples, from micrographs by part: training, selection and validation.

    Raises:
        FrazilError: the micrographs have too little room for the examples.
    """
    training, selection = micrographs["training"], micrographs["selection"]
    match recipe.network, recipe.examples:
        case (FcnSettings(), Patches() as patches) | (JunkSettings(), Areas() as patches):
            return PatchSource(recipe, patches, training, selection)
        case MlpSettings(tile_px=tile_px) | CnnSettings(tile_px=tile_px), DrawnCrops() as crops:
            return DrawnCropSource(recipe, tile_px, crops, training, selection)
        case MlpSettings(tile_px=tile_px) | CnnSettings(tile_px=tile_px), CentredCrops() | JitteredCrops() as fixed:
            return FixedCropSource(recipe, tile_px, fixed, training, micrographs["validation"])
    raise SettingsError("expected a network with examples that it can learn from")


def _score(
    recipe: Recipe,
    scorer: Scorer,
    found: TrainingData,
    out: Path,
    last_epoch: EpochReport,
    events: EventFile,
    console: Console,
) -> ValidationRecord | JunkRecord:
    """Choose the threshold, and score the validation micrographs at it, with the daemon's picker."""
    if isinstance(recipe.examples, Areas):
        return _score_junk(recipe.examples, recipe, scorer, found, out, last_epoch, console)
    with draft_folder(out) as drafts:
        # The picker needs a model to choose the threshold, and a model a threshold: this export has any.
        contract = scorer.contract(recipe, threshold=0.5, training_set_sha256=found.sha256)
        draft = load_model(export_version(scorer, contract, drafts), "cpu")
        selected = score_micrographs([ModelSource(draft)], _to_choose_on(found))
        calibration = fit_calibration(score_micrographs([ModelSource(draft)], found.paths[CALIBRATION]))
        chosen = best_threshold(selected, {source.folder: source.weight for source in recipe.data})
        paths = validation_paths(found.folder, recipe.data)
        rows = score_table(draft, paths, threshold=chosen, name=out.name)
        compared: list[ScoreRow] = []
        if recipe.compare_threshold is not None:
            compared = score_table(draft, paths, threshold=recipe.compare_threshold, name=out.name)
    events.show_thresholds(_curve(selected))
    show_table(rows, console)
    if recipe.compare_threshold is not None:
        console.print(f"at threshold {recipe.compare_threshold:g}:")
        show_table(compared, console)
    return ValidationRecord(
        threshold=chosen,
        rows=tuple(rows),
        crop_accuracy=last_epoch.held_out,
        calibration=calibration,
        compared_threshold=recipe.compare_threshold,
        compared_rows=tuple(compared),
    )


def _score_junk(
    areas: Areas,
    recipe: Recipe,
    scorer: Scorer,
    found: TrainingData,
    out: Path,
    last_epoch: EpochReport,
    console: Console,
) -> JunkRecord:
    """The same for a model that finds junk."""
    with draft_folder(out) as drafts:
        contract = scorer.contract(recipe, threshold=0.5, training_set_sha256=found.sha256)
        draft = load_model(export_version(scorer, contract, drafts), "cpu", finds="junk")
        scored = {part: [score_junk(draft, one) for one in members] for part, members in found.micrographs.items()}
    threshold = choose_junk_threshold([*scored["selection"], *scored["training"]], areas.largest_loss)
    rows = junk_rows(scored["validation"], threshold)
    for row in rows:
        console.print(
            f"{row.folder}: {row.lost} of {row.particles} particles lost, {row.called:.1%} of the area is called junk"
            + (
                ""
                if row.iou is None
                else f"; precision {row.precision:.3f}, recall {row.recall:.3f}, IoU {row.iou:.3f}"
            ),
            highlight=False,
            soft_wrap=True,
        )
    return JunkRecord(threshold=threshold, rows=tuple(rows), area_iou=last_epoch.held_out)


def _export(
    recipe: Recipe,
    scorer: Scorer,
    found: TrainingData,
    out: Path,
    record: RunRecord,
    validation: ValidationRecord | JunkRecord,
    console: Console,
    *,
    int8: bool,
) -> Path:
    """Export the model, with an int8 twin if one is asked for and can be made."""
    if isinstance(validation, JunkRecord):
        contract = scorer.contract(
            recipe,
            threshold=validation.threshold,
            training_set_sha256=found.sha256,
            junk_iou={row.folder: round(row.iou, 3) for row in validation.rows if row.iou is not None},
        )
        return export_version(scorer, contract, out, run=record, validation=validation)
    contract = scorer.contract(
        recipe,
        threshold=validation.threshold,
        training_set_sha256=found.sha256,
        calibration=validation.calibration,
        f1={f"{row.folder}/*{row.labels}": round(row.half.micro.f1, 3) for row in validation.rows},
    )
    if int8:
        try:
            with draft_folder(out) as drafts:
                draft = export_version(scorer, contract, drafts, run=record, validation=validation)
                with console.status("making the int8 twin") as status:
                    twin, content = make_twin(draft, load_twin_data(found.folder, recipe), status.update)
                show_twin(twin, console)
                return add_twin(draft, out, twin, content)
        except OutputError:
            raise
        except FrazilError as error:  # without a twin the model is still worth its training
            console.print(f"warning: no int8 twin: {error}", markup=False, highlight=False, soft_wrap=True)
    return export_version(scorer, contract, out, run=record, validation=validation)


@contextlib.contextmanager
def draft_folder(out: Path) -> Iterator[Path]:
    """A temporary folder for versions of a model that are not kept."""
    folder = out.parent / f".{out.name}-draft"
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def program_versions() -> dict[str, str]:
    """Versions of the programs that a model depends on, for its card."""
    return {
        "frazil": frazil.__version__,
        "python": platform.python_version(),
        "torch": str(torch.__version__),
        "onnxruntime": ort.__version__,
        "numpy": np.__version__,
    }


def _to_choose_on(found: TrainingData) -> list[LabelledPaths]:
    """The micrographs that choose the threshold: of the selection, and of the training those with complete labels.

    A handful of selection micrographs is too few: their best thresholds differ more from each other than those of
    training micrographs from those of others. Incomplete labels would count true picks as false, and so give a higher
    threshold.
    """
    complete = [one for one in found.paths["training"] if one.source.labels_are_complete(one.micrograph.stem)]
    return [one for one in (*found.paths["selection"], *complete) if one.source.chooses_threshold]


def _curve(selected: list[ScoredMicrograph]) -> dict[float, dict[str, float]]:
    """Precision, recall and F1 by threshold."""
    ranking = Ranking.pooled(one.rank() for one in selected)
    tallies = {threshold: ranking.tally(threshold) for threshold in _CURVE_THRESHOLDS}
    return {
        threshold: {"precision": tally.precision, "recall": tally.recall, "f1": tally.f1}
        for threshold, tally in tallies.items()
    }


def check_writable(out: Path) -> None:
    """Refuse a folder that cannot be written before the training rather than after it.

    Raises:
        OutputError: it cannot be written.
    """
    nearest = next(folder for folder in (out, *out.resolve().parents) if folder.exists())
    if not (nearest.is_dir() and os.access(nearest, os.W_OK | os.X_OK)):
        raise OutputError(f"{out}: expected a folder that can be written, found {nearest} in the way")
