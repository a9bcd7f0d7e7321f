"""Does picking keep its rate beside a crowd? A daemon is given portions of micrographs, every other one beside it.

So the machine's other work falls on both. The crowd is one process of lower priority, since in truth it runs elsewhere.
"""

from __future__ import annotations

import argparse
import contextlib
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from daemon_process import PATIENCE_SECONDS, DaemonProcess
from micrographs import write_micrograph

from frazil.session.outbox.ledger import LedgerReader

__all__ = ["crowd", "give", "open_daemon", "parse_options", "turns", "write_micrographs"]

_DIAMETER_ANGSTROM, _PIXEL_SIZE_ANGSTROM = 72.0, 2.0


def parse_options(parser: argparse.ArgumentParser, portions: int) -> argparse.Namespace:
    """The options of every such benchmark, beside its own."""
    parser.add_argument("--portions", type=int, default=portions, help="of each kind")
    parser.add_argument("--micrographs", type=int, default=8, help="in a portion")
    parser.add_argument("--side", type=int, default=2048, help="of a micrograph, in pixels")
    parser.add_argument("--model", type=Path, help="default: frazil's own")
    return parser.parse_args()


def open_daemon(folder: Path, model: Path | None) -> DaemonProcess:
    """A daemon for the micrographs of `write_micrographs`."""
    options = ["--diameter", _DIAMETER_ANGSTROM, "--device", "cpu", "--threads", 1]
    return DaemonProcess(folder / "watched", folder / "out", *options, *(["--model", model] if model else []))


def write_micrographs(folder: Path, count: int, side_px: int) -> list[Path]:
    """Noise with dark discs."""
    files = [folder / f"noise_{side_px}_{k}.mrc" for k in range(count)]
    for k, file in enumerate(files):
        diameter_px = _DIAMETER_ANGSTROM / _PIXEL_SIZE_ANGSTROM
        write_micrograph(
            file,
            (side_px, side_px),
            "float32",
            pixel_size_angstrom=_PIXEL_SIZE_ANGSTROM,
            diameter_px=diameter_px,
            seed=k,
        )
    return files


def give(daemon: DaemonProcess, sources: list[Path], name: str) -> float:
    """Give a daemon a portion and wait for its picks: micrographs a second."""
    asides = [daemon.watched / f".{name}-{k}.tmp" for k in range(len(sources))]
    for source, aside in zip(sources, asides, strict=True):
        shutil.copyfile(source, aside)
    with LedgerReader(daemon.out / "frazil-ledger.sqlite") as reader:
        before = reader.counts().get("picked", 0)
        started = time.monotonic()
        for k, aside in enumerate(asides):
            aside.rename(daemon.watched / f"{name}-{k}.mrc")
        while reader.counts().get("picked", 0) < before + len(sources):
            assert time.monotonic() - started < PATIENCE_SECONDS
            time.sleep(0.02)
    return len(sources) / (time.monotonic() - started)


@contextlib.contextmanager
def crowd(script: str, *options: object) -> Iterator[list[str]]:
    """Run a script as the crowd: it is there once it says a line, and goes when its standard input ends.

    Gives a list for what it says as it goes.
    """
    command = ["nice", "-n", "5", sys.executable, script, *map(str, options)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline(), "the crowd ended by itself"
        output: list[str] = []
        yield output
        assert process.poll() is None, "the crowd ended by itself"
        output.append(process.communicate("", timeout=60)[0])


def turns(portions: int) -> Iterator[tuple[int, bool]]:
    """Number of each portion, and whether it is the one beside the crowd, which comes first in every second pair."""
    for portion in range(portions):
        for beside in (False, True) if portion % 2 else (True, False):
            yield portion, beside
