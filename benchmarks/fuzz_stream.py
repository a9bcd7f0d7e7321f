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
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import zmq
from published import PublishedLedger, make_document
from zmtp import GREETING, connect, handshake, leave, write_command, write_frame

import frazil

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
    if kind == zmq.DEALER:
        sender.poll(20)
    sender.close()


def _send_bytes(address: str, count: int, draw: random.Random) -> None:
    """Bytes that no ZeroMQ socket would send: noise, and noise after a proper greeting or a whole handshake."""
    for _ in range(max(1, count // 10)):  # each connection carries ten
        with contextlib.suppress(OSError), connect(address) as connection:
            connection.settimeout(0.5)
            beginning = draw.choice([b"", GREETING, handshake(draw.choice(_KINDS))])
            connection.sendall(beginning[: draw.choice([len(beginning), draw.randint(0, len(beginning))])])
            for _ in range(10):
                body = _body(draw)
                pings = write_command(_ping(draw)) * 20
                connection.sendall(draw.choice([body, write_frame(body), write_command(body[:255]), pings]))
            if draw.random() < 0.5:
                leave(connection)


_KINDS = (b"DEALER", b"REQ", b"SUB", b"XSUB", b"PUSH", b"ROUTER", b"", b"x" * 100)


def _ping(draw: random.Random) -> bytes:
    """A PING, often with less or more behind its name than there should be."""
    return draw.choice([b"\x04PING", b"\x04PONG", b"\x09SUBSCRIBE", b"\x06CANCEL"]) + draw.randbytes(draw.randrange(25))


_REQUESTS: list[Callable[[random.Random], object]] = [
    lambda draw: {"from": draw.randint(-(2**70), 2**70)},
    lambda draw: {"from": draw.random(), "limit": draw.randint(-5, 10**9)},
    lambda draw: {"from": 1, "until": draw.choice([None, -1, "x", 2**64]), "topics": ["x" * draw.randint(0, 3000)]},
    lambda draw: {"from": 1, "topics": [str(i) for i in range(draw.randint(0, 500))]},
    lambda draw: {"from": draw.randint(0, 20)},
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
    received: list[int] = []
    memory = []
    with tempfile.TemporaryDirectory() as folder, PublishedLedger(Path(folder)) as target:
        with frazil.PickStream(target.stream.address, topics=["picks"], since=1, timeout_seconds=60) as subscriber:
            for part in range(10):
                command = [sys.executable, __file__, "--at", *target.addresses, "--messages", str(portion)]
                subprocess.run([*command, "--seed", str(10 * args.seed + part)], check=True)
                target.publish(make_document(f"{part}.mrc", 10, seed=part))
                received.append(next(subscriber).seq)
                memory.append(memory_mib(target.stream.process.pid))
                print(f"{(part + 1) * portion:>8} messages  {memory[-1]:6.0f} MiB", flush=True)
        with frazil.PickStream(target.stream.address, topics=["picks"], since=1, timeout_seconds=60) as late:
            replayed = [next(late).seq for _ in range(10)]
        died = target.stream.dead_thread()
        samples = [s for family in target.metrics.registry.collect() for s in family.samples]
    requests = {s.labels["outcome"]: int(s.value) for s in samples if s.name == "frazil_replay_requests_total"}
    restarts = sum(int(s.value) for s in samples if s.name == "frazil_stream_restarts_total")
    print(f"{args.messages} messages in {time.monotonic() - started:.0f} s")
    print(f"replay requests by outcome: {requests}")
    print(f"the process of the sockets was started again {restarts} times")
    print(f"threads that died: {died or 'none'}; live {received}; replayed {replayed}")
    print(f"memory: {memory[0]:.0f} MiB after a tenth, {memory[-1]:.0f} MiB at the end")
    return 0 if received == replayed == list(range(1, 11)) and died is None else 1


def memory_mib(process: int) -> float:
    """Resident memory of a process."""
    return int(Path(f"/proc/{process}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20


if __name__ == "__main__":
    raise SystemExit(main())
