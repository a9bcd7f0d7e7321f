"""The registry: what is wished of sessions, across processes and restarts."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from frazil.errors import OutputError, SettingsError
from frazil.microscope.registry import REGISTRY_NAME, Registry


@pytest.fixture
def registry(tmp_path: Path) -> Registry:
    return Registry(tmp_path / REGISTRY_NAME)


def test_nothing_is_made_before_there_is_something_to_keep(registry: Registry) -> None:
    assert registry.records() == {}
    assert registry.page() == ""
    assert not registry.file.exists()


def test_wishes_and_settings_are_kept_and_taken_back(registry: Registry) -> None:
    registry.change("1101", Path("/data/1101"), "paused", {"diameter": 180, "include": ["*_DW.mrc"]})
    registry.change("1101", Path("/data/1101"), None, {"threshold": 0.4, "include": None})
    record = Registry(registry.file).records()["1101"]
    assert (record.wish, record.directory) == ("paused", "/data/1101")
    assert record.settings == {"diameter_angstrom": 180, "threshold": 0.4}
    registry.note_opened("1101")
    opened = registry.records()["1101"].opened_at
    registry.note_closed("1101")
    registry.note_opened("1101")
    again = registry.records()["1101"]
    assert again.opened_at == opened
    assert again.closed_at is None


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"diameter_angstrom": -5}, "expected a number above 0, found -5"),
        ({"diametre_angstrom": 5}, "diametre_angstrom: expected a setting of one session, such as diameter_angstrom"),
        ({"http_address": "0.0.0.0:1"}, "http_address: expected a setting of one session"),
        ({"contrast": "grey"}, "expected dark or bright"),
    ],
)
def test_an_impossible_setting_is_refused_and_nothing_is_kept(
    registry: Registry, settings: dict[str, object], says: str
) -> None:
    with pytest.raises(SettingsError, match=says):
        registry.change("1101", Path("/data/1101"), "open", settings)
    assert registry.records() == {}


def test_a_damaged_registry_is_said(registry: Registry) -> None:
    registry.file.write_bytes(b"no database at all, however long it is. " * 100)
    with pytest.raises(OutputError, match="expected the daemon's list of sessions"):
        registry.records()


def test_many_may_write_at_the_same_time(registry: Registry) -> None:
    def write(name: str) -> None:
        for value in range(10):
            Registry(registry.file).change(name, Path("/data"), None, {"max_attempts": value + 1})

    threads = [threading.Thread(target=write, args=(f"s{number}",)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert {name: record.settings for name, record in registry.records().items()} == {
        f"s{number}": {"max_attempts": 10} for number in range(6)
    }


def test_what_several_set_of_one_session_at_the_same_time_is_all_kept(registry: Registry) -> None:
    names = ["max_attempts", "stall_seconds", "scan_seconds", "threshold", "contrast", "backlog_order"]
    values = [3, 40, 2, 0.4, "bright", "newest"]
    registry.add("1101", Path("/data"))
    together = threading.Barrier(len(names))

    def write(name: str, value: object) -> None:
        together.wait(60)
        for _ in range(30):
            Registry(registry.file).change("1101", Path("/data"), None, {name: None})
            Registry(registry.file).change("1101", Path("/data"), None, {name: value})

    threads = [threading.Thread(target=write, args=pair) for pair in zip(names, values, strict=True)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert registry.records()["1101"].settings == dict(zip(names, values, strict=True))
