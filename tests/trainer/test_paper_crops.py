"""The paper's fixed sets of crops, and the two accuracies on them."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from msgspec.structs import replace

from frazil.errors import FrazilError
from frazil_trainer.data.labelled import LabelledMicrograph
from frazil_trainer.examples.crops import CropCutter, Places, fixed_places
from frazil_trainer.networks import make_network
from frazil_trainer.recipe import CentredCrops, CnnSettings, JitteredCrops, MlpSettings, Recipe
from frazil_trainer.training.loop import train
from frazil_trainer.training.windows import FixedCropSource

pytestmark = pytest.mark.trainer

Make = Callable[..., LabelledMicrograph]
DIAMETER_PX, TILE_PX = 20.0, 17
CENTRES = [(60.0, 45.0), (60.0, 150.0), (140.0, 100.0), (20.0, 205.0)]


@pytest.fixture(scope="module")
def micrographs(make_labelled: Make) -> list[LabelledMicrograph]:
    """Two micrographs, not square, with different numbers of particles."""
    pixels = np.random.default_rng(0).random((180, 260))
    return [make_labelled(pixels, CENTRES), make_labelled(pixels[::-1], CENTRES[:1])]


def places_of(
    micrographs: list[LabelledMicrograph], crops: CentredCrops | JitteredCrops, count: int, seed: int = 0
) -> Places:
    cutter = CropCutter(micrographs, TILE_PX)
    return fixed_places(micrographs, cutter, crops, DIAMETER_PX, count=count, rng=np.random.default_rng(seed))


def centres_of(places: Places) -> np.ndarray:
    return places.corner - TILE_PX // 2 + (TILE_PX - 1) / 2


def nearest_particle(places: Places, micrographs: list[LabelledMicrograph]) -> np.ndarray:
    distances = []
    for source, (y, x) in zip(places.source, centres_of(places), strict=True):
        distances.append(np.hypot(*(micrographs[source].centres - (y, x)).T).min())
    return np.array(distances)


def test_centred_crops_show_each_particle_at_four_angles(micrographs: list[LabelledMicrograph]) -> None:
    places = places_of(micrographs, CentredCrops(), 40)
    positive = places.select(places.label == 1)
    shown = sorted(zip(positive.source, map(tuple, centres_of(positive).tolist()), positive.turn, strict=True))
    expected = [(s, c, t) for s, m in enumerate(micrographs) for c in map(tuple, m.centres.tolist()) for t in range(4)]
    assert shown == sorted(expected)


def test_positives_repeat_only_when_there_are_no_others(micrographs: list[LabelledMicrograph]) -> None:
    assert len(places_of(micrographs, CentredCrops(), 40).different()) == 40
    places = places_of(micrographs, CentredCrops(), 70)
    assert (len(places), places.label.sum(), places.different().label.sum()) == (70, 35, 20)
    _, times = np.unique(
        np.column_stack([places.source, places.corner, places.turn])[places.label == 1], axis=0, return_counts=True
    )
    assert set(times.tolist()) == {1, 2}


def test_jittered_crops_show_each_particle_centred_and_at_offsets(micrographs: list[LabelledMicrograph]) -> None:
    crops = JitteredCrops(positive_offset_diameters=0.3)
    places = places_of(micrographs, crops, 400)
    positive = places.select(places.label == 1)
    off = nearest_particle(positive, micrographs)
    assert (off[:5] == 0).all()  # each of the five first
    assert off.max() <= 0.3 * DIAMETER_PX + 0.5**0.5
    assert off.max() > 0.2 * DIAMETER_PX
    assert set(positive.turn.tolist()) == {0}
    assert len(positive.different()) > 150


@pytest.mark.parametrize("crops", [CentredCrops(), JitteredCrops()])
def test_negatives_keep_their_distance_and_differ(
    micrographs: list[LabelledMicrograph], crops: CentredCrops | JitteredCrops
) -> None:
    places = places_of(micrographs, crops, 400)
    negative = places.select(places.label == 0)
    assert len(negative) == len(negative.different()) == 200
    least = crops.negative_offset_diameters * DIAMETER_PX
    assert nearest_particle(negative, micrographs).min() >= least - 0.5**0.5
    # As many from a micrograph as it has positives.
    assert np.bincount(negative.source).tolist() == np.bincount(places.source[places.label == 1]).tolist()


def test_a_micrograph_without_room_for_so_many_negatives_is_refused(make_labelled: Make) -> None:
    small = make_labelled(np.zeros((24, 24)), [(12, 12)])
    with pytest.raises(FrazilError, match=r"made: expected room for \d+ negative crops, found \d+"):
        places_of([small], CentredCrops(), 900)


NETWORKS = {
    "mlp": MlpSettings(tile_px=16, hidden=16, dropout=0.1),
    "cnn": CnnSettings(tile_px=32, channels=2, convolutions=(1, 2, 1, 1, 1), hidden=16, dropout=0.1),
}


def paper_crops(recipe: Recipe, discs: list[LabelledMicrograph], architecture: str) -> FixedCropSource:
    crops = JitteredCrops(count=600, positive_offset_diameters=0.1)
    return FixedCropSource(replace(recipe, batch=50), NETWORKS[architecture].tile_px, crops, discs[:1], discs[1:])


def test_an_epoch_goes_through_nine_tenths_of_the_crops_once(
    tiny_recipe: Recipe, disc_micrographs: list[LabelledMicrograph]
) -> None:
    examples = paper_crops(tiny_recipe, disc_micrographs, "mlp")
    assert examples.updates_per_epoch == 10  # 540 crops: the last 40 fill no batch
    assert examples.counts["left_out_crops"] == 60

    def epoch(number: int) -> list[tuple[torch.Tensor, ...]]:
        return [examples.draw(10 * number + k, range(50)) for k in range(10)]

    def negatives(batches: list[tuple[torch.Tensor, ...]]) -> list[bytes]:
        return [crop.numpy().tobytes() for tiles, labels in batches for crop in tiles[labels == 0]]

    first, second = negatives(epoch(0)), negatives(epoch(1))
    assert len(set(first)) == len(first)  # no two negatives are the same
    assert first != second
    assert not set(negatives(examples.held_out["leaky"])) & {*first, *second}
    np.testing.assert_array_equal(
        torch.cat([examples.draw(3, range(20))[0], examples.draw(3, range(20, 50))[0]]), examples.draw(3, range(50))[0]
    )


@pytest.mark.parametrize("architecture", ["mlp", "cnn"])
def test_the_papers_networks_learn_and_tell_a_leaky_and_an_honest_accuracy(
    tiny_recipe: Recipe, disc_micrographs: list[LabelledMicrograph], architecture: str
) -> None:
    recipe = replace(tiny_recipe, batch=50, epochs=9, optimiser=replace(tiny_recipe.optimiser, learning_rate=0.03))
    examples = paper_crops(recipe, disc_micrographs, architecture)
    network = make_network(NETWORKS[architecture], recipe.seed)
    history = train(network, examples, recipe)
    assert set(history[-1].held_out) == {"leaky", "honest"}
    assert history[-1].held_out["leaky"] > 0.9
    assert history[-1].held_out["honest"] > 0.9
    for name, batches in examples.held_out.items():
        with torch.no_grad():
            correct = sum(int(((network(x)[:, 0, 0] > 0) == (y > 0.5)).sum()) for x, y in batches)
        assert history[-1].held_out[name] == correct / sum(len(y) for _, y in batches)
