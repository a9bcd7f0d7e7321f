"""One short session of a real daemon, the same each time: every kind of document is published once at least.

It knows commands, files, sockets and HTTP alone, and nothing of how frazil is built.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import re
import shutil
import signal
import sqlite3
import struct
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import zmq
from prometheus_client.parser import text_string_to_metric_families

HERE = Path(__file__).resolve().parent
MODELS = HERE / "models"
NEUTRAL = Path("/tmp/frazil-golden")
"""The folder of a session as it is recorded, whatever it was."""
LEDGER = "frazil-ledger.sqlite"
WITNESS = ".frazil-witness"
BIN = Path(sys.executable).parent
PATIENCE_SECONDS = 120.0
DIAMETER_ANGSTROM = 48.0
ENVIRONMENT = {**os.environ, "OMP_WAIT_POLICY": "PASSIVE"}
"""Of every process, taken once: a test may change its own meanwhile."""

ADDRESSES = ("/", "/micrographs", "/micrograph?path=a.mrc", "/metrics", "/healthz", "/readyz", "/events")

Json = dict[str, Any]


# --- micrographs ------------------------------------------------------------------------------------------------


def draw(seed: int, shape: tuple[int, int] = (288, 400), discs: int = 9, diameter_px: int = 24) -> bytes:
    """An MRC file of dark discs in noise, the same bytes on every machine and with every version of NumPy."""
    h, w = shape
    stream = hashlib.shake_256(f"golden {seed}".encode()).digest(4 * h * w + 4000)
    # Four bytes a pixel add up to almost normal noise, with a standard deviation of 148.
    noise = np.frombuffer(stream[: 4 * h * w], np.uint8).reshape(h, w, 4).sum(axis=2, dtype=np.int32)
    places = np.frombuffer(stream[4 * h * w :], "<u2").reshape(-1, 2).astype(np.int64)
    y, x = np.mgrid[:h, :w]
    centres: list[tuple[int, int]] = []
    for a, b in places:
        cy, cx = int(a) % (h - 2 * diameter_px) + diameter_px, int(b) % (w - 2 * diameter_px) + diameter_px
        if len(centres) < discs and all((cy - p) ** 2 + (cx - q) ** 2 > 4 * diameter_px**2 for p, q in centres):
            # From faint to plain, so that limits matter.
            noise[(y - cy) ** 2 + (x - cx) ** 2 <= (diameter_px // 2) ** 2] -= 150 + 40 * len(centres)
            centres.append((cy, cx))
    return _header(noise) + noise.astype("<i2").tobytes()


def _header(pixels: np.ndarray[Any, np.dtype[np.int32]], pixel_size_angstrom: float = 2.0) -> bytes:
    h, w = pixels.shape
    header = struct.pack("<10i", w, h, 1, 1, 0, 0, 0, w, h, 1)
    header += struct.pack("<6f", w * pixel_size_angstrom, h * pixel_size_angstrom, pixel_size_angstrom, 90, 90, 90)
    header += struct.pack("<3i3f", 1, 2, 3, float(pixels.min()), float(pixels.max()), float(pixels.mean()))
    header += struct.pack("<2i", 0, 0) + bytes(12) + struct.pack("<i", 20140) + bytes(84)
    header += struct.pack("<3f", 0, 0, 0) + b"MAP " + bytes([0x44, 0x44, 0, 0]) + struct.pack("<fi", -1, 0)
    return header.ljust(1024, b"\0")


FILES: dict[str, Callable[[], bytes]] = {
    "a.mrc": lambda: draw(1),
    "grid 1/b.mrc": lambda: draw(2),
    "broken.mrc": lambda: b"This is no micrograph. " * 100,
    "empty.mrc": lambda: b"",
    "c.mrc": lambda: draw(4),
    "d.mrc": lambda: draw(5),
    "e.mrc": lambda: draw(6),
}
"""What is written into the watched directory in a session, by name."""
REWRITTEN: dict[str, Callable[[], bytes]] = {"a.mrc": lambda: draw(3)}
"""What is written over it later."""


# --- the daemon -------------------------------------------------------------------------------------------------


@dataclass
class Session:
    """A daemon that runs, and all that it published."""

    root: Path
    process: subprocess.Popen[bytes]
    daemon: Json
    """What the ledger says of the daemon: its addresses above all."""
    live: zmq.Socket[bytes]
    messages: list[tuple[bytes, bytes]] = field(default_factory=list)
    """Topics and documents as they were published."""

    def published(self) -> list[tuple[bytes, bytes]]:
        """Topics and documents; of the heartbeats, whose number depends on the time, only the first."""
        heard = [message for message in self.messages if message[0] == b"heartbeat"]
        return [*heard[:1], *(message for message in self.messages if message[0] != b"heartbeat")]

    def put(self, name: str, content: bytes) -> None:
        """Move a whole file into the watched directory."""
        aside = self.root / "aside"
        aside.write_bytes(content)
        target = self.root / "watched" / name
        aside.rename(target)

    def point_at(self, version: int) -> None:
        """Promote a version of the model."""
        aside = self.root / "aside"
        aside.write_text(f"{version}\n")
        aside.rename(self.root / "models" / "disc" / "CURRENT")
        self.process.send_signal(signal.SIGHUP)  # it looks at once

    def wait(self, kind: str, **wanted: object) -> Json:
        """Listen until a document of this type is published, with these values, later than any waited for before."""
        deadline = time.monotonic() + PATIENCE_SECONDS
        while self.process.poll() is None and time.monotonic() < deadline:
            if not self.live.poll(200):
                continue
            topic, body = self.live.recv_multipart()
            document = json.loads(body)
            self.messages.append((topic, body))
            if document["type"] == kind and all(document[key] == value for key, value in wanted.items()):
                return document
        raise AssertionError(f"no {kind} document with {wanted} was published:\n{self.log()}")

    def log(self) -> str:
        return (self.root / "log").read_text("utf-8", "replace")

    def addresses(self) -> Json:
        """What each address for programs and each page answers: its status and the kind of its content."""
        said = {}
        for path in ADDRESSES:
            with urllib.request.urlopen(self.daemon["page"].rstrip("/") + path, timeout=PATIENCE_SECONDS) as answer:
                said[path] = [answer.status, answer.headers["Content-Type"]]
        return said

    def _get(self, url: str) -> str:
        with urllib.request.urlopen(url, timeout=PATIENCE_SECONDS) as answer:
            return answer.read().decode()

    def metrics(self, delivered: int) -> str:
        """The metrics, once so many results were delivered; what is counted last is that."""
        deadline = time.monotonic() + PATIENCE_SECONDS
        wanted = f'frazil_stage_duration_seconds_count{{stage="deliver"}} {delivered:.1f}\n'
        while wanted not in (text := self._get(self.daemon["metrics"])):
            assert time.monotonic() < deadline, f"not so many results were delivered: {delivered}\n{text}"
            time.sleep(0.01)
        return text

    def replay(self, **request: Any) -> tuple[list[Json], list[bytes]]:
        """Pages and documents, as asked for until there are no more."""
        pages: list[Json] = []
        bodies: list[bytes] = []
        heartbeat = next(json.loads(body) for topic, body in self.messages if topic == b"heartbeat")
        with closing(zmq.Context.instance().socket(zmq.DEALER)) as asker:
            asker.linger = 0
            asker.connect(heartbeat["replay"].replace("*", "127.0.0.1"))
            start = request.get("from", 1)
            while not pages or start <= pages[-1]["head"]:
                asker.send(json.dumps({**request, "from": start}).encode())
                assert asker.poll(1000 * PATIENCE_SECONDS), "no answer to a request for earlier documents"
                page, *found = asker.recv_multipart()
                pages.append(json.loads(page))
                bodies += found
                start = pages[-1]["next"]
                request.pop("generation", None)
        return pages, bodies

    def stop(self) -> int:
        """End it in order; its exit status."""
        self.process.terminate()
        return self.process.wait(PATIENCE_SECONDS)


def frazil(*arguments: object) -> str:
    """Run a command; what it prints."""
    done = subprocess.run(
        [str(a) for a in (BIN / "frazil", *arguments)],
        capture_output=True,
        text=True,
        env=ENVIRONMENT,
        timeout=PATIENCE_SECONDS,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@contextmanager
def serve(root: Path, *options: object) -> Iterator[Session]:
    """Run a daemon in a folder that holds `watched`, `out` and `models`."""
    settings = f'diameter = {DIAMETER_ANGSTROM}\nmodel = "{root}/models/disc"\nscan = 1.0\nstall = 0.3\n'
    settings += "probation_micrographs = 1\nprobation_faults = 0.0\nthreads = 1\n"
    settings += "choose_threshold = false\nassess = false\n"  # recorded before frazil chose any, or assessed
    settings += "find_junk = false\n"
    (root / "frazil.toml").write_text(settings)
    command = [BIN / "frazil", "serve", "--config", root / "frazil.toml", "--watch", root / "watched"]
    command += ["--out", root / "out", "--device", "cpu", "--publish", "tcp://127.0.0.1:0", "--http", "127.0.0.1:0"]
    with (root / "log").open("wb") as log:
        process = subprocess.Popen(
            [str(c) for c in (*command, *options)],
            stdin=subprocess.DEVNULL,  # from a terminal, SIGHUP means something else
            stdout=log,
            stderr=log,
            env=ENVIRONMENT,
        )
    with closing(zmq.Context.instance().socket(zmq.SUB)) as live:
        live.linger = 0
        try:
            daemon = _find(root, process)
            live.subscribe(b"")
            live.connect(daemon["stream"])
            session = Session(root=root, process=process, daemon=daemon, live=live)
            session.wait("heartbeat")
            yield session
        finally:
            if process.poll() is None:
                process.kill()
            process.wait()


def _find(root: Path, process: subprocess.Popen[bytes]) -> Json:
    """What the daemon says of itself in its ledger, once it is ready."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while process.poll() is None and time.monotonic() < deadline:
        try:
            with closing(sqlite3.connect(f"file:{root / 'out' / LEDGER}?mode=ro", uri=True)) as database:
                row = database.execute("SELECT value FROM meta WHERE key = 'daemon'").fetchone()
        except sqlite3.Error:
            row = None  # it is not there yet
        if row and json.loads(row[0])["pid"] == process.pid:
            return dict(json.loads(row[0]))
        time.sleep(0.01)
    raise AssertionError("the daemon does not start:\n" + (root / "log").read_text("utf-8", "replace"))


