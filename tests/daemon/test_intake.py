"""Watcher and intake: whole and new files get through, once; everything else waits or is reported."""

from __future__ import annotations

import os
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import prometheus_client
import pytest

from frazil.errors import IncompleteMicrograph, MicrographError
from frazil.health.metrics import Metrics
from frazil.outputs import OutputFolder
from frazil.session.intake.file_system import FileSystem
from frazil.session.intake.intake import Arrival, Intake
from frazil.session.intake.likeness import Likeness
from frazil.session.intake.selection import Selection
from frazil.session.intake.watcher import Hint, Watcher
from frazil.session.outbox.file_stamp import sample
from frazil.session.outbox.ledger import Handled, Ledger, request_requeue
from frazil.settings import BacklogOrder

Write = Callable[..., Path]


class Running:
    """A real watcher and intake on a real directory; what is accepted counts as picked at once."""

    def __init__(
        self,
        root: Path,
        ledger: Ledger,
        *,
        events: bool = True,
        stall_seconds: float = 30.0,
        backlog_order: BacklogOrder = "oldest",
        await_growth_of: str = "",
        likeness: Likeness | None = None,
    ) -> None:
        self.root = root
        self.ledger = ledger
        self.accepted: list[Arrival] = []
        self.contents: list[bytes] = []
        self.refused: list[MicrographError] = []
        self.sent_back: list[str] = []
        self.stop_event = threading.Event()
        self._await_growth_of = await_growth_of
        self._changed = threading.Condition()
        self.metrics = Metrics(prometheus_client.CollectorRegistry())
        known, held = ledger.known(), set(ledger.held())
        self.intake = Intake(
            ledger,
            known,
            self.metrics,
            root,
            settle_seconds=0.2,
            stall_seconds=stall_seconds,
            accept=self._accept,
            refuse=self._refuse,
            check_name=OutputFolder(root.with_name("out")).check_name,
            likeness=likeness,
            held=held,
        )
        self.watcher = Watcher(
            root,
            FileSystem.of(root),
            self.intake.tell,
            self.metrics,
            selection=Selection(),
            known=known,
            missing=ledger.missing(),
            held=held,
            scan_seconds=0.1,
            watch_by="events" if events else "poll",
            backlog_order=backlog_order,
        )
        self.watcher.start()
        self._thread = threading.Thread(target=self.intake.run, args=(self.stop_event,))
        self._thread.start()

    def _accept(self, arrival: Arrival) -> None:
        if arrival.key == self._await_growth_of:
            self._await_growth_of = ""
            self.intake.await_growth(
                arrival, IncompleteMicrograph(arrival.path, "truncated", "found less than promised")
            )
            with self._changed:
                self.sent_back.append(arrival.key)
                self._changed.notify_all()
            return
        handled = Handled(stamp=arrival.stamp, fingerprint=sample(arrival.path).fingerprint)
        self.ledger.commit_picked(arrival.key, handled, lambda epoch, seq, supersedes: b"")
        content = arrival.path.read_bytes()
        self.intake.finish(arrival, handled)
        with self._changed:
            self.contents.append(content)
            self.accepted.append(arrival)
            self._changed.notify_all()

    def _refuse(self, arrival: Arrival, error: MicrographError) -> None:
        handled = Handled(stamp=arrival.stamp, fingerprint=sample(arrival.path).fingerprint)
        self.intake.finish(arrival, handled)
        with self._changed:
            self.refused.append(error)
            self._changed.notify_all()

    def wait(self, condition: Callable[[], bool], seconds: float = 60.0) -> None:
        with self._changed:
            assert self._changed.wait_for(condition, seconds), (self.accepted, self.refused)

    def names(self) -> list[str]:
        return sorted(arrival.key for arrival in self.accepted)

    def wait_for_state(self, condition: Callable[[], bool], seconds: float = 60.0) -> None:
        deadline = time.monotonic() + seconds
        while not condition():  # nobody is told of it
            assert time.monotonic() < deadline, self.watcher.state
            time.sleep(0.02)

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


@pytest.fixture(scope="module")
def big(tmp_path_factory: pytest.TempPathFactory, write_mrc: Write) -> bytes:
    """Some hundred kilobytes: many blocks of the file system."""
    pixels = np.random.default_rng(1).random((300, 400), np.float32)
    return write_mrc(tmp_path_factory.mktemp("mrc") / "a.mrc", pixels).read_bytes()


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


