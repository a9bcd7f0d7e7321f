from collections.abc import Mapping

import numpy as np
import pytest
import torch
from msgspec.structs import replace

from frazil.errors import FrazilError
from frazil_trainer.data.labelled import LabelledMicrograph
from frazil_trainer.networks import Cnn, Mlp, make_network
from frazil_trainer.recipe import CnnSettings, DrawnCrops, MlpSettings, Recipe
from frazil_trainer.training.loop import EpochReport, train
from frazil_trainer.training.windows import DrawnCropSource

pytestmark = pytest.mark.trainer

Discs = list[LabelledMicrograph]


def with_changes(recipe: Recipe, changes: Mapping[str, object]) -> Recipe:
    """A recipe with some settings changed, whichever of its tables they are in."""
    for table in ("network", "examples", "optimiser"):
        settings = getattr(recipe, table)
        own = {key: value for key, value in changes.items() if hasattr(settings, key)}
        recipe = replace(recipe, **{table: replace(settings, **own)})
    return replace(recipe, **{key: value for key, value in changes.items() if hasattr(recipe, key)})


@pytest.fixture(scope="module")
def short_recipe(tiny_recipe: Recipe) -> Recipe:
    return with_changes(tiny_recipe, {"epochs": 1, "per_epoch": 512})


def crops_of(recipe: Recipe, training: Discs, held_out: Discs) -> DrawnCropSource:
    assert isinstance(recipe.network, MlpSettings)
    assert isinstance(recipe.examples, DrawnCrops)
    return DrawnCropSource(recipe, recipe.network.tile_px, recipe.examples, training, held_out)


def run(recipe: Recipe, discs: Discs) -> tuple[torch.nn.Module, list[EpochReport]]:
    network = make_network(recipe.network, recipe.seed)
    return network, train(network, crops_of(recipe, discs[:1], discs[1:]), recipe)


def weights_of(network: torch.nn.Module) -> list[np.ndarray]:
    return [parameter.detach().numpy() for parameter in network.parameters()]


def test_default_network_is_the_papers_4096_256_256_1():
    network = Mlp(MlpSettings())
    shapes = [tuple(p.shape) for p in network.parameters()]
    assert shapes == [(256, 4096), (256,), (256, 256), (256,), (1, 256), (1,)]
    assert sum(p.numel() for p in network.parameters()) == 4096 * 256 + 256 + 256 * 256 + 256 + 256 + 1
    assert [m.p for m in network.modules() if isinstance(m, torch.nn.Dropout)] == [0.2, 0.2, 0.2]


@pytest.mark.parametrize("count", [1, 5])
def test_network_gives_one_logit_for_each_tile(count):
    network = Mlp(MlpSettings(tile_px=16, hidden=8)).eval()
    assert network(torch.rand(count, 1, 16, 16)).shape == (count, 1, 1)


def test_each_tile_is_scored_by_itself():
    network = Mlp(MlpSettings(tile_px=16, hidden=8)).eval()
    tiles = torch.rand(4, 1, 16, 16)
    torch.testing.assert_close(network(tiles)[2:3], network(tiles[2:3]))


def test_he_initialisation_keeps_the_spread_that_relu_needs():
    network = Mlp(MlpSettings())
    network.initialise(torch.Generator().manual_seed(0))
    dense = [layer for layer in network.modules() if isinstance(layer, torch.nn.Linear)]
    for layer in dense:
        spread, weight = (2 / layer.in_features) ** 0.5, layer.weight.detach().numpy()
        assert weight.std() == pytest.approx(spread, rel=0.15 if layer.out_features == 1 else 0.02)
        assert abs(weight.mean()) < 4 * spread / weight.size**0.5
        assert not layer.bias.any()


