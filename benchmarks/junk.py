"""How much junk the shipped model finds, and what becomes of the picks.

    python -m benchmarks.junk [--molecules FOLDER] [--data training] [--pages]

Dirty worlds that no model was trained on, each a session of its own, are picked by the shipped picker at the threshold
that frazil chooses. The model of junk says where junk lies, and the picks there are dropped. The simulator knows what
lies where. With ``--data``, a folder with the training sets of the recipe, the real validation micrographs are scored:
their labelled particles are no junk.

``--pages`` writes the figures into docs/reference/junk.json, the tables into docs/reference/junk.md, and a picture of
some worlds into docs/images. ``--check`` measures nothing: are the tables what the figures give?
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import msgspec
import numpy as np
from numpy.typing import NDArray
from rich.progress import track

from benchmarks.figures import fill_tables, markdown_table
from benchmarks.remaining_errors import hit
from benchmarks.unseen import choose
from frazil.errors import FrazilError, error_line
from frazil.model import Model, load_model
from frazil.picking import Micrograph, Picker, PickingSettings, Picks, find_low_peaks, make_picture
from frazil.picking.junk import JunkFinder, Outlines, lie_inside
from frazil.picking.picture import BlankArea
from frazil.settings import default_model_path
from frazil_trainer.data.labelled import find_labelled, inside_border, read_labelled
from frazil_trainer.evaluation.junk import score_picture
from frazil_trainer.recipe import find_recipe, read_recipe
from frazil_trainer.simulate import series_seed
from frazil_trainer.simulate.library import read_molecules
from frazil_trainer.simulate.specimen import JUNK_KINDS
from frazil_trainer.simulate.worlds import simulate_world

REPOSITORY = Path(__file__).resolve().parents[1]
PAGE = REPOSITORY / "docs" / "reference" / "junk.md"
FIGURES = PAGE.with_suffix(".json")
PICTURE = REPOSITORY / "docs" / "images" / "junk.jpg"
SHIPPED = REPOSITORY / "exported_models" / "junk"
SEED = 20261130
HALF = 0.5
_STALE = f"{PAGE.name}: not what the figures give; run python -m benchmarks.junk with --pages"
_DRAWN, _DRAWN_PX, _DRAWN_COLUMNS = 9, 360, 3
_WORST = 3
_TIMED_SHAPE, _TIMED_DIAMETER_PX = (4096, 4096), 108.0


class Kind(msgspec.Struct, frozen=True, kw_only=True):
    """One kind of junk."""

    kind: str
    micrographs: int
    """That show it."""
    area: float
    """Fraction of the area of all micrographs."""
    found: float
    """Fraction of its area that is called junk."""
    picks: int
    """Picks that lie in it."""
    left: int
    """Those of them that are not dropped."""


class Simulated(msgspec.Struct, frozen=True, kw_only=True):
    """Figures on the worlds, of the parts that hold data."""

    worlds: int
    with_junk: int
    precision: float
    """Of the area."""
    recall: float
    iou: float
    good_ice_called: float
    """Fraction of the area of good ice that is called junk."""
    particles: int
    """On good ice."""
    particles_called: int
    """Those in what is called junk."""
    found: int
    """Those that a pick is within half a diameter of."""
    found_after: int
    """The same of the picks that are not dropped."""
    picks: int
    dropped: int
    on_junk: int
    on_junk_after: int
    worst: list[int]
    """Picks left on junk in the worlds with the most of them, largest first."""
    worlds_with_picks_on_junk: int
    worlds_with_a_tenth_left: int
    """Those of them in which more than a tenth of the picks on junk are left."""
    silent: int
    """Worlds without junk in which nothing is called junk."""
    without_junk: int


class Real(msgspec.Struct, frozen=True, kw_only=True):
    """Figures on the validation micrographs of one protein."""

    protein: str
    micrographs: int
    particles: int
    particles_called: int
    called: float
    """Fraction of the area, inside the border."""
    picks: int
    dropped: int


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """All figures."""

    junk_model: str
    picker: str
    threshold: float
    molecules: str
    kinds: list[Kind]
    simulated: Simulated
    real: list[Real]
    milliseconds: float
    """Of the network alone, for a micrograph of 4096 x 4096 pixels with particles of 108 px, on one core."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Seen:
    """One micrograph as picked, and what the model says of it."""

    shape: tuple[int, int]
    """(h, w)."""
    picks: Picks
    """At the threshold that frazil chooses."""
    outlines: Outlines
    """Of what is called junk."""
    blank: BlankArea | None

    def called(self, y: NDArray[np.float64], x: NDArray[np.float64]) -> NDArray[np.bool_]:
        """(n,) whether each of some places is called junk."""
        return lie_inside(self.outlines, y, x)

    def holds_data(self, y: NDArray[np.float64], x: NDArray[np.float64]) -> NDArray[np.bool_]:
        """(n,) whether each of some places lies on data."""
        if self.blank is None:
            return np.ones(y.shape, np.bool_)
        samples, step = self.blank.samples, self.blank.step
        rows, columns = (
            np.clip(np.rint(v / step), 0, n - 1).astype(np.intp) for v, n in zip((y, x), samples.shape, strict=True)
        )
        return np.asarray(~samples[rows, columns], np.bool_)

    def grid(self, step_px: float) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """(n,) rows and (n,) columns of places all over the micrograph, on data."""
        axes = (np.arange(step_px / 2, n, step_px) for n in self.shape)
        y, x = (v.ravel() for v in np.meshgrid(*axes, indexing="ij"))
        kept = self.holds_data(y, x)
        return y[kept], x[kept]


