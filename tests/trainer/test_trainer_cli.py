import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from frazil.model import int8_instructions, load_model, read_card
from frazil.picking import Picker, PickingSettings, Picks, match_picks, read_micrograph, read_star
from frazil_trainer.cli import main
from frazil_trainer.data.labelled import find_labelled
from frazil_trainer.evaluation import ModelSource, best_threshold, score_micrographs
from frazil_trainer.evaluation.ranking import tally_matches
from frazil_trainer.recipe import read_recipe
from frazil_trainer.simulate import density_model

DIAMETER_ANGSTROM = density_model("ribosome").diameter_angstrom
PIXEL_SIZE_ANGSTROM = 5.0
RECIPE = f"""
seed = 11
diameter_px = 9.6
epochs = 5
batch = 64

[network]
architecture = "mlp"
tile_px = 16
stride_px = 2.4
hidden = 32
dropout = 0.1

[examples]
kind = "drawn"
per_epoch = 4096

[optimiser]
kind = "sgd"
learning_rate = 0.03

[[data]]
folder = "sim"
diameter_angstrom = {DIAMETER_ANGSTROM}
validation = ["simulated_0001"]
selection = ["simulated_0002"]
"""


def frazil_train(*arguments: object, code: str = "main()", traced: Any = None) -> subprocess.CompletedProcess[str]:
    """Run ``frazil-train`` in a process of its own, perhaps under strace."""
    return subprocess.run(
        [
            *(traced.prefix if traced else ()),
            sys.executable,
            "-W",
            "error",
            "-c",
            f"import sys; from frazil_trainer.cli import main; {code}",
        ]
        + [str(a) for a in arguments],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
        env=os.environ | {"OMP_WAIT_POLICY": "PASSIVE", "COLUMNS": "160"} | (traced.environment if traced else {}),
    )


def simulate(out: Path, count: int) -> subprocess.CompletedProcess[str]:
    options = {
        "--count": count,
        "--seed": 5,
        "--size": 512,
        "--height": 400,
        "--pixel-size": PIXEL_SIZE_ANGSTROM,
        "--dose": 60,
    }
    flat = [text for pair in options.items() for text in pair]
    report = "\nfinally:\n print(sorted({'torch', 'onnx', 'onnxruntime'} & set(sys.modules)))"
    code = f"exec({'try: main()' + report!r})"
    return frazil_train("simulate", "--out", out, "--particle", "ribosome", *flat, code=code)


