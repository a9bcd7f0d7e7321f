"""doctor, selftest, check-settings and install-service, as a user meets them: processes, output, exit status."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from frazil.errors import FrazilError
from frazil.machine import compare_picks, examine, run_selftest
from frazil.machine.doctor import DoctorResult, examine_watched
from frazil.model import int8_instructions
from frazil.picking import Picks
from frazil.settings import load_settings

BIN = Path(sys.executable).parent


def frazil(*args: object, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [str(BIN / "frazil"), *(str(a) for a in args)]
    variables = {**os.environ, "COLUMNS": "100", "NO_COLOR": "1", **environment}
    return subprocess.run(command, capture_output=True, text=True, timeout=300, env=variables)


@pytest.fixture
def settings(tmp_path: Path, blob_model: Path) -> Callable[..., Path]:
    """Write a sound settings file, with changes."""

    def write(**changes: object) -> Path:
        (tmp_path / "watched").mkdir(exist_ok=True)
        values: dict[str, object] = {
            "watch": "watched",
            "out": "out",
            "diameter_angstrom": 48,
            "model": str(blob_model),
            "device": "cpu",
            "publish_address": "tcp://127.0.0.1:0",
            "http_address": "127.0.0.1:0",
        }
        file = tmp_path / "frazil.toml"
        file.write_text("".join(f"{name} = {json.dumps(value)}\n" for name, value in (values | changes).items()))
        return file

    return write


def look(file: Path) -> dict[str, list[DoctorResult]]:
    found: dict[str, list[DoctorResult]] = {}
    for finding in examine(load_settings({}, file)):
        found.setdefault(finding.check, []).append(finding)
    return found


def test_a_sound_machine_has_no_fault_and_every_trouble_says_what_to_do(settings: Callable[..., Path]) -> None:
    found = look(settings())
    assert set(found) >= {
        "python",
        "providers",
        "clock",
        "settings",
        "watch",
        "events",
        "out",
        "ledger",
        "gpu",
        "model",
    }
    findings = [finding for group in found.values() for finding in group]
    assert [finding for finding in findings if finding.level == "fault"] == []
    assert [finding for finding in findings if finding.level != "ok" and not finding.do] == []
    assert "blob/1 is fit to serve" in found["model"][0].says
    assert "CPUExecutionProvider" in found["model"][0].says


def test_the_doctor_leaves_no_trace(settings: Callable[..., Path], tmp_path: Path) -> None:
    file = settings()
    before = sorted(tmp_path.rglob("*"))
    look(file)
    assert sorted(tmp_path.rglob("*")) == before


def test_a_port_in_use_is_a_fault(settings: Callable[..., Path]) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        (finding,) = look(settings(http_address=f"127.0.0.1:{port}"))["ports"]
    assert finding.level == "fault"
    assert f"127.0.0.1:{port} cannot be used" in finding.says
    assert f":{port}" in finding.do


def test_the_ports_of_the_daemon_that_runs_are_no_fault(
    serve: Callable[..., RunningDaemon],  # type: ignore[name-defined]  # noqa: F821
    settings: Callable[..., Path],
    blob_model: Path,
) -> None:
    daemon = serve("--diameter", "48", "--model", blob_model)
    http = daemon.metrics.split("/")[2]
    found = look(settings(publish_address=daemon.stream, http_address=http))["ports"]
    assert [finding.level for finding in found] == ["ok", "ok", "ok"]
    assert any(f"process {daemon.process.pid}" in finding.says for finding in found)


def test_an_output_that_cannot_be_written_is_a_fault(settings: Callable[..., Path], tmp_path: Path) -> None:
    (tmp_path / "out").write_text("a file")
    found = look(settings(ledger="state/ledger.sqlite"))
    assert [finding.level for finding in found["out"]] == ["fault"]
    assert [finding.level for finding in found["ledger"]] == ["ok"]
    assert "is made at the start" in found["ledger"][0].says


def test_a_watched_directory_that_cannot_be_listed_is_a_fault(settings: Callable[..., Path], tmp_path: Path) -> None:
    sound = load_settings({}, settings())
    (tmp_path / "watched").chmod(0)
    before = os.geteuid()
    try:
        if before == 0:  # who may list everything
            os.seteuid(65534)
        (finding,) = examine_watched(sound)
    finally:
        os.seteuid(before)
        (tmp_path / "watched").chmod(0o755)
    assert finding.level == "fault"
    assert "cannot be listed by this user" in finding.says


def test_a_clock_behind_that_of_the_files_is_told(settings: Callable[..., Path], tmp_path: Path) -> None:
    file = settings()
    (tmp_path / "watched" / "a.mrc").write_bytes(b"")
    os.utime(tmp_path / "watched" / "a.mrc", (4e9, 4e9))
    (finding,) = look(file)["clocks"]
    assert finding.level == "warning"


def test_a_model_that_cannot_serve_is_a_fault(
    settings: Callable[..., Path], spoil_model: Callable[[str, Path, int], None], tmp_path: Path
) -> None:
    spoil_model("changed byte", tmp_path / "bad", 1)
    (finding,) = look(settings(model=str(tmp_path / "bad" / "1")))["model"]
    assert finding.level == "fault"
    assert "expected sha256" in finding.says


def test_a_model_of_junk_that_cannot_serve_is_a_warning(
    settings: Callable[..., Path], blob_model: Path, dark_model: Path
) -> None:
    (fit,) = look(settings(junk_model=str(dark_model)))["junk"]
    assert fit.level == "ok"
    assert fit.says.startswith("dark/1 is fit to find it")
    (finding,) = look(settings(junk_model=str(blob_model)))["junk"]
    assert finding.level == "warning"
    assert "expected a model that finds junk, found one that finds particles" in finding.says
    assert "find_junk = false" in finding.do
    assert "junk" not in look(settings(junk_model=str(blob_model), find_junk=False))


def test_an_int8_twin_that_cannot_serve_is_a_warning(
    settings: Callable[..., Path], make_blob_model: Callable[..., Path], make_twin: Callable[..., Path], tmp_path: Path
) -> None:
    folder = make_blob_model(tmp_path / "twins" / "blob")
    warning, fit = look(settings(model=str(folder), precision="int8"))["model"]
    assert warning.level == "warning"
    assert "it serves in float32 although int8 is set: " in warning.says
    assert "found none" in warning.says
    assert "in float32: " in fit.says
    if int8_instructions() is not None:
        make_twin(folder / "1")
        (fit,) = look(settings(model=str(folder), precision="int8"))["model"]
        assert "in int8: " in fit.says


def test_a_gpu_that_is_required_and_not_used_is_a_fault(settings: Callable[..., Path]) -> None:
    (finding,) = look(settings(device="auto", require_gpu=True))["model"]
    assert finding.level == ("fault" if "on CPUExecutionProvider" in finding.says else "ok")


def test_doctor_ends_with_the_status_of_what_it_found(settings: Callable[..., Path], tmp_path: Path) -> None:
    done = frazil("doctor", "--config", settings(), "--json")
    findings = json.loads(done.stdout)
    assert done.returncode == int(any(finding["level"] == "fault" for finding in findings))
    assert {"check", "level", "says", "do"} == set(findings[0])
    broken = frazil("doctor", "--config", settings(threshold=7, scan=-1))
    assert broken.returncode == 1
    assert "frazil.toml:8: threshold: expected a number of at most 1, found 7" in broken.stdout
    assert "frazil.toml:9: scan:" in broken.stdout
    assert "ok       python" in broken.stdout
    assert "Traceback" not in broken.stderr


def test_selftest_picks_the_known_micrograph_well() -> None:
    done = frazil("selftest", "--json")
    assert done.returncode == 0, done.stderr
    outcome = json.loads(done.stdout)
    assert outcome["model"].startswith("fcn/")
    assert outcome["particles"] == 359
    assert outcome["precision"] > 0.95
    assert outcome["recall"] > 0.85
    assert outcome["pick_seconds"] > 0


def test_selftest_fails_with_a_model_that_finds_nothing(make_blob_model: Callable[..., Path], tmp_path: Path) -> None:
    blind = make_blob_model(tmp_path / "blind", bias=-60.0)
    done = frazil("selftest", "--model", blind)
    assert done.returncode == 1
    assert "0 picks for 359 particles" in done.stdout
    assert "frazil: error: the known micrograph: expected precision and recall of at least 0.7" in done.stderr


def test_selftest_runs_the_model_of_the_settings(settings: Callable[..., Path]) -> None:
    outcome = run_selftest(load_settings({}, settings()))
    assert (outcome.model, outcome.provider) == ("blob/1", "CPUExecutionProvider")


def test_check_settings_lists_every_fault_a_line_each(settings: Callable[..., Path]) -> None:
    assert frazil("check-settings", settings()).stdout.endswith("frazil.toml: nothing wrong\n")
    file = settings(diameter="wide", tresholt=0.5, watch=5)
    done = frazil("check-settings", file)
    assert done.returncode == 78
    lines = done.stderr.splitlines()
    assert [line.startswith(f"frazil: error: {file}:") for line in lines] == [True, True, True]
    assert frazil("serve", "--config", file).stderr.splitlines() == lines


def test_install_service_shows_or_writes_and_says_what_comes_next(tmp_path: Path) -> None:
    (tmp_path / "watched").mkdir()
    options = ["--watch", tmp_path / "watched", "--out", tmp_path / "out", "--diameter", 191, "--user", "daemon"]
    shown = frazil("install-service", "titan1", *options, "--dry-run")
    assert shown.returncode == 0, shown.stderr
    assert "# /etc/systemd/system/frazil@.service" in shown.stdout
    assert "# /etc/frazil/titan1.toml" in shown.stdout
    assert not (tmp_path / "out").exists()
    done = frazil("install-service", "titan1", *options, "--root", tmp_path / "root")
    assert done.returncode == 0, done.stderr
    for command in ("systemctl daemon-reload", "systemctl enable --now frazil@titan1", "journalctl -u frazil@titan1"):
        assert command in done.stdout
    written = sorted(str(p.relative_to(tmp_path / "root")) for p in (tmp_path / "root").rglob("*") if p.is_file())
    assert written == [
        "etc/frazil/titan1.toml",
        "etc/systemd/system/frazil@.service",
        "etc/systemd/system/frazil@titan1.service.d/machine.conf",
    ]


def test_install_service_into_etc_needs_root(tmp_path: Path) -> None:
    """A process shows what it would write, and has then really given up root, where the test has it."""
    options = ["install-service", "titan1", "--watch", str(tmp_path), "--out", str(tmp_path), "--diameter", "100"]
    options += ["--user", "daemon"]
    code = (
        "import os, sys; from frazil.commands import cli\n"
        f"cli.app({[*options, '--dry-run']!r}, standalone_mode=False)\n"
        f"os.geteuid() or os.setuid(65534); sys.argv[1:] = {options!r}; cli.main()\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300)
    assert done.returncode == 1
    assert done.stdout.startswith("# /etc/frazil/titan1.toml\n")
    assert done.stderr.startswith("frazil: error: /etc: expected to run as root, found user ")
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_is_printed_for_a_shell(shell: str) -> None:
    done = frazil("--show-completion", shell, _TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION="1")
    assert done.returncode == 0, done.stderr
    assert "frazil" in done.stdout
    assert "COMPLETE" in done.stdout


def test_completion_completes_commands_and_options() -> None:
    words = {"COMP_WORDS": "frazil sel", "COMP_CWORD": "1", "_FRAZIL_COMPLETE": "complete_bash"}
    assert frazil(**words).stdout.split() == ["selftest"]


@pytest.mark.parametrize("command", [["serve"], ["pick"], ["doctor"], ["listen"], ["install-service"], ["status"]])
def test_help_at_100_columns_cuts_nothing_short(command: list[str]) -> None:
    done = frazil(*command, "--help")
    assert done.returncode == 0
    assert "…" not in done.stdout
    assert max(len(line) for line in done.stdout.splitlines()) <= 100


def test_bench_times_every_stage_beside_the_floor(blob_model: Path) -> None:
    done = frazil("bench", "--model", blob_model, "--rounds", "3", "--json")
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout)
    seconds = said["seconds"]
    assert said["model"] == "blob/1"
    assert set(seconds) == {"read", "prepare", "infer", "peaks", "whole", "floor"}
    assert all(value > 0 for value in seconds.values())
    assert said["times_the_floor"] > 0
    assert said["share_of_the_floor"] == pytest.approx(1 / said["times_the_floor"])
    assert said["micrographs_per_second"] > 0
    assert said["preparation"] == "pictures prepared on the CPU"
    assert said["agreement"] is None


def test_bench_compares_what_is_prepared_on_a_device_with_the_cpu(repository: Path) -> None:
    model = repository / "exported_models" / "mlp"
    done = frazil("bench", "--model", model, "--rounds", "2", "--preparation", "device", "--device", "cpu", "--json")
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout)
    assert said["preparation"] == "pictures prepared on the device"
    agreement = said["agreement"]
    assert agreement["matched"] == agreement["picks"] == agreement["cpu_picks"] > 0
    assert agreement["largest_distance_px"] < 0.01
    assert agreement["largest_difference"] < 1e-4


def test_bench_says_where_pictures_are_prepared_and_what_the_picks_are_worth(blob_model: Path) -> None:
    done = frazil("bench", "--model", blob_model, "--rounds", "1", "--preparation", "device", "--device", "cpu")
    assert done.returncode == 0, done.stderr
    assert (
        "blob/1 on CPUExecutionProvider in float32, pictures prepared on the device; medians of 1 rounds" in done.stdout
    )
    assert "picks are among the CPU's" in done.stdout


def test_picks_that_are_not_the_cpus_are_refused() -> None:
    y = np.arange(0, 4000, 20.0)
    cpu = Picks(y=y, x=y, score=np.full(y.size, 0.5))
    nearly = Picks(y=y + 0.5, x=y, score=np.full(y.size, 0.51))
    compare_picks(nearly, cpu).check()
    compare_picks(nearly.select(y > 10), cpu).check()
    with pytest.raises(FrazilError, match=r"expected 99% of the picks .* found that 197 of 197 picks are among"):
        compare_picks(nearly.select(y > 50), cpu).check()
    with pytest.raises(FrazilError, match=r"0\.03 in their scores"):
        compare_picks(Picks(y=y, x=y, score=np.full(y.size, 0.53)), cpu).check()
    with pytest.raises(FrazilError, match="0 of 200 picks are among"):
        compare_picks(Picks(y=y + 2, x=y, score=cpu.score), cpu).check()
    nothing = cpu.select(y < 0)
    compare_picks(nothing, nothing).check()


def test_bench_needs_the_diameter_of_a_micrograph_of_ones_own(tmp_path: Path) -> None:
    done = frazil("bench", tmp_path / "a.mrc")
    assert done.returncode != 0
    assert "expected a micrograph and --diameter" in done.stderr
