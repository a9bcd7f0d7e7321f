"""Watcher and intake: whole and new files get through, once; everything else waits or is reported."""

from __future__ import annotations

import os
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from queue import SimpleQueue

import numpy as np
import pytest

from frazil.errors import MicrographError, SettingsError
from frazil.service.intake import Arrival, Intake, fingerprint
from frazil.service.ledger import Handled, Ledger
from frazil.service.watch import Hint, Watcher, is_micrograph_name

Write = Callable[..., Path]


class Running:
    """A real watcher and intake on a real directory."""

    def __init__(self, root: Path, ledger: Ledger, *, events: bool = True, stall_seconds: float = 30.0) -> None:
        self.root = root
        self.ledger = ledger
        self.accepted: list[Arrival] = []
        self.refused: list[MicrographError] = []
        self.stop_event = threading.Event()
        self._changed = threading.Condition()
        hints: SimpleQueue[Hint] = SimpleQueue()
        self.watcher = Watcher(root, hints)
        self.intake = Intake(
            self.watcher,
            hints,
            ledger,
            root,
            scan_seconds=0.1,
            stall_seconds=stall_seconds,
            accept=self._accept,
            refuse=self._refuse,
        )
        if events:
            self.watcher.start()
        self._thread = threading.Thread(target=self.intake.run, args=(self.stop_event,))
        self._thread.start()

    def _accept(self, arrival: Arrival) -> bool:
        handled = Handled(stamp=arrival.stamp, fingerprint=fingerprint(arrival.path))
        self.ledger.commit_picked(arrival.key, handled, lambda epoch, seq: b"")
        self.intake.release(arrival, handled)
        with self._changed:
            self.accepted.append(arrival)
            self._changed.notify_all()
        return True

    def _refuse(self, arrival: Arrival, error: MicrographError) -> None:
        self.intake.release(arrival, Handled(stamp=arrival.stamp, fingerprint=fingerprint(arrival.path)))
        with self._changed:
            self.refused.append(error)
            self._changed.notify_all()

    def wait(self, condition: Callable[[], bool], seconds: float = 15.0) -> None:
        with self._changed:
            assert self._changed.wait_for(condition, seconds), (self.accepted, self.refused)

    def names(self) -> list[str]:
        return sorted(arrival.key for arrival in self.accepted)

    def stop(self) -> None:
        self.stop_event.set()
        self._thread.join()
        self.watcher.stop()


@pytest.fixture
def root(tmp_path: Path) -> Path:
    folder = tmp_path / "watched"
    folder.mkdir()
    return folder


@pytest.fixture
def run(root: Path, tmp_path: Path) -> Iterator[Callable[..., Running]]:
    started: list[Running] = []

    def start(**options: object) -> Running:
        started.append(Running(root, Ledger(tmp_path / f"ledger{len(started)}"), **options))  # type: ignore[arg-type]
        return started[-1]

    yield start
    for one in started:
        one.stop()
        one.ledger.close()


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory, write_mrc: Write) -> bytes:
    path = write_mrc(tmp_path_factory.mktemp("mrc") / "a.mrc", np.random.default_rng(0).random((40, 60), np.float32))
    return path.read_bytes()


def settle(running: Running, root: Path, whole: bytes) -> None:
    """Wait until the intake has surely looked at everything before: a later file got through."""
    marker = root / f"marker-{time.monotonic_ns()}.mrc"
    marker.write_bytes(whole + b"marker")
    running.wait(lambda: any(a.path == marker for a in running.accepted))
    running.accepted[:] = [a for a in running.accepted if a.path != marker]
    marker.unlink()


@pytest.mark.parametrize("events", [True, False], ids=["events", "scans-only"])
def test_files_that_are_there_and_files_that_come_get_through_once(
    run: Callable[..., Running], root: Path, whole: bytes, events: bool
) -> None:
    (root / "before.mrc").write_bytes(whole)
    running = run(events=events)
    running.wait(lambda: running.names() == ["before.mrc"])
    (root / "after.mrc").write_bytes(whole)
    (root / "deeper").mkdir()
    (root / "deeper" / "below.mrc").write_bytes(whole)
    running.wait(lambda: len(running.accepted) >= 3)
    settle(running, root, whole)
    assert running.names() == ["after.mrc", "before.mrc", "deeper/below.mrc"]


@pytest.mark.parametrize("events", [True, False], ids=["events", "scans-only"])
def test_a_file_written_in_pieces_gets_through_when_its_last_byte_is_there(
    run: Callable[..., Running], root: Path, whole: bytes, events: bool
) -> None:
    running = run(events=events)
    path = root / "slow.mrc"
    for start in range(0, len(whole), 2500):
        with path.open("ab") as file:  # opened and closed for every piece
            file.write(whole[start : start + 2500])
        if start + 2500 < len(whole):
            settle(running, root, whole)
            assert running.names() == []
    running.wait(lambda: running.names() == ["slow.mrc"])
    assert running.accepted[0].stamp.size == len(whole)


def test_a_file_renamed_into_place_gets_through(run: Callable[..., Running], root: Path, whole: bytes) -> None:
    running = run()
    (root / ".a.mrc.Xy12").write_bytes(whole)
    (root / "a.mrc.part").write_bytes(whole)
    settle(running, root, whole)
    assert running.names() == []
    (root / ".a.mrc.Xy12").rename(root / "a.mrc")
    (root / "a.mrc.part").rename(root / "b.mrc")
    running.wait(lambda: running.names() == ["a.mrc", "b.mrc"])


