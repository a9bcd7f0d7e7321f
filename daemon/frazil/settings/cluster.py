"""What ``frazil repick`` asks of a cluster: the table ``[cluster]`` at the end of a settings file, or options.

Only the workers and their threads mean something everywhere; the others are for Slurm, or for TLS.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import msgspec

__all__ = ["ClusterSettings"]

_Count = Annotated[int, msgspec.Meta(ge=1)]


def _setting(text: str, *, file: bool = False, like: str = "") -> msgspec.Meta:
    return msgspec.Meta(description=text, extra={"must_be": "file" if file else None, "like": like})


class ClusterSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Workers, and what a Slurm job of one worker asks for."""

    workers: Annotated[
        _Count | None,
        _setting("Number of workers, each a process. Default: a core for each thread here; one with Slurm."),
    ] = None
    threads_per_worker: Annotated[_Count, _setting("CPU threads with which a worker picks a micrograph.")] = 1
    gpus_per_worker: Annotated[
        Annotated[int, msgspec.Meta(ge=0)], _setting("GPUs that the Slurm job of a worker asks for.")
    ] = 0
    queue: Annotated[str | None, _setting("Slurm partition. Default: the cluster's own.")] = None
    account: Annotated[str | None, _setting("Slurm account. Default: the user's own.")] = None
    memory: Annotated[
        Annotated[str, msgspec.Meta(pattern=r"^\d+(\.\d+)? ?[kKMGT]i?B$")] | None,
        _setting(
            "Memory of a worker: Slurm reserves it, and a worker that takes more is started anew. "
            "Default: any on this machine; 4GB with Slurm.",
            like="a size such as 4GB",
        ),
    ] = None
    walltime: Annotated[
        Annotated[str, msgspec.Meta(pattern=r"^\d+:\d\d:\d\d$")],
        _setting(
            "Longest time of a Slurm job. Before it ends, its worker takes no more, and another is asked for.",
            like="a time such as 08:00:00",
        ),
    ] = "08:00:00"
    directives: Annotated[list[str], _setting("Further options of a Slurm job, such as --exclude=node7.")] = (
        msgspec.field(default_factory=list)
    )
    prologue: Annotated[
        list[str], _setting("Lines of shell before a worker starts in its Slurm job, such as module load cuda.")
    ] = msgspec.field(default_factory=list)
    interface: Annotated[
        str | None,
        _setting(
            "Network interface by which workers and this machine reach each other, such as ib0. "
            "Default: the system's choice."
        ),
    ] = None
    scratch: Annotated[
        Path | None, _setting("Directory on the disk of a worker's machine for its own files. Default: the system's.")
    ] = None
    tls_ca: Annotated[
        Path | None, _setting("Certificate of who signed those of a cluster that is joined by tls://.", file=True)
    ] = None
    tls_cert: Annotated[Path | None, _setting("Own certificate for it.", file=True)] = None
    tls_key: Annotated[Path | None, _setting("Secret key of that certificate.", file=True)] = None
