"""The daemon's settings: each declared once, here, with its type, unit, default and one sentence.

The command line beats the settings file, the file beats the default. A relative path in the file is taken from
the file's own folder.
"""

from __future__ import annotations

import difflib
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec

import frazil
from frazil.errors import SettingsError

__all__ = [
    "BacklogOrder",
    "Contrast",
    "Device",
    "LogLevel",
    "ServeSettings",
    "WatchBy",
    "default_model_path",
    "load_settings",
]

Contrast = Literal["dark", "bright"]
"""How particles look in a micrograph."""

Device = Literal["auto", "cpu", "cuda"]
"""Where a model runs; ``auto`` takes a CUDA device where one answers."""

LogLevel = Literal["debug", "info", "warning", "error"]

WatchBy = Literal["auto", "events", "poll"]
"""How files are found beside scans; ``auto`` follows events where the file system delivers them."""

BacklogOrder = Literal["oldest", "newest"]
"""Which of the files that lie there at the start come first."""


_DEFAULT_MODEL = "fcn"


def _says(text: str) -> msgspec.Meta:
    return msgspec.Meta(description=text)


def default_model_path() -> Path:
    """The default model: the one in the wheel, or in a checkout the repository's."""
    package = Path(frazil.__file__).parent
    in_wheel = package / "exported_models" / _DEFAULT_MODEL
    return in_wheel if in_wheel.is_dir() else package.parents[1] / "exported_models" / _DEFAULT_MODEL


class ServeSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """All settings of ``frazil serve``. Lengths are in Å, times in seconds."""

    watch: Annotated[Path, _says("Directory, with all below it, where micrographs appear.")]
    out: Annotated[Path, _says("Directory for the STAR files; made if missing.")]
    diameter: Annotated[float, _says("Diameter of the particle, in Å.")]
    model: Annotated[
        Path, _says("A model's folder (its CURRENT version serves), one version's folder, or an .onnx file.")
    ] = msgspec.field(default_factory=default_model_path)
    pixel_size: Annotated[
        float | None, _says("Pixel size of the micrographs, in Å; beats the header's. Default: the header's.")
    ] = None
    threshold: Annotated[float | None, _says("Lowest figure of merit, 0 to 1. Default: the model's.")] = None
    min_distance: Annotated[
        float | None, _says("No two picks are closer than this, in Å. Default: half the diameter.")
    ] = None
    edge_margin: Annotated[
        float | None, _says("No pick is closer to an edge than this, in Å. Default: a quarter of the diameter.")
    ] = None
    contrast: Annotated[Contrast, _says("How particles look in the micrographs.")] = "dark"
    device: Annotated[Device, _says("Where the model runs; auto takes a CUDA device where there is one.")] = "auto"
    require_gpu: Annotated[bool, _says("Refuse to start, and refuse a model, that does not run on a GPU.")] = False
    model_proof: Annotated[
        float, _says("Seconds of processor time that a newly promoted model may take to load and prove itself.")
    ] = 60.0
    canary_micrographs: Annotated[
        int, _says("Micrographs over which a new model runs in shadow before it may serve; 0 for none.")
    ] = 0
    canary_agreement: Annotated[
        float, _says("Least share of its picks, 0 to 1, on which a model in shadow agrees with the serving one.")
    ] = 0.5
    canary_picks_ratio: Annotated[
        float, _says("A model in shadow makes at most so many times as many picks as the serving one, or as few.")
    ] = 3.0
    probation_micrographs: Annotated[
        int, _says("Micrographs after a swap during which a failing model is rolled back; 0 for none.")
    ] = 10
    probation_faults: Annotated[
        float,
        _says("Share of them, 0 to 1, on which a model may fail or find almost nothing before it is rolled back."),
    ] = 0.2
    threads: Annotated[int | None, _says("CPU threads of the model. Default: every core.")] = None
    publish: Annotated[str, _says("ZeroMQ address of the pick stream; port 0 takes a free one.")] = (
        "tcp://127.0.0.1:5556"
    )
    publish_unencrypted: Annotated[
        bool, _says("Allow the stream on an address that other machines reach, readable by all of them.")
    ] = False
    replay: Annotated[
        str | None, _says("ZeroMQ address where earlier documents are asked for. Default: the port after PUBLISH.")
    ] = None
    curve_key: Annotated[
        Path | None, _says("Secret key of this daemon (frazil keys new): the stream is encrypted with it.")
    ] = None
    curve_clients: Annotated[
        Path | None, _says("Directory with the public keys of the clients that may connect; needed with CURVE_KEY.")
    ] = None
    http: Annotated[str, _says("Address of the page and of /metrics; port 0 takes a free one.")] = "127.0.0.1:9457"
    http_unencrypted: Annotated[
        bool, _says("Allow the page on an address that other machines reach, readable by all of them.")
    ] = False
    http_names: Annotated[
        list[str], _says("Names besides its own under which browsers reach this machine, such as that of a proxy.")
    ] = msgspec.field(default_factory=list)
    ledger: Annotated[
        Path | None, _says("SQLite file that remembers every micrograph. Default: frazil-ledger.sqlite in OUT.")
    ] = None
    include: Annotated[
        list[str], _says("Glob patterns of names that can be micrographs; one with a slash is for the whole path.")
    ] = msgspec.field(default_factory=lambda: ["*.mrc"])
    exclude: Annotated[
        list[str], _says("Glob patterns of files and folders to leave alone; one with a slash is for the whole path.")
    ] = msgspec.field(default_factory=list)
    watch_by: Annotated[
        WatchBy, _says("How files are found: auto follows events where the file system delivers them, poll only scans.")
    ] = "auto"
    scan: Annotated[float, _says("Seconds between scans of the directory for files that no event told of.")] = 5.0
    backlog_order: Annotated[
        BacklogOrder, _says("Which of the files that lie there at the start come first; new ones always come before.")
    ] = "oldest"
    stall: Annotated[float, _says("Seconds without growth after which an incomplete file is reported.")] = 30.0
    read_timeout: Annotated[float, _says("Seconds after which reading a micrograph is given up.")] = 120.0
    max_micrograph_bytes: Annotated[int, _says("Memory that reading one micrograph may take, in bytes.")] = 2 << 30
    max_attempts: Annotated[
        int, _says("Attempts to pick a micrograph that fails by no fault of its own, such as an error in reading.")
    ] = 8
    keep_score_maps: Annotated[
        bool, _says("Keep what the model said of each micrograph in the ledger, to set thresholds again without it.")
    ] = True
    log_level: Annotated[LogLevel, _says("How much the log says.")] = "info"

    def __post_init__(self) -> None:
        if (self.curve_key is None) != (self.curve_clients is None):
            raise SettingsError("curve_key, curve_clients: expected both or neither, found one")
        for name in ("threads", "max_micrograph_bytes", "max_attempts"):
            if (count := getattr(self, name)) is not None and count < 1:
                raise SettingsError(f"{name}: expected at least 1, found {count}")
        for name in ("canary_micrographs", "probation_micrographs"):
            if getattr(self, name) < 0:
                raise SettingsError(f"{name}: expected 0 or more, found {getattr(self, name)}")
        for name in ("canary_agreement", "probation_faults"):
            if not 0 <= getattr(self, name) <= 1:
                raise SettingsError(f"{name}: expected a number from 0 to 1, found {getattr(self, name):g}")
        if not self.canary_picks_ratio >= 1:
            raise SettingsError(f"canary_picks_ratio: expected at least 1, found {self.canary_picks_ratio:g}")
        if self.require_gpu and self.device == "cpu":
            raise SettingsError("require_gpu: expected device to be auto or cuda, found cpu")
        for name in ("scan", "stall", "read_timeout", "model_proof"):
            if not 0 < getattr(self, name) < float("inf"):
                raise SettingsError(f"{name}: expected a positive number of seconds, found {getattr(self, name):g}")

    @property
    def ledger_file(self) -> Path:
        """Where the ledger is."""
        return self.ledger or self.out / "frazil-ledger.sqlite"


