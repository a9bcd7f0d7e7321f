"""The training loop, the same for every network."""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol

import msgspec
import numpy as np
import torch
from torch import nn
from torch.optim import SGD, Optimizer
from torch.optim import AdamW as TorchAdamW
from torch.optim.lr_scheduler import LambdaLR, LRScheduler, OneCycleLR

from frazil.errors import FrazilError
from frazil_trainer.recipe import AdamW, Recipe, Sgd
from frazil_trainer.training.precision import Precision, choose_precision
from frazil_trainer.training.processes import Processes

__all__ = ["Batch", "Checkpoints", "EpochReport", "ExampleSource", "Observer", "Sums", "make_optimiser", "train"]

Batch = tuple[torch.Tensor, ...]
"""Tensors of equal length, (n, 1, t, t) tiles first."""

_LOG_EVERY = 20
"""Updates between two reads of the figures; reading each one would make a GPU wait."""
_WARM_UP_FRACTION = 0.1


@dataclass(frozen=True, slots=True, kw_only=True)
class Sums:
    """Sums over the examples of a batch."""

    loss: torch.Tensor
    weight: torch.Tensor
    """Divisor of the loss, at least 1 in effect."""
    numerator: torch.Tensor
    denominator: torch.Tensor
    """The metric is the numerator over this."""


class ExampleSource(Protocol):
    """Batches of examples, and the loss on them.

    The seed and the number of the update alone decide a batch, so a training can stop anywhere and resume.
    """

    updates_per_epoch: int
    held_out: Mapping[str, list[Batch]]
    """Batches that are never trained on, by name."""
    counts: Mapping[str, int]
    """Numbers of examples, for the card."""
    metric: Literal["accuracy", "iou"]
    """Name of the metric."""

    def draw(self, update: int, examples: range) -> Batch:
        """Draw some examples of an update's batch, all counted from 0. Another thread may call it."""
        ...

    def sums(self, logits: torch.Tensor, batch: Batch) -> Sums:
        """Loss and metric of a batch, as sums that processes can add."""
        ...


class EpochReport(msgspec.Struct, frozen=True, kw_only=True):
    """Figures of one epoch."""

    epoch: int
    """Counted from 1."""
    loss: float
    """Mean loss of the epoch's batches."""
    metric: float = msgspec.field(name="accuracy")
    """Accuracy on the epoch's crops, or intersection over union on the cells of its patches, with dropout. Files call
    it ``accuracy`` for every network."""
    held_out: dict[str, float]
    """The same metric on the held out examples, by name, without dropout."""
    learning_rate: float
    """Learning rate of the next update."""


class Observer(Protocol):
    """Receives the figures of a training."""

    def on_updates(self, updates: int, loss: float, metric: float, learning_rate: float) -> None:
        """Receive the number of updates so far, and the mean loss and metric since the last call."""
        ...

    def on_epoch(self, report: EpochReport) -> None:
        """Receive the figures of an epoch at its end."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Checkpoints:
    """Where checkpoints are written, and which one to resume from."""

    write: Callable[[dict[str, Any]], None]
    """Writes a state of tensors and plain values."""
    every_seconds: float
    """Least time between two checkpoints. The final state is always written."""
    file: Path
    """Their file, for messages."""
    resume_from: Mapping[str, Any] | None = None
    """A state that was written, or None to start anew."""


@dataclass(slots=True, kw_only=True)
class _State:
    """Everything that changes during training. No generator is among it: the update's number seeds every draw."""

    network: nn.Module
    optimiser: Optimizer
    schedule: LRScheduler
    done: int = 0
    """Updates so far."""
    history: list[EpochReport] = field(default_factory=list)
    epoch_rows: list[list[float]] = field(default_factory=list)
    """Loss, and numerator and denominator of the metric, of each update of the epoch."""

    @property
    def learning_rate(self) -> float:
        return float(self.schedule.get_last_lr()[0])

    def to_dict(self) -> dict[str, Any]:
        return {
            "network": self.network.state_dict(),
            "optimiser": self.optimiser.state_dict(),
            "schedule": self.schedule.state_dict(),
            "done": self.done,
            "history": msgspec.to_builtins(self.history),
            "epoch_rows": self.epoch_rows,
        }

    def load(self, saved: Mapping[str, Any]) -> None:
        self.network.load_state_dict(saved["network"])
        self.optimiser.load_state_dict(saved["optimiser"])
        self.schedule.load_state_dict(saved["schedule"])
        self.done = saved["done"]
        self.history = msgspec.convert(saved["history"], list[EpochReport])
        self.epoch_rows = saved["epoch_rows"]


