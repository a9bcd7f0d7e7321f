"""A thousand broken and hostile inputs, by the command whose long form reads ten thousand."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.system
@pytest.mark.timeout(600)
def test_hostile_inputs_each_give_a_clear_error_or_a_correct_picture(repository: Path, is_long: bool) -> None:
    count = 1000 if is_long else 300
    done = subprocess.run(
        [sys.executable, repository / "benchmarks" / "fuzz_inputs.py", "--count", str(count), "--seed", "2"],
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    rows = {line.split("|")[1].strip(): line.split("|")[2:-1] for line in done.stdout.splitlines() if "|" in line}
    for outcome in ("read (as the reference)", "truncated", "corrupt"):
        assert sum(int(n) for n in rows[outcome]) > 0.03 * count
    assert all(int(n) == 0 for n in rows["crash"] + rows["hang"])