def main() -> None:
    """Measure, print, and write what is asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--worlds", type=int, default=200, metavar="N", help="dirty worlds to simulate (default: 200)")
    parser.add_argument("--molecules", type=Path, help="folder of molecules (default: the simulator's own)")
    parser.add_argument("--data", type=Path, help="folder with the recipe's training sets")
    parser.add_argument("--junk", type=Path, default=SHIPPED, help="the model of junk (default: the shipped one)")
    parser.add_argument("--picker", type=Path, default=default_model_path(), help="default: the shipped one")
    made = parser.add_mutually_exclusive_group()
    made.add_argument("--pages", action="store_true", help="write the figures, the page and its picture")
    made.add_argument("--check", action="store_true", help="measure nothing; is the page what the figures give?")
    parser.add_argument("--json", type=Path, default=FIGURES, help="the figures (default: those in the docs)")
    args = parser.parse_args()
    if args.check:
        page = PAGE.read_text("utf-8")
        is_stale = fill_tables(page, tables_of(msgspec.json.decode(args.json.read_bytes(), type=Report))) != page
        sys.exit(_STALE if is_stale else 0)
    try:
        report = measure(args)
    except FrazilError as error:
        sys.exit(error_line("junk", error))
    for text in tables_of(report).values():
        print(text, end="\n\n")
    if args.pages:
        args.json.write_bytes(msgspec.json.format(msgspec.json.encode(report), indent=1) + b"\n")
        PAGE.write_text(fill_tables(PAGE.read_text("utf-8"), tables_of(report)), "utf-8")


def measure(args: argparse.Namespace) -> Report:
    """Pick and score everything, and draw what is asked for."""
    model, picker = load_model(args.junk, "cpu", 1, finds="junk"), load_model(args.picker, "cpu", 1)
    junk = JunkFinder(model, "dark")
    kinds, simulated = score_worlds(junk, picker, args)
    return Report(
        junk_model=str(model.identity),
        picker=str(picker.identity),
        threshold=model.contract.threshold,
        molecules="the simulator's own"
        if args.molecules is None
        else f"{len(read_molecules(args.molecules))} real ones",
        kinds=kinds,
        simulated=simulated,
        real=[] if args.data is None else score_real(junk, picker, args.data),
        milliseconds=time_network(model),
    )


def score_worlds(junk: JunkFinder, picker: Model, args: argparse.Namespace) -> tuple[list[Kind], Simulated]:
    """Simulate, pick and score the worlds one by one."""
    molecules = () if args.molecules is None else read_molecules(args.molecules)
    cells = np.zeros((len(JUNK_KINDS) + 1, 2), np.int64)  # by kind, and whether they are called junk
    picked = np.zeros((len(JUNK_KINDS) + 1, 2), np.int64)
    shown = np.zeros(len(JUNK_KINDS) + 1, np.int64)
    particles = called = found_before = found_after = silent = clean = 0
    on_junk: list[tuple[int, int]] = []  # of each world, before and after
    panels: list[NDArray[np.uint8]] = []
    for index in track(range(args.worlds), "worlds"):
        world = simulate_world(series_seed(SEED, index), molecules, is_dirty=True)
        micrograph = Micrograph(
            path=Path(f"world_{index}.mrc"), pixels=world.pixels, pixel_size_angstrom=world.pixel_size_angstrom
        )
        seen = see(junk, picker, micrograph, world.diameter_angstrom)
        picks, dropped = seen.picks, seen.called(seen.picks.y, seen.picks.x)
        reach = HALF * world.diameter_angstrom / world.pixel_size_angstrom
        y, x = seen.grid(reach)
        np.add.at(cells, (kinds_at(world.junk, y, x), seen.called(y, x).astype(int)), 1)
        of_picks = kinds_at(world.junk, picks.y, picks.x)
        np.add.at(picked, (of_picks, dropped.astype(int)), 1)
        on_junk.append((int((of_picks > 0).sum()), int(((of_picks > 0) & ~dropped).sum())))
        shown += np.bincount(np.unique(world.junk), minlength=shown.size)
        is_clean = not world.junk.any()
        clean += is_clean
        silent += is_clean and not seen.outlines
        truth = world.truth
        good = truth.select((kinds_at(world.junk, truth.y, truth.x) == 0) & seen.holds_data(truth.y, truth.x))
        particles += len(good)
        called += int(seen.called(good.y, good.x).sum())
        found_before += int(hit(picks, good, reach).sum())
        found_after += int(hit(picks.select(~dropped), good, reach).sum())
        if len(panels) < _DRAWN and not is_clean and len(picks) > 0:
            panels.append(draw(world.pixels, world.junk, seen, dropped, 2 * reach))
    if args.pages:
        rows_of = [np.hstack(panels[k : k + _DRAWN_COLUMNS]) for k in range(0, len(panels), _DRAWN_COLUMNS)]
        cv2.imwrite(str(PICTURE), np.vstack(rows_of), [cv2.IMWRITE_JPEG_QUALITY, 88])
    both, of_junk, all_called = int(cells[1:, 1].sum()), int(cells[1:].sum()), int(cells[:, 1].sum())
    table = [
        Kind(
            kind=name,
            micrographs=int(shown[number]),
            area=float(cells[number].sum() / cells.sum()),
            found=float(cells[number, 1] / max(1, cells[number].sum())),
            picks=int(picked[number].sum()),
            left=int(picked[number, 0]),
        )
        for number, name in enumerate(JUNK_KINDS, start=1)
    ]
    return table, Simulated(
        worlds=args.worlds,
        with_junk=args.worlds - clean,
        precision=both / max(1, all_called),
        recall=both / max(1, of_junk),
        iou=both / max(1, of_junk + all_called - both),
        good_ice_called=float(cells[0, 1] / max(1, cells[0].sum())),
        particles=particles,
        particles_called=called,
        found=found_before,
        found_after=found_after,
        picks=int(picked.sum()),
        dropped=int(picked[:, 1].sum()),
        on_junk=int(picked[1:].sum()),
        on_junk_after=int(picked[1:, 0].sum()),
        worst=sorted((after for _, after in on_junk), reverse=True)[:_WORST],
        worlds_with_picks_on_junk=sum(before > 0 for before, _ in on_junk),
        worlds_with_a_tenth_left=sum(after > before / 10 for before, after in on_junk),
        silent=silent,
        without_junk=clean,
    )


def score_real(junk: JunkFinder, picker: Model, data: Path) -> list[Real]:
    """The validation micrographs of the recipe's real proteins."""
    rows = []
    for source in read_recipe(find_recipe("junk")).data:
        if not isinstance(source.diameter_angstrom, float):
            continue  # simulated
        members = [one for one in find_labelled(data, source) if one.part == "validation"]
        particles = lost = picks_made = dropped = 0
        called, area = 0, 0
        for one in members:
            micrograph, labels = read_labelled(one)
            seen = see(junk, picker, micrograph, source.diameter_angstrom)
            shape, border = micrograph.pixels.shape, source.border_px
            labels, picks = inside_border(labels, shape, border), inside_border(seen.picks, shape, border)
            y, x = seen.grid(HALF * source.diameter_angstrom / micrograph.resolve_pixel_size(None))
            inside = (np.minimum(y, shape[0] - 1 - y) >= border) & (np.minimum(x, shape[1] - 1 - x) >= border)
            called += int(seen.called(y[inside], x[inside]).sum())
            area += int(inside.sum())
            particles += len(labels)
            lost += int(seen.called(labels.y, labels.x).sum())
            picks_made += len(picks)
            dropped += int(seen.called(picks.y, picks.x).sum())
        rows.append(
            Real(
                protein=source.folder,
                micrographs=len(members),
                particles=particles,
                particles_called=lost,
                called=called / max(1, area),
                picks=picks_made,
                dropped=dropped,
            )
        )
    return rows