def train(
    network: nn.Module,
    examples: ExampleSource,
    recipe: Recipe,
    observers: Sequence[Observer] = (),
    *,
    processes: Processes | None = None,
    precision: Precision | None = None,
    checkpoints: Checkpoints | None = None,
) -> list[EpochReport]:
    """Train a network, which gives (n, g, g) logits, to the end, from the start or from a checkpoint.

    The recipe's seed decides every random draw: the same seed gives the same weights on the same machine, with or
    without interruptions. Without `processes` it trains alone on the CPU; without `precision` the recipe and the device
    decide.

    Returns:
        The figures of all epochs. The network is in evaluation mode, on the CPU.

    Raises:
        FrazilError: the loss is not finite.
        OutputError: a checkpoint or an observer's file cannot be written.
    """
    processes = processes or Processes()
    precision = precision or choose_precision(recipe, processes)
    device = processes.device
    network.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    parallel = processes.parallel(network)
    updates = recipe.epochs * examples.updates_per_epoch
    optimiser, schedule = make_optimiser(network, recipe.optimiser, updates)
    state = _State(network=network, optimiser=optimiser, schedule=schedule)
    if checkpoints and checkpoints.resume_from:
        state.load(checkpoints.resume_from)
    saved_at, saved_update = time.monotonic(), state.done
    unread: list[torch.Tensor] = []
    for update, drawn in _batches(examples, processes.shard(recipe.batch), range(state.done, updates)):
        network.train()
        _seed_dropout(recipe.seed, update, processes.rank)
        batch = _placed(drawn, device)
        with torch.autocast(device.type, torch.bfloat16, enabled=precision.is_mixed):
            logits = parallel(batch[0])
        sums = examples.sums(logits.float(), batch)
        loss = sums.loss / processes.sum(sums.weight).clamp(min=1)
        optimiser.zero_grad(set_to_none=True)
        # The processes' losses add up, but their gradients are averaged.
        (loss * processes.count).backward()  # type: ignore[no-untyped-call]
        if isinstance(recipe.optimiser, AdamW):
            nn.utils.clip_grad_norm_(network.parameters(), recipe.optimiser.largest_gradient)
        optimiser.step()
        learning_rate = state.learning_rate
        schedule.step()
        state.done = update + 1
        unread.append(torch.stack([loss.detach(), sums.numerator, sums.denominator]))
        ends_epoch = state.done % examples.updates_per_epoch == 0
        if state.done % _LOG_EVERY and not ends_epoch:
            continue
        rows = processes.sum(torch.stack(unread)).tolist()
        unread.clear()
        for at, (loss_of_update, *_) in enumerate(rows, start=state.done - len(rows) + 1):
            if not math.isfinite(loss_of_update):
                last = "none"
                if checkpoints and saved_update:
                    last = f"the checkpoint of update {saved_update}, {checkpoints.file}"
                raise FrazilError(
                    f"epoch {math.ceil(at / examples.updates_per_epoch)}, update {at}, "
                    f"learning rate {learning_rate:.3g}: expected a finite loss, found {loss_of_update}; "
                    f"lower learning_rate (now {recipe.optimiser.learning_rate:g}); "
                    f"last checkpoint: {last}"
                )
        state.epoch_rows += rows
        for observer in observers:
            observer.on_updates(state.done, *_means(rows), learning_rate)
        if ends_epoch:
            # The last figures are those of the exported network, in float32.
            mixed = precision.is_mixed and state.done < updates
            state.history.append(_report(examples, state, device, mixed_precision=mixed))
            state.epoch_rows.clear()
            for observer in observers:
                observer.on_epoch(state.history[-1])
        if checkpoints and (state.done == updates or time.monotonic() - saved_at >= checkpoints.every_seconds):
            checkpoints.write(state.to_dict())
            saved_at, saved_update = time.monotonic(), state.done
    network.eval().to("cpu")
    return state.history


