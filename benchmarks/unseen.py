"""What is picked of a protein that the model never saw, and what on ice without particles.

    python -m benchmarks.unseen --data training-unseen --models training-unseen/models [--pages]

`make unseen` trains the models, each without one of the recipe's real proteins (``without-PROTEIN``), and runs this.
All micrographs of the protein that was left out are picked as one session: at the threshold that frazil chooses without
labels, as ``frazil pick`` does, at the model's own, and at the best one. RELION's Laplacian of Gaussian and Topaz run
beside it, where they are installed. The shipped model is scored on the validation micrographs. Empty micrographs are
simulated worlds without particles, each a session of its own; and false picks are counted in the places of the real
ones that lie farther than a diameter from every labelled particle.

``--pages`` writes the figures into docs/reference/unseen.json, the tables into docs/reference/unseen.md, and a map of
hits, misses and false picks of one micrograph of each protein into docs/images; ``--overlays`` draws the same on the
micrographs. ``--check`` measures nothing: are the tables what the figures give?

``--cluster local|slurm|tcp://...`` has the workers of a Dask cluster do it, one micrograph in each task; with
``--train`` they train the four models before, each of them one. `make unseen CLUSTER=slurm` does both.
"""

from __future__ import annotations

import argparse
import contextlib
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import cv2
import msgspec
import numpy as np
from numpy.typing import NDArray
from rich.console import Console

from benchmarks.figures import fill_tables, markdown_table
from benchmarks.peers import Sample, missing_peers, pick_with_relion, pick_with_topaz
from benchmarks.remaining_errors import distance, hit
from frazil.cluster.calls import call_each
from frazil.cluster.engine import open_engine
from frazil.errors import FrazilError, error_line
from frazil.model import Model, load_model
from frazil.model.contract import read_calibration
from frazil.picking import (
    Micrograph,
    Picker,
    PickingSettings,
    Picks,
    ThresholdChoice,
    choose_threshold,
    find_low_peaks,
    match_picks,
    read_coordinates,
)
from frazil.settings import default_model_path, load_cluster_settings
from frazil_trainer.data.labelled import LabelledPaths, find_labelled, inside_border, read_labelled
from frazil_trainer.evaluation.ranking import Ranking, average_precision, sweep_thresholds
from frazil_trainer.recipe import TrainingSet, find_recipe, leave_out, read_recipe
from frazil_trainer.simulate.micrograph import series_seed
from frazil_trainer.simulate.worlds import simulate_world

REPOSITORY = Path(__file__).resolve().parents[1]
PAGE = REPOSITORY / "docs" / "reference" / "unseen.md"
FIGURES = PAGE.with_suffix(".json")
IMAGES = REPOSITORY / "docs" / "images"
EMPTY_SEED = 20261129
HALF = 0.5
EVEN_ODDS = 0.0
"""Topaz's scores are logarithms of odds. Its default threshold, -6, is a floor that people raise."""
CLEAR_DIAMETERS = 1.0
"""A place that is farther than this from every labelled particle holds none."""
_MAP_PX = 480
_DRAWN_DIAMETERS = 18.0
"""Side of the part of a micrograph that a map shows."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Picked:
    """One micrograph with all its peaks, by a model."""

    paths: LabelledPaths
    micrograph: Micrograph
    peaks: Picks


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
    own_threshold: float
    """That of the model's contract."""
    own_f1: float
    relion_f1: float | None = None
    """At its defaults; None where it is not installed, and so for Topaz."""
    topaz_f1: float | None = None
    """Of those of its picks that it takes for more likely than not."""
    topaz_best_f1: float | None = None


class Clear(msgspec.Struct, frozen=True, kw_only=True):
    """Places of real micrographs without a labelled particle, and the picks in them."""

    protein: str
    area_diameters: float
    """In squares of the diameter."""
    picks: int
    rate: float
    """Picks per 100 squares of the diameter."""


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """All figures."""

    left_out: list[Row]
    shipped: list[Row]
    empty: list[float]
    """False picks per 100 squares of the diameter, for each empty micrograph."""
    clear: list[Clear]


Calls = Callable[[Callable[..., bytes], Mapping[str, tuple[Any, ...]]], Iterator[tuple[str, bytes]]]
"""Calls a function for each name with its arguments, and yields the answers in whatever order."""

_STALE = f"{PAGE.name}: not what the figures give; run python -m benchmarks.unseen with --pages"


