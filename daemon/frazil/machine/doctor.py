"""The doctor: checks this machine, and the directories in the settings, for frazil, and gives advice on each fault."""

from __future__ import annotations

import contextlib
import ctypes
import os
import pwd
import re
import shutil
import socket
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import msgspec

import frazil
from frazil.addresses import replay_address
from frazil.errors import FrazilError, ModelError, SettingsError, printable
from frazil.model import Precision, check_in_sandbox, identify_model, load_model
from frazil.model.runtime import available_cores, cuda_problem, ort
from frazil.picking import PreparationOnDevice
from frazil.session.intake.file_system import FileSystem
from frazil.session.intake.selection import Selection
from frazil.session.intake.survey import survey
from frazil.session.outbox.daemon_info import DaemonInfo
from frazil.session.outbox.ledger import LedgerReader
from frazil.settings import ServeSettings, default_junk_model_path, default_model_path

__all__ = ["DoctorResult", "examine", "examine_watched"]

_LEAST_PYTHON = (3, 11)
_BUILT_AT = 1_790_000_000
"""An earlier time, in seconds of Unix time, is wrong on every machine that runs this version."""
_UNSYNCHRONISED = 5
"""Result of ``adjtimex`` for a clock that is not synchronised."""
Level = Literal["ok", "warning", "fault"]
"""``warning``: frazil runs, but slower than it could or not for long. ``fault``: it does not run."""

_LITTLE_BYTES = 5 << 30
_TOO_LITTLE_BYTES = 200 << 20
_CLOCK_SECONDS = 60.0
_FILES_LOOKED_AT = 1000
_FOLDERS_COUNTED = 100_000
_INOTIFY = Path("/proc/sys/fs/inotify")


class DoctorResult(msgspec.Struct, frozen=True):
    """One line of ``frazil doctor``."""

    check: str
    level: Level
    says: str
    """The result of the check, in one line."""
    do: str = ""
    """Advice; empty if nothing has to be done."""


def examine(
    settings: ServeSettings | None, fault: SettingsError | None = None, *, tree: Path | None = None
) -> Iterator[DoctorResult]:
    """Check everything that ``frazil serve`` needs.

    Args:
        settings: settings to check, with the paths in them; None for the machine alone.
        fault: the faults of the settings, if they cannot be used.
        tree: directory to look into; None for the one in the settings.
    """
    yield from _examine_programs()
    yield from _examine_clock()
    for said in fault.faults if fault else ():
        yield DoctorResult("settings", "fault", said, "change it; all settings: frazil serve --help")
    if settings is not None:
        yield DoctorResult("settings", "ok", "nothing wrong with them")
        yield from examine_watched(settings)
    tree = tree or (settings.watch if settings is not None and settings.watch.is_dir() else None)
    if tree is not None:
        yield from _examine_tree(tree, settings)
    if settings is not None:
        yield from _examine_writable("out", settings.out.resolve())
        yield from _examine_ledger(settings)
        yield from _examine_ports(settings)
    yield from _examine_model(settings)
    yield from _examine_junk_model(settings)


def _examine_programs() -> Iterator[DoctorResult]:
    version = ".".join(map(str, sys.version_info[:3]))
    yield DoctorResult(
        "python",
        "ok" if sys.version_info >= _LEAST_PYTHON else "fault",
        f"Python {version} in {sys.prefix}, frazil {frazil.__version__}",
        "" if sys.version_info >= _LEAST_PYTHON else "install frazil with Python 3.11 or later",
    )
    user = pwd.getpwuid(os.geteuid()).pw_name if _has_name() else str(os.geteuid())
    yield DoctorResult(
        "user",
        "ok" if os.geteuid() else "warning",
        f"checked as {user}, with {available_cores()} cores",
        "" if os.geteuid() else "rights are those of root here: check again as the service's user, with sudo -u USER",
    )
    yield DoctorResult("providers", "ok", f"ONNX Runtime {ort.__version__}: {', '.join(ort.get_available_providers())}")


def _has_name() -> bool:
    with contextlib.suppress(KeyError):
        return bool(pwd.getpwuid(os.geteuid()))
    return False


def _examine_clock() -> Iterator[DoctorResult]:
    if time.time() < _BUILT_AT:
        yield DoctorResult("clock", "fault", f"the clock shows {time.ctime()}, which is too early", "set the clock")
        return
    # An all-zero request changes nothing; the answer is the state of the clock.
    try:
        state = ctypes.CDLL(None).adjtimex(ctypes.create_string_buffer(512))
    except (OSError, AttributeError):
        state = -1
    if state == _UNSYNCHRONISED:
        yield DoctorResult(
            "clock",
            "warning",
            "the clock is not synchronised (NTP): times of results and of files drift apart",
            "timedatectl set-ntp true",
        )
    else:
        yield DoctorResult(
            "clock", "ok", "synchronised by NTP" if state >= 0 else "plausible; whether it is synchronised is not known"
        )


