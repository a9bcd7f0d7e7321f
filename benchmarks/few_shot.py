"""What a few labels are worth: F1 against the number of labelled micrographs, of a protein that the model never saw.

    python -m benchmarks.few_shot --data training-unseen --models training-unseen/models [--pages]

`make unseen` runs this after `benchmarks.unseen`, with the same models. For the two proteins that are picked worst when
they are left out, ``frazil-train adapt`` gets one, three, five and ten micrographs, as many as there are. It
is scored on the validation micrographs, which it never sees, at the threshold that frazil chooses; so are those
of the proteins that the model knew. With ``--pages`` each figure is written as soon as it is known, and a run that was
stopped goes on. ``--check`` measures nothing: is the page what the figures give?
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from itertools import groupby, product
from pathlib import Path

import msgspec
from rich.console import Console

from benchmarks.figures import fill_tables, markdown_table
from benchmarks.speed.pictures import svg, text
from benchmarks.unseen import all_peaks, newest_version, picked_of, score
from frazil.model import identify_model, load_model
from frazil_trainer.data.labelled import LabelledPaths, find_labelled
from frazil_trainer.recipe import find_recipe, read_recipe

REPOSITORY = Path(__file__).resolve().parents[1]
PAGE = REPOSITORY / "docs" / "reference" / "adaptation.md"
FIGURES = PAGE.with_suffix(".json")
CURVES = REPOSITORY / "docs" / "images" / "few-shot.svg"
PROTEINS = ("trpv1", "beta-galactosidase")
COUNTS = (1, 3, 5, 10)
_STALE = f"{PAGE.name}: not what the figures give; run python -m benchmarks.few_shot with --pages"


class Row(msgspec.Struct, frozen=True, kw_only=True):
    """Figures of a model, adapted or not."""

    protein: str
    model: str
    """Sha256 of the model that never saw the protein."""
    micrographs: int
    """Number of labelled micrographs; 0 before adapting."""
    seconds: float
    f1: float
    """At the threshold that frazil chooses, on the validation micrographs."""
    best_f1: float
    old: dict[str, float]
    """F1 of each protein that the model knew, likewise."""


def main() -> None:
    """Measure, print, and write what is asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="folder with the recipe's training sets")
    parser.add_argument("--models", type=Path, help="folder with the models without-PROTEIN")
    parser.add_argument("--minutes", type=float, default=2.5, help="how long an adaptation may take (default: 2.5)")
    made = parser.add_mutually_exclusive_group()
    made.add_argument("--pages", action="store_true", help="write the figures, the page and its picture")
    made.add_argument("--check", action="store_true", help="measure nothing; is the page what the figures give?")
    args = parser.parse_args()
    if args.check:
        rows = read_rows()
        page = PAGE.read_text("utf-8")
        is_stale = fill_tables(page, {"few-shot": table(rows)}) != page or curves(rows) != CURVES.read_text("utf-8")
        sys.exit(_STALE if is_stale else 0)
    if args.data is None or args.models is None:
        parser.error("expected --data and --models, or --check")
    models = {identify_model(newest_version(args.models / f"without-{name}")).sha256 for name in PROTEINS}
    rows = [row for row in read_rows() if row.model in models] if args.pages else []
    for row in measure(args.data, args.models, args.minutes, rows, Console(stderr=True)):
        rows = sorted([*rows, row], key=lambda row: (PROTEINS.index(row.protein), row.micrographs))
        if args.pages:
            FIGURES.write_bytes(msgspec.json.format(msgspec.json.encode(rows), indent=1) + b"\n")
            PAGE.write_text(fill_tables(PAGE.read_text("utf-8"), {"few-shot": table(rows)}), "utf-8")
            CURVES.write_text(curves(rows), "utf-8")
    print(table(rows))


def read_rows() -> list[Row]:
    """The figures in the docs."""
    return msgspec.json.decode(FIGURES.read_bytes(), type=list[Row]) if FIGURES.is_file() else []


