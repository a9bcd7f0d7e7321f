import hashlib
import json
import os
import re
import sys
from collections.abc import Callable
from pathlib import Path

import msgspec
import numpy as np
import onnx
import pytest
import torch
from torch import nn

import frazil_trainer
from frazil.errors import ModelError, OutputError
from frazil.model import ModelContract, load_model, read_card
from frazil.model.runtime import ort
from frazil_trainer.export.version import Scorer, export_version, write_onnx
from frazil_trainer.networks import Mlp
from frazil_trainer.recipe import MlpSettings

pytestmark = pytest.mark.trainer


def contract(**changes: object) -> ModelContract:
    values: dict[str, object] = {
        "architecture": "mlp",
        "tile_px": 16,
        "grid": 1,
        "step_px": 3.2,
        "offset_px": 7.5,
        "diameter_px": 9.6,
        "normalisation": "flat-01",
        "contrast": "dark",
        "threshold": 0.37,
        "training_set_sha256": "ab" * 32,
        "validation": '{"f1_within_half_a_diameter":{"Å-set":0.81}}',
    }
    return ModelContract(**(values | changes))  # type: ignore[arg-type]


def network(seed: int = 0) -> Mlp:
    made = Mlp(MlpSettings(tile_px=16, hidden=12))
    made.initialise(torch.Generator().manual_seed(seed))
    return made


def some_tiles(count: int = 9) -> np.ndarray:
    return np.random.default_rng(8).random((count, 1, 16, 16), np.float32)


class Run(msgspec.Struct):
    """Where a model came from."""

    seed: int


def export(folder: Path, *, of: nn.Module | None = None, **changes: object) -> Path:
    scorer = Scorer(network=of or network(), tile_px=16, grid=1, step_px=3.2, offset_px=7.5, check_tiles=some_tiles())
    return export_version(scorer, contract(**changes), folder, run=Run(seed=7))


