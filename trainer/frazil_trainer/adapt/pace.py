"""How many updates fit into the given time, and what the user sees of them."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable
from pathlib import Path

import msgspec
import torch
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn

from frazil.errors import OutputError
from frazil.files import write_atomically
from frazil_trainer.networks import Fcn
from frazil_trainer.recipe import Recipe
from frazil_trainer.training.loop import EpochReport, ExampleSource, make_optimiser

__all__ = ["AdaptationBar", "count_epochs", "remembered"]

_PLAN_NAME = "plan.json"
_WARM_UP, _MEASURED = 1, 3
_FEWEST_EPOCHS, _MOST_EPOCHS = 4, 30


class _Plan(msgspec.Struct, frozen=True):
    epochs: int


def remembered(run: Path, decide: Callable[[], int]) -> int:
    """The number of epochs that a run was begun with, or else what `decide` gives, which is kept for when it goes on.

    Raises:
        OutputError: the run's folder cannot be written.
    """
    file = run / _PLAN_NAME
    try:
        return msgspec.json.decode(file.read_bytes(), type=_Plan).epochs
    except (OSError, msgspec.MsgspecError):
        epochs = decide()
    try:
        run.mkdir(parents=True, exist_ok=True)
        write_atomically(file, msgspec.json.encode(_Plan(epochs)))
    except OSError as error:
        raise OutputError(f"{file}: cannot be written: {error.strerror}") from error
    return epochs


def count_epochs(
    network: Fcn, examples: ExampleSource, recipe: Recipe, device: torch.device, seconds: float
) -> tuple[int, float]:
    """The number of epochs that fit into some seconds, within bounds, and the seconds that they take.

    A few updates of a copy of the network are timed.
    """
    copied = copy.deepcopy(network).to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    optimiser, _ = make_optimiser(copied, recipe.optimiser, _WARM_UP + _MEASURED)
    started = time.monotonic()
    for update in range(_WARM_UP + _MEASURED):
        if update == _WARM_UP:
            started = time.monotonic()
        tiles, *others = (tensor.to(device) for tensor in examples.draw(update, range(recipe.batch)))
        tiles = tiles.contiguous(memory_format=torch.channels_last)
        sums = examples.sums(copied(tiles).float(), (tiles, *others))
        optimiser.zero_grad(set_to_none=True)
        (sums.loss / sums.weight).backward()  # type: ignore[no-untyped-call]
        optimiser.step()
        float(sums.loss.detach())  # a GPU has ended then
    seconds_per_update = (time.monotonic() - started) / _MEASURED
    epochs = int(seconds / (seconds_per_update * examples.updates_per_epoch))
    epochs = min(max(epochs, _FEWEST_EPOCHS), _MOST_EPOCHS)
    return epochs, epochs * examples.updates_per_epoch * seconds_per_update


class AdaptationBar:
    """Shows how far an adaptation is, and the time left of the whole command, of which some updates are done.

    Args:
        recipe: of the adaptation.
        examples: of the same.
        done: updates, earlier.
        seconds_after: that the command takes after the last update.
        console: to print to; a log gets a line for each epoch.
    """

    def __init__(
        self, recipe: Recipe, examples: ExampleSource, done: int, seconds_after: float, console: Console
    ) -> None:
        self._epochs = recipe.epochs
        self._updates = updates = recipe.epochs * examples.updates_per_epoch
        self._seconds_after = seconds_after
        self._console = console
        self._bar = Progress(
            "adapting",
            BarColumn(),
            TextColumn("{task.percentage:>3.0f} %"),
            TextColumn("{task.fields[left]}"),
            console=console,
        )
        self._task = self._bar.add_task("", total=updates, completed=done, left="")
        self._begun, self._before = time.monotonic(), done
        self._left = ""

    def __enter__(self) -> AdaptationBar:
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()

    def on_updates(self, updates: int, loss: float, metric: float, learning_rate: float) -> None:  # noqa: ARG002
        """Move the bar on."""
        rate = (time.monotonic() - self._begun) / (updates - self._before)
        seconds = rate * (self._updates - updates) + self._seconds_after
        self._left = f"about {int(seconds // 60)}:{int(seconds % 60):02d} left"
        self._bar.update(self._task, completed=updates, left=f"loss {loss:.2f}, {self._left}")

    def on_epoch(self, report: EpochReport) -> None:
        """Tell a log."""
        if not self._console.is_terminal:
            self._console.print(
                f"adapting: step {report.epoch} of {self._epochs}, loss {report.loss:.2f}, {self._left}",
                highlight=False,
            )
