"""Quantisation: a network becomes an int8 twin of itself, which is kept only where it picks as well."""

from __future__ import annotations

import hashlib
import itertools
import sys
from collections.abc import Callable
from pathlib import Path

import msgspec
import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from frazil.errors import FrazilError, ModelError
from frazil.model import Card, ModelContract, Reference, int8_instructions, load_model, read_card, write_card
from frazil.model.files import OnnxFile
from frazil.model.runtime import ort
from frazil_trainer.cli import main
from frazil_trainer.export.int8 import TwinData, add_twin, load_twin_data, make_twin
from frazil_trainer.export.quantise import CALIBRATIONS, count_weighted, quantise, quantised_nodes
from frazil_trainer.recipe import Recipe

TILE_PX, DIAMETER_PX = 16, 9.6

needs_instructions = pytest.mark.skipif(
    int8_instructions() is None, reason="this processor has no instructions for int8, without which no twin is tried"
)


def disc_finder(contract: ModelContract, *, outlier: float = 0.0) -> onnx.ModelProto:
    """A network of three dense layers that scores how much a dark disc stands in the middle of a tile.

    Beside the one hidden unit that finds it stand others that are passed over, one of them as large as wanted.
    """
    y, x = np.mgrid[:TILE_PX, :TILE_PX] - (TILE_PX - 1) / 2
    r = np.hypot(y, x) / (DIAMETER_PX / 2)
    disc, ring = r <= 1, (r > 1.1) & (r <= 1.6)
    rng = np.random.default_rng(0)
    first = rng.normal(0, 0.02, (16, TILE_PX**2)).astype(np.float32)
    first[0] = (60 * (ring / ring.sum() - disc / disc.sum())).ravel()
    first[1] += outlier / TILE_PX**2
    last = np.zeros((1, 16), np.float32)
    last[0, 0] = 1
    weights = {"w1": first, "w2": np.eye(16, dtype=np.float32), "w3": last, "bias": np.array([-4], np.float32)}
    nodes = [
        helper.make_node("Flatten", ["tiles"], ["flat"], name="flatten"),
        helper.make_node("Gemm", ["flat", "w1"], ["h1"], name="first", transB=1),
        helper.make_node("Relu", ["h1"], ["r1"], name="relu"),
        helper.make_node("Gemm", ["r1", "w2"], ["h2"], name="second", transB=1),
        helper.make_node("Gemm", ["h2", "w3", "bias"], ["logit"], name="last", transB=1),
        helper.make_node("Unsqueeze", ["logit", "axes"], ["grid"], name="unsqueeze"),
        helper.make_node("Sigmoid", ["grid"], ["scores"], name="sigmoid"),
    ]
    graph = helper.make_graph(
        nodes,
        "discs",
        [helper.make_tensor_value_info("tiles", TensorProto.FLOAT, ["n", 1, TILE_PX, TILE_PX])],
        [helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["n", 1, 1])],
        [
            *(numpy_helper.from_array(value, name) for name, value in weights.items()),
            numpy_helper.from_array(np.array([2], np.int64), "axes"),
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    helper.set_model_props(model, contract.to_metadata())
    return model


def some_tiles(count: int, seed: int = 3) -> NDArray[np.float32]:
    return np.random.default_rng(seed).random((count, 1, TILE_PX, TILE_PX)).astype(np.float32)


@pytest.fixture
def contract(make_contract: Callable[..., ModelContract]) -> ModelContract:
    return make_contract(tile_px=TILE_PX, step_px=3.2, offset_px=7.5, diameter_px=DIAMETER_PX, threshold=0.5)


@pytest.fixture
def write_model(contract: ModelContract, tmp_path: Path) -> Callable[..., Path]:
    """Write a network as version 1 of a model."""

    def write(model: onnx.ModelProto) -> Path:
        version = tmp_path / "discs" / "1"
        version.mkdir(parents=True)
        content = model.SerializeToString()
        (version / "model.onnx").write_bytes(content)
        tiles = some_tiles(4).astype(np.float16)
        session = ort.InferenceSession(content, providers=["CPUExecutionProvider"])
        (scores,) = session.run(["scores"], {"tiles": tiles.astype(np.float32)})
        card = Card(
            sha256=hashlib.sha256(content).hexdigest(),
            reference=Reference.make(tiles, scores, 1e-4),
            run={"seed": 5},
            validation={},
        )
        write_card(version / "card.json", card)
        (version.parent / "CURRENT").write_text("1\n")
        return version

    return write


@pytest.fixture(scope="module")
def twin_data(simulated_data: Path, tiny_recipe: Recipe) -> TwinData:
    return load_twin_data(simulated_data, tiny_recipe)


def convolutions(channels: list[int]) -> onnx.ModelProto:
    """Convolutions one after the other, each with a ReLU but the last, and a shortcut over the third."""
    nodes, weights, at = [], [], "tiles"
    for i, (into, out) in enumerate(itertools.pairwise(channels)):
        weights.append(numpy_helper.from_array(np.ones((out, into, 1, 1), np.float32), f"w{i}"))
        nodes.append(helper.make_node("Conv", [at, f"w{i}"], [f"c{i}"], name=f"conv{i}"))
        nodes.append(helper.make_node("Relu", [f"c{i}"], [f"r{i}"], name=f"relu{i}"))
        at = f"r{i}"
    nodes.insert(6, helper.make_node("Add", ["r1", "r2"], ["a"], name="add"))
    return helper.make_model(helper.make_graph(nodes, "convolutions", [], [], weights))


def test_the_last_layer_and_those_of_few_features_stay_in_float32() -> None:
    model = convolutions([1, 8, 32, 32, 32, 1])
    assert count_weighted(model) == 2
    assert quantised_nodes(model) == ["conv2", "relu2", "add", "conv3", "relu3"]
    # A first convolution as large as a window sums over all of its pixels.
    wide = numpy_helper.from_array(np.ones((8, 1, 40, 40), np.float32), "w0")
    model.graph.initializer[0].CopyFrom(wide)
    assert quantised_nodes(model)[:2] == ["conv0", "relu0"]


def test_layers_at_both_ends_can_be_excluded() -> None:
    model = convolutions([1, 16, 16, 16, 16, 16, 16, 1])
    chosen = [[n for n in quantised_nodes(model, excluded) if n.startswith("conv")] for excluded in range(4)]
    assert chosen[0] == ["conv1", "conv2", "conv3", "conv4", "conv5"]
    assert chosen[1:] == [["conv2", "conv3", "conv4"], ["conv3"], []]


@pytest.mark.parametrize("way", CALIBRATIONS, ids=lambda way: way.name)
def test_what_is_quantised_needs_no_operators_but_onnx_own_and_scores_alike(
    contract: ModelContract, capsys: pytest.CaptureFixture[str], way: object
) -> None:
    model = disc_finder(contract)
    before = model.SerializeToString()
    quantised = quantise(model, quantised_nodes(model), way, [some_tiles(64)])  # type: ignore[arg-type]
    assert model.SerializeToString() == before
    assert capsys.readouterr() == ("", "")
    content = quantised.SerializeToString()
    OnnxFile(content).check_safe()
    assert sum(node.op_type == "QuantizeLinear" for node in quantised.graph.node) >= 3
    assert [w.data_type for w in quantised.graph.initializer if w.name == "w1_quantized"] == [TensorProto.INT8]
    assert list(quantised.metadata_props) == list(model.metadata_props)
    tiles = some_tiles(200, seed=9)
    wanted = scores_of(before, tiles)
    # Unfused, every kernel computes in float32 on the rounded numbers: what is quantised, on any processor.
    plain = scores_of(content, tiles, fused=False)
    assert not np.array_equal(plain, wanted)
    assert plain == pytest.approx(wanted, abs=0.1)
    # Fused into int8 kernels it gives the same where frazil lets a twin serve; elsewhere sums of 16 bits overflow.
    if int8_instructions() is not None:
        assert scores_of(content, tiles) == pytest.approx(plain, abs=0.02)


def scores_of(content: bytes, tiles: NDArray[np.float32], *, fused: bool = True) -> NDArray[np.float32]:
    options = ort.SessionOptions()
    if not fused:
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = ort.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    scores: NDArray[np.float32] = session.run(["scores"], {"tiles": tiles})[0]
    return scores


@needs_instructions
def test_a_twin_that_picks_as_well_goes_beside_the_model_as_the_next_version(
    contract: ModelContract, write_model: Callable[..., Path], twin_data: TwinData
) -> None:
    version = write_model(disc_finder(contract))
    before = {file.name: file.read_bytes() for file in version.iterdir()}
    said: list[str] = []
    twin, content = make_twin(version, twin_data, said.append)
    assert [(one.folder, one.labels, one.decides) for one in twin.f1] == [
        ("easy", ".star", True),
        ("small", ".star", True),
    ]
    assert min(one.float32 for one in twin.f1) > 0.4
    assert twin.largest_f1_drop < 0.005
    assert twin.admitted
    assert twin.made["calibration"] in {way.name for way in CALIBRATIONS}
    assert set(twin.made["calibration_micrographs"]) == {
        "easy/simulated_0003",
        "easy/simulated_0004",
        "small/simulated_0003",
    }
    assert "float32 picks the validation micrographs" in said
    written = add_twin(version, version.parent, twin, content)
    assert written.name == "2"
    assert sorted(file.name for file in written.iterdir()) == ["card.json", "model.int8.onnx", "model.onnx"]
    assert {file.name: file.read_bytes() for file in version.iterdir()} == before
    assert (written / "model.onnx").read_bytes() == before["model.onnx"]
    card, card_before = read_card(written / "card.json"), read_card(version / "card.json")
    assert (card.sha256, card.run, card.int8) == (card_before.sha256, card_before.run, twin)
    loaded = load_model(written, "cpu", precision="int8")
    assert (loaded.precision, loaded.identity.sha256) == ("int8", card.sha256)


@needs_instructions
def test_a_twin_whose_f1_falls_is_refused_and_its_file_not_kept(
    contract: ModelContract, write_model: Callable[..., Path], twin_data: TwinData
) -> None:
    version = write_model(disc_finder(contract, outlier=5000))
    twin, content = make_twin(version, twin_data)
    assert twin.largest_f1_drop > 0.1
    assert not twin.admitted
    written = add_twin(version, version.parent, twin, content)
    assert sorted(file.name for file in written.iterdir()) == ["card.json", "model.onnx"]
    loaded = load_model(written, "cpu", precision="int8")
    assert "picks as well as the model, found F1 lower by" in (loaded.precision_problem or "")


@needs_instructions
def test_sets_that_have_no_say_do_not_decide(
    contract: ModelContract,
    write_model: Callable[..., Path],
    twin_data: TwinData,
    simulated_data: Path,
    tiny_recipe: Recipe,
) -> None:
    silent = tuple(msgspec.structs.replace(source, chooses_threshold=False) for source in tiny_recipe.data)
    data = load_twin_data(simulated_data, msgspec.structs.replace(tiny_recipe, data=silent))
    twin, _ = make_twin(write_model(disc_finder(contract)), data)
    assert not any(one.decides for one in twin.f1)
    assert not twin.admitted


@needs_instructions
def test_a_network_with_nothing_to_gain_is_named(
    make_blob_model: Callable[..., Path], tmp_path: Path, twin_data: TwinData
) -> None:
    with pytest.raises(ModelError, match=r"model\.onnx: expected layers that gain by int8, found none"):
        make_twin(make_blob_model(tmp_path / "blob") / "1", twin_data)


def test_without_instructions_no_twin_is_tried(
    contract: ModelContract,
    write_model: Callable[..., Path],
    twin_data: TwinData,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    monkeypatch.setattr("frazil.model.checks._CPU_INFO", tmp_path / "none")
    with pytest.raises(FrazilError, match="expected instructions for int8 to try a twin with, found none"):
        make_twin(write_model(disc_finder(contract)), twin_data)


@needs_instructions
def test_the_command_prints_f1_of_both_and_writes_only_what_picks_as_well(
    contract: ModelContract,
    write_model: Callable[..., Path],
    write_recipe: Callable[[Path, Recipe], Path],
    tiny_recipe: Recipe,
    simulated_data: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    recipe = write_recipe(tmp_path / "recipe.toml", tiny_recipe)
    model = write_model(disc_finder(contract)).parent
    arguments = ["quantise", "--recipe", recipe, "--data", simulated_data, "--model", model]

    def run() -> int:
        monkeypatch.setattr(sys, "argv", ["frazil-train", *map(str, arguments)])
        try:
            main()
        except SystemExit as ended:
            return int(ended.code or 0)
        return 0

    assert run() == 0
    said = capsys.readouterr()
    assert said.out == f"wrote {model / '2'}; nothing serves by it until it is promoted\n"
    assert "easy *.star" in said.err
    assert "int8 twin admitted" in said.err
    assert (model / "CURRENT").read_text() == "1\n"
    monkeypatch.setattr("frazil_trainer.export.int8.LARGEST_F1_DROP", -1.0)
    assert run() == 1
    said = capsys.readouterr()
    assert "int8 twin refused" in said.err
    assert "nothing is written" in said.err
    assert not (model / "3").exists()
