"""The parts: what is measured on a GPU. Each case is a row of the results as soon as it is measured.

python -m benchmarks.gpu.parts NAME --out DIR --device cuda, as `run` calls it.
"""

from __future__ import annotations

import argparse
import functools
import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from benchmarks.daemon_process import DaemonProcess
from benchmarks.figures import seconds_of
from benchmarks.gpu.machine import DeviceMemory, device_used_mib, fill_device
from benchmarks.gpu.results import Results
from benchmarks.gpu.scale import SCALES, Scale
from benchmarks.micrographs import write_micrograph
from frazil.machine import STAGES, Bench, compare_picks
from frazil.model import load_model
from frazil.model.runtime import ort
from frazil.picking import Picker, PickingSettings, PreparationOnDevice, read_micrograph

REPOSITORY = Path(__file__).resolve().parents[2]
TRAINER = Path(sys.executable).parent / "frazil-train"
DIAMETER_ANGSTROM, PIXEL_SIZE_ANGSTROM = 191.0, 1.77
SETTINGS = PickingSettings(diameter_angstrom=DIAMETER_ANGSTROM)
NUMBERS = ("float32", "half")
PREPARATIONS: tuple[Literal["host", "device"], ...] = ("host", "device")
LEFT_MIB = 64
"""Of a full device: too little for the buffers of a micrograph of another shape."""
PATIENCE_SECONDS = 60.0

Figures = dict[str, Any]
Case = tuple[str, Callable[[], Figures]]


@dataclass(frozen=True, kw_only=True)
class Station:
    """Where it is measured, and how much."""

    device: Literal["cpu", "cuda"]
    scale: Scale
    work: Path

    def model(self, name: str, numbers: str) -> Path:
        """A model of the repository, or its copy in half precision, made at the first call."""
        full = REPOSITORY / "exported_models" / name
        if numbers == "float32":
            return full
        half = self.work / "models" / f"{name}-half"
        if not half.exists():
            train("half", full, "--out", half)
        return half / "1"

    def micrograph(self, side: int, seed: int = 0) -> Path:
        """Noise and discs: enough to measure time."""
        path = self.work / f"{side}-{seed}.mrc"
        if not path.exists():
            aside, diameter_px = path.with_suffix(".aside.mrc"), DIAMETER_ANGSTROM / PIXEL_SIZE_ANGSTROM
            shape, pixel_size = (side, side), PIXEL_SIZE_ANGSTROM
            write_micrograph(
                aside, shape, "float32", pixel_size_angstrom=pixel_size, diameter_px=diameter_px, seed=seed
            )
            aside.rename(path)
        return path

    def simulated(self, side: int, count: int) -> Path:
        """Folder of micrographs with particles and their labels."""
        folder = self.work / f"simulated-{side}"
        train("simulate", "--out", folder, "--size", side, "--count", count, "--seed", 1)
        return folder


def train(*arguments: object) -> subprocess.CompletedProcess[str]:
    """Run ``frazil-train``, as `ran` does.

    Raises:
        RuntimeError: it failed.
    """
    return ran([TRAINER, *arguments])


def ran(command: list[object]) -> subprocess.CompletedProcess[str]:
    """Run a command to its end; what it printed.

    Raises:
        RuntimeError: it failed.
    """
    words = [*map(str, command)]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{Path(words[0]).name} {words[1]}: {(done.stderr or done.stdout).strip()[-1000:]}")
    return done


# --- picks ------------------------------------------------------------------------------------------------------


def picks(station: Station) -> Iterator[Case]:
    """The picks of the device beside those of the full model on the CPU."""
    for model in station.scale.models:
        for numbers in NUMBERS:
            for preparation in PREPARATIONS:
                compare = functools.partial(compare_on, station, model, numbers, preparation)
                yield f"{model} {numbers} {preparation}", compare


