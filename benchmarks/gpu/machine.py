"""The machine: what it is, how full its device is, and how to fill it."""

from __future__ import annotations

import contextlib
import importlib.metadata
import os
import platform
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

__all__ = ["DeviceMemory", "describe", "device_used_mib", "fill_device"]

_FILLER = """
import sys, torch
blocks, leave = [], int(sys.argv[1])
if torch.cuda.is_available():
    for block in (1024, 64, 8, 2):
        while torch.cuda.mem_get_info()[0] // 2**20 > leave + block:
            blocks.append(torch.empty(block * 2**20, dtype=torch.uint8, device="cuda"))
print(sum(map(len, blocks)) // 2**20, flush=True)
sys.stdin.read()
"""


def describe() -> dict[str, Any]:
    """What is measured on, and with what."""
    found: dict[str, Any] = dict.fromkeys(("frazil", "onnxruntime-gpu", "torch"), "none")
    for name in found:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[name] = importlib.metadata.version(name)
    found |= {"python": platform.python_version(), "cores": len(os.sched_getaffinity(0)), "gpu": "none"}
    with contextlib.suppress(OSError, subprocess.CalledProcessError):
        found["gpu"] = _nvidia_smi("name,driver_version,memory.total")
    processors = Path("/proc/cpuinfo").read_text().splitlines()
    found["processor"] = next((s.partition(": ")[2] for s in processors if s.startswith("model name")), "unknown")
    return found


def _nvidia_smi(what: str) -> str:
    command = ["nvidia-smi", f"--query-gpu={what}", "--format=csv,noheader,nounits"]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()[0]


def device_used_mib() -> int | None:
    """Memory of the device that is taken, by whomever; None without one."""
    try:
        return int(_nvidia_smi("memory.used"))
    except (OSError, subprocess.CalledProcessError):
        return None


class DeviceMemory:
    """Looks at the device's memory twice a second, as long as this is open.

    Attributes:
        used_mib: what was found, empty without a device.
    """

    def __init__(self) -> None:
        self.used_mib: list[int] = []
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._look)

    def __enter__(self) -> DeviceMemory:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()

    def _look(self) -> None:
        while (used := device_used_mib()) is not None and not self._ended.wait(0.5):
            self.used_mib.append(used)

    @property
    def most_mib(self) -> int | None:
        """The most that was found."""
        return max(self.used_mib, default=None)


@contextlib.contextmanager
def fill_device(leave_mib: int) -> Iterator[int]:
    """Take the device's memory but for so much, in another process; yields how many MiB, 0 without a device."""
    command = [sys.executable, "-c", _FILLER, str(leave_mib)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as filler:
        assert filler.stdin is not None
        assert filler.stdout is not None
        line = filler.stdout.readline()
        try:
            yield int(line)
        finally:
            filler.stdin.close()