def measure(data: Path, models: Path, minutes: float, known: Sequence[Row], console: Console) -> Iterator[Row]:
    """Adapt the models that were trained without a protein to more and more micrographs of it; not what is known."""
    sets = [one for one in read_recipe(find_recipe("fcn")).data if one.validation]
    validation = {one.folder: [p for p in find_labelled(data, one) if p.part == "validation"] for one in sets}
    proteins = [one for one in sets if one.folder in PROTEINS]
    pools = {one.folder: [p for p in find_labelled(data, one) if p.part != "validation"] for one in proteins}
    done = {(row.protein, row.model, row.micrographs) for row in known}
    for count, protein in product((0, *COUNTS), proteins):
        version, labelled = newest_version(models / f"without-{protein.folder}"), pools[protein.folder][:count]
        key = (protein.folder, identify_model(version).sha256, len(labelled))
        if key in done:
            continue
        done.add(key)
        console.print(f"{protein.folder}: {len(labelled)} labelled micrographs")
        with tempfile.TemporaryDirectory(prefix="frazil-few-shot-") as folder:
            started = time.monotonic()
            adapted = adapt(version, labelled, minutes, Path(folder)) if labelled else version
            seconds = time.monotonic() - started if labelled else 0.0
            model, scored = load_model(adapted, "cpu"), {}
            for one in sets:
                picked = [picked_of(paths, all_peaks(adapted, paths, None)) for paths in validation[one.folder]]
                scored[one.folder] = score(model, one, picked)[0]
        yield Row(
            protein=protein.folder,
            model=key[1],
            micrographs=len(labelled),
            seconds=round(seconds, 1),
            f1=scored[protein.folder].f1,
            best_f1=scored[protein.folder].best_f1,
            old={name: row.f1 for name, row in scored.items() if name != protein.folder},
        )


def adapt(model: Path, labelled: Sequence[LabelledPaths], minutes: float, folder: Path) -> Path:
    """The version that ``frazil-train adapt`` makes, as a user calls it."""
    given, source = folder / "given", labelled[0].source
    given.mkdir()
    for paths in labelled:
        for file in (paths.micrograph, paths.labels):
            (given / file.name).symlink_to(file.resolve())
    program = Path(sys.executable).with_name("frazil-train")
    command: list[str | Path] = [program, "adapt", "--from", model, "--data", given]
    command += ["--diameter", f"{source.known_diameter_angstrom:g}", "--labels", source.labels_ending]
    command += ["--minutes", f"{minutes:g}", "--out", folder / "adapted"]
    subprocess.run(command, check=True, cwd=folder, stdout=subprocess.DEVNULL)
    return newest_version(folder / "adapted")


def table(rows: Sequence[Row]) -> str:
    """A row for each number of micrographs; of the old proteins the one that changed worst."""
    head = ("protein", "labelled micrographs", "seconds", "F1, chosen", "F1, best", "an old protein, at worst")
    lines = []
    for protein, group in groupby(rows, lambda row: row.protein):
        before, *adapted = group
        lines.append((protein, "none", "", f"**{before.f1:.3f}**", f"{before.best_f1:.3f}", ""))
        for row in adapted:
            worst = min(row.old, key=lambda name: row.old[name] - before.old[name])
            lines.append(
                (
                    *(protein, f"{row.micrographs}", f"{row.seconds:.0f}", f"**{row.f1:.3f}**", f"{row.best_f1:.3f}"),
                    f"{worst} {row.old[worst] - before.old[worst]:+.3f}",
                )
            )
    return markdown_table(head, lines, right=len(head) - 1)


def curves(rows: Sequence[Row]) -> str:
    """F1 against the number of labelled micrographs."""
    width, height, left, right, top, bottom = 560, 300, 56, 150, 30, 44
    most = max([1, *(row.micrographs for row in rows)])
    low, high = 0.6, 1.0

    def x_at(count: int) -> float:
        return left + count / most * (width - left - right)

    def y_at(f1: float) -> float:
        return height - bottom - (f1 - low) / (high - low) * (height - bottom - top)

    parts = []
    for tenth in range(6, 11):
        y = y_at(tenth / 10)
        parts.append(f'<path d="M{left} {y:.1f}H{width - right}" stroke="#ddd"/>')
        parts.append(text(left - 8, y + 4, f"{tenth / 10:.1f}", "end"))
    for count in sorted({row.micrographs for row in rows}):
        parts.append(text(x_at(count), height - bottom + 16, f"{count}", "middle"))
    parts.append(text((left + width - right) / 2, height - 8, "labelled micrographs", "middle"))
    parts.append(text(left - 8, top - 14, "F1", "end"))
    for colour, (protein, group) in zip(("#1f77b4", "#d62728"), groupby(rows, lambda row: row.protein), strict=False):
        places = [(x_at(row.micrographs), y_at(row.f1)) for row in group]
        line = " ".join(f"{x:.1f},{y:.1f}" for x, y in places)
        parts.append(f'<polyline points="{line}" fill="none" stroke="{colour}" stroke-width="2"/>')
        parts += [f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3" fill="{colour}"/>' for x, y in places]
        parts.append(text(places[-1][0] + 8, places[-1][1] + 4, protein, "start"))
    return svg(width, height, parts)


if __name__ == "__main__":
    main()
