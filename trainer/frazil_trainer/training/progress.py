"""The progress of a training on a terminal, or line by line in a log."""

from __future__ import annotations

import time
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from frazil_trainer.recipe import Recipe
from frazil_trainer.training.loop import EpochReport

__all__ = ["ProgressBar"]


class ProgressBar:
    """Shows epoch, loss, accuracy, samples a second and the time left; an observer of `training.train`.

    Args:
        recipe: that is trained by.
        updates_per_epoch: of the training.
        begun: updates that an earlier part of the run has done.
        console: to show it on.
    """

    def __init__(self, recipe: Recipe, updates_per_epoch: int, begun: int, console: Console) -> None:
        self._recipe = recipe
        self._updates_per_epoch = updates_per_epoch
        self._console = console
        self._bar = Progress(
            "{task.description}",
            BarColumn(),
            TextColumn("{task.percentage:>3.0f} %"),
            TimeRemainingColumn(),
            TextColumn("{task.fields[figures]}"),
            console=console,
        )
        self._task = self._bar.add_task("", total=recipe.epochs * updates_per_epoch, completed=begun, figures="")
        self._last_look: tuple[float, int] = (time.monotonic(), begun)
        self._last_epoch = ""

    def __enter__(self) -> ProgressBar:
        self._bar.start()
        self._describe(self._last_look[1])
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._bar.stop()

    def looked(self, updates: int, loss: float, accuracy: float, learning_rate: float) -> None:  # noqa: ARG002
        """Move the bar on."""
        then, before = self._last_look
        self._last_look = now, _ = time.monotonic(), updates
        rate = (updates - before) * self._recipe.batch / max(now - then, 1e-9)
        figures = f"loss {loss:.3f}, accuracy {accuracy:.3f}, {rate:.0f} samples/s{self._last_epoch}"
        self._bar.update(self._task, completed=updates, figures=figures)
        self._describe(updates)

    def ended_epoch(self, report: EpochReport) -> None:
        """Show the epoch's figures, as a line of their own where there is no terminal."""
        held_out = "".join(f", {name.replace('_', ' ')} {value:.4f}" for name, value in report.held_out.items())
        self._last_epoch = held_out
        if not self._console.is_terminal:  # a log file shows no bar
            self._console.print(
                f"epoch {report.epoch}/{self._recipe.epochs}: loss {report.loss:.4f}, "
                f"accuracy {report.accuracy:.4f}{held_out}"
            )

    def _describe(self, updates: int) -> None:
        epoch = min(updates // self._updates_per_epoch + 1, self._recipe.epochs)
        self._bar.update(self._task, description=f"epoch {epoch}/{self._recipe.epochs}")
