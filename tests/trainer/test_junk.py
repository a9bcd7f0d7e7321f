"""Junk: where the simulator puts it, what the network learns of it, and the model that finds it."""

from __future__ import annotations

import dataclasses
import io
import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
import pytest
from msgspec.structs import replace
from rich.console import Console
from typer.testing import CliRunner

from frazil.errors import MicrographError, ModelError, SettingsError
from frazil.model import check_in_sandbox, identify_model, load_model
from frazil_trainer.cli import app
from frazil_trainer.data.labelled import LabelledMicrograph, find_labelled, find_micrographs, load_labelled
from frazil_trainer.evaluation.junk import JunkScores, choose_junk_threshold, junk_rows, score_junk
from frazil_trainer.examples.areas import AreaSampler
from frazil_trainer.networks import make_network
from frazil_trainer.recipe import AdamW, Areas, JunkSettings, Patches, Recipe, TrainingSet, find_recipe, read_recipe
from frazil_trainer.run import run_recipe
from frazil_trainer.simulate import SimulationSettings, density_model, series_seed, simulate_micrograph
from frazil_trainer.simulate.specimen import JUNK_KINDS
from frazil_trainer.simulate.surroundings import Surroundings
from frazil_trainer.simulate.worlds import World, simulate_world, write_worlds
from frazil_trainer.training.dense import PatchSource
from frazil_trainer.training.loop import train

pytestmark = pytest.mark.trainer

MOLECULES = [density_model(name) for name in ("apoferritin", "capsid")]
CLEAN = SimulationSettings(
    shape=(420, 500),
    pixel_size_angstrom=4.0,
    model="apoferritin",
    carbon_probability=0.0,
    contamination_range=(0, 0),
)


def kind(name: str) -> int:
    return JUNK_KINDS.index(name) + 1


