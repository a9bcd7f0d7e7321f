"""The bench: how fast one micrograph is picked here, stage by stage, in comparison with the floor.

Picks that were made on a device are compared with those of the CPU.
"""

from __future__ import annotations

import statistics
import time
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TypeVar

import cv2
import numpy as np

from frazil.errors import FrazilError
from frazil.model import Device, Precision, available_cores, load_model
from frazil.picking import (
    Micrograph,
    Picker,
    PickingSettings,
    Picks,
    PixelMemory,
    PreparationOnDevice,
    match_picks,
    read_micrograph,
)
from frazil.picking.device import Preparation

__all__ = ["STAGES", "Bench", "PickComparison", "compare_picks"]

_SAME_WITHIN_PX = 1.0
_LEAST_FRACTION = 0.99
_LARGEST_DIFFERENCE = 0.02


@dataclass(frozen=True, slots=True, kw_only=True)
class PickComparison:
    """Two sets of picks of one micrograph, one from a device and one from the CPU."""

    picks: int
    cpu_picks: int
    matched: int
    """Number of pairs, matched one to one, within a pixel of the micrograph."""
    largest_distance_px: float
    """Largest distance between matched picks."""
    largest_difference: float
    """Largest difference between the scores of matched picks."""

    @property
    def matched_fraction(self) -> float:
        """Fraction of the larger set that has a match in the other."""
        return self.matched / largest if (largest := max(self.picks, self.cpu_picks)) else 1.0

    def __str__(self) -> str:
        return (
            f"{self.matched} of {self.picks} picks are among the CPU's {self.cpu_picks}, within "
            f"{self.largest_distance_px:.2g} px and {self.largest_difference:.2g} in their scores"
        )

    def check(self) -> None:
        """Check that the picks are equal except for rounding, which may move a pick across the threshold.

        Raises:
            FrazilError: the picks differ.
        """
        if self.matched_fraction < _LEAST_FRACTION or self.largest_difference > _LARGEST_DIFFERENCE:
            raise FrazilError(
                f"expected {_LEAST_FRACTION:.0%} of the picks on the CPU and here to be the same within "
                f"{_SAME_WITHIN_PX:g} px, and their scores within {_LARGEST_DIFFERENCE:g}; found that {self}"
            )


def compare_picks(picks: Picks, cpu_picks: Picks) -> PickComparison:
    """Compare the picks of a device with those of the CPU."""
    partner = match_picks(picks, cpu_picks, _SAME_WITHIN_PX)
    ours, theirs = picks.select(partner >= 0), cpu_picks.select(partner[partner >= 0])
    return PickComparison(
        picks=len(picks),
        cpu_picks=len(cpu_picks),
        matched=len(ours),
        largest_distance_px=float(np.hypot(ours.y - theirs.y, ours.x - theirs.x).max(initial=0.0)),
        largest_difference=float(np.abs(ours.score - theirs.score).max(initial=0.0)),
    )


T = TypeVar("T")

STAGES = ("read", "prepare", "infer", "peaks")
_FLOOR = ("bytes", "session")
_READ_AHEAD = 2
"""Number of micrographs that are read ahead, as in the daemon."""


