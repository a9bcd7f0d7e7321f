"""The graphs that a device runs, and the arrays that they multiply with or gather by.

From a micrograph to the picture, and from the picture to a batch of tiles: the graphs do with ONNX's operators what
`rescale`, `normalise` and `Tiling.batches` do with OpenCV and NumPy. The arrays are built once for a shape, on the CPU.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import DTypeLike, NDArray

from frazil.picking.device.onnx_graph import OnnxGraph
from frazil.picking.picture import QUARTILES_PER_SIGMA, RANGE_SIGMAS, SAMPLE_STRIDE
from frazil.picking.rescale import Rescaling, rescale

__all__ = [
    "NORMALISATIONS_ON_DEVICE",
    "PERCENTS",
    "Ranks",
    "blur_matrix",
    "mirror",
    "percentile_ranks",
    "preparation_graph",
    "resampling_matrices",
    "tiles_graph",
]

NORMALISATIONS_ON_DEVICE = frozenset({"flat-01"})
"""The normalisations that `preparation_graph` implements."""
PERCENTS = (0.05, 25.0, 50.0, 75.0, 99.95)
"""Percentiles whose ranks are inputs of the graph."""
_LOWEST, _LOWER, _MIDDLE, _UPPER, _HIGHEST = range(len(PERCENTS))
_COLUMNS = 512
"""Columns of a unit matrix rescaled at once: all of it would take as much memory as the micrograph."""

Ranks = tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float32]]
"""For percentiles in a sorted sample: (k,) the rank below, the rank above, and the weight of the one above."""


def preparation_graph(dtype: DTypeLike) -> bytes:
    """Rescale a micrograph of a type and normalise it by ``flat-01``.

    Its inputs are ``micrograph`` (h, w), the matrices ``resample_y`` (h', h), ``resample_x`` (w, w'), ``blur_y``
    (h', h') and ``blur_x`` (w', w'), the ``sign`` (1,), the ``count`` (1,) of pixels in a sample and the ranks
    ``below``, ``above`` and ``share`` (5,) of its percentiles; its output is the ``picture`` (h', w').
    """
    graph = OnnxGraph("frazil preparation")
    pixels = graph.input("micrograph", dtype, ("h", "w"))
    if np.dtype(dtype) != np.float32:
        pixels = graph.node("Cast", pixels, to=1)
    resample_y, resample_x = (
        graph.input("resample_y", "float32", ("ph", "h")),
        graph.input("resample_x", "float32", ("w", "pw")),
    )
    blur_y, blur_x = graph.input("blur_y", "float32", ("ph", "ph")), graph.input("blur_x", "float32", ("pw", "pw"))
    sign, count = graph.input("sign", "float32", (1,)), graph.input("count", "int64", (1,))
    ranks = [graph.input(name, "int64", (len(PERCENTS),)) for name in ("below", "above")]
    share = graph.input("share", "float32", (len(PERCENTS),))
    stride = [graph.constant(np.array(v, np.int64)) for v in ([0, 0], [2**62] * 2, [0, 1], [SAMPLE_STRIDE] * 2)]
    line = graph.constant(np.array([-1], np.int64))

    def scalar(value: float) -> str:
        return graph.constant(np.array(value, np.float32))

    def percentiles(picture: str, wanted: Sequence[int]) -> list[str]:
        sample = graph.node("Reshape", graph.node("Slice", picture, *stride), line)
        in_order = graph.node("TopK", sample, count, outputs=2, largest=0, sorted=1, axis=0)
        below, above = (graph.node("Gather", in_order, rank, axis=0) for rank in ranks)
        found = graph.node("Add", below, graph.node("Mul", graph.node("Sub", above, below), share))
        return [graph.node("Gather", found, graph.constant(np.array(i, np.int64)), axis=0) for i in wanted]

    rescaled = graph.node("MatMul", graph.node("MatMul", resample_y, pixels), resample_x)
    turned = graph.node("Mul", rescaled, sign)
    lowest, middle, highest = percentiles(turned, (_LOWEST, _MIDDLE, _HIGHEST))
    clipped = graph.node("Sub", graph.node("Min", graph.node("Max", turned, lowest), highest), middle)
    background = graph.node("MatMul", graph.node("MatMul", blur_y, clipped), blur_x)
    flat = graph.node("Sub", clipped, background)
    lower, upper = percentiles(flat, (_LOWER, _UPPER))
    spread = graph.node("Div", graph.node("Sub", upper, lower), scalar(QUARTILES_PER_SIGMA))
    spread = graph.node("Max", spread, scalar(float(np.finfo(np.float32).tiny)))
    scaled = graph.node("Mul", flat, graph.node("Div", scalar(1 / (2 * RANGE_SIGMAS)), spread))
    raised = graph.node("Add", scaled, scalar(0.5))
    within = graph.node("Min", graph.node("Max", raised, scalar(0.0)), scalar(1.0), name="picture")
    graph.output(within, "float32", ("ph", "pw"))
    return graph.encode()


def tiles_graph() -> bytes:
    """Gather a batch of tiles from the picture.

    Its inputs are the ``picture`` (h', w'), and for each tile which ``rows`` (n, 1, ty, 1), each multiplied by w', and
    ``columns`` (n, 1, 1, tx) it shows; its output is ``tiles`` (n, 1, ty, tx).
    """
    graph = OnnxGraph("frazil tiles")
    picture = graph.input("picture", "float32", ("ph", "pw"))
    rows = graph.input("rows", "int64", ("n", 1, "ty", 1))
    columns = graph.input("columns", "int64", ("n", 1, 1, "tx"))
    line = graph.node("Reshape", picture, graph.constant(np.array([-1], np.int64)))
    tiles = graph.node("Gather", line, graph.node("Add", rows, columns), name="tiles", axis=0)
    graph.output(tiles, "float32", ("n", 1, "ty", "tx"))
    return graph.encode()


def resampling_matrices(rescaling: Rescaling) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """(h', h) and (w, w') matrices: multiplied with a micrograph from the left and from the right they rescale it.

    They are what `rescale` makes of a unit matrix, one axis at a time, so they cannot differ from it.
    """
    (h, w), (rescaled_h, rescaled_w) = rescaling.shape, rescaling.rescaled_shape
    return _rescale_unit(h, rescaled_h), np.ascontiguousarray(_rescale_unit(w, rescaled_w).T)


def _rescale_unit(size: int, rescaled: int) -> NDArray[np.float32]:
    """(rescaled, size) the unit matrix, with its columns rescaled."""
    result = np.empty((rescaled, size), np.float32)
    for start in range(0, size, _COLUMNS):
        count = min(_COLUMNS, size - start)
        unit = np.eye(size, count, -start, dtype=np.float32)
        part = Rescaling(shape=unit.shape, rescaled_shape=(rescaled, count))
        result[:, start : start + count] = rescale(unit, part)
    return result


def blur_matrix(size: int, side: int) -> NDArray[np.float32]:
    """(size, size) matrix that takes means over `side` pixels, mirrored at the ends about the last pixel's centre."""
    offsets = np.arange(side) - side // 2
    period = max(1, 2 * (size - 1))
    places = np.abs((np.arange(size)[:, np.newaxis] + offsets) % period)
    places = np.minimum(places, period - places) if size > 1 else np.zeros_like(places)
    counts = np.zeros((size, size), np.float32)
    np.add.at(counts, (np.arange(size)[:, np.newaxis], places), 1)
    return counts / np.float32(side)


def mirror(origins: NDArray[np.intp], tile_px: int, size: int) -> NDArray[np.int64]:
    """(k,) first pixels of tiles → (k, t) their pixels in a line of `size`, mirrored at its edges."""
    places = (origins[:, np.newaxis] + np.arange(tile_px)) % (2 * size)
    mirrored: NDArray[np.int64] = np.minimum(places, 2 * size - 1 - places).astype(np.int64)
    return mirrored


def percentile_ranks(count: int, percents: Sequence[float]) -> Ranks:
    """Ranks of the percentiles of `count` sorted values, as in `numpy.percentile`."""
    places = np.asarray(percents, np.float64) / 100 * (count - 1)
    below = np.floor(places).astype(np.int64)
    above = np.minimum(below + 1, count - 1)
    return below, above, (places - below).astype(np.float32)
