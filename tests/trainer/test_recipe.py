import ast
import itertools
import re
from pathlib import Path

import pytest

from frazil.errors import SettingsError
from frazil_trainer.recipe import (
    CentredCrops,
    CnnSettings,
    DrawnCrops,
    FcnSettings,
    JitteredCrops,
    MlpSettings,
    Patches,
    Recipe,
    Sgd,
    find_recipe,
    leave_out,
    read_recipe,
)

SHIPPED = ("cnn", "fcn", "mlp", "paper-cnn", "paper-cnn-jittered", "paper-mlp", "paper-mlp-jittered")
SMALLEST = """\
seed = 1
epochs = 2
batch = 4
[network]
architecture = "mlp"
[examples]
kind = "drawn"
[optimiser]
kind = "sgd"
[[data]]
folder = "a"
diameter_angstrom = 120
"""


def recipe_file(folder: Path, text: str) -> Path:
    path = folder / "recipe.toml"
    path.write_text(text, "utf-8")
    return path


def test_smallest_recipe_takes_the_sizes_of_the_paper(tmp_path):
    recipe = read_recipe(recipe_file(tmp_path, SMALLEST))
    assert recipe.network == MlpSettings(tile_px=64, stride_px=12.8, hidden=256, dropout=0.2)
    assert recipe.optimiser == Sgd(learning_rate=1e-3, momentum=0.9, decay_per_update=1e-4)
    assert recipe.network.tile_px / recipe.diameter_px == pytest.approx(180 / 108)
    assert recipe.network.stride_px / recipe.network.tile_px == pytest.approx(36 / 180)
    assert recipe.data[0].folder == "a"
    assert (recipe.data[0].weight, recipe.data[0].border_px, recipe.data[0].validation) == (1.0, 0, ())


def test_recipe_that_was_written_reads_back_the_same(tmp_path, tiny_recipe, tiny_recipe_text):
    assert read_recipe(recipe_file(tmp_path, tiny_recipe_text)) == tiny_recipe


def changed(old: str, new: str) -> str:
    assert old in SMALLEST
    return SMALLEST.replace(old, new)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (changed("seed = 1", "sede = 1"), "unknown key sede; the nearest known one is seed"),
        (SMALLEST + "wieght = 2\n", r"unknown key data\[0\]\.wieght; the nearest known one is data\[0\]\.weight"),
        (changed('"sgd"', '"sgd"\nmomentun = 1'), "unknown key optimiser.momentun; the nearest .* optimiser.momentum"),
        (changed('"mlp"', '"mlp"\nwidths = [1, 2, 3]'), "unknown key network.widths; the nearest .* network"),
        (changed('"drawn"', '"drawn"\nfocus = 2'), "unknown key examples.focus"),
        (changed("epochs = 2", 'epochs = "many"'), r"Expected `int`, got `str` - at `\$\.epochs`"),
        (changed("epochs = 2", "epochs = 1.5"), r"\$\.epochs"),
        (changed("seed = 1\n", ""), "missing required field `seed`"),
        (changed('folder = "a"\n', ""), "missing required field `folder`"),
        (SMALLEST[: SMALLEST.index("[[data]]")], "missing required field `data`"),
        ("data = []\n" + SMALLEST[: SMALLEST.index("[[data]]")], "data: expected at least one training set"),
        (SMALLEST + "weight = 0\n", r"`float` > 0\.0 - at `\$\.data.*weight"),
        (SMALLEST + "weight = -1\n", r"`float` > 0\.0 - at `\$\.data.*weight"),
        (SMALLEST + "weight = nan\n", r"weight"),
        (SMALLEST + "weight = inf\n", r"weight"),
        (changed('"sgd"', '"sgd"\nlearning_rate = inf'), r"learning_rate"),
        (changed('"mlp"', '"transformer"'), r"Invalid value 'transformer' - at `\$.network"),
        (changed('"mlp"', '"fcn"'), "examples: expected patches for a network that scores every place, found drawn"),
        (changed('"drawn"', '"patches"'), "examples: expected centred, jittered or drawn crops .*, found patches"),
        (SMALLEST + 'validation = ["x"]\nselection = ["x"]\n', "data: expected x of a in one part, found it in two"),
        (SMALLEST + SMALLEST[SMALLEST.index("[[data]]") :], "data: expected each folder once, found a twice"),
        ("seed = \n", "line 1"),
    ],
)
def test_faulty_recipe_is_refused_by_file_and_key(tmp_path, text, message):
    path = recipe_file(tmp_path, text)
    with pytest.raises(SettingsError, match=message) as caught:
        read_recipe(path)
    assert str(caught.value).startswith(str(path))


