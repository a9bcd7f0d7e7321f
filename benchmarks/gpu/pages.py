"""Fill the tables of docs/reference/gpu.md from what was measured.

python -m benchmarks.gpu.pages [--results RESULTS.jsonl]

The results of a GPU machine, once there are any, are docs/reference/gpu/results.jsonl.
"""

from __future__ import annotations

import argparse
import shutil
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from benchmarks.figures import fill_tables, markdown_table
from benchmarks.gpu.results import Results

__all__ = ["FOLDER", "fill"]

DOCS = Path(__file__).resolve().parents[2] / "docs" / "reference"
FOLDER = DOCS / "gpu"
GOAL_PX, GOAL_PER_SECOND, GOAL_TIMES_BOUND = 4096, 20.0, 2.0
NOT_MEASURED = "Not measured: no GPU yet."

Row = dict[str, Any]


def table(rows: Sequence[Row], columns: dict[str, Callable[[Row], object]]) -> str:
    """One line for each row; a failed one says why in its second column."""

    def cells(row: Row) -> list[str]:
        if "failed" in row:
            return [
                row["case"],
                str(row["failed"]).replace("|", "/").replace("\n", " ")[:200],
                *[""] * (len(columns) - 1),
            ]
        return [row["case"], *(shown(column(row)) for column in columns.values())]

    return markdown_table(("case", *columns), map(cells, rows), right=len(columns)) if rows else NOT_MEASURED


def shown(value: object) -> str:
    """Three digits of a number; a dash where there is none."""
    if value is None:
        return "–"
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def picks(rows: Sequence[Row]) -> str:
    """CPU and device compared."""
    return table(
        rows,
        {
            "prepared": lambda r: "there" if "on the device" in r["prepared"] else "CPU",
            "picks": lambda r: r["picks"],
            "the CPU's": lambda r: r["cpu_picks"],
            "in common": lambda r: r["matched"],
            "farthest, px": lambda r: r["largest_distance_px"],
            "scores differ by": lambda r: r["largest_difference"],
        },
    )


def bench(rows: Sequence[Row]) -> str:
    """Times in ms, rates, and the bound."""

    def ms(name: str) -> Callable[[Row], object]:
        return lambda r: r["seconds_of"][name] * 1000

    stages = {name: ms(name) for name in ("read", "prepare", "infer", "peaks", "whole")}
    rates = {f"{n} at once, /s": (lambda r, n=n: r["per_second"].get(n)) for n in ("1", "2", "4")}
    return table(
        rows,
        {
            **stages,
            "copy": lambda r: None if r["copy_seconds"] is None else r["copy_seconds"] * 1000,
            "model alone": ms("session"),
            **rates,
            "times the bound": lambda r: r["times_bound"],
            "device, MiB": lambda r: r["device_used_mib"],
        },
    )


def backlog(rows: Sequence[Row]) -> str:
    """The daemon's rate and memory."""
    return table(
        rows,
        {
            "micrographs": lambda r: r["micrographs"],
            "side, px": lambda r: r["side_px"],
            "per second": lambda r: r["per_second"],
            "ready after, s": lambda r: r["ready_seconds"],
            "memory, MiB": lambda r: r["memory_mib"],
            "device, MiB": lambda r: r["device_most_mib"],
        },
    )


def swaps(rows: Sequence[Row]) -> str:
    """Lost, repeated, mixed, and memory."""
    return table(
        rows,
        {
            "swaps": lambda r: r["swaps"],
            "micrographs": lambda r: r["micrographs"],
            "lost": lambda r: r["lost"],
            "repeated": lambda r: r["repeated"],
            "mixed": lambda r: r["mixed"],
            "memory, last / settled": lambda r: r["memory_ratio"],
            "device, MiB, early": lambda r: r["device_mib"] and r["device_mib"]["first_half"],
            "device, MiB, late": lambda r: r["device_mib"] and r["device_mib"]["last_quarter"],
        },
    )


def memory(rows: Sequence[Row]) -> str:
    """What became of micrographs while the device was full."""
    return table(
        rows,
        {
            "taken, MiB": lambda r: r["filled_mib"],
            "micrographs each time": lambda r: r["each"],
            "picked": lambda r: (
                ", ".join(f"{when} {n}" for when, n in r["picked"].items())
                if isinstance(r["picked"], dict)
                else r["picked"]
            ),
            "warnings": lambda r: len(r["warnings"]),
        },
    )


