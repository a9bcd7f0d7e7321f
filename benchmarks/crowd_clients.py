"""One process of many clients of a daemon, of one kind: see ``crowds.py``, which starts it.

It is there once it says a line, goes when its standard input ends, and says as JSON what was got.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import random
import socket
import sys
import threading
import time
from collections.abc import Callable

import zmq
from zmtp import GREETING, connect, handshake, leave, write_command, write_frame

__all__ = ["BROWSERS", "KINDS"]

PING = write_command(b"\x04PING\x00\x00")
REQUEST = b'{"from": 1}'
SERIES_SECONDS = 5.0
_PAUSE_SECONDS = 0.02


# --- browsers that look at the page -----------------------------------------------------------------------------


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
    modules = ("overview", "circles", "dom", "edits", "help", "live", "look", "plot", "sign_in", "viewer")
    for path in ("/", "/static/page.css", *(f"/static/{module}.js" for module in modules), "/api/sign-in"):
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
            sizes = ("large",) if shown else ("small", "large")
            shown = latest[0]["seq"]
            await ask(host, port, f"/api/overlay/{shown}?hidden=1")
            for size in sizes:
                await ask(host, port, f"/api/picture/{shown}?size={size}")
            counts["pictures"] += 1
        if time.monotonic() - plotted > SERIES_SECONDS:
            plotted = time.monotonic()
            await ask(host, port, "/api/series")


async def browse_all(page: str, browsers: int) -> dict[str, int]:
    """All browsers, until standard input ends."""
    host, _, port = page.removeprefix("http://").strip("/").partition(":")
    counts = {"streams": 0, "events": 0, "pictures": 0}
    tasks = [asyncio.create_task(browse(host, int(port), counts)) for _ in range(browsers)]
    while counts["streams"] < browsers and not any(task.done() for task in tasks):
        await asyncio.sleep(0.05)
    print("all look", flush=True)
    await asyncio.to_thread(sys.stdin.read)
    broken = [task.exception() for task in tasks if task.done()]
    assert not broken, broken
    for task in tasks:
        task.cancel()
    return counts


# --- clients of the stream that do their worst ------------------------------------------------------------------


def read_pages(addresses: list[str], clients: int, _: random.Random) -> None:
    """Clients that ask for the first page, read it, and ask again."""
    with zmq.Context() as context:
        poller = zmq.Poller()
        for _number in range(clients):
            asker = context.socket(zmq.DEALER)
            asker.connect(addresses[1])
            asker.send(REQUEST)
            poller.register(asker, zmq.POLLIN)
        while True:
            for asker, _event in poller.poll():
                asker.recv_multipart(copy=False)
                asker.send(REQUEST)


def flood(addresses: list[str], clients: int, draw: random.Random) -> None:
    """Clients that fill their connections with requests, subscriptions and PINGs, read nothing, and break them."""
    while True:
        connections = []
        for number in range(clients):
            with contextlib.suppress(OSError):
                to_replay = number % 2 == 0
                connection = connect(addresses[to_replay])
                connections.append(connection)
                connection.sendall(handshake(b"DEALER" if to_replay else b"SUB"))
                frame = write_frame(REQUEST if to_replay else b"\x01" + draw.randbytes(20))
                connection.settimeout(0.05)
                with contextlib.suppress(TimeoutError):
                    for _ in range(draw.randrange(1, 200)):
                        connection.sendall(frame + (PING if draw.random() < 0.3 else b""))
                    while draw.random() < 0.9:
                        connection.sendall(frame * 100 + PING * 20)
        for connection in connections:
            leave(connection)
        time.sleep(_PAUSE_SECONDS)


def come_and_go(addresses: list[str], clients: int, draw: random.Random) -> None:
    """Clients that break their connections at some moment: amid the greeting, the handshake, or a request."""
    script = handshake(b"DEALER") + write_frame(REQUEST)
    while True:
        connections = []
        for _ in range(clients):
            with contextlib.suppress(OSError):
                connection = connect(draw.choice(addresses))
                connection.sendall(script[: draw.randrange(len(script) + 1)])
                connections.append(connection)
        for connection in connections:
            leave(connection)
        time.sleep(_PAUSE_SECONDS)


def say_nothing(addresses: list[str], clients: int, draw: random.Random) -> None:
    """Clients that connect and get no further than a part of the greeting; closed, they come again."""
    halves: list[socket.socket] = []
    while True:
        still = []
        for half in halves:
            with contextlib.suppress(OSError):
                half.setblocking(False)
                try:
                    if half.recv(1 << 10, socket.MSG_PEEK | socket.MSG_DONTWAIT):
                        still.append(half)
                    else:
                        half.close()
                except BlockingIOError:
                    still.append(half)
        halves = still
        while len(halves) < clients:
            with contextlib.suppress(OSError):
                half = connect(draw.choice(addresses))
                half.sendall(GREETING[: draw.randrange(len(GREETING))])
                halves.append(half)
                continue
            break
        time.sleep(0.2)


def never_read(addresses: list[str], clients: int, _: random.Random) -> None:
    """Subscribers that subscribe to everything and read nothing."""
    kept = []
    for _number in range(clients):
        with contextlib.suppress(OSError):
            connection = connect(addresses[0])
            connection.sendall(handshake(b"SUB") + write_frame(b"\x01"))
            kept.append(connection)
    threading.Event().wait()


KINDS: dict[str, tuple[Callable[[list[str], int, random.Random], None], int]] = {
    "readers": (read_pages, 50),
    "flood": (flood, 50),
    "come-and-go": (come_and_go, 50),
    "half-open": (say_nothing, 1000),
    "never-read": (never_read, 1000),
}
"""What such clients do, and how many they are by default."""
BROWSERS = 200


def main() -> None:
    """Be those clients until standard input ends."""
    kind, count, page, *addresses = sys.argv[1:]
    if kind == "browsers":
        print(json.dumps(asyncio.run(browse_all(page, int(count)))))
        return
    run = KINDS[kind][0]
    threading.Thread(target=run, args=(addresses, int(count), random.Random(1)), daemon=True).start()
    print("here", flush=True)
    sys.stdin.read()
    print("{}", flush=True)
    os._exit(0)


if __name__ == "__main__":
    main()
