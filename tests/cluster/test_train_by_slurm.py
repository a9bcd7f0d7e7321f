"""Trainings in jobs of a real Slurm: several nodes, interrupted, held, cancelled, resumed."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch")

from frazil_trainer.cli import main
from frazil_trainer.simulate import SimulationSettings, density_model
from frazil_trainer.simulate.series import write_series

pytestmark = [pytest.mark.system, pytest.mark.trainer, pytest.mark.timeout(3600)]

PATIENCE_SECONDS = 600.0
RECIPE = f"""
seed = 11
diameter_px = 9.6
epochs = 2
batch = 64

[network]
architecture = "mlp"
tile_px = 16
stride_px = 3.2
hidden = 16

[examples]
kind = "drawn"
per_epoch = 1024

[optimiser]
kind = "sgd"
learning_rate = 0.03

[[data]]
folder = "sim"
diameter_angstrom = {density_model("apoferritin").diameter_angstrom}
validation = ["simulated_0001"]
selection = ["simulated_0002"]
"""


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a recipe and its training set, whose name has what a shell would take apart."""
    folder = tmp_path_factory.mktemp("some data's 5%")
    settings = SimulationSettings(shape=(384, 512), pixel_size_angstrom=3.5, model="apoferritin")
    list(write_series(folder / "sim", settings, count=3, seed=4))
    (folder / "recipe.toml").write_text(RECIPE)
    return folder