def error_of(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *arguments: object
) -> tuple[object, str]:
    """Run ``frazil-train`` in this process, to its end with an error; the exit status and what it said."""
    monkeypatch.setattr(sys, "argv", ["frazil-train", *(str(a) for a in arguments)])
    with pytest.raises(SystemExit) as ended:
        main()
    return ended.value.code, capsys.readouterr().err


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data folder with one simulated training set, and the recipe for it."""
    folder = tmp_path_factory.mktemp("cli")
    done = simulate(folder / "sim", 4)
    assert done.returncode == 0, done.stderr
    (folder / "simulate.stdout").write_text(done.stdout)
    (folder / "recipe.toml").write_text(RECIPE)
    return folder


@pytest.fixture(scope="module")
def traced(trace_calls: Callable[[Path], Any], tmp_path_factory: pytest.TempPathFactory) -> Any:
    """What the training below did, as the kernel saw it."""
    return trace_calls(tmp_path_factory.mktemp("traced"))


@pytest.fixture(scope="module")
def trained(data: Path, traced: Any) -> Path:
    """A model's folder with a served version 1."""
    out = data / "models" / "mlp"
    done = frazil_train(
        *("train", "--recipe", data / "recipe.toml", "--data", data, "--out", out),
        *("--run-folder", data / "run", "--promote", "--threads", 1),
        traced=traced,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == f"wrote {out / '1'}\n{out} now serves version 1\n"
    assert "validation set" in done.stderr
    return out


def test_training_reaches_nobody_and_writes_where_it_should(data: Path, trained: Path, traced: Any) -> None:
    traced.check(data / "models", data / "run")


def test_simulate_writes_labelled_micrographs_and_prints_their_paths(data):
    paths = [data / "sim" / f"simulated_{n:04d}.mrc" for n in (1, 2, 3, 4)]
    assert (data / "simulate.stdout").read_text().splitlines()[:-1] == [str(path) for path in paths]
    for path in paths:
        micrograph = read_micrograph(path)
        assert micrograph.pixels.shape == (400, 512)
        assert micrograph.pixel_size_angstrom == PIXEL_SIZE_ANGSTROM
        assert len(read_star(path.with_suffix(".star"))) > 5


def test_simulate_imports_neither_torch_nor_onnx(data):
    assert "torch" not in (data / "simulate.stdout").read_text().splitlines()[-1]
    assert "'onnx'" not in (data / "simulate.stdout").read_text().splitlines()[-1]


def test_help_imports_no_torch():
    code = "exec(\"try: main()\\nfinally: print('torch' in sys.modules, 'scipy' in sys.modules)\")"
    done = frazil_train("--help", code=code)
    assert done.returncode == 0
    for command in ("simulate", "train", "evaluate"):
        assert command in done.stdout
    assert done.stdout.splitlines()[-1] == "False False"


@pytest.mark.trainer
def test_trained_model_picks_a_new_micrograph(data, trained):
    model = load_model(trained, "cpu")
    assert (model.identity.name, model.identity.version, model.has_card) == ("mlp", 1, True)
    assert model.contract.tile_px == 16
    assert model.contract.step_px == 2.4
    path = data / "sim" / "simulated_0001.mrc"
    picks = Picker(model, PickingSettings(diameter_angstrom=DIAMETER_ANGSTROM)).pick(read_micrograph(path))
    truth = read_star(path.with_suffix(".star"))
    reach_px = DIAMETER_ANGSTROM / PIXEL_SIZE_ANGSTROM / 2
    turned = Picks(y=399 - truth.y, x=511 - truth.x, score=truth.score)
    right, wrong = (tally_matches(match_picks(picks, t, reach_px), len(t)) for t in (truth, turned))
    assert right.f1 > 0.6
    assert wrong.f1 < 0.7 * right.f1


@pytest.mark.trainer
def test_training_leaves_the_version_and_nothing_else(data, trained):
    assert sorted(str(p.relative_to(data / "models")) for p in (data / "models").rglob("*")) == [
        "mlp",
        "mlp/.lock",
        "mlp/1",
        "mlp/1/card.json",
        "mlp/1/model.onnx",
        "mlp/CURRENT",
    ]


@pytest.mark.trainer
def test_card_tells_how_the_model_was_made(data, trained):
    card = read_card(trained / "1" / "card.json")
    assert card.run["recipe"]["seed"] == 11
    assert card.run["recipe"]["epochs"] == 5
    assert card.run["data"] == {
        "training": ["sim/simulated_0003.mrc", "sim/simulated_0004.mrc"],
        "selection": ["sim/simulated_0002.mrc"],
        "validation": ["sim/simulated_0001.mrc"],
    }
    assert set(card.run["versions"]) == {"frazil", "python", "torch", "onnxruntime", "numpy"}
    contract = load_model(trained, "cpu").contract
    assert card.validation["threshold"] == contract.threshold
    assert 0.05 <= contract.threshold <= 0.99
    (row,) = card.validation["rows"]
    assert json.loads(contract.validation) == {
        "f1_within_half_a_diameter": {"sim/*.star": round(row["half"]["micro"]["f1"], 3)}
    }


@pytest.mark.trainer
def test_threshold_is_chosen_on_all_but_the_validation_micrographs(data, trained):
    model = load_model(trained / "1", "cpu")
    found = find_labelled(data, read_recipe(data / "recipe.toml").data[0])
    choosing = [one for one in found if one.part != "validation"]
    assert model.contract.threshold == best_threshold(score_micrographs([ModelSource(model)], choosing), {"sim": 1.0})


@pytest.mark.trainer
def test_evaluate_gives_the_scores_of_the_card_without_torch(data, trained):
    code = "exec(\"try: main()\\nfinally: print('torch' in sys.modules)\")"
    written = data / "scores.json"
    done = frazil_train(
        "evaluate", "--recipe", data / "recipe.toml", "--data", data, "--model", trained, "--json", written, code=code
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(written.read_text())["rows"] == read_card(trained / "1" / "card.json").validation["rows"]
    assert "sim" in done.stderr
    assert done.stdout == "False\n"


@pytest.mark.trainer
def test_same_recipe_and_data_give_the_same_model_as_the_next_version(monkeypatch, capsys, data, trained, tmp_path):
    before = (trained / "1" / "model.onnx").read_bytes()
    arguments = ["train", "--recipe", data / "recipe.toml", "--data", data, "--out", trained, "--threads", 1]
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["frazil-train", *(str(a) for a in arguments)])
    with pytest.raises(SystemExit, match=r"^0$"):
        main()
    assert capsys.readouterr().out == f"wrote {trained / '2'}\n"
    assert (trained / "CURRENT").read_text() == "1\n"
    assert (trained / "1" / "model.onnx").read_bytes() == before
    tiles = np.random.default_rng(0).random((50, 1, 16, 16), np.float32)
    assert (tmp_path / "runs" / "mlp" / "run.json").is_file()
    first, second = (load_model(trained / version, "cpu") for version in ("1", "2"))
    np.testing.assert_array_equal(first.score(tiles), second.score(tiles))
    assert first.contract == second.contract


@pytest.mark.trainer
def test_training_sets_that_are_not_there_are_skipped_if_told_to(monkeypatch, capsys, data, tmp_path):
    """As by make models, where the labelled micrographs are not: simulated ones alone choose the threshold, too."""
    real = RECIPE[RECIPE.index("[[data]]") :].replace('"sim"', '"real"')
    recipe = tmp_path / "recipe.toml"
    recipe.write_text(f"{RECIPE.replace('[[data]]', '[[data]]' + chr(10) + 'chooses_threshold = false')}{real}")
    arguments = ["train", "--recipe", recipe, "--data", data, "--out", tmp_path / "mlp", "--epochs", 1, "--threads", 1]
    status, error = error_of(monkeypatch, capsys, *arguments)
    assert status == 1
    one_line(error, "real: expected micrographs")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["frazil-train", *(str(a) for a in arguments), "--skip-missing"])
    with pytest.raises(SystemExit, match=r"^0$"):
        main()
    said = capsys.readouterr()
    assert said.out == f"wrote {tmp_path / 'mlp' / '1'}\n"
    assert said.err.startswith(f"trains without real: not in {data}\n")
    assert (tmp_path / "mlp" / "1" / "card.json").is_file()


