"""Settings: command line beats file beats default; what is wrong is named."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from frazil.errors import SettingsError
from frazil.settings import ServeSettings, default_model_path, load_settings
from frazil.settings.loading import read_statements

NEEDED = {"watch": Path("/"), "out": Path("/o"), "diameter_angstrom": 191.0}


def write(tmp_path: Path, text: str) -> Path:
    file = tmp_path / "frazil.toml"
    file.write_text(text)
    return file


def test_defaults() -> None:
    settings = load_settings(dict(NEEDED), None)
    assert settings.model == default_model_path()
    assert settings.publish_address == "tcp://127.0.0.1:5556"
    assert settings.http_address == "127.0.0.1:9457"
    assert settings.ledger_file == Path("/o/frazil-ledger.sqlite")


def test_command_line_beats_file_beats_default(tmp_path: Path) -> None:
    file = write(tmp_path, 'threshold = 0.4\nhttp = "127.0.0.1:1"\n')
    settings = load_settings({**NEEDED, "threshold": 0.6, "http_address": None}, file)
    assert settings.threshold == 0.6
    assert settings.http_address == "127.0.0.1:1"
    assert settings.scan_seconds == 5.0


def test_every_setting_can_stand_in_the_file(tmp_path: Path) -> None:
    values = {
        "watch": "w",
        "out": "o",
        "diameter_angstrom": 191,
        "model": "m",
        "pixel_size_angstrom": 1.77,
        "threshold": 0.5,
        "choose_threshold": False,
        "min_distance_angstrom": 100,
        "edge_margin_angstrom": 10,
        "contrast": "bright",
        "junk_model": "j",
        "find_junk": False,
        "junk_picks": "flag",
        "unusual_diameter": True,
        "device": "cuda",
        "threads": 2,
        "precision": "int8",
        "publish_address": "tcp://127.0.0.1:4",
        "publish_unencrypted": True,
        "replay_address": "tcp://127.0.0.1:3",
        "curve_key": "k.key_secret",
        "curve_clients": "clients",
        "http_address": "127.0.0.1:2",
        "http_unencrypted": True,
        "http_names": ["frazil.example.org"],
        "ledger": "l.sqlite",
        "assess": False,
        "voltage_kv": 200,
        "cs_mm": 1.4,
        "amplitude_contrast": 0.07,
        "phase_plate": True,
        "ctf_tables": ["/p/CtfFind/job003/micrographs_ctf.star"],
        "least_defocus_um": 0.8,
        "most_defocus_um": 2.5,
        "worst_resolution_angstrom": 6,
        "least_usable_fraction": 0.6,
        "most_junk_fraction": 0.3,
        "thickest_ice": 0.4,
        "fewest_picks_fraction": 0.1,
        "least_precision": 0.6,
        "most_drift": 0.4,
        "include": ["*_aligned.mrc"],
        "exclude": ["raw", "tmp/*"],
        "companions": ["*_half.mrc"],
        "layout": "relion",
        "unlike": "pick",
        "link_roots": ["/raid"],
        "grid_metadata": "epu",
        "advise_squares": True,
        "watch_by": "poll",
        "scan_seconds": 2,
        "backlog_order": "newest",
        "stall_seconds": 60,
        "read_timeout_seconds": 30,
        "max_micrograph_bytes": 1_000_000,
        "max_attempts": 3,
        "require_gpu": True,
        "model_check_seconds": 20,
        "canary_micrographs": 5,
        "canary_agreement": 0.6,
        "canary_picks_ratio": 3,
        "probation_micrographs": 4,
        "probation_faults": 0.5,
        "repick_after_promotion": True,
        "keep_score_maps": False,
        "hang_timeout_seconds": 60,
        "log_level": "debug",
    }
    of_a_microscope = {"root", "sessions", "recent_days"}
    not_beside_a_threshold = {"target_precision"}
    assert set(values) | of_a_microscope | not_beside_a_threshold == {
        field.name for field in msgspec.structs.fields(ServeSettings)
    }
    for folder in ("w", "m", "j", "clients"):
        (tmp_path / folder).mkdir()
    (tmp_path / "k.key_secret").write_text("")
    file = write(tmp_path, "".join(f"{name} = {json.dumps(value)}\n" for name, value in values.items()))
    settings = load_settings({}, file)
    for name, value in values.items():
        found = getattr(settings, name)
        assert (str(found.relative_to(tmp_path)) if isinstance(found, Path) else found) == value


def test_paths_in_the_file_are_relative_to_it(tmp_path: Path) -> None:
    (tmp_path / "micrographs").mkdir()
    file = write(tmp_path, 'watch = "micrographs"\nout = "/abs"\ndiameter = 100')
    settings = load_settings({"out": None}, file)
    assert settings.watch == tmp_path / "micrographs"
    assert settings.out == Path("/abs")


def test_dashes_work_as_on_the_command_line(tmp_path: Path) -> None:
    assert load_settings(dict(NEEDED), write(tmp_path, "pixel-size-angstrom = 1.5")).pixel_size_angstrom == 1.5
    with pytest.raises(SettingsError, match=r"toml:2: pixel_size_angstrom: expected once, found it in line 1 already"):
        load_settings(dict(NEEDED), write(tmp_path, "pixel-size = 1.5\npixel_size = 1.5"))


def test_a_name_of_frazil_0_1_is_understood_and_the_new_one_is_said(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    named = {"watch": Path("/"), "out": Path("/o")}
    old = load_settings(named, write(tmp_path, 'diameter = 191\nscan = 2\nhttp = "127.0.0.1:1"\n'))
    assert (old.diameter_angstrom, old.scan_seconds, old.http_address) == (191, 2, "127.0.0.1:1")
    assert [record.getMessage().partition(": ")[2] for record in caplog.records] == [
        f"{name} is now called {now}; the old name is accepted until frazil 0.3"
        for name, now in (("diameter", "diameter_angstrom"), ("scan", "scan_seconds"), ("http", "http_address"))
    ]
    with pytest.raises(SettingsError, match=r"toml:2: diameter_angstrom: expected once, found it in line 1 already"):
        load_settings(named, write(tmp_path, "diameter = 191\ndiameter_angstrom = 191\n"))


def test_an_unknown_key_is_refused_with_the_nearest_known_one(tmp_path: Path) -> None:
    with pytest.raises(
        SettingsError, match=r"frazil.toml:1: unknown setting 'treshold'; the nearest known one is 'threshold'"
    ):
        load_settings(dict(NEEDED), write(tmp_path, "treshold = 0.5"))


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ('diameter_angstrom = "wide"', "diameter_angstrom: expected a number, found 'wide'"),
        ("diameter_angstrom = 0", "diameter_angstrom: expected a number above 0, found 0"),
        ("diameter_angstrom = inf", "diameter_angstrom: expected a number of at most 100000, found inf"),
        ("diameter_angstrom = nan", "diameter_angstrom: expected a number above 0, found nan"),
        ("threshold = 7", "threshold: expected a number of at most 1, found 7"),
        ('contrast = "grey"', "contrast: expected dark or bright, found 'grey'"),
        ("threads = 0", "threads: expected an integer of at least 1, found 0"),
        ("threads = true", "threads: expected an integer, found true"),
        ("canary_micrographs = -1", "canary_micrographs: expected an integer of at least 0, found -1"),
        ("probation_faults = 2.0", "probation_faults: expected a number of at most 1, found 2"),
        ("canary_picks_ratio = 0.5", "canary_picks_ratio: expected a number of at least 1, found 0.5"),
        ('require_gpu = true\ndevice = "cpu"', "require_gpu, device: expected device to be auto or cuda, found cpu"),
        ("scan = -1", "scan: expected a number above 0, found -1"),
        ("watch = 5", "watch: expected a path, found 5"),
        ('watch = "frazil.toml"', r"watch: expected a directory, found none at .*frazil\.toml"),
        ('model = "none"', "model: expected a file or folder, found nothing at .*none"),
        ('include = ["*.mrc", 5]', "include: expected text, found an integer"),
        ('publish = "tcp://0.0.0.0:5556"', "publish: .*expected an address of this machine alone"),
        ('publish = "5556"', "publish: 5556: expected an address such as tcp://127.0.0.1:5556"),
        ('http = "127.0.0.1"', "http: 127.0.0.1: expected an address such as 127.0.0.1:9457"),
        ('http = "0.0.0.0:9457"', "http: .*expected an address of this machine alone"),
        ('http = "127.0.0.1:70000"', "http: 127.0.0.1:70000: expected an address such as"),
        ('http = "127.0.0.1:5557"', "http: expected a port for each, found .*5556, .*5557, .*5557"),
        ('curve_key = "frazil.toml"', "curve_key: expected both or neither, found one"),
        ("= 5", "expected TOML"),
        ("[stream]", "expected settings alone, found the table 'stream'"),
    ],
)
def test_wrong_values_are_refused_by_name_and_line(tmp_path: Path, text: str, says: str) -> None:
    given = {name: value for name, value in NEEDED.items() if name not in text}
    with pytest.raises(SettingsError, match=rf"frazil\.toml:2: .*{says.replace('|', '[|]')}") as caught:
        load_settings(given, write(tmp_path, f"# settings\n{text}"))
    assert len([fault for fault in caught.value.faults if ":2:" in fault]) == 1


@pytest.mark.parametrize(
    ("name", "value", "cure"),
    [
        ("http_address", "0.0.0.0:9457", "http_unencrypted"),
        ("publish_address", "tcp://0.0.0.0:5556", "publish_unencrypted"),
        ("replay_address", "tcp://*:1", "publish_unencrypted"),
    ],
)
def test_the_cure_is_offered_as_the_user_gave_the_setting(tmp_path: Path, name: str, value: str, cure: str) -> None:
    file = write(tmp_path, f'{name} = "{value}"\n')
    with pytest.raises(SettingsError) as by_file:
        load_settings(NEEDED, file)
    assert f"`{cure} = true`" in str(by_file.value)
    assert "--" not in str(by_file.value)
    with pytest.raises(SettingsError) as by_flag:
        load_settings(NEEDED | {name: value}, None)
    assert f"--{cure.replace('_', '-')}" in str(by_flag.value)
    assert " = " not in str(by_flag.value)
    file.write_text(f'{name} = "{value}"\n{cure} = true\n')
    assert getattr(load_settings(NEEDED, file), cure)


def test_every_fault_is_listed_at_once_with_its_line(tmp_path: Path) -> None:
    file = write(
        tmp_path,
        """# titan1
