"""Throw random, oversize and malformed messages at both sockets of a stream, and see that nothing changes.

``python benchmarks/fuzz_stream.py`` starts a stream of its own, sends it 100,000 messages, and says what it did to it:
every document still comes, in order, and memory has not grown. A short form of it is among the tests.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import random
import re
import socket
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import prometheus_client
import zmq

import frazil
from frazil.documents import ModelDocument, encode_document, topic_of
from frazil.health.metrics import Metrics
from frazil.model import ModelIdentity
from frazil.session.outbox.ledger import Ledger
from frazil.session.outbox.stream import Stream

ZMTP_GREETING = b"\xff" + b"\x00" * 8 + b"\x7f\x03\x00NULL" + b"\x00" * 48
_AT_ONCE = 200


def fuzz(publish: str, replay: str, *, messages: int, draw: random.Random) -> None:
    """Send messages, half of them to each address: as ZeroMQ messages, and as bytes that are none."""
    context = zmq.Context()
    try:
        for _ in range(0, messages, _AT_ONCE):
            for address in (publish, replay):
                kind = draw.choice([zmq.DEALER, zmq.REQ, zmq.XSUB, zmq.SUB, zmq.PUSH, None])
                if kind is None:
                    _send_bytes(address, _AT_ONCE // 2, draw)
                else:
                    _send_messages(context, kind, address, _AT_ONCE // 2, draw)
    finally:
        context.destroy(linger=0)


def _send_messages(
    context: zmq.Context[zmq.Socket[bytes]], kind: int, address: str, count: int, draw: random.Random
) -> None:
    sender = context.socket(kind)
    sender.linger = 0
    sender.sndtimeo = 5
    if kind == zmq.REQ:
        sender.setsockopt(zmq.REQ_RELAXED, 1)
    sender.connect(address)
    for _ in range(count):
        with contextlib.suppress(zmq.ZMQError):
            if kind == zmq.SUB:
                sender.subscribe(_body(draw)[:2000])
            else:
                # Large frames go alone: libzmq aborts a sender that closes amid frames (its issue 3442).
                frames = draw.choice([1, 1, 1, 2, 3, 9])
                sender.send_multipart([_body(draw)[: 10**6 if frames == 1 else 400] for _ in range(frames)])
    if kind in (zmq.DEALER, zmq.REQ):
        sender.poll(20)
    sender.close()


def _send_bytes(address: str, count: int, draw: random.Random) -> None:
    """Bytes that no ZeroMQ socket would send: noise, and noise after a proper greeting or a whole handshake."""
    host, port = re.fullmatch(r"tcp://(.+):(\d+)", address).groups()  # type: ignore[union-attr]
    for _ in range(max(1, count // 10)):  # each connection carries ten
        with contextlib.suppress(OSError), socket.create_connection((host, int(port)), timeout=5) as connection:
            connection.settimeout(0.5)
            beginning = draw.choice([b"", ZMTP_GREETING, ZMTP_GREETING + _command(draw.choice(_READY))])
            connection.sendall(beginning[: draw.choice([len(beginning), draw.randint(0, len(beginning))])])
            for _ in range(10):
                body = _body(draw)
                connection.sendall(draw.choice([body, _frame(body), _command(body[:255]), _command(_ping(draw)) * 20]))
            if draw.random() < 0.5:  # leave with a reset, whatever is under way
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


_READY = [
    b"\x05READY\x0bSocket-Type" + struct.pack(">I", len(kind)) + kind
    for kind in (b"DEALER", b"REQ", b"SUB", b"XSUB", b"PUSH", b"ROUTER", b"", b"x" * 100)
]


def _command(body: bytes) -> bytes:
    return b"\x04" + bytes([len(body)]) + body


def _frame(body: bytes) -> bytes:
    """A message, or a part of one."""
    return (b"\x00" + bytes([len(body)]) if len(body) < 256 else b"\x02" + struct.pack(">Q", len(body))) + body


def _ping(draw: random.Random) -> bytes:
    """A PING, often with less or more behind its name than there should be."""
    return draw.choice([b"\x04PING", b"\x04PONG", b"\x09SUBSCRIBE", b"\x06CANCEL"]) + draw.randbytes(draw.randrange(25))


_REQUESTS: list[Callable[[random.Random], object]] = [
    lambda draw: {"from": draw.randint(-(2**70), 2**70)},
    lambda draw: {"from": draw.random(), "limit": draw.randint(-5, 10**9)},
    lambda draw: {"from": 1, "until": draw.choice([None, -1, "x", 2**64]), "topics": ["x" * draw.randint(0, 3000)]},
    lambda draw: {"from": 1, "topics": [str(i) for i in range(draw.randint(0, 500))]},
    lambda draw: {"from": draw.randint(0, 20)},
    lambda draw: {"from": 1, "session": draw.choice([5, "x" * draw.randint(0, 2000), str(draw.random())])},
    lambda draw: {"catalog": draw.choice([True, False, 1]), "after": draw.choice([None, "", str(draw.random())])},
    lambda draw: [[[{"from": draw.randint(0, 20)}]]],
]


def _body(draw: random.Random) -> bytes:
    match draw.randrange(6):
        case 0:
            return draw.randbytes(draw.choice([0, 1, 10, 300]))
        case 1:
            return draw.randbytes(draw.choice([4097, 70_000]))
        case 2:
            return draw.choice([b"[", b'{"from":', b"\x80\x04", b'"\\u', b"\x00"]) * draw.randint(1, 1300)
        case 3:
            return bytes([draw.randrange(2)]) + draw.choice([b"", b"picks", b"heartbeat", draw.randbytes(20)])
        case _:
            return json.dumps(draw.choice(_REQUESTS)(draw)).encode()


class Target:
    """A ledger and its stream, for messages to be thrown at."""

    def __init__(self, folder: Path) -> None:
        self.ledger = Ledger(folder / "ledger.sqlite")
        self.metrics = Metrics(prometheus_client.CollectorRegistry())
        self.stream = Stream("tcp://127.0.0.1:0", metrics=self.metrics)
        self.channel = self.stream.add("", ledger=self.ledger.file, epoch=self.ledger.epoch, published=0)

    def commit(self) -> None:
        """Commit and publish one document."""
        made: list[ModelDocument] = []

        def body_at(epoch: str, seq: int) -> bytes:
            stamp = ModelIdentity(name="m", version=1, sha256="0" * 64)
            made.append(ModelDocument(epoch=epoch, seq=seq, model=stamp, event="loaded", at=""))
            return encode_document(made[0])

        seq = self.ledger.commit_document("model", body_at)
        self.channel.publish(seq, topic_of(made[0]), encode_document(made[0]))

    def requests(self) -> dict[str, int]:
        """Replay requests by outcome."""
        samples = [s for family in self.metrics.registry.collect() for s in family.samples]
        return {s.labels["outcome"]: int(s.value) for s in samples if s.name == "frazil_replay_requests_total"}

    def restarts(self) -> int:
        """How often a client ended the process of the sockets."""
        return int(self.metrics.registry.get_sample_value("frazil_stream_restarts_total") or 0)

    def close(self) -> None:
        """Close both."""
        self.stream.close()
        self.ledger.close()


def main() -> int:
    """Fuzz a stream of one's own from another process, and say what came of it."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--messages", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--at", nargs=2, metavar=("PUBLISH", "REPLAY"), help="only send, to a stream that runs there")
    args = parser.parse_args()
    if args.at:
        fuzz(*args.at, messages=args.messages, draw=random.Random(args.seed))
        return 0

    started, portion = time.monotonic(), args.messages // 10
    with tempfile.TemporaryDirectory() as folder:
        target = Target(Path(folder))
        addresses = [target.stream.address, target.stream.replay]
        received: list[int] = []
        memory = []
        with frazil.PickStream(addresses[0], topics=["model"], since=1, timeout_seconds=60) as subscriber:
            for part in range(10):
                command = [sys.executable, __file__, "--at", *addresses, "--messages", str(portion)]
                subprocess.run([*command, "--seed", str(10 * args.seed + part)], check=True)
                target.commit()
                received.append(next(subscriber).seq)
                memory.append(memory_mib(target.stream.process.pid))
                print(f"{(part + 1) * portion:>8} messages  {memory[-1]:6.0f} MiB", flush=True)
        with frazil.PickStream(addresses[0], topics=["model"], since=1, timeout_seconds=60) as late:
            replayed = [next(late).seq for _ in range(10)]
        died = target.stream.dead_thread()
        print(f"{args.messages} messages in {time.monotonic() - started:.0f} s")
        print(f"replay requests by outcome: {target.requests()}")
        print(f"the process of the sockets was started again {target.restarts()} times")
        print(f"threads that died: {died or 'none'}; live {received}; replayed {replayed}")
        print(f"memory: {memory[0]:.0f} MiB after a tenth, {memory[-1]:.0f} MiB at the end")
        target.close()
    return 0 if received == replayed == list(range(1, 11)) and died is None else 1


def memory_mib(process: int) -> float:
    """Resident memory of a process."""
    return int(Path(f"/proc/{process}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20


if __name__ == "__main__":
    raise SystemExit(main())
