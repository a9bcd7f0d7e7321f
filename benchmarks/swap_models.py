"""Swap two models under load, again and again: is anything lost or mixed, does picking pause, does memory grow.

The two models of the repository take turns while simulated micrographs keep coming. Every document's picks are
compared with what the model that it names, and the other one, find in that micrograph.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import re
import shutil
import statistics
import sys
import tempfile
import threading
import time
from collections import Counter
from datetime import datetime
from pathlib import Path

import numpy as np
from daemon_process import DaemonProcess
from figures import summary

from frazil.client import PickStream
from frazil.documents import MicrographDocument
from frazil.model import Device, ModelFolder, load_model, locate_model
from frazil.picking import Picker, PickingSettings, Picks, PreparationOnDevice, read_micrograph
from frazil_trainer.simulate import SimulationSettings
from frazil_trainer.simulate.series import write_series

EXPORTED = Path(__file__).resolve().parents[1] / "exported_models"
MODELS = (EXPORTED / "fcn", EXPORTED / "cnn")
DIAMETER_ANGSTROM = 191.0
IN_FLIGHT = 4
PROBATION_MICROGRAPHS = 4
"""Fewer than are waited for at each swap, so that memory is looked at with one model loaded."""
SETTLED_SWAPS = 5
"""Memory at the end is compared with what it was after so many; each time the larger one of both models."""
PATIENCE_SECONDS = 120.0


def main() -> int:
    """Swap, print what was seen, and fail if anything was lost or mixed."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--swaps", type=int, default=100, help="how often, 6 or more (default 100)")
    parser.add_argument("--size", type=int, default=1024, help="side of a micrograph in pixels (default 1024)")
    parser.add_argument(
        "--device", choices=("auto", "cpu", "cuda"), default="auto", help="of the daemon (default auto)"
    )
    parser.add_argument("--json", type=Path, help="also write the figures here")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        report = swap_under_load(Path(folder), args.swaps, args.size, args.device)
    print(json.dumps(report, indent=2))
    if args.json:
        args.json.write_text(json.dumps(report, indent=2) + "\n")
    return 0 if report["lost"] == report["repeated"] == report["mixed"] == 0 else 1


def swap_under_load(folder: Path, swaps: int, size: int, device: Device) -> dict[str, object]:
    """All figures."""
    repository = ModelFolder(folder / "models" / "pair")
    for version, model in enumerate(MODELS, start=1):
        shutil.copytree(locate_model(model)[0].parent, repository.path / str(version))
    repository.promote(1)
    sources = list(write_series(folder / "simulated", SimulationSettings(shape=(size, size)), count=4, seed=1))
    options = ["--diameter", DIAMETER_ANGSTROM, "--model", repository.path, "--device", device]
    options += ["--probation-micrographs", PROBATION_MICROGRAPHS, "--no-choose-threshold"]  # one document for each
    seconds, memory = [], []
    with (
        DaemonProcess(folder / "watched", folder / "out", *options) as daemon,
        PickStream(daemon.stream) as picks,
    ):
        assert picks.wait_connected(PATIENCE_SECONDS)
        load = Load(sources, daemon.watched, picks)
        for version in itertools.islice(itertools.cycle((2, 1)), swaps):
            started = time.monotonic()
            repository.promote(version)
            daemon.wait_for(rf"model pair/{version} .* serves from here on")
            seconds.append(time.monotonic() - started)
            load.wait_for_more(2 * IN_FLIGHT)
            memory.append(daemon.memory_mib())
        documents = load.finish()
    names = Counter(d.micrograph for d in documents)
    settled, last = max(memory[SETTLED_SWAPS - 2 : SETTLED_SWAPS]), max(memory[-2:])
    return {
        "swaps": swaps,
        "micrographs": load.written,
        "lost": load.written - len(names),
        "repeated": len(documents) - len(names),
        "mixed": count_mixed(documents, sources, device),
        "seconds_from_promoted_to_serving": summary(seconds),
        **pauses(documents),
        "memory_mib": {"settled": round(settled), "last": round(last)},
        "memory_ratio": round(last / settled, 3),
        "proof": logged_seconds(daemon, r"checked in ([\d.]+) s"),
        "load": logged_seconds(daemon, r"loaded in ([\d.]+) s"),
        "cores": len(os.sched_getaffinity(0)),
    }