def main() -> None:
    """Measure, print, and write what is asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="folder with the recipe's training sets")
    parser.add_argument("--models", type=Path, help="folder with the models without-PROTEIN")
    parser.add_argument("--shipped", type=Path, default=default_model_path(), help="a model that saw all proteins")
    parser.add_argument("--recipe", default="fcn", help="whose proteins are left out in turn (default: fcn)")
    parser.add_argument("--empty", type=int, default=40, metavar="N", help="empty micrographs to simulate")
    parser.add_argument("--overlays", type=Path, help="draw hits, misses and false picks on the micrographs, in here")
    parser.add_argument(
        "--cluster", metavar="local|slurm|tcp://...", help="whose workers do it (default: this process)"
    )
    parser.add_argument("--workers", type=int, metavar="N", help="of the cluster")
    parser.add_argument("--threads-per-worker", type=int, metavar="N", help="CPU threads of each")
    parser.add_argument("--config", type=Path, metavar="FILE", help="settings file with a table [cluster]")
    parser.add_argument("--train", action="store_true", help="train the models before, on the cluster")
    made = parser.add_mutually_exclusive_group()
    made.add_argument("--pages", action="store_true", help="write the figures, the page and its pictures")
    made.add_argument("--check", action="store_true", help="measure nothing; is the page what the figures give?")
    parser.add_argument("--json", type=Path, default=FIGURES, help="the figures (default: those in the docs)")
    args = parser.parse_args()
    if args.check:
        page = PAGE.read_text("utf-8")
        is_stale = fill_tables(page, tables_of(msgspec.json.decode(args.json.read_bytes(), type=Report))) != page
        sys.exit(_STALE if is_stale else 0)
    if args.data is None or args.models is None:
        parser.error("expected --data and --models, or --check")
    if args.train and args.cluster is None:
        parser.error("expected --cluster beside --train")
    console = Console(stderr=True)
    try:
        with opened(args) as (calls, threads):
            if args.train:
                train(args, threads, calls, console)
            report = measure(args, threads, calls, console)
    except FrazilError as error:
        sys.exit(error_line("unseen", error))
    for text in tables_of(report).values():
        print(text, end="\n\n")
    if args.pages:
        args.json.write_bytes(msgspec.json.format(msgspec.json.encode(report), indent=1) + b"\n")
        PAGE.write_text(fill_tables(PAGE.read_text("utf-8"), tables_of(report)), "utf-8")


@contextlib.contextmanager
def opened(args: argparse.Namespace) -> Iterator[tuple[Calls, int | None]]:
    """How calls are made, and the threads of each; None: a thread for each core."""
    if args.cluster is None:
        yield call_here, None
        return
    asked = {"workers": args.workers, "threads_per_worker": args.threads_per_worker}
    settings = load_cluster_settings(asked, args.config)
    with open_engine(args.cluster, settings, args.data.absolute() / ".frazil-cluster") as engine:
        yield partial(call_each, engine), settings.threads_per_worker


def call_here(function: Callable[..., bytes], calls: Mapping[str, tuple[Any, ...]]) -> Iterator[tuple[str, bytes]]:
    """Make calls one by one."""
    for name, arguments in calls.items():
        yield name, function(*arguments)


def proteins(recipe: Path) -> list[TrainingSet]:
    """Those of a recipe that are real."""
    return [one for one in read_recipe(recipe).data if one.validation]


def train(args: argparse.Namespace, threads: int | None, calls: Calls, console: Console) -> None:
    """Train without each protein, and go on with those trainings that were stopped."""
    data, models, recipe = args.data.absolute(), args.models.absolute(), find_recipe(args.recipe).absolute()
    trainings = {
        f"without-{one.folder}": (recipe, one.folder, data, models / f"without-{one.folder}", threads)
        for one in proteins(recipe)
    }
    for number, (name, _) in enumerate(calls(train_without, trainings), 1):
        console.print(f"trained {name}, {number} of {len(trainings)}")


def train_without(recipe: Path, protein: str, data: Path, out: Path, threads: int | None) -> bytes:
    """One training, as the Makefile has it: a task of a worker."""
    import torch

    from frazil_trainer.run import run_recipe

    torch.set_num_threads(threads or 1)
    without = leave_out(read_recipe(recipe), [protein])
    run_recipe(without, data, out, Console(quiet=True), run=data / "runs" / out.name, resume=True)
    return b""


def measure(args: argparse.Namespace, threads: int | None, calls: Calls, console: Console) -> Report:
    """Pick and score everything, and draw what is asked for."""
    for peer in missing_peers():
        console.print(f"{peer} is not installed: its column stays empty (benchmarks/install_peers.sh installs it)")
    data, shipped, of_recipe = args.data.absolute(), args.shipped.absolute(), proteins(find_recipe(args.recipe))
    models = {one.folder: newest_version(args.models.absolute() / f"without-{one.folder}") for one in of_recipe}
    tasks: dict[str, tuple[Path, LabelledPaths, int | None]] = {}
    for protein in of_recipe:
        left_out = models[protein.folder]
        for one in find_labelled(data, protein):
            tasks[f"{left_out} {one.micrograph}"] = (left_out, one, threads)
            if one.part == "validation":
                tasks[f"{shipped} {one.micrograph}"] = (shipped, one, threads)
    console.print(f"{len(tasks)} times a micrograph is picked, and {args.empty} empty ones")
    answers = dict(calls(all_peaks, tasks))
    emptied = {f"empty {index}": (shipped, index, threads) for index in range(args.empty)}
    empty = dict(calls(false_picks, emptied))
    rows: list[Row] = []
    validation: list[Row] = []
    clear: list[Clear] = []
    for protein in of_recipe:
        console.print(protein.folder)
        of_protein = [(name, task) for name, task in tasks.items() if task[1].source.folder == protein.folder]
        picked = [picked_of(task[1], answers[name]) for name, task in of_protein if task[0] != shipped]
        model = load(models[protein.folder], threads)
        samples = [sample_of(one) for one in picked]
        topaz = pick_with_topaz(samples, lambda picks: best_f1(rank(picked[0], picks, protein.labels_suffix)))  # noqa: B023
        scored = score(model, protein, picked, relion=pick_with_relion(samples), topaz=topaz)
        rows += scored
        clear.append(picks_far_from_labels(protein, picked, scored[0].threshold))
        draw(protein, picked[0], scored[0].threshold, args.overlays, IMAGES if args.pages else None)
        by_shipped = [picked_of(task[1], answers[name]) for name, task in of_protein if task[0] == shipped]
        validation += score(load(shipped, threads), protein, by_shipped)
    rates = [float(np.frombuffer(empty[name])[0]) for name in emptied]
    return Report(left_out=rows, shipped=validation, empty=rates, clear=clear)


@lru_cache
def load(path: Path, threads: int | None) -> Model:
    """A model on the CPU."""
    return load_model(path, "cpu", threads)


def all_peaks(model: Path, paths: LabelledPaths, threads: int | None) -> bytes:
    """All peaks of a labelled micrograph, as (3, n) float64 y, x and score: a task of a worker."""
    micrograph, _ = read_labelled(paths)
    peaks, _ = peaks_of(load(model, threads), micrograph, paths.source.known_diameter_angstrom)
    return np.stack([peaks.y, peaks.x, peaks.score]).astype(np.float64).tobytes()


def picked_of(paths: LabelledPaths, answer: bytes) -> Picked:
    """A labelled micrograph with what `all_peaks` found in it."""
    y, x, scores = np.frombuffer(answer, np.float64).reshape(3, -1)
    return Picked(paths=paths, micrograph=read_labelled(paths)[0], peaks=Picks(y=y, x=x, score=scores))


def newest_version(folder: Path) -> Path:
    """The version folder with the highest number in a model's folder."""
    return max((one for one in folder.iterdir() if one.name.isdigit()), key=lambda one: int(one.name))


