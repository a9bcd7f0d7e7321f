"""Memory: how much this process may still take, and how much it holds.

What a service may take is bounded by its control group before the machine's memory is; whoever goes beyond is killed.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

__all__ = ["available_bytes", "held_bytes"]

_CGROUPS = Path("/sys/fs/cgroup")
_PROC = Path("/proc")


def available_bytes(proc: Path = _PROC, cgroups: Path = _CGROUPS) -> int | None:
    """Bytes that this process can still take before the system or its control group kills; None where none can be told.

    Args:
        proc: where the kernel's process information is mounted.
        cgroups: where the control groups (version 2) are mounted.
    """
    return min((*_left_of_machine(proc), *_left_of_groups(proc, cgroups)), default=None)


def held_bytes(field: str) -> int:
    """Bytes of memory that this process holds, by a field of ``/proc/self/status``; 0 where it is not known.

    Args:
        field: ``VmRSS`` for what is resident now, ``VmHWM`` for the most that ever was, ``VmData`` for what was
            allocated.
    """
    return _kibibytes(_PROC / "self" / "status", field) or 0


def _left_of_machine(proc: Path) -> Iterator[int]:
    available = _kibibytes(proc / "meminfo", "MemAvailable")
    if available is not None:
        yield available


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
