"""How long one micrograph takes, stage by stage, beside the floor; and how soon the daemon is ready.

Run by ``make bench``. The floor is what no picker with this model can avoid: reading the file's bytes, and the bare
ONNX session on tiles that lie ready. Runs of both are interleaved and medians are given, since machines are noisy.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import cv2
import mrcfile
import numpy as np
from rich.console import Console
from rich.table import Table

from frazil.picking import Picker, PickingSettings, available_cores, load_model, read_micrograph, write_star
from frazil.settings import default_model_path

T = TypeVar("T")
BIN = Path(sys.executable).parent
PIXEL_SIZE_ANGSTROM = 1.77
DIAMETER_ANGSTROM = 191.0


def main() -> int:
    """Measure and print; the same figures go to a JSON file if wanted."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--size", type=int, default=4096, help="side of the micrograph in pixels (default 4096)")
    parser.add_argument("--runs", type=int, default=15, help="interleaved runs (default 15)")
    parser.add_argument("--model", type=Path, default=default_model_path(), help="default: the default model")
    parser.add_argument("--threads", type=int, default=available_cores(), help="default: every core")
    parser.add_argument("--json", type=Path, help="also write the figures here")
    args = parser.parse_args()

    with tempfile.TemporaryDirectory() as folder:
        micrograph = write_noise(Path(folder) / "noise.mrc", args.size)
        seconds, facts = time_picking(micrograph, args.model, args.threads, args.runs)
        ready = time_ready(Path(folder), args.model)
    report = {
        "machine": {"processor": processor(), "cores": available_cores(), "python": platform.python_version()},
        "micrograph": {"size_px": args.size, "type": "float32", **facts},
        "seconds": {name: summary(values) for name, values in seconds.items()},
        "ready_seconds": summary(ready),
    }
    show(report)
    if args.json:
        args.json.write_text(json.dumps(report, indent=2) + "\n")
    return 0


def write_noise(path: Path, size: int) -> Path:
    """A float32 micrograph of noise: the time does not depend on what is in it."""
    with mrcfile.new(path) as mrc:
        mrc.set_data(np.random.default_rng(0).normal(100, 10, (size, size)).astype(np.float32))
        mrc.voxel_size = PIXEL_SIZE_ANGSTROM
    return path


def time_picking(path: Path, model: Path, threads: int, runs: int) -> tuple[dict[str, list[float]], dict[str, object]]:
    """Seconds of each stage, of the whole, and of the floor, in interleaved runs."""
    cv2.setNumThreads(threads)
    loaded = load_model(model, "cpu", threads)
    loaded.warm_up()
    picker = Picker(loaded, PickingSettings(diameter_angstrom=DIAMETER_ANGSTROM))
    picture = picker.prepare(read_micrograph(path))
    tiling = picker.plan(picture)
    assert tiling is not None
    ready_tiles = [np.ascontiguousarray(batch) for batch in tiling.batches(picture.pixels, loaded.batch)]
    star = path.with_name("noise_picks.star")
    seconds: dict[str, list[float]] = {}

    def timed(name: str, step: Callable[..., T], *args: object) -> T:
        started = time.perf_counter()
        result = step(*args)
        seconds.setdefault(name, []).append(time.perf_counter() - started)
        return result

    for _ in range(runs):
        timed("floor: read bytes", np.fromfile, path, np.uint8)
        timed("floor: bare session", lambda: [loaded.score(batch) for batch in ready_tiles])
        micrograph = timed("read", read_micrograph, path)
        picture = timed("prepare", picker.prepare, micrograph)
        score_map = timed("infer", picker.score, picture)
        picks = timed("peaks", picker.find, score_map, picture)
        timed("write", write_star, star, picks)
    stages = ("read", "prepare", "infer", "peaks", "write")
    floors = ("floor: read bytes", "floor: bare session")
    seconds["whole"] = [sum(seconds[s][i] for s in stages) for i in range(runs)]
    seconds["floor"] = [sum(seconds[f][i] for f in floors) for i in range(runs)]
    seconds["whole / floor"] = [a / b for a, b in zip(seconds["whole"], seconds["floor"], strict=True)]
    identity = loaded.identity
    return seconds, {
        "model": f"{identity.name}/{identity.version}",
        "windows": tiling.count,
        "provider": loaded.provider,
        "threads": threads,
    }


def time_ready(folder: Path, model: Path, runs: int = 5) -> list[float]:
    """Seconds from starting the process to its saying that it is ready."""
    times = []
    for run in range(runs):
        watched = folder / f"watched{run}"
        watched.mkdir()
        command = [BIN / "frazil", "serve", "--watch", watched, "--out", folder / f"out{run}", "--diameter", "191"]
        command += ["--publish", "tcp://127.0.0.1:0", "--http", "127.0.0.1:0", "--model", model]
        started = time.perf_counter()
        with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as daemon:
            assert daemon.stderr is not None
            next(line for line in daemon.stderr if re.search(r"\bready after\b", line))
            times.append(time.perf_counter() - started)
            daemon.terminate()
            daemon.stderr.read()
    return times


def summary(values: list[float]) -> dict[str, float]:
    """Median and extremes."""
    return {
        "median": round(statistics.median(values), 4),
        "least": round(min(values), 4),
        "most": round(max(values), 4),
    }


def processor() -> str:
    """What the machine calls its processor."""
    try:
        found = re.search(r"model name\s*:\s*(.+)", Path("/proc/cpuinfo").read_text())
    except OSError:
        found = None
    return found[1].strip() if found else platform.processor()


def show(report: dict[str, object]) -> None:
    """Print the figures as a table."""
    micrograph, machine = report["micrograph"], report["machine"]
    assert isinstance(micrograph, dict)
    assert isinstance(machine, dict)
    side = micrograph["size_px"]
    table = Table("stage", "median", "least", "most", title=f"{side} x {side} float32, {micrograph['model']}")
    rows = {**report["seconds"], "daemon ready": report["ready_seconds"]}  # type: ignore[dict-item]
    for name, figures in rows.items():
        unit = "" if "/" in name else " s"
        table.add_row(name, *(f"{figures[key]:.3f}{unit}" for key in ("median", "least", "most")))
    console = Console()
    console.print(table)
    console.print(
        f"{micrograph['windows']} windows, {micrograph['threads']} threads, {micrograph['provider']}; "
        f"{machine['processor']}, {machine['cores']} cores, Python {machine['python']}"
    )


if __name__ == "__main__":
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    sys.exit(main())