def test_a_file_closed_again_while_it_is_picked_is_compared_by_what_it_holds(
    run: Callable[..., Running], root: Path, whole: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    running, path = run(events=False), root / "a.mrc"
    accept = running.intake._accept
    content = whole[:-4] + b"\x01\x02\x03\x3f"

    def write_meanwhile(arrival: Arrival) -> None:
        # It is opened and closed again within the grain of the clock: its time stays what it was.
        handled = Handled(stamp=arrival.stamp, fingerprint=sample(path).fingerprint)
        running.intake._accept = accept
        path.write_bytes(content)
        os.utime(path, ns=(arrival.stamp.mtime_ns, arrival.stamp.mtime_ns))
        running.intake.tell(Hint(path=path, closed=True, by="event"))
        running.ledger.commit_picked(arrival.key, handled, lambda epoch, seq, supersedes: b"")
        running.intake.finish(arrival, handled)

    running.intake._accept = write_meanwhile
    path.write_bytes(whole)
    running.wait(lambda: running.contents == [content])
    # Closed again as it was, it is not new.
    running.intake.tell(Hint(path=path, closed=True, by="event"))
    settle(running, root, whole)
    assert running.contents[:1] == [content]
    assert len(running.contents) == 2  # the other is the marker's


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


def test_a_sparse_file_is_not_taken_before_its_last_hole_is_filled(
    run: Callable[..., Running], root: Path, big: bytes
) -> None:
    running = run()
    path = root / "sparse.mrc"
    with path.open("wb") as file:
        file.truncate(len(big))
        for start in (0, 2, 1):  # the end before the middle, as parallel copies do
            settle(running, root, big)
            assert running.names() == []
            third = len(big) // 3 // 4096 * 4096
            part = slice(start * third, (start + 1) * third if start < 2 else None)
            file.seek(part.start)
            file.write(big[part])
            file.flush()
    running.wait(lambda: running.names() == ["sparse.mrc"])
    assert running.contents[-1] == big


def test_a_sparse_file_that_is_never_filled_is_reported_and_not_read(
    run: Callable[..., Running], root: Path, big: bytes
) -> None:
    running = run(stall_seconds=0.5)
    path = root / "sparse.mrc"
    with path.open("wb") as file:
        file.write(big[:2000])
        file.truncate(len(big))
    running.wait(lambda: len(running.refused) == 1)
    assert "hole" in str(running.refused[0])
    path.write_bytes(big)
    running.wait(lambda: running.names() == ["sparse.mrc"])


def test_space_filled_with_zeros_first_gets_time_to_be_written_over(
    run: Callable[..., Running], root: Path, big: bytes
) -> None:
    running = run(stall_seconds=5.0)
    path = root / "prefilled.mrc"
    path.write_bytes(big[:2000] + bytes(len(big) - 2000))
    settle(running, root, big)
    settle(running, root, big)
    assert running.names() == []
    with path.open("r+b") as file:
        file.write(big)
    running.wait(lambda: running.names() == ["prefilled.mrc"])
    assert running.contents[-1] == big


def test_a_whole_file_with_a_block_of_zeros_is_taken_once_it_has_rested(
    run: Callable[..., Running], root: Path, big: bytes
) -> None:
    running = run(stall_seconds=0.5)
    content = big[:-5000] + bytes(5000)
    (root / "zeros.mrc").write_bytes(content)
    running.wait(lambda: running.names() == ["zeros.mrc"])
    assert running.refused == []


def test_each_name_of_a_hard_linked_file_is_a_micrograph_of_its_own(
    run: Callable[..., Running], root: Path, whole: bytes
) -> None:
    running = run()
    (root / ".aside").write_bytes(whole)
    os.link(root / ".aside", root / "a.mrc")
    running.wait(lambda: running.names() == ["a.mrc"])
    (root / ".aside").unlink()
    os.link(root / "a.mrc", root / "b.mrc")
    running.wait(lambda: running.names() == ["a.mrc", "b.mrc"])
    settle(running, root, whole)
    assert running.names() == ["a.mrc", "b.mrc"]


def test_a_file_found_incomplete_by_reading_waits_like_any_other(
    run: Callable[..., Running], root: Path, whole: bytes
) -> None:
    """A header may promise less than the file must hold, as in a compressed one."""
    running = run(await_growth_of="a.mrc")
    path = root / "a.mrc"
    path.write_bytes(whole)
    running.wait(lambda: running.sent_back == ["a.mrc"])  # a marker may overtake it, when only a scan has found it
    settle(running, root, whole)
    settle(running, root, whole)
    assert running.names() == []
    path.write_bytes(whole + b"the rest")
    running.wait(lambda: running.names() == ["a.mrc"])


def test_a_file_found_incomplete_by_reading_is_reported_when_it_stalls(
    run: Callable[..., Running], root: Path, whole: bytes
) -> None:
    running = run(await_growth_of="a.mrc", stall_seconds=0.5)
    (root / "a.mrc").write_bytes(whole)
    running.wait(lambda: len(running.refused) == 1)
    assert "found less than promised" in str(running.refused[0])
    assert running.names() == []


def test_new_files_do_not_wait_behind_a_backlog(run: Callable[..., Running], root: Path, whole: bytes) -> None:
    for i in range(60):
        (root / f"old{i:03}.mrc").write_bytes(whole)
        os.utime(root / f"old{i:03}.mrc", (1000 + i, 1000 + i))
    running = run(backlog_order="newest")
    (root / "new.mrc").write_bytes(whole)
    running.wait(lambda: len(running.accepted) == 61)
    old = [a.key for a in running.accepted if a.key != "new.mrc"]
    assert old == [f"old{i:03}.mrc" for i in reversed(range(60))]


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


# Watchdog warns of its own book-keeping when a directory it knew comes back.
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


def test_fingerprint_notices_a_change_at_either_end(tmp_path: Path) -> None:
    content = bytearray(np.random.default_rng(0).bytes(300_000))
    path = tmp_path / "a"
    prints = set()
    for at in (None, 0, len(content) - 1):
        changed = bytearray(content)
        if at is not None:
            changed[at] ^= 1
        path.write_bytes(changed)
        prints.add(sample(path).fingerprint)
    path.write_bytes(content + b"0")
    prints.add(sample(path).fingerprint)
    assert len(prints) == 4


def run_with_three(run: Callable[..., Running], root: Path, whole: bytes) -> Running:
    """A session that knows what its micrographs are like."""
    running = run(likeness=Likeness())
    for name in ("a.mrc", "b.mrc", "c.mrc"):
        (root / name).write_bytes(whole)
    running.wait(lambda: len(running.accepted) == 3)
    return running


def test_what_is_unlike_its_session_is_held_until_somebody_wants_it(
    run: Callable[..., Running], root: Path, whole: bytes, big: bytes
) -> None:
    running = run_with_three(run, root, whole)
    (root / "overview.mrc").write_bytes(big)
    running.wait_for_state(lambda: running.watcher.state.passed_over["unlike"] == 1)
    assert running.watcher.state.taken == 3
    settle(running, root, whole)
    assert "overview.mrc" not in running.names()

    # A later run still holds it, and so it does after it was away.
    assert running.ledger.held() == ["overview.mrc"]
    assert "overview.mrc" in running.ledger.known()
    (root / "overview.mrc").rename(root / "away")
    running.wait_for_state(lambda: running.watcher.state.passed_over["unlike"] == 0)
    (root / "away").rename(root / "overview.mrc")
    running.wait_for_state(lambda: running.watcher.state.passed_over["unlike"] == 1)

    request_requeue(running.ledger.file, held=True)
    running.wait(lambda: "overview.mrc" in running.names())
    (root / "another.mrc").write_bytes(big)  # of a kind that somebody wants
    running.wait(lambda: "another.mrc" in running.names())
    assert running.ledger.held() == []


def test_what_was_held_and_is_written_again_like_the_others_is_picked(
    run: Callable[..., Running], root: Path, whole: bytes, big: bytes
) -> None:
    running = run_with_three(run, root, whole)
    (root / "d.mrc").write_bytes(big)
    running.wait_for_state(lambda: running.watcher.state.passed_over["unlike"] == 1)
    (root / "d.mrc").write_bytes(whole)
    running.wait(lambda: "d.mrc" in running.names())
