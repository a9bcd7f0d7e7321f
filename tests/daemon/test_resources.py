"""Resources: room on the disks and in GPUs is measured; what cannot be seen is no number."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from frazil.health.resources import Resources, count_nvidia_gpus, read_gpu_memory
from frazil.health.state import Disk


def test_room_on_a_disk_is_what_df_says(tmp_path: Path) -> None:
    resources = Resources({"out": tmp_path})
    resources.measure()
    blocks = subprocess.run(
        ["df", "-B1", "--output=size,avail", tmp_path], capture_output=True, text=True, check=True
    ).stdout.split()
    size, free = int(blocks[-2]), int(blocks[-1])
    disk = resources.disks["out"]
    assert disk.size_bytes == size
    assert disk.free_bytes == pytest.approx(free, abs=0.05 * size)  # others write there too
    assert disk.free_inodes is not None
    assert 0 < disk.free <= disk.free_inodes <= 1


def test_a_disk_that_is_away_has_no_number_and_stops_nothing(tmp_path: Path) -> None:
    resources = Resources({"gone": tmp_path / "gone", "out": tmp_path})
    resources.start()
    resources.stop()
    assert resources.disks["gone"] == Disk()
    assert (resources.disks["out"].free_bytes or 0) > 0


def test_a_disk_that_comes_back_is_measured_again(tmp_path: Path) -> None:
    away = tmp_path / "away"
    resources = Resources({"out": away})
    resources.measure()
    away.mkdir()
    resources.measure()
    assert (resources.disks["out"].free_bytes or 0) > 0


def device(bus: Path, name: str, vendor: str, kind: str) -> None:
    (bus / name).mkdir(parents=True)
    (bus / name / "vendor").write_text(vendor + "\n")
    (bus / name / "class").write_text(kind + "\n")


def test_gpus_are_counted_on_the_bus_with_a_driver_or_without(tmp_path: Path) -> None:
    device(tmp_path, "0000:01:00.0", "0x10de", "0x030200")  # a compute card
    device(tmp_path, "0000:01:00.1", "0x10de", "0x040300")  # its sound
    device(tmp_path, "0000:02:00.0", "0x10de", "0x030000")  # one with a screen
    device(tmp_path, "0000:03:00.0", "0x8086", "0x030000")  # of another make
    (tmp_path / "0000:04:00.0").mkdir()
    assert count_nvidia_gpus(tmp_path) == 2


def test_a_machine_without_that_bus_has_no_gpu(tmp_path: Path) -> None:
    assert count_nvidia_gpus(tmp_path / "none") == 0


def test_without_the_driver_there_is_no_memory_to_show(tmp_path: Path) -> None:
    assert read_gpu_memory(str(tmp_path / "libnvidia-ml.so.1")) == {}


NVML = """
typedef struct { unsigned long long total, free, used; } memory;
int nvmlInit_v2(void) { return 0; }
int nvmlShutdown(void) { return 0; }
int nvmlDeviceGetCount_v2(unsigned *count) { *count = 3; return 0; }
int nvmlDeviceGetHandleByIndex_v2(unsigned index, void **device)
    { *device = (void *)(long)(index + 1); return index == 1 ? 15 : 0; }
int nvmlDeviceGetMemoryInfo(void *device, memory *m)
    { m->total = 1000; m->free = 400; m->used = 600 + (long)device; return 0; }
"""


def test_memory_is_read_as_nvidia_lays_it_out(tmp_path: Path) -> None:
    source, library = tmp_path / "nvml.c", tmp_path / "libnvml.so"
    source.write_text(NVML)
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        assert os.environ.get("CI") != "true"
        pytest.skip("needs a C compiler")
    subprocess.run([compiler, "-shared", "-fPIC", "-o", library, source], check=True, capture_output=True)
    # The second is lost from the bus; the others are shown all the same.
    assert read_gpu_memory(str(library)) == {0: (601, 1000), 2: (603, 1000)}