def see(junk: JunkFinder, model: Model, micrograph: Micrograph, diameter_angstrom: float) -> Seen:
    """Pick a micrograph, and find its junk, as the daemon does."""
    picker = Picker(model, PickingSettings(diameter_angstrom=diameter_angstrom))
    picture = picker.prepare(micrograph)
    peaks = find_low_peaks(picker.score(picture), picker.limits, picture.pixel_size_angstrom)
    return Seen(
        shape=picture.rescaling.shape,
        picks=peaks.select(peaks.reaching(choose(model, [peaks]).threshold)),
        outlines=junk.find(micrograph, picture).outlines,
        blank=picture.blank,
    )


def kinds_at(junk: NDArray[np.uint8], y: NDArray[np.float64], x: NDArray[np.float64]) -> NDArray[np.intp]:
    """(n,) kind of junk at each of some places, counted from 1; 0 where there is none."""
    rows, columns = (np.clip(np.rint(v), 0, n - 1).astype(np.intp) for v, n in zip((y, x), junk.shape, strict=True))
    return junk[rows, columns].astype(np.intp)


def time_network(model: Model) -> float:
    """The fastest of some runs, in milliseconds."""
    pixels = np.random.default_rng(0).poisson(40, _TIMED_SHAPE).astype(np.float32)
    picture = make_picture(
        Micrograph(path=Path("timed.mrc"), pixels=pixels, pixel_size_angstrom=1.0),
        diameter_angstrom=_TIMED_DIAMETER_PX,
        pixel_size_angstrom=None,
        model_diameter_px=model.contract.diameter_px,
        normalisation=model.contract.normalisation,
        invert=False,
    )
    seconds = []
    for _ in range(40):
        started = time.perf_counter()
        score_picture(model, picture)
        seconds.append(time.perf_counter() - started)
    return 1e3 * min(seconds)