@dataclass(kw_only=True)
class Bench:
    """Picks one micrograph repeatedly. Each round measures picking and the floor.

    The floor is the time that no picker with this model can avoid: reading the file's bytes, and running the bare model
    on ready tiles, which are on the device if pictures are prepared there. The file is in the system's cache after the
    first round.

    Args:
        model: a model's folder, a version's folder, or an .onnx file.
        threads: CPU threads of the model; None for every core.

    Raises:
        FrazilError: the model cannot serve, or the micrograph cannot be picked.
    """

    micrograph: Path
    model: Path
    settings: PickingSettings
    device: Device = "auto"
    threads: int | None = None
    precision: Precision = "float32"
    preparation: Preparation = "auto"
    seconds: dict[str, list[float]] = field(default_factory=dict, init=False)
    """Times of each stage, of the two parts of the floor, and of ``whole`` and ``floor``: one value for each round."""

    def __post_init__(self) -> None:
        threads = self.threads or available_cores()
        cv2.setNumThreads(threads)
        loaded = load_model(self.model, self.device, threads, precision=self.precision)
        loaded.warm_up()
        self._device = PreparationOnDevice(loaded, self.preparation)
        self._picker = Picker(loaded, self.settings, device=self._device)
        self.name, self.provider, self.computes_in = loaded.identity.short, loaded.provider, loaded.precision
        self._picks: Picks | None = None
        self._memory = PixelMemory()

    @property
    def prepared(self) -> str:
        """The device on which pictures are prepared, in a few words."""
        return self._device.describe()

    def rounds(self, count: int) -> Iterator[int]:
        """Measure; yield the number of each round when it is done."""
        picker, model = self._picker, self._picker.model
        picture = picker.prepare(self._read())
        tiling = picker.plan(picture)
        ready = []
        if tiling is not None:
            largest = model.largest_batch(tiling.tile_shape)
            ready = [np.array(tiles) for tiles in tiling.batches(picture.pixels, largest)]
        bare: list[Callable[[], object]] = [partial(model.score, tiles) for tiles in ready]
        if (accelerator := self._device.accelerator) is not None:
            bare = [accelerator.bare(tiles) for tiles in ready]
        for number in range(1, count + 1):
            self._time("bytes", self.micrograph.read_bytes)
            self._time("session", lambda: [score() for score in bare])
            micrograph = self._time("read", self._read)
            picture = self._time("prepare", lambda: picker.prepare(micrograph))  # noqa: B023 - called at once
            score_map = self._time("infer", lambda: picker.score(picture))  # noqa: B023
            self._picks = self._time("peaks", lambda: picker.find(score_map, picture))  # noqa: B023
            for whole, parts in (("whole", STAGES), ("floor", _FLOOR)):
                self.seconds.setdefault(whole, []).append(sum(self.seconds[part][-1] for part in parts))
            yield number

    def median(self, what: str) -> float:
        """Median time of a stage, or of the ``whole`` or the ``floor``, in seconds."""
        return statistics.median(self.seconds[what])

    @property
    def times_the_floor(self) -> float:
        """Median, over the rounds, of the whole time divided by the floor."""
        return statistics.median(
            whole / floor for whole, floor in zip(self.seconds["whole"], self.seconds["floor"], strict=True)
        )

    @property
    def share_of_the_floor(self) -> float:
        """Fraction of the time that no picker with this model can avoid: 1 at the floor."""
        return 1 / self.times_the_floor

    def measure_throughput(self, count: int) -> float:
        """Micrographs per second while the next ones are read, as in the daemon with a backlog."""
        started = time.perf_counter()
        with ThreadPoolExecutor(1) as reader:
            read = deque(reader.submit(self._read) for _ in range(min(_READ_AHEAD, count)))
            for done in range(count):
                micrograph = read.popleft().result()
                if done + _READ_AHEAD < count:
                    read.append(reader.submit(self._read))
                self._picker.pick(micrograph)
        return count / (time.perf_counter() - started)

    def compare_with_cpu(self) -> PickComparison | None:
        """Compare the picks of the last round with those of the CPU alone; None if the CPU made them.

        Raises:
            FrazilError: the micrograph cannot be picked on the CPU.
        """
        model = self._picker.model
        all_on_cpu = model.placement.on_cpu == sum(model.placement.nodes.values())
        if self._picks is None or (self._device.accelerator is None and all_on_cpu):
            return None
        on_cpu = Picker(load_model(self.model, "cpu", self.threads), self.settings)
        return compare_picks(self._picks, on_cpu.pick(read_micrograph(self.micrograph)))

    def _read(self) -> Micrograph:
        """Read the micrograph as the daemon does: into memory used before, and rescaled meanwhile."""
        return read_micrograph(self.micrograph, as_stored=True, memory=self._memory, rescaling=self._picker.rescaling)

    def _time(self, name: str, step: Callable[[], T]) -> T:
        started = time.perf_counter()
        result = step()
        self.seconds.setdefault(name, []).append(time.perf_counter() - started)
        return result
