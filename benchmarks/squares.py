"""How well squares are ranked after a tenth of a session, over simulated sessions of an EPU grid.

    python -m benchmarks.squares [--pages]

A session has 40 squares of 20 to 80 exposures. What differs between squares is planted: the particles of an exposure
(lognormal over squares, halved and doubled by one standard deviation of 0.45), which thicker ice hides in part, and the
share of bad exposures (a Beta distribution of mean 0.2). Exposures scatter about their square (lognormal, 0.35). In
a *screened* session the first tenth goes round all squares, as operators screen a grid; in an *uneven* one it falls
where chance wants. With ``--pages`` the figures are written into the docs; ``--check`` measures
nothing: is the page what the figures give?
"""

from __future__ import annotations

import argparse
import sys
import time
import tracemalloc
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, get_args

import msgspec
import numpy as np
from numpy.typing import NDArray

from benchmarks.figures import fill_tables, markdown_table
from frazil.documents import Grade
from frazil.grid import Exposure, Square, Squares, hindsight, rank
from frazil.grid.ranking import between_variance, rank_correlation, within_variance

PAGE = Path(__file__).resolve().parents[1] / "docs" / "reference" / "squares.md"
FIGURES = PAGE.with_suffix(".json")
SESSIONS = 100
SQUARES = 40
BUDGET = 0.3
"""Share of all exposures that are taken after the first tenth, in the squares that come first."""

Visit = Literal["screened", "uneven"]
Method = Literal["drawn to the grid's mean", "the square's own mean", "drawn to a line through the ice"]


@dataclass(frozen=True, slots=True, kw_only=True)
class PlantedSquare:
    """A square as it really is."""

    name: str
    stage_um: tuple[float, float]
    ice: float
    particles: float
    """Mean of its exposures that are not bad."""
    bad: float
    """Share of exposures that are bad."""
    exposures: int

    @property
    def yield_of_exposure(self) -> float:
        """Particles that an exposure gives in the mean."""
        return self.particles * (1 - self.bad)


class Row(msgspec.Struct, frozen=True, kw_only=True):
    """How one method did in one kind of session."""

    visit: Visit
    method: Method
    correlation: float
    """Mean of Spearman's rank correlation with what the squares' remaining exposures really give."""
    worst_tenth: float
    """A tenth of the sessions have a correlation below this."""
    better_than_chance: int
    """Sessions of all in which it is above what 95 % of random orders reach."""
    gained: float
    """Particles of the next exposures, a third of the session's, in this order, over those in the order of the
    squares."""
    of_best: float
    """Over those in the best order."""


class Figures(msgspec.Struct, frozen=True, kw_only=True):
    """All of the page."""

    sessions: int
    rows: list[Row]
    errors_within: float
    """Share of squares whose true mean lies within two standard errors of the promise, in screened sessions."""
    hindsight_error: float
    """Mean difference of the correlation seen in hindsight, halfway, and of that with the truth."""
    many_micrographs: int
    many_megabytes: float
    many_seconds: float
    """To take all of them in, and rank the squares once."""