def compare_on(station: Station, model: str, numbers: str, preparation: Literal["host", "device"]) -> Figures:
    """All micrographs, added up."""
    loaded = load_model(station.model(model, numbers), station.device)
    prepared = PreparationOnDevice(loaded, preparation)
    there = Picker(loaded, SETTINGS, device=prepared)
    here = Picker(load_model(station.model(model, "float32"), "cpu"), SETTINGS)
    micrographs = sorted(station.simulated(station.scale.picked_px, station.scale.picked).glob("*.mrc"))
    each = [compare_picks(there.pick(read_micrograph(m)), here.pick(read_micrograph(m))) for m in micrographs]
    return {
        "micrographs": len(each),
        "provider": loaded.provider,
        "prepared": prepared.describe(),
        "picks": sum(c.picks for c in each),
        "cpu_picks": sum(c.cpu_picks for c in each),
        "matched": sum(c.matched for c in each),
        "largest_distance_px": max(c.largest_distance_px for c in each),
        "largest_difference": max(c.largest_difference for c in each),
    }


# --- bench ------------------------------------------------------------------------------------------------------


def bench(station: Station) -> Iterator[Case]:
    """Stages, rates and what bounds them."""
    for side in station.scale.sizes_px:
        for model in station.scale.models:
            for numbers in NUMBERS:
                for preparation in PREPARATIONS:
                    measure = functools.partial(measure_speed, station, side, model, numbers, preparation)
                    yield f"{model} {numbers} {preparation} {side}", measure


def measure_speed(
    station: Station, side: int, model: str, numbers: str, preparation: Literal["host", "device"]
) -> Figures:
    """As ``frazil bench`` does, and with several pickers at once."""
    benches = [
        Bench(
            micrograph=station.micrograph(side),
            model=station.model(model, numbers),
            settings=SETTINGS,
            device=station.device,
            preparation=preparation,
        )
        for _ in range(max(station.scale.in_flight))
    ]
    one = benches[0]
    for _ in one.rounds(station.scale.rounds):
        pass
    rates = {}
    for several in station.scale.in_flight:
        count = 2 * station.scale.rounds
        started = time.perf_counter()
        with ThreadPoolExecutor(several) as pool:
            list(pool.map(functools.partial(Bench.measure_throughput, count=count), benches[:several]))
        rates[str(several)] = round(several * count / (time.perf_counter() - started), 3)
    copy = copy_seconds(station, station.micrograph(side))
    bound = max(one.median("bytes"), copy or 0.0, one.median("session"))
    return {
        "provider": one.provider,
        "prepared": one.prepared,
        "computes_in": one.computes_in,
        "seconds_of": {name: round(one.median(name), 5) for name in (*STAGES, "whole", "bytes", "session")},
        "copy_seconds": copy,
        "per_second": rates,
        "times_bound": round(1 / max(rates.values()) / bound, 3),
        "device_used_mib": device_used_mib(),
    }


def copy_seconds(station: Station, path: Path) -> float | None:
    """What copies a micrograph to the device, at its best; None on the CPU, where nothing is copied."""
    if station.device == "cpu":
        return None
    pixels = read_micrograph(path).pixels
    copy = functools.partial(ort.OrtValue.ortvalue_from_numpy, pixels, station.device, 0)
    return round(min(seconds_of(copy) for _ in range(station.scale.rounds)), 5)


# --- the daemon -------------------------------------------------------------------------------------------------


def serve(station: Station, folder: Path, model: Path) -> DaemonProcess:
    """A daemon on the device, which picks every micrograph once."""
    options = ["--model", model, "--device", station.device, "--diameter", DIAMETER_ANGSTROM, "--no-choose-threshold"]
    return DaemonProcess(folder / "watch", folder / "out", *options, "--unlike", "pick")


def link(sources: list[Path], folder: Path, names: range) -> None:
    """Many micrographs of few, which take no space."""
    folder.mkdir(parents=True, exist_ok=True)
    for i in names:
        os.link(sources[i % len(sources)], folder / f"m{i:04}.mrc")


def backlog(station: Station) -> Iterator[Case]:
    """The daemon with many micrographs that wait for it."""
    for model in station.scale.models:
        for numbers in NUMBERS:
            yield f"{model} {numbers}", functools.partial(pick_backlog, station, model, numbers)


