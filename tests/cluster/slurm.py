"""A real Slurm for a test: its controller and two nodes on this machine, with all that is theirs below one folder.

It needs Debian's packages slurm-wlm and munge, and root: Slurm starts jobs as other users.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch")
NODES = ("left", "right")
PATIENCE_SECONDS = 240.0


def what_is_missing() -> str:
    """Why Slurm cannot be started here, in a few words; empty where it can."""
    missing = [program for program in PROGRAMS if shutil.which(program, path=search_path()) is None]
    if missing:
        return f"needs {missing[0]}: install Debian's slurm-wlm and munge"
    return "" if os.geteuid() == 0 else "needs root, as which Slurm starts jobs"


def search_path() -> str:
    return f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin"


@dataclass(frozen=True, kw_only=True)
class Slurm:
    """A running Slurm."""

    environment: Mapping[str, str]
    """For its commands, and for who calls them."""
    folder: Path

    def run(self, *command: str) -> str:
        """What one of its commands prints."""
        done = subprocess.run(
            command, env={**os.environ, **self.environment}, capture_output=True, text=True, check=False, timeout=60
        )
        assert done.returncode == 0, (command, done.stderr, self.logs())
        return done.stdout

    def jobs(self) -> list[str]:
        """Numbers of the jobs that run."""
        return self.run("squeue", "--noheader", "--states=running", "--format=%i").split()

    def nodes(self) -> dict[str, str]:
        """State of each node."""
        return dict(line.split() for line in self.run("sinfo", "--noheader", "-N", "-o", "%N %T").splitlines())

    def logs(self) -> str:
        """The end of what its programs said."""
        return "\n".join(f"{log.name}: {log.read_text()[-2000:]}" for log in sorted(self.folder.glob("*.log")))


def free_ports(count: int) -> list[int]:
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]


CONFIGURATION = """
ClusterName=archive
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={controller}
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket
CredType=cred/munge
MpiDefault=none
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SlurmdParameters=config_overrides
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool-%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd-%n.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd-%n.log
ReturnToService=2
KillWait=2
JobRequeue=0
SchedulerParameters=batch_sched_delay=0,sched_interval=2
{nodes}
PartitionName=night Nodes=ALL Default=YES MaxTime=INFINITE State=UP
"""


@contextlib.contextmanager
def run_slurm(folder: Path) -> Iterator[Slurm]:
    """Start Slurm with all its files in a folder, and end it."""
    controller, *ports = free_ports(1 + len(NODES))
    host = socket.gethostname().partition(".")[0]
    nodes = "\n".join(
        f"NodeName={name} NodeHostname={host} NodeAddr=127.0.0.1 Port={port} CPUs=2 RealMemory=16000 State=UNKNOWN"
        for name, port in zip(NODES, ports, strict=True)
    )
    file = folder / "slurm.conf"
    file.write_text(CONFIGURATION.format(host=host, controller=controller, folder=folder, nodes=nodes))
    (folder / "state").mkdir()
    key = folder / "munge.key"
    key.write_bytes(secrets.token_bytes(128))
    key.chmod(0o400)
    environment = {"SLURM_CONF": str(file), "PATH": search_path()}
    commands = [
        ["munged", "--foreground", "--force", "--num-threads=1", f"--key-file={key}", f"--socket={folder}/munge.socket"]
        + [f"--{name}-file={folder}/munge.{name}" for name in ("pid", "seed", "log")],
        ["slurmctld", "-D", "-f", str(file)],
        *(["slurmd", "-D", "-f", str(file), "-N", name] for name in NODES),
    ]
    slurm = Slurm(environment=environment, folder=folder)
    with contextlib.ExitStack() as stack:
        for command in commands:
            process = subprocess.Popen(
                command,
                env={**os.environ, **environment},
                cwd=folder,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                start_new_session=True,
            )
            stack.callback(end, process)
            if command[0] == "munged":
                wait_for_file(folder / "munge.socket")
        deadline = time.monotonic() + PATIENCE_SECONDS
        while True:
            with contextlib.suppress(AssertionError, subprocess.TimeoutExpired):
                if set(slurm.nodes().values()) == {"idle"}:
                    break
            assert time.monotonic() < deadline, slurm.logs()
            time.sleep(0.2)
        yield slurm
        for job in slurm.run("squeue", "--noheader", "--format=%i").split():
            slurm.run("scancel", job)


def wait_for_file(file: Path) -> None:
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not file.exists():
        assert time.monotonic() < deadline, file
        time.sleep(0.05)


def end(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(30)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
