"""What an ONNX file holds, read without running any of it.

An ONNX file is a protocol buffer (onnx.proto in the ONNX repository; the wire format is the one of
protobuf.dev/programming-guides/encoding). ONNX Runtime would run operators of its own domains without being asked, and
reads weights from any file that a relative path leads to, even for a model given as bytes. So both are found here,
before ONNX Runtime sees the file.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from frazil.errors import ModelError

__all__ = ["OnnxFile", "parse_onnx"]

_STANDARD_DOMAINS = frozenset({"", "ai.onnx"})
_DEEPEST = 32
_EXTERNAL = 1

# Numbers of the fields that are followed, by message.
_MODEL_GRAPH, _MODEL_METADATA, _MODEL_FUNCTION = 7, 14, 25
_ENTRY_KEY, _ENTRY_VALUE = 1, 2
_GRAPH_NODE, _GRAPH_TENSOR, _GRAPH_SPARSE_TENSOR = 1, 5, 15
_FUNCTION_NODE = 7
_NODE_TYPE, _NODE_ATTRIBUTE, _NODE_DOMAIN = 4, 5, 7
_ATTRIBUTE_TENSORS, _ATTRIBUTE_GRAPHS, _ATTRIBUTE_SPARSE_TENSORS = (5, 10), (6, 11), (22, 23)
_SPARSE_VALUES, _SPARSE_INDICES = 1, 2
_TENSOR_EXTERNAL_DATA, _TENSOR_LOCATION = 13, 14


@dataclass(frozen=True, slots=True, kw_only=True)
class OnnxFile:
    """What was found."""

    metadata: dict[str, str]
    """Its ``metadata_props``."""
    operators: frozenset[tuple[str, str]]
    """(domain, type) of every node, those in subgraphs and functions too."""
    has_external_data: bool
    """Whether weights lie in other files."""

    def check_safe(self) -> None:
        """Check that it needs nothing but itself and ONNX's own operators.

        Raises:
            ModelError: it has operators of another domain, or weights outside the file. The message does not name
                the file; who reads it does.
        """
        if self.has_external_data:
            raise ModelError("expected all weights in the file itself, found some in another file", "external_data")
        foreign = sorted(f"{domain}.{kind}" for domain, kind in self.operators if domain not in _STANDARD_DOMAINS)
        if foreign:
            raise ModelError(f"expected operators of ONNX alone, found {', '.join(foreign[:5])}", "operators")


def parse_onnx(content: bytes) -> OnnxFile:
    """Read an ONNX file's metadata, operators, and whether its weights are inside.

    Raises:
        ModelError: the bytes are no ONNX file, or a torn one. The message does not name the file; who reads it does.
    """
    if not content:
        raise ModelError("expected an ONNX file, found an empty one", "not_onnx")
    reader = _Reader()
    try:
        reader.read_model(memoryview(content))
    except (ValueError, UnicodeDecodeError) as error:
        raise ModelError(f"expected an ONNX file, found otherwise or a torn one ({error})", "not_onnx") from None
    if not reader.operators:
        raise ModelError("expected an ONNX file with a graph, found none", "not_onnx")
    return OnnxFile(
        metadata=reader.metadata,
        operators=frozenset(reader.operators),
        has_external_data=reader.has_external_data,
    )


class _Reader:
    """Gathers what is found while it walks through a model."""

    def __init__(self) -> None:
        self.metadata: dict[str, str] = {}
        self.operators: set[tuple[str, str]] = set()
        self.has_external_data = False

    def read_model(self, message: memoryview) -> None:
        for field, value in _fields(message):
            if field == _MODEL_GRAPH:
                self._read_graph(_bytes(value), 0)
            elif field == _MODEL_FUNCTION:
                for number, node in _fields(_bytes(value)):
                    if number == _FUNCTION_NODE:
                        self._read_node(_bytes(node), 0)
            elif field == _MODEL_METADATA:
                entry = dict(_fields(_bytes(value)))
                self.metadata[_text(entry.get(_ENTRY_KEY, b""))] = _text(entry.get(_ENTRY_VALUE, b""))

    def _read_graph(self, message: memoryview, depth: int) -> None:
        if depth > _DEEPEST:
            raise ValueError(f"graphs in graphs, more than {_DEEPEST} deep")
        for field, value in _fields(message):
            if field == _GRAPH_NODE:
                self._read_node(_bytes(value), depth)
            elif field == _GRAPH_TENSOR:
                self._read_tensor(_bytes(value))
            elif field == _GRAPH_SPARSE_TENSOR:
                self._read_sparse_tensor(_bytes(value))

    def _read_node(self, message: memoryview, depth: int) -> None:
        kind = domain = ""
        for field, value in _fields(message):
            if field == _NODE_TYPE:
                kind = _text(value)
            elif field == _NODE_DOMAIN:
                domain = _text(value)
            elif field == _NODE_ATTRIBUTE:
                for number, inner in _fields(_bytes(value)):
                    if number in _ATTRIBUTE_GRAPHS:
                        self._read_graph(_bytes(inner), depth + 1)
                    elif number in _ATTRIBUTE_TENSORS:
                        self._read_tensor(_bytes(inner))
                    elif number in _ATTRIBUTE_SPARSE_TENSORS:
                        self._read_sparse_tensor(_bytes(inner))
        self.operators.add((domain, kind))

    def _read_sparse_tensor(self, message: memoryview) -> None:
        for field, value in _fields(message):
            if field in (_SPARSE_VALUES, _SPARSE_INDICES):
                self._read_tensor(_bytes(value))

    def _read_tensor(self, message: memoryview) -> None:
        for field, value in _fields(message):
            if field == _TENSOR_EXTERNAL_DATA or (field == _TENSOR_LOCATION and value == _EXTERNAL):
                self.has_external_data = True


def _fields(message: memoryview) -> Iterator[tuple[int, memoryview | int]]:
    """Number and value of each field of a message: bytes, or an integer."""
    at = 0
    while at < len(message):
        key, at = _varint(message, at)
        wire, field = key & 7, key >> 3
        if field == 0:
            raise ValueError("field 0")
        if wire == 0:
            value, at = _varint(message, at)
            yield field, value
            continue
        if wire == 2:
            length, at = _varint(message, at)
        elif wire in (1, 5):
            length = 8 if wire == 1 else 4
        else:
            raise ValueError(f"wire type {wire}")
        if at + length > len(message):
            raise ValueError(f"{at + length - len(message)} bytes are missing")
        yield field, message[at : at + length]
        at += length


def _varint(message: memoryview, at: int) -> tuple[int, int]:
    value = shift = 0
    while shift < 64:
        if at >= len(message):
            raise ValueError("it ends in the middle of a number")
        byte = message[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
        shift += 7
    raise ValueError("a number of more than 64 bits")


def _bytes(value: memoryview | int | bytes) -> memoryview:
    if isinstance(value, int):
        raise ValueError(f"a number, {value}, where a message should be")  # noqa: TRY004 - a fault of the file
    return memoryview(value)


def _text(value: memoryview | int | bytes) -> str:
    return str(_bytes(value), "utf-8")