def lay_out(root: Path) -> None:
    """Make the folders of a session."""
    (root / "watched" / "grid 1").mkdir(parents=True)
    shutil.copytree(MODELS, root / "models")


PICKED = 6
"""So many times a micrograph is picked in a session; revisions are more."""


def play(session: Session) -> None:
    """What happens in the session. Each step waits for what the one before had to bring, so the order is certain."""
    session.put("a.mrc", FILES["a.mrc"]())
    session.wait("micrograph", micrograph="a.mrc")
    session.put("grid 1/b.mrc", FILES["grid 1/b.mrc"]())
    session.wait("micrograph", micrograph="b.mrc")
    session.put("broken.mrc", FILES["broken.mrc"]())
    session.wait("failed", micrograph="broken.mrc")
    session.put("empty.mrc", FILES["empty.mrc"]())
    session.wait("failed", micrograph="empty.mrc")
    # Written again: the first result is superseded.
    session.put("a.mrc", REWRITTEN["a.mrc"]())
    session.wait("micrograph", micrograph="a.mrc", supersedes=1)
    # Other limits: both results are revised.
    frazil("retune", session.root / "out", "--threshold", "0.9", "--min-distance", "60", "--apply")
    session.wait("micrograph", micrograph="b.mrc", supersedes=2)
    session.wait("micrograph", micrograph="a.mrc", supersedes=5)
    # Another version of the model, then one that is not there, then one that finds nothing.
    session.point_at(2)
    session.wait("model", event="loaded")
    session.put("c.mrc", FILES["c.mrc"]())
    session.wait("micrograph", micrograph="c.mrc")
    session.point_at(3)
    session.wait("model", event="refused")
    session.point_at(4)
    session.wait("model", event="loaded")
    session.put("d.mrc", FILES["d.mrc"]())
    session.wait("model", event="rolled_back")
    session.put("e.mrc", FILES["e.mrc"]())
    session.wait("micrograph", micrograph="e.mrc")


