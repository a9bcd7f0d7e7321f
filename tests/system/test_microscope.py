"""A microscope: sessions come and go below one root, and one daemon picks them all. Real processes and sockets."""

from __future__ import annotations

import json
import random
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from frazil import PickStream
from frazil.documents import MicrographDocument, NumberedDocument
from frazil.picking import read_star
from frazil.session.outbox.ledger import LedgerReader

pytestmark = pytest.mark.system

BIN = Path(sys.executable).parent
PATIENCE_SECONDS = 240.0
Scene = Callable[..., Any]
Write = Callable[..., Path]


def until(condition: Callable[[], object], why: Callable[[], object] = lambda: "") -> None:
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not condition():
        assert time.monotonic() < deadline, why()
        time.sleep(0.05)


def free_ports(count: int) -> list[int]:
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports: list[int] = [opened.getsockname()[1] for opened in sockets]
    for opened in sockets:
        opened.close()
    return ports


class Microscope:
    """A daemon with a root, which can be killed and started again at the same addresses."""

    def __init__(self, folder: Path, model: Path, pattern: str = "*/Averages", **settings: object) -> None:
        self.root, self.out = folder / "titan1", folder / "picks"
        self.root.mkdir()
        publish, replay, http = free_ports(3)
        self.stream, self.page = f"tcp://127.0.0.1:{publish}", f"http://127.0.0.1:{http}/"
        lines = {
            "root": str(self.root),
            "sessions": pattern,
            "out": str(self.out),
            "model": str(model),
            "device": "cpu",
            "threads": 1,
            "scan_seconds": 0.5,
            "publish_address": self.stream,
            "replay_address": f"tcp://127.0.0.1:{replay}",
            "http_address": f"127.0.0.1:{http}",
            **settings,
        }
        self.config = folder / "titan1.toml"
        self.config.write_text("".join(f"{key} = {json.dumps(value)}\n" for key, value in lines.items()))
        self.log = folder / "daemon.log"
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        with self.log.open("ab") as log:
            self.process = subprocess.Popen([BIN / "frazil", "serve", "--config", self.config], stderr=log)
        until(self.is_ready, lambda: self.log.read_text())

    def is_ready(self) -> bool:
        assert self.process is not None
        assert self.process.poll() is None, self.log.read_text()
        try:
            return urllib.request.urlopen(f"{self.page}readyz", timeout=5).status == 200
        except OSError:
            return False

    def kill(self) -> None:
        assert self.process is not None
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()

    def stop(self) -> int:
        assert self.process is not None
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(PATIENCE_SECONDS)

    def frazil(self, *words: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        command = [BIN / "frazil", *words, "--out", self.out]
        done = subprocess.run([str(word) for word in command], capture_output=True, text=True, check=False)
        assert not check or done.returncode == 0, done.stderr + self.log.read_text()
        return done

    def sessions(self) -> dict[str, dict[str, Any]]:
        listed = json.loads(self.frazil("session", "list", "--json").stdout)
        return {session["name"]: session for session in listed}

    def session_folder(self, name: str, settings: str = "") -> Path:
        folder = self.root / name / "Averages"
        folder.mkdir(parents=True)
        (folder / "frazil.toml").write_text(settings)
        return folder

    def results(self, name: str) -> list[MicrographDocument]:
        """What the ledger of a session has."""
        found: list[MicrographDocument] = []
        file = self.out / name / "frazil-ledger.sqlite"
        if file.exists():
            with LedgerReader(file) as reader:
                documents = [stored.decode() for stored in reader.documents(after=0)]
                found = [document for document in documents if isinstance(document, MicrographDocument)]
        return found


@pytest.fixture
def make_microscope(tmp_path: Path, blob_model: Path) -> Iterator[Callable[..., Microscope]]:
    made: list[Microscope] = []

    def make(pattern: str = "*/Averages", **settings: object) -> Microscope:
        made.append(Microscope(tmp_path, blob_model, pattern, **settings))
        return made[-1]

    yield make
    for microscope in made:
        if microscope.process is not None and microscope.process.poll() is None:
            microscope.kill()


class Subscriber:
    """Collects documents in the background, with a cursor."""

    def __init__(self, address: str, cursor: Path, session: str | None = None) -> None:
        self.documents: list[NumberedDocument] = []
        self._stream = PickStream(address, session=session, since=1, cursor=cursor)
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._collect)
        self._thread.start()

    def _collect(self) -> None:
        while not self._done.is_set():
            document = self._stream.receive(0.1)
            if document is not None:
                self.documents.append(document)

    def stop(self) -> None:
        self._done.set()
        self._thread.join()
        self._stream.close()


