"""The bench: what every section is given to measure with."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import cv2

from benchmarks.micrographs import write_micrograph
from frazil.model import Model, load_model
from frazil.picking import Picker, PickingSettings, PixelMemory, read_micrograph, write_star
from frazil.settings import default_model_path

__all__ = ["DIAMETER_ANGSTROM", "MODELS", "PIXEL_SIZE_ANGSTROM", "SCALES", "Bench", "Scale"]

MODELS = ("mlp", "cnn", "fcn")
PIXEL_SIZE_ANGSTROM = 1.77
DIAMETER_ANGSTROM = 191.0
"""Beta-galactosidase, as in the paper: a window of 180 px every 36 px at this pixel size."""


@dataclass(frozen=True, kw_only=True)
class Scale:
    """How much is measured; by default, all of it."""

    sizes_px: tuple[int, ...] = (2048, 4096, 8192)
    """Sides of square micrographs, growing."""
    size_px: int = 4096
    """Side of a micrograph where there is only one."""
    rounds: int = 15
    """At most; fewer where a round takes long."""
    budget_seconds: float = 30
    """What a group of cases measured in turns may take."""
    portions: int = 8
    """Into which a backlog is divided, the floor measured between them."""
    portion: int = 12
    """Micrographs in one, at most."""
    streamed: int = 100
    """Micrographs that come one a second."""
    starts: int = 15
    """Processes started to see how soon they are ready."""
    queues: tuple[int, int] = (200, 800)
    """A short and a long queue of small micrographs."""
    small_px: int = 1024
    """Side of a small micrograph."""
    peer_rounds: int = 5
    slow_peer_rounds: int = 2
    """Of a picker that takes half a minute."""


SCALES = {
    "full": Scale(),
    "quick": Scale(
        sizes_px=(2048, 4096),
        rounds=2,
        budget_seconds=3,
        portions=2,
        portion=6,
        streamed=10,
        starts=3,
        queues=(10, 40),
        peer_rounds=2,
        slow_peer_rounds=1,
    ),
    # For the test that the suite runs at all.
    "smoke": Scale(
        sizes_px=(512, 768),
        size_px=768,
        rounds=1,
        budget_seconds=0,
        portions=1,
        portion=4,
        streamed=2,
        starts=1,
        queues=(4, 8),
        small_px=512,
        peer_rounds=1,
        slow_peer_rounds=0,
    ),
}


@dataclass(frozen=True, kw_only=True)
class Bench:
    """Micrographs and pickers, made once; and somebody to tell how it goes."""

    folder: Path
    """On a disk, for whatever is written."""
    scale: Scale
    threads: int
    say: Callable[[str], None]
    models: Path = field(default_factory=lambda: default_model_path().parent)
    """The model repository."""
    _loaded: dict[str, Model] = field(default_factory=dict, init=False)
    _memories: defaultdict[Path, PixelMemory] = field(default_factory=lambda: defaultdict(PixelMemory), init=False)

    def __post_init__(self) -> None:
        cv2.setNumThreads(self.threads)

    def micrograph(self, shape: tuple[int, int], kind: str = "float32", seed: int = 0) -> Path:
        """A micrograph of (h, w) pixels of some kind; see `write_micrograph`."""
        ending = "mrc.gz" if kind.endswith(".gz") else "mrc"
        path = self.folder / f"{kind.removesuffix('.gz')}-{shape[1]}x{shape[0]}-{seed}.{ending}"
        if not path.exists():
            write_micrograph(
                path,
                shape,
                kind,
                pixel_size_angstrom=PIXEL_SIZE_ANGSTROM,
                diameter_px=DIAMETER_ANGSTROM / PIXEL_SIZE_ANGSTROM,
                seed=seed,
            )
        return path

    def square(self, kind: str = "float32", seed: int = 0) -> Path:
        """A micrograph of the size that is usual here."""
        return self.micrograph((self.scale.size_px, self.scale.size_px), kind, seed)

    def picker(self, model: str, diameter_angstrom: float = DIAMETER_ANGSTROM) -> Picker:
        """A model of the repository, warm."""
        if model not in self._loaded:
            self._loaded[model] = load_model(self.models / model, "cpu", self.threads)
            self._loaded[model].warm_up()
        return Picker(self._loaded[model], PickingSettings(diameter_angstrom=diameter_angstrom))

    def pick(self, picker: Picker, micrograph: Path) -> None:
        """The whole way of one micrograph, from its file to its STAR file: as ``frazil pick`` does with many."""
        memory = self._memories[micrograph]
        read = read_micrograph(micrograph, as_stored=True, memory=memory, rescaling=picker.rescaling)
        write_star(self.folder / "whole.star", picker.pick(read))
