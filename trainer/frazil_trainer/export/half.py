"""Half precision: a copy of a model that computes in float16 and must give the same scores."""

from __future__ import annotations

import hashlib
from pathlib import Path

import msgspec
import numpy as np
import onnx
from onnx import TensorProto, numpy_helper

from frazil.errors import ModelError
from frazil.model import CARD_NAME, MODEL_NAME, ModelFolder, load_model, locate_model, read_card, write_card

__all__ = ["HALF_TOLERANCE", "export_half"]

HALF_TOLERANCE = 0.01
"""Largest difference of a score from that of the full model."""
_TILES, _SCORES = "tiles", "scores"


def export_half(path: Path, folder: Path) -> Path:
    """Write a model in half precision as the next version in a folder, which does not serve by that.

    Its input and output are float32, as in the contract. Its card is that of the full model with a wider tolerance, so
    that every load compares it with the full model's scores.

    Raises:
        ModelError: the model has no card, cannot be computed in float16, or gives other scores.
        OutputError: the folder cannot be written.
    """
    file = locate_model(path)[0]
    full = load_model(path, "cpu")
    card = read_card(file.parent / CARD_NAME)
    identity = full.identity
    half_of = {"name": identity.name, "version": identity.version, "sha256": identity.sha256}
    content = _to_half(file).SerializeToString()
    with ModelFolder(folder).stage() as staged:
        (staged / MODEL_NAME).write_bytes(content)
        write_card(
            staged / CARD_NAME,
            msgspec.structs.replace(
                card,
                sha256=hashlib.sha256(content).hexdigest(),
                reference=msgspec.structs.replace(card.reference, tolerance=HALF_TOLERANCE),
                int8=None,  # the twin is of the full model
                run={**card.run, "half_of": half_of},
            ),
        )
        load_model(staged / MODEL_NAME, "cpu")  # compares the scores
        return ModelFolder(folder).add(staged)


def _to_half(file: Path) -> onnx.ModelProto:
    """The model in float16, except for input, output, and the last step from logits to scores."""
    model = onnx.load_model(file)
    graph = model.graph
    last = graph.node[-1]
    if last.op_type != "Sigmoid" or list(last.output) != [_SCORES]:
        raise ModelError(f"{file}: expected {_SCORES} from a Sigmoid at the end, found {last.op_type}")
    for tensor in graph.initializer:
        if tensor.data_type == TensorProto.FLOAT:
            _halve(file, tensor)
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.type == onnx.AttributeProto.TENSOR and attribute.t.data_type == TensorProto.FLOAT:
                _halve(file, attribute.t)
            if node.op_type == "Cast" and attribute.name == "to" and attribute.i == TensorProto.FLOAT:
                attribute.i = TensorProto.FLOAT16
        for place, name in enumerate(node.input):
            if name == _TILES:
                node.input[place] = "half_tiles"
    to_half = onnx.helper.make_node("Cast", [_TILES], ["half_tiles"], to=TensorProto.FLOAT16)
    to_full = onnx.helper.make_node("Cast", [last.input[0]], ["full_logits"], to=TensorProto.FLOAT)
    last.input[0] = "full_logits"
    nodes = [to_half, *graph.node[:-1], to_full, last]
    del graph.node[:]
    graph.node.extend(nodes)
    del graph.value_info[:]  # the intermediate types have changed
    try:
        onnx.checker.check_model(model, full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        reason = str(error).strip().splitlines()[0]
        raise ModelError(f"{file}: expected operators that compute in float16, found otherwise: {reason}") from error
    return model


def _halve(file: Path, tensor: onnx.TensorProto) -> None:
    values = numpy_helper.to_array(tensor)
    half = values.astype(np.float16)
    if not np.isfinite(half).all():
        raise ModelError(f"{file}: expected weights that float16 can hold, found {np.abs(values).max():g}")
    tensor.CopyFrom(numpy_helper.from_array(half, tensor.name))
