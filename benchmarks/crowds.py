"""Does picking keep its rate, and the daemon its life, beside a crowd of clients, even such as do their worst?

``python benchmarks/crowds.py`` runs one daemon, gives it portions of micrographs to pick, every other one beside a
crowd of one kind, and compares the rates: the machine's other work falls on both. By default the crowds are hostile
clients of the stream's sockets; ``--kinds browsers`` are 200 that look at the page. A browser here is what a real one
does to the daemon, without the drawing: it holds an event stream, and on each event asks for the newest micrograph's
picks and picture and, every few seconds, for the plots.

A crowd is one process of lower priority, since in truth it runs elsewhere; what it takes of the cores is in the rate
all the same. What is due to the daemon is in the processor time: of one micrograph, and of the process of the sockets.
An honest subscriber listens all the time and must end with every document, once and in order. Short forms are tests.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import zmq
from crowd_clients import BROWSERS, KINDS
from daemon_process import DaemonProcess
from micrographs import write_micrograph

import frazil
from frazil.session.outbox.ledger import LedgerReader

DIAMETER_ANGSTROM, PIXEL_SIZE_ANGSTROM = 72.0, 2.0
PATIENCE_SECONDS = 300.0
KEPT_DOCUMENTS = 60
"""For clients to ask for again."""


def write_micrographs(folder: Path, count: int, side_px: int) -> list[Path]:
    """Noise with dark discs."""
    files = [folder / f"noise_{side_px}_{k}.mrc" for k in range(count)]
    for k, file in enumerate(files):
        diameter_px = DIAMETER_ANGSTROM / PIXEL_SIZE_ANGSTROM
        write_micrograph(
            file,
            (side_px, side_px),
            "float32",
            pixel_size_angstrom=PIXEL_SIZE_ANGSTROM,
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
def crowd(kind: str, count: int, addresses: list[str]) -> Iterator[dict[str, int]]:
    """Clients of one kind, which are there while this is open; what they got is known after it."""
    script = Path(__file__).with_name("crowd_clients.py")
    command = ["nice", "-n", "5", sys.executable, str(script), kind, str(count), *addresses]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline(), "the clients ended by themselves"
        counts: dict[str, int] = {}
        yield counts
        assert process.poll() is None, "the clients ended by themselves"
        counts |= json.loads(process.communicate("", timeout=60)[0])


class Honest:
    """A subscriber in a thread, which must get everything."""

    def __init__(self, address: str) -> None:
        self.received: list[int] = []
        self._address = address
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._follow, daemon=True)
        self._thread.start()

    def _follow(self) -> None:
        with frazil.PickStream(self._address, since=1, topics=["picks", "failed", "model"]) as stream:
            while not self._stop.is_set():
                document = stream.receive(0.2)
                if document is not None:
                    self.received.append(document.seq)

    def finish(self, head: int) -> bool:
        """Wait for everything; whether it came once and in order."""
        deadline = time.monotonic() + PATIENCE_SECONDS
        while (not self.received or self.received[-1] < head) and time.monotonic() < deadline:
            time.sleep(0.1)
        self._stop.set()
        self._thread.join()
        return self.received == list(range(1, head + 1))


def measure(folder: Path, options: argparse.Namespace) -> bool:
    """Print the rates, kind by kind; whether all went well."""
    sources = write_micrographs(folder, options.micrographs, options.side)
    given = options.portions * options.micrographs
    ratios_of_cost = [1.0]
    settings = ["--diameter", DIAMETER_ANGSTROM, "--device", "cpu", "--threads", 1]
    settings += ["--no-choose-threshold", "--no-assess"]  # one document for each micrograph
    settings += ["--unlike", "pick"]  # those to warm up with are small
    settings += ["--model", options.model] if options.model else []
    with DaemonProcess(folder / "watched", folder / "out", *settings) as daemon:
        honest = Honest(daemon.stream)
        addresses = [daemon.page, daemon.stream, replay_of(daemon.stream)]
        give(daemon, write_micrographs(folder, KEPT_DOCUMENTS, 512), "warm")
        for kind in options.kinds:
            count = options.clients or (KINDS[kind][1] if kind in KINDS else BROWSERS)
            rates: dict[bool, list[float]] = {False: [], True: []}
            spent = {False: 0.0, True: 0.0}
            sockets_seconds = 0.0
            got: Counter[str] = Counter()
            for portion in range(options.portions):
                for beside in (False, True) if portion % 2 else (True, False):
                    with crowd(kind, count, addresses) if beside else contextlib.nullcontext({}) as counts:
                        own, sockets = daemon.processor_seconds()
                        rates[beside].append(give(daemon, sources, f"{kind}-{portion}-{beside}"))
                        own_then, sockets_then = daemon.processor_seconds()
                    got.update(counts)
                    spent[beside] += (own_then - own) / given
                    sockets_seconds += beside * (sockets_then - sockets)
            without, with_ = statistics.median(rates[False]), statistics.median(rates[True])
            ratios = [b / a for a, b in zip(rates[False], rates[True], strict=True)]
            ratios_of_cost += [spent[False] / spent[True]] if kind in KINDS else []
            took = sockets_seconds / sum(len(sources) / rate for rate in rates[True])
            print(
                f"{count:>5} {kind:<12} {without:5.2f} micrographs a second without, {with_:5.2f} with: "
                f"{with_ / without:.2f} (pairs {min(ratios):.2f} to {max(ratios):.2f}); processor time of one "
                f"{spent[False]:.2f} s, {spent[True]:.2f} s; the sockets took {100 * took:.0f} % of a core and "
                f"were opened again {restarts(daemon.metrics)} times so far",
                *([f"the {kind} got {dict(got)}"] if got else []),
                sep="\n",
                flush=True,
            )
        with LedgerReader(daemon.out / "frazil-ledger.sqlite") as reader:
            complete = honest.finish(reader.counts().get("picked", 0))
    print(f"the honest subscriber got {len(honest.received)} documents: {'all, in order' if complete else 'NOT ALL'}")
    print(f"the daemon ended with status {daemon.process.returncode}")
    return complete and daemon.process.returncode == 0 and min(ratios_of_cost) >= options.least


def replay_of(publish: str) -> str:
    """Where heartbeats say that replays are asked for."""
    with zmq.Context() as context, context.socket(zmq.SUB) as subscriber:
        subscriber.connect(publish)
        subscriber.subscribe(b"heartbeat")
        body = subscriber.recv_multipart()[1]
    port = re.search(rb'"replay":"tcp://\*:(\d+)"', body)
    assert port is not None
    return f"{publish.rpartition(':')[0]}:{port[1].decode()}"


def restarts(metrics: str) -> int:
    """How often the process of the sockets was started again."""
    with urllib.request.urlopen(metrics, timeout=30) as answer:
        found = re.search(r"^frazil_stream_restarts_total ([\d.]+)", answer.read().decode(), re.MULTILINE)
    assert found is not None
    return int(float(found[1]))


def main() -> int:
    """Measure, and say it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kinds", nargs="+", choices=[*KINDS, "browsers"], default=list(KINDS))
    parser.add_argument("--clients", type=int, help="of a kind; default: 50 to 1,000, by kind")
    parser.add_argument("--portions", type=int, default=5, help="of each kind")
    parser.add_argument("--micrographs", type=int, default=8, help="in a portion")
    parser.add_argument("--side", type=int, default=2048, help="of a micrograph, in pixels")
    parser.add_argument("--model", type=Path, help="default: frazil's own")
    parser.add_argument(
        "--least",
        type=float,
        default=0.9,
        help="of a micrograph's processor time, what is without hostile clients over what is with them (default 0.9)",
    )
    with tempfile.TemporaryDirectory() as folder:
        return 0 if measure(Path(folder), parser.parse_args()) else 1


if __name__ == "__main__":
    raise SystemExit(main())
