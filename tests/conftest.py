"""What tests of every part share: small real models, synthetic and real micrographs, a running daemon."""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import mrcfile
import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from frazil.documents import MicrographDocument, ModelStamp, PickColumns, Seconds
from frazil.picking import Card, ModelContract, Picks, Reference, load_model, write_card

REPOSITORY = Path(__file__).resolve().parents[1]
SHARED_DATA = REPOSITORY.parent / "shared" / "data"
BIN = Path(sys.executable).parent


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--long", action="store_true", help="the long forms of the tests of robustness")
    parser.addoption("--report", type=Path, metavar="DIR", help="where tests of robustness write what they measured")


def pytest_configure() -> None:
    # Idle threads that spin slow everything else on two shared cores.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")


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


def blob_onnx(contract: ModelContract, *, sign: float = -1.0) -> onnx.ModelProto:
    """A real ONNX model that scores how much a dark disc of the trained diameter stands at each grid point."""
    t, g = contract.tile_px, contract.grid
    side = t if g == 1 else int(2 * contract.offset_px) + 1
    y, x = np.mgrid[:side, :side] - (side - 1) / 2
    r = np.hypot(y, x) / (contract.diameter_px / 2)
    disc, ring = r <= 1, (r > 1.1) & (r <= 1.9)
    kernel = disc / disc.sum() - ring / max(1, ring.sum())
    weight = (sign * 40 * kernel).astype(np.float32).reshape(1, 1, side, side)
    step = 1 if g == 1 else int(contract.step_px)
    nodes = [
        helper.make_node("Conv", ["tiles", "w", "b"], ["conv"], strides=[step, step]),
        helper.make_node("Squeeze", ["conv", "axes"], ["flat"]),
        helper.make_node("Sigmoid", ["flat"], ["scores"]),
    ]
    graph = helper.make_graph(
        nodes,
        "blob",
        [helper.make_tensor_value_info("tiles", TensorProto.FLOAT, ["n", 1, t, t])],
        [helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["n", g, g])],
        [
            numpy_helper.from_array(weight, "w"),
            numpy_helper.from_array(np.array([-6], np.float32), "b"),
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


@pytest.fixture(scope="session")
def make_blob_model() -> Callable[..., Path]:
    """Write a blob model as version 1 of a model folder, with its card and CURRENT."""

    def make(folder: Path, **changes: object) -> Path:
        contract = blob_contract(**changes)
        version = folder / "1"
        version.mkdir(parents=True)
        file = version / "model.onnx"
        file.write_bytes(blob_onnx(contract).SerializeToString())
        lone = folder / "reference.onnx"
        lone.write_bytes(file.read_bytes())
        tiles = np.random.default_rng(5).random((2, 1, contract.tile_px, contract.tile_px)).astype(np.float16)
        scores = load_model(lone, "cpu").score(tiles.astype(np.float32))
        lone.unlink()
        card = Card(
            sha256=hashlib.sha256(file.read_bytes()).hexdigest(),
            reference=Reference.make(tiles, scores, 1e-4),
            run={},
            validation={},
        )
        write_card(version / "card.json", card)
        (folder / "CURRENT").write_text("1\n")
        return folder

    return make


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
    found = np.array(centres)
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
        model=ModelStamp(name="m", version=1, sha256=""),
        threshold=0.5,
        picks=PickColumns(y=[1.0], x=[2.0], score=[0.9]),
        seconds=Seconds(read=0, prepare=0, infer=0, peaks=0, total=0),
    )


@pytest.fixture(scope="session")
def make_document() -> Callable[..., MicrographDocument]:
    """A document with one pick."""
    return document


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
    log: list[str] = field(default_factory=list)
    changed: threading.Condition = field(default_factory=threading.Condition)

    def wait_log(self, pattern: str, timeout: float = 30.0) -> re.Match[str]:
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

    def stop(self, number: signal.Signals = signal.SIGTERM, timeout: float = 15.0) -> int:
        """Send a signal and wait for the end; the exit status."""
        self.process.send_signal(number)
        return self.process.wait(timeout)


@pytest.fixture
def serve(tmp_path: Path) -> Iterator[Callable[..., RunningDaemon]]:
    """Start daemons; they are stopped when the test ends."""
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
            command += ["--publish", "tcp://127.0.0.1:0", "--http", "127.0.0.1:0", *options]
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
            ready = daemon.wait_log(r"ready after .* publishing on (\S+), metrics on (\S+)", 120.0)
            daemon.stream, daemon.metrics = ready[1], ready[2]
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