def draw(
    pixels: NDArray[np.float32],
    junk: NDArray[np.uint8],
    seen: Seen,
    dropped: NDArray[np.bool_],
    diameter_px: float,
) -> NDArray[np.uint8]:
    """(p, p, 3) a world: what is junk (green line), what is called so (red), picks that stay (blue), and that go."""
    side = _DRAWN_PX
    smooth = np.asarray(cv2.GaussianBlur(pixels, (0, 0), 0.05 * diameter_px), np.float32)
    low, high = np.percentile(smooth, (0.5, 99.5))
    grey = np.clip((smooth - low) * (255 / max(float(high - low), 1e-12)), 0, 255).astype(np.uint8)
    grey = np.asarray(cv2.resize(grey, (side, side), interpolation=cv2.INTER_AREA), np.uint8)
    canvas = np.asarray(cv2.cvtColor(grey, cv2.COLOR_GRAY2BGR), np.uint8)
    scale = side / np.array(pixels.shape)
    outlines = [np.rint(np.array(one)[:, ::-1] * scale[::-1]).astype(np.int32) for one in seen.outlines]
    called = cv2.fillPoly(np.zeros((side, side), np.uint8), outlines, 1) > 0
    canvas[called] = (0.7 * canvas[called] + 0.3 * np.array([40, 40, 230])).astype(np.uint8)
    truth = cv2.resize((junk > 0).astype(np.uint8), (side, side), interpolation=cv2.INTER_NEAREST)
    edges, _ = cv2.findContours(truth, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE)
    cv2.drawContours(canvas, edges, -1, (90, 200, 90), 1, cv2.LINE_AA)
    radius = max(2, round(0.35 * diameter_px * float(scale[0])))
    for y, x, goes in zip(seen.picks.y * scale[0], seen.picks.x * scale[1], dropped.tolist(), strict=True):
        if goes:
            cv2.drawMarker(
                canvas, (round(x), round(y)), (40, 40, 230), cv2.MARKER_TILTED_CROSS, 2 * radius, 1, cv2.LINE_AA
            )
        else:
            cv2.circle(canvas, (round(x), round(y)), radius, (230, 160, 40), 1, cv2.LINE_AA)
    return canvas


