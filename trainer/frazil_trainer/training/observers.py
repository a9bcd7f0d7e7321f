"""Observers of a training: a progress bar, and files for TensorBoard."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from tensorboardX.proto.event_pb2 import Event
from tensorboardX.proto.summary_pb2 import Summary
from tensorboardX.record_writer import RecordWriter

from frazil.errors import OutputError
from frazil_trainer.recipe import Recipe
from frazil_trainer.training.loop import EpochReport, ExampleSource

__all__ = ["EventFile", "ProgressBar"]


class ProgressBar:
    """Shows epoch, loss, metric, samples per second and the time left of a run, of which some updates are done."""

    def __init__(self, recipe: Recipe, examples: ExampleSource, done: int, console: Console) -> None:
        self._recipe = recipe
        self._updates_per_epoch = examples.updates_per_epoch
        self._metric = examples.metric
        self._console = console
        self._bar = Progress(
            "{task.description}",
            BarColumn(),
            TextColumn("{task.percentage:>3.0f} %"),
            TimeRemainingColumn(),
            TextColumn("{task.fields[figures]}"),
            console=console,
        )
        self._task = self._bar.add_task("", total=recipe.epochs * self._updates_per_epoch, completed=done, figures="")
        self._last: tuple[float, int] = (time.monotonic(), done)
        self._last_epoch = ""

    def __enter__(self) -> ProgressBar:
        self._bar.start()
        self._describe(self._last[1])
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()

    def on_updates(self, updates: int, loss: float, metric: float, learning_rate: float) -> None:  # noqa: ARG002
        """Move the bar on."""
        then, before = self._last
        self._last = now, _ = time.monotonic(), updates
        rate = (updates - before) * self._recipe.batch / max(now - then, 1e-9)
        figures = f"loss {loss:.3f}, {self._metric} {metric:.3f}, {rate:.0f} samples/s{self._last_epoch}"
        self._bar.update(self._task, completed=updates, figures=figures)
        self._describe(updates)

    def on_epoch(self, report: EpochReport) -> None:
        """Show the epoch's figures, in a log on a line of their own."""
        held_out = "".join(f", {name.replace('_', ' ')} {value:.4f}" for name, value in report.held_out.items())
        self._last_epoch = held_out
        if not self._console.is_terminal:  # a log file shows no bar
            self._console.print(
                f"epoch {report.epoch}/{self._recipe.epochs}: loss {report.loss:.4f}, "
                f"{self._metric} {report.metric:.4f}{held_out}"
            )

    def _describe(self, updates: int) -> None:
        epoch = min(updates // self._updates_per_epoch + 1, self._recipe.epochs)
        self._bar.update(self._task, description=f"epoch {epoch}/{self._recipe.epochs}")


class EventFile:
    """Writes an event file for TensorBoard into a folder, one for each part of the run.

    The steps of figures are updates. The steps of the threshold's curve are hundredths of the threshold.

    Raises:
        OutputError: the folder cannot be written.
    """

    def __init__(self, folder: Path, examples: ExampleSource) -> None:
        self._updates_per_epoch = examples.updates_per_epoch
        self._metric = examples.metric
        # TensorBoard reads the files of a run in the order of their names. tensorboardX's SummaryWriter is not used: it
        # puts the machine's name into the file's, and writes in a thread, whose errors are lost.
        self._file = folder / f"events.out.tfevents.{time.time():.0f}"
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._records = RecordWriter(str(self._file))
        except OSError as error:
            raise OutputError(f"{folder}: cannot be written: {error.strerror}") from error
        self._write(Event(file_version="brain.Event:2"))

    def __enter__(self) -> EventFile:
        return self

    def __exit__(self, *_: object) -> None:
        self._records.close()

    def on_updates(self, updates: int, loss: float, metric: float, learning_rate: float) -> None:
        """Write loss, metric and learning rate."""
        self._scalars(updates, {"loss": loss, f"{self._metric}/training": metric, "learning_rate": learning_rate})

    def on_epoch(self, report: EpochReport) -> None:
        """Write the metrics on held out examples."""
        figures = {f"{self._metric}/{name}": value for name, value in report.held_out.items()}
        self._scalars(report.epoch * self._updates_per_epoch, figures)

    def show_tiles(self, tiles: NDArray[np.float32]) -> None:
        """Write (n, 1, t, t) tiles, from 0 to 1, as one picture."""
        grey = np.concatenate(list(tiles[:, 0]), axis=1) * 255
        _, png = cv2.imencode(".png", grey.clip(0, 255).astype(np.uint8))
        h, w = grey.shape
        picture = Summary.Image(height=h, width=w, colorspace=1, encoded_image_string=png.tobytes())
        self._write(Event(step=0, summary=Summary(value=[Summary.Value(tag="examples", image=picture)])))

    def show_thresholds(self, curve: Mapping[float, Mapping[str, float]]) -> None:
        """Write figures by threshold, such as precision and recall."""
        for threshold, figures in curve.items():
            self._scalars(round(100 * threshold), {f"threshold/{name}": value for name, value in figures.items()})

    def _scalars(self, step: int, figures: Mapping[str, float]) -> None:
        values = [Summary.Value(tag=tag, simple_value=value) for tag, value in figures.items()]
        self._write(Event(step=step, summary=Summary(value=values)))

    def _write(self, event: Event) -> None:
        event.wall_time = time.time()
        try:
            self._records.write(event.SerializeToString())
            self._records.flush()
        except OSError as error:
            raise OutputError(f"{self._file}: cannot be written: {error.strerror}") from error
