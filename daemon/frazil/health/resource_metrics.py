"""What the daemon shows to Prometheus of the machine: room on its disks, and its GPUs."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Gauge

__all__ = ["ResourceMetrics"]


class ResourceMetrics:
    """Room on the disks and in the GPUs' memory, and whether a GPU should be used."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.disk_free = Gauge(
            "frazil_disk_free_bytes",
            "Room that frazil may use on the disk of the results (out) and of the ledger.",
            ["disk"],
            registry=registry,
        )
        self.disk_size = Gauge("frazil_disk_size_bytes", "Size of these disks.", ["disk"], registry=registry)
        self.disk_free_inodes = Gauge(
            "frazil_disk_free_inodes_ratio",
            "Share of the disk's inodes that are free; 1 where the file system does not count them.",
            ["disk"],
            registry=registry,
        )
        self.gpu_memory_used = Gauge(
            "frazil_gpu_memory_used_bytes", "Memory of a GPU in use, by whatever program.", ["gpu"], registry=registry
        )
        self.gpu_memory = Gauge("frazil_gpu_memory_bytes", "Memory of a GPU.", ["gpu"], registry=registry)
        self.gpu_expected = Gauge(
            "frazil_gpu_expected",
            "1 where the model should run on a GPU: one is asked for, or there to be used.",
            registry=registry,
        )
