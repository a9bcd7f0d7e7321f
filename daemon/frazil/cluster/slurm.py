"""Slurm: a scheduler whose workers are its jobs, and the jobs that are asked for again."""

from __future__ import annotations

import contextlib
import logging
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from frazil.errors import FrazilError
from frazil.settings import ClusterSettings

if TYPE_CHECKING:
    from dask_jobqueue import SLURMCluster

__all__ = ["LOGS", "SlurmJobs", "slurm_cluster"]

LOGS = "logs"
"""Folder of the logs of jobs."""
_JOB_NAME = "frazil-worker"
_MEMORY_OF_A_JOB = "4GB"
_LAST_SECONDS = 300.0
"""A worker takes no more work when so little of its job's time is left."""
_CLOSE_SECONDS = 10.0
_ANSWER_SECONDS = 20.0
_IN_VAIN = 6
"""Jobs in a row that ended before their worker came, after which no more are asked for while there is no worker."""
_FIRST_REST_SECONDS, _LONGEST_REST_SECONDS = 5.0, 300.0
"""Before a job is asked for again that ended so: each time in a row it is twice as long."""


class SlurmJobs:
    """Sees that there are as many jobs as there should be.

    Dask asks again for a job whose worker has gone. One that ended before its worker came it takes for one that is
    queued; so Slurm is asked, too.

    Args:
        cluster: of `slurm_cluster`.
        jobs: number of them.
        logs: folder of their logs, to name it.
    """

    def __init__(self, cluster: SLURMCluster, jobs: int, logs: Path) -> None:
        self._cluster = cluster
        self._jobs = jobs
        self._logs = logs
        self._in_vain = 0
        self._came: set[str] = set()
        self._next_look = 0.0

    def keep(self) -> None:
        """Ask for the jobs that are missing.

        Raises:
            FrazilError: several ended in a row before a worker came, and there is none.
        """
        cluster = self._cluster
        came = {str(worker["name"]) for worker in cluster.scheduler_info["workers"].values()}
        if came - self._came:
            self._in_vain = 0
        self._came |= came
        now = time.monotonic()
        if now >= self._next_look:
            lost = self._lost()
            for name in lost:
                cluster.worker_spec.pop(name, None)  # another one gets a name of its own
            self._in_vain += len(lost)
            if self._in_vain >= _IN_VAIN and not came:
                raise FrazilError(
                    f"Slurm: expected a worker of each job, found that {self._in_vain} jobs ended before theirs came: "
                    f"what they said is in {self._logs}"
                )
            if lost:
                rest_seconds = min(_FIRST_REST_SECONDS * 2 ** (self._in_vain // self._jobs), _LONGEST_REST_SECONDS)
                self._next_look = now + rest_seconds
        cluster.scale(jobs=self._jobs)

    def _lost(self) -> list[str]:
        """Names of the jobs that ended before their worker came."""
        waited_for = {
            name: str(job.job_id)
            for name, job in list(self._cluster.workers.items())
            if name not in self._came and getattr(job, "job_id", None) and name in self._cluster.worker_spec
        }
        if not waited_for:
            return []
        command = ["squeue", "--noheader", f"--name={_JOB_NAME}", "--format=%A"]
        try:
            found = subprocess.run(  # noqa: S603 - the user's own Slurm
                command, capture_output=True, text=True, check=True, timeout=_ANSWER_SECONDS
            )
        except (OSError, subprocess.SubprocessError):
            return []  # the next look may find out
        known = set(found.stdout.split())
        return [name for name, job in waited_for.items() if job not in known]


@contextlib.contextmanager
def slurm_cluster(settings: ClusterSettings, folder: Path) -> Iterator[SLURMCluster]:
    """Start a scheduler here whose workers are jobs of Slurm; what was started ends with it.

    Args:
        settings: of the cluster.
        folder: directory that the machines share, for certificates and the logs of jobs.

    Raises:
        FrazilError: it cannot be started.
    """
    import dask
    from dask_jobqueue import SLURMCluster
    from distributed import Security

    folder.mkdir(parents=True, exist_ok=True)
    folder.chmod(0o700)  # the workers' secret key lies there while it runs
    hours, minutes, seconds = map(int, settings.walltime.split(":"))
    walltime = 3600 * hours + 60 * minutes + seconds
    lifetime = max(0.5 * walltime, walltime - _LAST_SECONDS)
    gpus = [f"--gres=gpu:{settings.gpus_per_worker}"] if settings.gpus_per_worker else []
    try:
        cluster = SLURMCluster(
            queue=settings.queue,
            account=settings.account,
            cores=1,  # a worker picks one micrograph at a time, with threads of its own
            processes=1,
            job_cpu=settings.threads_per_worker,
            memory=settings.memory or _MEMORY_OF_A_JOB,
            walltime=settings.walltime,
            interface=settings.interface,
            job_name=_JOB_NAME,
            job_extra_directives=[*gpus, *settings.directives],
            job_script_prologue=[
                *settings.prologue,
                f"export DASK_INTERNAL_INHERIT_CONFIG={dask.config.serialize(dask.config.config)}",
            ],
            python=sys.executable,
            local_directory=None if settings.scratch is None else str(settings.scratch),
            log_directory=str(folder / LOGS),
            shared_temp_directory=str(folder),
            worker_extra_args=[
                "--lifetime",
                f"{lifetime:.0f}s",
                "--lifetime-stagger",
                f"{0.1 * lifetime:.0f}s",
                "--no-dashboard",
            ],
            scheduler_options={"dashboard": False, "dashboard_address": "127.0.0.1:0"},
            security=Security.temporary(),
            silence_logs=logging.CRITICAL,
        )
    except (OSError, RuntimeError, TimeoutError, ValueError) as error:
        raise FrazilError(
            f"Slurm: no scheduler can be started for its jobs: {' '.join(str(error).split()) or type(error).__name__}"
        ) from error
    try:
        yield cluster
    finally:
        with contextlib.suppress(Exception):
            cluster.close(timeout=_CLOSE_SECONDS)
