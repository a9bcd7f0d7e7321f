"""What a model's remaining misses and false picks are, on the validation micrographs of a recipe.

For every miss: does it lie close to another particle, did the model see it but score it too low, did other pickers miss
it too? For every false pick: does it lie beside a particle, did another picker take it for one too? Against labels that
miss particles, the last question tells how many false picks are none.
"""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from benchmarks.figures import markdown_table
from frazil.model import load_model
from frazil.picking import Picks, match_picks
from frazil.settings import default_model_path
from frazil_trainer.evaluation import ScoredMicrograph, open_sources, score_micrographs, validation_paths
from frazil_trainer.recipe import find_recipe, read_recipe

HIT_DIAMETERS = 0.5
CLOSE_DIAMETERS = 0.6
BESIDE_DIAMETERS = 1.0
KINDS = (
    "particles",
    *("misses", "too close to another", "scored too low", "never seen", "missed by the others too"),
    *("false picks", "beside a particle", "taken by another picker too"),
)


def main() -> None:
    """Pick, compare, print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--recipe", default="fcn", help="names the validation micrographs (default fcn)")
    parser.add_argument("--data", type=Path, required=True, help="folder with the recipe's training sets")
    parser.add_argument("--model", type=Path, default=default_model_path(), help="default: the default model")
    parser.add_argument(
        "--picks", action="append", default=[], help="another picker's files, [NAME=]DIR; repeat for more"
    )
    parser.add_argument("--picks-y-axis", default="down", help="which way y grows in them: down (default) or up")
    args = parser.parse_args()

    paths = [
        one
        for one in validation_paths(args.data, read_recipe(find_recipe(args.recipe)).data)
        if not one.source.folder.startswith("simulated")
    ]
    threshold = load_model(args.model).contract.threshold
    model, *others = open_sources([f"model={args.model}"], args.picks, [args.picks_y_axis], None, paths)
    scored = score_micrographs([model, *others], paths)
    rows = []
    for folder, labels in dict.fromkeys((one.folder, one.labels) for one in scored):
        members = [one for one in scored if (one.folder, one.labels) == (folder, labels)]
        own = [one for one in members if one.picker == model.name]
        counts = count_errors(own, [one for one in members if one.picker != model.name], threshold)
        rows.append((folder, f"*{labels}", *(str(counts[kind]) for kind in KINDS)))
    print(markdown_table(("set", "labels", *KINDS), rows))


def count_errors(
    members: Sequence[ScoredMicrograph], others: Sequence[ScoredMicrograph], threshold: float
) -> Counter[str]:
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
        counts["particles"] += len(one.truth)
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
    return counts


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
    main()
