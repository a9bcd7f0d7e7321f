"""The bench: how fast one micrograph is picked here, stage by stage, beside what no picker with the model can avoid."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

import cv2
import numpy as np

from frazil.picking import Picker, PickingSettings, available_cores, load_model, read_micrograph
from frazil.settings import Device, Precision

__all__ = ["STAGES", "Bench"]

T = TypeVar("T")

STAGES = ("read", "prepare", "infer", "peaks")
_FLOOR = ("bytes", "session")


@dataclass(kw_only=True)
class Bench:
    """Picks one micrograph again and again; rounds of picking and of the floor are interleaved.

    The floor is reading the file's bytes and running the bare model on tiles that lie ready. The file is in the
    system's cache after the first round.

    Args:
        micrograph: the file.
        model: as for the daemon.
        settings: of picking.
        device: where the model runs.
        threads: of the model; None for every core.
        precision: in which the model computes, if it can.

    Raises:
        FrazilError: the model cannot serve, or the micrograph cannot be picked.
    """

    micrograph: Path
    model: Path
    settings: PickingSettings
    device: Device = "auto"
    threads: int | None = None
    precision: Precision = "float32"
    seconds: dict[str, list[float]] = field(default_factory=dict, init=False)
    """Of each stage, of the two parts of the floor, and of ``whole`` and ``floor``, a value for each round."""

    def __post_init__(self) -> None:
        threads = self.threads or available_cores()
        cv2.setNumThreads(threads)
        loaded = load_model(self.model, self.device, threads, precision=self.precision)
        loaded.warm_up()
        self._picker = Picker(loaded, self.settings)
        self.name, self.provider, self.precision = loaded.identity.short, loaded.provider, loaded.precision

    def rounds(self, count: int) -> Iterator[int]:
        """Measure, yielding the number of each round once it is done."""
        picker, model = self._picker, self._picker.model
        picture = picker.prepare(read_micrograph(self.micrograph))
        tiling = picker.plan(picture)
        ready = []
        if tiling is not None:
            largest = model.largest_batch(tiling.tile_shape)
            ready = [np.array(tiles) for tiles in tiling.batches(picture.pixels, largest)]
        for number in range(1, count + 1):
            self._time("bytes", self.micrograph.read_bytes)
            self._time("session", lambda: [model.score(tiles) for tiles in ready])
            micrograph = self._time("read", lambda: read_micrograph(self.micrograph))
            picture = self._time("prepare", lambda: picker.prepare(micrograph))  # noqa: B023 - called at once
            score_map = self._time("infer", lambda: picker.score(picture))  # noqa: B023
            self._time("peaks", lambda: picker.find(score_map, picture))  # noqa: B023
            for whole, parts in (("whole", STAGES), ("floor", _FLOOR)):
                self.seconds.setdefault(whole, []).append(sum(self.seconds[part][-1] for part in parts))
            yield number

    def median(self, what: str) -> float:
        """Median time of a stage, or of the ``whole`` or the ``floor``, in seconds."""
        return statistics.median(self.seconds[what])

    @property
    def times_the_floor(self) -> float:
        """Median over the rounds of the whole over the floor."""
        return statistics.median(
            whole / floor for whole, floor in zip(self.seconds["whole"], self.seconds["floor"], strict=True)
        )

    def _time(self, name: str, step: Callable[[], T]) -> T:
        started = time.perf_counter()
        result = step()
        self.seconds.setdefault(name, []).append(time.perf_counter() - started)
        return result