# --- errors ------------------------------------------------------------------------------------------------------


@pytest.mark.trainer
def test_training_makes_an_int8_twin_if_told_to(monkeypatch, capsys, data):
    if int8_instructions() is None:
        pytest.skip("this processor has no instructions for int8, without which no twin is tried")
    out = data / "twin-models" / "mlp"
    arguments = ("train", "--recipe", data / "recipe.toml", "--data", data, "--out", out)
    arguments += ("--run-folder", data / "twin-run", "--epochs", 1, "--threads", 1, "--int8")
    monkeypatch.setattr(sys, "argv", ["frazil-train", *(str(a) for a in arguments)])
    with pytest.raises(SystemExit, match=r"^0$"):
        main()
    said = capsys.readouterr()
    assert said.out == f"wrote {out / '1'}\n"
    assert sorted(p.name for p in out.parent.iterdir()) == ["mlp"]
    twin = read_card(out / "1" / "card.json").int8
    assert [(one.folder, one.decides) for one in twin.f1] == [("sim", True)]
    assert f"int8 twin {'admitted' if twin.admitted else 'refused'}: F1 lower by" in said.err
    assert (out / "1" / "model.int8.onnx").exists() == twin.admitted


def one_line(error: str, *parts: str) -> None:
    assert error.startswith("frazil-train: error: ")
    assert error.count("\n") == 1
    assert "Traceback" not in error
    for part in parts:
        assert part in error


def test_error_is_one_line_without_traceback_and_exit_status_1():
    done = frazil_train("simulate", "--out", "/dev/null/x", "--count", 1, "--seed", 1, "--size", 64)
    assert done.returncode == 1
    assert done.stdout == ""
    *_, last = done.stderr.splitlines()
    assert last == "frazil-train: error: /dev/null/x: cannot write micrographs there: Not a directory"
    assert "Traceback" not in done.stderr


def test_unknown_particle_lists_those_there_are(monkeypatch, capsys, tmp_path):
    arguments = ["simulate", "--out", tmp_path / "o", "--count", 1, "--seed", 1, "--particle", "unicorn"]
    status, error = error_of(monkeypatch, capsys, *arguments)
    assert status == 1
    one_line(error, "unicorn", "apoferritin", "galactosidase")
    assert not (tmp_path / "o").exists()


def test_impossible_pixel_size_is_refused(monkeypatch, capsys, tmp_path):
    arguments = ["simulate", "--out", tmp_path / "o", "--count", 1, "--seed", 1, "--pixel-size", "0"]
    status, error = error_of(monkeypatch, capsys, *arguments)
    assert status == 1
    one_line(error, "pixel_size_angstrom")