def _examine_ports(settings: ServeSettings) -> Iterator[DoctorResult]:
    publish, replay = settings.publish_address, settings.replay_address
    addresses = [publish, replay or replay_address(publish), settings.http_address]
    running = _running(settings)
    for address in addresses:
        found = re.fullmatch(r"(?:tcp://)?(.+):(\d+)", address)
        if found is None or int(found[2]) == 0:
            continue
        host, port = found[1].strip("[]"), int(found[2])
        problem = _bind_problem("" if host == "*" else host, port)
        if problem is None:
            yield DoctorResult("ports", "ok", f"{address} is free")
        elif running is not None and address in (running.stream, running.metrics.split("/")[2]):
            yield DoctorResult("ports", "ok", f"{address} is in use by the running daemon (process {running.pid})")
        elif running is not None:
            yield DoctorResult("ports", "ok", f"{address} is in use, probably by the running daemon")
        else:
            yield DoctorResult(
                "ports",
                "fault",
                f"{address} cannot be used: {problem}",
                f"see which program uses it (ss -ltnp 'sport = :{port}'), or give another port",
            )


def _running(settings: ServeSettings) -> DaemonInfo | None:
    """The running daemon that uses the ledger of these settings; None if none answers."""
    with contextlib.suppress(FrazilError), LedgerReader(settings.ledger_file) as reader:
        info = DaemonInfo.of(reader)
        if info is not None and info.ask() is not None:
            return info
    return None


def _bind_problem(host: str, port: int) -> str | None:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            return error.strerror or str(error)
    return None


def _precision_problem(model: Path) -> str | None:
    """The fault of the int8 twin of a model; None if it has passed its check."""
    try:
        check_in_sandbox(model, precision="int8")
    except ModelError as error:
        return str(error)
    return None


def _examine_model(settings: ServeSettings | None) -> Iterator[DoctorResult]:
    model = settings.model if settings else default_model_path()
    device = settings.device if settings else "auto"
    precision = settings.precision if settings else "float32"
    no_gpu = cuda_problem()
    has_nodes = any(Path("/dev").glob("nvidia[0-9]*"))
    if no_gpu is None:
        yield DoctorResult("gpu", "ok", "the NVIDIA driver reports a device")
    else:
        lost: Level = "warning" if has_nodes else "ok"
        do = "the driver does not answer although there is a GPU: see nvidia-smi" if has_nodes else ""
        yield DoctorResult("gpu", lost, f"none can be used: {no_gpu}", do)
    try:
        sha256 = check_in_sandbox(model).sha256
        precision_problem = _precision_problem(model) if precision == "int8" else None
        usable: Precision = "float32" if precision_problem else precision
        loaded = load_model(model, device, settings.threads if settings else None, precision=usable)
        preparation = PreparationOnDevice(loaded)
        where = loaded.placement.describe(loaded.warm_up())
    except ModelError as error:
        yield DoctorResult("model", "fault", str(error), f"run frazil models verify {model} to check each version")
        return
    on_cpu = loaded.placement.cpu_problem()
    level: Level = "ok"
    do = ""
    if on_cpu and settings is not None and settings.require_gpu:
        level, do = "fault", "see the GPU's line, or set require_gpu = false"
    elif on_cpu and has_nodes and device != "cpu":
        level, do = (
            "warning",
            "there is a GPU and the model does not use it: CUDA's libraries may be missing; pip install 'frazil[cuda]'",
        )
    elif preparation.problem is not None:
        level, do = "warning", "the model runs on the GPU and picks are right, only slower: frazil bench measures it"
    precision_problem = precision_problem or loaded.precision_problem
    if precision_problem:
        yield DoctorResult(
            "model",
            "warning",
            f"it serves in float32 although int8 is set: {precision_problem}",
            'picks are right, only slower; see the model\'s card, or set precision = "float32"',
        )
    says = f"{loaded.identity.short} is fit to serve (sha256 {sha256[:12]}) in {loaded.precision}"
    yield DoctorResult("model", level, f"{says}: {where}, {preparation.describe()}", do)


def _examine_junk_model(settings: ServeSettings | None) -> Iterator[DoctorResult]:
    if settings is not None and not settings.find_junk:
        return
    model = settings.junk_model if settings else default_junk_model_path()
    try:
        sha256 = check_in_sandbox(model, finds="junk").sha256
        identity = identify_model(model)
    except ModelError as error:
        do = f"junk is not looked for: run frazil models verify {model}, or set find_junk = false"
        yield DoctorResult("junk", "warning", str(error), do)
        return
    yield DoctorResult("junk", "ok", f"{identity.short} is fit to find it (sha256 {sha256[:12]})")


