"""An archive is picked again by jobs of a real Slurm, also when jobs are cancelled and nodes drained meanwhile."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import msgspec
import pytest

from frazil.documents import FailedDocument, MicrographDocument
from frazil.file_picker import FilePicker
from frazil.micrograph_names import Named
from frazil.picking import PickingSettings

PATIENCE_SECONDS = 240.0
pytestmark = [pytest.mark.system, pytest.mark.timeout(3600)]

Repick = Callable[..., "Running"]  # type: ignore[name-defined]  # noqa: F821


@pytest.fixture
def configuration(tmp_path: Path) -> Path:
    """A settings file with a cluster on this machine, whose first two jobs end before their workers come."""
    file = tmp_path / "frazil.toml"
    fails = f"for job in first second; do mkdir {tmp_path}/$job 2>/dev/null && exit 1; done"
    file.write_text(
        '[cluster]\nqueue = "night"\ninterface = "lo"\nmemory = "2GB"\nwalltime = "01:00:00"\n'
        f'directives = ["--comment=frazil"]\nprologue = ["{fails}"]\n'
    )
    return file


def test_jobs_pick_all_and_those_that_failed_and_a_cancelled_one_are_replaced(
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
    assert (tmp_path / "first").is_dir()
    assert (tmp_path / "second").is_dir()
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


def test_jobs_none_of_which_gives_a_worker_end_the_run_in_a_line(
    slurm: Any,
    repick: Repick,
    configuration: Path,
    make_archive: Callable[..., list[str]],
    tmp_path: Path,
    is_long: bool,
) -> None:
    if not is_long:
        pytest.skip("a long test: --long")
    make_archive(tmp_path / "archive", 10)
    configuration.write_text(f'{configuration.read_text().partition("prologue")[0]}prologue = ["echo no; exit 1"]\n')
    running = repick(tmp_path / "archive", "--cluster", "slurm", "--config", configuration, env=slurm.environment)
    printed, said = running.process.communicate(timeout=PATIENCE_SECONDS)
    assert (running.process.returncode, printed) == (1, "")
    assert "Slurm: expected a worker of each job, found that 6 jobs ended before theirs came" in said
    assert "Traceback" not in said
    logs = running.out / ".frazil-cluster" / "logs"
    assert str(logs) in said
    assert {file.read_text() for file in logs.glob("*.out")} == {"no\n"}


MODEL = Path(__file__).parents[2] / "exported_models" / "fcn"
DIAMETERS = {"apoferritin": 117.0, "beta-galactosidase": 191.0, "ribosome-80s": 300.0, "trpv1": 160.0}


@pytest.fixture
def real(request: pytest.FixtureRequest, is_long: bool) -> Path:
    """Real micrographs, which take a while to prepare."""
    if not is_long:
        pytest.skip("a long test: --long")
    found: Path = request.getfixturevalue("real_micrographs")
    return found


@pytest.mark.parametrize("folder", DIAMETERS)
def test_real_micrographs_are_picked_by_jobs_as_by_one_process(
    slurm: Any,
    repick: Repick,
    configuration: Path,
    real: Path,
    read_documents: Callable[[Path], list[tuple[str, MicrographDocument | FailedDocument]]],
    tmp_path: Path,
    folder: str,
) -> None:
    archive, diameter = real / folder, DIAMETERS[folder]
    given = ("--diameter", diameter, "--model", MODEL, "--threshold", "0.4")
    running = repick(archive, "--cluster", "slurm", "--config", configuration, *given, env=slurm.environment)
    status, summary, said = running.end()
    assert status == 0, said
    files = sorted(archive.glob("*.mrc"))
    assert (summary["picked"], len(files) >= 6) == (len(files), True)
    settings = PickingSettings(diameter_angstrom=diameter, threshold=0.4)
    picker = FilePicker(settings, out=tmp_path / "pick", model=MODEL, device="cpu", threads=1, find_junk=False)
    found = dict(read_documents(running.out))
    assert sorted(found) == [file.name for file in files]
    for file in files:
        expected = picker.pick(Named(file, file.name)).document
        one = found[file.name]
        assert isinstance(one, MicrographDocument)
        assert one.model.sha256 == expected.model.sha256
        assert msgspec.to_builtins(one.picks) == msgspec.to_builtins(expected.picks)
        assert len(one.picks.score) > 20
