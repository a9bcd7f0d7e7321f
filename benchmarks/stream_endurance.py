"""Subscribers that come late, sleep, are killed, or sit behind a bad network: do all end with the ledger's documents?

``python benchmarks/stream_endurance.py`` publishes 5,000 documents, and follows them from five processes, through real
sockets. One is killed 100 times at random and started again; one is stopped while most
documents are published; one sits behind a proxy that drops connections. At the end each must have the ledger's
documents, in order, byte for byte. Then it measures what a stalled subscriber costs the publisher. A short form of it
is a test.
"""

from __future__ import annotations

import argparse
import os
import random
import select
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

from published import PublishedLedger, make_document

import frazil
from frazil.documents import encode_document
from frazil.session.outbox.ledger import LedgerReader

PATIENCE_SECONDS = 600.0


def publish(source: PublishedLedger, count: int) -> None:
    """Publish documents as of real micrographs, with a few hundred picks."""
    for number in range(source.ledger.head, source.ledger.head + count):
        source.publish(make_document(f"m{number}.mrc", 50 + 89 * number % 350, seed=number))


# --- the processes that subscribe -------------------------------------------------------------------------------


def subscribe(address: str, replay: str, cursor: Path, out: Path, count: int) -> None:
    """Append each document to a file in one piece; leave after the last one."""
    if out.exists():  # a kill may have cut the last line short: it comes again
        os.truncate(out, out.read_bytes().rfind(b"\n") + 1)
    with out.open("ab", buffering=0) as file, frazil.PickStream(address, replay=replay, resume=cursor) as stream:
        print("connected", flush=True)
        for received in stream:
            file.write(encode_document(received) + b"\n")
            if received.seq == count:
                stream.acknowledge()
                return


class Subscriber:
    """A subscriber in a process of its own."""

    def __init__(self, name: str, folder: Path, addresses: list[str], count: int) -> None:
        self.name = name
        self.out = folder / f"{name}.jsonl"
        self.starts = 0
        self._command = [sys.executable, __file__, "--subscribe", *addresses, str(folder / f"{name}.cursor")]
        self._command += [str(self.out), str(count)]

    def start(self) -> None:
        """Start it, or start it again."""
        self.process = subprocess.Popen(self._command, stdout=subprocess.PIPE, text=True)
        self.starts += 1

    def wait_ready(self) -> None:
        """Wait until it reads."""
        assert self.process.stdout is not None
        self.process.stdout.readline()

    def bodies(self) -> list[bytes]:
        """What it received; what came again right after it was killed, in hand as it was, counts once."""
        received: list[bytes] = []
        for line in self.out.read_bytes().splitlines():
            if not (self.starts > 1 and received and received[-1] == line):
                received.append(line)
        return received


class Proxy:
    """Passes connections on to an address, and drops each after a random number of bytes."""

    def __init__(self, address: str, draw: random.Random) -> None:
        host, _, port = address.removeprefix("tcp://").rpartition(":")
        self._target = host, int(port)
        self._draw = draw
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.address = f"tcp://127.0.0.1:{self._listener.getsockname()[1]}"
        self.dropped = 0
        threading.Thread(target=self._run, daemon=True).start()

    def _run(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._pass_on, args=(client,), daemon=True).start()

    def _pass_on(self, client: socket.socket) -> None:
        left = self._draw.randrange(20_000, 2_000_000)
        with client, socket.create_connection(self._target) as server:
            ends = {client: server, server: client}
            try:
                while left > 0:
                    for end in select.select(list(ends), [], [])[0]:
                        data = end.recv(65536)
                        if not data:
                            return
                        ends[end].sendall(data)
                        left -= len(data)
            except OSError:
                return
        self.dropped += 1

    def close(self) -> None:
        """Take no more connections."""
        self._listener.close()


# --- the run -------------------------------------------------------------------------------------------------------


