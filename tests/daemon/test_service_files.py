"""What install-service writes, and what systemd's own tools say of it."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from frazil.errors import FrazilError, SettingsError
from frazil.machine import Installation, plan_installation
from frazil.settings import load_settings

PROGRAM = Path(sys.executable).with_name("frazil")
Plan = Callable[..., Installation]


@pytest.fixture
def plan(tmp_path: Path) -> Plan:
    """Plan the installation of titan1 below a directory of the test."""
    (tmp_path / "watch me").mkdir()

    def make(instance: str = "titan1", user: str | None = "daemon", **given: object) -> Installation:
        given = given or {"watch": tmp_path / "watch me", "out": tmp_path / "picks 100%", "diameter_angstrom": 191.0}
        root = tmp_path / "root"
        return plan_installation(instance, given, user=user, executable=PROGRAM, root=root)

    return make


def again(tmp_path: Path) -> Installation:
    return plan_installation("titan1", {}, user="daemon", executable=PROGRAM, root=tmp_path / "root")


def content(installation: Installation, ending: str) -> str:
    (text,) = [text for path, text in installation.files.items() if str(path).endswith(ending)]
    return text


def test_the_settings_it_writes_are_those_given_and_can_be_read(plan: Plan, tmp_path: Path) -> None:
    plan().write()
    settings = load_settings({}, tmp_path / "root/etc/frazil/titan1.toml")
    assert settings.watch == tmp_path / "watch me"
    assert settings.out == tmp_path / "picks 100%"
    assert settings.diameter_angstrom == 191
    assert settings.ledger_file == Path("/var/lib/frazil/titan1/ledger.sqlite")
    assert settings.out.is_dir()


def test_the_unit_runs_this_program_and_each_instance_as_the_user_given(plan: Plan) -> None:
    unit = content(plan(), "frazil@.service")
    assert f"ExecStart={PROGRAM} serve --config /etc/frazil/%i.toml\n" in unit
    assert "\nUser=daemon\n" in content(plan(), "machine.conf")
    other = plan(user="games")
    assert content(other, "frazil@.service") == unit, "another microscope's user changes the unit of all"
    assert "\nUser=games\n" in content(other, "machine.conf")


def test_the_drop_in_lets_it_write_its_results_and_waits_for_its_mounts(plan: Plan, tmp_path: Path) -> None:
    drop_in = content(plan(), "frazil@titan1.service.d/machine.conf")
    out = f'"{tmp_path}/picks 100%%"'
    # Not required: what may be mounted later is waited for.
    assert f"ReadWritePaths=-{out}\n" in drop_in
    assert f'ReadOnlyPaths=-"{tmp_path}/watch me"\n' in drop_in
    required = re.findall(r"(?m)^RequiresMountsFor=(.*)$", drop_in)
    assert "/var/lib/frazil/titan1" in required
    assert not [path for path in required if str(tmp_path) in path]
    (wants,), (after,) = (re.findall(rf"(?m)^{name}=(.*)$", drop_in) for name in ("Wants", "After"))
    assert wants == after
    above = str(tmp_path)[1:].replace("-", r"\x2d").replace("/", "-")
    top = f"{tmp_path.parts[1]}.mount"
    for name in (rf"{above}-watch\x20me.mount", rf"{above}-picks\x20100\x25.mount", f"{above}.mount", top):
        assert name in wants.split()
    assert "LoadCredential" not in drop_in


def test_settings_that_are_there_are_kept_and_read(plan: Plan, tmp_path: Path) -> None:
    plan().write()
    file = tmp_path / "root/etc/frazil/titan1.toml"
    file.write_text(file.read_text() + f'model = "{tmp_path}/watch me"\n')
    second = again(tmp_path)
    assert second.kept == file
    assert file not in second.files
    assert f'RequiresMountsFor="{tmp_path}/watch me"\n' in content(second, "machine.conf")
    with pytest.raises(FrazilError, match=r"titan1\.toml: found settings already: .*--diameter"):
        plan()
    file.write_text("watch = 5\n")
    with pytest.raises(SettingsError, match=r"titan1\.toml:1: watch: expected a path"):
        again(tmp_path)


def test_a_key_becomes_a_credential(plan: Plan, tmp_path: Path) -> None:
    plan().write()
    folder = tmp_path / "root/etc/frazil"
    (folder / "titan1.key_secret").write_text("")
    (folder / "clients").mkdir()
    with (folder / "titan1.toml").open("a") as file:
        file.write('curve_key = "$CREDENTIALS_DIRECTORY/titan1.key_secret"\ncurve_clients = "clients"\n')
    drop_in = content(again(tmp_path), "machine.conf")
    assert f"LoadCredential=titan1.key_secret:{folder}/titan1.key_secret\n" in drop_in


def test_what_lies_in_a_home_is_not_hidden(tmp_path: Path, plan: Plan) -> None:
    if not Path("/root").is_dir():
        pytest.skip("needs a directory in somebody's home")
    homely = plan(watch=Path("/root"), out=tmp_path / "o", diameter_angstrom=100.0)
    assert "ProtectHome=read-only\n" in content(homely, "machine.conf")


def test_what_a_link_leads_to_in_a_home_is_not_hidden(tmp_path: Path, plan: Plan) -> None:
    if not Path("/root").is_dir():
        pytest.skip("needs a directory in somebody's home")
    (tmp_path / "collection").symlink_to("/root")
    linked = plan(watch=tmp_path / "collection", out=tmp_path / "o", diameter_angstrom=100.0)
    assert "ProtectHome=read-only\n" in content(linked, "machine.conf")


def test_without_the_watched_directory_it_asks_for_a_user(tmp_path: Path, plan: Plan) -> None:
    with pytest.raises(FrazilError, match=r"none: expected a directory whose owner has a name, .* give --user"):
        plan(user=None, watch=tmp_path / "none", out=tmp_path / "o", diameter_angstrom=100.0)


@pytest.mark.system
def test_the_unit_allows_the_sockets_that_the_daemon_opens(
    plan: Plan, serve: Callable[..., Any], blob_model: Path, tmp_path: Path
) -> None:
    """libzmq asks for the machine's addresses by a netlink socket at each bind, and aborts without."""
    if shutil.which("strace") is None:
        if os.environ.get("CI") == "true":
            pytest.fail("strace is missing, and CI must not skip what needs it")
        pytest.skip("needs strace, to see which sockets the daemon opens")
    record = tmp_path / "calls"
    strace = ["strace", "-D", "-f", "--seccomp-bpf", "-qqq", "-e", "trace=socket,socketpair", "-o", record]
    daemon = serve("--diameter", "191", "--model", blob_model, prefix=strace)
    assert daemon.stop() == 0
    opened = set(re.findall(r"socket(?:pair)?\((AF_\w+)", record.read_text()))
    assert "AF_INET" in opened
    (allowed,) = re.findall(r"(?m)^RestrictAddressFamilies=(.*)$", content(plan(), "frazil@.service"))
    assert opened <= set(allowed.split())


