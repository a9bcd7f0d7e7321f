"""The short form of ``benchmarks/hostile_clients.py``: clients that do their worst end nothing and hide nothing."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.system
def test_the_daemon_lives_through_every_kind_of_hostile_client(repository: Path, blob_model: Path) -> None:
    command = [sys.executable, repository / "benchmarks" / "hostile_clients.py", "--model", blob_model]
    command += ["--portions", "1", "--micrographs", "4", "--side", "512"]
    command += ["--least", "0"]  # rates are measured by the long form; a busy machine gives none in so short a time
    done = subprocess.run(command, capture_output=True, text=True, timeout=170, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "all, in order" in done.stdout
