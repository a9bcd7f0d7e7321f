"""The wheel: what a user installs can pick, and takes nobody else's name."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

pytestmark = pytest.mark.system


@pytest.fixture(scope="module")
def wheel(repository: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("dist")
    subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", out],
        cwd=repository,
        check=True,
        capture_output=True,
        timeout=300,
    )
    (built,) = out.glob("*.whl")
    return built


def test_only_our_two_packages_are_in_it(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    top = {name.split("/")[0] for name in names}
    assert {name for name in top if not name.endswith(".dist-info")} == {"frazil", "frazil_trainer"}
    assert "frazil/py.typed" in names
    assert {f"frazil_trainer/evaluation/report.{kind}.jinja" for kind in ("html", "css")} <= set(names)
    assert "frazil_trainer/recipes/paper-mlp.toml" in names
    assert {
        "frazil/deploy/systemd/frazil@.service",
        "frazil/deploy/prometheus/frazil-rules.yml",
        "frazil/deploy/grafana/dashboards/frazil-fleet.json",
    } <= set(names)
    assert any(name.endswith("licenses/LICENSE") for name in names)


def test_a_daemon_installed_from_it_alone_can_pick(
    wheel: Path, tmp_path: Path, write_mrc: Callable[..., Path], make_scene: Callable[..., object]
) -> None:
    site = tmp_path / "site"
    zipfile.ZipFile(wheel).extractall(site)
    micrograph = write_mrc(tmp_path / "a.mrc", make_scene((900, 1200), 60.0).pixels, 2.0)
    code = "import frazil, sys; print(frazil.__file__, file=sys.stderr); from frazil.commands.cli import main; main()"
    done = subprocess.run(
        [sys.executable, "-c", code, "pick", micrograph, "--diameter", "120", "--out", tmp_path / "out"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(site)},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    assert str(site) in done.stderr
    assert "model fcn/7 on" in done.stderr
    assert "junk by model junk/" in done.stderr
    assert (tmp_path / "out" / "a_picks.star").is_file()
