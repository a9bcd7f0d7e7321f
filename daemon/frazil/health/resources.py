"""Resources: room on the disks and in the GPUs' memory, measured now and then.

In a thread of its own: a mount that hangs must hold up neither picking nor whoever asks.
"""

from __future__ import annotations

import contextlib
import ctypes
import logging
import os
import threading
from collections.abc import Mapping
from pathlib import Path

from frazil.health.state import Disk, Gpu

__all__ = ["Resources", "count_nvidia_gpus", "give_back_large_blocks", "read_gpu_memory"]

log = logging.getLogger(__name__)

_EVERY_SECONDS = 10.0
_NVIDIA = 0x10DE
_DISPLAY = 0x03
"""PCI class of everything that computes pictures, or was made from what does."""


class Resources:
    """Measures how much room there is.

    Args:
        disks: a directory on each disk, by the name that the disk goes by.

    Attributes:
        disks: by name, once measured.
        gpus: by index.
    """

    def __init__(self, disks: Mapping[str, Path]) -> None:
        self._directories = disks
        self.disks: dict[str, Disk] = {}
        self.gpus: dict[int, Gpu] = {}
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="frazil-resources", daemon=True)

    def start(self) -> None:
        """Measure now, and go on."""
        self._thread.start()

    def stop(self) -> None:
        """Stop; a thread that hangs on a dead mount is left behind."""
        self._stop.set()
        self._thread.join(1.0)

    def measure(self) -> None:
        """Measure once."""
        for name, directory in self._directories.items():
            # A new one each time: whoever reads the old one meanwhile finds it whole.
            self.disks = {**self.disks, name: _measure(directory)}
        self.gpus = {gpu: Gpu(used_bytes=used, bytes=total) for gpu, (used, total) in read_gpu_memory().items()}

    def _run(self) -> None:
        while True:
            self.measure()
            if self._stop.wait(_EVERY_SECONDS):
                return


def _measure(directory: Path) -> Disk:
    try:
        found = os.statvfs(directory)
    except OSError:  # whoever writes there says what is the matter
        return Disk()
    return Disk(
        free_bytes=found.f_bavail * found.f_frsize,
        size_bytes=found.f_blocks * found.f_frsize,
        # Some file systems make inodes as they need them, and then count none.
        free_inodes=found.f_favail / found.f_files if found.f_files else 1.0,
    )


def count_nvidia_gpus(bus: Path = Path("/sys/bus/pci/devices")) -> int:
    """NVIDIA GPUs in this machine, by the bus, which knows of those that lack a driver too."""
    count = 0
    with contextlib.suppress(OSError):
        for device in bus.iterdir():
            with contextlib.suppress(OSError, ValueError):
                vendor = int((device / "vendor").read_text("ascii"), 16)
                kind = int((device / "class").read_text("ascii"), 16) >> 16
                count += (vendor, kind) == (_NVIDIA, _DISPLAY)
    return count


class _Memory(ctypes.Structure):
    _fields_ = (("total", ctypes.c_ulonglong), ("free", ctypes.c_ulonglong), ("used", ctypes.c_ulonglong))


def read_gpu_memory(library: str = "libnvidia-ml.so.1") -> dict[int, tuple[int, int]]:
    """Bytes used, by whatever program, and bytes in all of each GPU's memory, by its index; none without a driver.

    Args:
        library: NVIDIA's management library, which comes with the driver.
    """
    try:
        nvml = ctypes.CDLL(library)
    except OSError:
        return {}
    if nvml.nvmlInit_v2() != 0:
        return {}
    count = ctypes.c_uint(0)
    found = {}
    if nvml.nvmlDeviceGetCount_v2(ctypes.byref(count)) == 0:
        for index in range(count.value):
            device, memory = ctypes.c_void_p(), _Memory()
            if (
                nvml.nvmlDeviceGetHandleByIndex_v2(index, ctypes.byref(device)) == 0
                and nvml.nvmlDeviceGetMemoryInfo(device, ctypes.byref(memory)) == 0
            ):
                found[index] = (memory.used, memory.total)
    nvml.nvmlShutdown()
    return found


_M_MMAP_THRESHOLD = -3
"""As in malloc.h of glibc."""
_LARGE_BYTES = 1 << 20


def give_back_large_blocks() -> None:
    """Have glibc take every block of 1 MiB or more from the system by itself, and give it back when it is freed.

    Left alone, glibc raises that bound to the size of a picture, and keeps pictures beside small blocks: one of
    these that stays keeps tens of megabytes of nothing in memory for good. Elsewhere than on glibc it does nothing.
    """
    with contextlib.suppress(AttributeError, OSError):
        ctypes.CDLL(None).mallopt(_M_MMAP_THRESHOLD, _LARGE_BYTES)