def make_optimiser(network: nn.Module, settings: Sgd | AdamW, updates: int) -> tuple[Optimizer, LRScheduler]:
    """An optimiser and its learning rate schedule, which takes a step after each of `updates` updates."""
    if isinstance(settings, Sgd):
        decay = settings.decay_per_update
        sgd = SGD(network.parameters(), lr=settings.learning_rate, momentum=settings.momentum)
        return sgd, LambdaLR(sgd, lambda update: 1 / (1 + decay * update))
    adamw = TorchAdamW(network.parameters(), lr=settings.learning_rate, weight_decay=settings.weight_decay)
    return adamw, OneCycleLR(adamw, settings.learning_rate, updates, pct_start=_WARM_UP_FRACTION)


def _batches(examples: ExampleSource, shard: range, updates: range) -> Iterator[tuple[int, Batch]]:
    """Draw batches in order, one ahead in a thread: OpenCV and numpy work while torch does."""
    with ThreadPoolExecutor(1) as ahead:
        drawn: deque[Future[Batch]] = deque()
        for update in updates:
            drawn.append(ahead.submit(examples.draw, update, shard))
            if len(drawn) > 1:
                yield update - 1, drawn.popleft().result()
        if drawn:
            yield updates[-1], drawn.popleft().result()


def _placed(batch: Batch, device: torch.device) -> Batch:
    tiles, *others = (tensor.to(device, non_blocking=True) for tensor in batch)
    return tiles.contiguous(memory_format=torch.channels_last), *others


def _seed_dropout(seed: int, update: int, rank: int) -> None:
    """Dropout draws from torch's own generator, whose state is not in a checkpoint."""
    (state,) = np.random.SeedSequence((seed, update, rank)).generate_state(1, np.uint64)
    torch.manual_seed(int(state))


def _means(rows: list[list[float]]) -> tuple[float, float]:
    """Mean loss and metric of some updates."""
    losses, numerators, denominators = zip(*rows, strict=True)
    return math.fsum(losses) / len(losses), sum(numerators) / max(1, sum(denominators))


def _report(examples: ExampleSource, state: _State, device: torch.device, *, mixed_precision: bool) -> EpochReport:
    loss, metric = _means(state.epoch_rows)
    return EpochReport(
        epoch=state.done // examples.updates_per_epoch,
        loss=loss,
        metric=metric,
        held_out={
            name: _evaluate(state.network, examples, batches, device, mixed_precision=mixed_precision)
            for name, batches in examples.held_out.items()
        },
        learning_rate=state.learning_rate,
    )


@torch.no_grad()
def _evaluate(
    network: nn.Module, examples: ExampleSource, batches: list[Batch], device: torch.device, *, mixed_precision: bool
) -> float:
    """The metric on held out batches. Every process computes all of it: their batch normalisation may differ."""
    network.eval()
    counts = torch.zeros(2, dtype=torch.int64, device=device)
    for drawn in batches:
        batch = _placed(drawn, device)
        with torch.autocast(device.type, torch.bfloat16, enabled=mixed_precision):
            logits = network(batch[0])
        sums = examples.sums(logits.float(), batch)
        counts += torch.stack([sums.numerator, sums.denominator])
    numerator, denominator = counts.tolist()
    return float(numerator / max(1, denominator))
