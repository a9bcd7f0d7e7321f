"""Runs: killed and gone on with, shared by processes, with a disk that is full, and as TensorBoard sees them."""

from __future__ import annotations

import contextlib
import os
import re
import resource
import struct
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import cv2
import msgspec
import numpy as np
import pytest
import torch
from msgspec.structs import replace
from tensorboardX.proto.event_pb2 import Event
from tensorboardX.record_writer import masked_crc32c

from frazil.errors import FrazilError, OutputError, SettingsError
from frazil_trainer.cli import main
from frazil_trainer.networks import make_network
from frazil_trainer.recipe import AdamW, DrawnCrops, FcnSettings, MlpSettings, Patches, Recipe
from frazil_trainer.training.loop import Checkpoints, train
from frazil_trainer.training.run_folder import RunFolder
from frazil_trainer.training.windows import DrawnCropSource

pytestmark = [pytest.mark.trainer, pytest.mark.timeout(600)]

Write = Callable[[Path, Recipe], Path]
ENVIRONMENT = os.environ | {"OMP_WAIT_POLICY": "PASSIVE", "COLUMNS": "200", "OMP_NUM_THREADS": "1"}
TRAIN = [sys.executable, "-c", "from frazil_trainer.cli import main; main()", "train"]


def arguments(recipe: Path, data: Path, folder: Path, *more: object) -> list[str]:
    options = {
        "--recipe": recipe,
        "--data": data,
        "--out": folder / "model",
        "--run-folder": folder / "run",
        "--threads": 1,
    }
    return [str(part) for pair in options.items() for part in pair] + ["--device", "cpu", *map(str, more)]


