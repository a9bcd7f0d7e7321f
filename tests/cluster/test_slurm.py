"""An archive is picked again by jobs of a real Slurm, also when jobs are cancelled and nodes drained meanwhile."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

pytestmark = [pytest.mark.system, pytest.mark.timeout(3600)]

Repick = Callable[..., "Running"]  # type: ignore[name-defined]  # noqa: F821


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
