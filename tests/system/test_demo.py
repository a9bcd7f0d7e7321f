"""The demo, small: what a newcomer types first works from end to end."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import cv2
import pytest

pytestmark = pytest.mark.system


def test_the_demo_picks_every_simulated_micrograph(repository: Path, tmp_path: Path) -> None:
    command = [sys.executable, repository / "demo" / "live_demo.py", "--out", tmp_path / "demo"]
    readme = tmp_path / "README.md"
    readme.write_text("before\n```text\n─── 4. what came out ───\nold\n```\nbehind\n")
    command += ["--count", "3", "--size", "1024", "--interval", "0.2", "--readme", readme]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "3 of 3 documents, 3 STAR files, 3 counted by /metrics" in done.stdout
    assert readme.read_text().startswith("before\n```text\n──")
    assert readme.read_text().endswith("\n```\nbehind\n")
    assert set(rows_of(readme.read_text())) == {*(f"simulated_000{k}.mrc" for k in (1, 2, 3)), "all (latency: median)"}
    assert re.search(r"median \d+\.\d\d s, worst \d+\.\d\d s", done.stdout)
    assert "Traceback" not in done.stdout + done.stderr
    picture = cv2.imread(str(tmp_path / "demo" / "picks.png"))
    assert picture is not None
    assert picture.shape == (1024, 1024, 3)


def rows_of(readme: str) -> dict[str, list[str]]:
    """The demo's table in the README: by micrograph, what does not depend on the machine."""
    block = re.search(r"^─+ 4\. what came out ─+$(.*?)^```", readme, re.MULTILINE | re.DOTALL)
    assert block is not None
    cells = ([cell.strip() for cell in line.split("│")] for line in block[1].splitlines() if line.startswith("│"))
    return {name: figures for _, name, *figures, _, _ in cells}


def test_the_table_in_the_readme_is_of_the_model_that_serves_and_adds_up(repository: Path) -> None:
    """It is made anew by: python demo/live_demo.py --readme README.md."""
    readme = (repository / "README.md").read_text("utf-8")
    current = (repository / "exported_models" / "fcn" / "CURRENT").read_text().strip()
    assert f"picked by fcn/{current}; " in readme, "run: python demo/live_demo.py --readme README.md"
    rows = rows_of(readme)
    total = rows.pop("all (latency: median)")
    assert list(rows) == [f"simulated_{k:04}.mrc" for k in range(1, 11)]
    assert [sum(int(figures[column]) for figures in rows.values()) for column in (0, 1)] == [int(n) for n in total[:2]]


def test_the_model_picks_what_the_readme_says(repository: Path, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    if not request.config.getoption("--long"):
        pytest.skip("needs --long: a micrograph of the README's size is simulated")
    from frazil.model import load_model
    from frazil.picking import Picker, PickingSettings, match_picks, read_micrograph
    from frazil.settings import default_model_path
    from frazil_trainer.evaluation.ranking import tally_matches
    from frazil_trainer.simulate import SimulationSettings, series_seed, simulate_micrograph, write_micrograph

    simulated = simulate_micrograph(SimulationSettings(shape=(4096, 4096), model="galactosidase"), series_seed(2026, 0))
    write_micrograph(tmp_path / "simulated_0001.mrc", simulated)
    picker = Picker(load_model(default_model_path(), "cpu"), PickingSettings(diameter_angstrom=172))
    micrograph = read_micrograph(tmp_path / "simulated_0001.mrc")
    picks = picker.pick(micrograph)
    tally = tally_matches(
        match_picks(picks, simulated.truth, 172 / micrograph.pixel_size_angstrom / 2), len(simulated.truth)
    )
    particles, picked, precision, recall = rows_of((repository / "README.md").read_text("utf-8"))["simulated_0001.mrc"]
    assert len(simulated.truth) == int(particles)
    assert len(picks) == pytest.approx(int(picked), abs=2)  # what rounding on another processor may change
    assert tally.precision == pytest.approx(float(precision), abs=0.011)
    assert tally.recall == pytest.approx(float(recall), abs=0.011)


def test_the_demo_needs_no_torch(repository: Path) -> None:
    code = (
        "import sys, runpy; sys.argv = ['live_demo.py', '--help']\n"
        f"try: runpy.run_path({str(repository / 'demo' / 'live_demo.py')!r}, run_name='__main__')\n"
        "except SystemExit: pass\n"
        "print('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=300)
    assert done.stdout.splitlines()[-1] == "False"