def run_to_end(command: list[str]) -> str:
    done = subprocess.run(command, capture_output=True, text=True, timeout=500, env=ENVIRONMENT, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout + done.stderr


def weights_of(run: Path) -> dict[str, torch.Tensor]:
    kept = torch.load(run / "checkpoint.pt", weights_only=True)
    network: dict[str, torch.Tensor] = kept["state"]["network"]
    return network


@pytest.fixture(scope="module")
def recipe(tiny_recipe: Recipe) -> Recipe:
    """One set, dropout, enough updates to be killed in."""
    return replace(tiny_recipe, data=tiny_recipe.data[:1], epochs=6)


@pytest.fixture(scope="module")
def recipe_file(recipe: Recipe, write_recipe: Write, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_recipe(tmp_path_factory.mktemp("recipe") / "recipe.toml", recipe)


@contextlib.contextmanager
def one_thread() -> Iterator[None]:
    """As the processes of these tests have: sums of one thread have one order."""
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        yield
    finally:
        torch.set_num_threads(before)


def run_here(monkeypatch: pytest.MonkeyPatch, *command: str) -> int:
    """Run ``frazil-train train`` in this process; the exit status."""
    monkeypatch.setattr(sys, "argv", ["frazil-train", "train", *command])
    with one_thread(), pytest.raises(SystemExit) as ended:
        main()
    return int(ended.value.code or 0)


@pytest.fixture(scope="module")
def whole(recipe_file: Path, simulated_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run that nobody disturbed."""
    folder = tmp_path_factory.mktemp("whole")
    with pytest.MonkeyPatch.context() as monkeypatch:
        assert run_here(monkeypatch, *arguments(recipe_file, simulated_data, folder)) == 0
    return folder


def test_a_killed_run_goes_on_to_the_same_weights(
    whole: Path, recipe_file: Path, simulated_data: Path, tmp_path: Path
) -> None:
    command = [*TRAIN, *arguments(recipe_file, simulated_data, tmp_path, "--checkpoint-minutes", 0, "--resume")]
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL, env=ENVIRONMENT)
    try:
        deadline = time.monotonic() + 300
        while not (tmp_path / "run" / "checkpoint.pt").exists():
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.005)
    finally:
        process.kill()
    assert process.wait() == -9
    kept = torch.load(tmp_path / "run" / "checkpoint.pt", weights_only=True)["state"]
    assert 0 < kept["done"] < 6 * 32
    assert not (tmp_path / "model").exists()

    said = run_to_end(command)
    assert f"going on from update {kept['done']}" in said
    resumed, expected = weights_of(tmp_path / "run"), weights_of(whole / "run")
    assert resumed.keys() == expected.keys()
    for name in expected:
        assert torch.equal(resumed[name], expected[name]), name
    results = [msgspec.json.decode((folder / "run" / "run.json").read_bytes()) for folder in (tmp_path, whole)]
    assert results[0]["epochs"] == results[1]["epochs"]
    assert results[0]["validation"] == results[1]["validation"]


def test_a_run_that_has_ended_is_not_run_again(
    whole: Path,
    recipe_file: Path,
    simulated_data: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    command = arguments(recipe_file, simulated_data, whole)
    assert run_here(monkeypatch, *command, "--resume") == 0
    assert f"wrote {whole / 'model' / '1'}" in capsys.readouterr().out
    assert sorted(p.name for p in (whole / "model").iterdir()) == [".lock", "1"]
    assert run_here(monkeypatch, *command) == 1
    said = " ".join(capsys.readouterr().err.split())
    assert "expected a folder without a run, found one; --resume goes on with it" in said


# --- what a run folder refuses -----------------------------------------------------------------------------------


def test_a_checkpoint_of_another_recipe_is_refused_with_what_changed(recipe: Recipe, tmp_path: Path) -> None:
    RunFolder(tmp_path, recipe, "ab").write_checkpoint({"done": 3})
    assert RunFolder(tmp_path, recipe, "ab").read_checkpoint() == {"done": 3}
    faster = replace(recipe, optimiser=replace(recipe.optimiser, learning_rate=0.5))
    with pytest.raises(SettingsError, match=r"optimiser\.learning_rate was 0\.02, is 0\.5; .*--run-folder"):
        RunFolder(tmp_path, faster, "ab").read_checkpoint()


def test_a_checkpoint_of_other_data_is_refused(recipe: Recipe, tmp_path: Path) -> None:
    RunFolder(tmp_path, recipe, "ab").write_checkpoint({"done": 3})
    with pytest.raises(SettingsError, match="the training micrographs or their labels have changed"):
        RunFolder(tmp_path, recipe, "cd").read_checkpoint()


class Malice:
    """What a pickle could do."""

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, ("malice-was-here",)


def test_a_checkpoint_runs_no_code(recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save(Malice(), tmp_path / "checkpoint.pt")
    with pytest.raises(FrazilError, match=r"checkpoint\.pt: expected a checkpoint, cannot read it"):
        RunFolder(tmp_path, recipe, "ab").read_checkpoint()
    assert not (tmp_path / "malice-was-here").exists()


@contextlib.contextmanager
def files_no_larger_than(size: int) -> Iterator[None]:
    """As on a disk with so much room left, the system refuses to write more."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_full_disk_is_a_clear_error_and_the_last_checkpoint_stays(recipe: Recipe, tmp_path: Path) -> None:
    folder = RunFolder(tmp_path, recipe, "ab")
    folder.write_checkpoint({"done": 20})
    message = (
        r"checkpoint\.pt: cannot be written: File too large; the previous checkpoint is intact, --resume continues"
    )
    with files_no_larger_than(50_000), pytest.raises(OutputError, match=message):
        folder.write_checkpoint({"done": 40, "network": torch.zeros(100_000)})
    assert folder.read_checkpoint() == {"done": 20}
    assert [p.name for p in tmp_path.iterdir()] == ["checkpoint.pt"]


# --- the loop's own checkpoints ----------------------------------------------------------------------------------


def test_a_loss_that_is_no_number_names_the_last_checkpoint(recipe: Recipe, disc_micrographs: Any) -> None:
    assert isinstance(recipe.network, MlpSettings)
    assert isinstance(recipe.examples, DrawnCrops)

    class Breaks(DrawnCropSource):
        """Its data turn bad in the 50th update."""

        def draw(self, update: int, examples: range) -> tuple[torch.Tensor, ...]:
            tiles, labels = super().draw(update, examples)
            return tiles * (np.nan if update == 49 else 1), labels

    examples = Breaks(recipe, recipe.network.tile_px, recipe.examples, disc_micrographs[:1], disc_micrographs[1:])
    kept: list[dict[str, Any]] = []
    checkpoints = Checkpoints(write=kept.append, every_seconds=0, file=Path("run/checkpoint.pt"))
    message = r"epoch 2, update 50, .*found nan; .*last checkpoint: the checkpoint of update 40, run/checkpoint\.pt"
    with pytest.raises(FrazilError, match=message):
        train(make_network(recipe.network, recipe.seed), examples, recipe, checkpoints=checkpoints)
    assert [state["done"] for state in kept] == [20, 32, 40]


# --- several processes -------------------------------------------------------------------------------------------


def torchrun(*command: object) -> list[str]:
    options = ("--standalone", "--nproc-per-node", 2)
    return [sys.executable, "-m", "torch.distributed.run", *map(str, options), *map(str, command)]


def test_without_dropout_two_processes_make_the_model_that_one_makes(
    recipe: Recipe, write_recipe: Write, simulated_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = write_recipe(
        tmp_path / "recipe.toml", replace(recipe, network=replace(recipe.network, dropout=0.0), epochs=3)
    )
    script = tmp_path / "frazil_train.py"
    script.write_text("from frazil_trainer.cli import main\nmain()\n")
    folders = tmp_path / "one", tmp_path / "two"
    assert run_here(monkeypatch, *arguments(file, simulated_data, folders[0])) == 0
    run_to_end(torchrun(script, "train", *arguments(file, simulated_data, folders[1])))
    one, two = (weights_of(folder / "run") for folder in folders)
    assert two.keys() == one.keys()
    for name in one:
        torch.testing.assert_close(two[name], one[name], rtol=1e-3, atol=1e-4, msg=lambda m, n=name: f"{n}: {m}")
    assert sorted(p.name for p in (folders[1] / "model").iterdir()) == [".lock", "1"]  # only one process wrote
    results = [msgspec.json.decode((folder / "run" / "run.json").read_bytes()) for folder in folders]
    assert [result["run"]["processes"] for result in results] == [1, 2]
    for a, b in zip(*(result["epochs"] for result in results), strict=True):
        assert a["loss"] == pytest.approx(b["loss"], rel=1e-3)
        assert a["accuracy"] == pytest.approx(b["accuracy"], abs=0.01)
        assert a["held_out"] == pytest.approx(b["held_out"], abs=0.01)


TRAIN_ONLY = """
import sys
from pathlib import Path
import msgspec
import torch
from rich.console import Console
from frazil_trainer.data.load import load_training_data
from frazil_trainer.networks import make_network
from frazil_trainer.recipe import read_recipe
from frazil_trainer.run import make_examples
from frazil_trainer.training.loop import train
from frazil_trainer.training.processes import join_processes

recipe, data, out = map(Path, sys.argv[1:])
torch.set_num_threads(1)
with join_processes("cpu") as processes:
    read = read_recipe(recipe)
    examples = make_examples(read, load_training_data(data, read, Console(quiet=True), force=True).micrographs)
    network = make_network(read.network, read.seed)
    history = train(network, examples, read, processes=processes)
    kept = {name: p.detach() for name, p in network.named_parameters()}, [report.loss for report in history]
    torch.save(kept, out.with_name(f"{processes.rank}.pt"))
"""


def test_two_processes_with_dropout_and_batch_normalisation_hold_the_same_weights_and_learn(
    recipe: Recipe, write_recipe: Write, simulated_data: Path, tmp_path: Path
) -> None:
    dense = replace(
        recipe,
        network=FcnSettings(widths=(4, 6, 8), dilations=(1, 2), halo_cells=6, tile_px=128),
        examples=Patches(patch_px=64, per_epoch=80),
        optimiser=AdamW(learning_rate=2e-3),
        diameter_px=16.0,
        epochs=2,
        batch=8,
    )
    script = tmp_path / "train.py"
    script.write_text(TRAIN_ONLY)
    for one in (dense, replace(recipe, epochs=2)):
        file = write_recipe(tmp_path / "recipe.toml", one)
        run_to_end(torchrun(script, file, simulated_data, tmp_path / "weights.pt"))
        (first, losses), (second, _) = (torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in (0, 1))
        for name in first:
            torch.testing.assert_close(first[name], second[name], rtol=0, atol=0)
        assert losses[-1] < losses[0]


# --- TensorBoard -------------------------------------------------------------------------------------------------


def read_events(folder: Path) -> list[Event]:
    """The events of a folder, each checked by its sums."""
    events = []
    for file in sorted(folder.glob("*tfevents*")):
        content = file.read_bytes()
        while content:
            (size,) = struct.unpack("<Q", content[:8])
            body = content[12 : 12 + size]
            assert struct.unpack("<I", content[8:12])[0] == masked_crc32c(content[:8])
            assert struct.unpack("<I", content[12 + size : 16 + size])[0] == masked_crc32c(body)
            events.append(Event.FromString(body))
            content = content[16 + size :]
    return events


def test_tensorboard_sees_losses_accuracies_rates_examples_and_thresholds(whole: Path) -> None:
    events = read_events(whole / "run" / "events")
    assert events[0].file_version == "brain.Event:2"
    scalars: dict[str, dict[int, float]] = {}
    pictures = []
    for event in events:
        for value in event.summary.value:
            if value.HasField("image"):
                pictures.append(value.image)
            else:
                scalars.setdefault(value.tag, {})[event.step] = value.simple_value
    epochs = msgspec.json.decode((whole / "run" / "run.json").read_bytes())["epochs"]
    held_out = [scalars["accuracy/held_out"][32 * (i + 1)] for i in range(6)]
    assert held_out == pytest.approx([epoch["held_out"]["held_out"] for epoch in epochs], abs=1e-6)
    assert max(scalars["loss"]) == max(scalars["accuracy/training"]) == 6 * 32
    rates = [scalars["learning_rate"][step] for step in sorted(scalars["learning_rate"])]
    assert rates == sorted(rates, reverse=True)
    assert rates[-1] == pytest.approx(0.02 / (1 + 1e-4 * 191))
    recalls = [scalars["threshold/recall"][step] for step in range(5, 100, 5)]
    assert recalls == sorted(recalls, reverse=True)
    (picture,) = pictures
    pixels = cv2.imdecode(np.frombuffer(picture.encoded_image_string, np.uint8), cv2.IMREAD_UNCHANGED)
    assert pixels.shape == (picture.height, picture.width) == (16, 16 * 16)


def test_event_files_do_not_name_the_machine(whole: Path) -> None:
    (file,) = (whole / "run" / "events").iterdir()
    assert re.fullmatch(r"events\.out\.tfevents\.\d+", file.name)
