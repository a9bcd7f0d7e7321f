"""Where a model runs: an ONNX Runtime session on a GPU where there is one, on the CPU otherwise."""

from __future__ import annotations

import ctypes
import os
from pathlib import Path

import onnxruntime as ort

from frazil.errors import ModelError
from frazil.settings import Device

__all__ = ["available_cores", "open_session"]


def available_cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else (os.cpu_count() or 1)


def open_session(model: bytes, path: Path, device: Device, threads: int) -> ort.InferenceSession:
    """Open a session and make sure that it runs where it was asked to.

    Args:
        model: content of the ONNX file.
        path: its name, for messages.
        device: ``auto`` takes a CUDA device where one answers.
        threads: threads of ONNX Runtime's pool on the CPU.

    Raises:
        ModelError: ONNX Runtime refuses the model, or CUDA was asked for and cannot be had.
    """
    problem = _cuda_problem()
    if device == "cuda" and problem:
        raise ModelError(f"{path}: expected a CUDA device, found none: {problem}")
    use_cuda = device == "cuda" or (device == "auto" and problem is None)
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    # Idle threads that spin starve the readers on a shared machine.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.log_severity_level = 3
    providers: list[str | tuple[str, dict[str, str]]] = ["CPUExecutionProvider"]
    if use_cuda:
        cuda = {"arena_extend_strategy": "kSameAsRequested", "cudnn_conv_algo_search": "HEURISTIC"}
        providers.insert(0, ("CUDAExecutionProvider", cuda))
    try:
        session = ort.InferenceSession(model, options, providers=providers)
    except Exception as error:  # ONNX Runtime's exceptions share no base of their own
        raise ModelError(f"{path}: ONNX Runtime cannot load it: {str(error).strip()}") from error
    # A provider that fails to start is dropped in silence; only this tells (onnxruntime issue 17801).
    if device == "cuda" and session.get_providers()[0] != "CUDAExecutionProvider":
        raise ModelError(
            f"{path}: expected to run on CUDA, found {session.get_providers()[0]}: "
            "the CUDA or cuDNN libraries that ONNX Runtime needs are missing"
        )
    return session


def _cuda_problem() -> str | None:
    """Why CUDA cannot be used; None where it can. The driver is asked, since ONNX Runtime would print errors."""
    if "CUDAExecutionProvider" not in ort.get_available_providers():
        return "this ONNX Runtime was built without CUDA"
    try:
        driver = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return "no NVIDIA driver (libcuda.so.1) on this machine"
    count = ctypes.c_int(0)
    if driver.cuInit(0) != 0 or driver.cuDeviceGetCount(ctypes.byref(count)) != 0 or count.value == 0:
        return "the NVIDIA driver reports no device"
    return None