def test_convolutional_network_has_the_papers_shape():
    network = Cnn(CnnSettings())
    *convolutions, first, last = [layer for layer in network.modules() if isinstance(layer, torch.nn.Conv2d)]
    assert [c.out_channels for c in convolutions] == [8, 16, 32, 64, 64, 128, 128]
    assert all((c.kernel_size, c.padding) == ((3, 3), (1, 1)) for c in convolutions)
    layers = list(network.layers)
    assert sum(isinstance(layer, torch.nn.MaxPool2d) for layer in layers) == 5
    # Dense layers: each sees all that the layer before leaves of a window.
    assert (first.in_channels, first.kernel_size, first.out_channels) == (128, (2, 2), 256)
    assert (last.in_channels, last.kernel_size, last.out_channels) == (256, (1, 1), 1)
    assert all(isinstance(layers[layers.index(dense) - 1], torch.nn.Dropout) for dense in (first, last))
    assert network.eval()(torch.rand(3, 1, 64, 64)).shape == (3, 1, 1)


@pytest.mark.parametrize(("tile_px", "convolutions"), [(40, (2, 1, 2)), (38, (1, 1, 2)), (12, (2, 1)), (6, (1,))])
def test_without_padding_a_tile_is_given_the_very_scores_of_its_windows(tile_px, convolutions):
    step = 2 ** len(convolutions)
    config = CnnSettings(
        tile_px=tile_px, stride_px=step, channels=3, convolutions=convolutions, hidden=7, padding=False
    )
    network = Cnn(config).eval()
    network.initialise(torch.Generator().manual_seed(3))
    tile = torch.rand(1, 1, tile_px + 4 * step, tile_px + 2 * step, generator=torch.Generator().manual_seed(4))
    with torch.no_grad():
        whole = network(tile)[0]
        windows = [
            tile[..., y : y + tile_px, x : x + tile_px] for y in range(0, 5 * step, step) for x in (0, step, 2 * step)
        ]
        one_by_one = network(torch.cat(windows))
    assert whole.shape == (5, 3)
    assert one_by_one.std() > 1e-3
    torch.testing.assert_close(whole.flatten(), one_by_one.flatten(), rtol=0, atol=1e-6)


@pytest.mark.parametrize(("tile_px", "step_px"), [(16, 4), (15, 5), (12, 12), (9, 13)])
def test_as_convolutions_an_mlp_gives_a_tile_the_scores_of_its_windows(tile_px, step_px):
    network = Mlp(MlpSettings(tile_px=tile_px, hidden=7)).eval()
    network.initialise(torch.Generator().manual_seed(3))
    tile = torch.rand(2, 1, tile_px + 4 * step_px, tile_px + 2 * step_px, generator=torch.Generator().manual_seed(4))
    windows = [
        tile[..., y : y + tile_px, x : x + tile_px]
        for y in range(0, 5 * step_px, step_px)
        for x in (0, step_px, 2 * step_px)
    ]
    with torch.no_grad():
        whole = network.over_tiles(step_px)(tile)
        one_by_one = torch.stack([network(window)[:, 0, 0] for window in windows], dim=1)
    assert whole.shape == (2, 5, 3)
    assert one_by_one.std() > 1e-3
    torch.testing.assert_close(whole.flatten(1), one_by_one, rtol=0, atol=1e-5)


def test_initial_weights_come_from_the_generator_alone():
    def make(seed: int) -> list[np.ndarray]:
        network = Mlp(MlpSettings(tile_px=16, hidden=8))
        network.initialise(torch.Generator().manual_seed(seed))
        return weights_of(network)

    torch.manual_seed(0)
    first = make(5)
    torch.manual_seed(1)
    for a, b in zip(first, make(5), strict=True):
        np.testing.assert_array_equal(a, b)
    assert not np.array_equal(first[0], make(6)[0])


def test_same_seed_gives_the_same_network_and_another_seed_another(short_recipe, disc_micrographs):
    torch.manual_seed(100)
    first, reports = run(short_recipe, disc_micrographs)
    torch.manual_seed(200)
    again, same_reports = run(short_recipe, disc_micrographs)
    other, _ = run(with_changes(short_recipe, {"seed": short_recipe.seed + 1}), disc_micrographs)
    for a, b in zip(weights_of(first), weights_of(again), strict=True):
        np.testing.assert_array_equal(a, b)
    assert reports == same_reports
    assert not np.array_equal(weights_of(first)[0], weights_of(other)[0])


