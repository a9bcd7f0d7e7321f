"""What a model's remaining misses and false picks are, on the validation micrographs of a recipe.

For every miss: does it lie close to another particle, did the model see it but score it too low, did other pickers miss
it too? For every false pick: does it lie beside a particle, did another picker take it for one too? Against labels that
miss particles, the last question tells how many false picks are none.
"""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table
from scipy.spatial import cKDTree

from frazil.model import load_model
from frazil.picking import Picks, match_picks
from frazil.settings import default_model_path
from frazil_trainer.evaluation import ScoredMicrograph, open_sources, score_micrographs, validation_paths
from frazil_trainer.recipe import find_recipe, read_recipe

HIT_DIAMETERS = 0.5
CLOSE_DIAMETERS = 0.6
BESIDE_DIAMETERS = 1.0
MISSES = ("misses", "too close to another", "scored too low", "never seen", "missed by the others too")
FALSE_PICKS = ("false picks", "beside a particle", "taken by another picker too")


@dataclass(frozen=True, slots=True, kw_only=True)
class Errors:
    """Errors on the micrographs of one training set against one set of labels, counted by kind."""

    folder: str
    labels: str
    particles: int
    counts: Counter[str]


def main() -> int:
    """Pick, compare, print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--recipe", default="fcn", help="names the validation micrographs (default fcn)")
    parser.add_argument("--data", type=Path, required=True, help="folder with the recipe's training sets")
    parser.add_argument("--model", type=Path, default=default_model_path(), help="default: the default model")
    parser.add_argument(
        "--picks", action="append", default=[], help="another picker's files, [NAME=]DIR; repeat for more"
    )
    parser.add_argument("--picks-y-axis", default="down", help="which way y grows in them: down (default) or up")
    parser.add_argument("--markdown", type=Path, help="also write the table here, as the docs have it")
    args = parser.parse_args()

    paths = [
        one
        for one in validation_paths(args.data, read_recipe(find_recipe(args.recipe)).data)
        if not one.source.folder.startswith("simulated")
    ]
    threshold = load_model(args.model).contract.threshold
    model, *others = open_sources([f"model={args.model}"], args.picks, [args.picks_y_axis], None, paths)
    scored = score_micrographs([model, *others], paths)
    rows = [
        count_errors(
            [one for one in scored if (one.folder, one.labels) == key and one.picker == model.name],
            [one for one in scored if (one.folder, one.labels) == key and one.picker != model.name],
            threshold,
        )
        for key in dict.fromkeys((one.folder, one.labels) for one in scored)
    ]
    heads = ("set", "labels", "particles", *MISSES, *FALSE_PICKS)
    body = [
        (row.folder, f"*{row.labels}", str(row.particles), *(str(row.counts[kind]) for kind in (*MISSES, *FALSE_PICKS)))
        for row in rows
    ]
    table = Table(*heads)
    for line in body:
        table.add_row(*line)
    Console().print(table)
    if args.markdown:
        lines = (heads, ("---",) * len(heads), *body)
        args.markdown.write_text("".join(f"| {' | '.join(line)} |\n" for line in lines))
    return 0


def count_errors(members: Sequence[ScoredMicrograph], others: Sequence[ScoredMicrograph], threshold: float) -> Errors:
    """Count the model's errors on micrographs with one set of labels; `others` are other pickers' picks there."""
    counts: Counter[str] = Counter()
    for one in members:
        diameter = one.diameter_px
        picks = one.picks.select(one.picks.score >= threshold)
        matched = match_picks(picks, one.truth, HIT_DIAMETERS * diameter)
        missed = np.ones(len(one.truth), bool)
        missed[matched[matched >= 0]] = False
        misses, false_picks = one.truth.select(missed), picks.select(matched < 0)
        elsewhere = [other.picks for other in others if other.name == one.name]
        hit_elsewhere = [hit(other, one.truth, HIT_DIAMETERS * diameter)[missed] for other in elsewhere]
        weak = distance(misses, one.picks, 1) <= HIT_DIAMETERS * diameter
        counts["misses"] += len(misses)
        counts["too close to another"] += int((distance(misses, one.truth, 2) < CLOSE_DIAMETERS * diameter).sum())
        counts["scored too low"] += int(weak.sum())
        counts["never seen"] += int((~weak).sum())
        if elsewhere:
            counts["missed by the others too"] += int((~np.any(hit_elsewhere, axis=0)).sum())
            taken = [distance(false_picks, other, 1) <= HIT_DIAMETERS * diameter for other in elsewhere]
            counts["taken by another picker too"] += int(np.any(taken, axis=0).sum())
        counts["false picks"] += len(false_picks)
        counts["beside a particle"] += int((distance(false_picks, one.truth, 1) < BESIDE_DIAMETERS * diameter).sum())
    return Errors(
        folder=members[0].folder,
        labels=members[0].labels,
        particles=sum(len(one.truth) for one in members),
        counts=counts,
    )


def hit(picks: Picks, truth: Picks, max_distance_px: float) -> NDArray[np.bool_]:
    """(n,) which particles the picks hit, one to one."""
    found = np.zeros(len(truth), bool)
    matched = match_picks(picks, truth, max_distance_px)
    found[matched[matched >= 0]] = True
    return found


def distance(places: Picks, targets: Picks, neighbour: int) -> NDArray[np.float64]:
    """(n,) distance from each place to its first or second nearest target; infinite where there is none."""
    if len(places) == 0 or len(targets) < neighbour:
        return np.full(len(places), np.inf)
    tree = cKDTree(np.stack([targets.y, targets.x], axis=1))
    distances, _ = tree.query(np.stack([places.y, places.x], axis=1), k=[neighbour])
    return np.asarray(distances[:, 0], np.float64)


if __name__ == "__main__":
    sys.exit(main())
