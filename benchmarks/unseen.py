"""What is picked of a protein that the model never saw, and what on ice without particles.

    python -m benchmarks.unseen --data training-unseen --models training-unseen/models [--pages]

`make unseen` trains the models, each without one of the recipe's real proteins (``without-PROTEIN``), and runs this.
All micrographs of the protein that was left out are picked as one session: at the threshold that frazil chooses without
labels, as ``frazil pick`` does, and at the best one. RELION's Laplacian of Gaussian runs beside it, where it is
installed, with the diameter as a person gives it and else its defaults. The shipped model is scored on the validation
micrographs. Empty micrographs are simulated worlds without particles, each a session of its own.

``--pages`` writes the tables into docs/reference/unseen.md, and a map of hits, misses and false picks of one
micrograph of each protein into docs/images; ``--overlays`` draws the same on the micrographs.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import msgspec
import numpy as np
from numpy.typing import NDArray
from rich.console import Console

from benchmarks.remaining_errors import hit
from frazil.model import Model, load_model
from frazil.model.contract import read_calibration
from frazil.picking import (
    Micrograph,
    PeakScores,
    Picker,
    PickingSettings,
    Picks,
    choose_threshold,
    find_low_peaks,
    match_picks,
    read_coordinates,
    usable_area,
)
from frazil.settings import default_model_path
from frazil_trainer.data.labelled import LabelledPaths, find_labelled, inside_border, read_labelled
from frazil_trainer.evaluation.ranking import Ranking, average_precision, sweep_thresholds
from frazil_trainer.recipe import TrainingSet, find_recipe, read_recipe
from frazil_trainer.simulate.micrograph import series_seed
from frazil_trainer.simulate.worlds import simulate_world

REPOSITORY = Path(__file__).resolve().parents[1]
PAGE = REPOSITORY / "docs" / "reference" / "unseen.md"
IMAGES = REPOSITORY / "docs" / "images"
EMPTY_SEED = 20261129
HALF = 0.5
_MAP_PX = 480
_DRAWN_DIAMETERS = 18.0
"""Side of the part of a micrograph that a map shows."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Picked:
    """One micrograph with all its peaks, by a model."""

    paths: LabelledPaths
    micrograph: Micrograph
    peaks: Picks
    seen: PeakScores


class Row(msgspec.Struct, frozen=True, kw_only=True):
    """Figures of a session and one set of its labels."""

    protein: str
    labels: str
    micrographs: int
    particles: int
    threshold: float
    estimated_precision: float | None
    precision: float
    recall: float
    f1: float
    best_f1: float
    best_threshold: float
    average_precision: float
    relion_f1: float | None = None


def main() -> None:
    """Measure, print, and write what is asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder with the recipe's training sets")
    parser.add_argument("--models", type=Path, required=True, help="folder with the models without-PROTEIN")
    parser.add_argument("--shipped", type=Path, default=default_model_path(), help="a model that saw all proteins")
    parser.add_argument("--empty", type=int, default=40, metavar="N", help="empty micrographs to simulate")
    parser.add_argument("--overlays", type=Path, help="draw hits, misses and false picks on the micrographs, in here")
    parser.add_argument("--pages", action="store_true", help="write docs/reference/unseen.md and its pictures")
    args = parser.parse_args()
    console = Console(stderr=True)
    proteins = [one for one in read_recipe(find_recipe("fcn")).data if one.validation]
    left_out: list[Row] = []
    for protein in proteins:
        folder = args.models / f"without-{protein.folder}"
        console.print(f"{protein.folder}: {folder}")
        model = load_model(newest_version(folder), "cpu")
        picked = [pick(model, paths) for paths in find_labelled(args.data, protein)]
        rows = score(model, protein, picked, relion=pick_with_relion(picked))
        left_out += rows
        draw(protein, picked[0], rows[0].threshold, args.overlays, IMAGES if args.pages else None)
    shipped = load_model(args.shipped, "cpu")
    validation: list[Row] = []
    for protein in proteins:
        paths = [one for one in find_labelled(args.data, protein) if one.part == "validation"]
        validation += score(shipped, protein, [pick(shipped, one) for one in paths])
    empty = [false_picks(shipped, index) for index in range(args.empty)]
    tables = {
        "left-out": table(left_out, with_relion=True),
        "shipped": table(validation),
        "empty": empty_table(empty),
    }
    for text in tables.values():
        print(text, end="\n\n")
    if args.pages:
        write_pages(tables)


def newest_version(folder: Path) -> Path:
    """The version folder with the highest number in a model's folder."""
    return max((one for one in folder.iterdir() if one.name.isdigit()), key=lambda one: int(one.name))


def pick(model: Model, paths: LabelledPaths) -> Picked:
    """All peaks of a labelled micrograph."""
    micrograph, _ = read_labelled(paths)
    peaks, seen = peaks_of(model, micrograph, paths.source.known_diameter_angstrom)
    return Picked(paths=paths, micrograph=micrograph, peaks=peaks, seen=seen)


