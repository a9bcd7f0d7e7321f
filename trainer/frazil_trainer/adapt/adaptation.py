"""An adaptation, from a model and a few labelled micrographs to the model's next version."""

from __future__ import annotations

import copy
import hashlib
import math
import shutil
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec
from rich.console import Console

from frazil.errors import FrazilError
from frazil.model import Device, KeptOut, ModelIdentity, load_model
from frazil.model.contract import Calibration, read_calibration
from frazil_trainer.adapt.examples import AdaptationSource
from frazil_trainer.adapt.labels import Labels, load_labels
from frazil_trainer.adapt.outcome import (
    Outcome,
    estimate_labelled_fraction,
    pick_labelled,
    score_held_out,
    threshold_for_labels,
)
from frazil_trainer.adapt.pace import AdaptationBar, count_epochs, remembered
from frazil_trainer.adapt.parent import Parent, read_parent
from frazil_trainer.data.labelled import LabelledMicrograph
from frazil_trainer.data.simulated import simulate_labelled
from frazil_trainer.evaluation import ScoredMicrograph
from frazil_trainer.evaluation.calibration import extend_calibration
from frazil_trainer.export.version import Scorer, export_version, make_scorer
from frazil_trainer.networks import Fcn
from frazil_trainer.recipe import AdamW, Patches, Recipe, TrainingSet
from frazil_trainer.run import check_writable, draft_folder, program_versions
from frazil_trainer.training.loop import Checkpoints, Observer, train
from frazil_trainer.training.processes import Processes, join_processes
from frazil_trainer.training.run_folder import RunFolder

__all__ = ["AdaptationRecord", "AdaptationSettings", "Comparison", "adapt_model"]

_SEED = 20261128
_BATCH = 12
_UPDATES_PER_EPOCH = 10
_LEARNING_RATE = 3e-4
_SECONDS_AFTER = 25.0
"""To score and to export, on two older cores."""
_FRACTION_OF_THE_REST = 0.9
_REPLAY_PER_MINUTE, _FEWEST_REPLAY, _MOST_REPLAY = 16, 4, 40
"""Simulated micrographs; each takes a third of a second."""
_WORSE = 0.5
"""Largest F1 drop on n labels, times the root of n: more is no chance."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AdaptationSettings:
    """Settings of an adaptation, of which a user needs none."""

    minutes: float = 2.5
    """That it may take in all."""
    device: Device = "auto"
    threads: int = 2
    """CPU threads."""
    incomplete: bool | None = None
    """Whether labels miss particles; None estimates it."""
    force: bool = False
    """Whether to adapt to labels that do not seem to lie on particles."""
    replay_micrographs: int | None = None
    """That are simulated, so that nothing is forgotten; None makes 40, or fewer if there is less time than usual."""
    checkpoint_seconds: float = 10.0
    """Least time between two checkpoints."""


_DEFAULTS = AdaptationSettings()


class AdaptationRecord(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The provenance of an adapted model, for its card."""

    adapted_from: ModelIdentity
    adapted_from_training_set_sha256: str
    recipe: Recipe
    micrographs: tuple[str, ...]
    """That it was adapted to, with labels."""
    labels: int
    labelled_fraction: float
    """Estimate of the fraction of the particles with a label; 1 if most have one."""
    replay: str
    updates: int
    device: str
    seconds: float
    versions: dict[str, str]
    """Versions of programs."""
    kept_out: tuple[KeptOut, ...] = ()
    """What it did not learn from, of micrographs with labels; left out of the cards of earlier versions."""


class Comparison(msgspec.Struct, frozen=True, kw_only=True):
    """Scores before and after, for the card."""

    threshold: float
    held_out: bool
    """Whether they are on labels that were not learnt from."""
    before: Outcome
    after: Outcome


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Beginning:
    """What there is before the first update."""

    parent: Parent
    labels: Labels
    fraction: float
    """Of the particles, that have a label."""
    picked: Sequence[ScoredMicrograph]
    """By the parent."""
    replay: Sequence[LabelledMicrograph]
    patches: Patches
    recipe: Recipe
    """Its number of epochs is decided later."""


