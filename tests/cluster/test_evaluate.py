"""Models are evaluated by real workers: the figures of one process, to the last digit, whatever becomes of a worker."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest

from frazil.cluster.engine import open_engine
from frazil.errors import FrazilError, IncompleteMicrograph, MicrographError, ModelError, SettingsError
from frazil.picking import write_star
from frazil.settings import ClusterSettings
from frazil_trainer.cli import main
from frazil_trainer.evaluation import open_sources, score_by_workers, score_micrographs, validation_paths
from frazil_trainer.recipe import TrainingSet

pytestmark = [pytest.mark.system, pytest.mark.trainer]

STEMS = [f"m{number:02}" for number in range(12)]
DIAMETER_ANGSTROM = 48.0
RECIPE = f"""
seed = 1
diameter_px = 9.6
epochs = 1
batch = 8

[network]
architecture = "mlp"

[examples]
kind = "drawn"
per_epoch = 8

[optimiser]
kind = "sgd"
learning_rate = 0.1

[[data]]
folder = "real"
diameter_angstrom = {DIAMETER_ANGSTROM}
other_labels = ["_few"]
validation = {STEMS}
""".replace("'", '"')


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, make_scene: Callable[..., Any], write_mrc: Any) -> Path:
    """Labelled micrographs, three in turn under twelve names, and another picker's files of some."""
    folder = tmp_path_factory.mktemp("evaluated")
    (folder / "recipe.toml").write_text(RECIPE)
    (folder / "real").mkdir()
    (folder / "other").mkdir()
    for number, stem in enumerate(STEMS):
        file = folder / "real" / f"{stem}.mrc"
        scene = make_scene((320, 448), seed=number % 3)
        if number < 3:
            write_mrc(file, scene.pixels, 2.0)
        else:
            os.link(folder / "real" / f"{STEMS[number % 3]}.mrc", file)
        write_star(file.with_suffix(".star"), scene.truth.select(np.arange(4 + number % 7)))
        write_star(file.with_name(f"{stem}_few.star"), scene.truth.select(np.arange(3)))
        if number < 5:
            write_star(folder / "other" / f"{stem}_picks.star", scene.truth.select(np.arange(2 + number)))
    return folder


def evaluate(folder: Path, model: Path, *options: object, cwd: Path) -> subprocess.CompletedProcess[str]:
    """Run ``frazil-train evaluate`` where paths are relative ones."""
    command = ["evaluate", "--recipe", folder / "recipe.toml", "--data", os.path.relpath(folder, cwd)]
    command += ["--model", model, "--picks", os.path.relpath(folder / "other", cwd), *options]
    program = "from frazil_trainer.cli import main; main()"
    return subprocess.run(
        [sys.executable, "-c", program, *map(str, command)], cwd=cwd, capture_output=True, text=True, check=False
    )


def test_workers_give_the_figures_of_one_process_to_the_last_digit(
    folder: Path, blob_model: Path, tmp_path: Path, is_long: bool
) -> None:
    if not is_long:
        pytest.skip("a long test: --long")
    here = evaluate(folder, blob_model, "--json", "here.json", cwd=tmp_path)
    assert here.returncode == 0, here.stderr
    there = evaluate(folder, blob_model, "--json", "there.json", "--cluster", "local", "--workers", "2", cwd=tmp_path)
    assert there.returncode == 0, there.stderr
    assert (tmp_path / "there.json").read_bytes() == (tmp_path / "here.json").read_bytes()
    assert there.stderr == here.stderr
    assert sorted(file.name for file in tmp_path.iterdir()) == ["here.json", "there.json"]


def test_jobs_of_slurm_give_them_too(
    slurm: Any, folder: Path, blob_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_long: bool
) -> None:
    if not is_long:
        pytest.skip("a long test: --long")
    for name, value in slurm.environment.items():
        monkeypatch.setenv(name, value)
    (tmp_path / "cluster.toml").write_text('[cluster]\ninterface = "lo"\nmemory = "2GB"\nwalltime = "01:00:00"\n')
    here = evaluate(folder, blob_model, "--json", "here.json", cwd=tmp_path)
    assert here.returncode == 0, here.stderr
    options = ("--cluster", "slurm", "--workers", "2", "--config", "cluster.toml")
    (tmp_path / "out").mkdir()
    there = evaluate(folder, blob_model, "--json", "out/there.json", *options, cwd=tmp_path)
    assert there.returncode == 0, there.stderr
    assert (tmp_path / "out" / "there.json").read_bytes() == (tmp_path / "here.json").read_bytes()
    assert [file.name for file in (tmp_path / "out" / ".frazil-cluster").iterdir()] == ["logs"]
    assert not (tmp_path / ".frazil-cluster").exists()
    assert slurm.jobs() == []


