from pathlib import Path

import pytest

from frazil.errors import SettingsError
from frazil_trainer.recipe import Recipe, read_recipe

RECIPES = Path(__file__).resolve().parents[2] / "trainer" / "recipes"
SMALLEST = 'architecture = "mlp"\nseed = 1\n[[data]]\nfolder = "a"\ndiameter_angstrom = 120\n'


def recipe_file(folder: Path, text: str) -> Path:
    path = folder / "recipe.toml"
    path.write_text(text, "utf-8")
    return path


def test_smallest_recipe_takes_the_sizes_of_the_paper(tmp_path):
    recipe = read_recipe(recipe_file(tmp_path, SMALLEST))
    assert (recipe.tile_px, recipe.hidden, recipe.dropout, recipe.batch) == (64, 256, 0.2, 128)
    assert (recipe.samples_per_epoch, recipe.momentum, recipe.learning_rate) == (70_000, 0.9, 1e-3)
    assert recipe.decay_per_update == 1e-4
    assert recipe.tile_px / recipe.diameter_px == pytest.approx(180 / 108)
    assert recipe.stride_px / recipe.tile_px == pytest.approx(36 / 180)
    assert recipe.data[0].folder == "a"
    assert (recipe.data[0].weight, recipe.data[0].border_px, recipe.data[0].validation) == (1.0, 0, ())


def test_recipe_that_was_written_reads_back_the_same(tmp_path, tiny_recipe, tiny_recipe_text):
    assert read_recipe(recipe_file(tmp_path, tiny_recipe_text)) == tiny_recipe


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("learning_rat = 0.1\n" + SMALLEST, "unknown field `learning_rat`"),
        (SMALLEST + "wieght = 2\n", r"unknown field `wieght` - at `\$\.data"),
        ('epochs = "many"\n' + SMALLEST, r"Expected `int`, got `str` - at `\$\.epochs`"),
        ("epochs = 1.5\n" + SMALLEST, r"\$\.epochs"),
        (SMALLEST.replace("seed = 1\n", ""), "missing required field `seed`"),
        (SMALLEST.replace('folder = "a"\n', ""), "missing required field `folder`"),
        ('architecture = "mlp"\nseed = 1\n', "missing required field `data`"),
        ('architecture = "mlp"\nseed = 1\ndata = []\n', "data: expected at least one training set"),
        (SMALLEST + "weight = 0\n", r"`float` > 0\.0 - at `\$\.data.*weight"),
        (SMALLEST + "weight = -1\n", r"`float` > 0\.0 - at `\$\.data.*weight"),
        (SMALLEST + "weight = nan\n", r"`float` > 0\.0 - at `\$\.data.*weight"),
        (SMALLEST.replace("mlp", "transformer"), r"Invalid enum value 'transformer' - at `\$.architecture`"),
        ("architecture = \n", "line 1"),
    ],
)
def test_faulty_recipe_is_refused_by_file_and_key(tmp_path, text, message):
    path = recipe_file(tmp_path, text)
    with pytest.raises(SettingsError, match=message) as caught:
        read_recipe(path)
    assert str(caught.value).startswith(str(path))


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("tile_px", 0),
        ("diameter_px", -1.0),
        ("stride_px", 0.0),
        ("hidden", 0),
        ("dropout", 1.5),
        ("epochs", 0),
        ("samples_per_epoch", 0),
        ("batch", 0),
        ("learning_rate", 0.0),
        ("momentum", -0.1),
        ("near_negatives", 2.0),
        ("decay_per_update", -1.0),
        ("seed", -1),
    ],
)
def test_impossible_number_is_refused_by_key(tmp_path, key, value):
    text = SMALLEST.replace("seed = 1\n", "") if key == "seed" else SMALLEST
    path = recipe_file(tmp_path, f"{key} = {value}\n" + text)
    with pytest.raises(SettingsError, match=key):
        read_recipe(path)


def test_missing_recipe_is_refused(tmp_path):
    with pytest.raises(SettingsError, match=r"nowhere\.toml: expected a recipe, cannot read it: No such file"):
        read_recipe(tmp_path / "nowhere.toml")


def test_folder_is_no_recipe(tmp_path):
    with pytest.raises(SettingsError, match="expected a recipe, cannot read it: Is a directory"):
        read_recipe(tmp_path)


def test_file_that_is_no_text_is_no_recipe(tmp_path):
    path = tmp_path / "recipe.toml"
    path.write_bytes(b"\xff\xfe\x00\x81")
    with pytest.raises(SettingsError, match=r"recipe\.toml"):
        read_recipe(path)


@pytest.fixture(scope="module")
def default_recipe() -> Recipe:
    return read_recipe(RECIPES / "mlp.toml")


def test_default_recipe_keeps_the_fixed_validation_split(default_recipe):
    validation = {source.folder: source.validation for source in default_recipe.data}
    assert [stem[len("Falcon_2012_06_12-") :] for stem in validation["beta-galactosidase"]] == [
        "15_33_42_0",
        "15_41_22_0",
        "16_26_22_0",
    ]
    assert validation["apoferritin"] == ("May08_05.24.39", "May08_05.55.31", "May08_06.30.43")


def test_default_recipe_chooses_its_threshold_on_other_micrographs_than_it_is_scored_on(default_recipe):
    for source in default_recipe.data:
        assert source.validation, source.folder
        assert source.selection, source.folder
        assert not set(source.validation) & set(source.selection)


def test_default_recipe_is_the_papers_mlp(default_recipe):
    assert default_recipe.architecture == "mlp"
    assert (default_recipe.tile_px, default_recipe.hidden) == (64, 256)
    assert default_recipe.positive_offset_diameters < default_recipe.negative_offset_diameters


def test_every_recipe_of_the_repository_reads():
    paths = sorted(RECIPES.glob("*.toml"))
    assert paths
    for path in paths:
        read_recipe(path)
