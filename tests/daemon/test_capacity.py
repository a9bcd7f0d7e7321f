"""The page of how far it goes is what its figures give, and its simulation agrees with what can be said without one."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.capacity import Station, simulate


def test_the_page_is_what_the_figures_give(repository: Path) -> None:
    command = [sys.executable, "-m", "benchmarks.capacity", "--check"]
    done = subprocess.run(command, cwd=repository, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


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
