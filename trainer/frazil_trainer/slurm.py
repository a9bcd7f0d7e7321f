"""A training as a job of Slurm: torchrun on one node or more. Its log is shown while it runs.

The job is its own master: whoever shows its log may go and come back. It always resumes the run in its folder, so that
it may be requeued at any time.
"""

from __future__ import annotations

import contextlib
import hashlib
import math
import os
import re
import shlex
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from frazil.errors import FrazilError, OutputError, printable
from frazil.files import write_atomically
from frazil.settings import ClusterSettings
from frazil_trainer.training.run_folder import CHECKPOINT_NAME

__all__ = ["Job", "Shape", "batch_script"]

_JOB_NAME = "slurm-job"
"""In the run's folder: the number of its last job."""
_ENDS = frozenset(
    ("BOOT_FAIL", "CANCELLED", "COMPLETED", "DEADLINE", "FAILED", "NODE_FAIL", "OUT_OF_MEMORY", "PREEMPTED", "TIMEOUT")
)
_FORGOTTEN = "forgotten by Slurm"
_OVER = _ENDS | {_FORGOTTEN}
_LOOK_SECONDS = 5.0
"""Between questions to Slurm, which many people ask."""
_TICK_SECONDS = 0.5
_SEEN_SECONDS = 60.0
"""After which a file that one machine wrote is seen by another."""
_ERROR = "frazil-train: error: "
_LAST_LINES = 5
_COMMAND_SECONDS = 120.0
_FIRST_PORT, _PORTS = 20_000, 12_000
"""Below those that systems give away by themselves."""
_UNITS = {"k": 1, "m": 2, "g": 3, "t": 4}


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """Nodes of a job, and processes of the training on them."""

    nodes: int = 1
    processes_per_node: int = 1
    gpus_per_node: int = 0
    threads: int = 1
    """CPU threads of a process."""

    @property
    def processes(self) -> int:
        """Of the whole training."""
        return self.nodes * self.processes_per_node


def batch_script(arguments: Sequence[str], run: Path, settings: ClusterSettings, shape: Shape) -> str:
    """Write the script of a job.

    Args:
        arguments: of ``frazil-train``, which torchrun starts in each process.
        run: the run's folder, for the log.
        settings: of the cluster; its memory is that of one process.
        shape: of the job.
    """
    cores = shape.processes_per_node * shape.threads
    options = {
        "job-name": _job_name(run),
        "nodes": shape.nodes,
        "ntasks-per-node": 1,
        "cpus-per-task": cores,
        "mem": settings.memory and f"{math.ceil(_bytes_of(settings.memory) * shape.processes_per_node / 2**20)}M",
        "gres": f"gpu:{shape.gpus_per_node}" if shape.gpus_per_node else None,
        "time": settings.walltime,
        "partition": settings.queue,
        "account": settings.account,
        "chdir": Path.cwd(),
        "output": str(_log_of(run, "%j", percent="%%")),
        "open-mode": "append",
    }
    directives = [f"--{name}={shlex.quote(str(value))}" for name, value in options.items() if value is not None]
    rendezvous = ["--standalone"]
    if shape.nodes > 1:
        endpoint = f'"$(hostname):$(({_FIRST_PORT} + SLURM_JOB_ID % {_PORTS}))"'
        rendezvous = ["--rdzv-backend=c10d", '--rdzv-id="$SLURM_JOB_ID"', f"--rdzv-endpoint={endpoint}"]
    interface = settings.interface and shlex.quote(settings.interface)
    lines = [
        "#!/bin/bash",
        *(f"#SBATCH {directive}" for directive in (*directives, "--requeue", *settings.directives)),
        "",
        *settings.prologue,
        f"export OMP_WAIT_POLICY=PASSIVE OMP_NUM_THREADS={shape.threads}",
        *([f"export GLOO_SOCKET_IFNAME={interface} NCCL_SOCKET_IFNAME={interface}"] if interface else []),
        f"exec srun --kill-on-bad-exit=1 --cpus-per-task={cores} \\",
        f"    {shlex.quote(sys.executable)} -m torch.distributed.run \\",
        f"    --nnodes={shape.nodes} --nproc-per-node={shape.processes_per_node} {' '.join(rendezvous)} \\",
        f"    -m frazil_trainer {shlex.join(arguments)}",
    ]
    return "\n".join(lines) + "\n"


