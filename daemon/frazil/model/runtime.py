"""ONNX Runtime, loaded here and nowhere else; its sessions run on a GPU where there is one, on the CPU otherwise.

Its telemetry is off: its wheels write a device's identity into the home directory when a model is loaded, and call a
host of Microsoft's some 20 s later (seen with 1.31; decision 0034). The variable below, read while ONNX Runtime loads,
keeps it from both; processes that are started from here inherit it.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import functools
import io
import json
import logging
import os
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from frazil.errors import ModelError
from frazil.model.contract import Device

os.environ["ORT_DISABLE_TELEMETRY"] = "1"

import onnxruntime as ort  # noqa: TID251 - the one place
from onnxruntime.capi import onnxruntime_pybind11_state as _native  # noqa: TID251

__all__ = [
    "RUNTIME_ERRORS",
    "Placement",
    "available_cores",
    "cuda_problem",
    "device_of",
    "open_graph",
    "open_session",
    "ort",
    "read_placement",
]

log = logging.getLogger(__name__)

RUNTIME_ERRORS: tuple[type[Exception], ...] = (
    *(kind for kind in vars(_native).values() if isinstance(kind, type) and issubclass(kind, Exception)),
    *(ArithmeticError, LookupError, MemoryError, RuntimeError, ValueError),
)
"""What ONNX Runtime raises: classes of its own, which share no base, and what pybind11 makes of C++'s exceptions."""

_CPU = "CPUExecutionProvider"
_CUDA = "CUDAExecutionProvider"
_HEAVY = ("Conv", "Gemm", "MatMul")
"""Parts of the names of operators that do nearly all of a picker's work, fused with others or not."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Placement:
    """Which execution providers ran the nodes of a model, as seen in a run."""

    nodes: dict[str, int]
    """Nodes by provider; after fusion, so fewer than in the file."""
    heavy_on_cpu: frozenset[str]
    """Convolutions and matrix products that ran on the CPU."""

    @property
    def provider(self) -> str:
        """The one that runs most nodes."""
        return max(self.nodes, key=lambda provider: self.nodes[provider])

    @property
    def on_cpu(self) -> int:
        """Nodes that the CPU runs."""
        return self.nodes.get(_CPU, 0)

    def describe(self, batch_seconds: float) -> str:
        """Where its nodes run and how long a batch took, in a few words."""
        where = ", ".join(f"{count} nodes on {provider}" for provider, count in self.nodes.items())
        return f"{where}, one batch in {batch_seconds:.3f} s"

    def cpu_problem(self) -> str | None:
        """What keeps it from being a model on a GPU. A few light nodes on the CPU do not: ONNX Runtime wants them."""
        if self.provider == _CPU:
            return f"all or most of its {sum(self.nodes.values())} nodes on the CPU"
        if self.heavy_on_cpu:
            return f"{', '.join(sorted(self.heavy_on_cpu))} on the CPU"
        return None


def available_cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else (os.cpu_count() or 1)


def open_session(model: bytes, path: Path, device: Device, threads: int, *, profile: Path) -> ort.InferenceSession:
    """Open a session and make sure that it runs where it was asked to.

    Its first runs are profiled, for `read_placement`, which must be called to end that; the name of the profile's file
    begins with `profile`.

    Raises:
        ModelError: ONNX Runtime refuses the model, or CUDA was asked for and cannot be had.
    """
    problem = cuda_problem()
    if device == "cuda" and problem:
        raise ModelError(f"{path}: expected a CUDA device, found none: {problem}", "provider")
    use_cuda = device == "cuda" or (device == "auto" and problem is None)
    options = _options(threads)
    options.enable_profiling = True
    options.profile_file_prefix = str(profile)
    try:
        session = ort.InferenceSession(model, options, providers=_providers("cuda" if use_cuda else "cpu"))
    except RUNTIME_ERRORS as error:
        raise ModelError(f"{path}: ONNX Runtime cannot load it: {str(error).strip()}", "unfit") from error
    # ONNX Runtime silently drops a provider that fails to start (its issue 17801).
    if device == "cuda" and session.get_providers()[0] != _CUDA:
        raise ModelError(
            f"{path}: expected to run on CUDA, found {session.get_providers()[0]}: "
            "the CUDA or cuDNN libraries that ONNX Runtime needs are missing",
            "provider",
        )
    return session


def open_graph(graph: bytes, device: Literal["cpu", "cuda"], threads: int) -> ort.InferenceSession:
    """Open a session of a graph of frazil's own, in full float32 precision, on the device of a model.

    Raises:
        RuntimeError: it does not run there.
    """
    # TensorFloat-32, ONNX Runtime's default for matrix products, has 10 bits: too few for pixels.
    session = ort.InferenceSession(graph, _options(threads), providers=_providers(device, use_tf32="0"))
    if device_of(session) != device:
        raise RuntimeError(f"expected a session on {device}, found {session.get_providers()[0]}")
    return session


def device_of(session: ort.InferenceSession) -> Literal["cpu", "cuda"]:
    """Where a session's inputs and outputs are best bound."""
    return "cuda" if session.get_providers()[0] == _CUDA else "cpu"