def adapt_model(
    parent_path: Path,
    data: Path,
    source: TrainingSet,
    out: Path,
    console: Console,
    *,
    run: Path,
    settings: AdaptationSettings = _DEFAULTS,
    known_as: Mapping[str, str] | None = None,
    kept_out: Sequence[KeptOut] = (),
    observers: Sequence[Observer] = (),
) -> Path:
    """Adapt a model to a few labelled micrographs, and write it as the next version of a model.

    Args:
        parent_path: the model that is adapted.
        data: folder of the labelled micrographs.
        source: their particle and their labels; see `describe_set`.
        out: the new version's model folder.
        console: to print to.
        run: folder for checkpoints, from which the same command goes on after it was stopped; what it holds of this
            adaptation is removed at the end.
        settings: of the adaptation.
        known_as: for the card, other names of micrographs, by their files' names.
        kept_out: further micrographs with labels, which are not in the folder, for the card.
        observers: receive the figures of the training.

    Returns:
        The new version's folder.

    Raises:
        FrazilError: the model or the labels cannot be used, or the adapted model picks worse.
        OutputError: a file cannot be written.
    """
    started = time.monotonic()
    check_writable(out)
    check_writable(run)
    begun = _begin(parent_path, data, source, console, settings)
    run /= _key(begun, settings)
    with join_processes(settings.device) as processes:
        left = 60 * settings.minutes - (time.monotonic() - started) - _SECONDS_AFTER
        recipe, network, examples = _train(begun, settings, run, left, console, processes, observers)
    scorer = make_scorer(recipe, network, examples, begun.labels.whole)
    with console.status("comparing before and after"):
        comparison, calibration = _compare(begun, scorer, out)
    _report(comparison, begun.parent, console)
    names = known_as or {}
    record = AdaptationRecord(
        adapted_from=begun.parent.model.identity,
        adapted_from_training_set_sha256=begun.parent.contract.training_set_sha256,
        recipe=recipe,
        micrographs=tuple(names.get(one.micrograph.name, one.micrograph.name) for one in begun.labels.paths),
        labels=begun.labels.count,
        labelled_fraction=round(begun.fraction, 3),
        replay=f"{len(begun.replay)} simulated micrographs, seed {recipe.seed}; targets are the scores before",
        updates=recipe.epochs * _UPDATES_PER_EPOCH,
        device=processes.device.type,
        seconds=round(time.monotonic() - started, 1),
        versions=program_versions(),
        kept_out=(*kept_out, *begun.labels.kept_out(names)),
    )
    contract = scorer.contract(
        recipe,
        threshold=comparison.threshold,
        training_set_sha256=begun.labels.sha256,
        calibration=calibration,
        f1={f"{source.folder}/*{source.labels_ending}": comparison.after.f1},
    )
    with console.status("exporting"):
        version = export_version(scorer, contract, out, run=record, validation=comparison)
    shutil.rmtree(run, ignore_errors=True)
    return version


def _begin(
    parent_path: Path, data: Path, source: TrainingSet, console: Console, settings: AdaptationSettings
) -> _Beginning:
    """Read everything, and refuse what cannot be used."""
    with console.status("reading the model"):
        parent = read_parent(parent_path, settings.threads)
    contract, patches = parent.contract, Patches(per_epoch=_UPDATES_PER_EPOCH * _BATCH)
    recipe = Recipe(
        seed=_SEED,
        diameter_px=contract.diameter_px,
        normalisation=contract.normalisation,
        epochs=1,
        batch=_BATCH,
        network=parent.network.settings,
        examples=patches,
        optimiser=AdamW(learning_rate=_LEARNING_RATE),
        data=(source,),
    )
    with console.status("reading the labelled micrographs"):
        labels = load_labels(data, source, recipe, console, force=settings.force)
        picked = pick_labelled(parent.model, labels)
    fraction = estimate_labelled_fraction(picked, settings.incomplete)
    console.print(f"{len(labels.paths)} micrographs with {labels.count} labels", highlight=False)
    if fraction < 1:
        console.print(
            f"about {fraction:.0%} of the particles have a label: what looks like a particle without one is not learnt "
            "as background",
            soft_wrap=True,
        )
        labels = labels.as_incomplete()
        recipe = msgspec.structs.replace(recipe, data=(labels.source,))
    with console.status("simulating others, to forget nothing") as status:
        replay = simulate_labelled(
            _count_replay(settings),
            seed=_SEED,
            diameter_px=recipe.diameter_px,
            normalisation=recipe.normalisation,
            progress=status.update,
        )
    return _Beginning(
        parent=parent, labels=labels, fraction=fraction, picked=picked, replay=replay, patches=patches, recipe=recipe
    )