def load_settings(given: dict[str, Any], file: Path | None) -> ServeSettings:
    """Join what the command line gave with a settings file.

    Args:
        given: settings from the command line; None means not given.
        file: a TOML file with settings by the same names, or None.

    Raises:
        SettingsError: the file cannot be read, or a setting is unknown, missing, of the wrong type or impossible.
    """
    merged = _read_file(file) if file else {}
    merged.update({name: value for name, value in given.items() if value is not None})
    fields = msgspec.structs.fields(ServeSettings)
    missing = [field.name for field in fields if field.required and field.name not in merged]
    if missing:
        raise SettingsError(
            "; ".join(
                f"{name}: expected a value, found none (give --{name}, or {name} in the file)" for name in missing
            )
        )
    origin = f"{file}: " if file else ""
    try:
        return msgspec.convert(merged, ServeSettings, dec_hook=_decode_path)
    except msgspec.ValidationError as error:
        raise SettingsError(f"{origin}{_plain(error)}") from error


def _read_file(file: Path) -> dict[str, Any]:
    try:
        read = msgspec.toml.decode(file.read_bytes())
    except OSError as error:
        raise SettingsError(f"{file}: expected a settings file, cannot read it: {error.strerror}") from error
    except ValueError as error:
        raise SettingsError(f"{file}: expected TOML, found otherwise: {error}") from error
    fields = {field.name: field for field in msgspec.structs.fields(ServeSettings)}
    settings: dict[str, Any] = {}
    faults = []
    for key, value in read.items():
        name = key.replace("-", "_")
        if name not in fields:
            nearest = difflib.get_close_matches(name, fields, n=1, cutoff=0.0)
            faults.append(f"unknown setting {key!r}; the nearest known one is {nearest[0]!r}")
        elif "Path" in str(fields[name].type) and isinstance(value, str):
            settings[name] = file.parent / Path(value).expanduser()
        else:
            settings[name] = value
    if faults:
        raise SettingsError(f"{file}: " + "; ".join(faults))
    return settings


def _decode_path(kind: type, value: Any) -> Any:
    if kind is Path and isinstance(value, str | Path):
        return Path(value)
    raise ValueError(f"Expected a path, got {value!r}")


def _plain(error: msgspec.ValidationError) -> str:
    """`Expected `float`, got `str` - at `$.diameter`` → `diameter: expected float, found str`."""
    text = str(error).replace("`", "")
    what, _, where = text.partition(" - at $.")
    what = what.replace("Expected", "expected").replace(", got ", ", found ")
    return f"{where}: {what}" if where else what
