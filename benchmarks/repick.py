"""What bulk work costs: its rate beside the daemon's, messages of the scheduler, memory of the driver.

python benchmarks/repick.py --count 2000 --json FILE

Both pick the same micrographs of 2048 x 2048 pixels with the default model on this machine: ``frazil repick`` with
workers of one thread each, and a daemon with as many threads, in turn, a part of the micrographs in each round, so that
what else the machine does hits both. Parts can be chosen: ``--parts rate messages
scheduler memory``. What is in FILE is not
measured again: the same command goes on where it was stopped.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
import psutil
from daemon_process import FRAZIL, DaemonProcess
from micrographs import write_micrograph

from frazil.cluster.engine import open_engine
from frazil.cluster.repick import Repick
from frazil.cluster.work import NotYet
from frazil.errors import OutputError
from frazil.session.outbox.ledger import LedgerReader
from frazil.settings import ClusterSettings, ServeSettings

PARTS = ("rate", "messages", "scheduler", "memory")
SIDE_PX = 2048
DIAMETER_ANGSTROM, PIXEL_SIZE_ANGSTROM = 191.0, 1.77
DIFFERENT = 8
"""Micrographs that are different; the others are further names of these."""
PER_FOLDER = 500
FEW, MANY = 2_000, 200_000
MOST_FOR_MESSAGES = 200
CPU_SAMPLE_SECONDS = 0.25
TASKS, IN_A_TASK = 2_000, 8
ANSWER_BYTES = 120_000
"""Document and score map of one micrograph of 4096 x 4096, as the page of capacity has them."""
_NAMES_CODE = "import sys, repick; repick.print_peak(sys.argv[1], sys.argv[2])"


def make_archive(folder: Path, count: int) -> None:
    """Lay out micrographs, most of them hard links."""
    for number in range(count):
        file = folder / f"square{number // PER_FOLDER:03}" / f"m{number:06}.mrc"
        file.parent.mkdir(parents=True, exist_ok=True)
        if number < DIFFERENT:
            write_micrograph(
                file,
                (SIDE_PX, SIDE_PX),
                "float32",
                pixel_size_angstrom=PIXEL_SIZE_ANGSTROM,
                diameter_px=DIAMETER_ANGSTROM / PIXEL_SIZE_ANGSTROM,
                seed=number,
            )
        else:
            os.link(folder / "square000" / f"m{number % DIFFERENT:06}.mrc", file)


def per_second(out: Path, count: int) -> float:
    """Results per second from the first to the last, by the ledger: starts of programs do not count."""
    with LedgerReader(out / "frazil-ledger.sqlite") as reader:
        times = [record.picked_at or 0.0 for record in reader.micrographs(["picked"])]
    assert len(times) == count, (len(times), count)
    return (count - 1) / (max(times) - min(times))


class CpuWatch(threading.Thread):
    """Samples the processor time of this process's descendants, beside the number of results in a ledger.

    Where the machine does much else, processor time for each micrograph says more than the clock.
    """

    def __init__(self, out: Path) -> None:
        super().__init__(daemon=True)
        self._ledger = out / "frazil-ledger.sqlite"
        self._enough = threading.Event()
        self._samples: list[tuple[int, float]] = []

    def run(self) -> None:
        """Sample until it is enough."""
        while not self._enough.wait(CPU_SAMPLE_SECONDS):
            with contextlib.suppress(OutputError, psutil.Error), LedgerReader(self._ledger) as reader:
                count = reader.counts().get("picked", 0)
                times = [child.cpu_times() for child in psutil.Process().children(recursive=True)]
                self._samples.append((count, sum(one.user + one.system for one in times)))

    def seconds_each(self) -> float:
        """Processor time of a micrograph, between the first results and the last ones; ends the watch."""
        self._enough.set()
        self.join()
        begun = [(count, seconds) for count, seconds in self._samples if count]
        # A worker that has ended takes its time with it.
        rising = [later for earlier, later in itertools.pairwise(begun) if later[1] >= earlier[1]]
        (first, before), (last, after) = begun[0], max(rising)
        return (after - before) / (last - first)


def measure_round(folder: Path, count: int, workers: int, *, daemon_first: bool) -> dict[str, Any]:
    """Micrographs per second of both, one after the other, and processor seconds of a micrograph."""
    archive, repicked, served = folder / "archive", folder / "repicked", folder / "served"
    make_archive(archive, count)
    options = ["--diameter", str(DIAMETER_ANGSTROM), "--threshold", "0.4", "--device", "cpu"]
    command = [FRAZIL, "repick", "--watch", archive, "--out", repicked, "--workers", str(workers), "--json", *options]

    def repick() -> tuple[float, float]:
        watch = CpuWatch(repicked)
        watch.start()
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        return per_second(repicked, count), watch.seconds_each()

    def serve() -> tuple[float, float]:
        watch = CpuWatch(served)
        with DaemonProcess(archive, served, "--threads", workers, *options):
            watch.start()
            while True:
                with LedgerReader(served / "frazil-ledger.sqlite") as reader:
                    if reader.counts().get("picked", 0) == count:
                        break
                time.sleep(1)
            cpu_seconds = watch.seconds_each()
        return per_second(served, count), cpu_seconds

    if daemon_first:
        theirs, ours = serve(), repick()
    else:
        ours, theirs = repick(), serve()
    return {
        "micrographs": count,
        "workers": workers,
        "repick_per_second": round(ours[0], 3),
        "daemon_per_second": round(theirs[0], 3),
        "ratio": round(ours[0] / theirs[0], 3),
        "repick_cpu_seconds": round(ours[1], 4),
        "daemon_cpu_seconds": round(theirs[1], 4),
        "load": round(psutil.getloadavg()[0], 1),
    }


def sum_up(rounds: list[dict[str, Any]]) -> dict[str, Any]:
    """All rounds as one: micrographs by the time that they took together."""
    count = sum(one["micrographs"] for one in rounds)
    ours, theirs = (
        count / sum(one["micrographs"] / one[f"{who}_per_second"] for one in rounds) for who in ("repick", "daemon")
    )
    return {
        "micrographs": count,
        "workers": rounds[0]["workers"],
        "repick_per_second": round(ours, 3),
        "daemon_per_second": round(theirs, 3),
        "ratio": round(ours / theirs, 3),
        **{
            f"{who}_cpu_seconds": round(sum(one[f"{who}_cpu_seconds"] for one in rounds) / len(rounds), 4)
            for who in ("repick", "daemon")
        },
        "rounds": rounds,
    }


def make_run(archive: Path, out: Path) -> Repick:
    """A run in this process."""
    settings = ServeSettings(
        watch=archive,
        out=out,
        diameter_angstrom=DIAMETER_ANGSTROM,
        threshold=0.4,
        device="cpu",
        layout="any",
        max_attempts=1,
    )
    return Repick(str(archive), settings, threads=1, resume=False, say=lambda _: None)


def measure_messages(folder: Path, count: int, workers: int) -> dict[str, Any]:
    """Messages that the scheduler and the client, both in this process, read and write for each micrograph.

    What is said for other reasons, such as signs of life, is among them.
    """
    from distributed.comm.tcp import TCP

    counts = {"read": 0, "written": 0}
    read, write = TCP.read, TCP.write

    async def count_read(comm: TCP, *given: Any, **named: Any) -> Any:
        message = await read(comm, *given, **named)
        counts["read"] += len(message) if isinstance(message, list | tuple) else 1
        return message

    async def count_written(comm: TCP, message: Any, *given: Any, **named: Any) -> Any:
        counts["written"] += len(message) if isinstance(message, list | tuple) else 1
        return await write(comm, message, *given, **named)

    TCP.read, TCP.write = count_read, count_written
    make_archive(folder / "archive", count)
    run = make_run(folder / "archive", folder / "out")
    try:
        run.open()
        with open_engine("local", ClusterSettings(workers=workers), folder / "cluster") as engine:
            started = dict(counts)
            run.run(engine)
    finally:
        run.close()
        TCP.read, TCP.write = read, write
    assert run.tally.picked == count, run.tally
    return {"micrographs": count} | {
        f"{name}_per_micrograph": round((counts[name] - started[name]) / count, 2) for name in counts
    }


def measure_scheduler(folder: Path, tasks: int, workers: int) -> dict[str, Any]:
    """Processor seconds of scheduler and client, both in this process, for a task, and for each micrograph in it.

    Tasks do nothing but answer with as many bytes as that many micrographs have, with their score maps.
    """
    seconds = {}
    with open_engine("local", ClusterSettings(workers=workers), folder / "cluster") as engine:
        for micrographs in (0, IN_A_TASK):
            coming = iter([micrographs * ANSWER_BYTES] * tasks)
            begun = time.process_time()
            answers = engine.run(os.urandom, partial(next, coming, None), lambda size: (size,), lambda: None)
            assert sum(len(answer) for _, answer in answers) == tasks * micrographs * ANSWER_BYTES
            seconds[micrographs] = (time.process_time() - begun) / tasks
    return {
        "tasks": tasks,
        "answer_bytes": ANSWER_BYTES,
        "seconds_per_task": round(seconds[0], 6),
        "seconds_per_micrograph": round((seconds[IN_A_TASK] - seconds[0]) / IN_A_TASK, 6),
    }


class NoPixels:
    """In place of a cluster: every call is answered at once, as if its micrographs were just being written."""

    workers, room, description, waits_for = 2, 4, "nowhere", ""

    def run(self, _function: Any, next_call: Any, arguments: Any, beat: Any) -> Iterator[tuple[list[str], bytes]]:
        """Answer each call."""
        while (call := next_call()) is not None:
            arguments(call)
            beat()
            yield call, msgspec.msgpack.encode([NotYet(key=key, why="") for key in call])


def print_peak(archive: str, out: str) -> None:
    """Go through an archive without pixels, and print the peak of this process's memory in MiB."""
    run = make_run(Path(archive), Path(out))
    try:
        run.open()
        run.run(NoPixels())  # type: ignore[arg-type]
    finally:
        run.close()
    assert run.tally.left == run.tally.total > 0, run.tally
    print(psutil.Process().memory_full_info().uss / 2**20, _peak_mib())


