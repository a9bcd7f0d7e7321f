"""The state: what the daemon, and each directory that it watches, is doing now, in one frozen record.

Metrics, the page, ``frazil status`` and the judgement of what is wrong read it. Each part offers its share as a small
record, from any thread and without waiting; the daemon puts them together whenever somebody asks.

Another version of frazil may read it as JSON: every field has a default, and none is ever NaN.
"""

from __future__ import annotations

import os
from typing import Literal, get_args

import msgspec

__all__ = [
    "DOUBTS",
    "QUALITIES",
    "AssessState",
    "ChartState",
    "DaemonState",
    "Departure",
    "Disk",
    "Doubt",
    "DriftState",
    "Gpu",
    "IntakeState",
    "ModelState",
    "PickState",
    "Quality",
    "SessionState",
    "SessionStatus",
    "SuggestedDiameter",
    "ThresholdState",
    "WatchState",
]

Doubt = Literal["blank", "contrast", "diameter"]
"""What the micrographs may say against the settings.

``blank``: much of the last one holds no data. ``contrast``: particles look the other way round. ``diameter``: too few
particles would fit, and nothing was picked.
"""

DOUBTS: tuple[Doubt, ...] = get_args(Doubt)

Quality = Literal["defocus", "resolution", "ice", "junk", "bad"]
"""What assessments say that may drift: mean defocus (µm), resolution to which the CTF fits (Å), ice (mean free paths
beyond the thinnest), junk (fraction of the area), fraction of bad micrographs."""

QUALITIES: tuple[Quality, ...] = get_args(Quality)


# --- one watched directory ------------------------------------------------------------------------------------------


class WatchState(msgspec.Struct, frozen=True, kw_only=True):
    """What is seen of the watched directory."""

    fault: str = ""
    """Why it cannot be seen; empty while it can."""
    follows_events: bool = False
    """Whether file events are followed; else only scans find files."""
    scanned_at: float | None = None
    """When the last scan ended, in seconds of Unix time."""
    listed: int = 0
    """Names that the last scan listed."""
    layout: str = "any"
    """The layout of the tree, by name."""
    taken: int = 0
    """Names taken for micrographs."""
    passed_over: dict[str, int] = {}
    """Names passed over, by reason."""


class IntakeState(msgspec.Struct, frozen=True, kw_only=True):
    """Which files wait."""

    incomplete: int = 0
    """Files that are not known to be complete."""
    backlog: int = 0
    """Complete micrographs without a result, and those of the start that nobody has looked at."""
    backlog_seconds: float = 0.0
    """For how long the oldest of them has waited."""
    requeued: int = 0
    """Micrographs that have a result and are to be picked again, behind all others."""


class Departure(msgspec.Struct, frozen=True, kw_only=True):
    """How far a quantity has departed from the baseline in one direction."""

    evidence: float = 0.0
    """What has added up, as a fraction of that at which drift begins."""
    drifting: bool = False


class ChartState(msgspec.Struct, frozen=True, kw_only=True):
    """How one quantity stands to the session's baseline."""

    baseline_micrographs: int = 0
    usual: float | None = None
    """Median of the baseline; None until it is complete."""
    down: Departure = Departure()
    up: Departure = Departure()


class DriftState(msgspec.Struct, frozen=True, kw_only=True):
    """Whether picks, scores, or the quality of micrographs have drifted."""

    few: bool = False
    """Whether, before there is a baseline, the last micrographs have hardly any picks beside those before."""
    picks: ChartState = ChartState()
    score: ChartState = ChartState()
    quality: dict[Quality, ChartState] = msgspec.field(default_factory=lambda: dict.fromkeys(QUALITIES, ChartState()))


class ThresholdState(msgspec.Struct, frozen=True, kw_only=True):
    """The threshold that holds for the serving model, and how it came about."""

    value: float | None = None
    by: Literal["operator", "model", "frazil"] = "model"
    """Who said it: the operator; the model, whose own it is; or frazil, which chose it, or is about to."""
    precision: float | None = None
    """Estimated fraction of the picks that are particles, where frazil chose."""
    micrographs: int = 0
    """Number of micrographs that frazil's choice rests on."""
    held: bool = False
    """Whether frazil's choice is held."""


class PickState(msgspec.Struct, frozen=True, kw_only=True):
    """What the pipeline is at, and what it has done in this run of the daemon."""

    doing: str = ""
    """What is picked, or read, now; empty while nothing is."""
    read: int = 0
    pick: int = 0
    write: int = 0
    """Micrographs in the queue of each stage."""
    picked: int = 0
    failed: int = 0
    picks: int = 0
    """Those of all micrographs that were picked."""
    last_picked_at: float | None = None
    """In seconds of Unix time."""
    doubts: frozenset[Doubt] = frozenset()
    drift: DriftState = DriftState()
    threshold: ThresholdState = ThresholdState()


class AssessState(msgspec.Struct, frozen=True, kw_only=True):
    """What the assessor is at, and what it has done in this run of the daemon."""

    is_on: bool = False
    """Whether micrographs are assessed."""
    doing: str = ""
    """What is assessed now; empty while nothing is."""
    waiting: int = 0
    """Micrographs with picks that wait to be assessed."""
    assessed: int = 0
    failed: int = 0
    """Attempts that came to nothing."""


