"""The training loop, one for every network."""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

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

__all__ = ["Batch", "Checkpoints", "EpochReport", "Observer", "Task", "make_optimiser", "train"]

Batch = tuple[torch.Tensor, ...]
"""Tensors of one length, (n, 1, t, t) tiles first."""


class Task(Protocol):
    """A network and the examples that it learns from.

    Nothing in it changes from update to update but the network: a batch is decided by the seed and the number of the
    update alone, so a training may stop anywhere and go on as if it had not.
    """

    network: nn.Module
    """Initialised; gives (n, g, g) logits."""
    updates_per_epoch: int
    held_out: Mapping[str, list[Batch]]
    """Examples that are only looked at, by the name of the accuracy on them."""
    provenance: Mapping[str, int]
    """Counts that belong in the card."""

    def draw(self, update: int, share: range) -> Batch:
        """Draw a share of the batch of an update, both counted from 0; may run in another thread."""
        ...

    def weight(self, batch: Batch) -> torch.Tensor:
        """How much a batch counts among the shares of one update; summed over them, it divides the loss."""
        ...

    def loss(self, logits: torch.Tensor, batch: Batch, weight: torch.Tensor) -> torch.Tensor:
        """The loss of a share, divided by the weight of the whole batch."""
        ...

    def count(self, logits: torch.Tensor, batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
        """How many were told right, out of how many that were told."""
        ...


_LOOK_EVERY = 20
"""Updates between two looks at the figures: to look at each one would keep a GPU waiting."""


class EpochReport(msgspec.Struct, frozen=True, kw_only=True):
    """Figures after one epoch."""

    epoch: int
    """From 1."""
    loss: float
    """Mean loss of the epoch's batches."""
    accuracy: float
    """Share of the epoch's crops that were told right, dropout on. A dense network: of the cells that hold a particle,
    or were taken for one, the share that are both."""
    held_out: dict[str, float]
    """The same, dropout off, on examples that are not trained on, by their name."""
    learning_rate: float
    """Of the next update."""


class Observer(Protocol):
    """Is told how a training goes."""

    def looked(self, updates: int, loss: float, accuracy: float, learning_rate: float) -> None:
        """So many updates are done; mean loss and accuracy since the last look."""
        ...

    def ended_epoch(self, report: EpochReport) -> None:
        """An epoch is over."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Checkpoints:
    """Where the state of a training is kept, and from where it goes on."""

    write: Callable[[dict[str, Any]], None]
    """Keep a state: tensors and plain values."""
    every_seconds: float
    """Least time between two of them; the last state is always kept."""
    file: Path
    """Where they are kept, for messages."""
    begin_from: Mapping[str, Any] | None = None
    """A state that was kept; None begins anew."""


@dataclass(slots=True, kw_only=True)
class _State:
    """All that changes while training. Random draws depend on the number of the update only."""

    network: nn.Module
    optimiser: torch.optim.Optimizer
    schedule: torch.optim.lr_scheduler.LRScheduler
    done: int = 0
    """Updates."""
    history: list[EpochReport] = field(default_factory=list)
    epoch_rows: list[list[float]] = field(default_factory=list)
    """Loss, number told right, number told, of each update of the epoch."""

    @property
    def learning_rate(self) -> float:
        return float(self.schedule.get_last_lr()[0])

    def keep(self) -> dict[str, Any]:
        return {
            "network": self.network.state_dict(),
            "optimiser": self.optimiser.state_dict(),
            "schedule": self.schedule.state_dict(),
            "done": self.done,
            "history": msgspec.to_builtins(self.history),
            "epoch_rows": self.epoch_rows,
        }

    def restore(self, kept: Mapping[str, Any]) -> None:
        self.network.load_state_dict(kept["network"])
        self.optimiser.load_state_dict(kept["optimiser"])
        self.schedule.load_state_dict(kept["schedule"])
        self.done = kept["done"]
        self.history = msgspec.convert(kept["history"], list[EpochReport])
        self.epoch_rows = kept["epoch_rows"]


def train(
    task: Task,
    recipe: Recipe,
    observers: Sequence[Observer] = (),
    *,
    processes: Processes | None = None,
    precision: Precision | None = None,
    checkpoints: Checkpoints | None = None,
) -> list[EpochReport]:
    """Train a task's network, to the end or on from a checkpoint.

    The recipe's seed decides every random draw: the same seed gives the same network on the same machine, whether it
    was trained in one go or not. Several processes give the network that one gives, but for the order of sums.

    Args:
        task: network and examples.
        recipe: seed, epochs, batch and optimiser.
        observers: are told how it goes.
        processes: this process and those that it trains with; None trains alone on the CPU.
        precision: to compute in; None chooses by the recipe and the device.
        checkpoints: None keeps none.

    Returns:
        The figures of all epochs; the network is left as it is scored, on the CPU.

    Raises:
        FrazilError: the loss is no longer a number.
        OutputError: a checkpoint or an observer's file cannot be written.
    """
    processes = processes or Processes()
    precision = precision or choose_precision(recipe, processes)
    device = processes.device
    network = task.network.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    joined = processes.join(network)
    updates_per_epoch = task.updates_per_epoch
    updates = recipe.epochs * updates_per_epoch
    optimiser, schedule = make_optimiser(network, recipe.optimiser, updates)
    state = _State(network=network, optimiser=optimiser, schedule=schedule)
    if checkpoints and checkpoints.begin_from:
        state.restore(checkpoints.begin_from)
    kept_at, kept_done = time.monotonic(), state.done
    since_look: list[torch.Tensor] = []
    for update, drawn in _batches(task, processes.share(recipe.batch), range(state.done, updates)):
        network.train()
        _seed_update(recipe.seed, update)
        batch = _placed(drawn, device)
        weight = processes.sum(task.weight(batch))
        with torch.autocast(device.type, torch.bfloat16, enabled=precision.is_mixed):
            logits = joined(batch[0])
        logits = logits.float()
        loss = task.loss(logits, batch, weight)
        optimiser.zero_grad(set_to_none=True)
        # Gradients are averaged over the processes, losses are shares of one sum.
        (loss * processes.count).backward()  # type: ignore[no-untyped-call]
        if isinstance(recipe.optimiser, AdamW):
            nn.utils.clip_grad_norm_(network.parameters(), recipe.optimiser.largest_gradient)
        optimiser.step()
        learning_rate = state.learning_rate
        schedule.step()
        state.done = update + 1
        with torch.no_grad():
            since_look.append(torch.stack([loss.detach(), *task.count(logits, batch)]))
        ends_epoch = state.done % updates_per_epoch == 0
        if state.done % _LOOK_EVERY and not ends_epoch:
            continue
        rows = processes.sum(torch.stack(since_look)).tolist()
        since_look.clear()
        for at, (loss_of_update, _, _) in enumerate(rows, start=state.done - len(rows) + 1):
            if not math.isfinite(loss_of_update):
                kept = (
                    f"the checkpoint of update {kept_done}, {checkpoints.file}" if checkpoints and kept_done else "none"
                )
                raise FrazilError(
                    f"epoch {math.ceil(at / updates_per_epoch)}, update {at}, learning rate {learning_rate:.3g}: "
                    f"expected a loss, found {loss_of_update}; lower learning_rate "
                    f"(now {recipe.optimiser.learning_rate:g}); last checkpoint: {kept}"
                )
        state.epoch_rows += rows
        for observer in observers:
            observer.looked(state.done, *_mean(rows), learning_rate)
        if ends_epoch:
            # The last figures are of the network as it is exported, in float32.
            mixed_precision = precision.is_mixed and state.done < updates
            _end_epoch(task, state, processes, mixed_precision=mixed_precision)
            for observer in observers:
                observer.ended_epoch(state.history[-1])
        if checkpoints and (state.done == updates or time.monotonic() - kept_at >= checkpoints.every_seconds):
            checkpoints.write(state.keep())
            kept_at, kept_done = time.monotonic(), state.done
    network.eval().to("cpu")
    return state.history


def _end_epoch(task: Task, state: _State, processes: Processes, *, mixed_precision: bool) -> None:
    loss, accuracy = _mean(state.epoch_rows)
    state.epoch_rows.clear()
    held_out = {
        name: _accuracy(state.network, task, examples, processes, mixed_precision=mixed_precision)
        for name, examples in task.held_out.items()
    }
    state.history.append(
        EpochReport(
            epoch=state.done // task.updates_per_epoch,
            loss=loss,
            accuracy=accuracy,
            held_out=held_out,
            learning_rate=state.learning_rate,
        )
    )


def _batches(task: Task, share: range, updates: range) -> Iterator[tuple[int, Batch]]:
    """Draw batches one ahead, in a thread: OpenCV and numpy work while torch does. Their order stays the same."""
    with ThreadPoolExecutor(1) as ahead:
        drawn: deque[Future[Batch]] = deque()
        for update in updates:
            drawn.append(ahead.submit(task.draw, update, share))
            if len(drawn) > 1:
                yield update - 1, drawn.popleft().result()
        if drawn:
            yield updates[-1], drawn.popleft().result()


def _placed(batch: Batch, device: torch.device) -> Batch:
    tiles, *others = (tensor.to(device, non_blocking=True) for tensor in batch)
    return tiles.contiguous(memory_format=torch.channels_last), *others


def _seed_update(seed: int, update: int) -> None:
    """Dropout draws from torch's own generator; no state of it needs to be kept from update to update."""
    (state,) = np.random.SeedSequence((seed, update)).generate_state(1, np.uint64)
    torch.manual_seed(int(state))


def _mean(rows: list[list[float]]) -> tuple[float, float]:
    """Mean loss of updates, and the share of what they told that was right."""
    losses, right, told = zip(*rows, strict=True)
    return math.fsum(losses) / len(losses), sum(right) / max(1, sum(told))


@torch.no_grad()
def _accuracy(
    network: nn.Module, task: Task, examples: list[Batch], processes: Processes, *, mixed_precision: bool
) -> float:
    """Share told right; the processes share the examples."""
    network.eval()
    counts = torch.zeros(2, dtype=torch.int64, device=processes.device)
    for drawn in examples[processes.rank :: processes.count]:
        batch = _placed(drawn, processes.device)
        with torch.autocast(processes.device.type, torch.bfloat16, enabled=mixed_precision):
            logits = network(batch[0])
        counts += torch.stack(task.count(logits.float(), batch))
    right, told = processes.sum(counts).tolist()
    return float(right / max(1, told))


_WARM_UP_SHARE = 0.1


def make_optimiser(network: nn.Module, settings: Sgd | AdamW, updates: int) -> tuple[Optimizer, LRScheduler]:
    """An optimiser and its schedule, which takes a step after every update.

    Args:
        network: whose parameters to optimise.
        settings: kind and rates.
        updates: in the whole training.
    """
    if isinstance(settings, Sgd):
        decay = settings.decay_per_update
        sgd = SGD(network.parameters(), lr=settings.learning_rate, momentum=settings.momentum)
        return sgd, LambdaLR(sgd, lambda update: 1 / (1 + decay * update))
    adamw = TorchAdamW(network.parameters(), lr=settings.learning_rate, weight_decay=settings.weight_decay)
    return adamw, OneCycleLR(adamw, settings.learning_rate, updates, pct_start=_WARM_UP_SHARE)