def test_other_series_in_the_folder_is_refused(monkeypatch, capsys, data):
    arguments = ["simulate", "--out", data / "sim", "--count", 1, "--seed", 99, "--size", 64]
    status, error = error_of(monkeypatch, capsys, *arguments)
    assert status == 1
    assert "Traceback" not in error
    one_line(error.splitlines(keepends=True)[-1], "simulation.json", "this seed")


def test_missing_recipe_is_one_line(monkeypatch, capsys, tmp_path):
    arguments = ["evaluate", "--recipe", tmp_path / "no.toml", "--data", tmp_path, "--model", tmp_path]
    status, error = error_of(monkeypatch, capsys, *arguments)
    assert status == 1
    one_line(error, "no.toml: expected a recipe, cannot read it: No such file")


def test_missing_model_is_one_line(monkeypatch, capsys, data):
    arguments = ["evaluate", "--recipe", data / "recipe.toml", "--data", data, "--model", data / "nothing"]
    status, error = error_of(monkeypatch, capsys, *arguments)
    assert status == 1
    one_line(error, "nothing: expected a model's folder")


@pytest.mark.trainer
def test_missing_data_is_one_line(monkeypatch, capsys, data, tmp_path):
    arguments = ["train", "--recipe", data / "recipe.toml", "--data", tmp_path / "none", "--out", tmp_path / "mlp"]
    status, error = error_of(monkeypatch, capsys, *arguments)
    assert status == 1
    one_line(error, "none/sim: expected micrographs (*.mrc) with labels (*.star), found none")
    assert not (tmp_path / "mlp").exists()


@pytest.mark.trainer
@pytest.mark.parametrize(
    ("validation", "selection", "missing"),
    [
        ([1], [], "no micrograph for selection"),
        ([], [2], "no micrograph for validation"),
        ([1, 2], [3, 4], "no micrograph for training"),
    ],
)
def test_recipe_that_leaves_a_part_empty_is_refused_before_training(
    monkeypatch, capsys, data, tmp_path, validation, selection, missing
):
    text = RECIPE.replace(
        'validation = ["simulated_0001"]', f"validation = {[f'simulated_{n:04d}' for n in validation]}"
    )
    text = text.replace('selection = ["simulated_0002"]', f"selection = {[f'simulated_{n:04d}' for n in selection]}")
    (tmp_path / "recipe.toml").write_text(text)
    arguments = ["train", "--recipe", tmp_path / "recipe.toml", "--data", data, "--out", tmp_path / "mlp"]
    status, error = error_of(monkeypatch, capsys, *arguments)
    assert status == 1
    one_line(error, missing)


@pytest.mark.trainer
def test_absurd_learning_rate_is_one_line_and_leaves_no_model(monkeypatch, capsys, data, tmp_path):
    (tmp_path / "recipe.toml").write_text(RECIPE.replace("learning_rate = 0.03", "learning_rate = 1e30"))
    arguments = ["train", "--recipe", tmp_path / "recipe.toml", "--data", data, "--run-folder", tmp_path / "run"]
    status, error = error_of(monkeypatch, capsys, *arguments, "--out", tmp_path / "models" / "mlp")
    assert status == 1
    assert "Traceback" not in error
    last = error.splitlines(keepends=True)[-1]
    one_line(last, "epoch 1, update ", "lower learning_rate (now 1e+30)", "last checkpoint: none")
    assert {p.name for p in tmp_path.iterdir()} == {"recipe.toml", "run"}


@pytest.mark.trainer
def test_table_that_cannot_be_written_is_one_line(monkeypatch, capsys, data, trained, tmp_path):
    file = tmp_path / "missing" / "scores.json"
    arguments = ["evaluate", "--recipe", data / "recipe.toml", "--data", data, "--model", trained / "1", "--json", file]
    status, error = error_of(monkeypatch, capsys, *arguments)
    assert status == 1
    one_line(error.splitlines(keepends=True)[-1], "scores.json: cannot be written: No such file or directory")


@pytest.mark.trainer
def test_a_place_that_cannot_hold_the_model_is_refused_before_training(monkeypatch, capsys, data, tmp_path):
    (tmp_path / "file").write_text("")
    arguments = ["train", "--recipe", data / "recipe.toml", "--data", data, "--out", tmp_path / "file" / "toy"]
    status, error = error_of(monkeypatch, capsys, *arguments)
    assert status == 1
    one_line(error, "expected a folder that can be written", str(tmp_path / "file"))
    assert "epoch" not in error
