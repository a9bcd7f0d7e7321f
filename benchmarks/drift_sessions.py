"""How soon drift is detected, and how often it is seen where there is none, in simulated sessions.

Micrographs of a few kinds of grid square, before and after a change of defocus and ice, are simulated, and picked with
the default model. Sessions are then drawn from what was found in them: square after square, so that neighbours are
alike, as at a microscope. Simulating takes minutes and is done once: ``--json`` keeps what was found, and a later run
with the same file draws new sessions from it.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from figures import markdown_table

from frazil.session.pick.drift import BASELINE_MICROGRAPHS, Drift

DIAMETER_ANGSTROM = 191.0
PIXEL_SIZE_ANGSTROM = 4.2
SIDE_PX = 1280
IN_A_GROUP = (3, 9)
"""Micrographs of neighbouring holes, those that one beam shift reaches, which are alike: least and most."""
IN_A_SQUARE = (20, 60)
"""Micrographs of one grid square."""
SQUARES_DIFFER = 0.25
"""Standard deviation of the logarithm of the particles' concentration from square to square."""
FIRST_SEED = 100_000_000
"""Of a session. The limits in `frazil.session.pick.drift` were chosen on sessions of smaller ones."""

SQUARES = {
    "ordinary": {"coverage_range": (0.12, 0.28)},
    "dense": {"coverage_range": (0.28, 0.42)},
    "sparse": {"coverage_range": (0.02, 0.06)},
    "on carbon": {"coverage_range": (0.12, 0.28), "carbon_probability": 1.0, "contamination_range": (2, 8)},
    "thick ice": {
        "coverage_range": (0.12, 0.28),
        "elastic_share_range": (0.4, 0.6),
        "coarse_noise_range_rad_angstrom": (1.2, 1.8),
    },
    "empty": {"particles_per_micrograph": (0, 3), "contamination_range": (2, 8)},
}
SHARES = {"ordinary": 0.55, "dense": 0.12, "sparse": 0.1, "on carbon": 0.1, "thick ice": 0.08, "empty": 0.05}
"""Of groups in a session."""
BEFORE = {
    "defocus_range_um": (0.9, 2.2),
    "b_factor_range_a2": (100.0, 300.0),
    "elastic_share_range": (0.7, 0.9),
    "coarse_noise_range_rad_angstrom": (0.4, 1.0),
}
AFTER = {
    "nearer focus, thicker ice": {
        "defocus_range_um": (0.3, 0.7),
        "b_factor_range_a2": (250.0, 450.0),
        "elastic_share_range": (0.35, 0.55),
        "coarse_noise_range_rad_angstrom": (1.4, 2.0),
    },
    "farther from focus, thicker ice": {
        "defocus_range_um": (2.8, 3.6),
        "b_factor_range_a2": (250.0, 450.0),
        "elastic_share_range": (0.35, 0.55),
        "coarse_noise_range_rad_angstrom": (1.4, 2.0),
    },
}
"""What the change brings. It overrules the kind of square."""
CHANGED_KINDS = ("ordinary", "dense", "sparse")
"""Kinds simulated after a change. The empty stay as they were, the others become like the ordinary."""
NONE_LEFT = "no particles left"
"""A change of its own: every square is like an empty one."""

Found = list[tuple[int, float]]
"""Picks and mean score of each micrograph of a pool."""
Pools = dict[str, dict[str, Found]]
"""By what the session is like (before, or one of `AFTER`), then by kind of square."""

Report = dict[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What was said of one session."""

    delay: int | None
    """Micrographs from the change to the first word of drift; None where there was none."""
    said: tuple[str, ...]
    """Of what drift was said, such as ``picks down``, before the change or where there was none."""
    few: bool
    """Whether it was said, before there was a baseline, that there are hardly any picks."""


def pool_after(change: str, kind: str) -> tuple[str, str]:
    """Where to draw from after a change: the state and the kind of square."""
    if change == NONE_LEFT or kind == "empty":
        return "before", "empty"
    return change, kind if kind in CHANGED_KINDS else "ordinary"


def main() -> None:
    """Simulate where needed, draw sessions, print and write."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--sessions", type=int, default=1000, help="of each kind (default 1000)")
    parser.add_argument("--micrographs", type=int, default=300, help="in a session (default 300)")
    parser.add_argument("--in-a-pool", type=int, default=6, help="micrographs simulated of each kind (default 6)")
    parser.add_argument("--json", type=Path, help="what was found in micrographs: read if it is there, and written")
    args = parser.parse_args()

    pools = json.loads(args.json.read_text())["micrographs"] if args.json and args.json.exists() else None
    if pools is None:
        pools = simulate_pools(args.in_a_pool)
    report = run(pools, args.sessions, args.micrographs)
    print(render(report))
    if args.json:
        args.json.write_text(json.dumps({"sessions": report, "micrographs": pools}, indent=1) + "\n")


def simulate_pools(count: int) -> Pools:
    """Simulate and pick micrographs of every kind."""
    from frazil.model import load_model
    from frazil.picking import Picker, PickingSettings, read_micrograph
    from frazil.settings import default_model_path
    from frazil_trainer.simulate import SimulationSettings, series_seed, simulate_micrograph, write_micrograph

    picker = Picker(load_model(default_model_path(), "cpu"), PickingSettings(diameter_angstrom=DIAMETER_ANGSTROM))
    pools: Pools = {}
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "simulated.mrc"
        for change, brought in {"before": {}, **AFTER}.items():
            for kind in CHANGED_KINDS if brought else SQUARES:
                settings = SimulationSettings(
                    shape=(SIDE_PX, SIDE_PX),
                    pixel_size_angstrom=PIXEL_SIZE_ANGSTROM,
                    model="galactosidase",
                    **{"carbon_probability": 0.1, **BEFORE, **SQUARES[kind], **brought},  # type: ignore[arg-type]
                )
                found = pools.setdefault(change, {}).setdefault(kind, [])
                for index in range(count):
                    write_micrograph(file, simulate_micrograph(settings, series_seed(len(pools), index)))
                    score = picker.pick(read_micrograph(file)).score
                    found.append((len(score), round(float(score.mean()), 4) if len(score) else 0.0))
                print(f"{change}, {kind}: {found}", flush=True)
    return pools