def _count_replay(settings: AdaptationSettings) -> int:
    if settings.replay_micrographs is not None:
        return settings.replay_micrographs
    return min(max(_FEWEST_REPLAY, round(_REPLAY_PER_MINUTE * settings.minutes)), _MOST_REPLAY)


def _key(begun: _Beginning, settings: AdaptationSettings) -> str:
    """Of the same model, micrographs, labels and settings: what is begun with others is another adaptation."""
    digest = hashlib.sha256(msgspec.json.encode(begun.recipe))
    for part in (begun.parent.model.identity.sha256, begun.labels.sha256, repr(settings)):
        digest.update(part.encode())
    return f"adapt-{digest.hexdigest()[:12]}"


def _train(
    begun: _Beginning,
    settings: AdaptationSettings,
    run: Path,
    seconds: float,
    console: Console,
    processes: Processes,
    observers: Sequence[Observer],
) -> tuple[Recipe, Fcn, AdaptationSource]:
    """Train for some seconds, from the beginning or from a checkpoint; the recipe, with its epochs, and the network."""
    network, patches = copy.deepcopy(begun.parent.network), begun.patches
    own, replay, before = begun.labels.training, begun.replay, begun.parent.network

    def decide() -> int:
        examples = AdaptationSource(begun.recipe, patches, own, replay, before)
        epochs, needed = count_epochs(
            network, examples, begun.recipe, processes.device, _FRACTION_OF_THE_REST * seconds
        )
        if needed > seconds:
            console.print(f"warning: this machine needs {(needed - seconds) / 60:.1f} minutes more", highlight=False)
        return epochs

    recipe = msgspec.structs.replace(begun.recipe, epochs=remembered(run, decide))
    examples = AdaptationSource(recipe, patches, own, replay, before)
    folder = RunFolder(run, recipe, begun.labels.sha256)
    state = folder.read_checkpoint()
    done = state["done"] if state else 0
    if done:
        console.print(f"going on from update {done}, {folder.checkpoint}", soft_wrap=True, highlight=False)
    checkpoints = Checkpoints(
        write=folder.write_checkpoint,
        every_seconds=settings.checkpoint_seconds,
        file=folder.checkpoint,
        resume_from=state,
    )
    with AdaptationBar(recipe, examples, done, _SECONDS_AFTER, console) as bar:
        train(network, examples, recipe, [bar, *observers], processes=processes, checkpoints=checkpoints)
    return recipe, network, examples


def _compare(begun: _Beginning, scorer: Scorer, out: Path) -> tuple[Comparison, Calibration | None]:
    """Choose the threshold, and compare with the parent, by the daemon's picker; how probable particles are at a score.

    Raises:
        FrazilError: the adapted model is worse.
    """
    labels, fraction, parent = begun.labels, begun.fraction, begun.parent
    with draft_folder(out) as drafts:
        contract = scorer.contract(begun.recipe, threshold=parent.contract.threshold, training_set_sha256=labels.sha256)
        picked = pick_labelled(load_model(export_version(scorer, contract, drafts), "cpu"), labels)
    threshold = threshold_for_labels(picked, fraction, parent.contract.threshold)
    before = score_held_out(begun.picked, labels, parent.contract.threshold, fraction)
    after = score_held_out(picked, labels, threshold, fraction)
    if after.best_f1 < before.best_f1 - _WORSE / math.sqrt(max(1, after.labels)):
        raise FrazilError(
            f"{parent.model.identity.short}: expected to pick the labelled particles better when adapted, found F1 "
            f"{after.best_f1:.3f} after and {before.best_f1:.3f} before, each at its best threshold; nothing is written"
        )
    # The labels are of one particle, and a session may hold any; replay keeps the height of scores.
    calibration = read_calibration(parent.contract.calibration)
    if calibration is not None and fraction == 1:
        calibration = extend_calibration(calibration, picked)
    comparison = Comparison(
        threshold=threshold,
        held_out=any(labels.held_out),
        before=before,
        after=after,
    )
    return comparison, calibration


def _report(comparison: Comparison, parent: Parent, console: Console) -> None:
    before, after = comparison.before, comparison.after
    where = "on a quarter of the micrographs that was not learnt from" if comparison.held_out else "on these labels"
    console.print(
        f"F1 {where}: {before.f1:.3f} before ({parent.model.identity.short} at its threshold {before.threshold:g}, "
        f"{before.best_f1:.3f} at the best), {after.f1:.3f} after, at threshold {after.threshold:g}",
        highlight=False,
        soft_wrap=True,
    )
