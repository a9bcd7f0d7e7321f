"""Does picking keep its rate while 200 browsers look at the page?

``python benchmarks/page_load.py`` runs one daemon, gives it portions of simulated micrographs to pick, every other one
while 200 browsers look, and compares the rates: the machine's other work falls on both. A browser here is what a real
one does to the daemon, without the drawing: it holds an event stream, and on each event asks for the newest
micrograph's picks and picture and, every few seconds, for the plots. The browsers are one process of lower priority,
since in truth they run elsewhere. A short form is a test.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import mrcfile
import numpy as np

from frazil.session.outbox.ledger import LedgerReader

PATIENCE_SECONDS = 300.0
SERIES_SECONDS = 5.0


# --- the process of the browsers --------------------------------------------------------------------------------


async def ask(host: str, port: int, path: str) -> bytes:
    """The body of an answer, over a connection of its own."""
    reader, writer = await asyncio.open_connection(host, port)
    try:
        writer.write(f"GET {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n".encode())
        head = await reader.readuntil(b"\r\n\r\n")
        body = await reader.read()
        assert b" 200 " in head.split(b"\r\n", 1)[0] or b" 503 " in head.split(b"\r\n", 1)[0], head[:200]
        return body
    finally:
        writer.close()


async def browse(host: str, port: int, counts: dict[str, int]) -> None:
    """One browser, until cancelled."""
    for path in ("/", "/static/page.css", "/static/overview.js", "/static/viewer.js", "/static/plot.js"):
        await ask(host, port, path)
    reader, writer = await asyncio.open_connection(host, port)
    writer.write(f"GET /events HTTP/1.1\r\nHost: {host}\r\n\r\n".encode())
    await reader.readuntil(b"\r\n\r\n")
    counts["streams"] += 1
    shown, plotted = 0, 0.0
    while True:
        line = await reader.readline()
        if not line.startswith(b"data: {"):
            assert line
            continue
        counts["events"] += 1
        latest = (json.loads(line[6:])["standing"] or {}).get("latest", [])
        if latest and latest[0]["seq"] != shown:
            shown = latest[0]["seq"]
            await ask(host, port, f"/api/overlay/{shown}?hidden=1")
            await ask(host, port, f"/api/picture/{shown}?size=large")
            counts["pictures"] += 1
        if time.monotonic() - plotted > SERIES_SECONDS:
            plotted = time.monotonic()
            await ask(host, port, "/api/series")


async def browse_all(host: str, port: int, browsers: int) -> None:
    """All browsers, until standard input ends; then one line of what they got."""
    counts = {"streams": 0, "events": 0, "pictures": 0}
    tasks = [asyncio.create_task(browse(host, port, counts)) for _ in range(browsers)]
    while counts["streams"] < browsers and not any(task.done() for task in tasks):
        await asyncio.sleep(0.05)
    print("all look", flush=True)
    await asyncio.to_thread(sys.stdin.read)
    broken = [task.exception() for task in tasks if task.done()]
    for task in tasks:
        task.cancel()
    print(json.dumps(counts | {"broken": len(broken), "why": repr(broken[:1])}), flush=True)


class Browsers:
    """Browsers that look as long as this is open."""

    def __init__(self, host: str, port: int, count: int) -> None:
        self._command = [sys.executable, __file__, "--browse", f"{host}:{port}", "--browsers", str(count)]
        self.counts: dict[str, int] = {}

    def __enter__(self) -> Browsers:
        self._process = subprocess.Popen(
            ["nice", "-n", "5", *self._command], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        assert self._process.stdout is not None
        assert self._process.stdout.readline() == "all look\n"
        return self

    def __exit__(self, *_: object) -> None:
        output, _ = self._process.communicate("", timeout=60)
        self.counts = json.loads(output)


# --- the daemon and its micrographs -----------------------------------------------------------------------------


def write_micrographs(folder: Path, count: int, side_px: int) -> list[Path]:
    """Noise with dark discs, as MRC files."""
    rng = np.random.default_rng(1)
    rows, columns = np.mgrid[:side_px, :side_px]
    files = []
    for k in range(count):
        pixels = rng.normal(100, 10, (side_px, side_px)).astype(np.float32)
        for y, x in rng.uniform(40, side_px - 40, (side_px // 20, 2)):
            top, left = int(y) - 20, int(x) - 20
            near = (slice(top, top + 41), slice(left, left + 41))
            pixels[near][np.hypot(rows[near] - y, columns[near] - x) < 18] -= 12
        files.append(folder / f"noise_{k}.mrc")
        with mrcfile.new(files[-1]) as mrc:
            mrc.set_data(pixels)
            mrc.voxel_size = 2.0
    return files


def picked_in(reader: LedgerReader) -> int:
    """Micrographs picked so far."""
    return reader.counts().get("picked", 0)


def measure(folder: Path, model: Path | None, browsers: int, portions: int, micrographs: int, side_px: int) -> dict:
    """Rates without and with browsers, in micrographs a second, and what the browsers got."""
    sources = write_micrographs(folder, micrographs, side_px)
    watched, out = folder / "watched", folder / "out"
    watched.mkdir()
    command = [sys.executable, "-c", "from frazil.commands.cli import main; main()", "serve"]
    command += ["--watch", str(watched), "--out", str(out), "--diameter", "72", "--device", "cpu", "--threads", "1"]
    command += ["--publish", "tcp://127.0.0.1:0", "--http", "127.0.0.1:0"]
    command += ["--model", str(model)] if model else []
    daemon = subprocess.Popen(
        command, stderr=subprocess.PIPE, text=True, env=os.environ | {"OMP_WAIT_POLICY": "PASSIVE"}
    )
    assert daemon.stderr is not None
    try:
        lines = []
        while not (found := re.search(r"page on http://([^:]+):(\d+)/", line := daemon.stderr.readline())):
            lines.append(line)
            assert line, "".join(lines)
        host, port = found[1], int(found[2])
        drain = subprocess.Popen(["cat"], stdin=daemon.stderr, stdout=subprocess.DEVNULL)
        rates: dict[int, list[float]] = {0: [], browsers: []}
        got: dict[str, int] = {}
        with LedgerReader(out / "frazil-ledger.sqlite") as reader:
            give(sources, watched, "warm", reader)
            for portion in range(portions):
                print(f"portion {portion + 1} of {portions}", file=sys.stderr, flush=True)
                for looking in (0, browsers) if portion % 2 else (browsers, 0):
                    if looking:
                        with Browsers(host, port, looking) as crowd:
                            rates[looking].append(give(sources, watched, f"{portion}-{looking}", reader))
                        got = {key: got.get(key, 0) + value for key, value in crowd.counts.items() if key != "why"}
                        assert not crowd.counts["broken"], crowd.counts
                    else:
                        rates[looking].append(give(sources, watched, f"{portion}-{looking}", reader))
        daemon.terminate()
        daemon.wait(30)
        drain.wait(30)
    finally:
        daemon.kill()
        daemon.wait()
        daemon.stderr.close()
    return {"alone": rates[0], "watched": rates[browsers], "got": got}


def give(sources: list[Path], watched: Path, name: str, reader: LedgerReader) -> float:
    """Give the daemon a portion and wait for its picks: micrographs a second."""
    before = picked_in(reader)
    for k, source in enumerate(sources):
        aside = watched / f".{name}-{k}.tmp"
        shutil.copyfile(source, aside)
    started = time.monotonic()
    for k in range(len(sources)):
        (watched / f".{name}-{k}.tmp").rename(watched / f"{name}-{k}.mrc")
    while picked_in(reader) < before + len(sources):
        assert time.monotonic() - started < PATIENCE_SECONDS
        time.sleep(0.02)
    return len(sources) / (time.monotonic() - started)


def main() -> None:
    """Measure, and say it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--browsers", type=int, default=200)
    parser.add_argument("--portions", type=int, default=6, help="of each kind")
    parser.add_argument("--micrographs", type=int, default=8, help="in a portion")
    parser.add_argument("--side", type=int, default=2048, help="of a micrograph, in pixels")
    parser.add_argument("--model", type=Path, help="default: frazil's own")
    parser.add_argument("--browse", metavar="HOST:PORT", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.browse:
        host, _, port = given.browse.partition(":")
        asyncio.run(browse_all(host, int(port), given.browsers))
        return
    with tempfile.TemporaryDirectory() as folder:
        measured = measure(Path(folder), given.model, given.browsers, given.portions, given.micrographs, given.side)
    alone, watched = statistics.median(measured["alone"]), statistics.median(measured["watched"])
    ratios = [b / a for a, b in zip(measured["alone"], measured["watched"], strict=True)]
    print(f"alone                  {alone:.2f} micrographs a second (median of {given.portions} portions)")
    print(f"with {given.browsers:4d} browsers     {watched:.2f} micrographs a second")
    print(
        f"ratio                  {watched / alone:.2f}; of neighbouring portions {min(ratios):.2f} to {max(ratios):.2f}"
    )
    print(f"the browsers got       {measured['got']}")


if __name__ == "__main__":
    main()