def endure(folder: Path, documents: int, kills: int) -> list[tuple[str, int, bool, str]]:
    """Publish to all of them; of each: name, documents, whether they are the ledger's, and what happened to it."""
    draw = random.Random(2)
    with PublishedLedger(folder) as source:
        proxies = [Proxy(address, draw) for address in source.addresses]
        proxied_addresses = [proxy.address for proxy in proxies]
        names = ("present", "asleep", "killed", "proxied", "late")
        subscribers = {
            name: Subscriber(name, folder, proxied_addresses if name == "proxied" else source.addresses, documents)
            for name in names
        }
        present, asleep, killed, proxied, late = subscribers.values()
        for one in (present, asleep, killed, proxied):
            one.start()
            one.wait_ready()
        asleep.process.send_signal(signal.SIGSTOP)

        killed_times = 0
        portion = max(1, documents // (kills + 1))
        while (left := documents - source.ledger.head) > 0:
            publish(source, min(portion, left))
            if killed_times < kills:
                killed.process.kill()
                killed.process.wait()
                killed_times += 1
                killed.start()
                if draw.random() < 0.5:  # the others are killed before they have read anything
                    killed.wait_ready()
                    time.sleep(draw.uniform(0, 0.2))
            if late.starts == 0 and source.ledger.head >= documents // 2:
                late.start()
        asleep.process.send_signal(signal.SIGCONT)
        deadline = time.monotonic() + PATIENCE_SECONDS
        for one in subscribers.values():
            try:
                one.process.wait(max(1.0, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                one.process.kill()
        for proxy in proxies:
            proxy.close()

    with LedgerReader(folder / "ledger.sqlite") as reader:
        truth = [body for _, body in reader.documents()]
    stories = {
        "killed": f"killed {killed_times} times",
        "asleep": "stopped from the first document to the last",
        "proxied": f"{sum(proxy.dropped for proxy in proxies)} connections dropped",
        "late": "started at half",
        "present": "there all along",
    }
    return [
        (name, len(one.bodies()), len(truth) == documents and one.bodies() == truth, stories[name])
        for name, one in subscribers.items()
    ]


def stall(folder: Path, blocks: int, documents: int) -> float:
    """Time of a block of documents with a stalled subscriber over that without, medians of interleaved blocks."""
    seconds: dict[bool, list[float]] = {True: [], False: []}
    with PublishedLedger(folder) as source:
        for i in range(2 * blocks):
            stalled = i % 2 == 1
            sleeper = Subscriber(f"stalled{i}", folder, source.addresses, 10**9)
            if stalled:
                sleeper.start()
                sleeper.wait_ready()
                sleeper.process.send_signal(signal.SIGSTOP)
            started = time.monotonic()
            publish(source, documents)
            seconds[stalled].append(time.monotonic() - started)
            if stalled:
                sleeper.process.kill()
                sleeper.process.wait()
    return statistics.median(seconds[True]) / statistics.median(seconds[False])


def main() -> int:
    """Run it and say what came of it."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--documents", type=int, default=5000)
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--blocks", type=int, default=5, help="interleaved pairs of blocks with and without a stall")
    parser.add_argument("--subscribe", nargs=5, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.subscribe:
        address, replay, cursor, out, count = args.subscribe
        subscribe(address, replay, Path(cursor), Path(out), int(count))
        return 0

    in_memory = "/dev/shm"  # a busy disk would be all that is measured
    with tempfile.TemporaryDirectory(dir=in_memory if os.path.isdir(in_memory) else None) as top:  # noqa: PTH112
        started = time.monotonic()
        (Path(top) / "endure").mkdir()
        results = endure(Path(top) / "endure", args.documents, args.kills)
        for name, received, same, story in results:
            print(f"{name:>8}: {received} documents, {'the ledger' if same else 'NOT the ledger'}'s; {story}")
        print(f"{args.documents} documents in {time.monotonic() - started:.0f} s")
        ratio = 1.0
        if args.blocks:
            (Path(top) / "stall").mkdir()
            ratio = stall(Path(top) / "stall", args.blocks, max(200, args.documents // 5))
            print(f"time of a document with a stalled subscriber / without: {ratio:.2f}")
    return 0 if all(same for _, _, same, _ in results) and ratio < 1.5 else 1


if __name__ == "__main__":
    raise SystemExit(main())