def tables_of(report: Report) -> dict[str, str]:
    """The tables of the page by the names of their places, in Markdown."""
    return {
        "model": model_table(report),
        "picks": picks_table(report.simulated),
        "worst": worst_table(report.simulated),
        "area": area_table(report.simulated),
        "kinds": kinds_table(report.kinds),
        "real": real_table(report.real),
    }


def model_table(report: Report) -> str:
    """What was measured."""
    head = ("model of junk", "a place is junk from", "picker", "molecules", "network on one core")
    row = (report.junk_model, f"{report.threshold:.2f}", report.picker, report.molecules)
    return markdown_table(head, [(*row, f"{report.milliseconds:.1f} ms")], right=0)


def picks_table(of: Simulated) -> str:
    """Picks before and after."""
    head = ("", "before", "after", "after / before")
    rows = [
        ("picks on junk", of.on_junk, of.on_junk_after),
        ("all picks", of.picks, of.picks - of.dropped),
        ("particles on good ice that are picked", of.found, of.found_after),
    ]
    return markdown_table(head, ((name, f"{a}", f"{b}", f"**{b / max(1, a):.3f}**") for name, a, b in rows), right=3)


def worst_table(of: Simulated) -> str:
    """Where the picks are that stay on junk."""
    head = (
        "worlds with picks on junk",
        "of them keep more than a tenth",
        "picks kept",
        f"in the {len(of.worst)} worst",
    )
    row = (of.worlds_with_picks_on_junk, of.worlds_with_a_tenth_left, of.on_junk_after, sum(of.worst))
    return markdown_table(head, [[f"{value}" for value in row]], right=len(head))


def area_table(of: Simulated) -> str:
    """Area."""
    head = (
        *("worlds", "with junk", "precision", "recall", "IoU", "good ice called junk"),
        *("particles on good ice", "of them called junk", "clean worlds", "silent"),
    )
    row = (
        *(f"{of.worlds}", f"{of.with_junk}", f"{of.precision:.3f}", f"{of.recall:.3f}", f"{of.iou:.3f}"),
        *(f"{of.good_ice_called:.2%}", f"{of.particles}", f"{of.particles_called / max(1, of.particles):.2%}"),
        *(f"{of.without_junk}", f"{of.silent}"),
    )
    return markdown_table(head, [row], right=len(head))


def kinds_table(rows: Sequence[Kind]) -> str:
    """By kind."""
    head = ("kind", "worlds", "share of the area", "area found", "picks", "left")
    return markdown_table(
        head,
        (
            (row.kind, f"{row.micrographs}", f"{row.area:.2%}", f"**{row.found:.3f}**", f"{row.picks}", f"{row.left}")
            for row in rows
        ),
        right=len(head) - 1,
    )


def real_table(rows: Iterable[Real]) -> str:
    """Real micrographs."""
    head = ("protein", "micrographs", "particles", "called junk", "area called junk", "picks", "dropped")
    return markdown_table(
        head,
        (
            (
                *(row.protein, f"{row.micrographs}", f"{row.particles}"),
                f"{row.particles_called} ({row.particles_called / max(1, row.particles):.2%})",
                *(f"{row.called:.2%}", f"{row.picks}", f"{row.dropped}"),
            )
            for row in rows
        ),
        right=len(head) - 1,
    )


if __name__ == "__main__":
    main()
