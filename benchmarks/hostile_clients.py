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
import struct
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path

import zmq

import frazil
from frazil.session.outbox.ledger import LedgerReader

PATIENCE_SECONDS = 300.0
GREETING = b"\xff" + b"\x00" * 8 + b"\x7f\x03\x00NULL" + b"\x00" * 48
PING = b"\x04\x07\x04PING\x00\x00"
REQUEST = b'{"from": 1}'
_KEPT_DOCUMENTS = 60
_PAUSE_SECONDS = 0.02


# --- the process of the clients ---------------------------------------------------------------------------------


def connect(address: str, kind: bytes | None = None) -> socket.socket:
    """A bare TCP connection; with a kind of socket, after the handshake of ZMTP."""
    host, _, port = address.removeprefix("tcp://").rpartition(":")
    connection = socket.create_connection((host, int(port)), timeout=5)
    if kind is not None:
        ready = b"\x05READY\x0bSocket-Type" + len(kind).to_bytes(4, "big") + kind
        connection.sendall(GREETING + b"\x04" + bytes([len(ready)]) + ready)
    return connection


def leave(connection: socket.socket) -> None:
    """Go without a word more: the other side gets a reset."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    connection.close()


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
                connection = connect(addresses[to_replay], b"DEALER" if to_replay else b"SUB")
                body = REQUEST if to_replay else b"\x01" + draw.randbytes(20)
                connection.settimeout(0.05)
                connections.append(connection)
                with contextlib.suppress(TimeoutError):
                    for _ in range(draw.randrange(1, 200)):
                        connection.sendall(b"\x00" + bytes([len(body)]) + body + (PING if draw.random() < 0.3 else b""))
                    while draw.random() < 0.9:
                        connection.sendall((b"\x00" + bytes([len(body)]) + body) * 100 + PING * 20)
        for connection in connections:
            leave(connection)
        time.sleep(_PAUSE_SECONDS)


def come_and_go(addresses: list[str], clients: int, draw: random.Random) -> None:
    """Clients that break their connections at some moment: amid the greeting, the handshake, or a request."""
    script = GREETING + b"\x04\x1c\x05READY\x0bSocket-Type\x00\x00\x00\x06DEALER" + b"\x00\x0b" + REQUEST
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
            connection = connect(addresses[0], b"SUB")
            connection.sendall(b"\x00\x01\x01")
            kept.append(connection)
    threading.Event().wait()


KINDS: dict[str, tuple[Callable[[list[str], int, random.Random], None], int]] = {
    "readers": (read_pages, 50),
    "flood": (flood, 50),
    "come-and-go": (come_and_go, 50),
    "half-open": (say_nothing, 1000),
    "never-read": (never_read, 1000),
}


class Clients:
    """Clients of one kind, while this is open."""

    def __init__(self, kind: str, addresses: list[str], count: int) -> None:
        self._command = [sys.executable, __file__, "--attack", kind, *addresses, str(count)]

    def __enter__(self) -> Clients:
        self._process = subprocess.Popen(["nice", "-n", "5", *self._command], stdin=subprocess.PIPE)
        return self

    def __exit__(self, *_: object) -> None:
        assert self._process.stdin is not None
        assert self._process.poll() is None, "the clients ended by themselves"
        self._process.stdin.close()
        self._process.wait(60)


def attack(kind: str, addresses: list[str], count: int) -> None:
    """Be those clients until standard input ends."""
    run = KINDS[kind][0]
    threading.Thread(target=run, args=(addresses, count, random.Random(1)), daemon=True).start()
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
    from page_load import give, write_micrographs  # here, since the clients need nothing of it

    (folder / "small").mkdir()
    sources = write_micrographs(folder, options.micrographs, options.side)
    watched, out = folder / "watched", folder / "out"
    watched.mkdir()
    command = [sys.executable, "-c", "from frazil.commands.cli import main; main()", "serve"]
    command += ["--watch", str(watched), "--out", str(out), "--diameter", "72", "--device", "cpu", "--threads", "1"]
    command += ["--publish", "tcp://127.0.0.1:0", "--http", "127.0.0.1:0"]
    command += ["--model", str(options.model)] if options.model else []
    daemon = subprocess.Popen(
        command, stderr=subprocess.PIPE, text=True, env=os.environ | {"OMP_WAIT_POLICY": "PASSIVE"}
    )
    log: list[str] = []
    try:
        assert daemon.stderr is not None
        while not (
            found := re.search(r"publishing on ([^\s,]+), metrics on (\S+?)[,;\s]", line := daemon.stderr.readline())
        ):
            log.append(line)
            assert line, "".join(log)
        drain = threading.Thread(target=lambda: log.extend(daemon.stderr or ()))
        drain.start()
        publish, metrics = found[1], found[2]
        honest = Honest(publish)
        replay = replay_of(publish)
        rows = []
        given = options.portions * options.micrographs
        with LedgerReader(out / "frazil-ledger.sqlite") as reader:
            give(write_micrographs(folder / "small", _KEPT_DOCUMENTS, 512), watched, "warm", reader)
            for kind in options.kinds:
                rates: dict[bool, list[float]] = {False: [], True: []}
                costs: dict[bool, list[tuple[float, float]]] = {False: [], True: []}
                for portion in range(options.portions):
                    for under_attack in (False, True) if portion % 2 else (True, False):
                        clients = Clients(kind, [publish, replay], KINDS[kind][1])
                        with clients if under_attack else contextlib.nullcontext():
                            name = f"{kind}-{portion}-{under_attack}"
                            own, sockets = processor_seconds(daemon.pid)
                            rates[under_attack].append(give(sources, watched, name, reader))
                            own_then, sockets_then = processor_seconds(daemon.pid)
                            costs[under_attack].append((own_then - own, sockets_then - sockets))
                alone, beside = statistics.median(rates[False]), statistics.median(rates[True])
                ratios = [b / a for a, b in zip(rates[False], rates[True], strict=True)]
                picking = {key: sum(own for own, _ in some) / given for key, some in costs.items()}
                rows.append(picking[False] / picking[True])
                took = sum(sockets for _, sockets in costs[True]) / sum(len(sources) / rate for rate in rates[True])
                print(
                    f"{KINDS[kind][1]:>5} {kind:<12} {alone:5.2f} micrographs a second without, {beside:5.2f} with: "
                    f"{beside / alone:.2f} (pairs {min(ratios):.2f} to {max(ratios):.2f}); processor time of one "
                    f"{picking[False]:.2f} s, {picking[True]:.2f} s; the sockets took {100 * took:.0f} % of a core and "
                    f"were opened again {restarts(metrics)} times so far",
                    flush=True,
                )
            complete = honest.finish(reader.counts().get("picked", 0))
        print(
            f"the honest subscriber got {len(honest.received)} documents: {'all, in order' if complete else 'NOT ALL'}"
        )
        daemon.terminate()
        print(f"the daemon ended with status {daemon.wait(30)}")
        drain.join()
    finally:
        daemon.kill()
        daemon.wait()
        if daemon.stderr is not None:
            daemon.stderr.close()
    return complete and daemon.returncode == 0 and min(rows) >= options.least


def replay_of(publish: str) -> str:
    """Where heartbeats say that replays are asked for."""
    with zmq.Context() as context, context.socket(zmq.SUB) as subscriber:
        subscriber.connect(publish)
        subscriber.subscribe(b"heartbeat")
        body = subscriber.recv_multipart()[1]
    port = re.search(rb'"replay":"tcp://\*:(\d+)"', body)
    assert port is not None
    return f"{publish.rpartition(':')[0]}:{port[1].decode()}"


def processor_seconds(daemon: int) -> tuple[float, float]:
    """Processor time so far of the daemon itself, and of the processes that it started, those that ended included."""
    own, children = 0.0, 0.0
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            process, fields = int(stat.parent.name), stat.read_text().rpartition(")")[2].split()
            used, waited = sum(map(int, fields[11:13])), sum(map(int, fields[13:15]))
            own += used * (process == daemon)
            children += waited * (process == daemon) + used * (int(fields[1]) == daemon)
    return own / os.sysconf("SC_CLK_TCK"), children / os.sysconf("SC_CLK_TCK")


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
    parser.add_argument("--portions", type=int, default=5, help="of each kind")
    parser.add_argument("--micrographs", type=int, default=8, help="in a portion")
    parser.add_argument("--side", type=int, default=2048, help="of a micrograph, in pixels")
    parser.add_argument("--model", type=Path, help="default: frazil's own")
    parser.add_argument(
        "--least",
        type=float,
        default=0.9,
        help="of a micrograph's processor time, what is without clients over what is with them (default 0.9)",
    )
    parser.add_argument("--attack", nargs=4, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.attack:
        kind, publish, replay, count = given.attack
        attack(kind, [publish, replay], int(count))
        return 0
    with tempfile.TemporaryDirectory() as folder:
        return 0 if measure(Path(folder), given) else 1


if __name__ == "__main__":
    raise SystemExit(main())
