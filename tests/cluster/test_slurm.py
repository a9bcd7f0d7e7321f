"""An archive is picked again by jobs of a real Slurm, also when jobs are cancelled and nodes drained meanwhile."""

from __future__ import annotations

import importlib.util
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

pytestmark = [pytest.mark.system, pytest.mark.timeout(3600)]

Repick = Callable[..., "Running"]  # type: ignore[name-defined]  # noqa: F821


def load_slurm() -> Any:
    """The module beside this file, which is in no package."""
    specification = importlib.util.spec_from_file_location("slurm_for_tests", Path(__file__).with_name("slurm.py"))
    assert specification is not None
    assert specification.loader is not None
    module = importlib.util.module_from_spec(specification)
    sys.modules[specification.name] = module  # where its data classes look for it
    specification.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def slurm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """A running Slurm with two nodes."""
    module = load_slurm()
    if reason := module.what_is_missing():
        if os.environ.get("CI") == "true":
            pytest.fail(f"{reason}; CI must not skip what needs it")
        pytest.skip(reason)
    with module.run_slurm(tmp_path_factory.mktemp("slurm")) as running:
        yield running


@pytest.fixture
def configuration(tmp_path: Path) -> Path:
    """A settings file with a cluster on this machine."""
    file = tmp_path / "frazil.toml"
    file.write_text(
        '[cluster]\nqueue = "night"\ninterface = "lo"\nmemory = "2GB"\nwalltime = "01:00:00"\n'
        'directives = ["--comment=frazil"]\nprologue = ["export FROM_PROLOGUE=1"]\n'
    )
    return file


def test_jobs_pick_all_and_a_cancelled_one_is_replaced(
    slurm: Any,
    repick: Repick,
    configuration: Path,
    make_archive: Callable[..., list[str]],
    check_once: Callable[[Path, Sequence[str]], None],
    tmp_path: Path,
    is_long: bool,
) -> None:
    archive = tmp_path / "archive"
    keys = make_archive(archive, 2000 if is_long else 300)
    options = ("--cluster", "slurm", "--config", configuration)
    running = repick(archive, *options, env=slurm.environment)
    running.wait_results(3)
    slurm.run("scancel", slurm.jobs()[0])
    if is_long:
        running.wait_results(running.results() + 100)
        slurm.run("scontrol", "update", "NodeName=left", "State=DRAIN", "Reason=test")
        running.wait_results(running.results() + 100)
        slurm.run("scontrol", "update", "NodeName=left", "State=RESUME")
    status, summary, said = running.end()
    assert status == 0, said
    assert summary["picked"] == len(keys)
    check_once(running.out, keys)
    assert slurm.jobs() == []
    logs = running.out / ".frazil-cluster" / "logs"
    assert list(logs.glob("frazil-worker-*.err"))
    assert [file.name for file in logs.parent.iterdir()] == ["logs"]  # no key is left behind
