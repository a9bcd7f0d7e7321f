"""The page of how far it goes is what its figures give, and its simulation agrees with what can be said without one."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.capacity import Station, simulate


def check_page(repository: Path, *options: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "benchmarks.capacity", "--check", *map(str, options)]
    return subprocess.run(command, cwd=repository, capture_output=True, text=True, check=False)


def test_the_page_is_what_the_figures_give_and_is_stale_with_others(repository: Path, tmp_path: Path) -> None:
    done = check_page(repository)
    assert (done.returncode, done.stderr) == (0, "")
    costs = json.loads((repository / "docs/reference/capacity.json").read_text("utf-8"))
    (tmp_path / "other.json").write_text(json.dumps(costs | {"ledger_bytes": 2 * costs["ledger_bytes"]}), "utf-8")
    done = check_page(repository, "--json", tmp_path / "other.json")
    assert done.returncode == 1
    assert "capacity.md: not what the figures give" in done.stderr


def test_workers_that_share_little_are_as_many_times_as_fast() -> None:
    stations = [Station(name="shared", seconds=0.0001, shared=True), Station(name="own", seconds=1.0)]
    outcome = simulate(stations, lines=20, micrographs=2000)
    assert outcome.rate == pytest.approx(20 / 1.0001, rel=0.03)
    assert outcome.wall == "own"


def test_what_is_shared_by_too_many_is_the_wall_and_gives_the_rate() -> None:
    stations = [Station(name="shared", seconds=0.1, shared=True), Station(name="own", seconds=1.0)]
    outcome = simulate(stations, lines=100, micrographs=2000)
    assert outcome.rate == pytest.approx(10, rel=0.03)
    assert (outcome.wall, outcome.busy["own"]) == ("shared", pytest.approx(0.1, rel=0.1))


def test_micrographs_that_come_seldom_wait_for_nothing_and_keep_their_rate() -> None:
    stations = [Station(name="one", seconds=0.2), Station(name="other", seconds=0.1)]
    outcome = simulate(stations, 3, 600, lambda line: (float(line) / 3 + n for n in range(10**6)))
    assert outcome.rate == pytest.approx(3, rel=0.05)
    assert max(outcome.waits) <= 1.25 * 0.3 + 1e-9
    assert outcome.busy["one"] == pytest.approx(0.2, rel=0.05)