watch = 5
include = [
  "*.mrc",      # = what we take
  "x = 5",
]
treshold = 0.5
threads = 0
scan = = 2

out = "out"
http = "127.0.0.1:1"
http = "127.0.0.1:2"
require_gpu = true
device = "cpu"
exclude = ["raw"
contrast = "grey"
""",
    )
    with pytest.raises(SettingsError) as caught:
        load_settings({"max_attempts": -3}, file)
    faults = list(caught.value.faults)
    where = [fault.removeprefix(f"{file}:").partition(":")[0] for fault in faults]
    assert where == ["--max-attempts", "2", "7", "8", "9", "13", "14", "16", "17", "diameter_angstrom"]
    assert "http_address: expected once, found it in line 12 already" in faults[5]
    assert "diameter_angstrom: expected a value, found none" in faults[-1]


@pytest.mark.parametrize(
    "text", ['a = """', "x = [1,\n2", "\x00", "a.b = 1", "a = {b = 1}", '"" = 5', "\ufeffa = 1", "[[a]]", "watch"]
)
def test_a_broken_file_is_told_with_a_line_and_nothing_else(tmp_path: Path, text: str) -> None:
    with pytest.raises(SettingsError, match=r"frazil\.toml:1: "):
        load_settings(dict(NEEDED), write(tmp_path, text))


