"""A graph of ONNX operators, written as an ONNX file without the onnx package.

The counterpart of `frazil.model.files`: protocol buffers, with the few messages of onnx.proto that graphs of
standard operators need. The tests have the onnx package check what is written here.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import DTypeLike, NDArray

__all__ = ["ELEMENT_TYPES", "OnnxGraph"]

ELEMENT_TYPES: dict[str, int] = {
    "float32": 1,
    "uint8": 2,
    "int8": 3,
    "uint16": 4,
    "int16": 5,
    "int64": 7,
    "float16": 10,
}
"""numpy's name of a type → ONNX's number of it."""

_IR_VERSION, _OPSET_VERSION = 8, 17
_INTEGER = 2
"""Kind of an integer attribute, the only one used."""

# Numbers of the fields that are written, by message.
_MODEL_IR_VERSION, _MODEL_PRODUCER, _MODEL_GRAPH, _MODEL_OPSET = 1, 2, 7, 8
_OPSET_DOMAIN, _OPSET_NUMBER = 1, 2
_GRAPH_NODE, _GRAPH_NAME, _GRAPH_TENSOR, _GRAPH_INPUT, _GRAPH_OUTPUT = 1, 2, 5, 11, 12
_NODE_INPUT, _NODE_OUTPUT, _NODE_NAME, _NODE_TYPE, _NODE_ATTRIBUTE = 1, 2, 3, 4, 5
_ATTRIBUTE_NAME, _ATTRIBUTE_INTEGER, _ATTRIBUTE_KIND = 1, 3, 20
_TENSOR_DIMENSION, _TENSOR_TYPE, _TENSOR_NAME, _TENSOR_BYTES = 1, 2, 8, 9
_VALUE_NAME, _VALUE_TYPE, _TYPE_TENSOR, _TYPE_ELEMENT, _TYPE_SHAPE = 1, 2, 1, 1, 2
_SHAPE_DIMENSION, _DIMENSION_SIZE, _DIMENSION_NAME = 1, 1, 2


class OnnxGraph:
    """Built from its inputs to its outputs; values are known by their names.

    >>> graph = OnnxGraph("double")
    >>> x = graph.input("x", "float32", ("n",))
    >>> graph.output(graph.node("Add", x, x, name="y"), "float32", ("n",))
    >>> len(graph.encode())
    105
    """

    def __init__(self, name: str) -> None:
        self._parts = [_text(_GRAPH_NAME, name)]
        self._values = 0

    def input(self, name: str, dtype: DTypeLike, shape: Sequence[int | str]) -> str:
        """Declare an input; sizes that are not known yet have names."""
        self._parts.append(_message(_GRAPH_INPUT, _value_info(name, dtype, shape)))
        return name

    def output(self, name: str, dtype: DTypeLike, shape: Sequence[int | str]) -> None:
        """Declare a value an output."""
        self._parts.append(_message(_GRAPH_OUTPUT, _value_info(name, dtype, shape)))

    def constant(self, value: NDArray[np.generic]) -> str:
        """Hold an array; its name."""
        name = self._new_name()
        tensor = b"".join(_integer(_TENSOR_DIMENSION, size) for size in value.shape)
        tensor += _integer(_TENSOR_TYPE, ELEMENT_TYPES[value.dtype.name]) + _text(_TENSOR_NAME, name)
        little_endian = value.astype(value.dtype.newbyteorder("<"), order="C")
        self._parts.append(_message(_GRAPH_TENSOR, tensor + _message(_TENSOR_BYTES, little_endian.tobytes())))
        return name

    def node(self, kind: str, *inputs: str, name: str | None = None, outputs: int = 1, **attributes: int) -> str:
        """Add an operator; the name of its first output."""
        first = name or self._new_name()
        node = b"".join(_text(_NODE_INPUT, value) for value in inputs)
        node += b"".join(_text(_NODE_OUTPUT, f"{first}_{i}" if i else first) for i in range(outputs))
        node += _text(_NODE_NAME, first) + _text(_NODE_TYPE, kind)
        for key, value in attributes.items():
            attribute = _text(_ATTRIBUTE_NAME, key) + _integer(_ATTRIBUTE_INTEGER, value)
            node += _message(_NODE_ATTRIBUTE, attribute + _integer(_ATTRIBUTE_KIND, _INTEGER))
        self._parts.append(_message(_GRAPH_NODE, node))
        return first

    def encode(self) -> bytes:
        """The ONNX file."""
        opset = _text(_OPSET_DOMAIN, "") + _integer(_OPSET_NUMBER, _OPSET_VERSION)
        model = _integer(_MODEL_IR_VERSION, _IR_VERSION) + _text(_MODEL_PRODUCER, "frazil")
        return model + _message(_MODEL_OPSET, opset) + _message(_MODEL_GRAPH, b"".join(self._parts))

    def _new_name(self) -> str:
        self._values += 1
        return f"v{self._values}"


def _value_info(name: str, dtype: DTypeLike, shape: Sequence[int | str]) -> bytes:
    dimensions = b"".join(
        _message(
            _SHAPE_DIMENSION,
            _integer(_DIMENSION_SIZE, size) if isinstance(size, int) else _text(_DIMENSION_NAME, size),
        )
        for size in shape
    )
    tensor = _integer(_TYPE_ELEMENT, ELEMENT_TYPES[np.dtype(dtype).name]) + _message(_TYPE_SHAPE, dimensions)
    return _text(_VALUE_NAME, name) + _message(_VALUE_TYPE, _message(_TYPE_TENSOR, tensor))


def _varint(value: int) -> bytes:
    written = bytearray()
    while value > 0x7F:
        written.append(value & 0x7F | 0x80)
        value >>= 7
    written.append(value)
    return bytes(written)


def _integer(field: int, value: int) -> bytes:
    # A negative one is written as 64 bits.
    return _varint(field << 3) + _varint(value & 0xFFFFFFFFFFFFFFFF)


def _message(field: int, content: bytes) -> bytes:
    return _varint(field << 3 | 2) + _varint(len(content)) + content


def _text(field: int, text: str) -> bytes:
    return _message(field, text.encode())