def pick_backlog(station: Station, model: str, numbers: str) -> Figures:
    """From the first picked to the last, files, documents and ledger included."""
    count, side = station.scale.backlog, station.scale.backlog_px
    folder = station.work / f"backlog-{model}-{numbers}-{time.time_ns()}"
    link([station.micrograph(side, seed) for seed in range(4)], folder / "watch", range(count))
    with DeviceMemory() as memory, serve(station, folder, station.model(model, numbers)) as daemon:
        daemon.wait_for(r"picked m\d", count)
        at = [when for when, line in daemon.lines if "picked m" in line]
        return {
            "micrographs": count,
            "side_px": side,
            "ready_seconds": round(daemon.ready_seconds, 2),
            "per_second": round((count - 1) / (at[-1] - at[0]), 3),
            "processor_seconds": round(daemon.processor_seconds()[0], 1),
            "memory_mib": round(daemon.memory_mib("VmHWM")),
            "device_most_mib": memory.most_mib,
            "runs_on": last_line(daemon, r"model \S+ .*runs on (.*)"),
        }


def last_line(daemon: DaemonProcess, pattern: str) -> str:
    """What the last line of the log that matches says; empty if none does."""
    return next((found[1].strip() for _, line in daemon.lines[::-1] if (found := re.search(pattern, line))), "")


def swaps(station: Station) -> Iterator[Case]:
    """Models swapped under load, memory watched."""
    yield "fcn and cnn", functools.partial(swap, station)