def peaks_of(model: Model, micrograph: Micrograph, diameter_angstrom: float) -> tuple[Picks, float]:
    """All peaks of a micrograph, and the area in which they can be."""
    picker = Picker(model, PickingSettings(diameter_angstrom=diameter_angstrom))
    picture = picker.prepare(micrograph)
    pixel_size = picture.pixel_size_angstrom
    area = usable_area(
        micrograph.pixels.shape,
        margin_px=picker.limits.edge_margin_angstrom / pixel_size,
        diameter_px=picture.diameter_px,
        blank_fraction=picture.blank_fraction,
    )
    return find_low_peaks(picker.score(picture), picker.limits, pixel_size), area


def usable_area(shape: tuple[int, ...], *, margin_px: float, diameter_px: float, blank_fraction: float) -> float:
    """Area of a micrograph in which picks can be, in squares of the particle's diameter.

    Args:
        shape: (h, w).
        margin_px: edge margin.
        diameter_px: of the particle.
        blank_fraction: fraction of the micrograph without data.
    """
    h, w = (max(0.0, side - 2 * margin_px) for side in shape)
    return h * w * (1 - blank_fraction) / diameter_px**2


def choose(model: Model, peaks: Iterable[Picks]) -> ThresholdChoice:
    """The threshold that frazil chooses for the peaks of some micrographs, as ``frazil pick`` does."""
    contract = model.contract
    return choose_threshold(
        [one.score.astype(np.float32) for one in peaks],
        contract.threshold,
        calibration=read_calibration(contract.calibration),
    )