def _peak_mib() -> float:
    (line,) = [one for one in Path("/proc/self/status").read_text().splitlines() if one.startswith("VmHWM")]
    return int(line.split()[1]) / 1024


def measure_memory(folder: Path, count: int) -> dict[str, Any]:
    """Memory of the driver for so many names."""
    archive = folder / "archive"
    for number in range(count):
        file = archive / f"square{number // PER_FOLDER:03}" / f"FoilHole_{number:08}_Data_fractions.mrc"
        if number % PER_FOLDER == 0:
            file.parent.mkdir(parents=True)
        file.touch()
    done = subprocess.run(
        [sys.executable, "-c", _NAMES_CODE, str(archive), str(folder / "out")],
        check=True,
        capture_output=True,
        text=True,
        cwd=Path(__file__).parent,
    )
    held, peak = map(float, done.stdout.split())
    return {"names": count, "held_mib": round(held, 1), "peak_mib": round(peak, 1)}


def main() -> None:
    """Measure, and print it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=2000)
    parser.add_argument("--rounds", type=int, default=4, help="of the rate, each with its part of the micrographs")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--names", type=int, nargs="+", default=[FEW, MANY])
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS)
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    found: dict[str, Any] = json.loads(given.json.read_text("utf-8")) if given.json and given.json.exists() else {}
    found |= {"cores": psutil.cpu_count()}

    def keep(name: str, figures: Any) -> None:
        found[name] = figures
        if given.json:
            given.json.write_text(f"{json.dumps(found, indent=2)}\n", "utf-8")

    if "rate" in given.parts:
        rounds = found.get("rate", {}).get("rounds", [])
        while len(rounds) < given.rounds:
            with tempfile.TemporaryDirectory() as folder:
                size, first = given.count // given.rounds, bool(len(rounds) % 2)
                rounds.append(measure_round(Path(folder), size, given.workers, daemon_first=first))
            print(rounds[-1], file=sys.stderr, flush=True)
            keep("rate", sum_up(rounds))
    measures = {
        "messages": lambda folder: measure_messages(folder, min(given.count, MOST_FOR_MESSAGES), given.workers),
        "scheduler": lambda folder: measure_scheduler(folder, min(given.count, TASKS), given.workers),
        "memory": lambda folder: [measure_memory(folder / str(count), count) for count in given.names],
    }
    for part in given.parts:
        if part in measures and part not in found:
            with tempfile.TemporaryDirectory() as folder:
                keep(part, measures[part](Path(folder)))
    print(json.dumps(found, indent=2))


if __name__ == "__main__":
    main()