# --- what of it can be compared ---------------------------------------------------------------------------------

MOMENT = re.compile(r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}\+00:00$")


def comparable(document: Json, root: Path) -> Json:
    """A document without what belongs to the time, the place and the ledger; its fields stay, and their order."""
    found = json.loads(json.dumps(document).replace(str(root), str(NEUTRAL)))
    for name in ("picked_at", "failed_at", "at"):
        if name in found:
            assert MOMENT.match(found[name]), found
            found[name] = "a moment"
    for name in ("epoch", "generation"):
        if name in found:
            assert re.fullmatch(r"[0-9a-f]{12,32}", found[name]), found
            found[name] = "an identity"
    if "seconds" in found:
        assert all(isinstance(value, float) and value >= 0 for value in found["seconds"].values()), found
        found["seconds"] = dict.fromkeys(found["seconds"], "a time")
    if "message" in found:
        assert found["message"].strip(), found
        assert "\n" not in found["message"], found
        found["message"] = "a sentence"
    if found["type"] == "model" and found["reason"]:
        assert "\n" not in found["reason"], found
        found["reason"] = "a sentence"
    if found["type"] == "heartbeat":
        assert re.fullmatch(r"tcp://(127\.0\.0\.1|\*):\d+", found["replay"]), found
        found["replay"] = "an address"
    return found


