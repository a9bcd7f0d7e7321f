"""A model's int8 twin: the same network in 8-bit integers, which some processors compute faster.

A twin is `model.int8.onnx` beside `model.onnx`. The model stays the truth: its sha256 is the identity, its card holds
the references of both, and the twin serves only where the card says that it picks as well.
"""

from __future__ import annotations

import hashlib
import platform
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from frazil.errors import ModelError
from frazil.model.checks import CheckedFile, check_file
from frazil.model.contract import Card, ModelContract, Twin
from frazil.model.files import inspect_content, locate_model, read_content

__all__ = ["TWIN_NAME", "has_twin", "int8_instructions", "open_twin"]

TWIN_NAME = "model.int8.onnx"

_CPU_INFO = Path("/proc/cpuinfo")
_INSTRUCTIONS = {
    "x86": ("amx_int8", "avx512_vnni", "avx_vnni"),
    "ARM": ("i8mm", "asimddp"),
}
"""Flags of processors that multiply and add bytes in one step. Without them ONNX Runtime gains little by int8, and on
x86 its sums of 16 bits can overflow."""


def int8_instructions() -> str | None:
    """The processor's instructions for int8, as Linux calls them; None where it has none or they are not known."""
    try:
        lines = _CPU_INFO.read_text("ascii", "replace").splitlines()
    except OSError:
        return None
    flags = {
        flag
        for line in lines
        if line.partition(":")[0].strip() in ("flags", "Features")
        for flag in line.partition(":")[2].split()
    }
    return next((name for names in _INSTRUCTIONS.values() for name in names if name in flags), None)


def has_twin(path: Path) -> bool:
    """Whether an int8 twin lies beside a model; whether it is fit to serve is not checked.

    Raises:
        ModelError: the path leads to no model.
    """
    return locate_model(path)[0].with_name(TWIN_NAME).is_file()


def open_twin(
    file: Path, card: Card | None, contract: ModelContract, tiles: NDArray[np.float32], threads: int
) -> CheckedFile:
    """Open the int8 twin of a model on the CPU and check it as the model itself is checked.

    Args:
        file: the model's.
        card: the model's.
        contract: the model's.
        tiles: (n, 1, t, t) of the card's reference.
        threads: threads of ONNX Runtime's pool.

    Raises:
        ModelError: there is none, the card does not admit it, this processor has no instructions for it, or it fails
            a check.
    """
    twin = _admitted(file, card)
    if int8_instructions() is None:
        known = "; ".join(f"{family}: {', '.join(names)}" for family, names in _INSTRUCTIONS.items())
        raise ModelError(
            f"{file}: expected a processor with instructions for int8 ({known}), "
            f"found {platform.machine() or 'one'} without",
            "provider",
        )
    twin_file = file.with_name(TWIN_NAME)
    content = read_content(twin_file)
    sha256 = hashlib.sha256(content).hexdigest()
    if sha256 != twin.sha256:
        raise ModelError(f"{twin_file}: expected sha256 {twin.sha256} (the model's card), found {sha256}", "hash")
    if inspect_content(twin_file, content)[1] != contract:
        raise ModelError(f"{twin_file}: expected the contract of {file.name}, found another one", "contract")
    checked = check_file(content, twin_file, contract, tiles, "cpu", threads)
    checked.check_reference(twin.scores(checked.scores.size), twin.tolerance)
    return checked


def _admitted(file: Path, card: Card | None) -> Twin:
    if card is None or card.int8 is None:
        raise ModelError(f"{file}: expected an int8 twin in the model's card, found none", "missing")
    if not card.int8.admitted:
        raise ModelError(
            f"{file}: expected an int8 twin that picks as well as the model, "
            f"found F1 lower by {card.int8.largest_f1_drop:.3f} (the model's card)",
            "card",
        )
    return card.int8
