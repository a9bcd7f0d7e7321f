"""The doctor: checks this machine for frazil, and gives advice on each fault."""

from __future__ import annotations

import contextlib
import ctypes
import os
import pwd
import re
import socket
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import frazil
from frazil.addresses import replay_address
from frazil.errors import FrazilError, ModelError, SettingsError
from frazil.machine.places import DoctorResult, Level, examine_ledger, examine_output, examine_tree, examine_watched
from frazil.model import Precision, check_in_sandbox, load_model
from frazil.model.runtime import available_cores, cuda_problem, ort
from frazil.picking import PreparationOnDevice
from frazil.session.outbox.daemon_info import DaemonInfo
from frazil.session.outbox.ledger import LedgerReader
from frazil.settings import ServeSettings, default_model_path

__all__ = ["DoctorResult", "examine"]

_LEAST_PYTHON = (3, 11)
_BUILT_AT = 1_790_000_000
"""An earlier time, in seconds of Unix time, is wrong on every machine that runs this version."""
_UNSYNCHRONISED = 5
"""Result of ``adjtimex`` for a clock that is not synchronised."""


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
        yield DoctorResult(
            check="settings", level="fault", says=said, do="change it; all settings: frazil serve --help"
        )
    if settings is not None:
        yield DoctorResult(check="settings", level="ok", says="nothing wrong with them")
        yield from examine_watched(settings)
    tree = tree or (settings.watch if settings is not None and settings.watch.is_dir() else None)
    if tree is not None:
        yield from examine_tree(tree, settings)
    if settings is not None:
        yield from examine_output(settings)
        yield from examine_ledger(settings)
        yield from _examine_ports(settings)
    yield from _examine_model(settings)


def _examine_programs() -> Iterator[DoctorResult]:
    version = ".".join(map(str, sys.version_info[:3]))
    yield DoctorResult(
        check="python",
        level="ok" if sys.version_info >= _LEAST_PYTHON else "fault",
        says=f"Python {version} in {sys.prefix}, frazil {frazil.__version__}",
        do="" if sys.version_info >= _LEAST_PYTHON else "install frazil with Python 3.11 or later",
    )
    user = pwd.getpwuid(os.geteuid()).pw_name if _has_name() else str(os.geteuid())
    yield DoctorResult(
        check="user",
        level="ok" if os.geteuid() else "warning",
        says=f"checked as {user}, with {available_cores()} cores",
        do=""
        if os.geteuid()
        else "rights are those of root here: check again as the service's user, with sudo -u USER",
    )
    yield DoctorResult(
        check="providers",
        level="ok",
        says=f"ONNX Runtime {ort.__version__}: {', '.join(ort.get_available_providers())}",
    )


def _has_name() -> bool:
    with contextlib.suppress(KeyError):
        return bool(pwd.getpwuid(os.geteuid()))
    return False


def _examine_clock() -> Iterator[DoctorResult]:
    if time.time() < _BUILT_AT:
        yield DoctorResult(
            check="clock", level="fault", says=f"the clock shows {time.ctime()}, which is too early", do="set the clock"
        )
        return
    # An all-zero request changes nothing; the answer is the state of the clock.
    try:
        state = ctypes.CDLL(None).adjtimex(ctypes.create_string_buffer(512))
    except (OSError, AttributeError):
        state = -1
    if state == _UNSYNCHRONISED:
        yield DoctorResult(
            check="clock",
            level="warning",
            says="the clock is not synchronised (NTP): times of results and of files drift apart",
            do="timedatectl set-ntp true",
        )
    else:
        yield DoctorResult(
            check="clock",
            level="ok",
            says="synchronised by NTP" if state >= 0 else "plausible; whether it is synchronised is not known",
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
            yield DoctorResult(check="ports", level="ok", says=f"{address} is free")
        elif running is not None and address in (running.stream, running.metrics.split("/")[2]):
            yield DoctorResult(
                check="ports", level="ok", says=f"{address} is in use by the running daemon (process {running.pid})"
            )
        elif running is not None:
            yield DoctorResult(check="ports", level="ok", says=f"{address} is in use, probably by the running daemon")
        else:
            yield DoctorResult(
                check="ports",
                level="fault",
                says=f"{address} cannot be used: {problem}",
                do=f"see which program uses it (ss -ltnp 'sport = :{port}'), or give another port",
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
        yield DoctorResult(check="gpu", level="ok", says="the NVIDIA driver reports a device")
    else:
        lost: Level = "warning" if has_nodes else "ok"
        do = "the driver does not answer although there is a GPU: see nvidia-smi" if has_nodes else ""
        yield DoctorResult(check="gpu", level=lost, says=f"none can be used: {no_gpu}", do=do)
    try:
        sha256 = check_in_sandbox(model).sha256
        precision_problem = _precision_problem(model) if precision == "int8" else None
        usable: Precision = "float32" if precision_problem else precision
        loaded = load_model(model, device, settings.threads if settings else None, precision=usable)
        preparation = PreparationOnDevice(loaded)
        where = loaded.placement.describe(loaded.warm_up())
    except ModelError as error:
        yield DoctorResult(
            check="model", level="fault", says=str(error), do=f"run frazil models verify {model} to check each version"
        )
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
            check="model",
            level="warning",
            says=f"it serves in float32 although int8 is set: {precision_problem}",
            do='picks are right, only slower; see the model\'s card, or set precision = "float32"',
        )
    says = f"{loaded.identity.short} is fit to serve (sha256 {sha256[:12]}) in {loaded.precision}"
    yield DoctorResult(
        check="model",
        level=level,
        says=f"{says}: {where}, {preparation.describe()}",
        do=do,
    )
