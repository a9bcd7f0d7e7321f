import shutil
from pathlib import Path

import mrcfile
import msgspec
import numpy as np
import pytest

from frazil.errors import FrazilError, MicrographError
from frazil.picking import Picks, write_star
from frazil_trainer.data.labelled import find_labelled, load_labelled, training_set_sha256
from frazil_trainer.recipe import DrawnCrops, MlpSettings, Recipe, Sgd, TrainingSet

SHAPE = (300, 460)
PLACES = [(40.0, 60.0), (100.5, 300.25), (205.0, 410.0), (250.0, 33.0)]


def write_micrograph(path: Path, places: list[tuple[float, float]], pixel_size: float = 2.0) -> None:
    """A micrograph with a dark blob, 40 px wide, at each place (y, x)."""
    y, x = np.mgrid[: SHAPE[0], : SHAPE[1]]
    pixels = 1000 + np.random.default_rng(3).normal(0, 5, SHAPE)
    for cy, cx in places:
        pixels -= 200 * np.exp(-((y - cy) ** 2 + (x - cx) ** 2) / (2 * 10.0**2))
    with mrcfile.new(path) as mrc:
        mrc.set_data(pixels.astype(np.float32))
        mrc.voxel_size = pixel_size


def write_labels(path: Path, places: list[tuple[float, float]]) -> None:
    array = np.array(places, np.float64).reshape(-1, 2)
    write_star(path, Picks(y=array[:, 0], x=array[:, 1], score=np.ones(len(array))))


def write_pair(folder: Path, stem: str, places: list[tuple[float, float]], suffix: str = "") -> None:
    folder.mkdir(parents=True, exist_ok=True)
    write_micrograph(folder / f"{stem}.mrc", [p for p in places if 0 <= p[0] < SHAPE[0] and 0 <= p[1] < SHAPE[1]])
    write_labels(folder / f"{stem}{suffix}.star", places)


def source(**changes: object) -> TrainingSet:
    return TrainingSet(**({"folder": "set", "diameter_angstrom": 80.0} | changes))


def recipe(*, diameter_px: float = 24.0) -> Recipe:
    return Recipe(
        seed=1,
        data=(source(),),
        diameter_px=diameter_px,
        epochs=1,
        batch=2,
        network=MlpSettings(),
        examples=DrawnCrops(),
        optimiser=Sgd(),
    )


def test_labelled_micrographs_are_listed_by_name_and_those_without_labels_left_out(tmp_path):
    for stem in ("b", "a", "c"):
        write_pair(tmp_path / "set", stem, PLACES)
    (tmp_path / "set" / "b.star").unlink()
    found = find_labelled(tmp_path, source())
    assert [paths.micrograph.name for paths in found] == ["a.mrc", "c.mrc"]
    assert [paths.labels.name for paths in found] == ["a.star", "c.star"]


def test_labels_are_those_with_the_suffix(tmp_path):
    write_pair(tmp_path / "set", "a", PLACES, suffix="_union")
    write_labels(tmp_path / "set" / "a.star", PLACES[:1])
    (paths,) = find_labelled(tmp_path, source(labels_suffix="_union"))
    assert paths.labels.name == "a_union.star"
    assert len(load_labelled(paths, recipe()).centres) == len(PLACES)


def test_parts_are_told_by_stem(tmp_path):
    for stem in ("a", "b", "c.d", "e"):
        write_pair(tmp_path / "set", stem, PLACES)
    found = find_labelled(tmp_path, source(validation=("c.d",), selection=("a",)))
    assert {paths.micrograph.stem: paths.part for paths in found} == {
        "a": "selection",
        "b": "training",
        "c.d": "validation",
        "e": "training",
    }


def test_of_a_set_that_is_only_scored_nothing_but_validation_is_used(tmp_path):
    for stem in ("a", "b", "c"):
        write_pair(tmp_path / "set", stem, PLACES)
    found = find_labelled(tmp_path, source(validation=("c",), selection=("a",), only_scored=True))
    assert [paths.part for paths in found] == ["unused", "unused", "validation"]


def test_folder_without_labels_is_refused(tmp_path):
    (tmp_path / "set").mkdir()
    write_micrograph(tmp_path / "set" / "a.mrc", PLACES)
    with pytest.raises(FrazilError, match=r"set: expected micrographs .* with labels \(\*_x\.star\), found none"):
        find_labelled(tmp_path, source(labels_suffix="_x"))


def test_missing_folder_is_refused(tmp_path):
    with pytest.raises(FrazilError, match=r"nowhere: expected micrographs"):
        find_labelled(tmp_path, source(folder="nowhere"))


@pytest.mark.parametrize("part", ["validation", "selection"])
def test_stem_that_names_no_micrograph_is_refused_by_name(tmp_path, part):
    write_pair(tmp_path / "set", "a", PLACES)
    with pytest.raises(FrazilError, match=r"the micrographs zz of the recipe"):
        find_labelled(tmp_path, source(**{part: ("a", "zz")}))


