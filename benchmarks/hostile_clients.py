"""Does picking keep its rate, and the daemon its life, whatever clients do to the stream's sockets?

``python benchmarks/hostile_clients.py`` runs one daemon, gives it portions of simulated micrographs to pick, every
other one while clients of one kind do their worst, and compares the rates: the machine's other work falls on both. The
clients are one process of lower priority, since in truth they run elsewhere; what they themselves take of the cores is
in the rate all the same. What is due to the daemon is in the processor time: of one micrograph, and of the process of
the sockets. An honest subscriber listens all the time and must end with every document, once and in order. A short form
is a test.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import random
import re
import socket
import statistics
import sys
import tempfile
import threading
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path

import zmq
from crowd import crowd, give, open_daemon, parse_options, turns, write_micrographs
from zmtp import GREETING, connect, handshake, leave, write_command, write_frame

import frazil
from frazil.session.outbox.ledger import LedgerReader

PATIENCE_SECONDS = 300.0
PING = write_command(b"\x04PING\x00\x00")
REQUEST = b'{"from": 1}'
_KEPT_DOCUMENTS = 60
_PAUSE_SECONDS = 0.02


# --- the process of the clients ---------------------------------------------------------------------------------


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


def attack(kind: str, addresses: list[str], count: int) -> None:
    """Be those clients until standard input ends."""
    run = KINDS[kind][0]
    threading.Thread(target=run, args=(addresses, count, random.Random(1)), daemon=True).start()
    print("here", flush=True)
    sys.stdin.read()
    os._exit(0)


# --- the daemon and an honest subscriber --------------------------------------------------------------------------


class Honest:
    """A subscriber in a thread, which must get everything."""

    def __init__(self, address: str) -> None:
        self.received: list[int] = []
        self._address = address
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._follow)
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
    rows = []
    with open_daemon(folder, options.model) as daemon:
        honest = Honest(daemon.stream)
        addresses = [daemon.stream, replay_of(daemon.stream)]
        give(daemon, write_micrographs(folder, _KEPT_DOCUMENTS, 512), "warm")
        for kind in options.kinds:
            count = KINDS[kind][1]
            rates: dict[bool, list[float]] = {False: [], True: []}
            spent = {False: 0.0, True: 0.0}
            sockets_seconds = 0.0
            for portion, beside in turns(options.portions):
                clients = crowd(__file__, "--attack", kind, *addresses, count)
                with clients if beside else contextlib.nullcontext():
                    own, sockets = daemon.processor_seconds()
                    rates[beside].append(give(daemon, sources, f"{kind}-{portion}-{beside}"))
                    own_then, sockets_then = daemon.processor_seconds()
                spent[beside] += (own_then - own) / given
                sockets_seconds += beside * (sockets_then - sockets)
            without, with_ = statistics.median(rates[False]), statistics.median(rates[True])
            ratios = [b / a for a, b in zip(rates[False], rates[True], strict=True)]
            rows.append(spent[False] / spent[True])
            took = sockets_seconds / sum(len(sources) / rate for rate in rates[True])
            print(
                f"{count:>5} {kind:<12} {without:5.2f} micrographs a second without, {with_:5.2f} with: "
                f"{with_ / without:.2f} (pairs {min(ratios):.2f} to {max(ratios):.2f}); processor time of one "
                f"{spent[False]:.2f} s, {spent[True]:.2f} s; the sockets took {100 * took:.0f} % of a core and "
                f"were opened again {restarts(daemon.metrics)} times so far",
                flush=True,
            )
        with LedgerReader(daemon.out / "frazil-ledger.sqlite") as reader:
            complete = honest.finish(reader.counts().get("picked", 0))
    print(f"the honest subscriber got {len(honest.received)} documents: {'all, in order' if complete else 'NOT ALL'}")
    print(f"the daemon ended with status {daemon.process.returncode}")
    return complete and daemon.process.returncode == 0 and min(rows) >= options.least


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
    parser.add_argument("--kinds", nargs="+", choices=list(KINDS), default=list(KINDS))
    parser.add_argument(
        "--least",
        type=float,
        default=0.9,
        help="of a micrograph's processor time, what is without clients over what is with them (default 0.9)",
    )
    parser.add_argument("--attack", nargs=4, help=argparse.SUPPRESS)
    given = parse_options(parser, portions=5)
    if given.attack:
        kind, publish, replay, count = given.attack
        attack(kind, [publish, replay], int(count))
        return 0
    with tempfile.TemporaryDirectory() as folder:
        return 0 if measure(Path(folder), given) else 1


if __name__ == "__main__":
    raise SystemExit(main())