def peaks_of(model: Model, micrograph: Micrograph, diameter_angstrom: float) -> tuple[Picks, PeakScores]:
    """All peaks of a micrograph, and what a choice of the threshold needs of them."""
    picker = Picker(model, PickingSettings(diameter_angstrom=diameter_angstrom))
    picture = picker.prepare(micrograph)
    pixel_size = picture.pixel_size_angstrom
    peaks = find_low_peaks(picker.score(picture), picker.limits, pixel_size)
    area = usable_area(
        micrograph.pixels.shape,  # type: ignore[arg-type]
        margin_px=picker.limits.edge_margin_angstrom / pixel_size,
        diameter_px=picture.diameter_px,
        blank_fraction=picture.blank_fraction,
    )
    return peaks, PeakScores(scores=peaks.score.astype(np.float32), area_diameters=area)


def score(
    model: Model, protein: TrainingSet, picked: Sequence[Picked], *, relion: Sequence[Picks | None] = ()
) -> list[Row]:
    """Choose the threshold over all micrographs, and score with each set of labels."""
    contract = model.contract
    choice = choose_threshold(
        [one.seen for one in picked], contract.threshold, calibration=read_calibration(contract.calibration)
    )
    rows = []
    for suffix in (protein.labels_suffix, *protein.other_labels):
        ranking = Ranking.pooled(rank(one, one.peaks, suffix) for one in picked)
        sweep, tally = sweep_thresholds(ranking), ranking.tally(choice.threshold)
        best = int(np.argmax(sweep.f1))
        theirs = [rank(one, picks, suffix) for one, picks in zip(picked, relion, strict=False) if picks is not None]
        rows.append(
            Row(
                protein=protein.folder,
                labels="joined" if suffix else "published" if protein.labels_suffix else "all",
                micrographs=len(picked),
                particles=ranking.particles,
                threshold=choice.threshold,
                estimated_precision=choice.precision,
                precision=tally.precision,
                recall=tally.recall,
                f1=tally.f1,
                best_f1=float(sweep.f1[best]),
                best_threshold=float(sweep.threshold[best]),
                average_precision=average_precision(ranking),
                relion_f1=Ranking.pooled(theirs).tally(None).f1 if len(theirs) == len(picked) else None,
            )
        )
    return rows


def rank(one: Picked, picks: Picks, suffix: str) -> Ranking:
    """Picks of a micrograph against one set of its labels."""
    source = msgspec.structs.replace(one.paths.source, labels_suffix=suffix)
    labels = one.paths.micrograph.with_name(f"{one.paths.micrograph.stem}{source.labels_ending}")
    shape = one.micrograph.pixels.shape
    truth = inside_border(read_coordinates(labels), shape, source.border_px)
    return Ranking.of_micrograph(inside_border(picks, shape, source.border_px), truth, HALF * diameter_px(one))


def diameter_px(one: Picked) -> float:
    """Diameter of the particle in pixels of the micrograph."""
    return one.paths.source.known_diameter_angstrom / one.micrograph.resolve_pixel_size(None)


def pick_with_relion(picked: Sequence[Picked]) -> list[Picks | None]:
    """The picks of RELION's Laplacian of Gaussian; nothing where it is not installed."""
    program = shutil.which("relion_autopick")
    if program is None:
        return []
    found: list[Picks | None] = []
    with tempfile.TemporaryDirectory() as folder:
        for one in picked:
            name = f"m{len(found)}"
            (Path(folder) / f"{name}.mrc").symlink_to(one.paths.micrograph.resolve())
            diameter = one.paths.source.known_diameter_angstrom
            command = [program, "--i", f"{name}.mrc", "--odir", "log/", "--pickname", "log", "--LoG", "--shrink", "0"]
            command += ["--lowpass", "20", "--angpix", f"{one.micrograph.resolve_pixel_size(None)}"]
            command += ["--LoG_diam_min", f"{0.9 * diameter:.0f}", "--LoG_diam_max", f"{1.1 * diameter:.0f}"]
            subprocess.run(command, cwd=folder, check=True, capture_output=True)
            found.append(read_coordinates(Path(folder) / "log" / f"{name}_log.star", may_be_empty=True))
    return found


def false_picks(model: Model, index: int) -> float:
    """Picks on an empty micrograph, a session of its own, per 100 squares of the diameter."""
    world = simulate_world(series_seed(EMPTY_SEED, index), is_empty=True)
    micrograph = Micrograph(
        path=Path(f"empty_{index}.mrc"), pixels=world.pixels, pixel_size_angstrom=world.pixel_size_angstrom
    )
    peaks, seen = peaks_of(model, micrograph, world.diameter_angstrom)
    contract = model.contract
    choice = choose_threshold([seen], contract.threshold, calibration=read_calibration(contract.calibration))
    return 100 * int(peaks.reaching(choice.threshold).sum()) / seen.area_diameters