@pytest.fixture(scope="module")
def junk_data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder with ten dirty worlds, junk/."""
    data = tmp_path_factory.mktemp("junk-data")
    list(write_worlds(data / "junk", MOLECULES, count=10, seed=12, are_dirty=True))
    return data


@pytest.fixture(scope="module")
def junk_recipe() -> Recipe:
    return Recipe(
        seed=3,
        diameter_px=8.0,
        normalisation="wide-01",
        epochs=1,
        batch=8,
        network=JunkSettings(widths=(4, 8, 8, 8, 8), dilations=(1, 2), tile_px=128),
        examples=Areas(per_epoch=24, patch_px=96),
        optimiser=AdamW(learning_rate=1e-2),
        data=(TrainingSet(folder="junk", validation=("world_0001",), selection=("world_0002",)),),
    )


@pytest.mark.parametrize(
    ("changes", "surroundings", "expected"),
    [
        ({"carbon_probability": 1.0}, {}, "carbon film"),
        ({"carbon_probability": 1.0}, {"metal": True}, "metal film"),
        ({"contamination_range": (6, 6)}, {}, "ice crystal"),
        ({}, {"large_dirt": 3}, "ice crystal"),
        ({}, {"small_dirt": 30}, "frozen ethane"),
        ({}, {"clumps": 4}, "clump"),
        ({}, {"filaments": 4}, "filament"),
        ({}, {"speckles": 1}, "crystalline ice"),
        ({}, {"cracks": 2}, "crack"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_each_kind_of_junk_is_marked_and_changes_the_micrograph_there(
    changes: dict[str, object], surroundings: dict[str, object], expected: str
) -> None:
    settings = dataclasses.replace(CLEAN, particles_per_micrograph=(0, 0), **changes)  # type: ignore[arg-type]
    simulated = simulate_micrograph(settings, 5, surroundings=Surroundings(**surroundings))  # type: ignore[arg-type]
    marked = simulated.junk == kind(expected)

    assert set(np.unique(simulated.junk)) == {0, kind(expected)}
    assert simulated.junk.shape == simulated.pixels.shape
    plain = simulate_micrograph(dataclasses.replace(CLEAN, particles_per_micrograph=(0, 0)), 5)
    assert not plain.junk.any()
    # What lies there departs from the level of the ice, or scatters about it, more than the ice itself does.
    smooth = cv2.GaussianBlur(simulated.pixels, (0, 0), 1.5)
    ice = smooth[simulated.junk == 0]
    departure = np.abs(smooth - np.median(ice))
    assert departure[marked].mean() > 1.3 * departure[simulated.junk == 0].mean()


def test_particles_are_beside_junk_never_in_it() -> None:
    settings = dataclasses.replace(CLEAN, carbon_probability=1.0, contamination_range=(4, 4), coverage_range=(0.3, 0.3))
    for seed in range(3):
        simulated = simulate_micrograph(settings, seed, surroundings=Surroundings(cracks=2, clumps=2))
        rows, columns = np.rint(simulated.truth.y).astype(int), np.rint(simulated.truth.x).astype(int)
        assert len(rows) > 10
        assert not simulated.junk[rows, columns].any()


def test_molecules_on_the_film_are_no_particles() -> None:
    settings = dataclasses.replace(CLEAN, carbon_probability=1.0, particles_per_micrograph=(0, 0))
    bare, crowded = (simulate_micrograph(settings, 2, surroundings=Surroundings(on_film=n)) for n in (0, 400))
    film = bare.junk == kind("carbon film")
    assert len(crowded.truth) == 0
    np.testing.assert_array_equal(bare.junk, crowded.junk)
    coarse_bare, coarse_crowded = (cv2.GaussianBlur(one.pixels, (0, 0), 8.0) for one in (bare, crowded))
    assert coarse_crowded[film].std() > 1.1 * coarse_bare[film].std()


def _dirty(count: int) -> Sequence[World]:
    return [simulate_world(series_seed(77, index), MOLECULES[:1], is_dirty=True) for index in range(count)]


def test_dirty_worlds_have_masks_of_their_own_size_and_some_are_clean() -> None:
    worlds = _dirty(14)
    assert all(world.junk.shape == world.pixels.shape for world in worlds)
    assert 1 <= sum(not world.junk.any() for world in worlds) <= 9
    assert len({int(k) for world in worlds for k in np.unique(world.junk)}) >= 5


def test_a_mask_lies_beside_its_micrograph_and_is_no_micrograph(junk_data: Path) -> None:
    folder = junk_data / "junk"
    micrographs = find_micrographs(folder)
    assert [path.name for path in micrographs] == [f"world_{n:04d}.mrc" for n in range(1, 11)]
    world = simulate_world(series_seed(12, 0), MOLECULES, is_dirty=True)
    mask = cv2.imread(str(folder / "world_0001.junk.png"), cv2.IMREAD_UNCHANGED)
    np.testing.assert_array_equal(mask, world.junk)


def test_simulate_writes_masks_where_they_are_wanted(tmp_path: Path) -> None:
    small = ["--count", "1", "--seed", "1", "--size", "128", "--particle", "apoferritin"]
    for out, options in (("with", ["--masks"]), ("without", [])):
        done = CliRunner().invoke(app, ["simulate", "--out", str(tmp_path / out), *small, *options])
        assert done.exit_code == 0, done.output
    assert cv2.imread(str(tmp_path / "with" / "simulated_0001.junk.png"), cv2.IMREAD_UNCHANGED).shape == (128, 128)
    assert not list((tmp_path / "without").glob("*.png"))
    same = [(tmp_path / out / "simulated_0001.mrc").read_bytes() for out in ("with", "without")]
    assert same[0] == same[1]


@pytest.fixture(scope="module")
def half_film(junk_data: Path, junk_recipe: Recipe) -> LabelledMicrograph:
    """A labelled micrograph whose left half is junk."""
    (one, *_) = (load_labelled(p, junk_recipe) for p in find_labelled(junk_data, junk_recipe.data[0]))
    junk = np.zeros(one.picture.pixels.shape, np.float32)
    junk[:, : junk.shape[1] // 2] = 1
    centres = np.array([[junk.shape[0] / 2, 0.75 * junk.shape[1]]])
    return dataclasses.replace(one, junk=junk, centres=centres, blank=None)


def sampler(micrograph: LabelledMicrograph, *, augment: bool = True) -> AreaSampler:
    return AreaSampler(
        [micrograph], patch_px=64, step_px=4, diameter_px=8.0, near_junk=0.5, clear_diameters=1.0, augment=augment
    )


def test_the_target_is_the_share_of_junk_in_each_cell(half_film: LabelledMicrograph) -> None:
    pixels = np.where(half_film.junk == 1, 0.2, 0.8).astype(np.float32)
    picture = dataclasses.replace(half_film.picture, pixels=pixels)
    drawn = sampler(dataclasses.replace(half_film, picture=picture)).draw(1, 2, range(12), mild=True)
    tiles, target, weights, unlabelled = drawn
    assert target.shape == weights.shape == (12, 16, 16)
    assert not unlabelled.any()
    counted = weights > 0
    # Turned, scaled and mirrored alike: where the tile is dark, the target is junk, and at the edge it is between.
    shown = np.stack([cv2.blur((0.8 - tile[0]) / 0.6, (5, 5))[::4, ::4] for tile in tiles])
    np.testing.assert_allclose(target[counted], shown[counted], atol=0.1)
    assert 0.1 < target[counted].mean() < 0.9


def test_without_a_mask_only_the_places_near_a_particle_count_and_they_are_no_junk(
    half_film: LabelledMicrograph,
) -> None:
    unknown = dataclasses.replace(half_film, junk=None)
    tiles, target, weights, _ = sampler(unknown, augment=False).draw(1, 2, range(16), mild=True)
    assert not target.any()
    assert tiles.shape == (16, 1, 64, 64)
    counted = [int(one.sum()) for one in weights]
    # A disc of the particle's radius 8 px holds some 12 cells of 4 x 4 px.
    assert max(counted) in range(9, 17)
    assert min(counted) == 0


def test_a_mask_of_another_shape_is_refused(junk_data: Path, junk_recipe: Recipe, tmp_path: Path) -> None:
    for ending in (".mrc", ".star"):
        (tmp_path / "junk").mkdir(exist_ok=True)
        (tmp_path / "junk" / f"world_0001{ending}").write_bytes(
            (junk_data / "junk" / f"world_0001{ending}").read_bytes()
        )
    (tmp_path / "junk" / "diameters.csv").write_bytes((junk_data / "junk" / "diameters.csv").read_bytes())
    cv2.imwrite(str(tmp_path / "junk" / "world_0001.junk.png"), np.zeros((8, 9), np.uint8))
    source = TrainingSet(folder="junk")
    (paths,) = find_labelled(tmp_path, source)
    with pytest.raises(MicrographError, match=r"expected the shape of its micrograph.*found \(8, 9\)"):
        load_labelled(paths, junk_recipe)


def scores(
    particles: Sequence[float], cells: Sequence[float], is_junk: Sequence[bool], folder: str = "a"
) -> JunkScores:
    return JunkScores(
        folder=folder,
        cells=np.array(cells, np.float32),
        is_junk=np.array(is_junk),
        particles=np.array(particles, np.float32),
    )


def test_figures_of_the_area_and_of_the_particles() -> None:
    one = scores([0.1, 0.2, 0.7], [0.9, 0.8, 0.6, 0.1], [True, True, False, True])
    (row,) = junk_rows([one], 0.5)
    assert (row.particles, row.lost, row.called) == (3, 1, 0.75)
    assert row.precision == pytest.approx(2 / 3)
    assert row.recall == pytest.approx(2 / 3)
    assert row.iou == pytest.approx(2 / 4)


def test_the_threshold_is_the_best_of_those_that_lose_few_particles() -> None:
    cells, is_junk = [0.9, 0.6, 0.3, 0.1], [True, True, True, False]
    assert choose_junk_threshold([scores([0.05] * 200, cells, is_junk)], 0.005) <= 0.3
    # Two of a hundred particles score 0.5: the best threshold would lose them.
    spared = choose_junk_threshold([scores([0.05] * 98 + [0.5] * 2, cells, is_junk)], 0.005)
    assert 0.5 < spared <= 0.6
    # A set without masks has its say too.
    other = JunkScores(folder="b", cells=np.zeros(4, np.float32), is_junk=None, particles=np.full(10, 0.7, np.float32))
    assert choose_junk_threshold([scores([0.05] * 200, cells, is_junk), other], 0.005) > 0.7


def test_a_recipe_of_junk_becomes_a_model_that_is_no_picker(
    junk_data: Path, junk_recipe: Recipe, tmp_path: Path
) -> None:
    console = Console(file=io.StringIO(), width=200)
    version = run_recipe(junk_recipe, junk_data, tmp_path / "junk", console, run=tmp_path / "run", device="cpu")
    assert version is not None
    model = load_model(version, "cpu", 1, finds="junk")
    contract = model.contract
    assert (contract.architecture, contract.finds, contract.normalisation) == ("junk", "junk", "wide-01")
    assert (contract.step_px, contract.offset_px, contract.diameter_px) == (4.0, 16.0, 8.0)
    with pytest.raises(
        ModelError, match=r"1/model.onnx: expected a model that finds particles, found one that finds junk"
    ):
        load_model(version, "cpu", 1)
    with pytest.raises(ModelError, match="expected a model that finds particles"):
        check_in_sandbox(version, threads=1)
    assert check_in_sandbox(version, threads=1, finds="junk").sha256 == model.identity.sha256
    (paths,) = [one for one in find_labelled(junk_data, junk_recipe.data[0]) if one.part == "validation"]
    seen = score_junk(model, load_labelled(paths, junk_recipe))
    assert seen.is_junk is not None
    assert seen.cells.shape == seen.is_junk.shape
    assert ((seen.cells >= 0) & (seen.cells <= 1)).all()


def test_the_network_learns_where_junk_is(half_film: LabelledMicrograph, junk_recipe: Recipe) -> None:
    noise = np.random.default_rng(1).normal(0, 0.04, half_film.picture.pixels.shape)
    assert half_film.junk is not None
    pixels = (0.5 - 0.2 * half_film.junk + noise).astype(np.float32)
    film = dataclasses.replace(half_film, picture=dataclasses.replace(half_film.picture, pixels=pixels))
    recipe = replace(junk_recipe, epochs=4, examples=replace(junk_recipe.examples, per_epoch=160))
    assert isinstance(recipe.examples, Areas)
    network = make_network(recipe.network, recipe.seed)
    reports = train(network, PatchSource(recipe, recipe.examples, [film], [film]), recipe)
    assert reports[-1].loss < 0.5 * reports[0].loss
    assert reports[-1].held_out["held_out"] > 0.6


def check_page(repository: Path, *options: str | Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "benchmarks.junk", "--check", *options]
    return subprocess.run(command, cwd=repository, capture_output=True, text=True, check=False)


def test_the_tables_of_the_page_are_what_the_figures_give_of_the_shipped_model(
    repository: Path, tmp_path: Path
) -> None:
    done = check_page(repository)
    assert done.returncode == 0, done.stderr
    report = json.loads((repository / "docs/reference/junk.json").read_text("utf-8"))
    assert report["junk_model"] == str(identify_model(repository / "exported_models" / "junk"))
    report["simulated"]["on_junk_after"] += 1
    (tmp_path / "junk.json").write_text(json.dumps(report), "utf-8")
    done = check_page(repository, "--json", tmp_path / "junk.json")
    assert done.returncode == 1
    assert "junk.md: not what the figures give" in done.stderr


def test_a_network_of_junk_learns_from_areas_only(tmp_path: Path) -> None:
    recipe = tmp_path / "mine.toml"
    text = find_recipe("junk").read_text("utf-8")
    recipe.write_text(text.replace('kind = "areas"', 'kind = "patches"'), "utf-8")
    with pytest.raises(SettingsError, match="expected areas for a network that finds junk, found patches"):
        read_recipe(recipe)
    assert isinstance(read_recipe(find_recipe("junk")).examples, Areas)
    assert isinstance(replace(read_recipe(find_recipe("fcn"))).examples, Patches)
