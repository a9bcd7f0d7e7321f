"""ONNX Runtime, loaded here and nowhere else, with its telemetry off.

Its wheels write a device's identity into the home directory when a model is loaded, and call a host of Microsoft's some
20 s later (seen with 1.31; decision 0034). This variable, read while ONNX Runtime loads, keeps it from both; processes
that are started from here inherit it.
"""

from __future__ import annotations

import os

os.environ["ORT_DISABLE_TELEMETRY"] = "1"

import onnxruntime as ort  # noqa: TID251 - the one place
from onnxruntime.capi import onnxruntime_pybind11_state as _native  # noqa: TID251

__all__ = ["RUNTIME_ERRORS", "ort"]

RUNTIME_ERRORS: tuple[type[Exception], ...] = (
    *(kind for kind in vars(_native).values() if isinstance(kind, type) and issubclass(kind, Exception)),
    *(ArithmeticError, LookupError, MemoryError, RuntimeError, ValueError),
)
"""What ONNX Runtime raises: classes of its own, which share no base, and what pybind11 makes of C++'s exceptions."""