@pytest.mark.parametrize(
    ("table", "key", "value"),
    [
        ("", "diameter_px", -1.0),
        ("", "epochs", 0),
        ("", "batch", 0),
        ("", "seed", -1),
        ("[network]", "tile_px", 0),
        ("[network]", "stride_px", 0.0),
        ("[network]", "hidden", 0),
        ("[network]", "dropout", 1.5),
        ("[examples]", "per_epoch", 0),
        ("[examples]", "near_negatives", 2.0),
        ("[optimiser]", "learning_rate", 0.0),
        ("[optimiser]", "momentum", -0.1),
        ("[optimiser]", "decay_per_update", -1.0),
    ],
)
def test_impossible_number_is_refused_by_key(tmp_path, table, key, value):
    text = "\n".join(line for line in SMALLEST.splitlines() if not line.startswith(f"{key} ")) + "\n"
    text = text.replace(f"{table}\n", f"{table}\n{key} = {value}\n", 1) if table else f"{key} = {value}\n{text}"
    with pytest.raises(SettingsError, match=key):
        read_recipe(recipe_file(tmp_path, text))


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


def test_a_recipe_is_found_by_name_and_a_file_by_its_path(tmp_path):
    assert [find_recipe(name).stem for name in SHIPPED] == list(SHIPPED)
    assert all(find_recipe(name).is_file() for name in SHIPPED)
    assert find_recipe("my/own.toml") == Path("my/own.toml")


def test_unknown_name_says_which_there_are_and_which_is_nearest():
    with pytest.raises(
        SettingsError,
        match=r"expected one of cnn, fcn, junk, mlp, paper-cnn, .*paper-mlp-jittered, .*nearest.* 'paper-cnn'",
    ):
        find_recipe("papercnn")


@pytest.fixture(params=SHIPPED)
def shipped(request) -> Recipe:
    return read_recipe(find_recipe(request.param))


def test_shipped_recipe_keeps_the_fixed_validation_split(shipped):
    validation = {source.folder: source.validation for source in shipped.data}
    assert [stem[len("Falcon_2012_06_12-") :] for stem in validation["beta-galactosidase"]] == [
        "15_33_42_0",
        "15_41_22_0",
        "16_26_22_0",
    ]
    assert validation["apoferritin"] == ("May08_05.24.39", "May08_05.55.31", "May08_06.30.43")


def test_shipped_recipe_chooses_its_threshold_on_other_micrographs_than_it_is_scored_on(shipped):
    # Worlds are for training or for calibration alone.
    scored = [source for source in shipped.data if not source.folder.startswith("simulated/worlds-")]
    assert scored
    for source in scored:
        assert source.validation, source.folder
        assert source.selection, source.folder
        assert not set(source.validation) & set(source.selection)


def test_the_papers_recipes_hold_every_number_that_the_paper_gives():
    centred = CentredCrops(count=70_000, negative_offset_diameters=40 / 108)
    jittered = JitteredCrops(count=70_000, positive_offset_diameters=30 / 108, negative_offset_diameters=0.3)
    for name, crops in itertools.product(("paper-mlp", "paper-cnn"), (centred, jittered)):
        recipe = read_recipe(find_recipe(name if crops is centred else f"{name}-jittered"))
        assert (recipe.epochs, recipe.batch, recipe.compare_threshold) == (100, 128, 0.8)
        assert recipe.optimiser == Sgd(learning_rate=1e-3, momentum=0.9, decay_per_update=1e-4)
        assert recipe.examples == crops
        assert isinstance(recipe.network, MlpSettings | CnnSettings)
        assert recipe.network.tile_px / recipe.diameter_px == pytest.approx(180 / 108)
        assert recipe.network.stride_px / recipe.network.tile_px == pytest.approx(36 / 180)
        assert [source.folder for source in recipe.data] == ["beta-galactosidase", "apoferritin"]


