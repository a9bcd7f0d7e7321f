"""Models: what may serve, and what is refused and why."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest

from frazil.errors import ModelError
from frazil.model import load_model, locate_model
from frazil.settings import default_model_path


def test_a_models_folder_a_version_and_a_file_mean_the_same(blob_model: Path) -> None:
    by_folder, by_version, by_file = (
        load_model(p, "cpu") for p in (blob_model, blob_model / "1", blob_model / "1" / "model.onnx")
    )
    assert by_folder.identity == by_version.identity == by_file.identity
    assert (by_folder.identity.name, by_folder.identity.version) == ("blob", 1)
    assert by_folder.provider == "CPUExecutionProvider"


def test_the_default_model_loads_and_is_dense() -> None:
    model = load_model(default_model_path(), "cpu")
    assert model.identity.name == "fcn"
    assert model.has_card
    assert model.contract.grid > 1


def test_the_papers_mlp_loads_with_the_papers_window_and_stride(repository: Path) -> None:
    folder = repository / "exported_models" / "mlp" / "2"
    model = load_model(folder, "cpu")
    assert model.has_card
    contract = model.contract
    assert (contract.architecture, contract.tile_px, contract.grid) == ("mlp", 64, 1)
    # 180 px windows at stride 36 around a particle of 108 px.
    to_paper = 108 / contract.diameter_px
    assert contract.tile_px * to_paper == pytest.approx(180)
    assert contract.step_px * to_paper == pytest.approx(36)
    sizes = [list(w.dims) for w in onnx.load(locate_model(folder)[0]).graph.initializer]
    assert sorted(np.prod(s) for s in sizes if len(s) == 2) == [256, 256 * 256, 4096 * 256]


def test_scores_are_probabilities_of_the_stated_shape(blob_model: Path) -> None:
    model = load_model(blob_model, "cpu")
    scores = model.score(np.random.default_rng(0).random((5, 1, 32, 32), np.float32))
    assert scores.shape == (5, 1, 1)
    assert ((scores >= 0) & (scores <= 1)).all()


def copy(blob_model: Path, to: Path) -> Path:
    for name in ("model.onnx", "card.json"):
        (to / "1").mkdir(parents=True, exist_ok=True)
        (to / "1" / name).write_bytes((blob_model / "1" / name).read_bytes())
    (to / "CURRENT").write_text("1\n")
    return to


def test_a_missing_model_is_named(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"nothing: expected a model's folder .* found nothing there"):
        locate_model(tmp_path / "nothing")


def test_an_empty_folder_is_no_model(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"expected CURRENT or model\.onnx"):
        locate_model(tmp_path)


@pytest.mark.parametrize("current", ["", "../../etc", "latest", "9"])
def test_current_must_name_a_version_that_is_there(blob_model: Path, tmp_path: Path, current: str) -> None:
    folder = copy(blob_model, tmp_path / "m")
    (folder / "CURRENT").write_text(current)
    with pytest.raises(ModelError):
        locate_model(folder)


def test_a_model_without_the_contract_is_refused_with_the_missing_key(blob_model: Path, tmp_path: Path) -> None:
    model = onnx.load(blob_model / "1" / "model.onnx")
    kept = [p for p in model.metadata_props if p.key != "frazil.diameter_px"]
    del model.metadata_props[:]
    model.metadata_props.extend(kept)
    onnx.save(model, tmp_path / "m.onnx")
    with pytest.raises(ModelError, match=r"m\.onnx: .* found no frazil\.diameter_px"):
        load_model(tmp_path / "m.onnx", "cpu")


def test_a_file_that_is_no_model_is_refused(tmp_path: Path) -> None:
    (tmp_path / "m.onnx").write_bytes(b"no model")
    with pytest.raises(ModelError, match=r"m\.onnx: expected an ONNX file"):
        load_model(tmp_path / "m.onnx", "cpu")


def test_shapes_other_than_the_contracts_are_refused(blob_model: Path, tmp_path: Path) -> None:
    model = onnx.load(blob_model / "1" / "model.onnx")
    onnx.helper.set_model_props(
        model, {p.key: ("30" if p.key == "frazil.tile_px" else p.value) for p in model.metadata_props}
    )
    onnx.save(model, tmp_path / "m.onnx")
    with pytest.raises(ModelError, match=r"expected input tiles float32 \(n, 1, 30, 30\)"):
        load_model(tmp_path / "m.onnx", "cpu")


def test_open_sides_that_give_other_scores_than_the_contracts_are_refused(
    tmp_path: Path, make_blob_model: Callable[..., Path]
) -> None:
    dense = {"tile_px": 63, "grid": 16, "offset_px": 16.0, "step_px": 2.0}
    folder = make_blob_model(tmp_path / "m", open_sides=True, **dense)
    assert load_model(folder, "cpu").largest_tile_pixels > 63**2
    model = onnx.load(folder / "1" / "model.onnx")
    for key, value, complaint in (
        ("frazil.step_px", "1", r"expected scores \(1, 1, 2\) for a tile of 48 x 49 px, found \(1, 8, 9\)"),
        ("frazil.step_px", "2.5", "expected a step of whole pixels for tiles of any side, found 2.5"),
    ):
        changed = {p.key: value if p.key == key else p.value for p in model.metadata_props}
        onnx.helper.set_model_props(model, changed)
        onnx.save(model, tmp_path / "m.onnx")
        with pytest.raises(ModelError, match=complaint):
            load_model(tmp_path / "m.onnx", "cpu")


def edit_card(folder: Path, edit: Callable[[dict[str, object]], None]) -> None:
    card = folder / "1" / "card.json"
    content = json.loads(card.read_text())
    edit(content)
    card.write_text(json.dumps(content))


def test_a_changed_byte_is_noticed_by_the_hash(blob_model: Path, tmp_path: Path) -> None:
    folder = copy(blob_model, tmp_path / "m")
    model = onnx.load(folder / "1" / "model.onnx")
    model.doc_string = "changed"
    onnx.save(model, folder / "1" / "model.onnx")
    with pytest.raises(ModelError, match="expected sha256"):
        load_model(folder, "cpu")


def test_a_reference_that_is_not_reproduced_is_refused(blob_model: Path, tmp_path: Path) -> None:
    folder = copy(blob_model, tmp_path / "m")

    def shift(card: dict[str, object]) -> None:
        card["reference"]["scores"][0] += 0.01  # type: ignore[index]

    edit_card(folder, shift)
    with pytest.raises(ModelError, match=r"reference scores within 0\.0001, found a difference of 0\.01"):
        load_model(folder, "cpu")


def test_a_version_without_its_card_is_refused(blob_model: Path, tmp_path: Path) -> None:
    folder = copy(blob_model, tmp_path / "m")
    (folder / "1" / "card.json").unlink()
    with pytest.raises(ModelError, match=r"card\.json: expected the model's card"):
        load_model(folder, "cpu")


@pytest.mark.parametrize("tiles", ["", "!!!", "eJwDAAAAAAE="])
def test_a_torn_reference_is_refused(blob_model: Path, tmp_path: Path, tiles: str) -> None:
    folder = copy(blob_model, tmp_path / "m")

    def tear(card: dict[str, object]) -> None:
        card["reference"]["tiles_float16"] = tiles  # type: ignore[index]

    edit_card(folder, tear)
    with pytest.raises(ModelError, match="reference tiles"):
        load_model(folder, "cpu")


def test_cuda_that_is_not_there_is_refused_not_replaced(blob_model: Path) -> None:
    if Path("/proc/driver/nvidia").exists():
        pytest.skip("this machine has an NVIDIA driver")
    with pytest.raises(ModelError, match="expected a CUDA device, found none"):
        load_model(blob_model, "cuda")