def score(
    model: Model,
    protein: TrainingSet,
    picked: Sequence[Picked],
    *,
    relion: Sequence[Picks] | None = None,
    topaz: Sequence[Picks] | None = None,
) -> list[Row]:
    """Choose the threshold over all micrographs, and score with each set of labels."""
    own_threshold, choice = model.contract.threshold, choose(model, (one.peaks for one in picked))
    rows = []
    for suffix in (protein.labels_suffix, *protein.other_labels):
        ranking = Ranking.pooled(rank(one, one.peaks, suffix) for one in picked)
        sweep, tally = sweep_thresholds(ranking), ranking.tally(choice.threshold)
        best = int(np.argmax(sweep.f1))
        log, general = (pooled(picked, theirs, suffix) for theirs in (relion, topaz))
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
                own_threshold=own_threshold,
                own_f1=ranking.tally(own_threshold).f1,
                relion_f1=None if log is None else log.tally(None).f1,
                topaz_f1=None if general is None else general.tally(EVEN_ODDS).f1,
                topaz_best_f1=None if general is None else best_f1(general),
            )
        )
    return rows


def pooled(picked: Sequence[Picked], theirs: Sequence[Picks] | None, suffix: str) -> Ranking | None:
    """Another picker's picks against one set of labels; None where there are none."""
    if theirs is None:
        return None
    return Ranking.pooled(rank(one, picks, suffix) for one, picks in zip(picked, theirs, strict=True))


def best_f1(ranking: Ranking) -> float:
    """F1 at the best threshold; 0 without picks."""
    return float(sweep_thresholds(ranking).f1.max(initial=0.0))


def rank(one: Picked, picks: Picks, suffix: str) -> Ranking:
    """Picks of a micrograph against one set of its labels."""
    truth = inside(one, labelled(one, suffix))
    return Ranking.of_micrograph(inside(one, picks), truth, HALF * diameter_px(one))


def labelled(one: Picked, suffix: str) -> Picks:
    """The particles of a micrograph by one set of its labels."""
    source = msgspec.structs.replace(one.paths.source, labels_suffix=suffix)
    return read_coordinates(one.paths.micrograph.with_name(f"{one.paths.micrograph.stem}{source.labels_ending}"))


def inside(one: Picked, picks: Picks) -> Picks:
    """Those inside the border of the micrograph."""
    return inside_border(picks, one.micrograph.pixels.shape, one.paths.source.border_px)


def picks_far_from_labels(protein: TrainingSet, picked: Sequence[Picked], threshold: float) -> Clear:
    """Picks in the places of real micrographs that lie farther than a diameter from every labelled particle.

    Edges are left out as far as particles beyond them reach. Labels miss particles, so not all of these picks are
    false.
    """
    area, count = 0.0, 0
    for one in picked:
        diameter, truth = diameter_px(one), labelled(one, protein.labels_suffix)
        h, w = one.micrograph.pixels.shape
        elsewhere = np.ones((h, w), np.uint8)
        rows, columns = (np.clip(np.rint(v), 0, n - 1).astype(int) for v, n in ((truth.y, h), (truth.x, w)))
        elsewhere[rows, columns] = 0
        is_clear = cv2.distanceTransform(elsewhere, cv2.DIST_L2, cv2.DIST_MASK_PRECISE) > CLEAR_DIAMETERS * diameter
        frame = round(protein.border_px + CLEAR_DIAMETERS * diameter)
        area += float(is_clear[frame : h - frame, frame : w - frame].sum()) / diameter**2
        picks = inside_border(one.peaks.select(one.peaks.reaching(threshold)), (h, w), frame)
        count += int((distance(picks, truth, 1) > CLEAR_DIAMETERS * diameter).sum())
    return Clear(protein=protein.folder, area_diameters=area, picks=count, rate=100 * count / area if area else 0.0)


