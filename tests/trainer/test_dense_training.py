"""The fully convolutional network: its scores lie where the contract says, and it learns."""

from __future__ import annotations

import dataclasses
import io
from pathlib import Path

import numpy as np
import pytest
import torch
from msgspec.structs import replace
from rich.console import Console
from torch.nn import functional

from frazil.errors import FrazilError
from frazil.model import load_model
from frazil_trainer.data.labelled import LabelledMicrograph, find_labelled, load_labelled
from frazil_trainer.evaluation import ModelSource, best_threshold, score_micrographs
from frazil_trainer.evaluation.ranking import Ranking
from frazil_trainer.networks import Fcn, make_network
from frazil_trainer.recipe import AdamW, FcnSettings, Patches, Recipe
from frazil_trainer.run import run_recipe
from frazil_trainer.training.dense import PatchSource, quality_focal_loss
from frazil_trainer.training.loop import EpochReport, train

pytestmark = pytest.mark.trainer

SMALL = FcnSettings(widths=(4, 6, 8), dilations=(1, 2), halo_cells=8)


def network(config: FcnSettings = SMALL, seed: int = 0) -> Fcn:
    made = Fcn(config)
    made.initialise(torch.Generator().manual_seed(seed))
    return made.eval()


@pytest.fixture(scope="module")
def dense_recipe(tiny_recipe: Recipe) -> Recipe:
    return replace(
        tiny_recipe,
        network=FcnSettings(widths=(6, 8, 12), dilations=(1, 2), halo_cells=6, tile_px=128),
        examples=Patches(patch_px=96, per_epoch=400),
        optimiser=AdamW(learning_rate=1e-2),
        mixed_precision=True,
        diameter_px=16.0,
        epochs=4,
        batch=8,
    )


def trained(recipe: Recipe, micrographs: list[LabelledMicrograph]) -> tuple[torch.nn.Module, list[EpochReport]]:
    assert isinstance(recipe.examples, Patches)
    made = make_network(recipe.network, recipe.seed)
    return made, train(made, PatchSource(recipe, recipe.examples, micrographs[2:], micrographs[:2]), recipe)


@pytest.fixture(scope="module")
def micrographs(simulated_data: Path, dense_recipe: Recipe) -> list[LabelledMicrograph]:
    paths = find_labelled(simulated_data, dense_recipe.data[0])
    return [load_labelled(one, dense_recipe) for one in paths]


