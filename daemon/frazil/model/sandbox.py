"""The sandbox: a process of its own in which a model is checked before it is loaded into one that must live.

ONNX Runtime runs whatever a file contains. A bad file can end the process that loads it, keep it busy for ever, or take
all of the machine's memory; no check made from inside helps against that. The process runs the model on the CPU,
since picking needs the whole GPU, and at the lowest priority. It scores batches as large as the daemon's, in as many
threads, and may take no more memory than is there. Where memory runs out all the same, the kernel kills it first.
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
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import msgspec

from frazil.errors import ModelError, is_out_of_memory
from frazil.model.contract import Finds, Precision
from frazil.model.tiling import MicrographSize

__all__ = ["SANDBOX_SECONDS", "SandboxResult", "available_bytes", "check_in_sandbox", "held_bytes"]

SANDBOX_SECONDS = 60.0
_CGROUPS = Path("/sys/fs/cgroup")
_PROC = Path("/proc")
_MEMORY_BYTES = 8 * 2**30
_CHECK_SECONDS = 0.05
_BUSY_MACHINE = 5.0
"""Largest ratio of elapsed time to processor time; beyond it the check counts as hanging."""
_LOWEST_PRIORITY = 19
_KILLED_FIRST = "1000"
_LEAST_BYTES = 2**27
"""With less, no model can be checked: the process itself takes some of it."""


class _Job(msgspec.Struct, frozen=True, kw_only=True):
    """The argument of the process."""

    path: str
    precision: Precision
    seconds: float
    threads: int | None
    micrograph: MicrographSize | None
    finds: Finds


class SandboxResult(msgspec.Struct, frozen=True, kw_only=True):
    """A model that passed."""

    sha256: str
    """Of its ONNX file."""
    memory_bytes: int
    """Peak of what it took, from loading to the last batch."""


class _Verdict(msgspec.Struct, frozen=True, kw_only=True):
    """The output of the process, one line on stdout."""

    result: SandboxResult | None = None
    """None where the model was refused."""
    error: str = ""
    reason: str = ""


def check_in_sandbox(
    path: Path,
    *,
    precision: Precision = "float32",
    seconds: float = SANDBOX_SECONDS,
    threads: int | None = None,
    micrograph: MicrographSize | None = None,
    finds: Finds = "particles",
    stop: threading.Event | None = None,
) -> SandboxResult:
    """Load a model as `load_model` does, check it, and score full batches, in a process of its own.

    The batches are those of a micrograph of the session, where one is given, else the largest that any micrograph can
    bring.

    Args:
        path: a model's folder, one version's folder, or an .onnx file.
        precision: with ``int8`` the model's twin must pass too.
        seconds: processor time that it may take; on a busy machine several times that may pass by the clock.
        threads: CPU threads, as many as the daemon will use. Default: every core.
        micrograph: of the session.
        finds: what the model must be there for.
        stop: ends the check early when set.

    Raises:
        ModelError: the model failed a check, ended the process, took too long or needed too much memory; or the
            check was stopped.
    """
    job = _Job(
        path=str(path),
        precision=precision,
        seconds=seconds,
        threads=threads,
        micrograph=micrograph,
        finds=finds,
    )
    command = [sys.executable, "-P", "-m", "frazil.model.sandbox", msgspec.json.encode(job).decode()]
    deadline = time.monotonic() + _BUSY_MACHINE * seconds
    stop = stop or threading.Event()
    # The process ends itself when its stdin does, so that it cannot outlive a parent that was killed.
    with subprocess.Popen(  # noqa: S603 - this interpreter and a path
        command,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        process_group=0,  # no Ctrl-C; not a session, since priorities count within one (sched_autogroup)
    ) as process:
        try:
            while process.poll() is None:
                if stop.wait(_CHECK_SECONDS):
                    raise ModelError(f"{path}: the check was stopped", "stopped")
                if time.monotonic() > deadline:
                    raise ModelError(f"{path}: expected to load within {seconds:g} s, found it still busy", "hang")
        finally:
            if process.poll() is None:
                process.kill()
        output = process.stdout.read() if process.stdout else b""
        status = process.returncode
    if status < 0:
        name = signal.Signals(-status).name if -status in list(signal.Signals) else f"signal {-status}"
        if name == "SIGXCPU":
            raise ModelError(f"{path}: expected to load within {seconds:g} s, found it still busy", "hang")
        if name == "SIGKILL":
            raise ModelError(
                f"{path}: expected to be tried within the memory that is there, found its process killed, "
                "as the kernel does when memory runs out",
                "memory",
            )
        raise ModelError(f"{path}: expected to load, found that loading it ends the process ({name})", "crash")
    try:
        verdict = msgspec.json.decode(output, type=_Verdict)
    except msgspec.MsgspecError:
        raise ModelError(
            f"{path}: expected to load, found that loading it ends the process (status {status})", "crash"
        ) from None
    if verdict.result is None:
        raise ModelError(verdict.error, verdict.reason)
    return verdict.result


def _run() -> None:
    """The process: limits itself, checks the model that its argument names, and prints a verdict."""
    job = msgspec.json.decode(sys.argv[1], type=_Job)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_CPU, (math.ceil(job.seconds), math.ceil(job.seconds) + 1))
    with contextlib.suppress(OSError):
        os.nice(_LOWEST_PRIORITY)
    with contextlib.suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text(_KILLED_FIRST, "ascii")
    try:
        verdict = _Verdict(result=_check(job))
    except ModelError as error:
        verdict = _Verdict(error=str(error), reason=error.reason)
    sys.stdout.buffer.write(msgspec.json.encode(verdict))


def _check(job: _Job) -> SandboxResult:
    """Load the model and score its batches, as the daemon does.

    Raises:
        ModelError: it is not fit to serve.
    """
    from frazil.model.checks import load_model

    path = Path(job.path)
    before = held_bytes("VmRSS")
    limit = _limit_memory(path)
    try:
        model = load_model(path, "cpu", job.threads, precision=job.precision, finds=job.finds)
        if model.precision_problem is not None:
            raise ModelError(model.precision_problem, "unfit")
        shape = None if job.micrograph is None else model.batch_shape(job.micrograph)
        with ThreadPoolExecutor(model.workers) as pool:
            list(pool.map(model.warm_up, [shape or model.largest_batch_shape()] * model.workers))
    except Exception as error:  # the edge of one check; ONNX Runtime's exceptions share no base
        if is_out_of_memory(error):
            raise ModelError(
                f"{path}: expected to load and score a batch within {limit >> 20} MiB of memory, "
                "all that is there, found that it needs more",
                "memory",
            ) from error
        if isinstance(error, ModelError):
            raise
        raise ModelError(f"{path}: it cannot be run: {' '.join(str(error).split())}", "unfit") from error
    return SandboxResult(sha256=model.identity.sha256, memory_bytes=max(0, held_bytes("VmHWM") - before))


def _limit_memory(path: Path) -> int:
    """Let this process take no more than is there, 8 GiB at most; what that is, in bytes.

    Raises:
        ModelError: there is too little to try any model.
    """
    available = available_bytes()
    limit = _MEMORY_BYTES if available is None else min(_MEMORY_BYTES, available)
    if limit < _LEAST_BYTES:
        raise ModelError(
            f"{path}: expected {_LEAST_BYTES >> 20} MiB of memory or more to try a model, found {limit >> 20} MiB",
            "memory",
        )
    data = held_bytes("VmData") + limit
    resource.setrlimit(resource.RLIMIT_DATA, (data, data))
    resource.setrlimit(resource.RLIMIT_AS, (_MEMORY_BYTES, _MEMORY_BYTES))
    return limit


def _end_with_parent() -> None:
    os.read(sys.stdin.fileno(), 1)
    os._exit(1)


def available_bytes(proc: Path = _PROC, cgroups: Path = _CGROUPS) -> int | None:
    """Bytes that this process can still take before the system or its control group kills; None if unknown.

    What a service may take is bounded by its control group before the machine's memory is.
    """
    available = _kibibytes(proc / "meminfo", "MemAvailable")
    return min((*([] if available is None else [available]), *_left_of_groups(proc, cgroups)), default=None)


def held_bytes(field: str) -> int:
    """Bytes of memory that this process holds, by a field of ``/proc/self/status``; 0 where it is not known.

    Args:
        field: ``VmRSS`` for what is resident now, ``VmHWM`` for the most that ever was, ``VmData`` for what was
            allocated.
    """
    return _kibibytes(_PROC / "self" / "status", field) or 0


def _left_of_groups(proc: Path, cgroups: Path) -> Iterator[int]:
    """What each control group around this process leaves: its limit, less what is used and cannot be reclaimed."""
    try:
        (line,) = (x for x in (proc / "self" / "cgroup").read_text("ascii").splitlines() if x.startswith("0::/"))
    except (OSError, ValueError):
        return
    group = cgroups / line.removeprefix("0::/")
    while group.is_relative_to(cgroups):
        with contextlib.suppress(OSError, ValueError):
            limits = [(group / f"memory.{name}").read_text("ascii").strip() for name in ("max", "high")]
            limit = min(int(limit) for limit in limits if limit != "max")
            statistics = dict(x.split() for x in (group / "memory.stat").read_text("ascii").splitlines())
            reclaimable = int(statistics["inactive_file"]) + int(statistics["active_file"])
            used = int((group / "memory.current").read_text("ascii"))
            yield max(0, limit - used + reclaimable)
        group = group.parent


def _kibibytes(file: Path, field: str) -> int | None:
    with contextlib.suppress(OSError):
        for line in file.read_text("ascii").splitlines():
            name, _, value = line.partition(":")
            if name == field:
                return int(value.split()[0]) * 1024
    return None


if __name__ == "__main__":
    _run()