class Job:
    """A job of a run.

    Args:
        number: Slurm's.
        run: the run's folder.
    """

    def __init__(self, number: str, run: Path) -> None:
        self.number = number
        self.log = _log_of(run, number)
        self._name = _job_name(run)
        self._shown = 0
        self._rest = b""

    @classmethod
    def submit(cls, script: str, run: Path) -> Job:
        """Submit a script, and note the number of the job in the run's folder.

        Raises:
            FrazilError: Slurm is not there, or refuses it.
            OutputError: the folder cannot be written.
        """
        file = run / f"{_JOB_NAME}.sh"
        _run("sbatch", "--version")
        try:
            run.mkdir(parents=True, exist_ok=True)
            write_atomically(file, script.encode())
            number = _run("sbatch", "--parsable", str(file)).strip().partition(";")[0]
            write_atomically(run / _JOB_NAME, f"{number}\n".encode())
        except OSError as error:
            raise OutputError(f"{run}: cannot be written: {error.strerror}") from error
        return cls(number, run)

    @classmethod
    def at_work(cls, run: Path) -> Job | None:
        """The job that runs, or waits to run, in a folder; None if there is none.

        Raises:
            FrazilError: Slurm does not answer.
        """
        try:
            number = (run / _JOB_NAME).read_text().strip()
        except OSError:
            return None
        job = cls(number, run)
        return None if not number.isdecimal() or job.look()[0] in _OVER else job

    def look(self) -> tuple[str, str]:
        """Its state and the reason of it, in Slurm's words.

        Raises:
            FrazilError: Slurm does not answer.
        """
        try:
            shown = _run("scontrol", "--oneliner", "show", "job", self.number)
        except FrazilError as error:
            if "Invalid job id" in str(error):
                return _FORGOTTEN, ""
            raise
        if f"JobName={self._name} " not in shown:  # Slurm counts jobs anew where it lost its state
            return _FORGOTTEN, ""
        found = [re.search(rf"\b{name}=(\S+)", shown) for name in ("JobState", "Reason")]
        state, reason = (one[1] if one else "" for one in found)
        return state, reason

    def follow(self, say: Callable[[str], None]) -> str:
        """Show the log until the job ends; its last state.

        Args:
            say: called with each line.
        """
        told = ""
        while True:
            try:
                state, reason = self.look()
                news = f"job {self.number} waits: {reason}" if state == "PENDING" and reason != "None" else ""
            except FrazilError as error:  # the job goes on without us
                state, news = "", str(error)
            if news and news != told:
                say(news)
            told = news
            deadline = time.monotonic() + _LOOK_SECONDS
            while True:
                for line in self._new_lines(is_last=state in _OVER):
                    say(line)
                if state in _OVER:
                    return state
                if time.monotonic() >= deadline:
                    break
                time.sleep(_TICK_SECONDS)

    def result(self, state: str, read: Callable[[], Path | None]) -> Path | None:
        """What the job made, as the run's folder says: on a file system of several machines a little later."""
        deadline = time.monotonic() + (_SEEN_SECONDS if state in ("COMPLETED", _FORGOTTEN) else 0.0)
        while (found := read()) is None and time.monotonic() < deadline:
            time.sleep(_TICK_SECONDS)
        return found

    def failure(self, state: str) -> FrazilError:
        """The error of a job that ended without a result, with what its log says last."""
        lines: list[str] = []
        with contextlib.suppress(OSError):
            lines = [line for line in self.log.read_text("utf-8", "replace").splitlines() if line.strip()]
        says = [line.partition(_ERROR)[2] for line in lines if _ERROR in line][-1:]
        if not says and state == "FAILED":  # else it was ended, and its log says no more
            says = lines[-_LAST_LINES:] or ["its log is empty"]
        return FrazilError(
            f"{self.log}: expected job {self.number} to make a model, found it {': '.join([state, *says])}"
            + ("; --resume goes on from the last checkpoint" if (self.log.parent / CHECKPOINT_NAME).exists() else "")
        )

    def _new_lines(self, *, is_last: bool) -> list[str]:
        """The lines that came since the last call; the last one may lack its end."""
        try:
            with self.log.open("rb") as opened:
                opened.seek(self._shown)
                content = opened.read()
        except OSError:
            content = b""  # not yet
        self._shown += len(content)
        *lines, self._rest = (self._rest + content).split(b"\n")
        if is_last and self._rest:
            lines, self._rest = [*lines, self._rest], b""
        return [printable(line.decode("utf-8", "replace")) for line in lines]


def _job_name(run: Path) -> str:
    """Tells the jobs of one run from those of others."""
    digest = hashlib.sha256(os.fsencode(run.absolute())).hexdigest()
    return f"frazil-train-{re.sub(r'[^A-Za-z0-9._-]', '_', run.name)}-{digest[:8]}"


def _log_of(run: Path, number: str, *, percent: str = "%") -> Path:
    folder = str(run.absolute()).replace("%", percent)
    return Path(folder) / f"slurm-{number}.log"


def _bytes_of(size: str) -> float:
    """Bytes of a size such as 4GB or 500 MiB."""
    number, unit = re.fullmatch(r"([\d.]+) ?(\w+)", size).groups()  # type: ignore[union-attr] # as settings have it
    factor: int = (1024 if "i" in unit else 1000) ** _UNITS[unit[0].lower()]
    return float(number) * factor


def _run(*command: str) -> str:
    """What a command of Slurm prints."""
    try:
        done = subprocess.run(  # noqa: S603 - words, no shell
            command, capture_output=True, text=True, errors="replace", check=False, timeout=_COMMAND_SECONDS
        )
    except FileNotFoundError as error:
        raise FrazilError(
            f"expected Slurm's {command[0]} on this machine, found none: run this where jobs are submitted"
        ) from error
    except subprocess.TimeoutExpired as error:
        raise FrazilError(f"{command[0]}: expected an answer of Slurm, found none in {error.timeout:.0f} s") from error
    if done.returncode:
        raise FrazilError(f"{command[0]}: {' '.join(done.stderr.split()) or f'exit status {done.returncode}'}")
    return done.stdout
