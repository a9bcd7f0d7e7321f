"""The accelerator: prepares, tiles and scores on the device that runs the model; only scores are copied back."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from frazil.model.contract import ModelContract
from frazil.model.runtime import device_of, open_graph, ort
from frazil.model.tiling import Tiling
from frazil.picking.device.graphs import (
    PERCENTS,
    blur_matrix,
    mirror,
    percentile_ranks,
    preparation_graph,
    resampling_matrices,
    tiles_graph,
)
from frazil.picking.picture import BACKGROUND_DIAMETERS, SAMPLE_STRIDE
from frazil.picking.rescale import Rescaling

__all__ = ["Accelerator", "PictureOnDevice"]

_SHAPES_KEPT = 2
"""Micrographs of one session have one shape, or two. What is kept for one of 4096 x 4096 takes some 100 MiB."""


@dataclass(frozen=True, slots=True, eq=False)
class PictureOnDevice:
    """A picture that lies on the device."""

    value: ort.OrtValue
    """(h', w') float32."""
    shape: tuple[int, int]

    def to_host(self) -> NDArray[np.float32]:
        """(h', w') a copy of it in memory."""
        return np.array(self.value.numpy(), np.float32)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Shape:
    """What is kept on the device for micrographs of one shape and type."""

    micrograph: ort.OrtValue
    matrices: dict[str, ort.OrtValue]
    arrays: dict[str, NDArray[np.generic]]
    """Small inputs that ONNX Runtime takes from memory."""


class Accelerator:
    """Does on the device of a model's session what `make_picture` and `Tiling.batches` do on the CPU.

    Each micrograph goes to the device once, as it lies in memory: float32, or any type of pixel that an MRC file
    has. Buffers have fixed shapes: what batches, the tiles of one and all scores of a picture need is allocated when
    the shape of micrographs changes. It may be used from several threads, which wait for each other.

    Args:
        session: of the model; its tiles are given to it, and its scores taken, by I/O binding.
        contract: of the model.
        threads: of ONNX Runtime, if the device is the CPU.
    """

    def __init__(self, session: ort.InferenceSession, contract: ModelContract, threads: int) -> None:
        self.device = device_of(session)
        self._session = session
        self._contract = contract
        self._threads = threads
        self._preparations: dict[str, ort.InferenceSession] = {}
        self._tiler = open_graph(tiles_graph(), self.device, threads)
        self._shapes: OrderedDict[tuple[object, ...], _Shape] = OrderedDict()
        self._buffers: dict[str, ort.OrtValue] = {}
        self._lock = threading.Lock()

    def prepare(self, pixels: NDArray[np.generic], rescaling: Rescaling, *, invert: bool) -> PictureOnDevice:
        """(h, w) micrograph → (h', w') picture, rescaled and normalised, on the device."""
        with self._lock:
            session = self._preparation(pixels.dtype)
            kept = self._keep(rescaling, pixels.dtype)
            kept.micrograph.update_inplace(np.ascontiguousarray(pixels, pixels.dtype.newbyteorder("=")))
            binding = session.io_binding()
            binding.bind_ortvalue_input("micrograph", kept.micrograph)
            for name, matrix in kept.matrices.items():
                binding.bind_ortvalue_input(name, matrix)
            for name, array in kept.arrays.items():
                binding.bind_cpu_input(name, array)
            binding.bind_cpu_input("sign", np.array([-1 if invert else 1], np.float32))
            binding.bind_output("picture", self.device)
            _run(session, binding)
            return PictureOnDevice(binding.get_outputs()[0], rescaling.rescaled_shape)

    def score(self, picture: PictureOnDevice, tiling: Tiling, largest: int) -> NDArray[np.float32]:
        """Run the model over a picture; every batch is full, the last one with tiles whose scores are dropped.

        Returns:
            (count, gy, gx) scores in the order of `Tiling.batches`.
        """
        size, count, grids = tiling.batch_size(largest), tiling.count, (tiling.y.grid, tiling.x.grid)
        batches = -(-count // size)
        h, w = picture.shape
        rows = mirror(tiling.y.origins, tiling.y.tile_px, h) * w
        columns = mirror(tiling.x.origins, tiling.x.tile_px, w)
        with self._lock:
            tiles = self._buffer("tiles", (size, 1, *tiling.tile_shape))
            scores = self._buffer("scores", (batches * size, *grids))
            gathers, scoring = self._tiler.io_binding(), self._session.io_binding()
            gathers.bind_ortvalue_input("picture", picture.value)
            gathers.bind_ortvalue_output("tiles", tiles)
            scoring.bind_ortvalue_input("tiles", tiles)
            for batch in range(batches):
                chosen = np.minimum(np.arange(batch * size, (batch + 1) * size), count - 1)
                of_y, of_x = np.divmod(chosen, tiling.x.origins.size)
                gathers.bind_cpu_input("rows", rows[of_y][:, np.newaxis, :, np.newaxis])
                gathers.bind_cpu_input("columns", columns[of_x][:, np.newaxis, np.newaxis, :])
                _run(self._tiler, gathers)
                place = scores.data_ptr() + batch * size * grids[0] * grids[1] * np.dtype(np.float32).itemsize
                scoring.bind_output("scores", self.device, 0, np.float32, (size, *grids), place)
                _run(self._session, scoring)
            return np.array(scores.numpy()[:count], np.float32)

    def bare(self, tiles: NDArray[np.float32]) -> Callable[[], None]:
        """What scores (n, 1, h, w) tiles that lie on the device, and leaves the scores there: the model and no more."""
        binding = self._session.io_binding()
        binding.bind_ortvalue_input("tiles", ort.OrtValue.ortvalue_from_numpy(np.ascontiguousarray(tiles), self.device))
        binding.bind_output("scores", self.device)
        return lambda: _run(self._session, binding)

    def _preparation(self, dtype: np.dtype[np.generic]) -> ort.InferenceSession:
        if dtype.name not in self._preparations:
            self._preparations[dtype.name] = open_graph(preparation_graph(dtype), self.device, self._threads)
        return self._preparations[dtype.name]

    def _buffer(self, name: str, shape: tuple[int, ...]) -> ort.OrtValue:
        kept = self._buffers.get(name)
        if kept is None or tuple(kept.shape()) != shape:
            self._buffers.pop(name, None)  # freed before its successor is allocated
            self._buffers[name] = ort.OrtValue.ortvalue_from_shape_and_type(shape, np.float32, self.device)
        return self._buffers[name]

    def _keep(self, rescaling: Rescaling, dtype: np.dtype[np.generic]) -> _Shape:
        key = (rescaling, dtype.name)
        if key not in self._shapes:
            while len(self._shapes) >= _SHAPES_KEPT:
                self._shapes.popitem(last=False)
            self._shapes[key] = self._make(rescaling, dtype)
        self._shapes.move_to_end(key)
        return self._shapes[key]

    def _make(self, rescaling: Rescaling, dtype: np.dtype[np.generic]) -> _Shape:
        h, w = rescaling.rescaled_shape
        side = 2 * round(BACKGROUND_DIAMETERS * self._contract.diameter_px / 2) + 1
        along_y, along_x = resampling_matrices(rescaling)
        matrices = {
            "resample_y": along_y,
            "resample_x": along_x,
            "blur_y": blur_matrix(h, side),
            "blur_x": blur_matrix(w, side).T,
        }
        sample = -(-h // SAMPLE_STRIDE) * -(-w // SAMPLE_STRIDE)
        below, above, share = percentile_ranks(sample, PERCENTS)
        return _Shape(
            micrograph=ort.OrtValue.ortvalue_from_shape_and_type(
                rescaling.shape, dtype.newbyteorder("=").type, self.device
            ),
            matrices={
                name: ort.OrtValue.ortvalue_from_numpy(np.ascontiguousarray(matrix), self.device)
                for name, matrix in matrices.items()
            },
            arrays={"count": np.array([sample], np.int64), "below": below, "above": above, "share": share},
        )


def _run(session: ort.InferenceSession, binding: ort.IOBinding) -> None:
    # Each session has a stream of its own, so one must have ended before another reads what it wrote.
    binding.synchronize_inputs()
    session.run_with_iobinding(binding)
    binding.synchronize_outputs()