VOLATILE = re.compile(
    r"_seconds(_|$)|_bytes$|_ratio$|_found_total$|_names$|^frazil_(gpu|stream|replay|backlog)|^frazil_queue_depth$"
    r"|^frazil_model_(nodes|batches|tiles)|^frazil_watching_events$|^frazil_(pick|micrograph)_score_(sum|bucket)$"
)
"""Samples whose values depend on the time or on the machine."""


def describe_metrics(text: str) -> Json:
    """Each metric: its type, its help, and its samples by their labels, with a value where that is always the same.

    Those of the process and of a GPU are left out: whether they are there depends on the machine.
    """
    described: Json = {}
    for family in text_string_to_metric_families(text):
        if family.name.startswith(("process_", "frazil_gpu_memory")) or family.name.endswith("_created"):
            continue
        samples: dict[str, float | None] = {}
        for sample in family.samples:
            labels = dict(sorted(sample.labels.items()))
            if sample.name == "frazil_build_info":
                labels["version"] = "..."
            key = sample.name + (json.dumps(labels) if labels else "")
            samples[key] = None if VOLATILE.search(sample.name) or math.isnan(sample.value) else sample.value
        described[family.name] = {
            "type": family.type,
            "help": family.documentation,
            "samples": dict(sorted(samples.items())),
        }
    return described


def star_files(out: Path) -> list[str]:
    return sorted(str(path.relative_to(out)) for path in out.rglob("*.star"))


def set_time(file: Path, mtime_ns: int) -> None:
    """Give a file the time that it had."""
    os.utime(file, ns=(mtime_ns, mtime_ns))