def training(rows: Sequence[Row]) -> str:
    """Time, number format, speed."""
    return table(
        rows,
        {
            "computes in": lambda r: r.get("computes_in"),
            "whole command, s": lambda r: r["command_seconds"],
            "samples per second": lambda r: r.get("samples_per_second"),
            "device, MiB": lambda r: r["device_most_mib"],
            "outcome": lambda r: r.get("adapted") or (f"F1 {r['f1']}" if "f1" in r else None),
        },
    )


PARTS = {"picks": picks, "bench": bench, "backlog": backlog, "swaps": swaps, "memory": memory, "train": training}


def goal(rows: Sequence[Row]) -> str:
    """What was promised, and whether it holds."""
    benches = [r for r in rows if r["part"] == "bench" and "failed" not in r and r["case"].endswith(f" {GOAL_PX}")]
    daemons = [r for r in rows if r["part"] == "backlog" and r.get("side_px") == GOAL_PX]
    lines = []
    for model in ("mlp", "cnn", "fcn"):
        mine = [r for r in benches if r["case"].startswith(model)]
        best = max((rate for r in mine for rate in r["per_second"].values()), default=None)
        served = max((r["per_second"] for r in daemons if r["case"].startswith(model)), default=None)
        bound = min((r["times_bound"] for r in mine), default=None)
        for what, found, holds in (
            ("micrographs per second, `frazil bench`", best, best is not None and best > GOAL_PER_SECOND),
            ("micrographs per second, daemon", served, served is not None and served > GOAL_PER_SECOND),
            ("times the bound", bound, bound is not None and bound <= GOAL_TIMES_BOUND),
        ):
            limit = f"at most {GOAL_TIMES_BOUND:g}" if what.startswith("times") else f"over {GOAL_PER_SECOND:g}"
            verdict = "not measured" if found is None else "yes" if holds else "**no**"
            lines.append((f"`{model}`, {what}", shown(found), limit, verdict))
    return markdown_table(("what", "measured", "goal", "holds"), lines, right=3)


def outcome(rows: Sequence[Row]) -> str:
    """How a run ended, part by part."""
    lines = []
    for part in PARTS:
        cases = [r for r in rows if r["part"] == part and r["case"]]
        ended = next((r for r in rows if r["part"] == part and not r["case"]), {"failed": "not run"})
        failed = sum("failed" in r for r in cases)
        lines.append(
            (f"`{part}`", str(len(cases)), str(failed), shown(ended.get("seconds")), ended.get("failed", "whole"))
        )
    return markdown_table(("part", "cases", "failed", "seconds", "ended"), lines, right=4)


def machine(rows: Sequence[Row]) -> str:
    """Where, when and with what."""
    by = next((r for r in rows if r["part"] == "machine"), None)
    if by is None:
        return NOT_MEASURED
    return (
        f"*{by['date']}, revision {by['revision']}, GPU: {by['gpu']}, {by['processor']}, {by['cores']} cores, "
        f"Python {by['python']}, ONNX Runtime {by['onnxruntime-gpu']}, torch {by['torch']}.*"
    )


def fill(page: str, measured: Sequence[Row], dry: Sequence[Row]) -> str:
    """The page with the tables of the rows of a GPU machine, if there are any, and of the dry run.

    Raises:
        ValueError: the page has no place for one of them.
    """
    found = {part: make([r for r in measured if r["part"] == part and r["case"]]) for part, make in PARTS.items()}
    found |= {"goal": goal(measured), "machine": machine(measured), "dry run": f"{outcome(dry)}\n\n{machine(dry)}"}
    return fill_tables(page, {f"gpu: {name}": text for name, text in found.items()})


def main() -> int:
    """Write the page, or check it."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--results", type=Path, help="take these rows of a GPU machine first")
    parser.add_argument("--check", action="store_true", help="only see whether the page is what the rows give")
    args = parser.parse_args()
    if args.results:
        shutil.copyfile(args.results, FOLDER / "results.jsonl")
    page = DOCS / "gpu.md"
    text = page.read_text("utf-8")
    filled = fill(text, *(Results(FOLDER / name).rows() for name in ("results.jsonl", "dry-run.jsonl")))
    if args.check:
        return int(filled != text)
    page.write_text(filled, "utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