def table(rows: Iterable[Row], *, with_relion: bool = False) -> str:
    """A Markdown table."""
    relion = ("RELION LoG",) if with_relion else ()
    heads = (
        *("protein", "labels", "micrographs", "particles", "F1, chosen", "precision", "recall", "threshold"),
        *("estimated precision", "F1, best", "at", "AP", *relion),
    )
    lines = [f"| {' | '.join(heads)} |", f"| --- | --- |{' ---: |' * (len(heads) - 2)}"]
    for row in rows:
        cells = [row.protein, row.labels, f"{row.micrographs}", f"{row.particles}", f"**{row.f1:.3f}**"]
        cells += [f"{row.precision:.3f}", f"{row.recall:.3f}", f"{row.threshold:.3f}"]
        cells += ["-" if row.estimated_precision is None else f"{row.estimated_precision:.2f}"]
        cells += [f"{row.best_f1:.3f}", f"{row.best_threshold:.2f}", f"{row.average_precision:.3f}"]
        if with_relion:
            cells.append("not installed" if row.relion_f1 is None else f"{row.relion_f1:.3f}")
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def empty_table(empty: Sequence[float]) -> str:
    """A Markdown table of false picks per 100 squares of the diameter."""
    rates = np.array(empty)
    return "\n".join(
        [
            "| empty micrographs | mean | median | more than 2 on | worst |",
            "| ---: | ---: | ---: | ---: | ---: |",
            " | ".join(
                (
                    f"| {rates.size}",
                    f"{rates.mean():.2f}",
                    f"{np.median(rates):.2f}",
                    f"{np.count_nonzero(rates > 2)}",
                    f"{rates.max():.1f} |",
                )
            ),
        ]
    )


def draw(protein: TrainingSet, one: Picked, threshold: float, overlays: Path | None, maps: Path | None) -> None:
    """Draw hits (filled), misses (open) and false picks (crosses) of a part of a micrograph."""
    labels = one.paths.micrograph.with_name(f"{one.paths.micrograph.stem}{protein.labels_ending}")
    shape = one.micrograph.pixels.shape
    truth = inside_border(read_coordinates(labels), shape, protein.border_px)
    picks = inside_border(one.peaks.select(one.peaks.reaching(threshold)), shape, protein.border_px)
    matched = match_picks(picks, truth, HALF * diameter_px(one))
    is_hit, found = matched >= 0, hit(picks, truth, HALF * diameter_px(one))
    side = round(min(_DRAWN_DIAMETERS * diameter_px(one), min(shape) - 2 * protein.border_px))
    top, left = (n // 2 - side // 2 for n in shape)
    scale, radius = _MAP_PX / side, max(3, round(0.42 * diameter_px(one) * _MAP_PX / side))
    canvases: list[tuple[Path, NDArray[np.uint8]]] = []
    if maps is not None:
        canvases.append((maps / f"unseen-{protein.folder}.png", np.full((_MAP_PX, _MAP_PX, 3), 255, np.uint8)))
    if overlays is not None:
        part = one.micrograph.pixels[top : top + side, left : left + side].astype(np.float32)
        part = np.asarray(cv2.GaussianBlur(part, (0, 0), 0.06 * diameter_px(one)), np.float32)
        low, high = np.percentile(part, (0.5, 99.5))
        grey = np.clip((part - low) * (255 / (high - low)), 0, 255).astype(np.uint8)
        grey = np.asarray(cv2.resize(grey, (_MAP_PX, _MAP_PX), interpolation=cv2.INTER_AREA), np.uint8)
        canvases.append(
            (overlays / f"{protein.folder}.png", np.asarray(cv2.cvtColor(grey, cv2.COLOR_GRAY2BGR), np.uint8))
        )
    for file, canvas in canvases:
        on_picture = file.parent == overlays

        def at(y: float, x: float) -> tuple[int, int]:
            return round((x - left) * scale), round((y - top) * scale)

        for x, y, is_right in zip(picks.x.tolist(), picks.y.tolist(), is_hit.tolist(), strict=True):
            if is_right:
                cv2.circle(canvas, at(y, x), radius, (120, 170, 60), 1 if on_picture else cv2.FILLED, cv2.LINE_AA)
            else:
                cv2.drawMarker(canvas, at(y, x), (40, 40, 220), cv2.MARKER_TILTED_CROSS, radius, 2, cv2.LINE_AA)
        for x, y, is_found in zip(truth.x.tolist(), truth.y.tolist(), found.tolist(), strict=True):
            if not is_found:
                cv2.circle(canvas, at(y, x), radius, (200, 120, 30), 2, cv2.LINE_AA)
        file.parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(file), canvas)


def write_pages(tables: dict[str, str]) -> None:
    """Put the tables between their marks in the page."""
    text = PAGE.read_text("utf-8")
    for name, content in tables.items():
        start, end = f"<!-- {name} -->\n", f"<!-- end of {name} -->"
        before, _, rest = text.partition(start)
        _, _, after = rest.partition(end)
        text = f"{before}{start}\n{content}\n\n{end}{after}"
    PAGE.write_text(text, "utf-8")


if __name__ == "__main__":
    main()
