"""The benchmark suite runs, and the page of its figures is made from them and from nothing else."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest


def run_suite(repository: Path, *options: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "benchmarks.speed", *options],
        cwd=repository,
        capture_output=True,
        text=True,
        check=False,
    )


def test_tables_and_pictures_in_the_docs_are_what_the_report_gives(repository: Path) -> None:
    done = run_suite(repository, "--check")
    assert done.returncode == 0, done.stderr


def test_a_figure_changed_by_hand_is_found_out(repository: Path, tmp_path: Path) -> None:
    report = json.loads((repository / "docs/reference/speed/speed.json").read_text("utf-8"))
    report["start"]["figures"]["seconds"]["python"]["median"] = 0.0123
    (tmp_path / "speed.json").write_text(json.dumps(report))
    done = run_suite(repository, "--check", "--json", tmp_path / "speed.json")
    assert done.returncode == 1
    assert "benchmarks.md: not what the report gives" in done.stderr


@pytest.mark.system
def test_sections_run_and_leave_the_others_as_they_are(repository: Path, tmp_path: Path, is_long: bool) -> None:
    sections = ["stages", "latency", "straightforward"] if is_long else ["stages", "straightforward"]
    for some in (sections[:1], sections[1:]):
        only = [option for name in some for option in ("--only", name)]
        done = run_suite(repository, "--scale", "smoke", *only, "--json", tmp_path / "speed.json", "--folder", tmp_path)
        assert done.returncode == 0, done.stderr
    report = json.loads((tmp_path / "speed.json").read_text("utf-8"))
    assert {*sections, "done_when"} == set(report)
    case = report["stages"]["figures"]["cases"][0]
    assert 0 < case["seconds"]["read"]["median"] < case["seconds"]["whole"]["median"]
    assert all(c["picks"] == c["picks_in_common"] for c in report["straightforward"]["figures"]["comparisons"])
    assert {line["holds"] for line in report["done_when"] if "RELION" in line["what"]} == {None}