def test_easy_problem_is_learnt(tiny_recipe, disc_micrographs):
    network, reports = run(with_changes(tiny_recipe, {"epochs": 5}), disc_micrographs)
    assert [report.epoch for report in reports] == [1, 2, 3, 4, 5]
    assert reports[-1].loss < 0.6 * reports[0].loss
    assert reports[-1].held_out["held_out"] > 0.95
    assert reports[-1].metric > 0.9
    assert not network.training


def test_figures_on_held_out_crops_are_those_of_the_network(short_recipe, disc_micrographs):
    network, reports = run(short_recipe, disc_micrographs)
    other_crops = crops_of(with_changes(short_recipe, {"seed": 99}), disc_micrographs[1:], disc_micrographs[1:])
    tiles, labels = other_crops.draw(0, range(4000))
    with torch.no_grad():
        correct = (network(tiles)[:, 0, 0] > 0) == (labels > 0.5)
    assert reports[-1].held_out["held_out"] == pytest.approx(float(correct.float().mean()), abs=0.04)


def test_held_out_micrographs_do_not_change_what_is_learnt(short_recipe, disc_micrographs):
    weights = []
    for held_out in (disc_micrographs[1:], disc_micrographs[:1]):
        network = make_network(short_recipe.network, short_recipe.seed)
        train(network, crops_of(short_recipe, disc_micrographs[:1], held_out), short_recipe)
        weights.append(weights_of(network)[0])
    np.testing.assert_array_equal(*weights)


def test_updates_are_sgd_with_momentum_and_a_rate_that_falls_with_every_update(tiny_recipe, disc_micrographs):
    changes = {
        "epochs": 2,
        "per_epoch": 150,
        "batch": 32,
        "dropout": 0.0,
        "decay_per_update": 0.5,
        "learning_rate": 0.1,
    }
    recipe = with_changes(tiny_recipe, changes)
    network, reports = run(recipe, disc_micrographs)

    # The same by hand: 5 updates an epoch (150 / 32, rounded up), v <- m v + g, w <- w - lr / (1 + decay k) v.
    expected = Mlp(MlpSettings(tile_px=16, hidden=16, dropout=0.0))
    expected.initialise(torch.Generator().manual_seed(recipe.seed))
    drawn = crops_of(recipe, disc_micrographs[:1], disc_micrographs[1:])
    velocities = [torch.zeros_like(p) for p in expected.parameters()]
    losses = []
    for k in range(10):
        tiles, labels = drawn.draw(k, range(32))
        chance = torch.sigmoid(expected(tiles)[:, 0, 0])
        loss = -(labels * chance.log() + (1 - labels) * (1 - chance).log()).mean()
        gradients = torch.autograd.grad(loss, list(expected.parameters()))
        losses.append(float(loss.detach()))
        with torch.no_grad():
            for parameter, velocity, gradient in zip(expected.parameters(), velocities, gradients, strict=True):
                velocity.mul_(0.9).add_(gradient)
                parameter.sub_(0.1 / (1 + 0.5 * k) * velocity)
    for a, b in zip(weights_of(network), weights_of(expected), strict=True):
        np.testing.assert_allclose(a, b, atol=2e-5)
    assert [report.loss for report in reports] == pytest.approx([np.mean(losses[:5]), np.mean(losses[5:])], rel=1e-4)


def test_loss_that_is_no_number_says_where_and_what_to_do(short_recipe, disc_micrographs):
    recipe = with_changes(short_recipe, {"learning_rate": 1e30})
    message = r"epoch 1, update \d+, learning rate \S+: .*found (nan|inf); lower learning_rate \(now 1e\+30\)"
    with pytest.raises(FrazilError, match=message):
        run(recipe, disc_micrographs)


def test_dropout_acts_in_later_epochs_too_and_not_on_held_out_crops(tiny_recipe, disc_micrographs):
    recipe = with_changes(tiny_recipe, {"hidden": 64, "epochs": 4})
    _, dropping = run(with_changes(recipe, {"dropout": 0.5}), disc_micrographs)
    assert dropping[-1].metric < dropping[-1].held_out["held_out"] - 0.05
    _, keeping = run(with_changes(recipe, {"dropout": 0.0}), disc_micrographs)
    assert keeping[-1].metric > keeping[-1].held_out["held_out"] - 0.03
