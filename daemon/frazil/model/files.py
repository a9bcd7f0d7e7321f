"""Models on disk: found, read whole, identified, and inspected without running them."""

from __future__ import annotations

import hashlib
from pathlib import Path

from frazil.errors import ModelError
from frazil.model.contract import NORMALISATIONS, ModelContract, ModelIdentity
from frazil.model.onnx_file import OnnxFile, parse_onnx

__all__ = [
    "CURRENT_NAME",
    "MODEL_NAME",
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
        onnx = parse_onnx(content)
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
