"""Proof: a model is tried in a process of its own before it is let into one that must live.

ONNX Runtime runs what a file tells it to. A bad file can end the process that loads it, or keep it busy for ever; no
check made from inside helps against that. The process tries the model on the CPU, so that picking keeps the whole of
its GPU, at the lowest priority, and with a limit on its memory.
"""

from __future__ import annotations

import contextlib
import math
import os
import resource
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import msgspec

from frazil.errors import ModelError

__all__ = ["PROOF_SECONDS", "prove_model", "run_proof"]

PROOF_SECONDS = 60.0
_MEMORY_BYTES = 8 * 2**30
_CHECK_SECONDS = 0.05
_BUSY_MACHINE = 5.0
"""Times as much as processor time may pass by the clock, before a proof counts as hanging."""
_LOWEST_PRIORITY = 19


class _Verdict(msgspec.Struct, frozen=True, kw_only=True):
    """What the process says, in one line on stdout."""

    sha256: str = ""
    """Of the ONNX file that was tried; empty where it was refused."""
    error: str = ""
    reason: str = ""


def prove_model(path: Path, *, seconds: float = PROOF_SECONDS, stop: threading.Event | None = None) -> str:
    """Load a model as `frazil.picking.load_model` does, check it, and score a full batch, in a process of its own.

    Args:
        path: a model's folder, one version's folder, or an .onnx file.
        seconds: processor time that it may take; on a busy machine several times that may pass by the clock.
        stop: ends the proof early when set.

    Returns:
        sha256 of the ONNX file that passed.

    Raises:
        ModelError: the model failed a check, ended the process, took too long or needed too much memory; or the
            proof was stopped.
    """
    command = [sys.executable, "-P", "-m", "frazil.models", str(path), str(seconds)]
    deadline = time.monotonic() + _BUSY_MACHINE * seconds
    stop = stop or threading.Event()
    # The process ends itself when its stdin does, so that it cannot outlive a parent that was killed.
    with subprocess.Popen(  # noqa: S603 - this interpreter and a path
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, start_new_session=True
    ) as process:
        try:
            while process.poll() is None:
                if stop.wait(_CHECK_SECONDS):
                    raise ModelError(f"{path}: the proof was stopped", "stopped")
                if time.monotonic() > deadline:
                    raise ModelError(f"{path}: expected to load within {seconds:g} s, found it still busy", "hang")
        finally:
            if process.poll() is None:
                process.kill()
        said = process.stdout.read() if process.stdout else b""
        status = process.returncode
    if status < 0:
        name = signal.Signals(-status).name if -status in list(signal.Signals) else f"signal {-status}"
        if name == "SIGXCPU":
            raise ModelError(f"{path}: expected to load within {seconds:g} s, found it still busy", "hang")
        raise ModelError(f"{path}: expected to load, found that loading it ends the process ({name})", "crash")
    try:
        verdict = msgspec.json.decode(said, type=_Verdict)
    except msgspec.MsgspecError:
        raise ModelError(
            f"{path}: expected to load, found that loading it ends the process (status {status})", "crash"
        ) from None
    if verdict.error:
        raise ModelError(verdict.error, verdict.reason)
    return verdict.sha256


def run_proof() -> None:
    """The process: limits itself, tries the model that its arguments name, and prints a verdict."""
    path, seconds = Path(sys.argv[1]), float(sys.argv[2])
    threading.Thread(target=_end_with_parent, daemon=True).start()
    resource.setrlimit(resource.RLIMIT_AS, (_MEMORY_BYTES, _MEMORY_BYTES))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_CPU, (math.ceil(seconds), math.ceil(seconds) + 1))
    with contextlib.suppress(OSError):
        os.nice(_LOWEST_PRIORITY)
    from frazil.picking import load_model

    try:
        model = load_model(path, "cpu")
        t = model.contract.tile_px
        model.warm_up((model.largest_batch((t, t)), t, t))
        verdict = _Verdict(sha256=model.identity.sha256)
    except ModelError as error:
        verdict = _Verdict(error=str(error), reason=error.reason)
    except Exception as error:  # noqa: BLE001 - the edge of one proof; ONNX Runtime's exceptions share no base
        verdict = _Verdict(error=f"{path}: it cannot be run: {' '.join(str(error).split())}", reason="unfit")
    sys.stdout.buffer.write(msgspec.json.encode(verdict))


def _end_with_parent() -> None:
    os.read(sys.stdin.fileno(), 1)
    os._exit(1)