def is_worker(process: psutil.Process) -> bool:
    """By its command; Dask changes that where it can."""
    command = " ".join(process.cmdline())
    return "spawn_main" in command or command.startswith("dask worker")


def test_a_killed_worker_costs_its_task_alone(folder: Path, blob_model: Path, tmp_path: Path) -> None:
    source = TrainingSet(folder="real", diameter_angstrom=DIAMETER_ANGSTROM, validation=tuple(STEMS))
    paths = validation_paths(folder, [source])
    sources = open_sources([str(blob_model)], [str(folder / "other")], ["down"], None, paths)
    done: list[str] = []

    def progress(name: str) -> None:
        done.append(name)
        if len(done) == 2:
            children = psutil.Process().children(recursive=True)
            (worker,) = [child for child in children if is_worker(child)]
            worker.kill()

    with open_engine("local", ClusterSettings(workers=1), tmp_path) as engine:
        there = score_micrographs(sources, paths, progress, score_by_workers(engine, 1))
    assert sorted(done) == STEMS
    here = score_micrographs(sources, paths)
    assert [(one.name, one.picker) for one in there] == [(one.name, one.picker) for one in here]
    for a, b in zip(there, here, strict=True):
        for name in ("y", "x", "score"):
            np.testing.assert_array_equal(getattr(a.picks, name), getattr(b.picks, name))
            np.testing.assert_array_equal(getattr(a.truth, name), getattr(b.truth, name))


def test_a_worker_s_error_is_what_it_is(folder: Path, blob_model: Path, tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    for stem in STEMS[:2]:
        for ending in (".mrc", ".star"):
            os.link(folder / "real" / f"{stem}{ending}", tmp_path / "real" / f"{stem}{ending}")
    (tmp_path / "real" / "m01.mrc").unlink()
    (tmp_path / "real" / "m01.mrc").write_bytes((folder / "real" / "m01.mrc").read_bytes()[:5000])
    source = TrainingSet(folder="real", diameter_angstrom=DIAMETER_ANGSTROM, validation=tuple(STEMS[:2]))
    paths = validation_paths(tmp_path, [source])
    model = tmp_path / "m.onnx"
    model.write_bytes((blob_model / "1" / "model.onnx").read_bytes())
    sources = open_sources([str(model)], [], [], None, paths)
    with open_engine("local", ClusterSettings(workers=1), tmp_path) as engine:
        with pytest.raises(IncompleteMicrograph, match=r"m01\.mrc: expected") as raised:
            score_micrographs(sources, paths, scoring=score_by_workers(engine, 1))
        assert (raised.value.reason, raised.value.path) == ("truncated", tmp_path / "real" / "m01.mrc")
        model.unlink()
        with pytest.raises(ModelError, match=r"m\.onnx: expected a model's folder or an \.onnx file") as refused:
            score_micrographs(sources, paths[:1], scoring=score_by_workers(engine, 2))
        assert refused.value.reason == "missing"


@pytest.mark.parametrize(
    "error",
    [
        FrazilError("a: b"),
        SettingsError("a", "b"),
        ModelError("a", "hash"),
        MicrographError(Path("a"), "blank", "expected"),
    ],
)
def test_errors_can_be_sent(error: FrazilError) -> None:
    sent = pickle.loads(pickle.dumps(error))
    assert (type(sent), str(sent), sent.args, vars(sent)) == (type(error), str(error), error.args, vars(error))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--cluster", "tcp://127.0.0.1:1"), "tcp://127.0.0.1:1: expected a Dask scheduler, found none"),
        (("--workers", "2"), "--cluster: expected it beside --workers, --threads-per-worker and --config, found none"),
    ],
)
def test_what_is_not_there_is_said_in_a_line(
    folder: Path,
    blob_model: Path,
    options: tuple[str, ...],
    message: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    command = ["evaluate", "--recipe", folder / "recipe.toml", "--data", folder, "--model", blob_model, *options]
    monkeypatch.setattr(sys, "argv", ["frazil-train", *map(str, command)])
    with pytest.raises(SystemExit, match=r"^1$"):
        main()
    assert capsys.readouterr().err.splitlines()[-1].startswith(f"frazil-train: error: {message}")


def test_a_client_that_is_closed_means_that_the_scheduler_has_gone(tmp_path: Path) -> None:
    with open_engine("local", ClusterSettings(workers=1), tmp_path) as engine:
        engine._client.close()
        engine._client.status, engine.look = "closed", lambda: None  # type: ignore[method-assign]  # between two looks
        with pytest.raises(FrazilError, match="expected the scheduler to answer, found that it has gone"):
            list(engine.run(bytes, lambda: 1, lambda size: (size,), lambda: None))
