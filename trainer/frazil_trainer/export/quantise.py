"""Quantisation: a float32 network becomes one that computes in integers, with ranges from real tiles.

The result holds only operators of ONNX itself (QuantizeLinear and DequantizeLinear around those of the network), which
ONNX Runtime fuses into its int8 kernels at load time.
"""

from __future__ import annotations

import contextlib
import copy
import io
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import onnx
from numpy.typing import NDArray

from frazil.errors import ModelError
from frazil.model import runtime as _without_telemetry  # noqa: F401 - before anything loads ONNX Runtime

# isort: split
from onnxruntime.quantization import (  # noqa: TID251 - the part of it that frazil.picking does not use
    CalibrationDataReader,
    CalibrationMethod,
    QuantFormat,
    QuantType,
    quantize_static,
)

__all__ = ["CALIBRATIONS", "Calibration", "count_weighted", "quantise", "quantised_nodes"]

_WEIGHTED = ("Conv", "Gemm", "MatMul")
_INTEGER_CAPABLE = ("Add", "Relu", "MaxPool")
"""Operators that can work on the integers from a layer with weights."""
_FEWEST_INPUTS = 16
"""A layer that sums over fewer features loses by int8: the conversion of its input costs more than it saves."""
_AT_A_TIME = 8
"""Number of batches whose features are in memory together."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Calibration:
    """A method to choose the range of the 256 steps."""

    name: str
    method: CalibrationMethod
    options: Mapping[str, float]


CALIBRATIONS = (
    Calibration(name="min-max", method=CalibrationMethod.MinMax, options={}),
    Calibration(name="entropy", method=CalibrationMethod.Entropy, options={}),
    Calibration(name="percentile 99.999", method=CalibrationMethod.Percentile, options={"CalibPercentile": 99.999}),
    Calibration(name="percentile 99.99", method=CalibrationMethod.Percentile, options={"CalibPercentile": 99.99}),
)


def count_weighted(model: onnx.ModelProto) -> int:
    """Number of layers with weights that can be quantised."""
    return len(_candidates(model))


def quantised_nodes(model: onnx.ModelProto, excluded: int = 0) -> list[str]:
    """Names of the nodes to quantise, in a model in float32.

    The last layer with weights stays in float32, since scores would have only 256 values otherwise, and so does every
    layer that sums over too few features, and so do `excluded` further layers at either end.
    """
    candidates = _candidates(model)
    chosen = set(candidates[excluded : len(candidates) - excluded])
    made: set[str] = set()
    for node in model.graph.node:
        if node.name in chosen or (node.op_type in _INTEGER_CAPABLE and made.intersection(node.input)):
            chosen.add(node.name)
            made.update(node.output)
    return [node.name for node in model.graph.node if node.name in chosen]


def quantise(
    model: onnx.ModelProto, nodes: Sequence[str], calibration: Calibration, batches: Sequence[NDArray[np.float32]]
) -> onnx.ModelProto:
    """Quantise nodes of a network: weights to int8, each channel by itself, and features to uint8.

    The batches are (n, 1, t, t) tiles for the ranges. The model, in float32 and with its contract, stays unchanged.

    Raises:
        ModelError: the result has operators that are not ONNX's own.
    """
    prepared = copy.deepcopy(model)
    # Without this mark the quantiser warns that the model was not preprocessed.
    prepared.metadata_props.add(key="onnx.quant.pre_process", value="onnxruntime.quant")
    kinds = {node.op_type for node in model.graph.node if node.name in set(nodes)}
    with TemporaryDirectory(prefix="frazil-") as folder, contextlib.redirect_stdout(io.StringIO()):
        file = Path(folder) / "int8.onnx"
        quantize_static(
            prepared,
            str(file),
            _Batches(batches),
            quant_format=QuantFormat.QDQ,
            op_types_to_quantize=sorted(kinds),
            nodes_to_quantize=list(nodes),
            per_channel=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            calibrate_method=calibration.method,
            extra_options={"CalibMaxIntermediateOutputs": _AT_A_TIME, **calibration.options},
        )
        quantised = onnx.load_model(file)
    del quantised.metadata_props[:]
    quantised.metadata_props.extend(model.metadata_props)
    foreign = {node.domain for node in quantised.graph.node} - {"", "ai.onnx"}
    if foreign:
        raise ModelError(f"expected operators of ONNX alone after quantisation, found some of {', '.join(foreign)}")
    onnx.checker.check_model(quantised, full_check=True)
    return quantised


class _Batches(CalibrationDataReader):  # type: ignore[misc]  # its base has no types
    """Batches of tiles, one by one, in the form that the quantiser needs."""

    def __init__(self, batches: Sequence[NDArray[np.float32]]) -> None:
        self._left: Iterator[NDArray[np.float32]] = iter(batches)

    def get_next(self) -> dict[str, NDArray[np.float32]] | None:
        """The inputs of one run; None after the last."""
        tiles = next(self._left, None)
        return None if tiles is None else {"tiles": tiles}


def _candidates(model: onnx.ModelProto) -> list[str]:
    """Names of the layers with weights that may be quantised, in order."""
    shapes = {tensor.name: list(tensor.dims) for tensor in model.graph.initializer}
    weighted = [node for node in model.graph.node if node.op_type in _WEIGHTED and node.input[1] in shapes]
    return [node.name for node in weighted[:-1] if _summed(node, shapes[node.input[1]]) >= _FEWEST_INPUTS]


def _summed(node: onnx.NodeProto, weight: list[int]) -> int:
    """Number of features that a layer sums over."""
    if node.op_type == "Conv":
        return math.prod(weight[1:])
    transposed = any(attribute.name == "transB" and attribute.i for attribute in node.attribute)
    return weight[1] if transposed else weight[0]
