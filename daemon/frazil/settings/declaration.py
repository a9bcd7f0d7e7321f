"""The daemon's settings: each declared once, here, with its type, unit, bounds, default and one sentence.

The command line beats the settings file, the file beats the default.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import msgspec

import frazil
from frazil.limits import LARGEST_DISTANCE_ANGSTROM, LARGEST_THRESHOLD, LimitsPatch
from frazil.model.contract import Contrast, Device, Precision

__all__ = [
    "COMPANIONS",
    "RENAMED",
    "BacklogOrder",
    "LogLevel",
    "MustBe",
    "ServeSettings",
    "WatchBy",
    "default_model_path",
    "option_of",
]

LogLevel = Literal["debug", "info", "warning", "error"]

WatchBy = Literal["auto", "events", "poll"]
"""How files are found beside scans; ``auto`` follows events where the file system delivers them."""

BacklogOrder = Literal["oldest", "newest"]
"""Which of the files that lie there at the start come first."""

MustBe = Literal["directory", "directory, perhaps later", "file", "there"]
"""What a path in the settings must lead to before anything starts."""

COMPANIONS = (
    # MotionCor2 and 3, RELION: without dose weighting, half sums, power spectra, what CTFFIND drew
    *("*_noDW.*", "*_DWS.*", "*_EVN.*", "*_ODD.*", "*_PS.*", "*_ctf.*"),
    # EPU: images of holes and squares, the atlas, gain references
    *("FoilHoles", "GridSquares", "GridSquare_*.mrc", "Atlas", "Atlas_*.mrc", "Tile_*.mrc"),
    *("gain.mrc", "gain_*.mrc", "*_gain.mrc", "*gainref*", "gain.tif*", "gain_*.tif*", "*_gain.tif*"),
    # cryoSPARC
    *("*_background.mrc", "*_background_estimate.mrc", "*_ctf_diag_*", "thumbnails"),
    # Warp
    *("even", "odd", "deconv", "mask", "masks", "powerspectrum"),
)
"""What programs write beside micrographs, under names by which it is known."""

_Share = Annotated[float, msgspec.Meta(ge=0, le=1)]
_Angstrom = Annotated[float, msgspec.Meta(gt=0, le=100_000)]
_Threshold = Annotated[float, msgspec.Meta(ge=0, le=LARGEST_THRESHOLD)]
_Distance = Annotated[float, msgspec.Meta(ge=0, le=LARGEST_DISTANCE_ANGSTROM)]
_Seconds = Annotated[float, msgspec.Meta(gt=0, le=86_400)]
_Count = Annotated[int, msgspec.Meta(ge=1)]
_CountOrZero = Annotated[int, msgspec.Meta(ge=0)]

_DEFAULT_MODEL = "fcn"

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
"""Settings by their names in frazil 0.1. Files may use these for one release, with a warning; options keep them."""


def _says(text: str, group: str = "The service", *, must_be: MustBe | None = None) -> msgspec.Meta:
    return msgspec.Meta(description=text, extra={"group": group, "must_be": must_be})


def option_of(name: str) -> str:
    """The command-line option of a setting, without its dashes: ``pixel-size`` of ``pixel_size_angstrom``."""
    short = next((old for old, new in RENAMED.items() if new == name), name)
    return short.replace("_", "-")


def default_model_path() -> Path:
    """The default model: the one in the wheel, or in a checkout the repository's."""
    package = Path(frazil.__file__).parent
    in_wheel = package / "exported_models" / _DEFAULT_MODEL
    return in_wheel if in_wheel.is_dir() else package.parents[1] / "exported_models" / _DEFAULT_MODEL


class ServeSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """All settings of ``frazil serve``. Lengths are in Å, times in seconds."""

    watch: Annotated[
        Path,
        _says(
            "Directory, with all below it, where micrographs appear; one that is not there yet is waited for.",
            "What is needed",
            must_be="directory, perhaps later",
        ),
    ]
    out: Annotated[Path, _says("Directory for the STAR files; made if missing.", "What is needed")]
    diameter_angstrom: Annotated[_Angstrom, _says("Diameter of the particle, in Å.", "What is needed")]
    model: Annotated[
        Path,
        _says(
            "A model's folder (its CURRENT version serves), one version's folder, or an .onnx file.",
            "The model",
            must_be="there",
        ),
    ] = msgspec.field(default_factory=default_model_path)
    device: Annotated[
        Device, _says("Where the model runs; auto takes a CUDA device where there is one.", "The model")
    ] = "auto"
    require_gpu: Annotated[
        bool, _says("Refuse to start, and refuse a model, that does not run on a GPU.", "The model")
    ] = False
    precision: Annotated[
        Precision,
        _says(
            "How the model computes on the CPU; int8 is quicker, where the model has such a twin and the processor "
            "instructions for it, else float32 serves.",
            "The model",
        ),
    ] = "float32"
    threads: Annotated[_Count | None, _says("CPU threads of the model. Default: every core.", "The model")] = None
    pixel_size_angstrom: Annotated[
        _Angstrom | None,
        _says("Pixel size of the micrographs, in Å; beats the header's. Default: the header's.", "Picking"),
    ] = None
    threshold: Annotated[
        _Threshold | None, _says("Lowest figure of merit, 0 to 1. Default: the model's.", "Picking")
    ] = None
    min_distance_angstrom: Annotated[
        _Distance | None, _says("No two picks are closer than this, in Å. Default: half the diameter.", "Picking")
    ] = None
    edge_margin_angstrom: Annotated[
        _Distance | None,
        _says("No pick is closer to an edge than this, in Å. Default: a quarter of the diameter.", "Picking"),
    ] = None
    contrast: Annotated[Contrast, _says("How particles look in the micrographs.", "Picking")] = "dark"
    unusual_diameter: Annotated[
        bool, _says("Take a diameter that can hardly be meant, such as one in nanometres.", "Picking")
    ] = False
    keep_score_maps: Annotated[
        bool,
        _says(
            "Keep what the model said of each micrograph in the ledger, to set thresholds again without it.", "Picking"
        ),
    ] = True
    include: Annotated[
        list[str],
        _says("Glob patterns of names that can be micrographs; one with a slash is for the whole path.", "Files"),
    ] = msgspec.field(default_factory=lambda: ["*.mrc"])
    exclude: Annotated[
        list[str],
        _says("Glob patterns of files and folders to leave alone; one with a slash is for the whole path.", "Files"),
    ] = msgspec.field(default_factory=list)
    companions: Annotated[
        list[str],
        _says(
            "Glob patterns of what other programs write beside micrographs, left alone unless INCLUDE names it; "
            "an empty list picks it all.",
            "Files",
        ),
    ] = msgspec.field(default_factory=lambda: list(COMPANIONS))
    watch_by: Annotated[
        WatchBy,
        _says(
            "How files are found: auto follows events where the file system delivers them, poll only scans.", "Files"
        ),
    ] = "auto"
    scan_seconds: Annotated[
        _Seconds, _says("Seconds between scans of the directory for files that no event told of.", "Files")
    ] = 5.0
    backlog_order: Annotated[
        BacklogOrder,
        _says("Which of the files that lie there at the start come first; new ones always come before.", "Files"),
    ] = "oldest"
    stall_seconds: Annotated[
        _Seconds, _says("Seconds without growth after which an incomplete file is reported.", "Files")
    ] = 30.0
    read_timeout_seconds: Annotated[
        _Seconds, _says("Seconds after which reading a micrograph is given up.", "Files")
    ] = 120.0
    max_micrograph_bytes: Annotated[
        _Count, _says("Memory that reading one micrograph may take, in bytes.", "Files")
    ] = 2 << 30
    max_attempts: Annotated[
        _Count,
        _says("Attempts to pick a micrograph that fails by no fault of its own, such as an error in reading.", "Files"),
    ] = 8
    model_check_seconds: Annotated[
        _Seconds,
        _says(
            "Seconds of processor time that a newly promoted model may take to load and prove itself.",
            "When a model is replaced",
        ),
    ] = 60.0
    canary_micrographs: Annotated[
        _CountOrZero,
        _says(
            "Micrographs over which a new model runs in shadow before it may serve; 0 for none.",
            "When a model is replaced",
        ),
    ] = 0
    canary_agreement: Annotated[
        _Share,
        _says(
            "Least share of its picks, 0 to 1, on which a model in shadow agrees with the serving one.",
            "When a model is replaced",
        ),
    ] = 0.5
    canary_picks_ratio: Annotated[
        Annotated[float, msgspec.Meta(ge=1)],
        _says(
            "A model in shadow makes at most so many times as many picks as the serving one, or as few.",
            "When a model is replaced",
        ),
    ] = 3.0
    probation_micrographs: Annotated[
        _CountOrZero,
        _says(
            "Micrographs after a swap during which a failing model is rolled back; 0 for none.",
            "When a model is replaced",
        ),
    ] = 10
    probation_faults: Annotated[
        _Share,
        _says(
            "Share of them, 0 to 1, on which a model may fail or find almost nothing before it is rolled back.",
            "When a model is replaced",
        ),
    ] = 0.2
    publish_address: Annotated[
        str, _says("ZeroMQ address of the pick stream; port 0 takes a free one.", "The stream")
    ] = "tcp://127.0.0.1:5556"
    publish_unencrypted: Annotated[
        bool, _says("Allow the stream on an address that other machines reach, readable by all of them.", "The stream")
    ] = False
    replay_address: Annotated[
        str | None,
        _says("ZeroMQ address where earlier documents are asked for. Default: the port after PUBLISH.", "The stream"),
    ] = None
    curve_key: Annotated[
        Path | None,
        _says(
            "Secret key of this daemon (frazil keys new): the stream is encrypted with it.",
            "The stream",
            must_be="file",
        ),
    ] = None
    curve_clients: Annotated[
        Path | None,
        _says(
            "Directory with the public keys of the clients that may connect; needed with CURVE_KEY.",
            "The stream",
            must_be="directory",
        ),
    ] = None
    http_address: Annotated[str, _says("Address of the page and of /metrics; port 0 takes a free one.", "The page")] = (
        "127.0.0.1:9457"
    )
    http_unencrypted: Annotated[
        bool, _says("Allow the page on an address that other machines reach, readable by all of them.", "The page")
    ] = False
    http_names: Annotated[
        list[str],
        _says("Names besides its own under which browsers reach this machine, such as that of a proxy.", "The page"),
    ] = msgspec.field(default_factory=list)
    ledger: Annotated[
        Path | None, _says("SQLite file that remembers every micrograph. Default: frazil-ledger.sqlite in OUT.")
    ] = None
    hang_timeout_seconds: Annotated[
        _Seconds,
        _says("Seconds at one piece of work after which a stage counts as hung, and systemd restarts the daemon."),
    ] = 300.0
    log_level: Annotated[LogLevel, _says("How much the log says.")] = "info"

    @property
    def ledger_file(self) -> Path:
        """Where the ledger is."""
        return self.ledger or self.out / "frazil-ledger.sqlite"

    @property
    def limits(self) -> LimitsPatch:
        """The limits that are set."""
        return LimitsPatch(
            threshold=self.threshold,
            min_distance_angstrom=self.min_distance_angstrom,
            edge_margin_angstrom=self.edge_margin_angstrom,
        )
