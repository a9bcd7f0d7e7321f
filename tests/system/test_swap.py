"""Models swapped in a running daemon: real processes, real models, files that keep coming."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import socket
import sqlite3
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from frazil.documents import MicrographDocument, ModelDocument, decode_document
from frazil.model import ModelFolder, load_model, read_serving_records
from frazil.picking import Picker, PickingSettings, read_micrograph

pytestmark = pytest.mark.system

BIN = Path(sys.executable).parent
PATIENCE_SECONDS = 240.0
DIAMETER = 48
BLIND = -60.0
Serve = Callable[..., "RunningDaemon"]  # type: ignore[name-defined]  # noqa: F821
Blob = Callable[..., Path]
Spoil = Callable[[str, Path, int], None]


class Feeder:
    """Writes micrographs for as long as a test goes on, a few ahead of what is picked."""

    def __init__(self, daemon: RunningDaemon, contents: list[bytes]) -> None:  # type: ignore[name-defined]  # noqa: F821
        self._daemon = daemon
        self._contents = contents
        self._stop = threading.Event()
        self.written: list[str] = []
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        while not self._stop.wait(0.2):
            count = len(self.written)
            picked = sum(" picked m" in line for line in self._daemon.log)
            if count - picked < 5:
                aside = self._daemon.watched / ".aside"
                aside.write_bytes(self._contents[count % len(self._contents)])
                aside.rename(self._daemon.watched / f"m{count:04}.mrc")
                self.written.append(f"m{count:04}.mrc")

    def stop(self) -> None:
        self._stop.set()
        self._thread.join()


@pytest.fixture(scope="session")
def contents(
    make_scene: Callable[..., object], write_mrc: Callable[..., Path], tmp_path_factory: object
) -> list[bytes]:
    """A few micrographs, as files."""
    folder = tmp_path_factory.mktemp("scenes")  # type: ignore[attr-defined]
    return [
        write_mrc(folder / f"{i}.mrc", make_scene(seed=i).pixels, 2.0).read_bytes()  # type: ignore[attr-defined]
        for i in range(4)
    ]


@pytest.fixture
def feed(contents: list[bytes]) -> Iterator[Callable[..., Feeder]]:
    with contextlib.ExitStack() as stack:

        def start(daemon: RunningDaemon) -> Feeder:  # type: ignore[name-defined]  # noqa: F821
            feeder = Feeder(daemon, contents)
            stack.callback(feeder.stop)
            return feeder

        yield start


def documents_of(out: Path) -> list[MicrographDocument | ModelDocument]:
    database = sqlite3.connect(out / "frazil-ledger.sqlite")
    rows = database.execute("SELECT body FROM documents ORDER BY seq").fetchall()
    database.close()
    return [decode_document(body) for (body,) in rows]  # type: ignore[misc]


def metric(url: str, name: str) -> float:
    text = urllib.request.urlopen(url, timeout=300).read().decode()
    found = re.search(rf"^{re.escape(name)} (\S+)$", text, re.MULTILINE)
    return float(found[1]) if found else 0.0


def point_current_at(folder: Path, version: object) -> None:
    """As a careless script would, past every check."""
    aside = folder / "aside"
    aside.write_text(f"{version}\n")
    aside.rename(folder / "CURRENT")


def assert_all_picked_by_the_model_named(out: Path, written: list[str], folder: Path, watched: Path) -> None:
    picked = [d for d in documents_of(out) if isinstance(d, MicrographDocument)]
    assert sorted(d.micrograph for d in picked) == sorted(written)
    pickers = {
        version: Picker(load_model(folder / str(version), "cpu"), PickingSettings(diameter_angstrom=DIAMETER))
        for version in {d.model.version for d in picked}
    }
    for document in picked:
        picker = pickers[document.model.version]
        assert document.model.sha256 == picker.model.identity.sha256
        again = picker.pick(read_micrograph(watched / document.micrograph))
        assert document.picks.score == pytest.approx(again.score.tolist(), abs=1e-5)
        assert document.picks.x == pytest.approx(again.x.tolist(), abs=1e-3)


@pytest.mark.timeout(600)
def test_bad_models_leave_the_old_one_serving_and_a_good_one_replaces_it(
    serve: Serve,
    feed: Callable[..., Feeder],
    make_blob_model: Blob,
    spoil_model: Spoil,
    bad_models: dict[str, str],
    tmp_path: Path,
) -> None:
    folder = make_blob_model(tmp_path / "models" / "blob")
    daemon = serve("--diameter", str(DIAMETER), "--model", folder, "--model-proof", "6")
    feeder = feed(daemon)
    # The kinds that differ once a daemon is around them; test_sandbox.py refuses the others in the same process.
    kinds = ["no folder", "torn file", "not a number", "weights outside", "crash", "endless"]
    for version, kind in enumerate(kinds, start=2):
        spoil_model(kind, folder, version)
        point_current_at(folder, version)
        daemon.wait_log(rf"refused \({bad_models[kind]}\) model blob/{version} ", PATIENCE_SECONDS)
    point_current_at(folder, "\0what?")
    daemon.wait_log(r"refused \(missing\) model blob ", PATIENCE_SECONDS)
    assert metric(daemon.metrics, 'frazil_model_changes_total{event="refused",reason="crash"}') == 1
    listed = subprocess.run(
        [BIN / "frazil", "models", "list", folder.parent],
        capture_output=True,
        text=True,
        timeout=PATIENCE_SECONDS,
        check=True,
    ).stdout
    assert re.search(r"blob/6 was refused at .* \(crash\): .* ends the process", listed)
    assert re.search(r"blob/1 serves at ", listed)

    make_blob_model(folder, 20, threshold=0.8, bias=-5.0)
    ModelFolder(folder).promote(20)
    daemon.wait_log(r"model blob/20 .* serves from here on", PATIENCE_SECONDS)
    feeder.stop()
    daemon.wait_log(rf"picked {feeder.written[-1]}", PATIENCE_SECONDS)
    assert daemon.stop() == 0
    documents = documents_of(daemon.out)
    events = [(d.event, d.model.version) for d in documents if isinstance(d, ModelDocument)]
    assert events == [*(("refused", v) for v in range(2, 8)), ("refused", 0), ("loaded", 20)]
    assert [d.seq for d in documents] == list(range(1, len(documents) + 1))
    # Before its document every micrograph is the old model's, behind it every one is the new one's.
    place = next(d.seq for d in documents if isinstance(d, ModelDocument) and d.event == "loaded")
    picked = [d for d in documents if isinstance(d, MicrographDocument)]
    assert {d.model.version for d in picked if d.seq < place} == {1}
    assert {d.model.version for d in picked if d.seq > place} <= {20}
    assert_all_picked_by_the_model_named(daemon.out, feeder.written, folder, daemon.watched)
    assert "Traceback" not in "".join(daemon.log)


@pytest.mark.timeout(600)
def test_earlier_micrographs_are_picked_again_behind_new_ones_and_after_a_kill(
    serve: Serve, make_blob_model: Blob, contents: list[bytes], tmp_path: Path
) -> None:
    folder = make_blob_model(tmp_path / "models" / "blob", threshold=0.5)
    options = ("--diameter", str(DIAMETER), "--model", folder, "--repick-after-promotion")
    daemon = serve(*options)

    def write(name: str) -> None:
        (daemon.watched / ".aside").write_bytes(contents[int(name[1:5]) % len(contents)])
        (daemon.watched / ".aside").rename(daemon.watched / name)

    def newest() -> dict[str, MicrographDocument]:
        return {d.micrograph: d for d in documents_of(daemon.out) if isinstance(d, MicrographDocument)}

    names = [f"m{number:04}.mrc" for number in range(12)]
    for name in names:
        write(name)
    for name in names:
        daemon.wait_log(rf"picked {name}")
    before = newest()
    make_blob_model(folder, 2, threshold=0.8, bias=-5.0)
    ModelFolder(folder).promote(2)
    daemon.wait_log(r"model blob/2 .* serves from here on")
    daemon.wait_log(r"12 micrographs are picked again, behind all others")
    daemon.process.kill()
    daemon.process.wait()
    daemon = serve(*options)
    write("m0012.mrc")
    daemon.wait_log(r"picked m0012.mrc")
    deadline = time.monotonic() + PATIENCE_SECONDS
    while {d.model.version for d in newest().values()} != {2}:
        assert time.monotonic() < deadline
        time.sleep(0.1)
    after = newest()
    assert sorted(after) == [*names, "m0012.mrc"]
    assert {name: after[name].supersedes for name in names} == {name: before[name].seq for name in names}
    again = [d for d in documents_of(daemon.out) if isinstance(d, MicrographDocument) and d.model.version == 2]
    assert len(again) == 13  # each once
    assert daemon.stop() == 0


@pytest.mark.timeout(600)
def test_a_model_that_finds_nothing_is_rolled_back_and_does_not_come_back_with_a_restart(
    serve: Serve, feed: Callable[..., Feeder], make_blob_model: Blob, tmp_path: Path
) -> None:
    folder = make_blob_model(tmp_path / "models" / "blob")
    daemon = serve("--diameter", str(DIAMETER), "--model", folder)
    feeder = feed(daemon)
    daemon.wait_log(r"picked m0001\.mrc", PATIENCE_SECONDS)
    make_blob_model(folder, 2, bias=BLIND)
    ModelFolder(folder).promote(2)
    daemon.wait_log(r"rolled back \(few_picks\) to model blob/1 ", PATIENCE_SECONDS)
    feeder.stop()
    daemon.wait_log(rf"picked {feeder.written[-1]}", PATIENCE_SECONDS)
    assert daemon.stop() == 0
    documents = documents_of(daemon.out)
    assert [(d.event, d.model.version) for d in documents if isinstance(d, ModelDocument)] == [
        ("loaded", 2),
        ("rolled_back", 1),
    ]
    assert all(d.picks.score for d in documents if isinstance(d, MicrographDocument))

    again = serve("--diameter", str(DIAMETER), "--model", folder)
    again.wait_log(r"model blob/1 .* runs on")
    deadline = time.monotonic() + PATIENCE_SECONDS  # where it stands is posted beside the picking
    while not any(standing.refusal_of(2) for standing in read_serving_records(folder)):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    # Promoted once more, it is given another chance.
    ModelFolder(folder).promote(2)
    again.wait_log(r"model blob/2 .* serves from here on", PATIENCE_SECONDS)
    assert again.stop() == 0


def test_a_reload_while_a_promoted_model_is_tried_announces_it_once(
    serve: Serve, make_blob_model: Blob, contents: list[bytes], tmp_path: Path
) -> None:
    folder = make_blob_model(tmp_path / "models" / "blob")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
        systemd.bind(str(tmp_path / "notify"))
        systemd.settimeout(PATIENCE_SECONDS)
        daemon = serve("--diameter", str(DIAMETER), "--model", folder, env={"NOTIFY_SOCKET": str(tmp_path / "notify")})
        while b"READY=1" not in systemd.recv(4096):
            pass
        make_blob_model(folder, 2, threshold=0.6)
        point_current_at(folder, 2)
        for _ in range(2):  # the first one has the model tried at once, the second comes meanwhile
            os.kill(daemon.process.pid, signal.SIGHUP)
            while b"RELOADING=1" not in systemd.recv(4096):
                pass
        while b"READY=1" not in systemd.recv(4096):
            pass
    daemon.wait_log(r"model blob/2 .* serves from here on", PATIENCE_SECONDS)
    for k in range(2):  # a model that was offered before the first serves before the second
        (daemon.watched / f"{k}.mrc").write_bytes(contents[0])
        daemon.wait_log(rf"picked {k}\.mrc", PATIENCE_SECONDS)
    daemon.stop()
    loaded = [(d.event, d.model.version) for d in documents_of(daemon.out) if isinstance(d, ModelDocument)]
    assert loaded == [("loaded", 2)]


@pytest.mark.timeout(600)
def test_a_canary_lets_a_like_model_serve_and_keeps_an_unlike_one_out(
    serve: Serve, feed: Callable[..., Feeder], make_blob_model: Blob, tmp_path: Path
) -> None:
    folder = make_blob_model(tmp_path / "models" / "blob")
    daemon = serve("--diameter", str(DIAMETER), "--model", folder, "--canary-micrographs", "3")
    feed(daemon)
    make_blob_model(folder, 2, contrast="bright")
    ModelFolder(folder).promote(2)
    daemon.wait_log(r"refused \(canary\) model blob/2 .*: expected .* found over 3 micrographs", PATIENCE_SECONDS)
    make_blob_model(folder, 3, threshold=0.6)
    ModelFolder(folder).promote(3)
    daemon.wait_log(r"model blob/3 .* serves from here on", PATIENCE_SECONDS)
    assert metric(daemon.metrics, "frazil_canary_micrographs_total") == 6
    assert metric(daemon.metrics, "frazil_canary_agreement") > 0.9
    assert daemon.stop() == 0
    picked = [d for d in documents_of(daemon.out) if isinstance(d, MicrographDocument)]
    assert {d.model.version for d in picked} <= {1, 3}


def standing_of(out: Path) -> dict[str, object]:
    database = sqlite3.connect(out / "frazil-ledger.sqlite")
    (text,) = database.execute("SELECT value FROM meta WHERE key = 'standing'").fetchone()
    database.close()
    return json.loads(text)  # type: ignore[no-any-return]


def wait_until_tried(out: Path, version: int) -> None:
    deadline = time.monotonic() + PATIENCE_SECONDS
    while (standing_of(out).get("trying") or {}).get("version") != version:  # type: ignore[attr-defined]
        assert time.monotonic() < deadline
        time.sleep(0.05)


@pytest.mark.timeout(600)
def test_a_model_whose_trial_ends_the_daemon_is_refused_by_the_next_start(
    serve: Serve, make_blob_model: Blob, spoil_model: Spoil, tmp_path: Path
) -> None:
    folder = make_blob_model(tmp_path / "models" / "blob")
    spoil_model("endless", folder, 2)
    options = ("--diameter", str(DIAMETER), "--model", folder)
    daemon = serve(*options)
    point_current_at(folder, 2)
    wait_until_tried(daemon.out, 2)
    # Ended in order, it tries again.
    assert daemon.stop() == 0
    assert standing_of(daemon.out)["trying"] is None
    daemon = serve(*options)
    wait_until_tried(daemon.out, 2)
    # Killed, as by the kernel for lack of memory, it does not.
    daemon.process.kill()
    daemon.process.wait()
    daemon = serve(*options)
    daemon.wait_log(
        r"refused \(interrupted\) model blob/2 .*expected the daemon to survive the check of this model",
        PATIENCE_SECONDS,
    )
    assert daemon.stop() == 0
    daemon = serve(*options)
    assert daemon.stop() == 0
    changes = [d for d in documents_of(daemon.out) if isinstance(d, ModelDocument)]
    assert [(d.event, d.model.version) for d in changes] == [("refused", 2)]
    assert standing_of(daemon.out)["trying"] is None


@pytest.mark.timeout(600)
def test_a_model_that_takes_more_than_in_its_trial_does_not_serve(
    serve: Serve, make_blob_model: Blob, tmp_path: Path
) -> None:
    """As would one that behaves otherwise in the daemon: here any does, since nothing is allowed for the rest of it."""
    folder = make_blob_model(tmp_path / "models" / "blob")
    make_blob_model(folder, 2)
    (tmp_path / "sitecustomize.py").write_text(
        "import frazil.session.pick.admission as admission\nadmission._OTHERS_BYTES = -(2**40)\n"
    )
    daemon = serve("--diameter", str(DIAMETER), "--model", folder, env={"PYTHONPATH": str(tmp_path)})
    point_current_at(folder, 2)
    daemon.wait_log(r"refused \(memory\) model blob/2 .*expected to take \d+ MiB .*, as in its check", PATIENCE_SECONDS)
    assert daemon.stop() == 0


def test_a_gpu_that_is_required_and_not_there_is_a_refusal_to_start(blob_model: Path, tmp_path: Path) -> None:
    if Path("/proc/driver/nvidia").exists():
        pytest.skip("this machine has an NVIDIA driver")
    (tmp_path / "watched").mkdir()
    command = [BIN / "frazil", "serve", "--watch", tmp_path / "watched", "--out", tmp_path / "out", "--diameter", "48"]
    command += ["--publish", "tcp://127.0.0.1:0", "--http", "127.0.0.1:0", "--model", blob_model, "--require-gpu"]
    refused = subprocess.run([str(c) for c in command], capture_output=True, text=True, timeout=300)
    assert refused.returncode == 1
    assert "expected to run on a GPU, found all or most of its" in refused.stderr


@pytest.mark.timeout(900)
def test_swaps_under_load_lose_and_mix_nothing(repository: Path, tmp_path: Path, is_long: bool) -> None:
    """The short form of ``benchmarks/swap_models.py``."""
    swaps = 10 if is_long else 6
    figures = tmp_path / "figures.json"
    done = subprocess.run(
        [
            sys.executable,
            repository / "benchmarks" / "swap_models.py",
            "--swaps",
            str(swaps),
            "--size",
            "768",
            "--json",
            figures,
        ],
        capture_output=True,
        text=True,
        timeout=880,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    report = json.loads(figures.read_text())
    assert report["swaps"] == swaps
    assert report["micrographs"] >= 8 * swaps
    assert report["lost"] == report["repeated"] == report["mixed"] == 0
    assert report["memory_ratio"] < 1.1
    # Whatever else a busy machine does to every pause, a swap adds less than a micrograph's time to it.
    assert report["pause_at_swaps"]["median"] < 1


@pytest.mark.trainer
@pytest.mark.timeout(600)
def test_a_model_trained_while_files_come_replaces_the_serving_one(
    serve: Serve, feed: Callable[..., Feeder], make_blob_model: Blob, tmp_path: Path, is_long: bool
) -> None:
    """Retrain, export, promote, swap: each of them, from the same commands, has tests of its own."""
    if not is_long:
        pytest.skip("needs --long: a network is trained beside a daemon that picks")
    pytest.importorskip("torch")
    folder = make_blob_model(tmp_path / "models" / "blob")
    daemon = serve("--diameter", str(DIAMETER), "--model", folder, "--probation-micrographs", "0")
    feeder = feed(daemon)
    data = tmp_path / "data"
    frazil_train(
        "simulate",
        "--out",
        data / "sim",
        "--count",
        4,
        "--seed",
        5,
        "--size",
        512,
        "--particle",
        "ribosome",
        "--pixel-size",
        5,
    )
    train(data, folder)
    daemon.wait_log(r"model blob/2 .* serves from here on", PATIENCE_SECONDS)
    feeder.stop()
    daemon.wait_log(rf"picked {feeder.written[-1]}", PATIENCE_SECONDS)
    assert daemon.stop() == 0
    assert_all_picked_by_the_model_named(daemon.out, feeder.written, folder, daemon.watched)


RECIPE = """
seed = 11
diameter_px = 9.6
epochs = 2
batch = 64

[network]
architecture = "mlp"
tile_px = 16
stride_px = 2.4
hidden = 16
dropout = 0.1

[examples]
kind = "drawn"
per_epoch = 1024

[optimiser]
kind = "sgd"
learning_rate = 0.03

[[data]]
folder = "sim"
diameter_angstrom = 250
validation = ["simulated_0001"]
selection = ["simulated_0002"]
"""


def train(data: Path, out: Path) -> None:
    """Train on a few labelled micrographs, export and promote."""
    (data / "recipe.toml").write_text(RECIPE)
    frazil_train(
        *("train", "--recipe", data / "recipe.toml", "--data", data, "--out", out),
        *("--run-folder", data / "run", "--promote", "--threads", 1),
    )


def frazil_train(*arguments: object) -> None:
    done = subprocess.run(
        [BIN / "frazil-train", *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=300,
        env=os.environ | {"COLUMNS": "160"},
    )
    assert done.returncode == 0, done.stderr
