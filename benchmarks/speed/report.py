"""The report: the figures of every section, as JSON. A section measured again replaces its former self alone."""

from __future__ import annotations

import platform
import re
import subprocess
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Generic, TypeVar

import msgspec

from benchmarks.speed.latency import Latency
from benchmarks.speed.memory import Memory
from benchmarks.speed.peers import Peers
from benchmarks.speed.scaling import Scaling
from benchmarks.speed.stages import Stages
from benchmarks.speed.start import Start
from benchmarks.speed.straightforward import Straightforward
from benchmarks.speed.throughput import Throughput

__all__ = ["Circumstances", "Line", "Measured", "Report", "read_report", "write_report"]

T = TypeVar("T")
_REPOSITORY = Path(__file__).resolve().parents[2]
_MEASURED = ("daemon", "benchmarks/speed", "exported_models")
_PACKAGES = ("numpy", "opencv-python-headless", "onnxruntime-gpu", "onnxruntime", "mrcfile")


class Circumstances(msgspec.Struct, frozen=True, kw_only=True):
    """Where and when a section was measured."""

    processor: str
    threads: int
    system: str
    date: str
    revision: str
    """Of git; with a plus where what is measured differed from it."""
    scale: str
    seconds: float
    """That the section took."""
    versions: dict[str, str]

    @classmethod
    def now(cls, *, threads: int, scale: str, seconds: float) -> Circumstances:
        """Those of this machine."""
        return cls(
            processor=_processor(),
            threads=threads,
            system=f"{platform.system()} {platform.machine()}",
            date=datetime.now(UTC).date().isoformat(),
            revision=_revision(),
            scale=scale,
            seconds=round(seconds, 1),
            versions={"python": platform.python_version()}
            | {name: found for name in _PACKAGES if (found := _find(name))},
        )


class Measured(msgspec.Struct, Generic[T], frozen=True, kw_only=True):
    """A section's figures, and how they came about."""

    by: Circumstances
    figures: T


class Line(msgspec.Struct, frozen=True, kw_only=True):
    """Something that was promised, and whether it holds."""

    what: str
    measured: float | None
    """None where it was not."""
    bound: str
    unit: str = ""
    holds: bool | None


class Report(msgspec.Struct, kw_only=True, omit_defaults=True):
    """All sections, as far as they were measured."""

    done_when: list[Line] = []
    stages: Measured[Stages] | None = None
    memory: Measured[Memory] | None = None
    throughput: Measured[Throughput] | None = None
    latency: Measured[Latency] | None = None
    peers: Measured[Peers] | None = None
    straightforward: Measured[Straightforward] | None = None
    scaling: Measured[Scaling] | None = None
    start: Measured[Start] | None = None


def read_report(file: Path) -> Report:
    """What is in a file; nothing where there is none.

    Raises:
        SystemExit: it is no report of this version of the suite.
    """
    if not file.exists():
        return Report()
    try:
        return msgspec.json.decode(file.read_bytes(), type=Report)
    except msgspec.DecodeError as error:
        raise SystemExit(f"{file}: expected a report of this suite, found another thing ({error})") from error


def write_report(file: Path, report: Report) -> None:
    """Write the whole of it."""
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(msgspec.json.format(msgspec.json.encode(report), indent=1) + b"\n")


def _find(package: str) -> str:
    try:
        return version(package)
    except ModuleNotFoundError:  # PackageNotFoundError is one
        return ""


def _revision() -> str:
    changed = _git("status", "--porcelain", "--untracked-files=no", *_MEASURED)
    return _git("rev-parse", "--short", "HEAD") + ("+" if changed else "")


def _git(*arguments: str) -> str:
    done = subprocess.run(["git", *arguments], cwd=_REPOSITORY, capture_output=True, text=True, check=False)
    return done.stdout.strip()


def _processor() -> str:
    """What the machine calls its processor."""
    try:
        found = re.search(r"model name\s*:\s*(.+)", Path("/proc/cpuinfo").read_text())
    except OSError:
        found = None
    return found[1].strip() if found else platform.processor()
