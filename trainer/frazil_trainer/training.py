"""The training loop, one for every network."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Protocol

import msgspec
import numpy as np
import torch
from torch import nn

from frazil.errors import FrazilError
from frazil_trainer.optimisers import make_optimiser
from frazil_trainer.recipe import AdamW, Recipe
from frazil_trainer.task import Batch, Task

__all__ = ["EpochReport", "Observer", "train"]

_LOOK_EVERY = 20


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
    """After the epoch."""


class Observer(Protocol):
    """Is told how a training goes."""

    def looked(self, updates: int, loss: float, accuracy: float) -> None:
        """So many updates are done; mean loss and accuracy since the last look."""
        ...

    def ended_epoch(self, report: EpochReport) -> None:
        """An epoch is over."""
        ...


def train(task: Task, recipe: Recipe, observer: Observer) -> list[EpochReport]:
    """Train a task's network.

    The recipe's seed decides every random draw: the same seed gives the same network on the same machine.

    Args:
        task: network and examples.
        recipe: seed, epochs, batch and optimiser.
        observer: is told how it goes.

    Raises:
        FrazilError: the loss is no longer a number.
    """
    network = task.network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    updates = recipe.epochs * task.updates_per_epoch
    optimiser, schedule = make_optimiser(network, recipe.optimiser, updates)
    batches = _batches(task, recipe.batch, range(updates))
    history: list[EpochReport] = []
    since_look: list[torch.Tensor] = []
    epoch_rows: list[list[float]] = []
    for update, batch in zip(range(updates), batches, strict=True):
        network.train()
        _seed_update(recipe.seed, update)
        weight = task.weight(batch)
        with torch.autocast("cpu", torch.bfloat16, enabled=recipe.mixed_precision):
            logits = network(batch[0])
        logits = logits.float()
        loss = task.loss(logits, batch, weight)
        optimiser.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        if isinstance(recipe.optimiser, AdamW):
            nn.utils.clip_grad_norm_(network.parameters(), recipe.optimiser.largest_gradient)
        optimiser.step()
        schedule.step()
        with torch.no_grad():
            since_look.append(torch.stack([loss.detach(), *task.count(logits, batch)]))
        done = update + 1
        if done % _LOOK_EVERY and done % task.updates_per_epoch:
            continue
        rows = torch.stack(since_look).tolist()
        since_look.clear()
        _check_numbers(rows, done, task.updates_per_epoch, float(schedule.get_last_lr()[0]))
        epoch_rows += rows
        observer.looked(done, *_mean(rows))
        if done % task.updates_per_epoch == 0:
            loss_of_epoch, accuracy = _mean(epoch_rows)
            epoch_rows.clear()
            report = EpochReport(
                epoch=done // task.updates_per_epoch,
                loss=loss_of_epoch,
                accuracy=accuracy,
                held_out={
                    # The last figures are of the network as it is exported, in float32.
                    name: _accuracy(network, task, examples, mixed_precision=recipe.mixed_precision and done < updates)
                    for name, examples in task.held_out.items()
                },
                learning_rate=float(schedule.get_last_lr()[0]),
            )
            history.append(report)
            observer.ended_epoch(report)
    network.eval()
    return history


def _batches(task: Task, count: int, updates: range) -> Iterator[Batch]:
    """Draw batches one ahead, in a thread: OpenCV and numpy work while torch does. Their order stays the same."""
    with ThreadPoolExecutor(1) as ahead:
        drawn: deque[Future[Batch]] = deque()
        for update in updates:
            drawn.append(ahead.submit(task.draw, update, range(count)))
            if len(drawn) > 1:
                yield _channels_last(drawn.popleft().result())
        while drawn:
            yield _channels_last(drawn.popleft().result())


def _channels_last(batch: Batch) -> Batch:
    return batch[0].contiguous(memory_format=torch.channels_last), *batch[1:]


def _seed_update(seed: int, update: int) -> None:
    """Dropout draws from torch's own generator; no state of it needs to be kept from update to update."""
    (state,) = np.random.SeedSequence((seed, update)).generate_state(1, np.uint64)
    torch.manual_seed(int(state))


def _check_numbers(rows: list[list[float]], done: int, updates_per_epoch: int, learning_rate: float) -> None:
    for i, (loss, _, _) in enumerate(rows):
        if not math.isfinite(loss):
            update = done - len(rows) + i + 1
            epoch = math.ceil(update / updates_per_epoch)
            raise FrazilError(
                f"epoch {epoch}, update {update}: the loss is {loss}; lower learning_rate (now {learning_rate:g})"
            )


def _mean(rows: list[list[float]]) -> tuple[float, float]:
    """Mean loss of updates, and the share of what they told that was right."""
    losses, right, told = zip(*rows, strict=True)
    return math.fsum(losses) / len(losses), sum(right) / max(1, sum(told))


@torch.no_grad()
def _accuracy(network: nn.Module, task: Task, examples: list[Batch], *, mixed_precision: bool) -> float:
    network.eval()
    right = told = 0
    for batch in examples:
        with torch.autocast("cpu", torch.bfloat16, enabled=mixed_precision):
            logits = network(_channels_last(batch)[0])
        counts = task.count(logits.float(), batch)
        right, told = right + int(counts[0]), told + int(counts[1])
    return right / max(1, told)
