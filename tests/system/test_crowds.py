"""The short forms of ``benchmarks/crowds.py``: no crowd ends the daemon, stops its picking or hides a document."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest


def run_crowds(repository: Path, model: Path, *options: str) -> str:
    # The processor time is judged by the long form: a busy machine gives no ratio in so short a time.
    command = [
        sys.executable,
        repository / "benchmarks" / "crowds.py",
        "--model",
        model,
        "--side",
        "512",
        "--least",
        "0",
    ]
    done = subprocess.run([*command, *options], capture_output=True, text=True, timeout=500, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "all, in order" in done.stdout
    return done.stdout


@pytest.mark.system
def test_the_daemon_lives_through_every_kind_of_hostile_client(repository: Path, blob_model: Path) -> None:
    run_crowds(repository, blob_model, "--portions", "1", "--micrographs", "4")


@pytest.mark.system
def test_picking_goes_on_at_its_rate_while_browsers_look(repository: Path, blob_model: Path) -> None:
    browsers = ["--kinds", "browsers", "--clients", "20"]
    output = run_crowds(repository, blob_model, *browsers, "--portions", "2", "--micrographs", "30")
    ratio, got = re.search(r"with: ([\d.]+)", output), re.search(r"'pictures': (\d+)", output)
    assert ratio is not None
    assert got is not None
    # A machine that does other things, too, gives no sharper bound in so short a time; the long form measures.
    assert float(ratio[1]) > 0.25, output
    assert int(got[1]) >= 20
