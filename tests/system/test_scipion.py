"""frazil as a protocol of Scipion, in a project of Scipion."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

pytestmark = pytest.mark.system

BIN = Path(sys.executable).parent


@pytest.mark.timeout(1200)
def test_scipion_gets_the_coordinates_that_frazil_picks(
    tmp_path: Path,
    write_mrc: Callable[..., Path],
    make_scene: Callable[..., object],
    blob_model: Path,
    repository: Path,
    is_long: bool,
) -> None:
    if not is_long:
        pytest.skip("with --long only: it installs Scipion, half a gigabyte")
    micrographs = tmp_path / "micrographs"
    micrographs.mkdir()
    for seed in range(3):
        write_mrc(micrographs / f"m{seed}.mrc", make_scene(seed=seed).pixels, 0.0)  # type: ignore[attr-defined]
    python = tmp_path / "scipion" / "bin" / "python"
    subprocess.run([sys.executable, "-m", "venv", python.parents[1]], check=True, timeout=300)
    install = [python, "-m", "pip", "install", "--quiet", "scipion-pyworkflow", "scipion-em"]
    subprocess.run([*install, repository / "packaging" / "scipion"], check=True, timeout=600)

    # Scipion starts its jobs with the first Python in the PATH.
    environment = {
        **os.environ,
        "PATH": f"{python.parent}:{os.environ['PATH']}",
        "FRAZIL_BIN": str(BIN / "frazil"),
    }
    script = Path(__file__).with_name("run_scipion.py")
    done = subprocess.run(
        [python, script, tmp_path / "home", micrographs, blob_model],
        capture_output=True,
        text=True,
        env=environment,
        timeout=300,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    said = json.loads(done.stdout.splitlines()[-1])

    # The threshold is chosen from the first batch, of two, and holds for the third micrograph.
    pick = [BIN / "frazil", "pick", "--diameter", "48", "--pixel-size", "2", "--model", blob_model]
    pick += ["--format", "json", "--out", tmp_path / "picks"]
    subprocess.run([*pick, micrographs / "m0.mrc", micrographs / "m1.mrc"], check=True, capture_output=True)
    threshold = json.loads((tmp_path / "picks" / "m0.json").read_text())["threshold"]
    subprocess.run([*pick, micrographs / "m2.mrc", "--threshold", str(threshold)], check=True, capture_output=True)
    expected = {}
    for name in ("m0", "m1", "m2"):
        picks = json.loads((tmp_path / "picks" / f"{name}.json").read_text())["picks"]
        expected[name] = [[round(x), round(y)] for y, x in zip(picks["y"], picks["x"], strict=True)]
    assert sum(map(len, expected.values())) == 36
    assert said == {"status": "finished", "box": 36, "coordinates": expected}
