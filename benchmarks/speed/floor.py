"""The floor: what no picker with a model can avoid, reading the file's bytes and the bare network on ready tiles."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from benchmarks.speed.spread import Rounds
from frazil.model import locate_model
from frazil.model.runtime import ort
from frazil.picking import Picker, Picture, read_micrograph

__all__ = ["Floor", "bare_session", "batches_of"]

_TRIES = 3
_TRIED_BATCHES = 4


def bare_session(onnx: Path, threads: int, *, spins: bool = True) -> ort.InferenceSession:
    """ONNX Runtime as anybody would start it, but for the number of threads.

    Args:
        onnx: the network.
        threads: in the session's pool.
        spins: whether idle threads spin, as they do unless told otherwise.
    """
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.add_session_config_entry("session.intra_op.allow_spinning", f"{spins:d}")
    options.log_severity_level = 3
    return ort.InferenceSession(onnx, options, providers=["CPUExecutionProvider"])


def batches_of(picker: Picker, picture: Picture) -> Iterator[NDArray[np.float32]]:
    """(h', w') picture → (n, 1, h, w) batches of tiles, as the picker makes them."""
    tiling = picker.plan(picture)
    assert tiling is not None, "the micrograph is too small to be picked"
    return tiling.batches(picture.pixels, picker.model.largest_batch(tiling.tile_shape))


class Floor:
    """The floor of one micrograph and one picker.

    Args:
        picker: says which model, and makes the tiles.
        model: folder of its model.
        micrograph: the file.
        threads: of ONNX Runtime.
    """

    def __init__(self, picker: Picker, model: Path, micrograph: Path, threads: int) -> None:
        self._micrograph = micrograph
        self.ready = [
            np.array(tiles, order="C")
            for tiles in batches_of(picker, picker.prepare(read_micrograph(micrograph, as_stored=True)))
        ]
        self.tiles = sum(len(tiles) for tiles in self.ready)
        # Threads that spin are faster on a machine that does nothing else, and much slower on any other.
        sessions = [bare_session(locate_model(model)[0], threads, spins=spins) for spins in (True, False)]
        self._input = sessions[0].get_inputs()[0].name
        self._session = min(sessions, key=self._try)

    def read(self) -> None:
        """Read the file's bytes."""
        np.fromfile(self._micrograph, np.uint8)

    def infer(self) -> None:
        """Run the network on tiles that lie ready."""
        for tiles in self.ready:
            self._session.run(None, {self._input: tiles})

    def measure(self, rounds: Rounds, name: str = "floor") -> None:
        """Both, as one time."""
        rounds.time(name, self._both)

    def _try(self, session: ort.InferenceSession) -> float:
        """Least time of a few batches; the first run, which makes what is needed later, does not count."""
        rounds = Rounds()
        for _ in range(_TRIES):
            rounds.time(
                "try", lambda: [session.run(None, {self._input: tiles}) for tiles in self.ready[:_TRIED_BATCHES]]
            )
        return min(rounds.seconds["try"])

    def _both(self) -> None:
        self.read()
        self.infer()
