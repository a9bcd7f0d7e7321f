"""Bad data is refused before it costs time."""

from __future__ import annotations

import io
import shutil
from collections.abc import Callable
from pathlib import Path

import mrcfile
import numpy as np
import pytest
from msgspec import UNSET
from msgspec.structs import replace
from rich.console import Console

from frazil.errors import FrazilError, SettingsError
from frazil.picking import Picks, read_star, write_star
from frazil_trainer.data.load import TrainingData, load_training_data, skip_missing
from frazil_trainer.recipe import Recipe

SHAPE = (384, 512)


@pytest.fixture
def one_set(simulated_data: Path, tmp_path: Path, tiny_recipe: Recipe) -> tuple[Path, Recipe]:
    """A folder with a copy of the set easy/, and a recipe for it alone."""
    shutil.copytree(simulated_data / "easy", tmp_path / "easy")
    return tmp_path, replace(tiny_recipe, data=tiny_recipe.data[:1])


def load(one_set: tuple[Path, Recipe], *, force: bool = False) -> tuple[TrainingData, str]:
    shown = io.StringIO()
    return load_training_data(*one_set, Console(file=shown, width=200), force=force), shown.getvalue()


def change_labels(folder: Path, change: Callable[[Picks], Picks]) -> None:
    for file in folder.glob("*.star"):
        write_star(file, change(read_star(file)))


def flip(picks: Picks) -> Picks:
    return Picks(y=SHAPE[0] - 1 - picks.y, x=picks.x, score=picks.score)


def test_good_data_comes_in_three_parts_and_is_counted(one_set: tuple[Path, Recipe]) -> None:
    found, shown = load(one_set)
    assert {part: len(m) for part, m in found.micrographs.items()} == {"training": 2, "selection": 1, "validation": 1}
    particles = sum(len(m.centres) for m in found.micrographs["training"])
    assert f"2 for training, 1 for selection, 1 for validation; {particles} particles" in shown
    assert "warning" not in shown


def test_flipped_labels_are_refused_with_what_to_change(one_set: tuple[Path, Recipe]) -> None:
    change_labels(one_set[0] / "easy", flip)
    with pytest.raises(FrazilError, match=r'easy: the labels fit much better with y flipped .* y_axis = "up".*--force'):
        load(one_set)


def test_force_turns_the_refusal_into_a_warning(one_set: tuple[Path, Recipe]) -> None:
    change_labels(one_set[0] / "easy", flip)
    _, shown = load(one_set, force=True)
    assert "warning: easy: the labels fit much better with y flipped" in shown


def test_labels_on_nothing_are_refused(one_set: tuple[Path, Recipe]) -> None:
    rng = np.random.default_rng(1)

    def scatter(picks: Picks) -> Picks:
        return Picks(y=rng.uniform(0, SHAPE[0], len(picks)), x=rng.uniform(0, SHAPE[1], len(picks)), score=picks.score)

    change_labels(one_set[0] / "easy", scatter)
    with pytest.raises(FrazilError, match="easy: "):
        load(one_set)


def test_a_pixel_size_that_makes_particles_overlap_is_refused(one_set: tuple[Path, Recipe]) -> None:
    data, recipe = one_set
    half = replace(recipe.data[0], pixel_size_angstrom=1.4)  # 3.5 in truth
    with pytest.raises(FrazilError, match=r"closer than half a diameter .* pixel size and diameter|stands out"):
        load((data, replace(recipe, data=(half,))))


def test_bright_particles_are_refused(one_set: tuple[Path, Recipe]) -> None:
    for file in (one_set[0] / "easy").glob("*.mrc"):
        with mrcfile.open(file, "r+") as mrc:
            mrc.set_data(-mrc.data)
    with pytest.raises(FrazilError, match="easy: particles are brighter than what is around them"):
        load(one_set)


def test_a_validation_micrograph_under_another_name_is_not_trained_on(one_set: tuple[Path, Recipe]) -> None:
    folder = one_set[0] / "easy"
    for ending in (".mrc", ".star"):
        shutil.copy(folder / f"simulated_0001{ending}", folder / f"copy{ending}")
    message = r"simulated_0001\.mrc: expected a micrograph for validation that is in no other part, found .*copy\.mrc"
    with pytest.raises(FrazilError, match=message):
        load(one_set)


def test_pixels_that_are_no_numbers_are_refused_by_file(one_set: tuple[Path, Recipe]) -> None:
    file = one_set[0] / "easy" / "simulated_0003.mrc"
    with mrcfile.open(file, "r+") as mrc:
        mrc.data[5, 7] = np.nan
    with pytest.raises(FrazilError, match=r"simulated_0003\.mrc: expected finite pixels"):
        load(one_set)


def test_a_table_without_particles_is_refused_by_file(one_set: tuple[Path, Recipe]) -> None:
    write_star(one_set[0] / "easy" / "simulated_0003.star", Picks(y=np.empty(0), x=np.empty(0), score=np.empty(0)))
    with pytest.raises(FrazilError, match=r"simulated_0003\.star: expected particles"):
        load(one_set)


def test_coordinates_outside_are_refused_by_file(one_set: tuple[Path, Recipe]) -> None:
    file = one_set[0] / "easy" / "simulated_0003.star"
    picks = read_star(file)
    write_star(file, Picks(y=picks.y * 3, x=picks.x * 3, score=picks.score))
    with pytest.raises(FrazilError, match=r"simulated_0003\.star: expected particles inside the micrograph"):
        load(one_set)


