"""A command in a process of its own: how long it takes, and the most memory that it ever holds.

A process counts as its own the memory of whoever started it, so a small one stands between: this file, run as a script.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

__all__ = ["Child", "run_child"]


@dataclass(frozen=True, kw_only=True)
class Child:
    """What a command took."""

    seconds: float
    peak_mib: float


def run_child(command: Sequence[str | Path], folder: Path | None = None) -> Child:
    """Run a command to its end, its output thrown away.

    Raises:
        RuntimeError: it failed.
    """
    launcher = [sys.executable, "-I", "-S", __file__, *map(str, command)]
    done = subprocess.run(launcher, cwd=folder, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{' '.join(map(str, command))}: exit status {done.returncode}\n{done.stderr[-2000:]}")
    return Child(**json.loads(done.stdout))


def _launch(command: list[str]) -> int:
    """Run it and print its time and memory; its own output goes to standard error."""
    started = time.perf_counter()
    pid = os.posix_spawnp(command[0], command, os.environ, file_actions=[(os.POSIX_SPAWN_DUP2, 2, 1)])
    _, status, usage = os.wait4(pid, 0)
    print(json.dumps({"seconds": time.perf_counter() - started, "peak_mib": usage.ru_maxrss / 1024}))
    return os.waitstatus_to_exitcode(status)


if __name__ == "__main__":
    sys.exit(_launch(sys.argv[1:]))
