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
    command += ["--count", "3", "--size", "1024", "--interval", "0.2"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "3 of 3 documents, 3 STAR files, 3 counted by /metrics" in done.stdout
    assert re.search(r"median \d+\.\d\d s, worst \d+\.\d\d s", done.stdout)
    assert "Traceback" not in done.stdout + done.stderr
    picture = cv2.imread(str(tmp_path / "demo" / "picks.png"))
    assert picture is not None
    assert picture.shape == (1024, 1024, 3)


def test_the_demo_needs_no_torch(repository: Path) -> None:
    code = (
        "import sys, runpy; sys.argv = ['live_demo.py', '--help']\n"
        f"try: runpy.run_path({str(repository / 'demo' / 'live_demo.py')!r}, run_name='__main__')\n"
        "except SystemExit: pass\n"
        "print('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=300)
    assert done.stdout.splitlines()[-1] == "False"
