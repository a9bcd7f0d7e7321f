"""Settings: command line beats file beats default; what is wrong is named."""

from __future__ import annotations

import json
from pathlib import Path

import msgspec
import pytest

from frazil.errors import SettingsError
from frazil.settings import ServeSettings, default_model_path, load_settings

NEEDED = {"watch": Path("/w"), "out": Path("/o"), "diameter": 191.0}


def write(tmp_path: Path, text: str) -> Path:
    file = tmp_path / "frazil.toml"
    file.write_text(text)
    return file


def test_defaults() -> None:
    settings = load_settings(dict(NEEDED), None)
    assert settings.model == default_model_path()
    assert settings.publish == "tcp://127.0.0.1:5556"
    assert settings.http == "127.0.0.1:9457"
    assert settings.ledger_file == Path("/o/frazil-ledger.sqlite")


def test_command_line_beats_file_beats_default(tmp_path: Path) -> None:
    file = write(tmp_path, 'threshold = 0.4\nhttp = "127.0.0.1:1"\n')
    settings = load_settings({**NEEDED, "threshold": 0.6, "http": None}, file)
    assert settings.threshold == 0.6
    assert settings.http == "127.0.0.1:1"
    assert settings.scan == 5.0


def test_every_setting_can_stand_in_the_file(tmp_path: Path) -> None:
    values = {
        "watch": "w",
        "out": "o",
        "diameter": 191,
        "model": "m",
        "pixel_size": 1.77,
        "threshold": 0.5,
        "min_distance": 100,
        "edge_margin": 10,
        "contrast": "bright",
        "device": "cuda",
        "threads": 2,
        "publish": "tcp://127.0.0.1:1",
        "publish_unencrypted": True,
        "replay": "tcp://127.0.0.1:3",
        "curve_key": "k.key_secret",
        "curve_clients": "clients",
        "http": "127.0.0.1:2",
        "ledger": "l.sqlite",
        "include": ["*_aligned.mrc"],
        "exclude": ["raw", "tmp/*"],
        "watch_by": "poll",
        "scan": 2,
        "backlog_order": "newest",
        "stall": 60,
        "read_timeout": 30,
        "max_micrograph_bytes": 1_000_000,
        "max_attempts": 3,
        "require_gpu": True,
        "model_proof": 20,
        "canary_micrographs": 5,
        "canary_agreement": 0.6,
        "canary_picks_ratio": 3,
        "probation_micrographs": 4,
        "probation_faults": 0.5,
        "keep_score_maps": False,
        "log_level": "debug",
    }
    assert set(values) == {field.name for field in msgspec.structs.fields(ServeSettings)}
    file = write(tmp_path, "".join(f"{name} = {json.dumps(value)}\n" for name, value in values.items()))
    settings = load_settings({}, file)
    for name, value in values.items():
        found = getattr(settings, name)
        assert (str(found.relative_to(tmp_path)) if isinstance(found, Path) else found) == value


def test_paths_in_the_file_are_relative_to_it(tmp_path: Path) -> None:
    file = write(tmp_path, 'watch = "micrographs"\nout = "/abs"\ndiameter = 10')
    settings = load_settings({"out": None}, file)
    assert settings.watch == tmp_path / "micrographs"
    assert settings.out == Path("/abs")


def test_dashes_work_as_on_the_command_line(tmp_path: Path) -> None:
    assert load_settings(dict(NEEDED), write(tmp_path, "pixel-size = 1.5")).pixel_size == 1.5


def test_an_unknown_key_is_refused_with_the_nearest_known_one(tmp_path: Path) -> None:
    with pytest.raises(
        SettingsError, match=r"frazil.toml: unknown setting 'treshold'; the nearest known one is 'threshold'"
    ):
        load_settings(dict(NEEDED), write(tmp_path, "treshold = 0.5"))


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ('diameter = "wide"', "diameter: expected float, found str"),
        ('contrast = "grey"', "contrast: .*grey"),
        ("threads = 0", "threads: expected at least 1, found 0"),
        ("canary_micrographs = -1", "canary_micrographs: expected 0 or more, found -1"),
        ("probation_faults = 2.0", "probation_faults: expected a number from 0 to 1, found 2"),
        ("canary_picks_ratio = 0.5", "canary_picks_ratio: expected at least 1, found 0.5"),
        ('require_gpu = true\ndevice = "cpu"', "require_gpu: expected device to be auto or cuda, found cpu"),
        ("scan = -1", "scan: expected a positive number of seconds"),
        ("watch = 5", "watch: expected a path, found 5"),
        ("= 5", "expected TOML"),
    ],
)
def test_wrong_values_are_refused_by_name(tmp_path: Path, text: str, says: str) -> None:
    given = {name: value for name, value in NEEDED.items() if name not in text}
    with pytest.raises(SettingsError, match=says):
        load_settings(given, write(tmp_path, text))


def test_what_is_missing_is_named() -> None:
    with pytest.raises(SettingsError, match=r"watch: expected a value.*; diameter: expected a value"):
        load_settings({"out": Path("/o")}, None)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"no.toml: expected a settings file"):
        load_settings({}, tmp_path / "no.toml")
