"""What int8 twins gain: processor time of the models and their twins on one micrograph, turn by turn.

    python benchmarks/int8_twins.py MICROGRAPH --diameter 191 exported_models/fcn exported_models/mlp

Processor time, since that of the clock tells more of what else runs on the machine. Prints a table for the docs.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from pathlib import Path

from frazil.model import Precision, int8_instructions, load_model
from frazil.model.runtime import ort
from frazil.picking import Picker, PickingSettings, read_micrograph

PRECISIONS: tuple[Precision, ...] = ("float32", "int8")


def processor_seconds(work: Callable[[], object]) -> float:
    """What work costs."""
    started = time.process_time()
    work()
    return time.process_time() - started


def measure(model: Path, micrograph: Path, diameter_angstrom: float, rounds: int) -> list[str]:
    """A row of the table."""
    settings = PickingSettings(diameter_angstrom=diameter_angstrom)
    read = read_micrograph(micrograph)
    pickers = {p: Picker(load_model(model, "cpu", 1, precision=p), settings) for p in PRECISIONS}
    for precision, picker in pickers.items():
        if picker.model.precision != precision:
            raise SystemExit(picker.model.precision_problem)
        picker.pick(read)
    picture = pickers["float32"].prepare(read)
    scoring: dict[str, list[float]] = {p: [] for p in PRECISIONS}
    picking: dict[str, list[float]] = {p: [] for p in PRECISIONS}
    for _ in range(rounds):
        for precision, picker in pickers.items():
            scoring[precision].append(processor_seconds(lambda: picker.score(picture)))  # noqa: B023 - called at once
            picking[precision].append(processor_seconds(lambda: picker.pick(read)))  # noqa: B023
    cells = [pickers["int8"].model.identity.short]
    for seconds in (scoring, picking):
        ratio = statistics.median(a / b for a, b in zip(seconds["float32"], seconds["int8"], strict=True))
        cells += [f"{1000 * statistics.median(seconds[p]):.0f} ms" for p in PRECISIONS] + [f"{ratio:.2f}"]
    return cells


def main() -> None:
    """Measure, and print a row for each model."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("micrograph", type=Path)
    parser.add_argument("models", type=Path, nargs="+")
    parser.add_argument("--diameter", type=float, required=True, help="of the particle, in Å")
    parser.add_argument("--rounds", type=int, default=11)
    args = parser.parse_args()
    print(f"one thread, {int8_instructions()}, ONNX Runtime {ort.__version__}, medians of {args.rounds} rounds\n")
    titles = ["model", "scoring, float32", "int8", "times as fast", "whole pick, float32", "int8", "times as fast"]
    for line in [titles, ["---"] + ["---:"] * 6]:
        print(f"| {' | '.join(line)} |")
    for model in args.models:
        print(f"| {' | '.join(measure(model, args.micrograph, args.diameter, args.rounds))} |", flush=True)


if __name__ == "__main__":
    main()