@given(
    values=st.dictionaries(
        st.sampled_from(["threshold", "scan", "stall", "include", "exclude", "log_level", "unknown"]),
        st.one_of(
            st.floats(0.01, 1),
            st.lists(st.text(max_size=8), max_size=3),
            st.sampled_from(["info", "a = b", 'quo"te']),
        ),
        min_size=1,
    ),
    blanks=st.integers(0, 3),
)
def test_statements_are_what_tomllib_reads(values: dict[str, object], blanks: int) -> None:
    """On any sound file, our statements say what tomllib says of the whole, each at the line where its key stands."""
    lists = "[\n  {}\n]"
    text = ("\n" * blanks).join(
        f"{key} = {lists.format(', '.join(map(json.dumps, value))) if isinstance(value, list) else json.dumps(value)}\n"
        for key, value in values.items()
    )
    text = text.replace("\x7f", "")
    try:
        whole = tomllib.loads(text)
    except tomllib.TOMLDecodeError:
        assert any(statement.fault for statement in read_statements(text))
        return
    statements = list(read_statements(text))
    assert {statement.key: statement.value for statement in statements} == whole
    for statement in statements:
        assert text.split("\n")[statement.line - 1].startswith(f"{statement.key} = ")


def test_what_is_missing_is_named() -> None:
    with pytest.raises(SettingsError, match=r"watch: expected a value.*; diameter_angstrom: expected a value"):
        load_settings({"out": Path("/o")}, None)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"no.toml: expected a settings file"):
        load_settings({}, tmp_path / "no.toml")


