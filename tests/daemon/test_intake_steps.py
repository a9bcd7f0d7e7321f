"""The intake alone, by a clock that stands still but for its waits: which look comes when, and what follows from it."""

from __future__ import annotations

import itertools
import os
import sqlite3
from collections.abc import Callable, Iterator
from pathlib import Path
from queue import Empty, SimpleQueue
from threading import Event
from typing import Any

import numpy as np
import prometheus_client
import pytest

from frazil.errors import IncompleteMicrograph, MicrographError
from frazil.health.metrics import Metrics
from frazil.outputs import OutputFolder
from frazil.session.intake.intake import Arrival, Intake
from frazil.session.intake.watcher import FoundBy, Hint, Sightings
from frazil.session.outbox.file_stamp import FileStamp, sample, stamp_of
from frazil.session.outbox.ledger import Handled, Ledger, LedgerReader, request_requeue
from frazil.session.outbox.ledger.reader import MicrographRecord

SETTLE = 0.25
STALL = 40.0


class Clock:
    """Stands still, but for what is waited."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.end = self.now

    def monotonic(self) -> float:
        return self.now

    def time(self) -> float:
        return 1_600_000_000.0 + self.now

    def wait(self, seconds: float) -> None:
        assert seconds >= 0
        self.now = min(self.now + seconds, self.end)


class Rig:
    """An intake with a real ledger and real files, and nobody else at them."""

    def __init__(self, root: Path, ledger: Ledger, clock: Clock) -> None:
        self.root = root
        self.ledger = ledger
        self.clock = clock
        self.start = clock.now
        self.known = ledger.known()
        self.accepted: list[Arrival] = []
        self.refused: list[tuple[Arrival, MicrographError]] = []
        self.looks: list[float] = []
        """When a file was looked at."""
        self.before_look: Callable[[], None] = lambda: None
        self.metrics = Metrics(prometheus_client.CollectorRegistry())
        names = OutputFolder(root.with_name("out"))

        def check_name(path: Path, key: str) -> None:
            self.before_look()
            names.check_name(path, key)

        self.intake = Intake(
            ledger,
            self.known,
            self.metrics,
            root,
            settle_seconds=SETTLE,
            stall_seconds=STALL,
            accept=self.accepted.append,
            refuse=lambda arrival, error: self.refused.append((arrival, error)),
            check_name=check_name,
            beat=self._beat,
        )
        self._written = 0

    def _beat(self, doing: str = "", *, more_seconds: float = 0.0) -> None:
        if doing:
            assert doing.startswith("looking at ")
            self.looks.append(self.clock.now - self.start)

    def put(self, name: str, content: bytes, *, age: float = 0.0) -> Path:
        """Write a file; its time tells it from what was written before."""
        path = self.root / name
        path.write_bytes(content)
        self._written += 1
        ns = int((self.clock.time() - age) * 1e9) + 1000 * self._written
        os.utime(path, ns=(ns, ns))
        return path

    def run(self, seconds: float = 0.0) -> None:
        """Have so much time go by."""
        clock, rounds = self.clock, 0
        clock.end = clock.now + seconds

        class Over(Event):
            def is_set(self) -> bool:
                nonlocal rounds
                rounds += 1
                assert rounds < 2000, "it spins"
                return rounds > 3 and clock.now >= clock.end

        self.intake.run(Over())

    def tell(self, path: Path, *, closed: bool = False, backlog: bool = False, by: FoundBy = "scan") -> None:
        self.intake.tell(Hint(path=path, closed=closed, backlog=backlog, by=by))

    def take(self, path: Path, **hint: Any) -> Arrival:
        """A file that has just been told of, once it is accepted."""
        self.tell(path, **hint)
        before = len(self.accepted)
        self.run(1.0)
        (arrival,) = self.accepted[before:]
        return arrival

    def pick(self, arrival: Arrival, fingerprint: str | None = None) -> None:
        """What the picker does with an arrival."""
        fingerprint = sample(arrival.path).fingerprint if fingerprint is None else fingerprint
        handled = Handled(stamp=arrival.stamp, fingerprint=fingerprint)
        self.ledger.commit_picked(arrival.key, handled, lambda epoch, seq, supersedes: b"")
        self.intake.finish(arrival, handled)

    def record(self, key: str) -> MicrographRecord | None:
        """What the ledger knows of it."""
        self.run()
        with LedgerReader(self.ledger.file) as reader:
            return reader.micrograph(key)

    def shown(self, name: str, **labels: str) -> float | None:
        return self.metrics.registry.get_sample_value(name, labels)

    def spend(self, seconds: float) -> None:
        self.clock.now += seconds

    def at(self) -> list[tuple[str, float]]:
        """What was accepted, and how long after the start."""
        return [(one.key, round(one.complete_at_monotonic - self.start, 6)) for one in self.accepted]


@pytest.fixture
def rig(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Rig]:
    clock = Clock()

    class Queue(SimpleQueue[Any]):
        def get(self, block: bool = True, timeout: float | None = None) -> Any:
            try:
                return super().get(block=False)
            except Empty:
                assert timeout is not None
                clock.wait(timeout)
                raise

    monkeypatch.setattr("frazil.session.intake.intake.time", clock)
    monkeypatch.setattr("frazil.session.intake.intake.SimpleQueue", Queue)
    root = tmp_path / "watched"
    root.mkdir()
    ledger = Ledger(tmp_path / "ledger")
    yield Rig(root, ledger, clock)
    ledger.close()


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory, write_mrc: Callable[..., Path]) -> bytes:
    """Some blocks of the file system."""
    pixels = np.random.default_rng(0).random((200, 200), np.float32)
    return write_mrc(tmp_path_factory.mktemp("mrc") / "a.mrc", pixels).read_bytes()


@pytest.fixture(scope="module")
def other(whole: bytes) -> bytes:
    """Another picture of the same size."""
    return whole[:-4] + b"\x01\x02\x03\x3f"


# --- whole and new ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("hint", "age", "after", "settled"),
    [
        ({}, 0.0, SETTLE, None),
        ({"by": "event"}, 10.0, SETTLE, None),
        ({"by": "event", "closed": True}, 0.0, 0.012, 0.03),
        ({"backlog": True}, 10.0, 0.0, None),
        ({"backlog": True}, 1.1, 0.0, None),
        ({"backlog": True}, 0.9, SETTLE, None),
    ],
)
def test_a_file_is_an_arrival_at_its_second_look(
    rig: Rig, whole: bytes, hint: dict[str, Any], age: float, after: float, settled: float | None
) -> None:
    rig.run(3.0)
    now = rig.clock.now
    path = rig.put("a.mrc", whole, age=age)
    assert rig.take(path, **hint) == Arrival(
        path=path,
        key="a.mrc",
        stamp=stamp_of(path),
        closed_at_monotonic=now,
        complete_at_monotonic=pytest.approx(now + after),  # type: ignore[arg-type]
        settled_at_monotonic=0.0 if settled is None else now + settled,
        backlog=hint.get("backlog", False),
    )
    assert rig.shown("frazil_micrographs_found_total", by=hint.get("by", "scan")) == 1
    record = rig.record("a.mrc")
    assert record is not None
    assert (record.state, record.reason, record.message) == ("seen", "", "")
    rig.run(60.0)
    assert len(rig.accepted) == 1
    assert rig.refused == []


def test_closing_brings_the_look_forward_and_what_was_put_off_does_not_come_as_well(rig: Rig, whole: bytes) -> None:
    path = rig.put("a.mrc", whole)
    rig.tell(path)
    rig.run(0.1)
    rig.tell(path, closed=True)
    rig.run(5.0)
    assert rig.at() == [("a.mrc", 0.112)]
    assert rig.accepted[0].closed_at_monotonic == pytest.approx(rig.start + 0.1)
    assert rig.accepted[0].settled_at_monotonic == pytest.approx(rig.start + 0.13)


@pytest.mark.parametrize(("told", "noticed"), [(True, 0.1), (False, 0.25)])
def test_a_file_that_changes_is_given_its_time_again(
    rig: Rig, whole: bytes, other: bytes, told: bool, noticed: float
) -> None:
    path = rig.put("a.mrc", whole)
    rig.tell(path)
    rig.run(0.1)
    rig.put("a.mrc", other)
    if told:
        rig.tell(path)
    rig.run(5.0)
    assert rig.at() == [("a.mrc", noticed + SETTLE)]
    assert rig.accepted[0].stamp == stamp_of(path)
    assert rig.accepted[0].closed_at_monotonic == pytest.approx(rig.start + noticed)


def test_a_file_that_changes_while_it_is_looked_at_is_given_its_time_again(
    rig: Rig, whole: bytes, other: bytes
) -> None:
    path = rig.put("a.mrc", whole)

    def write_meanwhile() -> None:
        rig.before_look = lambda: None
        rig.put("a.mrc", other)

    rig.before_look = write_meanwhile
    rig.tell(path)
    rig.run(5.0)
    assert rig.at() == [("a.mrc", 2 * SETTLE)]
    assert rig.accepted[0].stamp == stamp_of(path)


def test_a_file_that_scans_name_again_and_again_is_the_same_file(rig: Rig, whole: bytes) -> None:
    good, bad = rig.put("a.mrc", whole), rig.put("b.mrc", whole[:-100])
    for _ in range(10):
        for path in (good, bad):
            rig.tell(path)
        rig.run(0.1)
    assert rig.at()[0] == ("a.mrc", SETTLE)
    for _ in range(45):
        rig.tell(bad)
        rig.run(1.0)
    ((_, error),) = rig.refused
    assert error.reason == "truncated"


def test_files_are_looked_at_when_each_is_due(rig: Rig, whole: bytes) -> None:
    for i in range(5):
        rig.tell(rig.put(f"{i}.mrc", whole), closed=i == 3)
        rig.run(0.06)
    rig.run(2.0)
    assert rig.at() == [("3.mrc", 0.192), ("0.mrc", 0.25), ("1.mrc", 0.31), ("2.mrc", 0.37), ("4.mrc", 0.49)]


@pytest.mark.parametrize("named", [True, False])
def test_a_file_that_goes_before_its_second_look_is_forgotten(rig: Rig, whole: bytes, named: bool) -> None:
    path = rig.put("a.mrc", whole)
    rig.tell(path)
    rig.run(0.1)
    assert rig.intake.state.incomplete == 1
    path.unlink()
    if named:
        rig.tell(path)
        rig.run()
    else:
        rig.run(SETTLE)
    assert rig.intake.state.incomplete == 0
    record = rig.record("a.mrc")
    assert record is not None
    assert record.state == "gone"
    # Its return is another file.
    assert rig.take(rig.put("a.mrc", whole)).key == "a.mrc"


def test_a_file_goes_with_its_directory_even_if_that_becomes_a_file(rig: Rig, whole: bytes) -> None:
    (rig.root / "sub").mkdir()
    for name in ("sub/a.mrc", "sub/b.mrc"):
        rig.tell(rig.put(name, whole))
    rig.run(0.1)
    for name in ("a.mrc", "b.mrc"):
        (rig.root / "sub" / name).unlink()
    (rig.root / "sub").rmdir()
    (rig.root / "sub").write_bytes(b"")
    rig.tell(rig.root / "sub" / "a.mrc")
    rig.run(1.0)
    for key in ("sub/a.mrc", "sub/b.mrc"):
        record = rig.record(key)
        assert record is not None
        assert record.state == "gone"
    assert rig.intake.state.incomplete == 0


def test_a_name_under_which_there_was_never_anything_leaves_no_trace(rig: Rig) -> None:
    rig.tell(rig.root / "a.mrc", by="event")
    rig.run(1.0)
    assert rig.record("a.mrc") is None


def test_what_cannot_be_looked_at_is_waited_for_without_end(
    rig: Rig, whole: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    path = rig.root / "a.mrc"
    path.symlink_to(path)  # a circle
    rig.tell(path)
    rig.run(STALL - 1)
    assert caplog.text == ""
    rig.run(100.0)
    said = f"{path}: cannot be read: Too many levels of symbolic links"
    assert [record.message for record in caplog.records] == [f"{said}; it is retried until it can be read"]
    record = rig.record("a.mrc")
    assert record is not None
    assert (record.state, record.reason, record.message) == ("waiting", "unreadable", said)
    assert rig.refused == []
    path.unlink()
    rig.put("a.mrc", whole)
    rig.run(10.0)
    assert [arrival.key for arrival in rig.accepted] == ["a.mrc"]


# --- not whole --------------------------------------------------------------------------------------------------


def test_a_truncated_file_is_looked_at_ever_less_often_and_refused_when_it_has_stalled(rig: Rig, whole: bytes) -> None:
    path = rig.put("a.mrc", whole[:-100])
    rig.tell(path)
    rig.run(30.0)
    record = rig.record("a.mrc")
    assert record is not None
    assert (record.state, record.reason) == ("waiting", "truncated")
    assert str(path) in record.message
    assert rig.refused == []
    rig.run(30.0)
    first, *looks = rig.looks
    assert (first, looks[0]) == (0.0, SETTLE)
    for look, following in itertools.pairwise(looks):
        assert following - look == pytest.approx(min(max(0.5, look / 4), 5.0))
    assert STALL <= looks[-1] <= STALL + 5
    ((arrival, error),) = rig.refused
    assert isinstance(error, IncompleteMicrograph)
    assert (error.reason, arrival.path, arrival.key, arrival.stamp) == ("truncated", path, "a.mrc", stamp_of(path))
    assert rig.intake.state.incomplete == 0
    assert rig.shown("frazil_micrographs_found_total", by="scan") in (None, 0)


def test_a_file_that_grows_has_its_whole_time_to_stall_again(rig: Rig, whole: bytes) -> None:
    rig.tell(rig.put("a.mrc", whole[:-100]))
    rig.run(STALL - 6)
    path = rig.put("a.mrc", whole[:-50])
    rig.tell(path)
    rig.run(STALL - 1)
    assert rig.refused == []
    rig.run(10.0)
    assert [arrival.stamp.size for arrival, _ in rig.refused] == [len(whole) - 50]


def test_a_refused_file_is_looked_at_again_when_it_changes_only(rig: Rig, whole: bytes) -> None:
    path = rig.put("a.mrc", whole[:-100])
    rig.tell(path)
    rig.run(50.0)
    ((arrival, _),) = rig.refused
    rig.tell(path)  # in hand: nobody looks
    rig.run(1.0)
    assert len(rig.refused) == 1
    rig.intake.finish(arrival, Handled(stamp=arrival.stamp, fingerprint=sample(path).fingerprint))
    rig.run(1.0)
    rig.tell(path)
    rig.run(STALL + 10)
    assert len(rig.refused) == 1
    rig.put("a.mrc", whole)
    assert rig.take(path).stamp == stamp_of(path)


def test_a_file_with_blocks_of_zeros_is_taken_when_it_has_stalled(rig: Rig, whole: bytes) -> None:
    path = rig.put("a.mrc", whole[:-9000] + bytes(9000))
    rig.tell(path)
    rig.run(STALL - 1)
    record = rig.record("a.mrc")
    assert record is not None
    assert (record.state, record.reason) == ("waiting", "")
    assert "zeros" in record.message
    rig.run(10.0)
    ((key, at),) = rig.at()
    assert key == "a.mrc"
    assert STALL <= at <= STALL + 5
    record = rig.record("a.mrc")
    assert record is not None
    assert (record.state, record.message) == ("seen", "")


@pytest.mark.parametrize("shows_holes", [True, False])
def test_a_hole_counts_where_the_file_system_shows_them(rig: Rig, whole: bytes, shows_holes: bool) -> None:
    path = rig.root / "a.mrc"
    with path.open("wb") as file:
        file.write(whole[:8192])
        file.truncate(len(whole))
    if not shows_holes:
        rig.intake.settle(2.0, shows_holes=False)
    rig.tell(path)
    rig.run(STALL + 10)
    assert len(rig.refused) == shows_holes
    assert len(rig.accepted) == (not shows_holes)


def test_another_mount_has_another_time_to_settle(rig: Rig, whole: bytes) -> None:
    rig.intake.settle(2.0, shows_holes=True)
    rig.tell(rig.put("a.mrc", whole))
    rig.run(5.0)
    assert rig.at() == [("a.mrc", 2.0)]


@pytest.mark.parametrize(("name", "reason"), [("a.mrc", "not_mrc"), (os.fsdecode(b"\xff.mrc"), "name")])
def test_what_can_never_be_picked_is_refused_at_the_first_proof(rig: Rig, whole: bytes, name: str, reason: str) -> None:
    path = rig.put(name, whole if reason == "name" else b"text, not a picture " * 100)
    rig.tell(path)
    rig.run(1.0)
    ((arrival, error),) = rig.refused
    assert (arrival.path, error.path, error.reason) == (path, path, reason)
    assert arrival.complete_at_monotonic == rig.start + SETTLE
    assert rig.accepted == []


# --- in hand ----------------------------------------------------------------------------------------------------


def test_what_waits_to_be_picked_is_shown_with_its_age(rig: Rig, whole: bytes) -> None:
    assert (rig.intake.state.backlog, rig.intake.state.backlog_seconds) == (0, 0)
    first = rig.take(rig.put("a.mrc", whole), closed=True)
    rig.run(2.0)
    second = rig.take(rig.put("b.mrc", whole), closed=True)
    assert rig.intake.state.backlog == 2
    assert rig.intake.state.backlog_seconds == pytest.approx(rig.clock.now - first.complete_at_monotonic)
    rig.pick(first)
    rig.run()
    assert rig.intake.state.backlog_seconds == pytest.approx(rig.clock.now - second.complete_at_monotonic)
    rig.tell(rig.root / "old.mrc", backlog=True)
    assert rig.intake.state.backlog == 2  # one in hand, one that nobody has looked at
    rig.pick(second)
    rig.run()
    assert (rig.intake.state.backlog, rig.intake.state.backlog_seconds) == (0, 0)


def test_a_file_that_was_picked_is_not_taken_again(rig: Rig, whole: bytes) -> None:
    path = rig.put("a.mrc", whole)
    arrival = rig.take(path)
    rig.tell(path)
    rig.run(1.0)
    rig.pick(arrival)
    rig.run(1.0)
    for closed in (False, True):
        rig.tell(path, closed=closed)
        rig.run(5.0)
    assert len(rig.accepted) == 1
    assert rig.known == {"a.mrc": stamp_of(path)}


def test_a_file_that_changes_while_it_is_picked_is_taken_again(rig: Rig, whole: bytes, other: bytes) -> None:
    arrival = rig.take(rig.put("a.mrc", whole))
    fingerprint = sample(arrival.path).fingerprint
    rig.put("a.mrc", other)
    picked_at = rig.clock.now
    rig.pick(arrival, fingerprint)
    rig.run(5.0)
    _, again = rig.accepted
    assert again.stamp == stamp_of(again.path)
    assert again.complete_at_monotonic == pytest.approx(picked_at + SETTLE)
    assert again.backlog is False


def test_a_file_that_goes_while_it_is_picked_is_let_go(rig: Rig, whole: bytes) -> None:
    arrival = rig.take(rig.put("a.mrc", whole))
    rig.tell(arrival.path, closed=True)
    rig.run()
    fingerprint = sample(arrival.path).fingerprint
    arrival.path.unlink()
    rig.pick(arrival, fingerprint)
    rig.run(60.0)
    assert len(rig.accepted) == 1
    assert rig.intake.state.incomplete == 0


@pytest.mark.parametrize("written", ["other", "whole"])
@pytest.mark.parametrize("closed", [True, False])
def test_a_file_closed_while_it_is_picked_is_compared_by_content(
    rig: Rig, whole: bytes, other: bytes, written: str, closed: bool
) -> None:
    """Its time may be the same: the clock of the file system has a grain."""
    arrival = rig.take(rig.put("a.mrc", whole))
    fingerprint = sample(arrival.path).fingerprint
    arrival.path.write_bytes(other if written == "other" else whole)
    os.utime(arrival.path, ns=(arrival.stamp.mtime_ns, arrival.stamp.mtime_ns))
    rig.tell(arrival.path, closed=closed, by="event")
    rig.run()
    picked_at = rig.clock.now
    rig.pick(arrival, fingerprint)
    rig.run(5.0)
    assert len(rig.accepted) == (2 if closed and written == "other" else 1)
    if len(rig.accepted) == 2:
        assert rig.accepted[1].complete_at_monotonic == pytest.approx(picked_at + 0.012)
        assert rig.accepted[1].settled_at_monotonic == pytest.approx(picked_at + 0.03)
        rig.pick(rig.accepted[1])
        rig.run(5.0)
        assert len(rig.accepted) == 2
        # It was closed that time. The next time it is not.
        again = rig.take(rig.put("a.mrc", whole))
        rig.put("a.mrc", other[:-8] + whole[:8])
        again_at = rig.clock.now
        rig.intake.retry(again)
        rig.run(5.0)
        assert rig.accepted[3].complete_at_monotonic == pytest.approx(again_at + SETTLE)


def test_a_file_that_was_given_up_without_a_fingerprint_counts_as_unchanged(rig: Rig, whole: bytes) -> None:
    arrival = rig.take(rig.put("a.mrc", whole))
    rig.tell(arrival.path, closed=True)
    rig.run()
    rig.pick(arrival, "")
    rig.run(5.0)
    assert len(rig.accepted) == 1


@pytest.mark.parametrize("rest", [0.0, 7.0])
def test_a_file_that_is_tried_again_rests_first(rig: Rig, whole: bytes, rest: float) -> None:
    arrival = rig.take(rig.put("a.mrc", whole, age=10), backlog=True)
    rig.tell(arrival.path, closed=True)  # no reason to look sooner: it is as it was
    rig.run()
    at = rig.clock.now
    if rest:
        rig.intake.retry(arrival, rest)
    else:
        rig.intake.retry(arrival)
    rig.run(20.0)
    _, again = rig.accepted
    assert again.complete_at_monotonic == pytest.approx(at + rest)
    assert again.backlog


@pytest.mark.parametrize(("closed", "after"), [(True, 0.012), (False, SETTLE)])
def test_a_file_that_has_changed_does_not_rest(
    rig: Rig, whole: bytes, other: bytes, closed: bool, after: float
) -> None:
    arrival = rig.take(rig.put("a.mrc", whole))
    rig.put("a.mrc", other)
    rig.tell(arrival.path, closed=closed)
    rig.run()
    at = rig.clock.now
    rig.intake.retry(arrival, 7.0)
    rig.run(20.0)
    assert rig.accepted[1].complete_at_monotonic == pytest.approx(at + after)


def test_a_file_found_incomplete_by_reading_waits_until_it_changes_or_stalls(
    rig: Rig, whole: bytes, other: bytes
) -> None:
    arrival = rig.take(rig.put("a.mrc", whole))
    error = IncompleteMicrograph(arrival.path, "truncated", "found less than promised")
    rig.intake.await_growth(arrival, error)
    rig.run()
    at, rig.looks[:] = rig.clock.now - rig.start, []
    rig.run(10.0)
    assert rig.looks[0] == pytest.approx(at + 0.5)
    record = rig.record("a.mrc")
    assert record is not None
    assert (record.state, record.reason, record.message) == ("waiting", "truncated", str(error))
    rig.run(STALL)
    assert [found for _, found in rig.refused] == [error]
    assert len(rig.accepted) == 1
    again = rig.take(rig.put("b.mrc", whole))
    rig.intake.await_growth(again, error)
    rig.run(3.0)
    rig.put("b.mrc", other)
    rig.tell(again.path)
    rig.run(3.0)
    assert [one.key for one in rig.accepted] == ["a.mrc", "b.mrc", "b.mrc"]


def test_a_file_that_grew_while_it_was_read_is_whole_now(rig: Rig, whole: bytes, other: bytes) -> None:
    arrival = rig.take(rig.put("a.mrc", whole))
    rig.put("a.mrc", other)
    at = rig.clock.now
    rig.intake.await_growth(arrival, IncompleteMicrograph(arrival.path, "truncated", "found less than promised"))
    rig.run(5.0)
    assert rig.accepted[1].complete_at_monotonic == pytest.approx(at + SETTLE)


# --- known before -----------------------------------------------------------------------------------------------


def test_a_touched_file_is_known_by_its_new_time(rig: Rig, whole: bytes, other: bytes) -> None:
    path = rig.put("a.mrc", whole)
    rig.pick(rig.take(path))
    rig.run(1.0)
    rig.put("a.mrc", whole)
    rig.tell(path)
    rig.run(2.0)
    assert len(rig.accepted) == 1
    assert rig.known == rig.ledger.known() == {"a.mrc": stamp_of(path)}
    rig.put("a.mrc", other)
    assert rig.take(path).stamp == stamp_of(path)


def test_a_file_that_the_ledger_cannot_be_asked_about_is_taken_once_it_can(
    rig: Rig, whole: bytes, other: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    rig.pick(rig.take(rig.put("a.mrc", whole)))
    rig.run()

    def locked(_: str) -> str:
        raise sqlite3.OperationalError("database is locked")

    with monkeypatch.context() as patched:
        patched.setattr(rig.ledger, "fingerprint", locked)
        rig.tell(rig.put("a.mrc", other))
        rig.run(5.0)
        assert len(rig.accepted) == 1
    rig.run(5.0)
    assert len(rig.accepted) == 2


def test_what_is_asked_for_again_is_taken_again_though_it_has_not_changed(rig: Rig, whole: bytes) -> None:
    path = rig.put("a.mrc", whole)
    rig.pick(rig.take(path))
    gone = rig.put("b.mrc", whole)
    rig.pick(rig.take(gone))
    gone.unlink()
    rig.run(1.0)
    request_requeue(rig.ledger.file, ["a.mrc", "b.mrc"])
    at = rig.clock.now
    rig.run(5.0)
    assert [arrival.key for arrival in rig.accepted] == ["a.mrc", "b.mrc", "a.mrc"]
    assert at + SETTLE <= rig.accepted[2].complete_at_monotonic <= at + SETTLE + 1.0
    record = rig.record("b.mrc")
    assert record is not None
    assert record.state == "gone"


def test_what_is_picked_again_unawaited_is_no_backlog_and_one_that_is_written_anew_is_new(
    rig: Rig, whole: bytes, other: bytes
) -> None:
    for name in ("a.mrc", "b.mrc", "gone.mrc"):
        rig.pick(rig.take(rig.put(name, whole, age=100)))
    rig.run(1.0)
    rig.ledger.commit_document("model", lambda epoch, seq: b"", requeue=True)
    (rig.root / "gone.mrc").unlink()
    rig.run(3.0)
    again = {arrival.key: arrival for arrival in rig.accepted[3:]}
    assert sorted(again) == ["a.mrc", "b.mrc"]
    assert all(arrival.requeued for arrival in again.values())
    state = rig.intake.state
    assert (state.requeued, state.backlog, state.backlog_seconds) == (2, 0, 0)
    rig.pick(again["a.mrc"])
    rig.run(1.0)
    assert rig.intake.state.requeued == 1
    rig.put("b.mrc", other)
    rig.intake.retry(again["b.mrc"])
    rig.tell(rig.root / "b.mrc", closed=True, by="event")
    rig.run(3.0)
    assert rig.accepted[-1].key == "b.mrc"
    rig.pick(rig.accepted[-1])
    rig.run(1.0)
    assert rig.intake.state.requeued == 0


def test_requests_are_looked_for_once_a_second_and_a_ledger_that_is_locked_is_asked_again(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[float] = []

    def locked() -> list[str]:
        asked.append(rig.clock.now - rig.start)
        raise sqlite3.OperationalError("database is locked")

    monkeypatch.setattr(rig.ledger, "take_requests", locked)
    rig.run(5.1)
    assert asked == [0.0, 1.0, 2.0, 3.0, 4.0, 5.0]


def test_what_is_in_hand_and_asked_for_again_is_not_taken_twice(rig: Rig, whole: bytes) -> None:
    path = rig.put("a.mrc", whole)
    rig.pick(rig.take(path))
    rig.run(1.0)
    for _ in range(2):  # the second time it is in hand
        request_requeue(rig.ledger.file, ["a.mrc"])
        rig.run(3.0)
        assert len(rig.accepted) == 2
        record = rig.record("a.mrc")
        assert record is not None
        assert record.state == "seen"


# --- backlog and sightings --------------------------------------------------------------------------------------


def test_a_backlog_is_looked_at_without_a_pause(rig: Rig, whole: bytes) -> None:
    for i in range(10):
        rig.tell(rig.put(f"{i}.mrc", whole, age=100), backlog=True)

    rig.before_look = lambda: rig.spend(0.03)
    rig.run(5.0)
    assert rig.at() == [(f"{i}.mrc", round(0.03 * (i + 1), 6)) for i in range(10)]


def test_a_new_file_has_its_look_in_the_midst_of_a_backlog(rig: Rig, whole: bytes) -> None:
    for i in range(10):
        rig.tell(rig.put(f"old{i}.mrc", whole, age=100), backlog=True)

    rig.before_look = lambda: rig.spend(0.03)
    rig.tell(rig.put("new.mrc", whole), closed=True, by="event")
    rig.run(5.0)
    keys = [arrival.key for arrival in rig.accepted]
    assert [key for key in keys if key != "new.mrc"] == [f"old{i}.mrc" for i in range(10)]
    assert keys.index("new.mrc") == 8  # the backlog has a tenth of a second at a stretch: before it is noted, and after


def test_a_scan_tells_nothing_new_of_the_backlog_and_an_event_does(rig: Rig, whole: bytes) -> None:
    for name in ("a.mrc", "b.mrc"):
        rig.tell(rig.put(name, whole, age=100), backlog=True)
        rig.tell(rig.root / name, by="scan" if name == "a.mrc" else "event")
    rig.run(5.0)
    assert [(arrival.key, arrival.backlog) for arrival in rig.accepted] == [("a.mrc", True), ("b.mrc", True)]
    for arrival in rig.accepted:
        rig.pick(arrival)
    rig.run(1.0)
    # Looked at, they are no backlog any longer.
    rig.put("a.mrc", whole[:-4] + b"\x01\x02\x03\x3f")
    assert not rig.take(rig.root / "a.mrc").backlog


def test_a_file_of_the_backlog_that_is_written_to_is_new_and_one_that_a_scan_names_is_not(
    rig: Rig, whole: bytes
) -> None:
    for i in range(10):
        rig.tell(rig.put(f"{i}.mrc", whole, age=100), backlog=True)

    rig.before_look = lambda: rig.spend(0.03)
    rig.tell(rig.root / "7.mrc")
    rig.tell(rig.root / "8.mrc", by="event", closed=True)
    rig.tell(rig.root / "9.mrc", by="event")
    rig.run(5.0)
    assert [arrival.key for arrival in rig.accepted if arrival.backlog] == [f"{i}.mrc" for i in range(8)]
    assert sorted(arrival.key for arrival in rig.accepted if not arrival.backlog) == ["8.mrc", "9.mrc"]
    assert rig.shown("frazil_micrographs_found_total", by="event") == 2


def test_known_files_that_go_and_return_are_noted(rig: Rig, whole: bytes) -> None:
    rig.pick(rig.take(rig.put("a.mrc", whole)))
    for sightings, state in ((Sightings(missing=["a.mrc"]), "gone"), (Sightings(returned=["a.mrc"]), "picked")):
        rig.intake.tell(sightings)
        rig.run()
        record = rig.record("a.mrc")
        assert record is not None
        assert record.state == state


def test_a_start_takes_what_the_ledger_knows_by_its_stamp(rig: Rig, whole: bytes) -> None:
    path = rig.put("a.mrc", whole, age=100)
    rig.known["a.mrc"] = stamp_of(path)
    rig.tell(path, backlog=True)
    rig.run(2.0)
    assert rig.accepted == []
    rig.known["a.mrc"] = FileStamp(size=1, mtime_ns=1)
    rig.tell(path)
    rig.run(2.0)
    assert [arrival.key for arrival in rig.accepted] == ["a.mrc"]
