"""The watcher: events where there are any, scans always, and a tree that goes away and returns."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import prometheus_client
import pytest

from frazil.health.metrics import Metrics
from frazil.health.state import WatchState
from frazil.session.intake.file_system import FileSystem
from frazil.session.intake.passed_over import PASS_REASONS, Inventory
from frazil.session.intake.selection import Selection
from frazil.session.intake.watcher import Hint, Sightings, Watcher
from frazil.session.outbox.file_stamp import FileStamp, stamp_of

LOCAL = FileSystem(kind="ext4", mount_point="/")
NETWORK = FileSystem(kind="nfs4", mount_point="/")


class Rig:
    def __init__(self, root: Path, file_system: FileSystem = LOCAL, **options: object) -> None:
        self.hints: list[Hint] = []
        self.sightings: list[Sightings] = []
        self.known: dict[str, FileStamp] = {}
        self.metrics = Metrics(prometheus_client.CollectorRegistry())
        self._changed = threading.Condition()
        values: dict[str, object] = {"scan_seconds": 0.1, "selection": Selection(), "known": self.known} | options
        self.watcher = Watcher(root, file_system, self._tell, self.metrics, **values)  # type: ignore[arg-type]
        self.watcher.start()

    def _tell(self, told: Hint | Sightings) -> None:
        with self._changed:
            if isinstance(told, Hint):
                self.hints.append(told)
            else:
                self.sightings.append(told)
            self._changed.notify_all()

    def wait(self, condition: Callable[[], bool], seconds: float = 60.0) -> None:
        with self._changed:
            deadline = time.monotonic() + seconds
            while not condition() and time.monotonic() < deadline:
                self._changed.wait(0.05)  # not all that is waited for is told
            assert condition(), (self.hints, self.sightings, self.watcher.state.fault)

    @property
    def state(self) -> WatchState:
        return self.watcher.state

    def count_scans(self) -> float:
        return self.metrics.registry.get_sample_value("frazil_scan_duration_seconds_count") or 0.0

    def names(self, by: str) -> set[str]:
        return {hint.path.name for hint in self.hints if hint.by == by}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "root").mkdir()
    return tmp_path / "root"


@pytest.fixture
def rig(root: Path) -> Iterator[Callable[..., Rig]]:
    made: list[Rig] = []

    def make(**options: object) -> Rig:
        made.append(Rig(root, **options))  # type: ignore[arg-type]
        return made[-1]

    yield make
    for one in made:
        one.watcher.stop()


def test_a_directory_that_comes_later_is_waited_for(
    rig: Callable[..., Rig], root: Path, caplog: pytest.LogCaptureFixture
) -> None:
    root.rmdir()
    one = rig(scan_seconds=0.05)
    one.wait(lambda: one.state.fault != "")
    assert "cannot be seen (No such file or directory)" in caplog.text
    root.mkdir()
    (root / "a.mrc").touch()
    one.wait(lambda: "a.mrc" in one.names("scan"))
    assert one.state.fault == ""
    one.wait(lambda: one.state.follows_events)


def test_where_the_file_system_delivers_no_events_none_are_followed(rig: Callable[..., Rig], root: Path) -> None:
    for options, followed in (
        ({}, True),
        ({"file_system": NETWORK}, False),
        ({"watch_by": "poll"}, False),
        ({"file_system": NETWORK, "watch_by": "events"}, True),
    ):
        one = rig(**options)
        (root / "a.mrc").touch()
        one.wait(lambda one=one: "a.mrc" in one.names("scan"))  # type: ignore[misc]
        assert one.state.follows_events is followed


@pytest.mark.parametrize(("order", "first"), [("oldest", "0.mrc"), ("newest", "9.mrc")])
def test_the_backlog_is_named_in_the_order_asked_for(
    rig: Callable[..., Rig], root: Path, order: str, first: str
) -> None:
    for i in (3, 7, 1, 9, 0, 5, 2, 8, 4, 6):
        (root / f"{i}.mrc").touch()
        os.utime(root / f"{i}.mrc", (1000 + i, 1000 + i))
    one = rig(backlog_order=order)
    one.wait(lambda: len(one.hints) >= 10)
    names = [hint.path.name for hint in one.hints if hint.backlog]
    assert names == sorted(names, reverse=order == "newest")
    assert names[0] == first
    (root / "later.mrc").touch()
    one.wait(lambda: any(hint.path.name == "later.mrc" for hint in one.hints))
    assert not any(hint.backlog for hint in one.hints if hint.path.name == "later.mrc")


def test_dropped_events_are_noticed_and_a_scan_finds_what_they_told(
    rig: Callable[..., Rig], root: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The kernel's own queue overflows: more events than it holds come while nobody reads."""
    one = rig(scan_seconds=3600.0)
    one.wait(lambda: one.state.follows_events)
    limit = int(Path("/proc/sys/fs/inotify/max_queued_events").read_text())
    inotify = one.watcher._events._inotify  # type: ignore[union-attr]
    with inotify._lock:
        (root / "wake").touch()  # the reader now waits for the lock
        program = (
            "import os, sys\n"
            "for i in range(int(sys.argv[2])):\n"
            "    os.mknod(f'{sys.argv[1]}/{i}.txt')\n"
            "    os.unlink(f'{sys.argv[1]}/{i}.txt')\n"
        )
        subprocess.run([sys.executable, "-c", program, root, str(limit + 100)], check=True, timeout=300)
        (root / "a.mrc").touch()
    one.wait(lambda: "a.mrc" in one.names("scan"))
    one.wait(lambda: one.metrics.registry.get_sample_value("frazil_event_overflows_total") == 1)
    assert [r.levelno for r in caplog.records if "dropped events" in r.message] == [logging.WARNING]
    assert [r for r in caplog.records if r.name.startswith("watchdog")] == []
    # And events are followed as before.
    (root / "b.mrc").touch()
    one.wait(lambda: "b.mrc" in one.names("event"))


