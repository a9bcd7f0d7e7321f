"""The table of proteins never seen: its page is made from the figures, and other pickers get what they want."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import cv2
import mrcfile
import numpy as np
import pytest

from benchmarks.peers import Sample, pick_with_relion, reductions_for_topaz
from benchmarks.unseen import Picked, picks_far_from_labels, usable_area
from frazil.picking import Picks, match_picks, write_star
from frazil_trainer.data.labelled import find_labelled, read_labelled
from frazil_trainer.recipe import TrainingSet


def check_page(repository: Path, *options: str | Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "benchmarks.unseen", "--check", *options]
    return subprocess.run(command, cwd=repository, capture_output=True, text=True, check=False)


def places(*yx: tuple[float, float]) -> Picks:
    y, x = np.array(yx, np.float64).T
    return Picks(y=y, x=x, score=np.full(len(yx), 0.9))


def test_the_tables_of_the_page_are_what_the_figures_give(repository: Path) -> None:
    done = check_page(repository)
    assert done.returncode == 0, done.stderr


def test_a_figure_changed_by_hand_is_found_out(repository: Path, tmp_path: Path) -> None:
    report = json.loads((repository / "docs/reference/unseen.json").read_text("utf-8"))
    report["left_out"][0]["f1"] = 0.999
    (tmp_path / "unseen.json").write_text(json.dumps(report), "utf-8")
    done = check_page(repository, "--json", tmp_path / "unseen.json")
    assert done.returncode == 1
    assert "unseen.md: not what the figures give" in done.stderr


@pytest.mark.parametrize(
    ("pixel_size_angstrom", "diameter_angstrom", "reductions"),
    [(1.77, 191, [4, 6]), (1.5, 117, [3, 4]), (5.36, 300, [2, 3]), (4.48, 160, [1, 2]), (9.0, 90, [1])],
)
def test_topaz_gets_whole_reductions(
    pixel_size_angstrom: float, diameter_angstrom: float, reductions: list[int]
) -> None:
    sample = Sample(
        micrograph=Path("m.mrc"), pixel_size_angstrom=pixel_size_angstrom, diameter_angstrom=diameter_angstrom
    )
    assert reductions_for_topaz(sample) == reductions


def test_only_picks_far_from_labels_and_edges_count_where_there_is_no_particle(tmp_path: Path) -> None:
    folder = tmp_path / "set"
    folder.mkdir()
    with mrcfile.new(folder / "a.mrc") as mrc:
        mrc.set_data(np.random.default_rng(0).normal(0, 1, (300, 460)).astype(np.float32))
        mrc.voxel_size = 4.0
    write_star(folder / "a.star", places((100, 100)))
    source = TrainingSet(folder="set", diameter_angstrom=80)
    (paths,) = find_labelled(tmp_path, source)
    near, far, at_edge, weak = (105.0, 110.0), (200.0, 300.0), (10.0, 300.0), (150.0, 400.0)
    peaks = places(near, far, at_edge, weak)
    peaks.score[3] = 0.2
    one = Picked(paths=paths, micrograph=read_labelled(paths)[0], peaks=peaks)

    clear = picks_far_from_labels(source, [one], 0.5)

    assert clear.picks == 1
    # Without the frame of one diameter, 20 px, and the disc of one diameter around the particle.
    assert clear.area_diameters == pytest.approx((260 * 420 - np.pi * 20**2) / 20**2, rel=0.01)


def test_picks_of_relion_lie_on_the_discs_of_its_micrograph(tmp_path: Path) -> None:
    pixels = np.random.default_rng(1).normal(0, 0.1, (300, 460)).astype(np.float32)
    rows_and_columns = ((row, column) for row in range(4) for column in range(6) if (row + 2 * column) % 5)
    truth = places(*((60.0 + 60 * row, 60.0 + 60 * column) for row, column in rows_and_columns))
    for x, y in zip(truth.x, truth.y, strict=True):
        cv2.circle(pixels, (round(x), round(y)), 10, -2.0, cv2.FILLED)
    with mrcfile.new(tmp_path / "m.mrc") as mrc:
        mrc.set_data(pixels)
        mrc.voxel_size = 4.0

    found = pick_with_relion([Sample(micrograph=tmp_path / "m.mrc", pixel_size_angstrom=4.0, diameter_angstrom=80)])

    if found is None:
        pytest.skip("RELION is not installed")
    assert sorted(match_picks(found[0], truth, 5).tolist()) == list(range(len(truth)))


def test_the_usable_area_is_without_margins_and_blank_parts() -> None:
    assert usable_area((100, 220), margin_px=10, diameter_px=20, blank_fraction=0.5) == 80 * 200 * 0.5 / 400
    assert usable_area((100, 220), margin_px=60, diameter_px=20, blank_fraction=0.0) == 0


def test_the_page_of_adaptations_is_what_its_figures_give(repository: Path) -> None:
    command = [sys.executable, "-m", "benchmarks.few_shot", "--check"]
    done = subprocess.run(command, cwd=repository, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.system
@pytest.mark.trainer
def test_a_cluster_trains_and_measures_as_one_process_does(
    repository: Path, simulated_data: Path, tiny_recipe_text: str, tmp_path: Path, is_long: bool
) -> None:
    if not is_long:
        pytest.skip("a long test: --long")
    pytest.importorskip("torch")
    data, models = tmp_path / "data", tmp_path / "models"
    data.mkdir()
    for name in ("easy", "small"):
        (data / name).symlink_to(simulated_data / name)
    (tmp_path / "recipe.toml").write_text(tiny_recipe_text)

    def unseen(*options: str) -> str:
        command = ["--recipe", tmp_path / "recipe.toml", "--data", data, "--models", models, "--empty", "1", *options]
        done = subprocess.run(
            [sys.executable, "-m", "benchmarks.unseen", *map(str, command)],
            cwd=repository,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    by_workers = unseen("--cluster", "local", "--workers", "1", "--train")
    assert "| easy | all | 4 |" in by_workers
    assert {str(file.relative_to(models).parent) for file in models.glob("*/*/model.onnx")} == {
        "without-easy/1",
        "without-small/1",
    }
    assert unseen() == by_workers