@pytest.fixture
def in_data(data: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(data)
    return data


def command(name: str, *options: object, recipe: str = "recipe.toml") -> list[str]:
    """The command of a training where the data are."""
    words = ["train", "--recipe", recipe, "--data", ".", "--out", f"models/{name}", "--threads", 1]
    return [str(word) for word in (*words, "--device", "cpu", "--force", "--cluster", "slurm", *options)]


class Ended(Exception):
    """How a command ended."""

    def __init__(self, status: object, out: str, err: str) -> None:
        self.status, self.out, self.err = status, out, err


@pytest.fixture
def train(in_data: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., Ended]:
    """Run a training's command in this process, to its end."""

    def run(*words: str) -> Ended:
        capsys.readouterr()
        monkeypatch.setattr(sys, "argv", ["frazil-train", *words])
        with pytest.raises(SystemExit) as ended:
            main()
        return Ended(ended.value.code, *capsys.readouterr())

    return run


@pytest.fixture
def on_slurm(slurm: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
    for name, value in slurm.environment.items():
        monkeypatch.setenv(name, value)
    return slurm


def write_config(folder: Path, name: str, *lines: str) -> Path:
    file = folder / name
    file.write_text("\n".join(('[cluster]\nqueue = "night"\nwalltime = "01:00:00"\nmemory = "1GB"', *lines)))
    return file


def follow(words: list[str]) -> subprocess.Popen[str]:
    """The command in a process of its own."""
    program = [sys.executable, "-m", "frazil_trainer", *words]
    return subprocess.Popen(program, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def wait_for(what: Callable[[], Any], process: subprocess.Popen[str] | None = None) -> Any:
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not (found := what()):
        assert time.monotonic() < deadline
        assert process is None or process.poll() is None, process.communicate()
        time.sleep(0.1)
    return found


@pytest.fixture
def later() -> Iterator[Callable[[Callable[[], Any]], None]]:
    """Do something beside the test; it is waited for."""
    threads: list[threading.Thread] = []

    def start(action: Callable[[], Any]) -> None:
        threads.append(threading.Thread(target=action))
        threads[-1].start()

    yield start
    for thread in threads:
        thread.join()


def test_a_training_on_two_nodes_goes_on_alone_and_is_found_again(
    on_slurm: Any, train: Callable[..., Ended], in_data: Path, later: Callable[..., None]
) -> None:
    config = write_config(in_data, "held.toml", 'directives = ["--hold"]', 'interface = "lo"')
    words = command("two", "--nodes", 2, "--processes-per-node", 1, "--config", config, "--promote")
    with follow(words) as first:
        assert first.stderr is not None
        number = re.fullmatch(r"job (\d+), its log is .*\n", first.stderr.readline()).group(1)  # type: ignore[union-attr]
        assert first.stderr.readline() == f"job {number} waits: JobHeldUser\n"
        first.send_signal(signal.SIGINT)
        assert first.stderr.read().startswith(f"job {number} goes on; the same command with --resume shows it again")
        assert first.wait(PATIENCE_SECONDS) == 130
    assert f"JobId={number} " in on_slurm.run("scontrol", "--oneliner", "show", "job", number)

    refused = train(*words)
    assert refused.status == 1
    assert f"runs/two: expected a folder without a run, found job {number} at one; --resume goes on" in refused.err

    later(lambda: on_slurm.run("scontrol", "release", number))
    ended = train(*words, "--resume")
    assert ended.status == 0, ended.err
    assert ended.out == "wrote models/two/1\n"
    assert f"job {number}, its log is {in_data}/runs/two/slurm-{number}.log" in ended.err
    assert "epoch 2/2: loss" in ended.err  # of the first process alone
    assert ended.err.count("epoch 1/2: loss") == 1
    assert json.loads(Path("runs/two/run.json").read_bytes())["run"]["processes"] == 2
    assert Path("models/two/CURRENT").read_text() == "1\n"

    again = train(*words, "--resume")  # it has ended: no job is submitted
    assert (again.status, again.out, again.err) == (0, "wrote models/two/1\n", "")


def test_a_job_that_fails_is_told_by_what_its_log_says_last(
    on_slurm: Any, train: Callable[..., Ended], in_data: Path
) -> None:
    config = write_config(in_data, "bad.toml", 'prologue = ["echo no module cuda here", "exit 3"]')
    ended = train(*command("bad", "--config", config))
    assert ended.status == 1
    *_, shown, error = ended.err.splitlines()
    assert shown == "no module cuda here"
    assert re.fullmatch(
        r"frazil-train: error: .*/slurm-\d+\.log: expected job \d+ to make a model, found it FAILED: "
        r"no module cuda here",
        error,
    )

    config = write_config(in_data, "wrong.toml", 'directives = ["--licenses=none-such"]')
    ended = train(*command("wrong", "--config", config))
    assert ended.status == 1
    assert ended.err.startswith("frazil-train: error: sbatch: ")
    assert "license" in ended.err
    assert ended.err.count("\n") == 1


def test_a_cancelled_job_s_training_goes_on_in_the_next_one(
    on_slurm: Any, train: Callable[..., Ended], in_data: Path, later: Callable[..., None], is_long: bool
) -> None:
    if not is_long:
        pytest.skip("a long test: --long")
    (in_data / "long.toml").write_text(RECIPE.replace("epochs = 2", "epochs = 300"))
    words = command("long", "--checkpoint-minutes", 0, "--config", write_config(in_data, "c.toml"), recipe="long.toml")

    def cancel() -> None:
        wait_for(Path("runs/long/checkpoint.pt").exists)
        on_slurm.run("scancel", Path("runs/long/slurm-job").read_text().strip())

    later(cancel)
    ended = train(*words)
    assert ended.status == 1
    assert re.search(r"found it CANCELLED; --resume goes on from the last checkpoint\n$", ended.err)
    ended = train(*words, "--resume")
    assert ended.status == 0, ended.err
    assert "going on from update" in ended.err
    assert ended.out == "wrote models/long/1\n"


def test_the_script_is_shown_and_nothing_is_done(train: Callable[..., Ended], in_data: Path) -> None:
    config = write_config(
        in_data, "many.toml", 'account = "em"', 'prologue = ["module load cuda"]', 'interface = "ib0"'
    )
    options = ("--nodes", 2, "--gpus-per-node", 4, "--memory", "8GiB", "--config", config)
    ended = train(*command("shown", *options, "--run-folder", "some runs/shown", "--dry-run"), "--int8")
    assert (ended.status, ended.err) == (0, "")
    lines = ended.out.splitlines()
    assert lines[0] == "#!/bin/bash"
    directives = {line.removeprefix("#SBATCH ") for line in lines if line.startswith("#SBATCH ")}
    assert {"--nodes=2", "--ntasks-per-node=1", "--cpus-per-task=4", "--mem=32768M", "--gres=gpu:4"} <= directives
    assert {"--partition=night", "--account=em", "--time=01:00:00"} <= directives
    assert "export GLOO_SOCKET_IFNAME=ib0 NCCL_SOCKET_IFNAME=ib0" in lines
    assert lines.index("module load cuda") < lines.index("exec srun --kill-on-bad-exit=1 --cpus-per-task=4 \\")
    assert "--nnodes=2 --nproc-per-node=4 --rdzv-backend=c10d" in ended.out
    assert "--run-folder 'some runs/shown' " in lines[-1]
    assert lines[-1].endswith(" --int8 --force --device cpu --threads 1 --resume")
    assert "--cluster" not in lines[-1]
    checked = subprocess.run(["bash", "-n"], input=ended.out, text=True, capture_output=True, check=False)
    assert (checked.returncode, checked.stderr) == (0, "")
    assert not Path("some runs").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--nodes", 3), "batch: expected a multiple of the 3 processes, found 64"),
        (("--walltime", "8h"), "--walltime: expected a time such as 08:00:00"),
        ((), "expected Slurm's sbatch on this machine, found none: run this where jobs are submitted"),
    ],
)
def test_what_cannot_be_is_said_before_a_job_waits(
    train: Callable[..., Ended], monkeypatch: pytest.MonkeyPatch, options: tuple[object, ...], message: str
) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    ended = train(*command("none", *options))
    assert ended.status == 1
    assert ended.err.startswith(f"frazil-train: error: {message}")
    assert ended.err.count("\n") == 1


def test_options_of_a_job_need_one(train: Callable[..., Ended]) -> None:
    words = command("none", "--nodes", 2)
    at = words.index("--cluster")
    ended = train(*words[:at], *words[at + 2 :])
    assert ended.err == "frazil-train: error: --cluster: expected it beside --nodes, found none\n"
    assert not os.path.lexists("runs/none")
