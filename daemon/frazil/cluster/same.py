"""What must be the same on every worker as where the run began: the program and the model."""

from __future__ import annotations

from pathlib import Path

import cv2

import frazil
from frazil.errors import FrazilError, ModelError
from frazil.model import Device, Precision, load_model
from frazil.model.contract import Finds
from frazil.model.model import Model

__all__ = ["check_program", "load_same_model"]


def check_program(version: str) -> None:
    """Check that this worker has frazil in a version.

    Raises:
        FrazilError: it has another one, which may pick otherwise.
    """
    if version != frazil.__version__:
        raise FrazilError(f"expected frazil {version} on every worker, found {frazil.__version__}")


def load_same_model(
    path: Path,
    sha256: str,
    threads: int,
    device: Device = "auto",
    precision: Precision = "float32",
    finds: Finds = "particles",
) -> Model:
    """Load the model that a run began with, for so many threads of this process.

    Raises:
        ModelError: there is another one, or it cannot serve.
    """
    cv2.setNumThreads(threads)
    model = load_model(path, device, threads, precision=precision, finds=finds)
    if model.identity.sha256 != sha256:
        raise ModelError(
            f"{path}: expected the model {sha256[:12]} that this run began with, found {model.identity.sha256[:12]}",
            "hash",
        )
    return model
