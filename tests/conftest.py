"""What tests of every part share: small real models, synthetic and real micrographs, a running daemon."""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import mrcfile
import msgspec
import numpy as np
import onnx
import prometheus_client
import pytest
import zmq
from hypothesis import Phase
from hypothesis import settings as hypothesis_settings
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from frazil.documents import (
    FailedDocument,
    MicrographDocument,
    NumberedDocument,
    PickColumns,
    Seconds,
    decode_document,
    directory_of,
    encode_document,
    in_session,
    topic_of,
)
from frazil.errors import FrazilError
from frazil.health.metrics import Metrics
from frazil.health.state import DaemonState, SessionState
from frazil.microscope.registry import Wish
from frazil.model import (
    Card,
    ModelContract,
    ModelIdentity,
    Reference,
    Twin,
    TwinScores,
    read_card,
    read_contract,
    write_card,
)
from frazil.model.runtime import ort
from frazil.page.application import Application
from frazil.page.gate import TOKEN_NAME
from frazil.page.server import PageServer
from frazil.picking import Micrograph, PickingSettings, Picks, read_micrograph, read_star
from frazil.session.outbox.file_stamp import FileStamp
from frazil.session.outbox.ledger import Handled, Ledger, leave_edits
from frazil.session.outbox.outbox import Outbox
from frazil.session.outbox.stream import Stream
from frazil.session.outbox.stream.messages import ChannelState
from frazil.session.pick.granter import Granter
from frazil.session.retune import Reviser

REPOSITORY = Path(__file__).resolve().parents[1]
SHARED_DATA = REPOSITORY.parent / "shared" / "data"
BIN = Path(sys.executable).parent
MUTANTS_PROFILE = "frazil-mutants"
"""Of hypothesis, as ``tests/mutants.py`` sets it."""
PATIENCE_SECONDS = 240.0
"""Longer than any step takes, also on a machine that does much else: what is waited for may never come."""


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--long", action="store_true", help="the long forms of the tests that have one")
    parser.addoption("--report", type=Path, metavar="DIR", help="where tests of robustness write what they measured")


def pytest_configure() -> None:
    # Idle threads that spin slow everything else on two shared cores.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    # A shell that starts the tests in the background has them, and what they start, pass over Ctrl-C.
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    if "PYTEST_XDIST_WORKER" in os.environ:  # each of several processes has its share of the cores
        os.environ.setdefault("OMP_NUM_THREADS", "1")
    # How long an example takes says something of the machine, and of what else it does, only.
    hypothesis_settings.register_profile("frazil", deadline=None)
    # A planted fault is to be seen and not to be explained: to shrink an example takes longer than all the tests.
    seen_only = (Phase.explicit, Phase.generate)
    hypothesis_settings.register_profile(MUTANTS_PROFILE, deadline=None, phases=seen_only, database=None)
    hypothesis_settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "frazil"))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if os.environ.get("HYPOTHESIS_PROFILE") == MUTANTS_PROFILE:  # the first that fails ends it: quick ones come first
        items.sort(key=lambda item: hasattr(getattr(item, "obj", None), "hypothesis"))
    for item in items:  # for pytest-xdist: a file's tests share what is made for them, and one Slurm serves all
        group = "slurm" if "slurm" in getattr(item, "fixturenames", ()) else item.nodeid.partition("::")[0]
        item.add_marker(pytest.mark.xdist_group(group))


@pytest.fixture(scope="session")
def is_long(request: pytest.FixtureRequest) -> bool:
    """Whether the long forms of tests were asked for."""
    return bool(request.config.getoption("--long"))


@pytest.fixture(scope="session")
def repository() -> Path:
    return REPOSITORY


# --- models -----------------------------------------------------------------------------------------------------


def blob_contract(**changes: object) -> ModelContract:
    values: dict[str, object] = {
        "architecture": "blob",
        "tile_px": 32,
        "grid": 1,
        "step_px": 4.0,
        "offset_px": 15.5,
        "diameter_px": 16.0,
        "normalisation": "flat-01",
        "contrast": "dark",
        "threshold": 0.5,
        "training_set_sha256": "none",
        "validation": "{}",
    }
    return ModelContract(**(values | changes))  # type: ignore[arg-type]


def blob_onnx(
    contract: ModelContract, *, sign: float = -1.0, bias: float = -6.0, open_sides: bool = False
) -> onnx.ModelProto:
    """A real ONNX model that scores how much a dark disc of the trained diameter stands at each grid point.

    With open sides it takes tiles of any height and width.
    """
    t, g = contract.tile_px, contract.grid
    tile, scores = (["h", "w"], ["gy", "gx"]) if open_sides else ([t, t], [g, g])
    side = t if g == 1 else int(2 * contract.offset_px) + 1
    y, x = np.mgrid[:side, :side] - (side - 1) / 2
    r = np.hypot(y, x) / (contract.diameter_px / 2)
    disc, ring = r <= 1, (r > 1.1) & (r <= 1.9)
    kernel = disc / disc.sum() - ring / max(1, ring.sum())
    weight = (sign * 40 * kernel).astype(np.float32).reshape(1, 1, side, side)
    step = 1 if g == 1 else int(contract.step_px)
    return convolution_onnx(contract, "blob", weight, bias, step, tile, scores)