def _options(threads: int) -> ort.SessionOptions:
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    # Idle threads that spin starve the readers on a shared machine.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.log_severity_level = 3
    return options


def _providers(device: Literal["cpu", "cuda"], **cuda_options: str) -> list[str | tuple[str, dict[str, str]]]:
    if device == "cpu":
        return [_CPU]
    _preload_libraries()
    cuda = {"arena_extend_strategy": "kSameAsRequested", "cudnn_conv_algo_search": "HEURISTIC"}
    return [(_CUDA, cuda | cuda_options), _CPU]


@functools.cache
def _preload_libraries() -> None:
    """Load the CUDA and cuDNN libraries that came by wheel (the extra ``cuda``), which no linker would find."""
    preload = getattr(ort, "preload_dlls", None)
    if preload is None:  # before ONNX Runtime 1.21
        return
    printed = io.StringIO()
    try:
        with contextlib.redirect_stdout(printed):  # what it prints would be in the way of --json
            preload()
    except (OSError, RuntimeError, ValueError) as error:  # they may still be found, and if not the session says so
        printed.write(str(error))
    for line in printed.getvalue().splitlines():
        log.debug("CUDA libraries: %s", line)


def read_placement(session: ort.InferenceSession) -> Placement:
    """End the profiling of a session and see from it what ran where.

    The list of providers is what may run a node; the profile is what did.

    Raises:
        ModelError: ONNX Runtime could not write the profile, as on a full disk; it does not say so itself.
    """
    profile = Path(session.end_profiling())
    try:
        events = json.loads(profile.read_bytes())
    except (OSError, ValueError) as error:
        full = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(profile.parent))
        raise ModelError(
            f"{profile.parent}: expected the profile of ONNX Runtime, found it cut short ({error}); "
            "is that disk full? TMPDIR takes another one"
        ) from full
    operators = {
        event["args"]["node_index"]: (event["args"]["provider"], event["args"]["op_name"])
        for event in events
        if event.get("cat") == "Node" and "provider" in event["args"]
    }
    profile.unlink()
    return Placement(
        nodes=dict(Counter(provider for provider, _ in operators.values())),
        heavy_on_cpu=frozenset(
            name for provider, name in operators.values() if provider == _CPU and any(heavy in name for heavy in _HEAVY)
        ),
    )


def cuda_problem() -> str | None:
    """Why CUDA cannot be used; None where it can. The driver is asked, since ONNX Runtime would print errors."""
    if _CUDA not in ort.get_available_providers():
        return "this ONNX Runtime was built without CUDA"
    try:
        driver = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return "no NVIDIA driver (libcuda.so.1) on this machine"
    count = ctypes.c_int(0)
    if driver.cuInit(0) != 0 or driver.cuDeviceGetCount(ctypes.byref(count)) != 0 or count.value == 0:
        return "the NVIDIA driver reports no device"
    return None
