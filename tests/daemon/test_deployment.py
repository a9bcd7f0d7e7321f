"""``frazil deploy``: files for Prometheus and Grafana, which never write over an administrator's."""

from __future__ import annotations

from pathlib import Path

import pytest

from frazil.errors import OutputError
from frazil.machine import deploy


def test_files_are_written_and_those_of_others_are_kept_until_they_may_be_replaced(
    repository: Path, tmp_path: Path
) -> None:
    to = tmp_path / "prometheus"
    first = deploy("prometheus", to)
    assert {file.name for file in first.written} >= {"prometheus.yml", "frazil-rules.yml", "frazil-targets.yml"}
    assert (to / "frazil-rules.yml").read_bytes() == (repository / "deploy/prometheus/frazil-rules.yml").read_bytes()
    own = to / "frazil-targets.yml"
    own.write_text("- targets: [titan1:9457]\n")
    again = deploy("prometheus", to)
    assert (again.written, again.kept) == ([], [own])
    assert own.read_text() == "- targets: [titan1:9457]\n"
    assert deploy("prometheus", to, replace=True).written == [own]


def test_grafanas_files_keep_their_folders(tmp_path: Path) -> None:
    written = {str(file.relative_to(tmp_path)) for file in deploy("grafana", tmp_path).written}
    assert {"dashboards/frazil.json", "provisioning/datasources/frazil.yml"} <= written


def test_what_cannot_be_written_is_said(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="cannot be written"):
        deploy("grafana", tmp_path / "file")