def convolution_onnx(
    contract: ModelContract,
    name: str,
    weight: NDArray[np.float32],
    bias: float,
    step: int,
    tile: Sequence[int | str],
    scores: Sequence[int | str],
) -> onnx.ModelProto:
    """A real ONNX model of one (1, 1, side, side) convolution and a sigmoid; sides of tiles and scores may be names."""
    nodes = [
        helper.make_node("Conv", ["tiles", "w", "b"], ["conv"], strides=[step, step]),
        helper.make_node("Squeeze", ["conv", "axes"], ["flat"]),
        helper.make_node("Sigmoid", ["flat"], ["scores"]),
    ]
    graph = helper.make_graph(
        nodes,
        name,
        [helper.make_tensor_value_info("tiles", TensorProto.FLOAT, ["n", 1, *tile])],
        [helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["n", *scores])],
        [
            numpy_helper.from_array(weight, "w"),
            numpy_helper.from_array(np.array([bias], np.float32), "b"),
            numpy_helper.from_array(np.array([1], np.int64), "axes"),
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    helper.set_model_props(model, contract.to_metadata())
    return model


@pytest.fixture(scope="session")
def make_contract() -> Callable[..., ModelContract]:
    """The blob model's contract, with changes."""
    return blob_contract


def write_version(folder: Path, version: int, model: onnx.ModelProto, scorer: onnx.ModelProto | None = None) -> Path:
    """Write a model as a version with its card; the card holds the scores of `scorer`, if that is another one."""
    t = int(next(p.value for p in model.metadata_props if p.key == "frazil.tile_px"))
    tiles = np.random.default_rng(5).random((2, 1, t, t)).astype(np.float16)
    session = ort.InferenceSession((scorer or model).SerializeToString(), providers=["CPUExecutionProvider"])
    (scores,) = session.run(["scores"], {"tiles": tiles.astype(np.float32)})
    content = model.SerializeToString()
    written = folder / str(version)
    written.mkdir(parents=True)
    (written / "model.onnx").write_bytes(content)
    card = Card(
        sha256=hashlib.sha256(content).hexdigest(),
        reference=Reference.make(tiles, scores, 1e-4),
        run={},
        validation={},
    )
    write_card(written / "card.json", card)
    return written


@pytest.fixture(scope="session")
def make_blob_model() -> Callable[..., Path]:
    """Write a blob model as a version of a model folder, with its card; the first one is what serves."""

    def make(folder: Path, version: int = 1, bias: float = -6.0, open_sides: bool = False, **changes: object) -> Path:
        write_version(folder, version, blob_onnx(blob_contract(**changes), bias=bias, open_sides=open_sides))
        if version == 1:
            (folder / "CURRENT").write_text("1\n")
        return folder

    return make


def level_onnx(contract: ModelContract, *, bias: float) -> onnx.ModelProto:
    """A real ONNX model that calls dark what lies well below the middle, wherever it is; of tiles of any side."""
    side, step = round(2 * contract.offset_px) + 1, round(contract.step_px)
    weight = np.full((1, 1, side, side), -40 / side**2, np.float32)
    return convolution_onnx(contract, "level", weight, bias, step, ["h", "w"], ["gy", "gx"])


@pytest.fixture(scope="session")
def make_junk_model() -> Callable[..., Path]:
    """Write a model that takes what is far darker than the rest for junk; the first version is what serves."""

    def make(folder: Path, version: int = 1, bias: float = 14.0, **changes: object) -> Path:
        values: dict[str, object] = {
            "architecture": "junk",
            "normalisation": "wide-01",
            "diameter_px": 8.0,
            "tile_px": 64,
            "grid": 15,
            "offset_px": 3.5,
        }
        contract = blob_contract(**(values | changes))
        write_version(folder, version, level_onnx(contract, bias=bias))
        if version == 1:
            (folder / "CURRENT").write_text("1\n")
        return folder

    return make


@pytest.fixture(scope="session")
def dark_model(tmp_path_factory: pytest.TempPathFactory, make_junk_model: Callable[..., Path]) -> Path:
    """A model folder whose model takes what is far darker than the rest for junk."""
    return make_junk_model(tmp_path_factory.mktemp("models") / "dark")


def write_twin(version: Path, *, bias: float = -6.01, **changes: object) -> Path:
    """Put another blob model beside a blob model as its int8 twin, with a card that admits it."""
    contract = read_contract(version)
    twin = blob_onnx(contract, bias=bias)
    card = read_card(version / "card.json")
    session = ort.InferenceSession(twin.SerializeToString(), providers=["CPUExecutionProvider"])
    (scores,) = session.run(["scores"], {"tiles": card.reference.tiles()})
    content = twin.SerializeToString()
    (version / "model.int8.onnx").write_bytes(content)
    described: dict[str, object] = {
        "sha256": hashlib.sha256(content).hexdigest(),
        "admitted": True,
        "made": {},
        "scores_float16": Twin.pack_scores(scores),
        "tolerance": 0.001,
        "f1": (TwinScores(folder="discs", labels=".star", decides=True, float32=0.9, int8=0.899),),
    }
    twin_of_card = Twin(**(described | changes))  # type: ignore[arg-type]
    write_card(version / "card.json", msgspec.structs.replace(card, int8=twin_of_card))
    return version


@pytest.fixture(scope="session")
def make_twin() -> Callable[..., Path]:
    """Give a blob model's version an int8 twin, as its card has it but for changes; the twin scores a little lower."""
    return write_twin


def with_extra(
    nodes: list[onnx.NodeProto], constants: dict[str, NDArray[np.generic]], model: onnx.ModelProto | None = None
) -> onnx.ModelProto:
    """A blob model that adds what these nodes compute as ``extra`` to what the network is about to score."""
    model = model or blob_onnx(blob_contract())
    model.graph.initializer.extend(numpy_helper.from_array(value, name) for name, value in constants.items())
    conv, squeeze, sigmoid = list(model.graph.node)
    squeeze.input[0] = "sum"
    del model.graph.node[:]
    add = helper.make_node("Add", ["conv", "extra"], ["sum"])
    model.graph.node.extend([conv, *nodes, add, squeeze, sigmoid])
    return model


def counting(step: str = "one") -> onnx.GraphProto:
    """The body of a loop that adds ``step`` each time."""
    return helper.make_graph(
        [helper.make_node("Add", ["x", step], ["y"]), helper.make_node("Identity", ["go"], ["on"])],
        "body",
        [
            helper.make_tensor_value_info("i", TensorProto.INT64, []),
            helper.make_tensor_value_info("go", TensorProto.BOOL, []),
            helper.make_tensor_value_info("x", TensorProto.FLOAT, [1]),
        ],
        [
            helper.make_tensor_value_info("on", TensorProto.BOOL, []),
            helper.make_tensor_value_info("y", TensorProto.FLOAT, [1]),
        ],
    )


def endless() -> onnx.ModelProto:
    constants = {"times": np.array(2**60), "one": np.ones(1, np.float32), "none": np.zeros(1, np.float32)}
    return with_extra([helper.make_node("Loop", ["times", "", "none"], ["extra"], body=counting())], constants)


def write_looping_model(folder: Path, times: int, low: float, high: float) -> Path:
    """A good model that counts to ``times`` first whenever the mean square of its tiles lies between two bounds.

    That of zeros, with which a model warms up, is 0; of the card's random tiles 0.33; of a micrograph's about 0.27.
    """
    nodes = [
        helper.make_node("Mul", ["tiles", "tiles"], ["squares"]),
        helper.make_node("ReduceMean", ["squares"], ["power"], keepdims=0),
        helper.make_node("Greater", ["power", "low"], ["above"]),
        helper.make_node("Less", ["power", "high"], ["below"]),
        helper.make_node("And", ["above", "below"], ["between"]),
        helper.make_node("Where", ["between", "often", "never"], ["times"]),
        helper.make_node("Loop", ["times", "", "none"], ["extra"], body=counting("none")),
    ]
    constants = {
        "often": np.array(times),
        "never": np.array(0),
        "none": np.zeros(1, np.float32),
        "low": np.array(low, np.float32),
        "high": np.array(high, np.float32),
    }
    write_version(folder, 1, with_extra(nodes, constants))
    (folder / "CURRENT").write_text("1\n")
    return folder


@pytest.fixture(scope="session")
def make_looping_model() -> Callable[[Path, int, float, float], Path]:
    return write_looping_model


def write_greedy_model(folder: Path, version: int, floats_per_pixel: int) -> Path:
    """A good model of open sides that fills so many floats for each pixel of a batch."""
    nodes = [
        helper.make_node("Size", ["tiles"], ["pixels"]),
        helper.make_node("Mul", ["pixels", "each"], ["floats"]),
        helper.make_node("ConstantOfShape", ["floats"], ["all"]),
        helper.make_node("ReduceMax", ["all"], ["extra"], keepdims=0),
    ]
    contract = blob_contract(tile_px=63, grid=16, step_px=2.0, offset_px=16.0)
    model = with_extra(nodes, {"each": np.array([floats_per_pixel])}, blob_onnx(contract, open_sides=True))
    write_version(folder, version, model)
    if version == 1:
        (folder / "CURRENT").write_text("1\n")
    return folder


@pytest.fixture(scope="session")
def make_greedy_model() -> Callable[[Path, int, int], Path]:
    return write_greedy_model


def outside() -> onnx.ModelProto:
    model = blob_onnx(blob_contract())
    weight = next(w for w in model.graph.initializer if w.name == "w")
    length = len(weight.raw_data)
    weight.ClearField("raw_data")
    weight.data_location = TensorProto.EXTERNAL
    for key, value in {"location": "../../weights.bin", "offset": "0", "length": str(length)}.items():
        weight.external_data.add(key=key, value=value)
    return model


def with_metadata(key: str, value: str) -> onnx.ModelProto:
    model = blob_onnx(blob_contract())
    helper.set_model_props(model, {p.key: value if p.key == key else p.value for p in model.metadata_props})
    return model


def reseal(version: Path, content: bytes) -> None:
    """Change the file and let the card vouch for it."""
    (version / "model.onnx").write_bytes(content)
    card = msgspec.json.decode((version / "card.json").read_bytes(), type=Card)
    write_card(version / "card.json", msgspec.structs.replace(card, sha256=hashlib.sha256(content).hexdigest()))


def spoil(kind: str, folder: Path, version: int) -> None:
    """Write a version that is bad in one way."""
    good = blob_onnx(blob_contract())
    content = good.SerializeToString()
    models: dict[str, Callable[[], onnx.ModelProto]] = {
        "not a number": lambda: blob_onnx(blob_contract(), bias=float("nan")),
        "other scores": lambda: blob_onnx(blob_contract(), bias=-5.9),
        "other shapes": lambda: with_metadata("frazil.tile_px", "30"),
        "other contract": lambda: with_metadata("frazil.contract", "2"),
        "unknown normalisation": lambda: with_metadata("frazil.normalisation", "flat-99"),
        "weights outside": outside,
        "endless": endless,
        # The quotient does not fit: the processor stops the process.
        "crash": lambda: with_extra(
            [helper.make_node("Div", ["least", "minus"], ["q"]), helper.make_node("Cast", ["q"], ["extra"], to=1)],
            {"least": np.array(-(2**63)), "minus": np.array(-1)},
        ),
        "too much memory": lambda: with_extra(
            [
                helper.make_node("ConstantOfShape", ["huge"], ["all"]),
                helper.make_node("ReduceMax", ["all"], ["extra"], keepdims=0),
            ],
            {"huge": np.array([10**5, 10**6])},
        ),
        "foreign operator": lambda: with_extra(
            [helper.make_node("Gelu", ["b"], ["extra"], domain="com.microsoft")], {}
        ),
        "unknown operator": lambda: with_extra([helper.make_node("Frobnicate", ["b"], ["extra"])], {}),
    }
    written = write_version(folder, version, good)
    file, card = written / "model.onnx", written / "card.json"
    if kind in models:
        reseal(written, models[kind]().SerializeToString())
    elif kind == "no folder":
        shutil.rmtree(written)
    elif kind == "no file":
        file.unlink()
    elif kind == "no card":
        card.unlink()
    elif kind == "torn card":
        card.write_bytes(card.read_bytes()[:-200])
    elif kind == "torn file":
        file.write_bytes(content[: len(content) // 2])
    elif kind == "torn, and its card agrees":
        reseal(written, content[: len(content) // 2])
    elif kind == "changed byte":
        file.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    elif kind == "empty":
        reseal(written, b"")
    elif kind == "no onnx":
        reseal(written, b"plain text " * 100)
    else:
        raise AssertionError(kind)


BAD_MODELS = {
    "no folder": "missing",
    "no file": "missing",
    "no card": "card",
    "torn card": "card",
    "torn file": "hash",
    "torn, and its card agrees": "not_onnx",
    "changed byte": "hash",
    "empty": "not_onnx",
    "no onnx": "not_onnx",
    "other contract": "contract",
    "unknown normalisation": "contract",
    "other shapes": "shapes",
    "weights outside": "external_data",
    "foreign operator": "operators",
    "unknown operator": "unfit",
    "not a number": "not_finite",
    "other scores": "reference",
    "too much memory": "memory",
    "crash": "crash",
    "endless": "hang",
}
"""Ways for a model to be bad, and the reason by which each is refused."""


@pytest.fixture(scope="session")
def bad_models() -> dict[str, str]:
    return BAD_MODELS


@pytest.fixture(scope="session")
def spoil_model() -> Callable[[str, Path, int], None]:
    """Write a version that is bad in one of the ways of `bad_models`."""
    return spoil


@pytest.fixture(params=list(BAD_MODELS))
def bad_model(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[Path, str]:
    """A version's folder that is bad in some way, and the reason by which it is to be refused."""
    spoil(request.param, tmp_path / "bad", 1)
    return tmp_path / "bad" / "1", BAD_MODELS[request.param]


@pytest.fixture(scope="session")
def blob_model(tmp_path_factory: pytest.TempPathFactory, make_blob_model: Callable[..., Path]) -> Path:
    """A model folder whose window model finds dark discs."""
    return make_blob_model(tmp_path_factory.mktemp("models") / "blob")


# --- micrographs ------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Scene:
    """A synthetic micrograph of dark discs, and where they are."""

    pixels: NDArray[np.float32]
    truth: Picks
    diameter_px: float


def draw_scene(shape: tuple[int, int] = (320, 448), diameter_px: float = 24.0, count: int = 12, seed: int = 0) -> Scene:
    """Noise around 100 with discs 3 standard deviations darker, none near another or an edge."""
    rng = np.random.default_rng(seed)
    h, w = shape
    pixels = rng.normal(100, 10, shape).astype(np.float32)
    centres: list[tuple[float, float]] = []
    while len(centres) < count:
        y, x = rng.uniform(diameter_px, h - diameter_px), rng.uniform(diameter_px, w - diameter_px)
        if all(np.hypot(y - a, x - b) > 2 * diameter_px for a, b in centres):
            centres.append((y, x))
    rows, columns = np.mgrid[:h, :w]
    for y, x in centres:
        pixels[np.hypot(rows - y, columns - x) <= diameter_px / 2] -= 30
    found = np.array(centres).reshape(-1, 2)
    return Scene(
        pixels=pixels,
        truth=Picks(y=found[:, 0], x=found[:, 1], score=np.ones(count)),
        diameter_px=diameter_px,
    )


@pytest.fixture(scope="session")
def make_scene() -> Callable[..., Scene]:
    return draw_scene


@pytest.fixture(scope="session")
def write_mrc() -> Callable[..., Path]:
    """Write an array as an MRC file with mrcfile itself."""

    def write(path: Path, pixels: NDArray[np.generic], pixel_size: float = 2.0) -> Path:
        with mrcfile.new(path, overwrite=True) as mrc:
            mrc.set_data(pixels)
            mrc.voxel_size = pixel_size
        return path

    return write


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Real micrographs; they stand beside the checkout where frazil is developed, and in CI."""
    if not (SHARED_DATA / "prepare.py").is_file():
        if os.environ.get("CI") == "true":
            pytest.fail(f"{SHARED_DATA} is missing, and CI must not skip what needs it")
        pytest.skip(f"needs the real micrographs in {SHARED_DATA}, which are not part of the repository")
    return SHARED_DATA


@pytest.fixture(scope="session")
def real_micrographs(shared_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder with beta-galactosidase/*.mrc and apoferritin/*.mrc, labels beside them."""
    out = tmp_path_factory.mktemp("real")
    subprocess.run(
        [sys.executable, shared_data / "prepare.py", out], check=True, capture_output=True, text=True, timeout=120
    )
    return out


@pytest.fixture(scope="session")
def find_prometheus() -> Callable[[str], str]:
    """Find ``prometheus`` or ``promtool``, which Debian's package prometheus brings."""

    def find(program: str) -> str:
        if (found := shutil.which(program)) is None:
            if os.environ.get("CI") == "true":
                pytest.fail(f"{program} is missing, and CI must not skip what needs it")
            pytest.skip(f"needs {program}: install Debian's prometheus, or Prometheus' own release, on the PATH")
        return found

    return find


# --- documents --------------------------------------------------------------------------------------------------


def document(path: str, *, epoch: str = "", seq: int = 0) -> MicrographDocument:
    return MicrographDocument(
        epoch=epoch,
        seq=seq,
        micrograph=Path(path).name,
        path=path,
        shape=(4, 6),
        pixel_size_angstrom=1.0,
        diameter_px=2.0,
        model=ModelIdentity(name="m", version=1, sha256=""),
        threshold=0.5,
        picks=PickColumns(y=[1.0], x=[2.0], score=[0.9]),
        seconds=Seconds(read=0, prepare=0, infer=0, peaks=0, total=0),
    )


@pytest.fixture(scope="session")
def make_document() -> Callable[..., MicrographDocument]:
    """A document with one pick."""
    return document


# --- the stream -------------------------------------------------------------------------------------------------


def channel_state(file: Path, *, epoch: str = "", generation: str = "", **changes: object) -> ChannelState:
    state = ChannelState(
        number=1,
        session="",
        ledger=bytes(file),
        epoch=epoch,
        generation=generation,
        since=1,
        published=0,
        live=True,
    )
    return msgspec.structs.replace(state, **changes)


@pytest.fixture(scope="session")
def make_channel() -> Callable[..., ChannelState]:
    """Makes what the process of the sockets knows of a channel, from a ledger's file."""
    return channel_state


class LedgerStream:
    """A real ledger and the stream that publishes it: one of its own, or that of another session."""

    def __init__(
        self, folder: Path, *, session: str = "", beside: LedgerStream | None = None, **options: object
    ) -> None:
        self.ledger = Ledger(folder / "ledger.sqlite")
        self.metrics = beside.metrics if beside else Metrics(prometheus_client.CollectorRegistry())
        try:
            self.stream = (
                beside.stream
                if beside
                else Stream(
                    str(options.pop("address", "tcp://127.0.0.1:0")),
                    metrics=self.metrics,
                    **options,  # type: ignore[arg-type]
                )
            )
        except FrazilError:
            self.ledger.close()
            raise
        self.channel = self.stream.add(
            session,
            ledger=self.ledger.file,
            epoch=self.ledger.epoch,
            generation=self.ledger.generation,
            published=self.ledger.head,
        )

    @property
    def address(self) -> str:
        return self.stream.address

    def commit(self, name: str, **changes: object) -> NumberedDocument:
        """Commit and publish the picks of a micrograph."""
        made: list[NumberedDocument] = []

        def body_at(epoch: str, seq: int, _: int) -> bytes:
            one = in_session(document(f"/data/{name}", epoch=epoch, seq=seq), self.channel.session)
            made.append(msgspec.structs.replace(one, **changes))
            return encode_document(made[0])

        self._publish(*self.ledger.commit_picked(name, HANDLED, body_at), made[0])
        return made[0]

    def commit_failed(self, name: str) -> NumberedDocument:
        made: list[NumberedDocument] = []

        def body_at(epoch: str, seq: int) -> bytes:
            made.append(failed_document(name, epoch=epoch, seq=seq))
            return encode_document(made[0])

        self._publish(
            self.ledger.commit_failed(name, HANDLED, "truncated", "too short", "quarantined", body_at),
            encode_document(made[0]),
            made[0],
        )
        return made[0]

    def _publish(self, seq: int, body: bytes, document: NumberedDocument) -> None:
        self.channel.publish(seq, topic_of(document), body)

    def wait_published(self) -> None:
        """Wait until all that was committed has been sent to whoever was there."""
        with zmq.Context() as context, context.socket(zmq.SUB) as socket:
            socket.connect(self.address)
            socket.subscribe(b"heartbeat")
            deadline = time.monotonic() + 30
            while socket.poll(1000 * max(0.0, deadline - time.monotonic())):
                heartbeat = decode_document(socket.recv_multipart()[1])
                if (heartbeat.epoch, heartbeat.seq) == (self.ledger.epoch, self.ledger.head):
                    return
        pytest.fail("not everything was published")

    def wait_sample(self, name: str, value: float, **labels: str) -> None:
        """Wait until a metric has a value, of which the process of the sockets tells a moment later."""
        deadline = time.monotonic() + 30
        while (found := self.sample(name, **labels)) != value:
            if time.monotonic() > deadline:
                pytest.fail(f"{name} is {found}, not {value}")
            time.sleep(0.01)

    def sample(self, name: str, **labels: str) -> float:
        return self.metrics.registry.get_sample_value(name, labels) or 0.0

    def close(self) -> None:
        self.stream.close()
        self.ledger.close()


HANDLED = Handled(stamp=FileStamp(size=1, mtime_ns=1), fingerprint="")


def failed_document(name: str, *, epoch: str, seq: int) -> FailedDocument:
    return FailedDocument(
        epoch=epoch,
        seq=seq,
        micrograph=name,
        path=f"/data/{name}",
        reason="truncated",
        message="too short",
        kind="permanent",
        failed_at="2026-11-22T12:00:00.000+00:00",
    )


@pytest.fixture
def open_stream() -> Iterator[Callable[..., LedgerStream]]:
    """Open ledgers, each in a folder of its own name, with their streams; they are closed when the test ends."""
    in_memory = Path("/dev/shm")  # thousands of durable commits take minutes on a busy disk
    with contextlib.ExitStack() as stack:
        top = stack.enter_context(tempfile.TemporaryDirectory(dir=in_memory if in_memory.is_dir() else None))

        def start(folder: str = "session", **options: object) -> LedgerStream:
            (Path(top) / folder).mkdir(exist_ok=True)
            opened = LedgerStream(Path(top) / folder, **options)
            stack.callback(opened.close)
            return opened

        yield start


# --- the daemon -------------------------------------------------------------------------------------------------


@dataclass(kw_only=True)
class RunningDaemon:
    """A real ``frazil serve`` in a process of its own."""

    process: subprocess.Popen[str]
    watched: Path
    out: Path
    reader: threading.Thread = field(init=False)
    """Reads its log; ends with the process."""
    stream: str = ""
    metrics: str = ""
    page: str = ""
    log: list[str] = field(default_factory=list)
    changed: threading.Condition = field(default_factory=threading.Condition)

    def wait_log(self, pattern: str, timeout: float = PATIENCE_SECONDS) -> re.Match[str]:
        """Wait for a line of the log that matches; fail with the log when none comes."""
        found: list[re.Match[str]] = []

        def seen() -> bool:
            found.extend(m for line in self.log if (m := re.search(pattern, line)))
            return bool(found) or self.process.poll() is not None

        with self.changed:
            self.changed.wait_for(seen, timeout)
            seen()
        if not found:
            pytest.fail(f"no line matches {pattern!r} in the daemon's log:\n" + "".join(self.log))
        return found[0]

    def stop(self, number: signal.Signals = signal.SIGTERM, timeout: float = PATIENCE_SECONDS) -> int:
        """Send a signal and wait for the end; the exit status."""
        self.process.send_signal(number)
        return self.process.wait(timeout)


@pytest.fixture
def serve(tmp_path: Path) -> Iterator[Callable[..., RunningDaemon]]:
    """Start daemons; they are stopped when the test ends.

    Unless asked otherwise, the model's own threshold holds, junk is not looked for, and nothing is assessed: numbers
    are those of picks.
    """
    with contextlib.ExitStack() as stack:

        def start(
            *options: str | Path,
            watched: Path | None = None,
            out: Path | None = None,
            prefix: Sequence[str | Path] = (),
            env: Mapping[str, str] | None = None,
        ) -> RunningDaemon:
            watched = watched or tmp_path / "watched"
            out = out or tmp_path / "out"
            watched.mkdir(exist_ok=True)
            command = [BIN / "frazil", "serve", "--watch", watched, "--out", out, "--device", "cpu"]
            command += ["--publish", "tcp://127.0.0.1:0", "--http", "127.0.0.1:0"]
            command += ["--no-choose-threshold", "--no-find-junk", "--no-assess", *map(str, options)]
            process = subprocess.Popen(
                [str(c) for c in (*prefix, *command)],
                stderr=subprocess.PIPE,
                text=True,
                env=os.environ | dict(env or {}),
            )
            daemon = RunningDaemon(process=process, watched=watched, out=out)
            daemon.reader = threading.Thread(target=follow, args=(daemon,))
            daemon.reader.start()

            def end() -> None:
                if process.poll() is None:
                    process.kill()
                process.wait()
                daemon.reader.join()

            stack.callback(end)
            ready = daemon.wait_log(r"ready after .* publishing on (\S+), metrics on ([^\s,]+), page on (\S+)")
            daemon.stream, daemon.metrics, daemon.page = ready[1], ready[2], ready[3]
            return daemon

        yield start


def follow(daemon: RunningDaemon) -> None:
    assert daemon.process.stderr is not None
    with daemon.process.stderr:
        for line in daemon.process.stderr:
            with daemon.changed:
                daemon.log.append(line)
                daemon.changed.notify_all()
    daemon.process.wait()
    with daemon.changed:
        daemon.changed.notify_all()


# --- faults -----------------------------------------------------------------------------------------------------


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Callable[..., Path]]:
    """Mount a small disk of its own (tmpfs); its size in KiB."""
    with contextlib.ExitStack() as stack:

        def mount(name: str, kilobytes: int) -> Path:
            folder = tmp_path / name
            folder.mkdir()
            done = subprocess.run(
                ["mount", "-t", "tmpfs", "-o", f"size={kilobytes}k", "none", folder], capture_output=True, check=False
            )
            if done.returncode:
                pytest.skip("needs the right to mount a file system, as root has it")
            stack.callback(lambda: subprocess.run(["umount", "-l", folder], check=False))
            return folder

        yield mount


# --- what programs do, as the kernel sees it --------------------------------------------------------------------

CALLS = (
    "bind,connect,sendto,sendmsg,sendmmsg,open,openat,openat2,creat,mkdir,mkdirat,"
    "rename,renameat,renameat2,link,linkat,symlink,symlinkat"
)
SYSTEM_PATHS = ("/dev/null", "/dev/shm/", "/dev/tty", "/proc/self/", "/proc/thread-self/", "/run/systemd/")


class Traced:
    """Programs under strace, in a home and with temporary files of their own, and what they did."""

    def __init__(self, folder: Path) -> None:
        self.home, self.temporary, self.record = folder / "home", folder / "temporary", folder / "calls"
        self.home.mkdir(parents=True)
        self.temporary.mkdir()
        self.prefix = [
            "strace",
            "-D",
            "-f",
            "--seccomp-bpf",
            "-qqq",
            "-y",
            "-s",
            "200",
            "-e",
            f"trace={CALLS}",
            "-e",
            "signal=none",
        ]
        self.prefix += ["-o", str(self.record)]
        if shutil.which("strace") is None:
            self.prefix = []
        self.environment = {
            "HOME": str(self.home),
            "TMPDIR": str(self.temporary),
            "PYTHONDONTWRITEBYTECODE": "1",
            # Only frazil's own setting counts: ONNX Runtime is silent by itself where it takes a machine for a CI.
            "ORT_DISABLE_TELEMETRY": "0",
            "CI": "",
            **{f"XDG_{kind}_HOME": "" for kind in ("CACHE", "CONFIG", "DATA", "STATE")},
        }

    def run(self, *command: object) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [*self.prefix, *map(str, command)],
            env=os.environ | self.environment,
            capture_output=True,
            text=True,
            timeout=170,
            check=True,
        )

    def check(self, *folders: Path) -> None:
        """See that nothing was connected to but this machine, and nothing written but below these folders."""
        if not self.prefix:
            if os.environ.get("CI") == "true":
                pytest.fail("strace is missing, and CI must not skip what needs it")
            pytest.skip("needs strace, to see what programs connect to and write")
        text = self._read()
        assert "openat(" in text or "open(" in text, "strace recorded nothing"
        foreign = [line for line in text.splitlines() if is_foreign(line)]
        assert not foreign, "\n".join(foreign[:5])
        allowed = (*map(str, folders), str(self.temporary), *SYSTEM_PATHS)
        strange = [path for path in written(text) if not path.startswith(allowed)]
        assert not strange, strange
        assert not any(self.home.rglob("*"))

    def _read(self) -> str:
        """The record, once strace, which ends after what it traced, has written all of it."""
        size = -1
        while size != (size := self.record.stat().st_size):
            time.sleep(0.05)
        return self.record.read_text("utf-8", "replace")


def is_foreign(call: str) -> bool:
    """Whether a call is to another machine, or to what finds one by its name."""
    if "sa_family=AF_INET" in call:
        address = re.search(r'inet_addr\("([^"]+)"\)|inet_pton\(AF_INET6, "([^"]+)"', call)
        port = re.search(r"port=htons\((\d+)\)", call)
        assert address is not None, call
        assert port is not None, call
        return (address[1] or address[2]) not in ("127.0.0.1", "::1") or port[1] == "53"
    return "resolve" in call and "sa_family=AF_UNIX" in call


def written(text: str) -> Iterator[str]:
    """Paths that were made or opened to be written."""
    for line in text.splitlines():
        call = re.match(r"\d+ +(\w+)\((.*)", line)
        if call is None or " = -1 " in line:
            continue
        name, arguments = call[1], call[2]
        if name.startswith("open") and not re.search(r"O_WRONLY|O_RDWR|O_CREAT", arguments):
            continue
        if name.startswith(("open", "creat", "mkdir", "rename", "link", "symlink")):
            for folder, path in re.findall(r'(?:(?:AT_FDCWD|\d+)<([^>]*)>, )?"([^"]*)"', arguments):
                yield path if path.startswith("/") else f"{folder}/{path}"


@pytest.fixture(scope="session")
def trace_calls() -> type[Traced]:
    """Watch programs in a folder. Where there is no strace they run all the same, and the check is skipped."""
    return Traced


# --- metrics ----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def exported_metrics() -> dict[str, tuple[str, list[str]]]:
    """Type and labels of each metric by its name."""
    exported = {}
    for collector in Metrics(prometheus_client.CollectorRegistry()).registry._collector_to_names:
        for family in collector.collect():
            name = family.name + ("_total" if family.type == "counter" else "")
            source = family if hasattr(family, "_labelnames") else collector
            exported[name] = (family.type, list(source._labelnames))  # type: ignore[attr-defined]
    return exported


# --- the page ---------------------------------------------------------------------------------------------------


@dataclass(kw_only=True)
class OpenPage:
    """The page over a real ledger, without a daemon."""

    ledger: Ledger
    state: DaemonState = field(default_factory=DaemonState)
    """What the page is told of the daemon."""
    server: PageServer = field(init=False)
    token: str = field(init=False)

    @property
    def url(self) -> str:
        """Without the slash at its end."""
        return self.server.url.rstrip("/")

    @property
    def address(self) -> tuple[str, int]:
        host, _, port = self.url.removeprefix("http://").rpartition(":")
        return host, int(port)


@dataclass(frozen=True)
class OnlySession:
    """What a page asks of a daemon with one session."""

    page: OpenPage
    default_name: str = ""

    @property
    def all_states(self) -> tuple[SessionState, ...]:
        return self.page.state.sessions

    def ledger_file(self, name: str) -> Path | None:
        return None if name else self.page.ledger.file

    def read_micrograph(self, path: Path) -> Micrograph:
        return read_micrograph(path)

    def settings_of(self, name: str) -> dict[str, Any] | None:
        return None if name else {}

    def change(self, name: str, wish: Wish | None, settings: Mapping[str, Any], *, repick: bool = False) -> None:
        raise AssertionError("nobody wishes anything here")


@pytest.fixture
def open_page(tmp_path: Path) -> Iterator[Callable[..., OpenPage]]:
    """Serve the page over the ledger in a folder; it is closed when the test ends."""
    with contextlib.ExitStack() as stack:

        def start(folder: Path = tmp_path, names: Sequence[str] = ()) -> OpenPage:
            page = OpenPage(ledger=Ledger(folder / "ledger.sqlite"))
            stack.callback(page.ledger.close)
            application = Application(
                Metrics(prometheus_client.CollectorRegistry(), lambda: page.state).registry,
                lambda: page.state,
                OnlySession(page),
                names=list(names),
                token_file=folder / TOKEN_NAME,
            )
            page.server = PageServer("127.0.0.1:0", application, allow_others=False)
            stack.callback(page.server.close)
            page.token = (folder / TOKEN_NAME).read_text().strip()
            return page

        yield start


# --- corrections ------------------------------------------------------------------------------------------------

FIRST_PLACES = [(40.0, 40.0 + 40 * column) for column in range(4)]


class Unheard:
    session = ""

    def publish(self, seq: int, topic: bytes, body: bytes) -> None: ...


class CorrectionRig:
    """A ledger with what commits to it and grants edits, as a daemon has them."""

    def __init__(self, folder: Path, ledger: Ledger | None = None) -> None:
        self.folder, self.file = folder, folder / "ledger.sqlite"
        self.open(ledger)

    def open(self, ledger: Ledger | None = None) -> None:
        self.ledger = ledger or Ledger(self.file)
        metrics = Metrics(prometheus_client.CollectorRegistry())
        self.outbox = Outbox(self.ledger, Unheard(), metrics, self.folder, self.folder / "out", threading.Event())
        self.reviser = Reviser(self.ledger, self.outbox, PickingSettings(diameter_angstrom=80))
        self.granter = Granter(self.ledger, self.outbox, self.reviser)

    def pick(self, key: str = "a.mrc", at: Sequence[tuple[float, float]] = FIRST_PLACES, **changes: object) -> int:
        y, x = ([float(place[i]) for place in at] for i in range(2))
        given = {"shape": (400, 500), "diameter_px": 40.0, "picks": PickColumns(y=y, x=x, score=[0.5] * len(y))}
        one = msgspec.structs.replace(
            document(str(self.folder / key)), directory=directory_of(key), **{**given, **changes}
        )
        return self.outbox.commit(one, key=key, handled=Handled(stamp=FileStamp(size=1, mtime_ns=1), fingerprint="f"))

    def leave(self, *kinds: tuple[type[Any], dict[str, Any]], key: str = "a.mrc", first: int = 0) -> None:
        edits = [kind(id=f"edit-{first + i:05}", path=key, **values) for i, (kind, values) in enumerate(kinds)]
        left = leave_edits(self.file, edits, by="Ada")
        assert left.refused == []

    def grant(self) -> None:
        """Until none waits."""
        while (key := self.ledger.next_to_correct()) is not None:
            self.granter.grant_next()
            assert self.ledger.next_to_correct() != key

    def newest(self, key: str = "a.mrc") -> MicrographDocument:
        kept = self.ledger.result(key)
        assert kept is not None
        newest = decode_document(kept.body)
        assert isinstance(newest, MicrographDocument)
        return newest

    def star(self) -> set[tuple[float, float]]:
        picks = read_star(self.folder / "out" / "a_picks.star")
        return set(zip(picks.y.tolist(), picks.x.tolist(), strict=True))

    def close(self) -> None:
        self.reviser.close()
        self.ledger.close()


@pytest.fixture
def open_rig(tmp_path: Path) -> Iterator[Callable[..., CorrectionRig]]:
    """A ledger with what commits to it and grants edits; with that of a page, it is closed with the page."""
    with contextlib.ExitStack() as stack:

        def start(ledger: Ledger | None = None, folder: Path = tmp_path) -> CorrectionRig:
            made = CorrectionRig(folder, ledger)
            stack.callback(made.close if ledger is None else made.reviser.close)
            return made

        yield start