@contextmanager
def subscribed(address: str, cursor: Path, session: str | None = None) -> Iterator[Subscriber]:
    subscriber = Subscriber(address, cursor, session)
    try:
        yield subscriber
    finally:
        subscriber.stop()


def test_three_days_of_sessions_with_kills_end_with_one_result_for_each_micrograph(
    make_microscope: Callable[..., Microscope],
    tmp_path: Path,
    make_scene: Scene,
    write_mrc: Write,
    is_long: bool,
) -> None:
    """Same names, overlapping in time; other particles, diameters, pixel sizes. One is given its diameter late."""
    microscope = make_microscope()
    chance = random.Random(14)
    count = 12 if is_long else 6
    # A particle of 16 pixels of 3 Å, of 24 pixels of 2 Å, of 20 pixels of 1.5 Å.
    days = {"1101_apo": (16.0, 3.0), "1102_80S": (24.0, 2.0), "1103_trpv1": (20.0, 1.5)}
    folders = {
        "1101_apo": microscope.session_folder("1101_apo", "diameter = 48\npixel_size = 3.0\n"),
        "1102_80S": microscope.session_folder("1102_80S", "diameter_angstrom = 48\n"),
    }
    scenes = {
        name: [make_scene(diameter_px=diameter_px, seed=number) for number in range(count)]
        for name, (diameter_px, _) in days.items()
    }

    def collect(name: str, number: int) -> None:
        write_mrc(folders[name] / f"mic_{number:04d}.mrc", scenes[name][number].pixels, days[name][1])

    microscope.start()
    with (
        subscribed(microscope.stream, tmp_path / "all.cursor") as everything,
        subscribed(microscope.stream, tmp_path / "one.cursor", "1102_80S") as one,
    ):
        kills = 0
        for number in range(count):
            for name in list(folders):
                collect(name, number)
            if number == 1:
                folders["1103_trpv1"] = microscope.session_folder("1103_trpv1")  # nobody knows its diameter as yet
                for earlier in range(2):
                    collect("1103_trpv1", earlier)
            if number == count // 2:
                until(lambda: microscope.sessions().get("1103_trpv1", {}).get("status") == "waiting")
                microscope.frazil("session", "set", "1103_trpv1", "diameter_angstrom=30")
                microscope.frazil("session", "set", "1101_apo", "threshold=0.6", "--no-repick")
            for _ in range(2):
                if kills < 10:
                    time.sleep(chance.uniform(0.0, 0.6))
                    microscope.kill()
                    microscope.start()
                    kills += 1
        assert kills == 10
        names = {f"mic_{number:04d}.mrc" for number in range(count)}
        for name in days:
            until(
                lambda name=name: {d.micrograph for d in microscope.results(name)} == names,  # type: ignore[misc]
                lambda: microscope.log.read_text(),
            )
        stored = {name: microscope.results(name) for name in days}
        expected = sum(len(results) for results in stored.values())

        def picked(subscriber: Subscriber) -> list[MicrographDocument]:
            return [d for d in list(subscriber.documents) if isinstance(d, MicrographDocument)]

        until(lambda: len(picked(everything)) >= expected, lambda: Counter(d.session for d in picked(everything)))
        until(lambda: len(picked(one)) >= count)
        assert microscope.stop() == 0

    for name, results in stored.items():
        assert sorted(d.micrograph for d in results) == sorted(names), name
        assert {d.session for d in results} == {name}
        for document in results:
            assert document.path == str(folders[name] / document.micrograph)
            picks = read_star(microscope.out / name / f"{Path(document.micrograph).stem}_picks.star")
            assert len(picks) == len(document.picks.score) > 5
        sent = [(d.seq, d.micrograph) for d in picked(everything) if d.session == name]
        assert sent == [(d.seq, d.micrograph) for d in results]
    assert [d.seq for d in picked(one)] == [d.seq for d in stored["1102_80S"]]
    assert {d.session for d in picked(one)} == {"1102_80S"}
    assert {d.threshold for d in stored["1101_apo"]} == {0.5, 0.6}
    assert {round(d.diameter_px * d.pixel_size_angstrom) for d in stored["1103_trpv1"]} == {30}