def test_what_lies_among_temporary_files_is_not_hidden(plan: Plan) -> None:
    shared = plan(watch=Path("/"), out=Path("/var/tmp/picks"), diameter_angstrom=100.0)
    assert "PrivateTmp=no\n" in content(shared, "machine.conf")


@pytest.mark.parametrize("instance", ["", "a/b", "../x", "a b", "-x", "a%i", "a\n"])
def test_a_name_that_is_none_for_an_instance_is_refused(plan: Plan, instance: str) -> None:
    with pytest.raises(FrazilError, match="expected a name of letters"):
        plan(instance)


@pytest.mark.parametrize(
    ("user", "says"),
    [("root", "expected a user with rights"), ("nobody", "expected a user with"), ("no-such", "expected a user of")],
)
def test_a_user_that_cannot_run_it_is_refused(plan: Plan, user: str, says: str) -> None:
    with pytest.raises(FrazilError, match=says):
        plan(user=user)


# --- systemd's own tools ------------------------------------------------------------------------------------------


@pytest.fixture
def systemd_analyze() -> str:
    found = shutil.which("systemd-analyze")
    if found is None:
        if os.environ.get("CI") == "true":
            pytest.fail("systemd-analyze is missing, and CI must not skip what needs it")
        pytest.skip("needs systemd-analyze, which this machine does not have")
    return found


def analyze(*command: object) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "SYSTEMD_LOG_LEVEL": "info"}
    return subprocess.run([str(c) for c in command], capture_output=True, text=True, timeout=300, env=environment)


def test_systemd_finds_no_fault_in_unit_and_drop_in(plan: Plan, systemd_analyze: str, tmp_path: Path) -> None:
    plan().write()
    units = tmp_path / "root/etc/systemd/system"
    (units / "frazil@.service").rename(units / "frazil@titan1.service")  # so that the drop-in is read, too
    done = analyze(systemd_analyze, "verify", units / "frazil@titan1.service")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    with (units / "frazil@titan1.service.d/machine.conf").open("a") as drop_in:
        drop_in.write("NoSuchThing=1\n")
    assert "NoSuchThing" in analyze(systemd_analyze, "verify", units / "frazil@titan1.service").stderr


def test_the_unit_is_exposed_at_most_2_of_10(plan: Plan, systemd_analyze: str, tmp_path: Path) -> None:
    plan().write()
    unit = tmp_path / "root/etc/systemd/system/frazil@.service"
    strict = analyze(systemd_analyze, "security", "--offline=true", "--threshold=20", "--no-pager", unit)
    assert strict.returncode == 0, strict.stdout + strict.stderr
    exposure = re.search(r"Overall exposure level for \S+: (\S+)", strict.stdout)
    assert exposure is not None
    assert float(exposure[1]) <= 2.0
    text = unit.read_text()
    assert "SystemCallErrorNumber=EPERM" in text
    assert "~@resources" not in text
    # That the figure is the unit's and not the tool's: without its rules it is far off.
    unit.write_text(re.sub(r"(?m)^(Protect|Restrict|System|Capability|Device|NoNew|Private).*$", "", text))
    assert analyze(systemd_analyze, "security", "--offline=true", "--threshold=20", unit).returncode != 0
