"""The main job without a microscope: simulated micrographs, a watched directory, the daemon, a subscriber.

Run by ``make demo``. Everything is real but the micrographs: the daemon is its own process, the picks come over
ZeroMQ, and the latency is from the moment a file was closed to the moment its picks were here.
"""

from __future__ import annotations

import argparse
import io
import queue
import re
import shutil
import signal
import statistics
import subprocess
import sys
import threading
import time
import urllib.request
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from rich.console import Console
from rich.table import Table

from frazil import PickStream
from frazil.documents import MicrographDocument
from frazil.picking import Picks, draw_picks, match_picks, read_micrograph, read_star
from frazil_trainer.evaluation.ranking import Tally, tally_matches
from frazil_trainer.simulate import density_model

BIN = Path(sys.executable).parent
READY = re.compile(r"publishing on (?P<stream>\S+), metrics on (?P<metrics>[^\s,]+)")
PATIENCE_SECONDS = 30.0
BLOCK = re.compile(r"```text\n─+ 4\. what came out ─+\n.*?\n```", re.DOTALL)
"""What the demo ends with, in the README."""


@dataclass(frozen=True, kw_only=True)
class Result:
    """One micrograph that went through."""

    name: str
    tally: Tally
    latency_seconds: float


def main() -> int:
    """Run the demo; 0 when every micrograph came through."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--count", type=int, default=10, help="micrographs (default 10)")
    parser.add_argument("--size", type=int, default=4096, help="width and height in pixels (default 4096)")
    parser.add_argument("--interval", type=float, default=1.5, help="seconds between them (default 1.5)")
    parser.add_argument("--particle", default="galactosidase", help="molecule (default galactosidase)")
    parser.add_argument("--seed", type=int, default=2026, help="of the simulation (default 2026)")
    parser.add_argument("--out", type=Path, default=Path("demo-output"), help="directory (default demo-output)")
    parser.add_argument("--readme", type=Path, help="also put what came out into the block of this file")
    args = parser.parse_args()

    console = Console()
    simulated, watched, picked = args.out / "simulated", args.out / "watched", args.out / "picks"
    for folder in (simulated, watched, picked):
        shutil.rmtree(folder, ignore_errors=True)
    watched.mkdir(parents=True)
    diameter = density_model(args.particle).diameter_angstrom

    console.rule("1. simulate")
    command = [BIN / "frazil-train", "simulate", "--out", simulated, "--count", str(args.count)]
    command += ["--seed", str(args.seed), "--size", str(args.size), "--particle", args.particle]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)

    console.rule("2. start the daemon, and a subscriber beside it")
    command = [BIN / "frazil", "serve", "--watch", watched, "--out", picked, "--diameter", f"{diameter:g}"]
    command += ["--publish", "tcp://127.0.0.1:0", "--http", "127.0.0.1:0", "--device", "cpu"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as daemon:
        try:
            stream_address, metrics_url = wait_ready(daemon, console)
            with PickStream(stream_address) as stream:
                if not stream.wait_connected(PATIENCE_SECONDS):
                    console.print("[red]no heartbeat from the daemon[/]")
                    return 1
                console.rule("3. micrographs appear, picks arrive")
                results, shown = run_session(simulated, watched, stream, args.interval, console)
            counted = scrape_picked(metrics_url)
        finally:
            daemon.send_signal(signal.SIGTERM)
            daemon.wait(10)

    stars = len(list(picked.glob("*_picks.star")))
    counts = f"{len(results)} of {args.count} documents, {stars} STAR files, {counted:.0f} counted by /metrics"
    if shown is not None:
        cv2.imwrite(str(args.out / "picks.png"), draw_result(simulated, shown))
    tell(console, results, shown, counts, args.out)
    complete = len(results) == stars == counted == args.count and daemon.returncode == 0
    if complete and args.readme is not None:
        page = Console(file=io.StringIO(), width=80, color_system=None)
        tell(page, results, shown, counts, args.out)
        block = "\n".join(line.rstrip() for line in page.file.getvalue().splitlines())  # type: ignore[attr-defined]
        text = args.readme.read_text("utf-8")
        args.readme.write_text(BLOCK.sub(lambda _: f"```text\n{block}\n```", text, count=1), "utf-8")
    return 0 if complete else 1


def tell(console: Console, results: list[Result], shown: MicrographDocument | None, counts: str, out: Path) -> None:
    """Say what came out."""
    console.rule("4. what came out")
    console.print(table_of(results))
    if results:
        latencies = [result.latency_seconds for result in results]
        median, worst = statistics.median(latencies), max(latencies)
        console.print(f"latency from file closed to picks received: median {median:.2f} s, worst {worst:.2f} s")
    console.print(counts)
    if shown is not None:
        model = f"{shown.model.name}/{shown.model.version}"
        console.print(f"picked by {model}; {out / 'picks.png'} shows {shown.micrograph}")
        console.print("with its picks as yellow circles and the truth as blue crosses")
    console.print(f"everything is in {out}")


def wait_ready(daemon: subprocess.Popen[str], console: Console) -> tuple[str, str]:
    """Show the daemon's log until it says it is ready; its stream and metrics addresses."""
    assert daemon.stderr is not None
    for line in daemon.stderr:
        console.print(line.rstrip(), style="dim", highlight=False, markup=False, soft_wrap=True)
        if found := READY.search(line):
            # From here on nobody reads the log; let it drain so that the daemon never waits for us.
            threading.Thread(target=daemon.stderr.read, daemon=True).start()
            return found["stream"], found["metrics"]
    raise SystemExit("the daemon ended before it was ready")