def test_somebody_must_choose_the_threshold(one_set: tuple[Path, Recipe]) -> None:
    data, recipe = one_set
    mute = replace(recipe, data=(replace(recipe.data[0], chooses_threshold=False),))
    with pytest.raises(FrazilError, match="leaves no micrograph for selection that chooses the threshold"):
        load((data, mute))


def test_a_set_with_a_table_of_diameters_has_one_for_each_micrograph_and_may_hold_empty_ones(
    one_set: tuple[Path, Recipe],
) -> None:
    folder, recipe = one_set
    stems = sorted(path.stem for path in (folder / "easy").glob("*.mrc"))
    worlds = replace(recipe.data[0], folder="worlds", diameter_angstrom=UNSET, validation=(), selection=())
    shutil.copytree(folder / "easy", folder / "worlds")
    write_star(folder / "worlds" / f"{stems[-1]}.star", Picks(y=np.zeros(0), x=np.zeros(0), score=np.zeros(0)))
    for path in (folder / "worlds").glob("*.mrc"):  # the parts must differ
        with mrcfile.open(path, mode="r+") as mrc:
            mrc.data[0, 0] += 1
    rows = [f"{stem},{100 + 10 * i},made,1\n" for i, stem in enumerate(stems)]
    (folder / "worlds" / "diameters.csv").write_text(
        "micrograph,diameter_angstrom,molecule,particles\n" + "".join(rows), "utf-8"
    )
    found, _ = load((folder, replace(recipe, data=(*recipe.data, worlds))))

    of_worlds = [one for one in found.micrographs["training"] if one.source.folder == "worlds"]
    assert [one.source.diameter_angstrom for one in of_worlds] == [100 + 10 * i for i in range(len(stems))]
    assert len(of_worlds[-1].centres) == 0


def test_a_set_that_calibrates_is_not_trained_on(one_set: tuple[Path, Recipe]) -> None:
    folder, recipe = one_set
    shutil.copytree(folder / "easy", folder / "kept")
    for path in (folder / "kept").glob("*.mrc"):
        with mrcfile.open(path, mode="r+") as mrc:
            mrc.data[0, 0] += 1
    kept = replace(recipe.data[0], folder="kept", validation=(), selection=(), calibrates=True)

    found, shown = load((folder, replace(recipe, data=(*recipe.data, kept))))

    assert len(found.paths["calibration"]) == 4
    assert all(one.source.folder != "kept" for one in found.micrographs["training"])
    assert "4 for calibration" in shown


def test_a_set_without_a_diameter_needs_its_table(one_set: tuple[Path, Recipe]) -> None:
    folder, recipe = one_set
    without = replace(recipe.data[0], diameter_angstrom=UNSET)
    with pytest.raises(FrazilError, match=r"diameters.csv: expected the diameters of a set without diameter_angstrom"):
        load((folder, replace(recipe, data=(without,))))
    (folder / "easy" / "diameters.csv").write_text("micrograph\nx\n", "utf-8")
    with pytest.raises(FrazilError, match="expected the columns micrograph and diameter_angstrom"):
        load((folder, replace(recipe, data=(without,))))


# --- training sets that are not there ------------------------------------------------------------------------------


def test_sets_that_are_not_there_are_left_out_and_named(tiny_recipe: Recipe, tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"expected one of the training sets easy, small, found none"):
        skip_missing(tiny_recipe, tmp_path)
    (tmp_path / "small").mkdir()
    left, missing = skip_missing(tiny_recipe, tmp_path)
    assert (left.data, missing) == (tiny_recipe.data[1:], ("easy",))
    (tmp_path / "easy").mkdir()
    assert skip_missing(tiny_recipe, tmp_path) == (tiny_recipe, ())


def test_those_that_are_left_choose_the_threshold_if_nobody_else_does(tiny_recipe: Recipe, tmp_path: Path) -> None:
    """Simulated sets alone, in whose recipe real ones choose it."""
    easy, small = tiny_recipe.data
    (tmp_path / "small").mkdir()
    recipe = replace(tiny_recipe, data=(easy, replace(small, chooses_threshold=False)))
    left, _ = skip_missing(recipe, tmp_path)
    assert [source.chooses_threshold for source in left.data] == [True]


@pytest.mark.parametrize(
    ("kept", "validation", "selection"),
    [
        ({"validation": (), "selection": ()}, "simulated_0001", "simulated_0002"),
        ({"validation": ("simulated_0002",), "selection": ()}, "simulated_0002", "simulated_0001"),
        ({"validation": (), "selection": ("simulated_0001",)}, "simulated_0002", "simulated_0001"),
    ],
)
def test_those_that_are_left_hold_micrographs_back_if_nobody_else_does(
    tiny_recipe: Recipe,
    simulated_data: Path,
    tmp_path: Path,
    kept: dict[str, tuple[str, ...]],
    validation: str,
    selection: str,
) -> None:
    (tmp_path / "easy").symlink_to(simulated_data / "easy")
    easy, small = tiny_recipe.data
    (tmp_path / "calibration").symlink_to(simulated_data / "small")
    calibration = replace(small, folder="calibration", validation=(), selection=(), calibrates=True)
    recipe = replace(tiny_recipe, data=(small, replace(easy, chooses_threshold=False, **kept), calibration))
    left, missing = skip_missing(recipe, tmp_path)
    assert missing == ("small",)
    source, same = left.data
    assert same == calibration
    assert (source.validation, source.selection, source.chooses_threshold) == ((validation,), (selection,), True)
    loaded, _ = load((tmp_path, left))
    assert {part: len(m) for part, m in loaded.micrographs.items()} == {"training": 2, "selection": 1, "validation": 1}
