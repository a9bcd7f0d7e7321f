"""A few minutes at two microscopes, in which something of everything happens that the dashboards show.

``titan1`` collects in two sessions, ``krios2`` in one. On ``titan1`` a new version of the model begins to serve, two
files arrive that are no micrographs, the next version is refused since it is torn, sixty micrographs arrive at once,
and one session gets nothing but noise. At last the daemon of ``krios2`` is killed.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import mrcfile
import numpy as np

from benchmarks.daemon_process import DaemonProcess
from benchmarks.prometheus_process import PrometheusProcess
from frazil.model import ModelFolder
from frazil_trainer.simulate import density_model

__all__ = ["SCRAPE", "Session", "play"]

REPOSITORY = Path(__file__).resolve().parents[2]
SCRAPE = "5s"
"""As in deploy/prometheus/prometheus.yml."""
SIDE_PX, SIMULATED = 1536, 12


@dataclass(frozen=True, kw_only=True)
class Session:
    """A session of simulated micrographs."""

    microscope: str
    name: str
    particle: str
    every_seconds: float


SESSIONS = (
    Session(microscope="titan1", name="1101_apo", particle="apoferritin", every_seconds=4),
    Session(microscope="titan1", name="1102_80S", particle="ribosome", every_seconds=5),
    Session(microscope="krios2", name="1101_capsid", particle="capsid", every_seconds=6),
)


class Camera:
    """Puts micrographs of a session into its directory, each complete at once."""

    def __init__(self, session: Session, folder: Path) -> None:
        self.session = session
        self._simulated = folder / "simulated" / session.particle
        self._averages = folder / session.microscope / session.name / "Averages"
        self._averages.mkdir(parents=True)
        diameter = density_model(session.particle).diameter_angstrom
        (self._averages / "frazil.toml").write_text(f"diameter_angstrom = {diameter:g}\n")
        command = [str(Path(sys.executable).parent / "frazil-train"), "simulate", "--out", str(self._simulated)]
        command += ["--count", str(SIMULATED), "--seed", "18", "--size", str(SIDE_PX), "--particle", session.particle]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        self._count = 0
        self.empty = False
        """Whether there are no particles any more: the pixels are those of micrographs, shuffled."""

    def collect(self) -> None:
        """One micrograph more."""
        self._count += 1
        source = self._simulated / f"simulated_{self._count % SIMULATED + 1:04}.mrc"
        aside = self._averages / f".{self._count}"
        shutil.copyfile(source, aside)
        if self.empty:
            with mrcfile.open(aside, "r+") as mrc:
                np.random.default_rng(self._count).shuffle(mrc.data.reshape(-1))
        aside.rename(self._averages / f"m{self._count:04}.mrc")

    def collect_text(self) -> None:
        """A file that is no micrograph."""
        self._count += 1
        (self._averages / f"m{self._count:04}.mrc").write_bytes(b"plain text " * 500)


def play(program: str, folder: Path, seconds: float) -> tuple[float, float]:
    """Let it happen; the folder then holds Prometheus' data.

    Returns:
        When it began and ended, in Unix seconds.
    """
    cameras = {session.name: Camera(session, folder) for session in SESSIONS}
    model = folder / "models" / "cnn"
    for version in ("1", "3"):
        shutil.copytree(REPOSITORY / "exported_models" / "cnn" / version, model / version)
    shutil.copytree(model / "3", model / "4")
    (model / "4" / "model.onnx").write_bytes((model / "3" / "model.onnx").read_bytes()[:1000])
    ModelFolder(model).promote(1)

    def daemon(name: str, model: Path) -> DaemonProcess:
        options = ("--model", model, "--device", "cpu", "--threads", "1", "--scan", "0.5")
        return DaemonProcess(folder / name, folder / "picks" / name, *options, sessions="*/Averages")

    with daemon("titan1", model) as titan1, daemon("krios2", REPOSITORY / "exported_models" / "cnn") as krios2:
        targets = {name: one.page[7:].strip("/") for name, one in (("titan1", titan1), ("krios2", krios2))}
        with PrometheusProcess(program, targets, folder, SCRAPE):
            began = time.time()
            for at, happens in sorted(events(cameras, model, krios2, seconds), key=lambda event: event[0]):
                time.sleep(max(0.0, began + at - time.time()))
                happens()
            return began, time.time()


def events(
    cameras: dict[str, Camera], model: Path, krios2: DaemonProcess, seconds: float
) -> Iterator[tuple[float, Callable[[], object]]]:
    """What happens, and after how many seconds."""
    apo, ribosome = cameras["1101_apo"], cameras["1102_80S"]
    down = seconds - 90.0
    for camera in cameras.values():
        until = down if camera.session.microscope == "krios2" else seconds
        for number in range(int(until / camera.session.every_seconds)):
            yield number * camera.session.every_seconds, camera.collect
    yield 0.35 * seconds, lambda: ModelFolder(model).promote(3)
    yield 0.45 * seconds, apo.collect_text
    yield 0.50 * seconds, lambda: (model / "CURRENT").write_text("4\n")
    yield 0.55 * seconds, lambda: (model / "CURRENT").write_text("3\n")
    yield 0.60 * seconds, ribosome.collect_text
    for _ in range(60):
        yield 0.65 * seconds, ribosome.collect
    yield 0.70 * seconds, lambda: setattr(apo, "empty", True)
    yield down, krios2.process.kill
    yield seconds, lambda: None