def test_a_tile_gives_a_grid_without_its_halo() -> None:
    with torch.no_grad():
        assert network()(torch.rand(3, 1, 96, 128)).shape == (3, 96 // 4 - 16, 128 // 4 - 16)


def test_each_score_depends_on_what_lies_around_its_own_pixel() -> None:
    rows, columns = np.mgrid[:160, :160]
    for i, j in ((3, 11), (12, 5)):
        seen = np.zeros((160, 160))
        for seed in range(6):
            tiles = torch.rand(1, 1, 160, 160, generator=torch.Generator().manual_seed(seed), requires_grad=True)
            network(seed=seed)(tiles)[0, i, j].backward()
            assert tiles.grad is not None
            seen += tiles.grad[0, 0].abs().numpy()
        y, x = (rows * seen).sum() / seen.sum(), (columns * seen).sum() / seen.sum()
        assert y == pytest.approx(4 * (i + SMALL.halo_cells), abs=1.0)
        assert x == pytest.approx(4 * (j + SMALL.halo_cells), abs=1.0)


def test_a_shift_by_one_step_shifts_the_scores_by_one_cell() -> None:
    wide = torch.rand(1, 1, 164, 160, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        here, there = network()(wide[:, :, :160]), network()(wide[:, :, 4:])
    torch.testing.assert_close(here[:, 1:], there[:, :-1], atol=1e-5, rtol=1e-4)


def test_the_halo_hides_the_padding() -> None:
    tiles = torch.rand(1, 1, 256, 256, generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        whole, part = network()(tiles), network()(tiles[:, :, 64:192, 64:192])
    torch.testing.assert_close(whole[:, 16:32, 16:32], part, atol=1e-4, rtol=1e-3)


def test_without_focus_the_loss_is_cross_entropy() -> None:
    generator = torch.Generator().manual_seed(0)
    logits, target = torch.randn(2, 9, 9, generator=generator), torch.rand(2, 9, 9, generator=generator)
    weights = torch.ones_like(target)
    expected = functional.binary_cross_entropy_with_logits(logits, target, reduction="sum")
    torch.testing.assert_close(quality_focal_loss(logits, target, weights, 0.0), expected)


def test_cells_that_do_not_count_change_nothing() -> None:
    logits, target, weights = torch.zeros(1, 4, 4), torch.full((1, 4, 4), 0.7), torch.ones(1, 4, 4)
    weights[:, 2:] = 0
    loss = quality_focal_loss(logits, target, weights, 2.0)
    logits[:, 2:] = 50
    target[:, 2:] = 0
    torch.testing.assert_close(quality_focal_loss(logits, target, weights, 2.0), loss)


def test_an_unlabelled_cell_that_looks_like_a_particle_is_ignored(
    dense_recipe: Recipe, micrographs: list[LabelledMicrograph]
) -> None:
    examples = PatchSource(dense_recipe, Patches(doubtful_score=0.35), micrographs[2:], micrographs[:2])
    target, weights = torch.zeros(1, 4, 4), torch.ones(1, 4, 4)
    everywhere, nowhere = torch.ones(1, 4, 4, dtype=torch.bool), torch.zeros(1, 4, 4, dtype=torch.bool)

    def loss(score: float, unlabelled: torch.Tensor) -> float:
        logits = torch.full((1, 4, 4), score).logit()
        return float(examples.sums(logits, (torch.empty(0), target, weights, unlabelled)).loss)

    assert loss(0.4, everywhere) == 0
    assert loss(0.4, nowhere) > 0
    assert loss(0.3, everywhere) == pytest.approx(loss(0.3, nowhere))


def test_cells_are_ignored_once_scores_mean_something(
    dense_recipe: Recipe, micrographs: list[LabelledMicrograph]
) -> None:
    one = micrographs[2]
    incomplete = dataclasses.replace(one, source=replace(one.source, incomplete=(one.name,)))
    assert isinstance(dense_recipe.examples, Patches)
    patches = replace(dense_recipe.examples, doubt_from=0.5)
    examples = PatchSource(dense_recipe, patches, [incomplete], micrographs[:2])
    half = dense_recipe.epochs * examples.updates_per_epoch // 2
    assert not examples.draw(half - 1, range(2))[3].any()
    assert examples.draw(half, range(2))[3].any()


def test_it_learns_and_the_same_seed_gives_the_same_network(
    dense_recipe: Recipe, micrographs: list[LabelledMicrograph]
) -> None:
    short = replace(dense_recipe, epochs=2, examples=replace(dense_recipe.examples, per_epoch=96))
    runs = []
    for seed in (7, 7, 8):
        made, reports = trained(replace(short, seed=seed), micrographs)
        assert reports[-1].loss < 0.5 * reports[0].loss
        runs.append(torch.cat([p.detach().flatten() for p in made.parameters()]))
    torch.testing.assert_close(runs[0], runs[1], atol=0, rtol=0)
    assert not torch.equal(runs[0], runs[2])


def test_an_absurd_learning_rate_is_an_error_that_says_what_to_do(
    dense_recipe: Recipe, micrographs: list[LabelledMicrograph]
) -> None:
    absurd = replace(dense_recipe, epochs=2, optimiser=AdamW(learning_rate=1e20))
    with pytest.raises(FrazilError, match="lower learning_rate"):
        trained(absurd, micrographs)


def test_a_dense_recipe_becomes_a_model_that_the_daemons_picker_runs(
    dense_recipe: Recipe, simulated_data: Path, tmp_path: Path
) -> None:
    console = Console(file=io.StringIO())
    short = replace(dense_recipe, epochs=3, examples=replace(dense_recipe.examples, per_epoch=240))
    version = run_recipe(short, simulated_data, tmp_path / "fcn", console, run=tmp_path / "run", device="cpu")
    assert version is not None
    model = load_model(version, "cpu")
    assert (model.contract.architecture, model.contract.tile_px, model.contract.grid) == ("fcn", 128, 20)
    assert (model.contract.step_px, model.contract.offset_px) == (4.0, 24.0)
    paths = [p for source in dense_recipe.data for p in find_labelled(simulated_data, source) if p.part == "validation"]
    scored = score_micrographs([ModelSource(model)], paths)
    weights = {source.folder: source.weight for source in dense_recipe.data}
    ranking = Ranking.pooled(one.rank() for one in scored)
    assert ranking.tally(best_threshold(scored, weights)).f1 > 0.7
