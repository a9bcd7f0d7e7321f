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
import contextlib
import json
import statistics
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

from crowd import crowd, give, open_daemon, parse_options, turns, write_micrographs

SERIES_SECONDS = 5.0


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
    broken = [repr(task.exception()) for task in tasks if task.done()]
    for task in tasks:
        task.cancel()
    print(json.dumps(counts | {"broken": broken}), flush=True)


def main() -> None:
    """Measure, and say it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--browsers", type=int, default=200)
    parser.add_argument("--browse", metavar="HOST:PORT", help=argparse.SUPPRESS)
    given = parse_options(parser, portions=6)
    if given.browse:
        host, _, port = given.browse.partition(":")
        asyncio.run(browse_all(host, int(port), given.browsers))
        return
    rates: dict[bool, list[float]] = {False: [], True: []}
    got: Counter[str] = Counter()
    with tempfile.TemporaryDirectory() as folder, open_daemon(Path(folder), given.model) as daemon:
        sources = write_micrographs(Path(folder), given.micrographs, given.side)
        give(daemon, sources, "warm")
        address = daemon.page.removeprefix("http://").strip("/")
        for portion, beside in turns(given.portions):
            print(f"portion {portion + 1} of {given.portions}", file=sys.stderr, flush=True)
            browsers = crowd(__file__, "--browse", address, "--browsers", given.browsers)
            with browsers if beside else contextlib.nullcontext([]) as said:
                rates[beside].append(give(daemon, sources, f"{portion}-{beside}"))
            for line in said:
                counts = json.loads(line)
                assert not counts.pop("broken"), counts
                got.update(counts)
    alone, watched = statistics.median(rates[False]), statistics.median(rates[True])
    ratios = [b / a for a, b in zip(rates[False], rates[True], strict=True)]
    print(f"alone                  {alone:.2f} micrographs a second (median of {given.portions} portions)")
    print(f"with {given.browsers:4d} browsers     {watched:.2f} micrographs a second")
    print(
        f"ratio                  {watched / alone:.2f}; of neighbouring portions {min(ratios):.2f} to {max(ratios):.2f}"
    )
    print(f"the browsers got       {dict(got)}")


if __name__ == "__main__":
    main()