def logged_seconds(daemon: DaemonProcess, pattern: str) -> dict[str, float]:
    """Of the lines that match in a daemon's log."""
    return summary([float(found[1]) for _, line in daemon.lines if (found := re.search(pattern, line))])


class Load:
    """Keeps a few micrographs on their way, and collects the documents."""

    def __init__(self, sources: list[Path], watched: Path, stream: PickStream) -> None:
        self.written = 0
        self._documents: list[MicrographDocument] = []
        self._sources = sources
        self._watched = watched
        self._stream = stream
        self._stop = threading.Event()
        self._changed = threading.Condition()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        while not self._stop.is_set() or len(self._documents) < self.written:
            while not self._stop.is_set() and self.written - len(self._documents) < IN_FLIGHT:
                source = self._sources[self.written % len(self._sources)]
                aside = self._watched / ".aside"
                shutil.copyfile(source, aside)
                aside.rename(self._watched / f"m{self.written:06}.mrc")
                self.written += 1
            document = self._stream.receive(0.05)
            if document is not None:
                (self._watched / document.micrograph).unlink()  # hours of micrographs would fill a disk
                with self._changed:
                    self._documents.append(document)
                    self._changed.notify_all()

    def wait_for_more(self, count: int) -> None:
        """Until so many more documents have come."""
        with self._changed:
            for _ in range(count):
                if not self._changed.wait(PATIENCE_SECONDS):
                    raise SystemExit(f"no document for {PATIENCE_SECONDS:g} s, after {len(self._documents)}")

    def finish(self) -> list[MicrographDocument]:
        """Write no more, and wait for what is on its way."""
        self._stop.set()
        self._thread.join(PATIENCE_SECONDS)
        return self._documents


def count_mixed(documents: list[MicrographDocument], sources: list[Path], device: Device) -> int:
    """Documents whose picks are not those of the model that they name, or those of the other one, too."""
    expected, sha256 = {}, {}
    for version, path in enumerate(MODELS, start=1):
        model = load_model(path, device)
        settings = PickingSettings(diameter_angstrom=DIAMETER_ANGSTROM)
        picker = Picker(model, settings, device=PreparationOnDevice(model))
        sha256[version] = model.identity.sha256
        expected[version] = [picker.pick(read_micrograph(source)) for source in sources]

    def is_mixed(document: MicrographDocument) -> bool:
        version, source = document.model.version, int(document.micrograph[1:7]) % len(sources)
        own, other = expected[version][source], expected[3 - version][source]
        return document.model.sha256 != sha256[version] or not equal(document, own) or equal(document, other)

    return sum(map(is_mixed, documents))


def equal(document: MicrographDocument, picks: Picks) -> bool:
    """Whether a document holds these picks."""
    names = ("y", "x", "score")
    return len(document.picks.y) == len(picks) > 0 and all(
        np.allclose(getattr(document.picks, name), getattr(picks, name), atol=1e-3) for name in names
    )


def pauses(documents: list[MicrographDocument]) -> dict[str, object]:
    """How long the picker stood still between two micrographs, at swaps and elsewhere, in times of a micrograph."""
    ordered = sorted(documents, key=lambda d: d.seq)
    picking = [d.seconds.prepare + d.seconds.infer + d.seconds.peaks for d in ordered]
    ended = [datetime.fromisoformat(d.picked_at).timestamp() for d in ordered]
    usual = statistics.median(picking)
    at_swaps, elsewhere = [], []
    for i in range(1, len(ordered)):
        pause = max(0.0, ended[i] - picking[i] - ended[i - 1]) / usual
        (elsewhere if ordered[i].model == ordered[i - 1].model else at_swaps).append(pause)
    return {
        "micrograph_seconds": round(usual, 4),
        "pause_at_swaps": summary(at_swaps),
        "pause_elsewhere": summary(elsewhere),
    }


if __name__ == "__main__":
    sys.exit(main())