def examine_watched(settings: ServeSettings) -> Iterator[DoctorResult]:
    """Check the watched tree: permissions, type of file system, events, and the clock of its file server."""
    root = settings.watch.resolve()
    if not os.access(root, os.R_OK | os.X_OK, effective_ids=True):
        yield DoctorResult(
            "watch", "fault", f"{root} cannot be listed by this user", f"chmod o+rx {root}, or run as its owner"
        )
        return
    yield DoctorResult("watch", "ok", f"{root} can be listed")
    file_system = FileSystem.of(root)
    where = f"{root} lies on {file_system.kind} at {file_system.mount_point}"
    if file_system.is_network:
        yield DoctorResult(
            "events",
            "ok" if settings.watch_by != "events" else "warning",
            f"{where}: other machines' files make no events, a scan finds them within {settings.scan_seconds:g} s",
            "" if settings.watch_by != "events" else 'set watch_by = "auto": events alone would come late',
        )
    else:
        yield DoctorResult("events", "ok", f"{where}: events report files at once")
        yield from _examine_inotify(root)
    newest = max((_modified(path) for path in _some_files(root)), default=0.0)
    if newest - time.time() > _CLOCK_SECONDS:
        yield DoctorResult(
            "clocks",
            "warning",
            f"a file in {root} is {newest - time.time():.0f} s younger than now",
            "set the clocks of this machine and of the file server by NTP",
        )


def _examine_ledger(settings: ServeSettings) -> Iterator[DoctorResult]:
    """Check the directory of the ledger."""
    folder = settings.ledger_file.resolve().parent
    yield from _examine_writable("ledger", folder)
    file_system = FileSystem.of(folder)
    if file_system.is_network:
        yield DoctorResult(
            "ledger",
            "warning",
            f"{folder} lies on {file_system.kind}: SQLite cannot rely on its locks",
            'put it on a disk of this machine: ledger = "/var/lib/frazil/titan1/ledger.sqlite"',
        )


def _examine_writable(check: str, folder: Path) -> Iterator[DoctorResult]:
    place = next(place for place in (folder, *folder.parents) if place.exists())
    try:
        if not place.is_dir():
            raise NotADirectoryError
        with tempfile.NamedTemporaryFile(prefix=".frazil-doctor-", dir=place):
            pass
    except OSError as error:
        reason = error.strerror or "it is no directory"
        yield DoctorResult(
            check,
            "fault",
            f"{place} cannot be written by this user: {reason}",
            f"let the service's user write there: chown USER {place}",
        )
        return
    free = shutil.disk_usage(place).free
    level: Level = "fault" if free < _TOO_LITTLE_BYTES else "warning" if free < _LITTLE_BYTES else "ok"
    missing = "" if place == folder else f" ({folder} is made at the start)"
    yield DoctorResult(
        check,
        level,
        f"{place} can be written{missing}, {free / (1 << 30):.1f} GiB free",
        "" if level == "ok" else "make room: while nothing can be written, picking waits",
    )


def _examine_inotify(root: Path) -> Iterator[DoctorResult]:
    try:
        watches = int((_INOTIFY / "max_user_watches").read_text())
    except (OSError, ValueError):
        return
    folders = 0
    for _ in os.walk(root):
        folders += 1
        if folders == _FOLDERS_COUNTED:
            break
    enough = folders < watches / 2
    yield DoctorResult(
        "inotify",
        "ok" if enough else "warning",
        f"{folders} folders to watch, {watches} allowed",
        ""
        if enough
        else f"sysctl fs.inotify.max_user_watches={max(4 * folders, 2 * watches)}; until then scans find files",
    )


def _some_files(root: Path) -> Iterator[Path]:
    seen = 0
    for folder, _, names in os.walk(root):
        for name in names:
            yield Path(folder, name)
            seen += 1
            if seen == _FILES_LOOKED_AT:
                return


def _modified(path: Path) -> float:
    try:
        return path.lstat().st_mtime
    except OSError:
        return 0.0


def _examine_tree(root: Path, settings: ServeSettings | None) -> Iterator[DoctorResult]:
    """Look at what is in a tree: whose layout it has, and what each pattern takes and passes over.

    Args:
        root: the directory.
        settings: say what is taken; None for the defaults.
    """
    link_roots: list[Path] = []
    selection = Selection(layout="auto")
    if settings is not None:
        selection = Selection(settings.include, settings.exclude, settings.companions, settings.layout)
        link_roots = [Path(place).expanduser() for place in settings.link_roots if place]
    try:
        found = survey(root, selection, link_roots)
    except OSError as error:
        yield DoctorResult(check="layout", level="fault", says=f"{root} cannot be looked at: {error.strerror}")
        return
    inventory = found.inventory
    layout = inventory.describe_layout()
    yield DoctorResult(
        check="layout",
        level="warning" if inventory.nothing_fits else "ok",
        says=printable(
            f"{root} looks like {layout}: {inventory.taken} micrographs"
            if layout
            else f"{root} looks like no layout that is known: {inventory.taken} micrographs"
        ),
        do=inventory.advice if inventory.nothing_fits else "",
    )
    for one in found.patterns:
        what = f"passed over ({one.reason})" if one.reason else "taken"
        pattern = f" by {one.pattern}" if one.pattern else ""
        yield DoctorResult(
            check="layout",
            level="ok",
            says=printable(f"{one.count} {what}{pattern}, such as {one.example}"),
        )