def swap(station: Station) -> Figures:
    """By `benchmarks/swap_models.py`, which fails if anything is lost, repeated or mixed."""
    report = station.work / "swaps.json"
    script = REPOSITORY / "benchmarks" / "swap_models.py"
    scale = station.scale
    command = [sys.executable, script, "--swaps", scale.swaps, "--size", scale.swapped_px, "--json", report]
    with DeviceMemory() as memory:
        ran([*command, "--device", station.device])
    used = memory.used_mib
    quarter = max(1, len(used) // 4)
    device = (
        {"first_half": max(used[quarter : 2 * quarter]), "last_quarter": max(used[-quarter:])} if used[2:] else None
    )
    return json.loads(report.read_text()) | {"device_mib": device}


def memory(station: Station) -> Iterator[Case]:
    """The device's memory taken by somebody else."""
    yield "full while it picks", functools.partial(fill_while_picking, station)
    yield "full at the start", functools.partial(fill_at_the_start, station)


def fill_while_picking(station: Station) -> Figures:
    """Free, then full, then free again; each time micrographs of another shape, which need new buffers."""
    folder, count = station.work / f"memory-{time.time_ns()}", station.scale.full
    sides = [station.scale.picked_px + 64 * i for i in range(3)]
    sources = [station.micrograph(side) for side in sides]
    picked = {}
    with serve(station, folder, station.model("fcn", "float32")) as daemon:

        def feed(when: str, i: int) -> None:
            link(sources[i : i + 1], folder / "watch", range(i * count, (i + 1) * count))
            picked[when] = wait_for_picks(daemon, range(i * count, (i + 1) * count))

        feed("before", 0)
        with fill_device(LEFT_MIB) as filled:
            feed("full", 1)
        feed("after", 2)
        return {
            "filled_mib": filled,
            "each": count,
            "picked": picked,
            "picked_in_the_end": wait_for_picks(daemon, range(3 * count)),
            "alive": daemon.process.poll() is None,
            "warnings": warnings_of(daemon),
        }


def fill_at_the_start(station: Station) -> Figures:
    """What a daemon says that finds the device full, and whether it picks."""
    folder, count = station.work / f"memory-{time.time_ns()}", station.scale.full
    link([station.micrograph(station.scale.picked_px)], folder / "watch", range(count))
    with fill_device(LEFT_MIB) as filled:
        try:
            with serve(station, folder, station.model("fcn", "float32")) as daemon:
                picked = wait_for_picks(daemon, range(count))
                return {"filled_mib": filled, "each": count, "picked": picked, "warnings": warnings_of(daemon)}
        except RuntimeError as refused:
            return {"filled_mib": filled, "each": count, "picked": 0, "warnings": [str(refused)[-600:]]}


def wait_for_picks(daemon: DaemonProcess, names: range) -> int:
    """How many of these micrographs are picked, after some patience."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    wanted = {f"picked m{i:04}.mrc" for i in names}
    while True:
        found = sum(any(name in line for _, line in daemon.lines[:]) for name in wanted)
        if found == len(wanted) or time.monotonic() > deadline or daemon.process.poll() is not None:
            return found
        time.sleep(0.2)


def warnings_of(daemon: DaemonProcess) -> list[str]:
    """The first few lines of the log that warn, or worse."""
    found = [line.strip() for _, line in daemon.lines if re.search(r"\b(warning|error|critical)\b", line, re.I)]
    return found[:8]


# --- training ---------------------------------------------------------------------------------------------------


def training(station: Station) -> Iterator[Case]:
    """Training and adaptation on the device."""
    yield "train", functools.partial(train_on, station)
    yield "adapt", functools.partial(adapt_on, station)


def train_on(station: Station) -> Figures:
    """A recipe of a few lines on simulated micrographs."""
    data = station.simulated(station.scale.train_px, station.scale.trained)
    recipe = station.work / "recipe.toml"
    lines = train("new-recipe", "--data", data, "--diameter", DIAMETER_ANGSTROM).stdout.splitlines(keepends=True)
    recipe.write_text("".join(line for line in lines if not line.startswith("simulated_")))
    return trained(station, "train", "--recipe", recipe, "--data", data, "--epochs", station.scale.epochs)


def adapt_on(station: Station) -> Figures:
    """The default model to simulated micrographs."""
    data = station.simulated(station.scale.train_px, station.scale.trained)
    source, minutes = station.model("fcn", "float32"), station.scale.adapt_minutes
    options = ["--from", source, "--data", data, "--diameter", DIAMETER_ANGSTROM, "--minutes", minutes]
    return trained(station, "adapt", *options)


def trained(station: Station, *command: object) -> Figures:
    """Run it; time, number format, speed, and how well the new model picks."""
    name = f"{command[0]}-{time.time_ns()}"
    out, run_folder = station.work / "trained" / name, station.work / "runs" / name
    started = time.perf_counter()
    with DeviceMemory() as memory:
        options = ["--out", out, "--run-folder", run_folder, "--device", station.device, "--force"]
        done = train(*command, *options)
    said = done.stdout + done.stderr
    found = {
        "samples_per_second": r"([\d.,]+) samples/s(?![\s\S]*samples/s)",
        "f1": r"\. \*\.star[^\n]*?0?\.\d+ │ 0?\.\d+ │(0?\.\d+)",
        "adapted": r"(F1 on [^\n]*)",
    }
    figures = {name: match[1] for name, pattern in found.items() if (match := re.search(pattern, said))}
    seconds = round(time.perf_counter() - started, 1)
    run = json.loads((out / "1" / "card.json").read_text())["run"]
    figures["computes_in"] = run.get("precision", {}).get("name", "float32")  # adaptation knows nothing else
    return {"command_seconds": seconds, "device_most_mib": memory.most_mib} | figures


PARTS: dict[str, Callable[[Station], Iterator[Case]]] = {
    "picks": picks,
    "bench": bench,
    "backlog": backlog,
    "swaps": swaps,
    "memory": memory,
    "train": training,
}


def main() -> int:
    """Measure the cases that are missing; whether all could be."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("part", choices=PARTS)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--device", choices=("cuda", "cpu"), required=True)
    parser.add_argument("--scale", choices=SCALES, required=True)
    parser.add_argument("--work", type=Path, required=True)
    args = parser.parse_args()
    station = Station(device=args.device, scale=SCALES[args.scale], work=args.work)
    results = Results(args.out / "results.jsonl")
    return measure_missing(args.part, PARTS[args.part](station), results)


def measure_missing(part: str, cases: Iterator[Case], results: Results) -> int:
    """Measure each case that has no row yet; a case that fails leaves the others alone. The exit status."""
    measured, status = results.measured(part), 0
    for case, measure in cases:
        if case in measured:
            continue
        started = time.perf_counter()
        try:
            figures = measure()
        except Exception as error:  # noqa: BLE001 - whatever it is, the next case may do
            figures, status = {"failed": f"{type(error).__name__}: {error}"[:1000]}, 1
        results.add(part, case, figures | {"seconds": round(time.perf_counter() - started, 2)})
        print(f"{part} {case}: {figures.get('failed', 'measured')}", flush=True)
    return status


if __name__ == "__main__":
    sys.exit(main())