def test_a_file_that_is_no_text_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "frazil.toml"
    file.write_bytes(b"\xff\xfe")
    with pytest.raises(SettingsError, match=r"frazil.toml: expected text in UTF-8"):
        load_settings({}, file)
    file.write_bytes(b"#" * (2 << 20))
    with pytest.raises(SettingsError, match=r"frazil.toml: expected a settings file, found more than"):
        load_settings({}, file)


def test_a_path_may_lie_in_the_folder_of_credentials(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "clients").mkdir()
    credentials = tmp_path / "credentials"
    credentials.mkdir()
    (credentials / "curve_key").write_text("")
    file = write(tmp_path, 'curve_key = "$CREDENTIALS_DIRECTORY/curve_key"\ncurve_clients = "clients"')
    with pytest.raises(SettingsError, match=r"toml:1: curve_key: expected a file, found none at .*/curve_key"):
        load_settings(dict(NEEDED), file)
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(credentials))
    assert load_settings(dict(NEEDED), file).curve_key == credentials / "curve_key"


def test_a_path_that_cannot_be_looked_at_is_a_fault_with_its_reason(tmp_path: Path) -> None:
    """As a link into a home that systemd hides; a link to itself is as bad for root, too."""
    (tmp_path / "loop").symlink_to("loop")
    (tmp_path / "dangling").symlink_to("comes-later")
    file = write(tmp_path, 'watch = "loop"\nout = "o"\ndiameter = 50\n')
    with pytest.raises(SettingsError, match=r":1: watch: expected a directory that can be reached, found .*: Too many"):
        load_settings({}, file)
    file = write(tmp_path, 'watch = "dangling"\nout = "o"\ndiameter = 50\n')
    assert load_settings({}, file).watch == tmp_path / "dangling"


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("least_defocus_um = 2.0\nmost_defocus_um = 1.0", "least_defocus_um below most_defocus_um, found 2 and 1"),
        ('ctf_tables = ["CtfFind/job003/micrographs_ctf.star"]', "absolute paths, found CtfFind/job003/micrographs_c"),
        ("voltage_kv = 300000", "expected a number of at most 3000"),
    ],
)
def test_settings_of_quality_are_checked(tmp_path: Path, text: str, fault: str) -> None:
    with pytest.raises(SettingsError) as raised:
        load_settings(dict(NEEDED), write(tmp_path, text))
    assert fault in str(raised.value)
