"""Models on disk: found, read whole, identified, and inspected without running them.

An ONNX file is a protocol buffer (onnx.proto in the ONNX repository; the wire format is the one of
protobuf.dev/programming-guides/encoding). ONNX Runtime would run operators of its own domains without being asked, and
reads weights from any file that a relative path leads to, even for a model given as bytes. So both are found here,
before ONNX Runtime sees the file.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path

from frazil.errors import ModelError
from frazil.model.contract import NORMALISATIONS, ModelContract, ModelIdentity

__all__ = [
    "CURRENT_NAME",
    "MODEL_NAME",
    "OnnxFile",
    "identify_content",
    "identify_model",
    "inspect_content",
    "locate_model",
    "read_content",
    "read_contract",
    "read_current",
]

MODEL_NAME = "model.onnx"
CURRENT_NAME = "CURRENT"
_LARGEST_CURRENT_BYTES = 4096
_LARGEST_MODEL_BYTES = 2**31

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


def read_current(folder: Path) -> list[int]:
    """The versions that ``CURRENT`` names: the serving one, and below it those that served before, latest first.

    Raises:
        ModelError: it is missing, or names no version.
    """
    file = folder / CURRENT_NAME
    try:
        with file.open("rb") as opened:
            lines = opened.read(_LARGEST_CURRENT_BYTES).decode("ascii", "replace").split("\n")
    except OSError as error:
        raise ModelError(f"{file}: expected the number of a version, found no such file", "missing") from error
    versions = [line.strip() for line in lines if line.strip()]
    if not versions or not all(version.isdecimal() and int(version) > 0 for version in versions):
        raise ModelError(f"{file}: expected the number of a version, found {' '.join(versions)[:80]!r}", "missing")
    return [int(version) for version in versions]


def locate_model(path: Path) -> tuple[Path, str, int]:
    """Find the ONNX file that a path means.

    Args:
        path: a model's folder (its ``CURRENT`` version is meant), one version's folder, or an .onnx file.

    Returns:
        The file, the model's name and its version.

    Raises:
        ModelError: the path leads to no model.
    """
    if not path.exists():
        raise ModelError(f"{path}: expected a model's folder or an .onnx file, found nothing there", "missing")
    path = path.resolve()
    if path.is_dir() and (path / CURRENT_NAME).is_file():
        path = path / str(read_current(path)[0])
    file = path / MODEL_NAME if path.is_dir() else path
    if not file.is_file():
        raise ModelError(
            f"{path}: expected {CURRENT_NAME} or {MODEL_NAME} in a model's folder, found neither", "missing"
        )
    if file.name == MODEL_NAME and file.parent.name.isdecimal():
        return file, file.parent.parent.name, int(file.parent.name)
    return file, file.stem, 0


def identify_model(path: Path) -> ModelIdentity:
    """Identify a model by its file's name and content; whether it is fit to serve is not checked.

    Raises:
        ModelError: the path leads to no model, or it cannot be read.
    """
    file, name, version = locate_model(path)
    return identify_content(read_content(file), name, version)


def read_contract(path: Path) -> ModelContract:
    """Read a model's contract without running it.

    Raises:
        ModelError: the path leads to no model, or to one without the contract.
    """
    file = locate_model(path)[0]
    return inspect_content(file, read_content(file))[1]


def read_content(file: Path) -> bytes:
    """The bytes of an ONNX file.

    Raises:
        ModelError: it cannot be read, or is too large for one.
    """
    try:
        if file.stat().st_size > _LARGEST_MODEL_BYTES:
            raise ModelError(
                f"{file}: expected at most {_LARGEST_MODEL_BYTES} bytes, found {file.stat().st_size}", "memory"
            )
        return file.read_bytes()
    except OSError as error:
        raise ModelError(f"{file}: cannot be read: {error.strerror}", "missing") from error


def identify_content(content: bytes, name: str, version: int) -> ModelIdentity:
    """The identity of a model, from the bytes of its file."""
    return ModelIdentity(name=name, version=version, sha256=hashlib.sha256(content).hexdigest())


def inspect_content(file: Path, content: bytes) -> tuple[OnnxFile, ModelContract]:
    """What the bytes of an ONNX file hold, and the contract in them.

    Raises:
        ModelError: they are no ONNX file, one that needs more than itself, or one without a contract known here.
    """
    try:
        onnx = OnnxFile(content)
        onnx.check_safe()
        contract = ModelContract.from_metadata(onnx.metadata)
    except ModelError as error:
        raise ModelError(f"{file}: {error}", error.reason) from error
    if contract.normalisation not in NORMALISATIONS:
        known = ", ".join(NORMALISATIONS)
        raise ModelError(
            f"{file}: expected a normalisation among {known}; found {contract.normalisation!r}", "contract"
        )
    return onnx, contract


class OnnxFile:
    """What an ONNX file holds.

    Attributes:
        metadata: its ``metadata_props``.
        operators: (domain, type) of every node, those in subgraphs and functions too.
        has_external_data: whether weights lie in other files.

    Raises:
        ModelError: the bytes are no ONNX file, or a torn one. The message does not name the file; who reads it does.
    """

    def __init__(self, content: bytes) -> None:
        self.metadata: dict[str, str] = {}
        self.operators: set[tuple[str, str]] = set()
        self.has_external_data = False
        if not content:
            raise ModelError("expected an ONNX file, found an empty one", "not_onnx")
        try:
            self._read_model(memoryview(content))
        except ValueError as error:
            raise ModelError(f"expected an ONNX file, found otherwise or a torn one ({error})", "not_onnx") from None
        if not self.operators:
            raise ModelError("expected an ONNX file with a graph, found none", "not_onnx")

    def check_safe(self) -> None:
        """Check that it needs nothing but itself and ONNX's own operators.

        Raises:
            ModelError: it has operators of another domain, or weights outside the file.
        """
        if self.has_external_data:
            raise ModelError("expected all weights in the file itself, found some in another file", "external_data")
        foreign = sorted(f"{domain}.{kind}" for domain, kind in self.operators if domain not in _STANDARD_DOMAINS)
        if foreign:
            raise ModelError(f"expected operators of ONNX alone, found {', '.join(foreign[:5])}", "operators")

    def _read_model(self, message: memoryview) -> None:
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
