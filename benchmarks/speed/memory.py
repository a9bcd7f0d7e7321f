"""Section `memory`: the most that picking one micrograph ever holds, in a process of its own."""

from __future__ import annotations

import msgspec

from benchmarks.daemon_process import FRAZIL
from benchmarks.speed.bench import DIAMETER_ANGSTROM, MODELS, Bench
from benchmarks.speed.child import run_child

__all__ = ["Memory", "Peak", "measure"]


class Peak(msgspec.Struct, frozen=True, kw_only=True):
    """Of one model on one float32 micrograph."""

    model: str
    size_px: int
    micrograph_mib: float
    peak_mib: float


class Memory(msgspec.Struct, frozen=True, kw_only=True):
    """High-water marks of ``frazil pick``; those of the daemon are measured where it works off a backlog."""

    peaks: list[Peak]


def measure(bench: Bench) -> Memory:
    """Run ``frazil pick`` for each model and size."""
    peaks = []
    for model in MODELS:
        for size_px in bench.scale.sizes_px:
            bench.say(f"frazil pick with {model} on {size_px} x {size_px}")
            micrograph = bench.micrograph((size_px, size_px))
            command = [FRAZIL, "pick", micrograph, "--diameter", f"{DIAMETER_ANGSTROM:g}", "--device", "cpu"]
            command += ["--threads", str(bench.threads), "--model", bench.models / model, "--out", bench.folder / "one"]
            child = run_child(command)
            micrograph_mib = round(micrograph.stat().st_size / 2**20, 1)
            peak_mib = round(child.peak_mib)
            peaks.append(Peak(model=model, size_px=size_px, micrograph_mib=micrograph_mib, peak_mib=peak_mib))
    return Memory(peaks=peaks)
