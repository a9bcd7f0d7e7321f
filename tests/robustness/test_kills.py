"""Killed at random moments, again and again: one result each, one whole file each, each once for the subscriber."""

from __future__ import annotations

import random
import re
import signal
import socket
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from frazil.documents import MicrographDocument, decode_document
from frazil.picking import read_star
from frazil.session.outbox.ledger import LedgerReader

pytestmark = [pytest.mark.system, pytest.mark.timeout(7200)]

Serve = Callable[..., "RunningDaemon"]  # type: ignore[name-defined]  # noqa: F821

MARKS = ("complete: ", "reading ", "picking ", "committed ", "sending ")
"""What the daemon says, at log level debug, as a micrograph goes its way; after the last comes `picked`."""
AFTER = {
    "complete: ": "in line, before read",
    "reading ": "reading",
    "picking ": "in inference",
    "committed ": "between commit and file",
    "sending ": "between file and the note of delivery",
    "": "idle",
}


def hit(log: list[str]) -> str:
    """What a kill hit: the furthest that a micrograph in hand had come."""
    last: dict[str, str] = {}
    numbers: dict[str, str] = {}
    for line in log:
        if found := re.search(r" (complete: |reading |picking |committed )(\S+\.mrc)$", line):
            last[found[2]] = found[1]
            if found[1] == "committed ":
                numbers["committed"] = found[2]
        elif " sending " in line and "committed" in numbers:
            last[numbers["committed"]] = "sending "
        elif found := re.search(r" picked (\S+\.mrc): ", line):
            last.pop(found[1], None)
    return AFTER[max(last.values(), key=MARKS.index, default="")]


def test_kills_at_random_moments_lose_nothing_and_repeat_nothing(
    serve: Serve,
    blob_model: Path,
    write_mrc: Callable[..., Path],
    make_scene: Callable[..., object],
    subscribe: Callable[[str], object],
    report: Callable[[str, str], None],
    wait_for: Callable[..., None],
    tmp_path: Path,
    is_long: bool,
) -> None:
    kills, each = (200, 3) if is_long else (8, 3)
    rng = random.Random(4)
    contents = []
    for seed in range(4):
        scene = make_scene(shape=(500, 620), seed=seed)
        contents.append(write_mrc(tmp_path / "aside.tmp", scene.pixels, 2.0).read_bytes())  # type: ignore[attr-defined]
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"tcp://127.0.0.1:{free.getsockname()[1]}"
    options = ["--diameter", "48", "--model", str(blob_model), "--publish", address, "--log-level", "debug"]
    options += ["--scan", "0.5"]
    watched, out = tmp_path / "watched", tmp_path / "out"
    watched.mkdir()
    subscriber = subscribe(address)
    names: list[str] = []

    def drop(count: int) -> None:
        for _ in range(count):
            names.append(f"m{len(names):04}.mrc")
            with (watched / names[-1]).open("wb") as file:
                content = contents[len(names) % len(contents)]
                file.write(content[: len(content) // 2])
                file.flush()
                file.write(content[len(content) // 2 :])

    hits: Counter[str] = Counter()
    started = time.monotonic()
    for kill in range(kills):
        drop(rng.choice((0, 1, each, 2 * each - 1)))
        daemon = serve(*options)
        drop(rng.choice((1, 1, 2)))
        # Half the moments are random in time, half are random in the way of a micrograph.
        if kill % 2:
            mark = rng.choice([*MARKS, "picked "])
            before = len(daemon.log)
            deadline = time.monotonic() + 5
            while not any(mark in line for line in daemon.log[before:]) and time.monotonic() < deadline:
                time.sleep(0.0005)
            time.sleep(rng.choice((0.0, 0.0, rng.uniform(0, 0.02))))
        else:
            time.sleep(rng.uniform(0, 0.6))
        assert daemon.stop(signal.SIGKILL) == -signal.SIGKILL
        daemon.reader.join()
        hits[hit(daemon.log)] += 1
        assert not [line for line in daemon.log if "Traceback" in line or "failed" in line]

    daemon = serve(*options)
    ledger = out / "frazil-ledger.sqlite"

    def is_done() -> bool:
        with LedgerReader(ledger) as reader:
            return reader.counts() == {"picked": len(names)} and int(reader.meta()["delivered"]) >= len(names)

    wait_for(is_done, f"{len(names)} results", 600)
    subscribed = subscriber.documents  # type: ignore[attr-defined]
    wait_for(lambda: len({one.seq for one in subscribed}) >= len(names), "the subscriber", 60)
    assert daemon.stop() == 0

    with LedgerReader(ledger) as reader:
        committed = {seq: decode_document(body) for seq, body in reader.documents()}
    documents = [one for one in committed.values() if isinstance(one, MicrographDocument)]
    assert sorted(committed) == list(range(1, len(names) + 1))
    assert Counter(one.micrograph for one in documents) == Counter(names)
    stars = {path.name: path for path in out.iterdir() if path.suffix == ".star" or path.name.endswith(".tmp")}
    assert sorted(stars) == sorted(f"{Path(name).stem}_picks.star" for name in names)
    for one in documents:
        picks = read_star(stars[f"{Path(one.micrograph).stem}_picks.star"])
        assert np.allclose(picks.x, one.picks.x, atol=1e-3)
        assert np.allclose(picks.y, one.picks.y, atol=1e-3)

    received = {one.seq: one for one in subscribed}
    assert received == committed
    assert [one.seq for one in subscribed] == sorted(one.seq for one in subscribed)
    repeats = len(subscribed) - len(received)

    rows = "\n".join(f"| {what} | {count} |" for what, count in hits.most_common())
    report(
        "kills.md",
        f"{kills} kills by SIGKILL over {len(names)} micrographs: each has one result in the ledger and one whole STAR "
        f"file. A subscriber that stayed attached received {len(received)} documents, each as it is in the ledger, in "
        f"their order, and {repeats} repeats.\n\n| what a kill hit | kills |\n| --- | ---: |\n{rows}",
    )
    print(f"{time.monotonic() - started:.0f} s")
    assert sum(hits.values()) == kills
    assert len(hits) >= 3
