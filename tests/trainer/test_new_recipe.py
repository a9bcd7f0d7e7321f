"""A recipe for a folder: ten lines that training takes as they are."""

from __future__ import annotations

import io
import shutil
import sys
from pathlib import Path

import pytest
from msgspec.structs import replace
from rich.console import Console

from frazil.errors import FrazilError, SettingsError
from frazil.model import load_model
from frazil_trainer.cli import main
from frazil_trainer.data.labelled import describe_set
from frazil_trainer.data.load import load_training_data
from frazil_trainer.data.simulated import SIMULATED_FOLDER, simulate_labelled
from frazil_trainer.recipe import find_recipe, read_recipe
from frazil_trainer.simulate import density_model

DIAMETER_ANGSTROM = density_model("apoferritin").diameter_angstrom
SMALLER = """
[network]
architecture = "fcn"
widths = [4, 4, 6]
dilations = [1]
halo_cells = 6
tile_px = 128

[examples]
kind = "patches"
per_epoch = 16
patch_px = 96
"""


@pytest.fixture
def folder(simulated_data: Path, tmp_path: Path) -> Path:
    """Four micrographs with labels that end in _picked.star, and one without."""
    folder = tmp_path / "session"
    shutil.copytree(simulated_data / "easy", folder)
    for file in folder.glob("*.star"):
        file.rename(file.with_name(f"{file.stem}_picked.star"))
    shutil.copy(folder / "simulated_0001.mrc", folder / "unlabelled.mrc")
    return folder


def new_recipe(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *arguments: object
) -> tuple[int, str, str]:
    monkeypatch.setattr(sys, "argv", ["frazil-train", "new-recipe", *map(str, arguments)])
    with pytest.raises(SystemExit) as ended:
        main()
    said = capsys.readouterr()
    return int(ended.value.code or 0), said.out, said.err


def test_a_recipe_is_written_that_training_takes_as_it_is(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    status, text, said = new_recipe(monkeypatch, capsys, "--data", folder, "--diameter", DIAMETER_ANGSTROM)
    assert status == 0
    assert len(text.splitlines()) <= 12
    assert "4 micrographs with labels *_picked.star, 1 without" in said
    assert "3.5 Å a pixel" in said
    file = tmp_path / "recipe.toml"
    file.write_text(text, "utf-8")
    recipe, shipped = read_recipe(file), read_recipe(find_recipe("fcn"))
    assert recipe.network == shipped.network
    assert (recipe.examples, recipe.optimiser, recipe.batch) == (shipped.examples, shipped.optimiser, shipped.batch)
    assert recipe.simulated_micrographs > 0
    (one,) = recipe.data
    assert (one.labels_ending, one.diameter_angstrom) == ("_picked.star", DIAMETER_ANGSTROM)
    assert len({*one.validation, *one.selection}) == 2
    shown = io.StringIO()
    found = load_training_data(folder, replace(recipe, simulated_micrographs=2), Console(file=shown, width=200))
    assert {part: len(paths) for part, paths in found.paths.items() if paths} == {
        "training": 2,
        "selection": 1,
        "validation": 1,
    }
    simulated = [m for m in found.micrographs["training"] if m.source.folder == SIMULATED_FOLDER]
    assert len(simulated) == 2
    assert "and 2 simulated for training" in shown.getvalue()


@pytest.mark.trainer
def test_a_model_is_trained_by_it(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    _, text, _ = new_recipe(monkeypatch, capsys, "--data", folder, "--diameter", DIAMETER_ANGSTROM)
    lines = [line for line in text.splitlines() if not line.startswith(("epochs", "simulated"))]
    first, rest = "\n".join(lines).split("[[data]]")
    file = tmp_path / "recipe.toml"
    file.write_text(f"epochs = 1\nsimulated_micrographs = 1\n{first}{SMALLER}\n[[data]]{rest}\n", "utf-8")
    command = ["--recipe", file, "--data", folder, "--out", tmp_path / "mine", "--run-folder", tmp_path / "run"]
    command += ["--device", "cpu", "--threads", 1]
    monkeypatch.setattr(sys, "argv", ["frazil-train", "train", *map(str, command)])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 0, capsys.readouterr().err
    assert load_model(tmp_path / "mine" / "1", "cpu").contract.architecture == "fcn"


def test_what_is_not_usual_is_written_too(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ("--data", folder, "--diameter", 150, "--pixel-size", 4.1, "--y-axis", "up", "--labels", "_picked.star")
    _, text, said = new_recipe(monkeypatch, capsys, *arguments)
    assert 'y_axis = "up"' in text
    assert "pixel_size_angstrom = 4.1" in text
    assert 'labels_suffix = "_picked"' in text
    assert "warning: the labels fit much better with y flipped" in said


def test_too_few_micrographs_are_for_adapting(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "simulated_0002_picked.star").unlink()
    status, text, said = new_recipe(monkeypatch, capsys, "--data", folder, "--diameter", 150)
    assert (status, text) == (1, "")
    assert "expected at least 4 micrographs with labels to train on, found 3" in said
    assert "frazil-train adapt" in said


def test_a_recipe_like_another_takes_what_it_does_not_say(tmp_path: Path) -> None:
    file = tmp_path / "recipe.toml"
    file.write_text('like = "mlp"\nepochs = 3\n[[data]]\nfolder = "a"\ndiameter_angstrom = 120\n', "utf-8")
    recipe, shipped = read_recipe(file), read_recipe(find_recipe("mlp"))
    assert replace(recipe, epochs=shipped.epochs, data=shipped.data) == shipped
    assert (recipe.epochs, [one.folder for one in recipe.data]) == (3, ["a"])
    file.write_text('like = "mlp"\n', "utf-8")
    with pytest.raises(SettingsError, match="expected at least one training set, found none"):
        read_recipe(file)
    for name in ('"mpl"', '"other.toml"', "3"):
        file.write_text(f"like = {name}\n", "utf-8")
        with pytest.raises(SettingsError, match=r"expected (one of|the name of a recipe)"):
            read_recipe(file)


def test_simulated_micrographs_are_the_same_each_time_and_each_of_another_molecule() -> None:
    def make(count: int) -> list[float]:
        made = simulate_labelled(count, seed=4, diameter_px=16.0, normalisation="flat-01", weight=2.0)
        assert all(0 <= float(one.picture.pixels.min()) <= float(one.picture.pixels.max()) <= 1 for one in made)
        assert {one.source.weight for one in made} == {2.0}
        return [float(one.picture.pixels.sum()) for one in made]

    both = make(2)
    assert both[0] != both[1]
    assert make(1) == both[:1]


def test_a_folder_without_labels_is_no_training_set(folder: Path) -> None:
    for file in folder.glob("*.star"):
        file.unlink()
    with pytest.raises(FrazilError, match="found 5 micrographs and 0 files of coordinates"):
        describe_set(folder, name=".", diameter_angstrom=100, labels=None, y_axis="down", pixel_size_angstrom=None)