@pytest.mark.parametrize("diameter_px", [12.0, 24.0, 38.4, 50.0])
def test_centres_land_on_their_particles_in_a_picture_that_is_not_square(tmp_path, diameter_px):
    write_pair(tmp_path / "set", "a", PLACES)
    (paths,) = find_labelled(tmp_path, source())
    labelled = load_labelled(paths, recipe(diameter_px=diameter_px))
    pixels, factor = labelled.picture.pixels, diameter_px / 40
    assert pixels.shape == (round(SHAPE[0] * factor), round(SHAPE[1] * factor))
    y, x = np.mgrid[: pixels.shape[0], : pixels.shape[1]]
    assert len(labelled.centres) == len(PLACES)
    for (cy, cx), (py, px) in zip(labelled.centres, PLACES, strict=True):
        assert (cy, cx) == pytest.approx(((py + 0.5) * factor - 0.5, (px + 0.5) * factor - 0.5), abs=0.5)
        dark = np.where(np.hypot(y - cy, x - cx) < 12 * factor, 1 - pixels, 0)
        centroid = (dark * y).sum() / dark.sum(), (dark * x).sum() / dark.sum()
        assert centroid == pytest.approx((cy, cx), abs=0.5)
        assert pixels[round(cy), round(cx)] < 0.2


def test_particles_outside_and_in_the_border_are_left_out(tmp_path):
    outside = [(-5.0, 100.0), (300.0, 100.0), (100.0, 460.0), (100.0, -0.5)]
    in_border = [(10.0, 200.0), (285.0, 200.0), (150.0, 15.0), (150.0, 445.0)]
    write_pair(tmp_path / "set", "a", [*PLACES, *outside, *in_border])
    (paths,) = find_labelled(tmp_path, source())
    assert len(load_labelled(paths, recipe()).centres) == len(PLACES) + len(in_border)
    (paths,) = find_labelled(tmp_path, source(border_px=20))
    labelled = load_labelled(paths, recipe())
    assert len(labelled.centres) == len(PLACES)
    assert labelled.border_px == pytest.approx(20 * 24 / 40, rel=0.01)


@pytest.mark.parametrize("places", [[], [(1000.0, 5.0)]])
def test_micrograph_without_particles_is_refused(tmp_path, places):
    write_pair(tmp_path / "set", "a", PLACES)
    write_labels(tmp_path / "set" / "a.star", places)
    (paths,) = find_labelled(tmp_path, source())
    with pytest.raises(FrazilError, match=r"a\.star: expected particles inside the micrograph, found none"):
        load_labelled(paths, recipe())


def test_labels_that_are_no_star_file_are_refused(tmp_path):
    write_pair(tmp_path / "set", "a", PLACES)
    (tmp_path / "set" / "a.star").write_text("12 13\n")
    (paths,) = find_labelled(tmp_path, source())
    with pytest.raises(FrazilError, match=r"a\.star"):
        load_labelled(paths, recipe())


def test_diameter_that_cannot_be_is_refused(tmp_path):
    write_pair(tmp_path / "set", "a", PLACES)
    (paths,) = find_labelled(tmp_path, source(diameter_angstrom=3.0))
    with pytest.raises(MicrographError, match="expected a particle of 9 to 300 px"):
        load_labelled(paths, recipe())


def test_hash_changes_with_pixels_labels_and_order_and_not_with_the_place_of_files(tmp_path):
    for stem in ("a", "b"):
        write_pair(tmp_path / "set", stem, PLACES)
    write_labels(tmp_path / "set" / "b.star", PLACES[:2])
    shutil.copytree(tmp_path / "set", tmp_path / "elsewhere" / "set")
    found = find_labelled(tmp_path, source())
    sha256 = training_set_sha256(found)
    assert len(sha256) == 64
    assert training_set_sha256(find_labelled(tmp_path / "elsewhere", source())) == sha256
    assert training_set_sha256(found[::-1]) != sha256
    assert training_set_sha256(found[:1]) != sha256
    write_labels(tmp_path / "set" / "a.star", PLACES[1:])
    assert training_set_sha256(found) != sha256


def test_simulated_truth_lands_on_dark_places(simulated_data, tiny_recipe):
    labelled = load_labelled(find_labelled(simulated_data, tiny_recipe.data[0])[0], tiny_recipe)
    pixels = labelled.picture.pixels
    y, x = np.mgrid[: pixels.shape[0], : pixels.shape[1]]

    def darkness(centres: np.ndarray) -> float:
        return float(np.mean([1 - pixels[np.hypot(y - cy, x - cx) <= 3].mean() for cy, cx in centres]))

    h, w = pixels.shape
    right = darkness(labelled.centres) - (1 - pixels.mean())
    turned = darkness(np.array([h - 1, w - 1]) - labelled.centres) - (1 - pixels.mean())
    assert right > 0.03
    assert turned < 0.4 * right


def test_recipe_decides_how_the_picture_looks(simulated_data, tiny_recipe):
    paths = find_labelled(simulated_data, tiny_recipe.data[0])[0]
    small = load_labelled(paths, tiny_recipe).picture
    large = load_labelled(paths, msgspec.structs.replace(tiny_recipe, diameter_px=19.2)).picture
    assert large.pixels.shape[0] == pytest.approx(2 * small.pixels.shape[0], abs=2)
    assert 0 <= small.pixels.min() < small.pixels.max() <= 1
