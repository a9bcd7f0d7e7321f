"""The table [cluster]: read by `frazil repick`, passed over by the daemon, its faults named with their lines."""

from __future__ import annotations

from pathlib import Path

import pytest

from frazil.errors import SettingsError
from frazil.settings import ClusterSettings, load_cluster_settings, load_settings

DAEMON = 'watch = "."\nout = "out"\ndiameter_angstrom = 190\n'


def write(tmp_path: Path, text: str) -> Path:
    file = tmp_path / "frazil.toml"
    file.write_text(text)
    return file


def test_the_command_line_beats_the_table_and_the_daemon_does_not_see_it(tmp_path: Path) -> None:
    file = write(
        tmp_path, f'{DAEMON}\n[cluster]\nworkers = 40\nqueue = "gpu"\nprologue = [\n  "module load cuda",\n]\n'
    )
    settings = load_cluster_settings({"workers": 3, "threads_per_worker": None}, file)
    assert (settings.workers, settings.threads_per_worker, settings.queue) == (3, 1, "gpu")
    assert settings.prologue == ["module load cuda"]
    assert load_settings({}, file).diameter_angstrom == 190
    assert load_cluster_settings({}, None) == ClusterSettings()


@pytest.mark.parametrize(
    ("table", "fault"),
    [
        ("wokers = 2", ":6: unknown setting 'wokers'; the nearest known one is 'workers'"),
        ("workers = 0", ":6: workers: expected an integer of at least 1, found 0"),
        ('walltime = "8 hours"', ":6: walltime: expected a time such as 08:00:00, found '8 hours'"),
        ('memory = "much"', ":6: memory: expected a size such as 4GB, found 'much'"),
        ('tls_ca = "nowhere.pem"', ":6: tls_ca: expected a file, found none at"),
        ("workers = 1\nworkers = 2", ":7: workers: expected once, found it in line 6 already"),
        ("workers = = 1", ":6: expected TOML, found otherwise"),
    ],
)
def test_a_fault_is_named_with_its_line(tmp_path: Path, table: str, fault: str) -> None:
    with pytest.raises(SettingsError) as raised:
        load_cluster_settings({}, write(tmp_path, f"{DAEMON}\n[cluster]\n{table}\n"))
    assert fault in str(raised.value)


def test_settings_of_the_daemon_below_the_table_are_none(tmp_path: Path) -> None:
    file = write(tmp_path, f"{DAEMON}[cluster]\nthreshold = 0.4\n")
    assert load_settings({}, file).threshold is None
    with pytest.raises(SettingsError, match=":5: unknown setting 'threshold'"):
        load_cluster_settings({}, file)


def test_another_table_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=":4: expected settings alone, found the table 'clusters'"):
        load_settings({}, write(tmp_path, f"{DAEMON}[clusters]\n"))