def test_the_convolutional_network_that_shares_its_windows_keeps_the_papers_window_and_stride():
    recipe = read_recipe(find_recipe("cnn"))
    assert isinstance(recipe.network, CnnSettings)
    assert not recipe.network.padding
    assert recipe.network.tile_px / recipe.diameter_px == pytest.approx(180 / 108)
    assert recipe.network.stride_px / recipe.network.tile_px == pytest.approx(36 / 180)


@pytest.mark.parametrize(
    ("settings", "complaint"),
    [
        ("tile_px = 48", "expected tile_px to be a multiple of 32, to be halved 5 times"),
        ("padding = false", "expected convolutions without padding to leave a window that 5 halvings use up"),
        (
            "padding = false\ntile_px = 40\nconvolutions = [2, 1, 2]",
            "expected stride_px to be 8, as 3 halvings make it",
        ),
        ("convolutions = []", "length"),
    ],
)
def test_windows_that_their_network_cannot_halve_are_refused(tmp_path, settings, complaint):
    text = find_recipe("paper-cnn").read_text()
    head, network = text.split("[network]\n")
    examples = network[network.index("[examples]") :]
    path = tmp_path / "recipe.toml"
    path.write_text(f'{head}[network]\narchitecture = "cnn"\n{settings}\n{examples}')
    with pytest.raises(SettingsError, match=re.escape(complaint)):
        read_recipe(path)


def test_each_network_has_the_examples_that_suit_it():
    kinds = {name: (type(r.network), type(r.examples)) for name in SHIPPED if (r := read_recipe(find_recipe(name)))}
    assert kinds["mlp"] == (MlpSettings, DrawnCrops)
    assert kinds["fcn"] == (FcnSettings, Patches)


def test_a_set_that_is_left_out_is_only_scored(tiny_recipe):
    left = leave_out(tiny_recipe, ["small"])
    assert [source.only_scored for source in left.data] == [False, True]
    assert leave_out(tiny_recipe, []) == tiny_recipe
    with pytest.raises(SettingsError, match="smal: expected one of the training sets easy, small"):
        leave_out(tiny_recipe, ["smal"])


def documented_settings(source: str) -> dict[str, list[str]]:
    """By the name of a table's class: a row for each setting, of its name, default and sentence."""
    tables = {}
    for table in ast.parse(source).body:
        if not isinstance(table, ast.ClassDef) or table.name.startswith("_"):
            continue
        rows = []
        for setting, after in itertools.pairwise([*table.body, ast.Pass()]):
            if not isinstance(setting, ast.AnnAssign):
                continue
            said = after.value.value if isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant) else ""
            sentence = " ".join(str(said).split()).replace("``", "`")
            default = f"`{ast.unparse(setting.value)}`" if setting.value else "needed"
            rows.append(f"| `{ast.unparse(setting.target)}` | {default.replace('UNSET', '')} | {sentence} |")
        tables[table.name] = rows
    return tables


def test_every_setting_is_documented_with_its_default_and_sentence():
    repository = Path(__file__).resolve().parents[2]
    source = (repository / "trainer" / "frazil_trainer" / "recipe.py").read_text("utf-8")
    page = (repository / "docs" / "reference" / "recipes.md").read_text("utf-8")
    tables = documented_settings(source)
    assert len(tables) == 13
    missing = [row for rows in tables.values() for row in rows if row not in page]
    assert missing == []
    assert page.count("\n| `") == sum(len(rows) for rows in tables.values())