def run_session(
    simulated: Path, watched: Path, stream: PickStream, interval: float, console: Console
) -> tuple[list[Result], MicrographDocument | None]:
    """Drop the micrographs into the watched directory, one each interval, and take what comes back."""
    files = sorted(simulated.glob("*.mrc"))
    closed_at: dict[str, float] = {}
    arrived: queue.SimpleQueue[tuple[MicrographDocument, float]] = queue.SimpleQueue()
    done = threading.Event()

    def subscribe() -> None:
        while not done.is_set():
            document = stream.receive(0.2)
            if document is not None and not document.supersedes:  # a revision is of one that was shown
                arrived.put((document, time.monotonic()))

    subscriber = threading.Thread(target=subscribe)
    subscriber.start()

    def expose() -> None:
        for file in files:
            with file.open("rb") as source, (watched / file.name).open("wb") as target:
                shutil.copyfileobj(source, target, 2**20)
            closed_at[file.name] = time.monotonic()
            time.sleep(interval)

    threading.Thread(target=expose, daemon=True).start()
    results: list[Result] = []
    best: MicrographDocument | None = None
    try:
        while len(results) < len(files):
            document, received_at = arrived.get(timeout=PATIENCE_SECONDS)
            truth = read_star((simulated / document.micrograph).with_suffix(".star"))
            tally = tally_matches(match_picks(picks_of(document), truth, document.diameter_px / 2), len(truth))
            while document.micrograph not in closed_at:  # the picks can be here before this thread wrote the time
                time.sleep(0.001)
            result = Result(
                name=document.micrograph,
                tally=tally,
                latency_seconds=received_at - closed_at[document.micrograph],
            )
            results.append(result)
            console.print(
                f"  [{len(results):>2}/{len(files)}] {result.name}  {len(document.picks.score):>4} picks  "
                f"{result.latency_seconds:.2f} s after the file was closed",
                highlight=False,
            )
            if best is None or len(document.picks.score) > len(best.picks.score):
                best = document
    except queue.Empty:
        console.print(f"[red]no more picks for {PATIENCE_SECONDS:.0f} s[/]")
    done.set()
    subscriber.join()
    return results, best


def picks_of(document: MicrographDocument) -> Picks:
    """The arrays of a document."""
    columns = document.picks
    return Picks(y=np.array(columns.y), x=np.array(columns.x), score=np.array(columns.score))


def table_of(results: list[Result]) -> Table:
    """Picks, precision, recall and latency of each micrograph, and of all."""
    table = Table("micrograph", "particles", "picked", "precision", "recall", "latency")
    for column in table.columns[1:]:
        column.justify = "right"

    def add(name: str, tally: Tally, latency: str) -> None:
        figures = (tally.hits + tally.misses, tally.hits + tally.false_picks)
        table.add_row(name, *map(str, figures), f"{tally.precision:.2f}", f"{tally.recall:.2f}", latency)

    for result in sorted(results, key=lambda one: one.name):
        add(result.name, result.tally, f"{result.latency_seconds:.2f} s")
    table.add_section()
    latency = f"{statistics.median([r.latency_seconds for r in results]):.2f} s" if results else ""
    add("all (latency: median)", sum((r.tally for r in results), Tally()), latency)
    return table


def draw_result(simulated: Path, document: MicrographDocument) -> np.ndarray:
    """Micrograph, picks and truth in one picture."""
    file = simulated / document.micrograph
    truth = read_star(file.with_suffix(".star"))
    return draw_picks(read_micrograph(file).pixels, picks_of(document), document.diameter_px, other=truth)


def scrape_picked(metrics_url: str) -> float:
    """How many micrographs the daemon's /metrics says it picked."""
    text = urllib.request.urlopen(metrics_url, timeout=5).read().decode()
    found = re.search(r'^frazil_micrographs_total\{outcome="picked",reason=""\} (\S+)$', text, re.MULTILINE)
    return float(found[1]) if found else 0.0


if __name__ == "__main__":
    sys.exit(main())
