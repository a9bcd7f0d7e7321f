"""Section `peers`: other pickers on the same micrographs, in turns with frazil; for those that are installed.

``benchmarks/install_peers.sh`` installs them. RELION's Laplacian of Gaussian runs as RELION's own window runs it, with
the micrograph reduced to 20 Å; Topaz, with the detector that comes with it, on a micrograph reduced to about 7 Å a
pixel, which it wants to have done first.
"""

from __future__ import annotations

import contextlib
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec

from benchmarks.peers import find_relion, find_topaz, relion_command
from benchmarks.speed.bench import DIAMETER_ANGSTROM, MODELS, PIXEL_SIZE_ANGSTROM, Bench
from benchmarks.speed.child import run_child
from benchmarks.speed.daemon import Daemon
from benchmarks.speed.spread import Rounds, Spread, spread
from benchmarks.speed.throughput import steady_seconds

__all__ = ["Peer", "Peers", "Times", "measure"]

_TOPAZ_REDUCTION = 4
_ISSUE_SHAPE = (3710, 3838)
"""(h, w) of a micrograph of beta-galactosidase from a K2 camera."""
_DAEMON_MODELS = ("mlp", "fcn")
_DAEMON_PORTION = 6


class Peer(msgspec.Struct, frozen=True, kw_only=True):
    """A picker, frazil among them, on one float32 micrograph."""

    picker: str
    width_px: int
    height_px: int
    seconds: Spread
    peak_mib: float | None
    """None for frazil, of which section `memory` tells."""


class Times(msgspec.Struct, frozen=True, kw_only=True):
    """How many times as fast as a peer frazil is; made within each round."""

    peer: str
    frazil: str
    width_px: int
    height_px: int
    times: Spread


class Peers(msgspec.Struct, frozen=True, kw_only=True):
    """All pickers that are installed."""

    versions: dict[str, str]
    missing: list[str]
    peers: list[Peer]
    times: list[Times]


@dataclass(frozen=True, kw_only=True)
class _Program:
    """A picker of others."""

    name: str
    version: str
    commands: tuple[tuple[str | Path, ...], ...]
    """One after the other, in a folder that holds ``micrograph.mrc``."""
    rounds: int


def measure(bench: Bench) -> Peers:
    """Every picker in turns, for both sizes."""
    programs, missing = _installed(bench)
    peers: list[Peer] = []
    times: list[Times] = []
    with contextlib.ExitStack() as stack:
        daemons = {model: stack.enter_context(Daemon(bench, model, "peers")) for model in _DAEMON_MODELS}
        for shape in (_ISSUE_SHAPE, (bench.scale.size_px, bench.scale.size_px)):
            found = _measure_shape(bench, programs, daemons, shape)
            peers += found.peers
            times += found.times
    return Peers(versions={p.name: p.version for p in programs}, missing=missing, peers=peers, times=times)


def _installed(bench: Bench) -> tuple[list[_Program], list[str]]:
    relion, topaz = find_relion(), find_topaz()
    programs, missing = [], []
    if relion:
        command = relion_command(relion, "micrograph.mrc", DIAMETER_ANGSTROM, PIXEL_SIZE_ANGSTROM)
        version = _ask_version([relion, "--version"])
        programs.append(
            _Program(name="RELION LoG", version=version, commands=(tuple(command),), rounds=bench.scale.peer_rounds)
        )
    else:
        missing.append("RELION")
    if topaz and bench.scale.slow_peer_rounds:
        radius = round(DIAMETER_ANGSTROM / PIXEL_SIZE_ANGSTROM / _TOPAZ_REDUCTION / 2)
        reduction = str(_TOPAZ_REDUCTION)
        preprocess = (topaz, "preprocess", "-s", reduction, "-d", "-1", "-o", "reduced/", "micrograph.mrc")
        extract = (topaz, "extract", "-m", "resnet16", "-r", str(radius), "-x", reduction, "-d", "-1")
        commands = (preprocess, (*extract, "-o", "picks.txt", "reduced/micrograph.mrc"))
        version = _ask_version([topaz, "--version"])
        programs.append(_Program(name="Topaz", version=version, commands=commands, rounds=bench.scale.slow_peer_rounds))
    elif not topaz:
        missing.append("Topaz")
    return programs, missing


def _measure_shape(
    bench: Bench, programs: Sequence[_Program], daemons: dict[str, Daemon], shape: tuple[int, int]
) -> Peers:
    height, width = shape
    micrograph = bench.micrograph(shape)
    folder = bench.folder / f"peers-{width}x{height}"
    folder.mkdir()
    (folder / "micrograph.mrc").hardlink_to(micrograph)
    rounds, peak_mib = Rounds(), dict.fromkeys((p.name for p in programs), 0.0)
    ours = [f"frazil {model}" for model in MODELS] + [f"frazil {model}, daemon" for model in daemons]
    for number in range(bench.scale.peer_rounds):
        for program in programs:
            if number >= program.rounds:
                continue
            bench.say(f"{program.name} on {width} x {height}, round {number + 1} of {program.rounds}")
            children = [run_child(command, folder) for command in program.commands]
            rounds.add(program.name, sum(child.seconds for child in children))
            peak_mib[program.name] = max(peak_mib[program.name], *(child.peak_mib for child in children))
        for model in MODELS:
            bench.say(f"frazil {model} on {width} x {height}, round {number + 1} of {bench.scale.peer_rounds}")
            picker = bench.picker(model)
            rounds.time(f"frazil {model}", lambda: bench.pick(picker, micrograph))  # noqa: B023 - called at once
        for model, daemon in daemons.items():
            arrived = daemon.pick_backlog([micrograph], _DAEMON_PORTION, f"{width}x{height}-{number}")
            rounds.add(f"frazil {model}, daemon", steady_seconds(arrived))
    return Peers(
        versions={},
        missing=[],
        peers=[
            Peer(
                picker=name,
                width_px=width,
                height_px=height,
                seconds=rounds.spread(name),
                peak_mib=round(peak_mib[name]) if name in peak_mib else None,
            )
            for name in rounds.seconds
        ],
        times=[
            Times(
                peer=program.name,
                frazil=name,
                width_px=width,
                height_px=height,
                # Those of the rounds that both have.
                times=spread([a / b for a, b in zip(rounds.seconds[program.name], rounds.seconds[name], strict=False)]),
            )
            for program in programs
            for name in ours
        ],
    )


def _ask_version(command: Sequence[str]) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    lines = (done.stdout or done.stderr).strip().splitlines()
    return lines[0].strip() if lines else ""