def sample_of(one: Picked) -> Sample:
    """The micrograph for other pickers."""
    return Sample(
        micrograph=one.paths.micrograph,
        pixel_size_angstrom=one.micrograph.resolve_pixel_size(None),
        diameter_angstrom=one.paths.source.known_diameter_angstrom,
    )


def diameter_px(one: Picked) -> float:
    """Diameter of the particle in pixels of the micrograph."""
    return one.paths.source.known_diameter_angstrom / one.micrograph.resolve_pixel_size(None)


def false_picks(path: Path, index: int, threads: int | None) -> bytes:
    """Picks on an empty micrograph, a session of its own, per 100 squares of the diameter, as one float64: a task."""
    model = load(path, threads)
    world = simulate_world(series_seed(EMPTY_SEED, index), is_empty=True)
    micrograph = Micrograph(
        path=Path(f"empty_{index}.mrc"), pixels=world.pixels, pixel_size_angstrom=world.pixel_size_angstrom
    )
    peaks, area = peaks_of(model, micrograph, world.diameter_angstrom)
    rate = 100 * int(peaks.reaching(choose(model, [peaks]).threshold).sum()) / area
    return np.float64(rate).tobytes()


def tables_of(report: Report) -> dict[str, str]:
    """The tables of the page by the names of their places, in Markdown."""
    return {
        "left-out": table(report.left_out),
        "peers": peer_table(report.left_out),
        "shipped": table(report.shipped),
        "empty": empty_table(report.empty),
        "clear": clear_table(report.clear),
    }


def table(rows: Iterable[Row]) -> str:
    """What frazil picks."""
    head = (
        *("protein", "labels", "micrographs", "particles", "F1, chosen", "precision", "recall", "threshold"),
        *("estimated precision", "F1, best", "at", "F1, model's own", "at", "AP"),
    )
    return markdown_table(
        head,
        (
            (
                *(row.protein, row.labels, f"{row.micrographs}", f"{row.particles}", f"**{row.f1:.3f}**"),
                *(f"{row.precision:.3f}", f"{row.recall:.3f}", f"{row.threshold:.3f}"),
                "-" if row.estimated_precision is None else f"{row.estimated_precision:.2f}",
                *(f"{row.best_f1:.3f}", f"{row.best_threshold:.2f}", f"{row.own_f1:.3f}", f"{row.own_threshold:.2f}"),
                f"{row.average_precision:.3f}",
            )
            for row in rows
        ),
        right=len(head) - 2,
    )


def peer_table(rows: Iterable[Row]) -> str:
    """What others pick of the same micrographs."""
    head = (
        "protein",
        "labels",
        "frazil, chosen",
        "frazil, best",
        "RELION LoG, default",
        "Topaz, at 0",
        "Topaz, best",
    )
    return markdown_table(
        head,
        (
            (
                *(row.protein, row.labels, f"**{row.f1:.3f}**", f"{row.best_f1:.3f}"),
                *(
                    "not installed" if f1 is None else f"{f1:.3f}"
                    for f1 in (row.relion_f1, row.topaz_f1, row.topaz_best_f1)
                ),
            )
            for row in rows
        ),
        right=len(head) - 2,
    )


def clear_table(rows: Iterable[Clear]) -> str:
    """Picks far from every label."""
    head = ("protein", "area in squares of the diameter", "picks", "per 100 squares")
    return markdown_table(
        head,
        ((row.protein, f"{row.area_diameters:.0f}", f"{row.picks}", f"{row.rate:.1f}") for row in rows),
        right=len(head) - 1,
    )


def empty_table(empty: Sequence[float]) -> str:
    """False picks per 100 squares of the diameter on empty micrographs."""
    rates = np.array(empty)
    head = ("empty micrographs", "mean", "median", "more than 2 on", "worst")
    row = (f"{rates.size}", f"{rates.mean():.2f}", f"{np.median(rates):.2f}", f"{(rates > 2).sum()}")
    return markdown_table(head, [(*row, f"{rates.max():.1f}")], right=len(head))


def draw(protein: TrainingSet, one: Picked, threshold: float, overlays: Path | None, maps: Path | None) -> None:
    """Draw hits (filled), misses (open) and false picks (crosses) of a part of a micrograph."""
    shape = one.micrograph.pixels.shape
    truth = inside(one, labelled(one, protein.labels_suffix))
    picks = inside(one, one.peaks.select(one.peaks.reaching(threshold)))
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


if __name__ == "__main__":
    # Workers import the functions that they are to call, by the module's own name.
    from benchmarks import unseen

    unseen.main()
