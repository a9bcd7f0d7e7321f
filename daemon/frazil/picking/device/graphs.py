"""The graphs that a device runs: from a micrograph to the picture, and from the picture to a batch of tiles.

They do with ONNX's operators what `rescale`, `normalise` and `Tiling.batches` do with OpenCV and NumPy.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import DTypeLike

from frazil.picking.device.onnx_graph import OnnxGraph
from frazil.picking.picture import QUARTILES_PER_SIGMA, RANGE_SIGMAS, SAMPLE_STRIDE

__all__ = [
    "NORMALISATIONS_ON_DEVICE",
    "PERCENTS",
    "preparation_graph",
    "tiles_graph",
]

NORMALISATIONS_ON_DEVICE = frozenset({"flat-01"})
"""The normalisations that `preparation_graph` implements."""
PERCENTS = (0.05, 25.0, 50.0, 75.0, 99.95)
"""Percentiles whose ranks are inputs of the graph."""
_LOWEST, _LOWER, _MIDDLE, _UPPER, _HIGHEST = range(len(PERCENTS))


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
