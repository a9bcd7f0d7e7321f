"""A model in half precision: the same contract, the full model's card, and scores within its tolerance."""

import json
from pathlib import Path

import numpy as np
import onnx
import pytest
from typer.testing import CliRunner

from frazil.errors import ModelError
from frazil.machine import KNOWN_DIAMETER_ANGSTROM, KNOWN_MICROGRAPH, compare_picks
from frazil.model import load_model, locate_model, read_card, read_current
from frazil.picking import Picker, PickingSettings, read_micrograph
from frazil_trainer.cli import app
from frazil_trainer.export.half import HALF_TOLERANCE, export_half


@pytest.mark.parametrize("name", ["mlp", "fcn"])
def test_half_model_gives_the_full_models_scores(repository: Path, tmp_path: Path, name: str) -> None:
    full = repository / "exported_models" / name
    written = export_half(full, tmp_path / name)
    assert written == tmp_path / name / "1"
    half, before = load_model(written, "cpu", 2), load_model(full, "cpu", 2)
    assert half.contract == before.contract
    t = half.contract.tile_px
    tiles = np.clip(np.random.default_rng(1).normal(0.5, 0.125, (2, 1, t, t)), 0, 1).astype(np.float32)
    assert 0 < np.abs(half.score(tiles) - before.score(tiles)).max() <= HALF_TOLERANCE
    micrograph = read_micrograph(KNOWN_MICROGRAPH)
    settings = PickingSettings(diameter_angstrom=KNOWN_DIAMETER_ANGSTROM)
    agreement = compare_picks(*(Picker(model, settings).pick(micrograph) for model in (half, before)))
    assert agreement.matched == agreement.picks == agreement.cpu_picks > 300
    # Where two neighbouring scores are nearly the same, the peak may be between others of their cells.
    assert agreement.largest_distance_px < 1
    card, of_full = read_card(written / "card.json"), read_card(full / str(before.identity.version) / "card.json")
    assert card.reference.scores == of_full.reference.scores
    assert of_full.int8 is not None
    assert card.int8 is None
    assert card.run["half_of"] == {"name": name, "version": before.identity.version, "sha256": before.identity.sha256}
    weights = {tensor.data_type for tensor in onnx.load_model(written / "model.onnx").graph.initializer}
    assert onnx.TensorProto.FLOAT not in weights
    assert onnx.TensorProto.FLOAT16 in weights


def test_half_model_whose_scores_are_others_is_not_written(
    repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("frazil_trainer.export.half.HALF_TOLERANCE", 1e-9)
    with pytest.raises(ModelError, match="expected its reference scores within 1e-09"):
        export_half(repository / "exported_models" / "mlp", tmp_path / "mlp")
    assert list((tmp_path / "mlp").iterdir()) == []


def test_half_of_a_model_without_a_card_is_refused(repository: Path, tmp_path: Path) -> None:
    lone = tmp_path / "lone.onnx"
    lone.write_bytes(locate_model(repository / "exported_models" / "mlp")[0].read_bytes())
    with pytest.raises(ModelError, match="expected the model's card, found none"):
        export_half(lone, tmp_path / "mlp")


def test_command_writes_a_version_and_makes_nothing_serve(repository: Path, tmp_path: Path) -> None:
    folder = tmp_path / "mlp-half"
    model = str(repository / "exported_models" / "mlp")
    for number in ("1", "2"):
        done = CliRunner().invoke(app, ["half", model, "--out", str(folder)])
        assert done.exit_code == 0, done.output
        assert json.loads((folder / number / "card.json").read_text("utf-8"))["run"]["half_of"]["name"] == "mlp"
    with pytest.raises(ModelError):
        read_current(folder)