def content(folder: Path) -> dict[str, bytes]:
    return {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Version 1 of a model; not to be changed."""
    return export(tmp_path_factory.mktemp("repository") / "mlp")


@pytest.mark.parametrize("count", [1, 2, 33])
def test_exported_model_gives_torchs_probabilities_on_batches_of_any_size(exported, count):
    tiles = np.random.default_rng(count).random((count, 1, 16, 16), np.float32)
    with torch.no_grad():
        expected = torch.sigmoid(network().eval()(torch.from_numpy(tiles))).numpy()
    found = load_model(exported, "cpu").score(tiles)
    assert found.shape == (count, 1, 1)
    assert np.abs(found - expected).max() <= 1e-4
    assert np.ptp(expected) > 0.01 or count == 1


def test_network_in_training_is_exported_without_its_dropout(tmp_path, exported):
    tiles = some_tiles()
    training = network().train()
    write_onnx(training, contract(), tmp_path / "model.onnx")
    np.testing.assert_array_equal(
        load_model(tmp_path / "model.onnx", "cpu").score(tiles), load_model(exported, "cpu").score(tiles)
    )


def test_version_is_a_folder_with_model_and_card(exported):
    assert exported.name == "1"
    assert sorted(content(exported.parent)) == [".lock", "1/card.json", "1/model.onnx"]


def test_contract_survives_in_the_metadata(exported):
    assert load_model(exported, "cpu").contract == contract()


def test_card_vouches_for_the_model(exported):
    card = read_card(exported / "card.json")
    assert card.sha256 == hashlib.sha256((exported / "model.onnx").read_bytes()).hexdigest()
    assert card.run["seed"] == 7
    assert card.run["onnx_against_torch"]["tiles"] == 9
    assert card.run["onnx_against_torch"]["largest_difference"] <= 1e-4
    assert card.reference.shape == (4, 1, 16, 16)
    assert card.reference.tolerance == 1e-4
    with torch.no_grad():
        expected = torch.sigmoid(network().eval()(torch.from_numpy(card.reference.tiles()))).flatten().tolist()
    assert card.reference.scores == pytest.approx(expected, abs=1e-6)
    loaded = load_model(exported, "cpu")
    assert loaded.has_card
    assert (loaded.identity.name, loaded.identity.version) == ("mlp", 1)


def test_model_or_card_changed_after_the_export_is_refused(tmp_path, exported):
    version = tmp_path / "mlp" / "1"
    version.mkdir(parents=True)
    card = json.loads((exported / "card.json").read_text())
    (version / "model.onnx").write_bytes((exported / "model.onnx").read_bytes())
    card["reference"]["scores"][0] += 0.01
    (version / "card.json").write_text(json.dumps(card))
    with pytest.raises(ModelError, match=r"reference scores within 0\.0001"):
        load_model(version, "cpu")
    (version / "card.json").write_bytes((exported / "card.json").read_bytes())
    load_model(version, "cpu")
    altered = onnx.load_model(version / "model.onnx")
    altered.doc_string = "changed"
    onnx.save_model(altered, version / "model.onnx")
    with pytest.raises(ModelError, match="expected sha256"):
        load_model(version, "cpu")


def test_nothing_of_the_training_machine_is_in_the_file(exported):
    raw = (exported / "model.onnx").read_bytes()
    texts = [text.decode() for text in re.findall(rb"[\x20-\x7e]{5,}", raw)]
    places = {str(Path.cwd()), str(Path.home()), str(Path(sys.prefix)), os.uname().nodename}
    places |= {str(Path(frazil_trainer.__file__).parent), str(Path(torch.__file__).parent), ".py", "site-packages"}
    found = [(text, place) for text in texts for place in places if len(place) > 2 and place in text]
    assert found == []
    assert b"Traceback" not in raw
    assert not any("stack_trace" in text for text in texts)


def test_file_is_plain_onnx_without_weights_elsewhere(exported):
    model = onnx.load_model(exported / "model.onnx", load_external_data=False)
    onnx.checker.check_model(model, full_check=True)
    assert [opset.version for opset in model.opset_import if opset.domain == ""] == [18]
    assert all(not tensor.external_data for tensor in model.graph.initializer)
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    assert [(i.name, i.shape) for i in session.get_inputs()] == [("tiles", ["n", 1, 16, 16])]
    assert [o.name for o in session.get_outputs()] == ["scores"]


def test_versions_count_up_and_none_is_changed(tmp_path):
    folder = tmp_path / "models" / "mlp"
    first = export(folder)
    before = content(first)
    (folder / "7").mkdir()
    (folder / "notes").mkdir()
    (folder / "README").write_text("12\n")
    second = export(folder, of=network(1))
    assert (first.name, second.name) == ("1", "8")
    assert content(first) == before
    assert list((folder / "7").iterdir()) == []
    assert (second / "model.onnx").read_bytes() != (first / "model.onnx").read_bytes()
    assert sorted(p.name for p in folder.iterdir()) == [".lock", "1", "7", "8", "README", "notes"]


class NotANumber(nn.Module):
    def forward(self, tiles: torch.Tensor) -> torch.Tensor:
        return torch.log(tiles.sum((1, 2, 3)) - 1e6).reshape(-1, 1, 1)


class OtherWhenExported(nn.Module):
    def forward(self, tiles: torch.Tensor) -> torch.Tensor:
        scale = 1.01 if torch.compiler.is_compiling() else 1.0
        return (scale * tiles.mean((1, 2, 3))).reshape(-1, 1, 1)


class WrongShape(nn.Module):
    def forward(self, tiles: torch.Tensor) -> torch.Tensor:
        return tiles.mean((2, 3))


@pytest.mark.parametrize(
    ("broken", "message"),
    [
        (NotANumber, "expected finite scores, found NaN"),
        (OtherWhenExported, r"expected torch's scores within 0\.0001, found 0\.00\d+ off"),
        (WrongShape, "expected output scores"),
    ],
)
def test_network_that_fails_its_checks_becomes_no_version(tmp_path, broken: Callable[[], nn.Module], message):
    folder = tmp_path / "mlp"
    (folder / "3").mkdir(parents=True)
    with pytest.raises(ModelError, match=message):
        export(folder, of=broken())
    assert [p.name for p in folder.rglob("*")] == ["3"]


def test_folder_that_cannot_be_written_is_an_error_that_names_it(tmp_path):
    taken = tmp_path / "mlp"
    taken.write_text("a file\n")
    with pytest.raises(OutputError, match=r"mlp: cannot write a model there: "):
        export(taken)
    assert taken.read_text() == "a file\n"


def version_folders(folder: Path, *names: str) -> list[Path]:
    for name in names:
        (folder / name).mkdir(parents=True)
    return [folder / name for name in names]