class Disk(msgspec.Struct, frozen=True, kw_only=True):
    """Room on the disk that a directory lies on; None for what cannot be seen."""

    free_bytes: int | None = None
    """What frazil may use."""
    size_bytes: int | None = None
    free_inodes: float | None = None
    """Fraction of the inodes that are free; 1 where the file system does not count them."""

    @property
    def free(self) -> float:
        """Fraction of the room, or of the inodes, that is free, whichever is less; 1 where nothing can be seen."""
        room = self.free_bytes / self.size_bytes if self.free_bytes is not None and self.size_bytes else 1.0
        return min(room, 1.0 if self.free_inodes is None else self.free_inodes)


class ModelState(msgspec.Struct, frozen=True, kw_only=True):
    """The model that serves, and where it runs."""

    name: str = ""
    version: int = 0
    sha256: str = ""
    provider: str = ""
    """The execution provider that runs most of it."""
    precision: str = "float32"
    on_cpu: bool = False
    """Whether the CPU does most, or the heaviest, of its work."""
    nodes: dict[str, int] = {}
    """Its nodes by the execution provider that was seen to run them."""

    @property
    def short(self) -> str:
        """Name and version; of a lone file, the name alone."""
        return f"{self.name}/{self.version}" if self.version else self.name

    def describe(self) -> str:
        """Which it is, and where it runs, in a few words."""
        return f"{self.short} on {self.provider} in {self.precision}"


SessionStatus = Literal["open", "waiting", "paused", "closed", "archived", "old"]
"""What a session is at.

``waiting``: it is to be open, and lacks something, such as its diameter. ``old``: it was never opened, since nothing
has changed in its directory of late.
"""


class SuggestedDiameter(msgspec.Struct, frozen=True, kw_only=True):
    """The particle's diameter as measured on a session's micrographs."""

    diameter_angstrom: float
    low_angstrom: float
    high_angstrom: float
    micrographs: int
    doubt: str = ""
    """The reason to doubt it, in one line."""


class SessionState(msgspec.Struct, frozen=True, kw_only=True):
    """One watched directory: what is done with it now."""

    name: str = ""
    """Of the session; empty where it is the only one."""
    directory: str = ""
    """It, as its user names it."""
    status: SessionStatus = "open"
    says: str = ""
    """Why it is not open, in one line."""
    diameter_angstrom: float | None = None
    needs_diameter: bool = False
    """Whether it waits for nothing but its diameter."""
    suggested: SuggestedDiameter | None = None
    """For a session that waits for its diameter, once it was measured."""
    model: ModelState | None = None
    """The model that serves it."""
    junk_model: ModelState | None = None
    """The model that finds junk in it; None where that is not looked for, or cannot be."""
    finds_junk: bool = False
    """Whether junk is to be found."""
    watch: WatchState = WatchState()
    intake: IntakeState = IntakeState()
    pick: PickState = PickState()
    assess: AssessState = AssessState()
    blocked: str = ""
    """What cannot be written, and why: picking waits for it; empty while nothing is waited for."""
    ledger_head: int = 0
    """Sequence number of the newest document."""
    disks: dict[str, Disk] = {}
    """Of the results (``out``) and of the ledger (``ledger``), once measured."""

    @property
    def queues(self) -> dict[str, int]:
        """Micrographs in each queue, in the order in which they pass them."""
        pick = self.pick
        return {"incomplete": self.intake.incomplete, "read": pick.read, "pick": pick.pick, "write": pick.write}

    @property
    def waits_for(self) -> str:
        """Which fault of the machine holds up picking; empty where none does."""
        return f"cannot see {self.directory}: {self.watch.fault}" if self.watch.fault else self.blocked


# --- the daemon -----------------------------------------------------------------------------------------------------


class Gpu(msgspec.Struct, frozen=True, kw_only=True):
    """Memory of a GPU."""

    used_bytes: int = 0
    """By whatever program."""
    bytes: int = 0


class DaemonState(msgspec.Struct, frozen=True, kw_only=True):
    """The daemon: what its sessions share, and the sessions."""

    version: str = ""
    started_at: float | None = None
    """When it was ready, in seconds of Unix time; None before."""
    unwell: str = ""
    """Why it is not alive, in a few words; empty where it is."""
    unready: str = ""
    """Why it is not ready to pick; likewise."""
    model: ModelState | None = None
    gpu_expected: bool = False
    """Whether the model should run on a GPU: one is asked for, or there to be used."""
    gpus: dict[int, Gpu] = {}
    subscribers: int = 0
    """Connections to the pick stream."""
    stream_restarts: int = 0
    """Times that the process of the pick stream's sockets ended and was started again."""
    root: str = ""
    """Directory of the microscope; empty where there is one session and no more."""
    out: str = ""
    """Output directory."""
    sessions: tuple[SessionState, ...] = ()
    """Those that are open, or wait to be. None until it is ready, and none of a daemon whose version does not tell."""
    closed_sessions: int = 0
    """Number of the others."""

    @property
    def session(self) -> SessionState | None:
        """The first session, for whoever looks at one."""
        return self.sessions[0] if self.sessions else None

    def of(self, name: str) -> DaemonState:
        """The state with one session alone, by its name."""
        return self._with(tuple(session for session in self.sessions if session.name == name))

    def of_directory(self, directory: str) -> DaemonState:
        """The state with the session of a directory alone; as it is, if it has no more than one."""
        if len(self.sessions) <= 1:
            return self
        path = os.path.realpath(directory)
        return self._with(tuple(s for s in self.sessions if os.path.realpath(s.directory) == path))

    def _with(self, chosen: tuple[SessionState, ...]) -> DaemonState:
        return msgspec.structs.replace(self, sessions=chosen, model=chosen[0].model if chosen else None)
