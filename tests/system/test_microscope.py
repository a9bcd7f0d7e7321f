"""A microscope: sessions come and go below one root, and one daemon picks them all. Real processes and sockets."""

from __future__ import annotations

import json
import os
import random
import re
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

import msgspec
import pytest

from frazil import PickStream
from frazil.documents import MicrographDocument, NumberedDocument, SessionDocument
from frazil.picking import read_star

pytestmark = pytest.mark.system

BIN = Path(sys.executable).parent
PATIENCE_SECONDS = 240.0
Scene = Callable[..., Any]
Microscope = Any
"""That of conftest.py."""
Write = Callable[..., Path]


def until(condition: Callable[[], object], why: Callable[[], object] = lambda: "") -> None:
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not condition():
        assert time.monotonic() < deadline, why()
        time.sleep(0.05)


class Subscriber:
    """Collects documents in the background, with a cursor."""

    def __init__(self, address: str, cursor: Path, session: str | None = None) -> None:
        self.documents: list[NumberedDocument] = []
        topics = ("picks", "failed", "model", "session")
        self._stream = PickStream(address, session=session, since=1, resume=cursor, topics=topics)
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
    days = {"1101_apo": (16.0, 3.0), "1102_80S": (24.0, 2.0), "1103_trpv1": (20.0, 1.5), "1104_epu": (24.0, 2.0)}
    folders = {
        "1101_apo": microscope.session_folder("1101_apo", "diameter = 48\npixel_size = 3.0\n"),
        "1102_80S": microscope.session_folder("1102_80S", "diameter_angstrom = 48\n"),
        "1104_epu": microscope.session_folder("1104_epu", "diameter_angstrom = 48\n"),
    }
    scenes = {
        name: [make_scene(diameter_px=diameter_px, seed=number) for number in range(count)]
        for name, (diameter_px, _) in days.items()
    }

    def collect(name: str, number: int) -> None:
        pixels, folder = scenes[name][number].pixels, folders[name]
        if name == "1104_epu":  # with an overview of the square, an image of the hole, and the frames
            folder = folder / "Images-Disc1" / "GridSquare_1"
            for place in ("Data", "FoilHoles"):
                (folder / place).mkdir(parents=True, exist_ok=True)
            write_mrc(folder / f"GridSquare_{number}.mrc", pixels[:256, :256], 330.0)
            write_mrc(folder / "FoilHoles" / f"FoilHole_{number}.mrc", pixels[:256, :256], 24.0)
            write_mrc(folder / "Data" / f"FoilHole_{number}_Data_1_Fractions.mrc", pixels, 2.0)
            folder = folder / "Data"
        write_mrc(folder / file_name(name, number), pixels, days[name][1])

    def file_name(name: str, number: int) -> str:
        return f"FoilHole_{number}_Data_1.mrc" if name == "1104_epu" else f"mic_{number:04d}.mrc"

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
        names = {name: {file_name(name, number) for number in range(count)} for name in days}
        for name in days:
            until(
                lambda name=name: {d.micrograph for d in microscope.results(name)} == names[name],  # type: ignore[misc]
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
        assert sorted(d.micrograph for d in results) == sorted(names[name]), name
        assert {d.session for d in results} == {name}
        for document in results:
            assert document.path == str(folders[name] / document.directory / document.micrograph)
            stars = microscope.out / name / document.directory
            picks = read_star(stars / f"{Path(document.micrograph).stem}_picks.star")
            assert len(picks) == len(document.picks.score) > 5
        sent = [(d.seq, d.micrograph) for d in picked(everything) if d.session == name]
        assert sent == [(d.seq, d.micrograph) for d in results]
    assert [d.seq for d in picked(one)] == [d.seq for d in stored["1102_80S"]]
    assert {d.session for d in picked(one)} == {"1102_80S"}
    events = [d for d in everything.documents if isinstance(d, SessionDocument)]
    assert microscope.log.read_text().count("is now called") <= 3 * 11  # by the three old names, at each start alone
    said = {name: [d.event for d in events if d.session == name] for name in days}
    assert said == {name: ["opened", "settings"] if name == "1101_apo" else ["opened"] for name in days}
    assert {d.threshold for d in stored["1101_apo"] if d.chosen is msgspec.UNSET} == {0.6}
    assert {d.threshold for d in stored["1101_apo"] if d.chosen is not msgspec.UNSET} != set()
    assert {round(d.diameter_px * d.pixel_size_angstrom) for d in stored["1103_trpv1"]} == {30}


def status_of(microscope: Microscope, name: str) -> str:
    return str(microscope.sessions().get(name, {}).get("status", ""))


def says(microscope: Microscope, name: str) -> str:
    return str(microscope.sessions().get(name, {}).get("says", ""))


def picked_names(microscope: Microscope, name: str) -> list[str]:
    return [document.micrograph for document in microscope.results(name)]


def test_a_session_with_faults_stops_alone_and_each_trouble_ends_when_it_is_mended(
    make_microscope: Callable[..., Microscope], make_scene: Scene, write_mrc: Write, tmp_path: Path
) -> None:
    microscope = make_microscope(diameter_angstrom=48.0)
    scene = make_scene(diameter_px=16.0)
    good = microscope.session_folder("good")
    bad = microscope.session_folder("bad", 'contrast = "grey"\ndiameter = -3\nhttp_address = "0.0.0.0:80"\n')
    write_mrc(good / "a.mrc", scene.pixels, 3.0)
    write_mrc(bad / "a.mrc", scene.pixels, 3.0)
    microscope.start()
    until(lambda: picked_names(microscope, "good") == ["a.mrc"], microscope.log.read_text)
    said = says(microscope, "bad")
    for fault in ("expected dark or bright", "expected a number above 0, found -3", "one of the daemon"):
        assert fault in said
        assert fault in microscope.log.read_text()
    assert not (microscope.out / "bad").exists()

    (bad / "frazil.toml").write_text("diameter = 48\n")
    until(lambda: picked_names(microscope, "bad") == ["a.mrc"], microscope.log.read_text)

    # A link from another session's directory would have each micrograph picked twice.
    (microscope.root / "again").mkdir()
    (microscope.root / "again" / "Averages").symlink_to(good)
    until(lambda: "lie in each other" in says(microscope, "again"), microscope.log.read_text)
    assert status_of(microscope, "good") == "open"
    (microscope.root / "again" / "Averages").unlink()

    # An output folder that another daemon has.
    write_mrc(good / "b.mrc", scene.pixels, 3.0)
    until(lambda: len(picked_names(microscope, "good")) == 2)
    taken = subprocess.run(
        [
            *(BIN / "frazil", "serve", "--watch", tmp_path, "--out", microscope.out / "good", "--diameter", "48"),
            *("--publish", "tcp://127.0.0.1:0", "--http", "127.0.0.1:0", "--model", tmp_path / "nowhere"),
        ],
        capture_output=True,
        text=True,
        check=False,
    )
    assert taken.returncode != 0
    assert microscope.stop() == 0


def test_sessions_are_paused_opened_closed_and_found_again(
    make_microscope: Callable[..., Microscope], make_scene: Scene, write_mrc: Write, tmp_path: Path
) -> None:
    microscope = make_microscope(diameter_angstrom=48.0)
    scene = make_scene(diameter_px=16.0)
    folder = microscope.session_folder("1101")
    write_mrc(folder / "a.mrc", scene.pixels, 3.0)
    microscope.start()
    until(lambda: picked_names(microscope, "1101") == ["a.mrc"], microscope.log.read_text)

    microscope.frazil("session", "pause", "1101")
    until(lambda: status_of(microscope, "1101") == "paused")
    write_mrc(folder / "b.mrc", scene.pixels, 3.0)
    microscope.kill()
    microscope.start()
    assert status_of(microscope, "1101") == "paused"
    assert picked_names(microscope, "1101") == ["a.mrc"]
    microscope.frazil("session", "open", "1101")
    until(lambda: picked_names(microscope, "1101") == ["a.mrc", "b.mrc"], microscope.log.read_text)

    # Renamed, it is another session; the old one's results stay.
    (microscope.root / "1101").rename(microscope.root / "1101_renamed")
    until(lambda: len(picked_names(microscope, "1101_renamed")) == 2, microscope.log.read_text)
    until(lambda: status_of(microscope, "1101") == "waiting")
    assert "is not there" in says(microscope, "1101")
    assert microscope.is_ready()
    assert len(picked_names(microscope, "1101")) == 2

    # The root goes away, as a mount does, and comes back.
    microscope.root.rename(tmp_path / "away")
    until(lambda: not microscope.is_ready(), microscope.log.read_text)
    until(lambda: f"cannot see {microscope.root}" in microscope.log.read_text())
    (tmp_path / "away").rename(microscope.root)
    write_mrc(microscope.root / "1101_renamed" / "Averages" / "c.mrc", scene.pixels, 3.0)
    until(lambda: len(picked_names(microscope, "1101_renamed")) == 3, microscope.log.read_text)
    until(microscope.is_ready)

    # Closed while the daemon is down: it is said at the next start, and its results are still given out.
    assert microscope.stop() == 0
    microscope.frazil("session", "close", "1101_renamed")
    microscope.start()
    until(lambda: status_of(microscope, "1101_renamed") == "closed")
    with PickStream(microscope.stream, session="1101_renamed", since=1, topics=("picks", "session")) as stream:
        found: list[NumberedDocument] = []
        until(lambda: (document := stream.receive(0.5)) is None or found.append(document) or is_end(document))
    events = [document.event for document in found if isinstance(document, SessionDocument)]
    assert events == ["opened", "closed"]
    assert sum(isinstance(document, MicrographDocument) for document in found) == 3
    shown = json.loads(microscope.frazil("session", "show", "1101_renamed", "--json").stdout)
    assert shown["micrographs"]["picked"] == 3
    assert microscope.frazil("session", "set", "nobody", "diameter=3", check=False).returncode == 1
    assert microscope.frazil("session", "set", "1101", "diametre=3", check=False).returncode == 78


def is_end(document: NumberedDocument | None) -> bool:
    return isinstance(document, SessionDocument) and document.event == "closed"


def test_among_hundreds_of_old_sessions_the_daemon_starts_at_once_and_opens_recent_ones_alone(
    make_microscope: Callable[..., Microscope], make_scene: Scene, write_mrc: Write
) -> None:
    microscope = make_microscope(diameter_angstrom=48.0)
    scene = make_scene(diameter_px=16.0)
    write_mrc(microscope.session_folder("0001") / "a.mrc", scene.pixels, 3.0)

    def seconds_to_start() -> float:
        microscope.start()
        found = re.findall(r"ready after ([\d.]+) s", microscope.log.read_text())
        return float(found[-1])

    alone = seconds_to_start()
    assert microscope.stop() == 0
    for number in range(500):
        folder = microscope.session_folder(f"old_{number:03d}")
        write_mrc(folder / "a.mrc", scene.pixels[:64, :64], 3.0)
        for changed in (folder, folder.parent):
            os.utime(changed, (1e9, 1e9))
    assert seconds_to_start() < 2 * alone + 3
    sessions = microscope.sessions()
    assert len(sessions) == 501
    assert Counter(session["status"] for session in sessions.values()) == {"open": 1, "old": 500}
    assert not (microscope.out / "old_007").exists()
    state = json.loads(urllib.request.urlopen(f"{microscope.page}api/state").read())
    assert state["closed_sessions"] == 500
    assert len(state["sessions"]) == 1

    # One of them is wished for, another is written to again.
    microscope.frazil("session", "open", str(microscope.root / "old_007" / "Averages"))
    until(lambda: status_of(microscope, "old_007") == "open")
    write_mrc(microscope.root / "old_009" / "Averages" / "b.mrc", scene.pixels, 3.0)
    until(lambda: "b.mrc" in picked_names(microscope, "old_009"), microscope.log.read_text)


def test_a_backlog_in_one_session_does_not_hold_up_another(
    make_microscope: Callable[..., Microscope], make_scene: Scene, write_mrc: Write
) -> None:
    microscope = make_microscope(diameter_angstrom=48.0)
    scene = make_scene(shape=(640, 896), diameter_px=16.0)
    backlog = microscope.session_folder("backlog")
    count = 60
    for number in range(count):
        write_mrc(backlog / f"mic_{number:03d}.mrc", scene.pixels, 3.0)
    live = microscope.session_folder("live")
    microscope.start()
    until(lambda: microscope.results("backlog"))
    few = 5
    for number in range(few):
        write_mrc(live / f"mic_{number:03d}.mrc", scene.pixels, 3.0)
    until(lambda: len(picked_names(microscope, "live")) == few, microscope.log.read_text)
    last = max(document.picked_at for document in microscope.results("live"))
    until(lambda: len(picked_names(microscope, "backlog")) == count, microscope.log.read_text)
    before = sum(document.picked_at < last for document in microscope.results("backlog"))
    assert before < count, "the live session came after the whole backlog of the other"


def test_another_diameter_has_earlier_micrographs_picked_again_the_newest_first_and_new_ones_before_them(
    make_microscope: Callable[..., Microscope], make_scene: Scene, write_mrc: Write
) -> None:
    microscope = make_microscope()
    folder = microscope.session_folder("1101", "diameter = 60\n")
    scene = make_scene(shape=(640, 896), diameter_px=16.0)
    names = [f"mic_{number:03d}.mrc" for number in range(30)]
    for name in names:
        write_mrc(folder / name, scene.pixels, 3.0)
    microscope.start()
    until(lambda: len(microscope.results("1101")) == len(names), microscope.log.read_text)
    first = microscope.results("1101")
    said = microscope.frazil("session", "set", "1101", "diameter=48", "--repick").stdout
    assert "30 to be picked again, the newest first" in said
    until(lambda: len(microscope.results("1101")) > len(names))
    write_mrc(folder / "new.mrc", scene.pixels, 3.0)
    until(lambda: len(microscope.results("1101")) == 2 * len(names) + 1, microscope.log.read_text)
    later = microscope.results("1101")[len(names) :]
    assert {round(document.diameter_px * document.pixel_size_angstrom) for document in later} == {48}
    again = [document for document in later if document.micrograph != "new.mrc"]
    assert {document.micrograph: document.supersedes for document in again} == {d.micrograph: d.seq for d in first}
    assert [document.supersedes for document in again] == sorted((d.seq for d in first), reverse=True)
    assert later[-1].micrograph != "new.mrc"