def delays_when_young(pools: Pools, sessions: int) -> list[int]:
    """No particles are left before there is a baseline: micrographs until that is said, where it is."""
    delays = []
    for index in range(sessions):
        seed = FIRST_SEED + 4 * sessions + index
        at = int(np.random.default_rng(seed).integers(3, BASELINE_MICROGRAPHS - 2))
        drift = Drift()
        for number, found in enumerate(draw(pools, at + 30, seed, change=NONE_LEFT, at=at)):
            drift.note(*found)
            if drift.few and number >= at:
                delays.append(number - at + 1)
                break
    return delays


def run(pools: Pools, sessions: int, micrographs: int) -> Report:
    """Draw sessions without and with each change, and count what is said of them."""
    quiet = [watch(draw(pools, micrographs, FIRST_SEED + index), None) for index in range(sessions)]
    changes = {}
    for number, change in enumerate([*AFTER, NONE_LEFT], start=1):
        outcomes = []
        for index in range(sessions):
            seed = FIRST_SEED + number * sessions + index
            at = BASELINE_MICROGRAPHS + int(np.random.default_rng(seed).integers(20, micrographs // 2))
            outcomes.append(watch(draw(pools, at + 60, seed, change=change, at=at), at))
        changes[change] = count_delays(sessions, [o.delay for o in outcomes if o.delay is not None])
    changes["no particles left, before there is a baseline"] = count_delays(
        sessions, delays_when_young(pools, sessions)
    )
    return {
        "micrographs": micrographs,
        "without_change": {
            "sessions": sessions,
            "false_alarms": sum(bool(o.said) for o in quiet),
            "false_alarms_in_the_first_20": sum(bool(o.said) for o in quiet[:20]),
            "few_picks_before_a_baseline": sum(o.few for o in quiet),
            "of": {what: sum(what in o.said for o in quiet) for what in sorted({w for o in quiet for w in o.said})},
        },
        "with_change": changes,
    }


def count_delays(sessions: int, delays: list[int]) -> Report:
    """The figures of one kind of change."""
    return {
        "sessions": sessions,
        "detected": len(delays),
        "within_25": sum(delay <= 25 for delay in delays),
        "median_micrographs": statistics.median(delays) if delays else None,
        "slowest_micrographs": max(delays, default=None),
    }


def draw(
    pools: Pools, count: int, seed: int, *, change: str | None = None, at: int | None = None
) -> Iterator[tuple[int, float]]:
    """Draw a session: picks and mean score of one micrograph after the other.

    Args:
        pools: to draw from.
        count: micrographs in it.
        seed: of the draw.
        change: what it is like from micrograph `at` on.
        at: counted from 0.
    """
    rng = np.random.default_rng(seed)
    done = square_ends = 0
    concentration = 1.0
    while done < count:
        if done >= square_ends:
            square_ends = done + int(rng.integers(IN_A_SQUARE[0], IN_A_SQUARE[1] + 1))
            concentration = float(np.exp(rng.normal(0, SQUARES_DIFFER)))
        kind = str(rng.choice(list(SHARES), p=list(SHARES.values())))
        for _ in range(int(rng.integers(IN_A_GROUP[0], IN_A_GROUP[1] + 1))):
            if done == count:
                return
            changed = change is not None and at is not None and done >= at
            state, like = pool_after(change, kind) if changed else ("before", kind)
            picks, score = pools[state][like][int(rng.integers(len(pools[state][like])))]
            yield round(picks * concentration), score
            done += 1


def watch(session: Iterator[tuple[int, float]], changed_at: int | None) -> Outcome:
    """Have drift looked for in a session."""
    drift = Drift()
    said: list[str] = []
    few = False
    for index, (picks, score) in enumerate(session):
        changes = drift.note(picks, score)
        few = few or drift.few
        begun = [f"{q} {d}" for q, d in changes if drift.chart(q).drifting[d]]
        if changed_at is not None and index >= changed_at and begun:
            return Outcome(delay=index - changed_at + 1, said=tuple(said), few=few)
        said += begun
    return Outcome(delay=None, said=tuple(said), few=few)


def render(report: Report) -> str:
    """The report as a table in Markdown."""
    head = ("change in mid-session", "sessions", "detected within 25 micrographs", "detected", "median", "slowest")
    keys = ("sessions", "within_25", "detected", "median_micrographs", "slowest_micrographs")
    rows = [(change, *(f"{found[key]:g}" for key in keys)) for change, found in report["with_change"].items()]
    quiet = report["without_change"]
    of = ", ".join(f"{what}: {count}" for what, count in quiet["of"].items()) or "none"
    return (
        f"{markdown_table(head, rows)}\n\n"
        f"Without a change, false alarms in {quiet['false_alarms_in_the_first_20']} of the first 20 sessions of "
        f"{report['micrographs']} micrographs, and in {quiet['false_alarms']} of {quiet['sessions']} ({of}). "
        f"In {quiet['few_picks_before_a_baseline']} of {quiet['sessions']} it is said for a while, before there is a "
        "baseline, that there are hardly any picks: empty holes and sparse squares."
    )


if __name__ == "__main__":
    main()