@pytest.mark.filterwarnings("ignore:Callback with id:RuntimeWarning")
def test_a_tree_that_is_away_is_a_fault_and_no_deletion_and_is_followed_again_when_it_returns(
    rig: Callable[..., Rig], root: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    (root / "a.mrc").touch()
    one = rig()
    one.known["a.mrc"] = stamp_of(root / "a.mrc")
    one.wait(lambda: one.state.follows_events)
    root.rename(tmp_path / "away")
    one.wait(lambda: one.state.fault != "")
    assert "No such file" in one.state.fault
    # Another directory takes its place, as when a mount returns.
    root.mkdir()
    (root / "a.mrc").touch()
    one.known["a.mrc"] = stamp_of(root / "a.mrc")
    one.wait(lambda: one.state.fault == "")
    (root / "b.mrc").touch()
    one.wait(lambda: "b.mrc" in one.names("event"))
    assert one.sightings == []
    said = [r.message for r in caplog.records if "seen" in r.message]
    assert len([line for line in said if "cannot be seen" in line]) == 1
    assert said[-1].endswith("can be seen again")


def test_an_empty_mount_point_at_the_start_is_a_fault(rig: Callable[..., Rig], root: Path) -> None:
    one = rig(usual_mount_point=str(root), scan_seconds=0.05)
    one.wait(lambda: one.state.fault != "")
    (root / "a.mrc").touch()
    one.wait(lambda: "a.mrc" in one.names("scan"))
    one.wait(lambda: one.state.fault == "")


def test_known_files_that_go_and_return_are_told_of(rig: Callable[..., Rig], root: Path) -> None:
    one = rig()
    (root / "a.mrc").touch()
    one.wait(lambda: bool(one.hints))
    one.known["a.mrc"] = stamp_of(root / "a.mrc")
    (root / "a.mrc").rename(root / "away")
    one.wait(lambda: any(s.missing == ["a.mrc"] for s in one.sightings))
    (root / "away").rename(root / "a.mrc")
    one.wait(lambda: any(s.returned == ["a.mrc"] for s in one.sightings))


def nothing_fits(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.message for record in caplog.records if "nothing to pick" in record.message]


@pytest.mark.parametrize(
    ("name", "include", "says"),
    [
        ("grid/a.tif", ["*.mrc"], "give --include '*.tif'"),
        ("a.mrc", ["Micrographs/*.mrc"], "** for any number"),
        ("a.mrcs", ["*.mrc"], "in a format that frazil does not read (such as a.mrcs)"),
        ("a_PS.mrc", ["*.mrc"], "companions = []"),
    ],
)
def test_a_tree_in_which_nothing_fits_is_said_once_with_what_to_type(
    root: Path,
    rig: Callable[..., Rig],
    caplog: pytest.LogCaptureFixture,
    name: str,
    include: list[str],
    says: str,
) -> None:
    (root / name).parent.mkdir(exist_ok=True)
    (root / name).touch()
    told: list[Inventory] = []
    one = rig(selection=Selection(include=include), on_inventory=told.append)
    one.wait(lambda: one.count_scans() >= 3)
    assert len(told) == 1
    assert told[0].nothing_fits
    (line,) = nothing_fits(caplog)
    assert f"{root}: nothing to pick: 0 micrographs found; passed over: 1 " in line
    assert says in line
    reason = next(iter(told[0].passed_over))
    assert one.state.passed_over == dict.fromkeys(PASS_REASONS, 0) | {reason: 1}


def test_what_the_first_scan_found_is_said_and_later_only_that_nothing_fits(
    root: Path, rig: Callable[..., Rig], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    for name in ("a.xml", ".part"):
        (root / name).touch()
    one = rig()
    one.wait(lambda: f"{root}: 0 micrographs found; passed over: 1 dot files" in caplog.text)
    assert nothing_fits(caplog) == []
    (root / "b.tif").touch()
    one.wait(lambda: bool(nothing_fits(caplog)))
    (root / "c.mrc").touch()
    one.wait(lambda: one.state.taken == 1)
    assert len(nothing_fits(caplog)) == 1
