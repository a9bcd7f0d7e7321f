"""The short form of ``benchmarks/page_load.py``: browsers that look do not stop picking."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.system
def test_picking_goes_on_at_its_rate_while_browsers_look(repository: Path, blob_model: Path) -> None:
    command = [sys.executable, repository / "benchmarks" / "page_load.py", "--model", blob_model]
    command += ["--browsers", "20", "--portions", "2", "--micrographs", "30", "--side", "512"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=500, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    ratio, got = re.search(r"ratio +([\d.]+)", done.stdout), re.search(r"'pictures': (\d+)", done.stdout)
    assert ratio is not None
    assert got is not None
    # A machine that does other things, too, gives no sharper bound in so short a time; the long form measures.
    assert float(ratio[1]) > 0.25, done.stdout
    assert int(got[1]) >= 20