def plant(rng: np.random.Generator) -> list[PlantedSquare]:
    """A grid."""
    squares = []
    for number in range(SQUARES):
        ice = float(rng.gamma(4.0, 0.1))
        mean = 250 * float(np.exp(rng.normal(0, 0.45) - 0.6 * (ice - 0.4)))
        squares.append(
            PlantedSquare(
                name=str(7_000_000 + number),
                stage_um=(float(number % 8) * 130 - 450, float(number // 8) * 130 - 260),
                ice=ice,
                particles=mean,
                bad=float(rng.beta(1.2, 4.8)),
                exposures=int(rng.integers(20, 81)),
            )
        )
    return squares


def visits(squares: Sequence[PlantedSquare], visit: Visit, rng: np.random.Generator) -> list[int]:
    """Which square each exposure of a session is in, in the order in which they are taken."""
    left = np.array([square.exposures for square in squares])
    tenth = int(left.sum()) // 10
    if visit == "screened":
        rounds = [rng.permutation(len(squares)) for _ in range(-(-tenth // len(squares)))]
        first = np.concatenate(rounds)[:tenth].tolist()
    else:
        first = rng.permutation(np.repeat(np.arange(len(squares)), left))[:tenth].tolist()
    np.subtract.at(left, first, 1)
    return [*first, *np.repeat(np.arange(len(squares)), left).tolist()]


def expose(square: PlantedSquare, seq: int, rng: np.random.Generator) -> Exposure:
    """One exposure in a square, assessed."""
    is_bad = rng.random() < square.bad
    grade: Grade = "bad" if is_bad else "good"
    scatter = float(np.exp(rng.normal(0, 0.35) - 0.35**2 / 2))
    y, x = rng.uniform(-25, 25, 2)
    return Exposure(
        seq=seq,
        grid="",
        square=square.name,
        hole=f"{square.name}{int(rng.integers(0, 300))}",
        stage_x_um=square.stage_um[0] + float(x),
        stage_y_um=square.stage_um[1] + float(y),
        grade=grade,
        picks=int(rng.poisson(square.particles * scatter * (0.3 if is_bad else 1))),
        relative_ice_thickness=square.ice * float(np.exp(rng.normal(0, 0.2))),
        ctf_resolution_angstrom=4 + 6 * square.ice,
    )


def promised(squares: Sequence[Square], method: Method) -> dict[str, float]:
    """What each square promises, by its name."""
    if method == "the square's own mean":
        return {square.name: square.particles / len(square.exposures) for square in squares}
    if method == "drawn to a line through the ice":
        return drawn_to_ice(squares)
    return {promise.square.name: promise.particles for promise in rank(squares)}


def drawn_to_ice(squares: Sequence[Square]) -> dict[str, float]:
    """As `rank`, with the line through mean particles over mean ice of the squares in place of the grid's mean."""
    particles = [np.array([one.particles for one in square.exposures], np.float64) for square in squares]
    counts = np.array([len(one) for one in particles], np.float64)
    means = np.array([one.mean() for one in particles])
    within = within_variance(particles, means, counts)
    ice = np.array([square.relative_ice_thickness for square in squares], np.float64)
    line = np.polynomial.Polynomial.fit(ice, means, 1, w=np.sqrt(counts))(ice)
    between = between_variance(means - line, counts / within)
    trust = between / (between + within / counts)
    expected = (line + trust * (means - line)).tolist()
    return dict(zip((square.name for square in squares), expected, strict=True))


def run_session(visit: Visit, seed: int) -> tuple[dict[Method, tuple[float, float, float]], float, float, int]:
    """One session.

    Returns:
        For each method: correlation, particles over those in the squares' order, and over those in the best order;
        share of promises within two errors of the truth; how wrong hindsight is halfway; number of squares seen.
    """
    rng = np.random.default_rng((seed, visit == "screened"))
    planted = plant(rng)
    order = visits(planted, visit, rng)
    exposures = [expose(planted[index], seq, rng) for seq, index in enumerate(order, 1)]
    seen = len(order) // 10
    squares, halfway = Squares(), Squares()
    for number, exposure in enumerate(exposures):
        if number < seen:
            squares.note(str(number), exposure)
        if number < len(order) // 2:
            halfway.note(str(number), exposure)
    truth = {square.name: square.yield_of_exposure for square in planted}
    taken = {square.name: len(square.exposures) for square in squares.all()}
    left = {square.name: square.exposures - taken.get(square.name, 0) for square in planted}
    known = [name for name in taken if left[name] > 0]
    budget = int(BUDGET * len(order))

    def collected(names: Sequence[str]) -> float:
        total, rest = 0.0, budget
        for name in names:
            now = min(rest, left[name])
            total, rest = total + now * truth[name], rest - now
        return total

    in_order = collected(list(left))
    best = collected(sorted(left, key=lambda name: -truth[name]))
    found: dict[Method, tuple[float, float, float]] = {}
    for method in METHODS:
        promise = promised(squares.all(), method)
        mean = sum(promise.values()) / max(1, len(promise))
        names = sorted(left, key=lambda name: -promise.get(name, mean))
        correlation = (
            rank_correlation(np.array([promise[n] for n in known]), np.array([truth[n] for n in known]))
            if promise and len(known) > 2
            else 0.0
        )
        found[method] = correlation, collected(names) / in_order, collected(names) / best
    promises = rank(squares.all())
    within = [abs(one.particles - truth[one.square.name]) <= 2 * one.error for one in promises]
    late = hindsight(halfway.all())
    now = {one.square.name: one.particles for one in rank(halfway.all())}
    really = rank_correlation(np.array(list(now.values())), np.array([truth[name] for name in now])) if now else 0.0
    wrong = abs(late.correlation - really) if late is not None else float("nan")
    return found, float(np.mean(within)) if within else float("nan"), wrong, len(known)


VISITS: tuple[Visit, ...] = ("screened", "uneven")
METHODS: tuple[Method, ...] = get_args(Method)


def measure() -> Figures:
    """All figures."""
    rows, within, wrong = [], [], []
    for visit in VISITS:
        sessions = [run_session(visit, seed) for seed in range(SESSIONS)]
        for method in METHODS:
            values = np.array([found[method] for found, *_ in sessions])
            squares = [known for *_, known in sessions]
            rows.append(
                Row(
                    visit=visit,
                    method=method,
                    correlation=round(float(values[:, 0].mean()), 3),
                    worst_tenth=round(float(np.percentile(values[:, 0], 10)), 3),
                    better_than_chance=int(sum(values[:, 0] > [chance(known) for known in squares])),
                    gained=round(float(values[:, 1].mean()), 3),
                    of_best=round(float(values[:, 2].mean()), 3),
                )
            )
        if visit == "screened":
            within = [one for _, one, *_ in sessions]
            wrong = [one for *_, one, _ in sessions]
    megabytes, seconds, many = take_many()
    return Figures(
        sessions=SESSIONS,
        rows=rows,
        errors_within=round(float(np.nanmean(within)), 3),
        hindsight_error=round(float(np.nanmean(wrong)), 3),
        many_micrographs=many,
        many_megabytes=megabytes,
        many_seconds=seconds,
    )


def chance(squares: int) -> float:
    """The rank correlation that 95 % of random orders do not reach, for a number of squares."""
    if squares < 3:
        return 1.0
    rng = np.random.default_rng(squares)
    truth = np.arange(squares, dtype=np.float64)
    random: NDArray[np.float64] = np.array([rank_correlation(rng.permutation(truth), truth) for _ in range(400)])
    return float(np.percentile(random, 95))


def take_many(micrographs: int = 50_000, squares: int = 500) -> tuple[float, float, int]:
    """Megabytes, and seconds of processor time, that a large session takes."""
    rng = np.random.default_rng(0)
    planted = [square for _ in range(-(-squares // SQUARES)) for square in plant(rng)][:squares]
    planted = [replace(square, name=f"{number}") for number, square in enumerate(planted)]
    tracemalloc.start()
    exposures = [expose(planted[number % squares], number, rng) for number in range(micrographs)]
    kept = _take(exposures, squares)  # with what it keeps, and the list of it
    held = tracemalloc.get_traced_memory()[0] / 1e6
    tracemalloc.stop()
    started = time.process_time()
    rank(_take(exposures, squares).all())
    seconds = time.process_time() - started
    del kept
    return round(held, 1), round(seconds, 2), micrographs


def _take(exposures: Sequence[Exposure], squares: int) -> Squares:
    kept = Squares()
    for number, exposure in enumerate(exposures):
        kept.note(f"Images-Disc1/GridSquare_{number % squares}/Data/FoilHole_{number}_Data.mrc", exposure)
    return kept


def tables(figures: Figures) -> dict[str, str]:
    """The page's tables."""
    head = (
        "session",
        "method",
        "rank correlation",
        "worst tenth",
        "sessions beyond chance",
        "particles",
        "of the best",
    )
    lines = [
        (
            row.visit,
            row.method,
            f"**{row.correlation:.2f}**",
            f"{row.worst_tenth:.2f}",
            f"{row.better_than_chance} of {figures.sessions}",
            f"{row.gained - 1:+.0%}",
            f"{row.of_best:.0%}",
        )
        for row in figures.rows
    ]
    return {
        "ranking": markdown_table(head, lines, right=5),
        "rest": markdown_table(
            ("figure", "value"),
            [
                ("squares whose true mean lies within two standard errors", f"{figures.errors_within:.0%}"),
                ("how wrong the correlation seen in hindsight is, halfway", f"{figures.hindsight_error:.2f}"),
                (
                    f"{figures.many_micrographs:,} micrographs in 500 squares: memory",
                    f"{figures.many_megabytes:.0f} MB",
                ),
                ("the same: seconds of processor time to take all in and rank once", f"{figures.many_seconds:.2f}"),
            ],
            right=1,
        ),
    }


def main() -> None:
    """Measure, print, and write what is asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    made = parser.add_mutually_exclusive_group()
    made.add_argument("--pages", action="store_true", help="write the figures and the page")
    made.add_argument("--check", action="store_true", help="measure nothing; is the page what the figures give?")
    args = parser.parse_args()
    if args.check:
        figures = msgspec.json.decode(FIGURES.read_bytes(), type=Figures)
        page = PAGE.read_text("utf-8")
        sys.exit("squares.md: run benchmarks.squares --pages" if fill_tables(page, tables(figures)) != page else 0)
    figures = measure()
    if args.pages:
        FIGURES.write_bytes(msgspec.json.format(msgspec.json.encode(figures), indent=1) + b"\n")
        PAGE.write_text(fill_tables(PAGE.read_text("utf-8"), tables(figures)), "utf-8")
    print("\n\n".join(tables(figures).values()))


if __name__ == "__main__":
    main()
