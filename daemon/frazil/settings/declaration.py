"""The daemon's settings: each declared once, here, with its type, unit, bounds, default and one sentence.

The command line beats the settings file, the file beats the default.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal, get_type_hints

import msgspec

import frazil
from frazil.errors import SettingsError
from frazil.limits import LARGEST_DISTANCE_ANGSTROM, LARGEST_THRESHOLD, JunkPicks, LimitsPatch
from frazil.model.contract import Contrast, Device, Precision
from frazil.settings.layouts import COMPANIONS, LayoutSetting

__all__ = [
    "RENAMED",
    "SESSION_SETTINGS",
    "BacklogOrder",
    "LogLevel",
    "MustBe",
    "ServeSettings",
    "Unlike",
    "WatchBy",
    "default_junk_model_path",
    "default_model_path",
    "option_of",
]

LogLevel = Literal["debug", "info", "warning", "error"]

WatchBy = Literal["auto", "events", "poll"]
"""How files are found in addition to scans; ``auto`` follows events if the file system delivers them."""

BacklogOrder = Literal["oldest", "newest"]
"""Which files of the backlog come first."""

Unlike = Literal["hold", "pick"]
"""What becomes of a micrograph whose shape or pixel size is unlike its session's."""

MustBe = Literal["directory", "directory, perhaps later", "file", "there"]
"""What must exist at a path in the settings before anything starts."""

_Fraction = Annotated[float, msgspec.Meta(ge=0, le=1)]
_Angstrom = Annotated[float, msgspec.Meta(gt=0, le=100_000)]
_Threshold = Annotated[float, msgspec.Meta(ge=0, le=LARGEST_THRESHOLD)]
_Distance = Annotated[float, msgspec.Meta(ge=0, le=LARGEST_DISTANCE_ANGSTROM)]
_Micrometre = Annotated[float, msgspec.Meta(gt=0, le=100)]
_Seconds = Annotated[float, msgspec.Meta(gt=0, le=86_400)]
_Count = Annotated[int, msgspec.Meta(ge=1)]
_CountOrZero = Annotated[int, msgspec.Meta(ge=0)]

_DEFAULT_MODEL, _DEFAULT_JUNK_MODEL = "fcn", "junk"

RENAMED = {
    "diameter": "diameter_angstrom",
    "pixel_size": "pixel_size_angstrom",
    "min_distance": "min_distance_angstrom",
    "edge_margin": "edge_margin_angstrom",
    "scan": "scan_seconds",
    "stall": "stall_seconds",
    "read_timeout": "read_timeout_seconds",
    "model_proof": "model_check_seconds",
    "hang_timeout": "hang_timeout_seconds",
    "publish": "publish_address",
    "replay": "replay_address",
    "http": "http_address",
}
"""New names of settings by their names in frazil 0.1. Files may use the old names for one release, with a warning;
command-line options keep them."""


def _setting(text: str, group: str = "The service", *, must_be: MustBe | None = None) -> msgspec.Meta:
    return msgspec.Meta(description=text, extra={"group": group, "must_be": must_be})


def option_of(name: str) -> str:
    """The command-line option of a setting, without its dashes: ``pixel-size`` of ``pixel_size_angstrom``."""
    short = next((old for old, new in RENAMED.items() if new == name), name)
    return short.replace("_", "-")


def default_model_path() -> Path:
    """The default model: the one in the wheel, or in a checkout the repository's."""
    return _shipped(_DEFAULT_MODEL)


def default_junk_model_path() -> Path:
    """The default model that finds junk, which is beside the default model."""
    return _shipped(_DEFAULT_JUNK_MODEL)


def _shipped(name: str) -> Path:
    package = Path(frazil.__file__).parent
    in_wheel = package / "exported_models" / name
    return in_wheel if in_wheel.is_dir() else package.parents[1] / "exported_models" / name


class ServeSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """All settings of ``frazil serve``. Lengths are in Å, times in seconds."""

    watch: Annotated[
        Path,
        _setting(
            "Directory, with all below it, where micrographs appear. The daemon waits for one that does not exist yet. "
            "With ROOT, the sessions below it are watched instead.",
            "What is needed",
            must_be="directory, perhaps later",
        ),
    ] = msgspec.field(default_factory=Path)
    out: Annotated[
        Path,
        _setting(
            "Directory for the STAR files; made if missing. With ROOT, each session has a folder of its name in it.",
            "What is needed",
        ),
    ]
    diameter_angstrom: Annotated[
        _Angstrom | None,
        _setting(
            "Diameter of the particle, in Å. With ROOT, that of sessions that give none; without any, a session waits.",
            "What is needed",
        ),
    ] = None
    model: Annotated[
        Path,
        _setting(
            "A model's folder (its CURRENT version serves), one version's folder, or an .onnx file.",
            "The model",
            must_be="there",
        ),
    ] = msgspec.field(default_factory=default_model_path)
    junk_model: Annotated[
        Path,
        _setting(
            "The model that finds junk, likewise. The daemon picks without one that cannot serve.",
            "The model",
        ),
    ] = msgspec.field(default_factory=default_junk_model_path)
    device: Annotated[
        Device, _setting("Where the model runs; auto takes a CUDA device if there is one.", "The model")
    ] = "auto"
    require_gpu: Annotated[
        bool, _setting("Refuse to start, and refuse a model, that does not run on a GPU.", "The model")
    ] = False
    precision: Annotated[
        Precision,
        _setting(
            "How the model computes on the CPU; int8 is quicker, if the model has an int8 twin and the "
            "processor instructions for it, else float32 serves.",
            "The model",
        ),
    ] = "float32"
    threads: Annotated[_Count | None, _setting("CPU threads of the model. Default: every core.", "The model")] = None
    pixel_size_angstrom: Annotated[
        _Angstrom | None,
        _setting("Pixel size of the micrographs, in Å; beats the header's. Default: the header's.", "Picking"),
    ] = None
    threshold: Annotated[
        _Threshold | None, _setting("Lowest figure of merit, 0 to 1. Default: what frazil chooses.", "Picking")
    ] = None
    choose_threshold: Annotated[
        bool,
        _setting(
            "Choose the threshold from the session's micrographs if THRESHOLD is not set; else the model's own holds.",
            "Picking",
        ),
    ] = True
    target_precision: Annotated[
        _Fraction | None,
        _setting(
            "Fraction of the picks that should be particles, 0 to 1: the lowest threshold that is expected to keep it "
            "is chosen. Default: that of the best F1.",
            "Picking",
        ),
    ] = None
    min_distance_angstrom: Annotated[
        _Distance | None, _setting("No two picks are closer than this, in Å. Default: half the diameter.", "Picking")
    ] = None
    edge_margin_angstrom: Annotated[
        _Distance | None,
        _setting("No pick is closer to an edge than this, in Å. Default: a quarter of the diameter.", "Picking"),
    ] = None
    contrast: Annotated[Contrast, _setting("How particles look in the micrographs.", "Picking")] = "dark"
    find_junk: Annotated[
        bool,
        _setting(
            "Find where no particle can be picked, such as carbon, ice crystals and dirt, by JUNK_MODEL.", "Picking"
        ),
    ] = True
    junk_picks: Annotated[
        JunkPicks, _setting("What becomes of picks in junk: left out, or kept and flagged in the document.", "Picking")
    ] = "drop"
    unusual_diameter: Annotated[
        bool, _setting("Accept a diameter that no particle has, such as one given in nanometres.", "Picking")
    ] = False
    keep_score_maps: Annotated[
        bool,
        _setting("Keep each micrograph's score map in the ledger, to make picks again without the model.", "Picking"),
    ] = True
    assess: Annotated[
        bool,
        _setting(
            "Assess the quality of each micrograph after it was picked, with what time picking leaves.", "Quality"
        ),
    ] = True
    voltage_kv: Annotated[
        Annotated[float, msgspec.Meta(ge=20, le=3000)],
        _setting("Acceleration voltage of the microscope, in kV, with which the CTF is fitted.", "Quality"),
    ] = 300.0
    cs_mm: Annotated[
        Annotated[float, msgspec.Meta(ge=0, le=10)],
        _setting("Spherical aberration of the microscope, in mm.", "Quality"),
    ] = 2.7
    amplitude_contrast: Annotated[_Fraction, _setting("Amplitude contrast, 0 to 1.", "Quality")] = 0.1
    phase_plate: Annotated[
        bool, _setting("Find the phase shift, too, as of micrographs taken with a phase plate.", "Quality")
    ] = False
    ctf_tables: Annotated[
        list[str],
        _setting(
            "Files with CTF fits of other programs, RELION's .star or cryoSPARC's .cs, which are taken in place of "
            "frazil's own, as are those that lie beside a micrograph.",
            "Quality",
        ),
    ] = msgspec.field(default_factory=list)
    least_defocus_um: Annotated[
        _Micrometre | None,
        _setting("Least defocus that was asked for, in µm; with less, a micrograph is doubtful.", "Quality"),
    ] = None
    most_defocus_um: Annotated[
        _Micrometre | None,
        _setting("Most defocus that was asked for, in µm; with more, a micrograph is doubtful.", "Quality"),
    ] = None
    worst_resolution_angstrom: Annotated[
        _Angstrom,
        _setting(
            "Where the CTF fits to no better than this, in Å, a micrograph is doubtful; twice it, bad.", "Quality"
        ),
    ] = 8.0
    least_usable_fraction: Annotated[
        _Fraction,
        _setting("With less of its area neither junk nor without data, 0 to 1, a micrograph is bad.", "Quality"),
    ] = 0.5
    most_junk_fraction: Annotated[
        _Fraction, _setting("With more of its area junk, 0 to 1, a micrograph is doubtful.", "Quality")
    ] = 0.2
    thickest_ice: Annotated[
        Annotated[float, msgspec.Meta(gt=0, le=10)],
        _setting(
            "With ice thicker than the session's thinnest by more mean free paths of the electrons, a micrograph is "
            "doubtful; twice it, bad.",
            "Quality",
        ),
    ] = 0.5
    fewest_picks_fraction: Annotated[
        _Fraction,
        _setting(
            "With fewer picks that are expected to be particles than this fraction of the session's median, a "
            "micrograph is doubtful; a quarter of it, bad.",
            "Quality",
        ),
    ] = 0.3
    least_precision: Annotated[
        _Fraction,
        _setting(
            "Where a smaller fraction of the picks, 0 to 1, are expected to be particles, a micrograph is doubtful.",
            "Quality",
        ),
    ] = 0.5
    most_drift: Annotated[
        _Fraction,
        _setting("With more drift, 0 to 1, as the spectrum shows it, a micrograph is doubtful.", "Quality"),
    ] = 0.5
    grid_metadata: Annotated[
        Path | None,
        _setting(
            "Directory in which the microscope's program says where exposures were taken: an EPU session, or that of "
            "SerialEM's mdocs. Default: beside the micrographs.",
            "Quality",
            must_be="directory, perhaps later",
        ),
    ] = None
    advise_squares: Annotated[
        bool,
        _setting("Publish which grid squares to take next, and which to skip. frazil moves nothing itself.", "Quality"),
    ] = False
    include: Annotated[
        list[str],
        _setting(
            "Glob patterns of names that can be micrographs; one with a slash is for the whole path. "
            "Default: those of LAYOUT.",
            "Files",
        ),
    ] = msgspec.field(default_factory=list)
    exclude: Annotated[
        list[str],
        _setting("Glob patterns of files and folders to pass over; one with a slash is for the whole path.", "Files"),
    ] = msgspec.field(default_factory=list)
    companions: Annotated[
        list[str],
        _setting(
            "Glob patterns of files that other programs write beside micrographs, passed over unless "
            "INCLUDE names them; an empty list picks them all.",
            "Files",
        ),
    ] = msgspec.field(default_factory=lambda: list(COMPANIONS))
    layout: Annotated[
        LayoutSetting,
        _setting(
            "Whose tree it is, which says what is a micrograph there; auto finds it by looking, any takes every MRC.",
            "Files",
        ),
    ] = "auto"
    unlike: Annotated[
        Unlike,
        _setting(
            "What becomes of a micrograph whose shape or pixel size is unlike its session's: hold it until it is "
            "requeued, or pick it.",
            "Files",
        ),
    ] = "hold"
    link_roots: Annotated[
        list[str],
        _setting(
            "Directories that links in WATCH may lead to; a link to another place is passed over. Default: anywhere.",
            "Files",
        ),
    ] = msgspec.field(default_factory=list)
    watch_by: Annotated[
        WatchBy,
        _setting(
            "How files are found: auto follows events if the file system delivers them, poll only scans.", "Files"
        ),
    ] = "auto"
    scan_seconds: Annotated[
        _Seconds, _setting("Seconds between scans of the directory for files without an event.", "Files")
    ] = 5.0
    backlog_order: Annotated[
        BacklogOrder,
        _setting("Which files of the backlog come first; new files always come before them.", "Files"),
    ] = "oldest"
    stall_seconds: Annotated[
        _Seconds, _setting("Seconds without growth after which an incomplete file is reported.", "Files")
    ] = 30.0
    read_timeout_seconds: Annotated[
        _Seconds, _setting("Seconds after which reading a micrograph is given up.", "Files")
    ] = 120.0
    max_micrograph_bytes: Annotated[
        _Count, _setting("Memory that reading one micrograph may take, in bytes.", "Files")
    ] = 2 << 30
    max_attempts: Annotated[
        _Count,
        _setting(
            "Number of attempts to pick a micrograph that fails by no fault of its own, such as an error in reading.",
            "Files",
        ),
    ] = 8
    model_check_seconds: Annotated[
        _Seconds,
        _setting(
            "Seconds of processor time that the check of a newly promoted model may take.",
            "When a model is replaced",
        ),
    ] = 60.0
    canary_micrographs: Annotated[
        _CountOrZero,
        _setting(
            "Number of micrographs over which a new model runs in shadow before it may serve; 0 for none.",
            "When a model is replaced",
        ),
    ] = 0
    canary_agreement: Annotated[
        _Fraction,
        _setting(
            "Smallest fraction of picks, 0 to 1, on which a model in shadow agrees with the serving one.",
            "When a model is replaced",
        ),
    ] = 0.5
    canary_picks_ratio: Annotated[
        Annotated[float, msgspec.Meta(ge=1)],
        _setting(
            "Largest ratio of the numbers of picks of a model in shadow and of the serving one, either way.",
            "When a model is replaced",
        ),
    ] = 3.0
    probation_micrographs: Annotated[
        _CountOrZero,
        _setting(
            "Number of micrographs after a swap during which a failing model is rolled back; 0 for none.",
            "When a model is replaced",
        ),
    ] = 10
    probation_faults: Annotated[
        _Fraction,
        _setting(
            "Fraction of them, 0 to 1, on which a model may fail or find almost nothing before it is rolled back.",
            "When a model is replaced",
        ),
    ] = 0.2
    repick_after_promotion: Annotated[
        bool,
        _setting(
            "Pick the session's earlier micrographs again, behind new files, whenever another model serves.",
            "When a model is replaced",
        ),
    ] = False
    publish_address: Annotated[
        str, _setting("ZeroMQ address of the pick stream; port 0 takes a free one.", "The stream")
    ] = "tcp://127.0.0.1:5556"
    publish_unencrypted: Annotated[
        bool,
        _setting(
            "Allow the stream on an address that other machines can reach, readable by all of them.", "The stream"
        ),
    ] = False
    replay_address: Annotated[
        str | None,
        _setting("ZeroMQ address for requests of earlier documents. Default: the port after PUBLISH.", "The stream"),
    ] = None
    curve_key: Annotated[
        Path | None,
        _setting(
            "Secret key of this daemon (frazil keys new), which encrypts the stream.",
            "The stream",
            must_be="file",
        ),
    ] = None
    curve_clients: Annotated[
        Path | None,
        _setting(
            "Directory with the public keys of the clients that may connect; needed with CURVE_KEY.",
            "The stream",
            must_be="directory",
        ),
    ] = None
    http_address: Annotated[
        str, _setting("Address of the page and of /metrics; port 0 takes a free one.", "The page")
    ] = "127.0.0.1:9457"
    http_unencrypted: Annotated[
        bool,
        _setting("Allow the page on an address that other machines can reach, readable by all of them.", "The page"),
    ] = False
    http_names: Annotated[
        list[str],
        _setting("Other names under which browsers reach this machine, such as a proxy's.", "The page"),
    ] = msgspec.field(default_factory=list)
    root: Annotated[
        Path | None,
        _setting(
            "Directory of a microscope, in which session directories appear. Instead of WATCH, with SESSIONS.",
            "A microscope",
            must_be="directory, perhaps later",
        ),
    ] = None
    sessions: Annotated[
        str,
        _setting(
            "Glob pattern of session directories below ROOT, such as */Averages; each is a session.", "A microscope"
        ),
    ] = "*"
    recent_days: Annotated[
        Annotated[float, msgspec.Meta(gt=0, le=36_500)],
        _setting(
            "A session opens by itself if its directory, or a folder in it, changed in so many days; one in which "
            "nothing changed for so long closes by itself.",
            "A microscope",
        ),
    ] = 3.0
    ledger: Annotated[
        Path | None, _setting("SQLite file that remembers every micrograph. Default: frazil-ledger.sqlite in OUT.")
    ] = None
    hang_timeout_seconds: Annotated[
        _Seconds,
        _setting(
            "Seconds at one piece of work after which a thread counts as hanging, and systemd restarts the daemon."
        ),
    ] = 300.0
    log_level: Annotated[LogLevel, _setting("Lowest level of messages in the log.")] = "info"

    @property
    def ledger_file(self) -> Path:
        """Path of the ledger."""
        return self.ledger or self.out / "frazil-ledger.sqlite"

    @property
    def needed_diameter_angstrom(self) -> float:
        """The diameter.

        Raises:
            SettingsError: it is not known, as of a session that waits for it.
        """
        if self.diameter_angstrom is None:
            raise SettingsError("diameter_angstrom: expected a value, found none")
        return self.diameter_angstrom

    @property
    def chooses_threshold(self) -> bool:
        """Whether frazil chooses the threshold."""
        return self.choose_threshold and self.threshold is None

    @property
    def limits(self) -> LimitsPatch:
        """The limits that are set."""
        return LimitsPatch(
            threshold=self.threshold,
            min_distance_angstrom=self.min_distance_angstrom,
            edge_margin_angstrom=self.edge_margin_angstrom,
        )


SESSION_SETTINGS = {
    name
    for name, hint in get_type_hints(ServeSettings, include_extras=True).items()
    if hint.__metadata__[-1].extra["group"] in ("Picking", "Quality", "Files")
} | {"diameter_angstrom", "model", "repick_after_promotion"}
"""Names of the settings that each session of a microscope may have for itself."""
