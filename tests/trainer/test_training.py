import msgspec
import numpy as np
import pytest
import torch

from frazil.errors import FrazilError
from frazil_trainer.crops import CropSampler
from frazil_trainer.labelled import LabelledMicrograph
from frazil_trainer.networks import Mlp, MlpConfig
from frazil_trainer.recipe import Recipe
from frazil_trainer.training import EpochReport, train

pytestmark = pytest.mark.trainer

Discs = list[LabelledMicrograph]


@pytest.fixture(scope="module")
def short_recipe(tiny_recipe: Recipe) -> Recipe:
    return msgspec.structs.replace(tiny_recipe, epochs=1, samples_per_epoch=512)


def run(recipe: Recipe, discs: Discs) -> tuple[Mlp, list[EpochReport]]:
    reports: list[EpochReport] = []
    return train(recipe, discs[:1], discs[1:], reports.append), reports


def weights_of(network: Mlp) -> list[np.ndarray]:
    return [parameter.detach().numpy() for parameter in network.parameters()]


def test_default_network_is_the_papers_4096_256_256_1():
    network = Mlp(MlpConfig())
    shapes = [tuple(p.shape) for p in network.parameters()]
    assert shapes == [(256, 4096), (256,), (256, 256), (256,), (1, 256), (1,)]
    assert sum(p.numel() for p in network.parameters()) == 4096 * 256 + 256 + 256 * 256 + 256 + 256 + 1
    assert [m.p for m in network.modules() if isinstance(m, torch.nn.Dropout)] == [0.2, 0.2, 0.2]


@pytest.mark.parametrize("count", [1, 5])
def test_network_gives_one_logit_for_each_tile(count):
    network = Mlp(MlpConfig(tile_px=16, hidden=8)).eval()
    assert network(torch.rand(count, 1, 16, 16)).shape == (count, 1, 1)


def test_each_tile_is_scored_by_itself():
    network = Mlp(MlpConfig(tile_px=16, hidden=8)).eval()
    tiles = torch.rand(4, 1, 16, 16)
    torch.testing.assert_close(network(tiles)[2:3], network(tiles[2:3]))


def test_he_initialisation_keeps_the_spread_that_relu_needs():
    network = Mlp(MlpConfig())
    network.initialise(torch.Generator().manual_seed(0))
    dense = [layer for layer in network.modules() if isinstance(layer, torch.nn.Linear)]
    for layer in dense:
        spread, weight = (2 / layer.in_features) ** 0.5, layer.weight.detach().numpy()
        assert weight.std() == pytest.approx(spread, rel=0.15 if layer.out_features == 1 else 0.02)
        assert abs(weight.mean()) < 4 * spread / weight.size**0.5
        assert not layer.bias.any()


def test_initial_weights_come_from_the_generator_alone():
    def make(seed: int) -> list[np.ndarray]:
        network = Mlp(MlpConfig(tile_px=16, hidden=8))
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
    other, _ = run(msgspec.structs.replace(short_recipe, seed=short_recipe.seed + 1), disc_micrographs)
    for a, b in zip(weights_of(first), weights_of(again), strict=True):
        np.testing.assert_array_equal(a, b)
    assert reports == same_reports
    assert not np.array_equal(weights_of(first)[0], weights_of(other)[0])


def test_easy_problem_is_learnt(tiny_recipe, disc_micrographs):
    network, reports = run(msgspec.structs.replace(tiny_recipe, epochs=5), disc_micrographs)
    assert [report.epoch for report in reports] == [1, 2, 3, 4, 5]
    assert reports[-1].loss < 0.6 * reports[0].loss
    assert reports[-1].held_out_accuracy > 0.95
    assert reports[-1].accuracy > 0.9
    assert not network.training


def test_figures_on_held_out_crops_are_those_of_the_network(short_recipe, disc_micrographs):
    network, reports = run(short_recipe, disc_micrographs)
    tiles, labels = CropSampler(disc_micrographs[1:], short_recipe, 99).draw(4000)
    with torch.no_grad():
        right = (network(torch.from_numpy(tiles))[:, 0, 0].numpy() > 0) == (labels > 0.5)
    assert reports[-1].held_out_accuracy == pytest.approx(right.mean(), abs=0.04)


def test_held_out_micrographs_do_not_change_what_is_learnt(short_recipe, disc_micrographs):
    one = train(short_recipe, disc_micrographs[:1], disc_micrographs[1:], lambda _: None)
    other = train(short_recipe, disc_micrographs[:1], disc_micrographs[:1], lambda _: None)
    np.testing.assert_array_equal(weights_of(one)[0], weights_of(other)[0])


def test_updates_are_sgd_with_momentum_and_a_rate_that_falls_with_every_update(tiny_recipe, disc_micrographs):
    recipe = msgspec.structs.replace(
        tiny_recipe, epochs=2, samples_per_epoch=150, batch=32, dropout=0.0, decay_per_update=0.5, learning_rate=0.1
    )
    network, reports = run(recipe, disc_micrographs)

    # The same by hand: 5 updates an epoch (150 / 32, rounded up), v <- m v + g, w <- w - lr / (1 + decay k) v.
    expected = Mlp(MlpConfig(tile_px=16, hidden=16, dropout=0.0))
    expected.initialise(torch.Generator().manual_seed(recipe.seed))
    sampler = CropSampler(disc_micrographs[:1], recipe, recipe.seed)
    velocities = [torch.zeros_like(p) for p in expected.parameters()]
    losses = []
    for k in range(10):
        tiles, labels = (torch.from_numpy(array) for array in sampler.draw(32))
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


def test_loss_that_is_no_number_says_what_to_do(short_recipe, disc_micrographs):
    reports: list[EpochReport] = []
    recipe = msgspec.structs.replace(short_recipe, learning_rate=1e30)
    with pytest.raises(FrazilError, match=r"epoch 1: the loss is (nan|inf); lower learning_rate \(now 1e\+30\)"):
        train(recipe, disc_micrographs[:1], disc_micrographs[1:], reports.append)
    assert reports == []


def test_dropout_acts_in_later_epochs_too_and_not_on_held_out_crops(tiny_recipe, disc_micrographs):
    recipe = msgspec.structs.replace(tiny_recipe, hidden=64, epochs=4)
    _, dropping = run(msgspec.structs.replace(recipe, dropout=0.5), disc_micrographs)
    assert dropping[-1].accuracy < dropping[-1].held_out_accuracy - 0.05
    _, keeping = run(msgspec.structs.replace(recipe, dropout=0.0), disc_micrographs)
    assert keeping[-1].accuracy > keeping[-1].held_out_accuracy - 0.03