def test_a_directory_moved_into_the_tree_is_taken_in(
    run: Callable[..., Running], root: Path, tmp_path: Path, whole: bytes
) -> None:
    running = run()
    (tmp_path / "session").mkdir()
    for name in "ab":
        (tmp_path / "session" / f"{name}.mrc").write_bytes(whole)
    (tmp_path / "session").rename(root / "session")
    running.wait(lambda: running.names() == ["session/a.mrc", "session/b.mrc"])


def test_a_touched_file_is_not_taken_in_again_but_a_rewritten_one_is(
    run: Callable[..., Running], root: Path, whole: bytes
) -> None:
    running = run()
    path = root / "a.mrc"
    path.write_bytes(whole)
    running.wait(lambda: len(running.accepted) == 1)
    os.utime(path, (1, 1))  # as a copy that preserves times does, after closing
    settle(running, root, whole)
    assert len(running.accepted) == 1
    path.write_bytes(whole[:-4] + b"\x00\x00\x80?")
    running.wait(lambda: len(running.accepted) == 2)


def test_a_new_start_takes_in_only_what_the_ledger_does_not_know(root: Path, tmp_path: Path, whole: bytes) -> None:
    (root / "old.mrc").write_bytes(whole)
    ledger = Ledger(tmp_path / "l")
    first = Running(root, ledger)
    first.wait(lambda: first.names() == ["old.mrc"])
    first.stop()
    (root / "new.mrc").write_bytes(whole)
    second = Running(root, ledger)
    second.wait(lambda: "new.mrc" in second.names())
    settle(second, root, whole)
    second.stop()
    ledger.close()
    assert second.names() == ["new.mrc"]


def test_a_file_that_stays_truncated_is_reported_once_and_taken_in_when_it_grows(
    run: Callable[..., Running], root: Path, whole: bytes
) -> None:
    running = run(stall_seconds=0.3)
    path = root / "a.mrc"
    path.write_bytes(whole[:-100])
    running.wait(lambda: len(running.refused) == 1)
    assert running.refused[0].reason == "truncated"
    settle(running, root, whole)
    assert len(running.refused) == 1
    assert running.names() == []
    with path.open("ab") as file:
        file.write(whole[-100:])
    running.wait(lambda: running.names() == ["a.mrc"])


def test_space_set_aside_and_filled_later_waits(run: Callable[..., Running], root: Path, whole: bytes) -> None:
    running = run()
    path = root / "a.mrc"
    with path.open("wb") as file:
        file.truncate(len(whole))
    settle(running, root, whole)
    assert (running.names(), running.refused) == ([], [])
    path.write_bytes(whole)
    running.wait(lambda: running.names() == ["a.mrc"])


def test_what_is_no_micrograph_is_refused_at_once(run: Callable[..., Running], root: Path, whole: bytes) -> None:
    running = run()
    (root / "a.mrc").write_bytes(b"text, not a picture " * 100)
    running.wait(lambda: len(running.refused) == 1)
    assert running.refused[0].reason == "not_mrc"
    settle(running, root, whole)
    assert len(running.refused) == 1


def test_a_name_that_is_no_utf8_is_refused(run: Callable[..., Running], root: Path, whole: bytes) -> None:
    running = run()
    Path(os.fsdecode(bytes(root) + b"/\xff.mrc")).write_bytes(whole)
    running.wait(lambda: len(running.refused) == 1)
    assert running.refused[0].reason == "name"


# watchdog 7.1 warns of its own book-keeping when a directory it knew comes back.
@pytest.mark.filterwarnings("ignore:Callback with id:RuntimeWarning")
def test_a_tree_that_vanishes_and_returns_is_taken_up_again(
    run: Callable[..., Running], root: Path, tmp_path: Path, whole: bytes
) -> None:
    running = run()
    (root / "sub").mkdir()
    (root / "sub" / "a.mrc").write_bytes(whole)
    running.wait(lambda: running.names() == ["sub/a.mrc"])
    shutil.move(root / "sub", tmp_path / "away")
    settle(running, root, whole)
    (tmp_path / "away" / "b.mrc").write_bytes(whole)
    shutil.move(tmp_path / "away", root / "sub")
    running.wait(lambda: "sub/b.mrc" in running.names())
    settle(running, root, whole)
    assert running.names() == ["sub/a.mrc", "sub/b.mrc"]


def test_a_missing_directory_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="expected a directory to watch"):
        Watcher(tmp_path / "none", SimpleQueue())


@pytest.mark.parametrize(
    ("name", "taken"),
    [("a.mrc", True), (".a.mrc", False), ("a.mrc.tmp", False), (".a.mrc.Xy12ab", False), ("a.star", False)],
)
def test_temporary_names_are_ignored(name: str, taken: bool) -> None:
    assert is_micrograph_name(name) is taken


def test_fingerprint_notices_a_change_at_either_end(tmp_path: Path) -> None:
    content = bytearray(np.random.default_rng(0).bytes(300_000))
    path = tmp_path / "a"
    prints = set()
    for at in (None, 0, len(content) - 1):
        changed = bytearray(content)
        if at is not None:
            changed[at] ^= 1
        path.write_bytes(changed)
        prints.add(fingerprint(path))
    path.write_bytes(content + b"0")
    prints.add(fingerprint(path))
    assert len(prints) == 4
