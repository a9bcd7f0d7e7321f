"""The outbox: committed, then the file, then the message; nothing dropped while the disk is full, nothing overtaken."""

from __future__ import annotations

import errno
import logging
import sqlite3
import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import msgspec
import prometheus_client
import pytest

from frazil.documents import FailedDocument, MicrographDocument, decode_document, encode_document
from frazil.errors import MicrographError, OutputError
from frazil.health.metrics import Metrics
from frazil.outputs import OutputFolder
from frazil.picking import read_star
from frazil.record import record_failure
from frazil.session.outbox.file_stamp import FileStamp
from frazil.session.outbox.ledger import Handled, Ledger, LedgerReader, Witness, read_witness
from frazil.session.outbox.outbox import Outbox, Stopped
from frazil.session.outbox.stream import Stream

ROOT = Path("/watched")


class Rig:
    def __init__(
        self,
        out: Path,
        ledger_file: Path,
        make_document: Callable[..., MicrographDocument],
        witness: Witness | None = None,
    ) -> None:
        self.make_document = make_document
        self.ledger = Ledger(ledger_file, witness)
        self.metrics = Metrics(prometheus_client.CollectorRegistry())
        self.stream = Stream(
            "tcp://127.0.0.1:0", ledger=ledger_file, epoch=self.ledger.epoch, published=0, metrics=self.metrics
        )
        self.stop = threading.Event()
        self.beats: list[str] = []
        self.outbox = Outbox(self.ledger, self.stream, self.metrics, ROOT, out, self.stop, self._note_beat)

    def _note_beat(self, doing: str = "") -> None:
        self.beats.append(doing)

    def deliver(self, *paths: str) -> bool:
        for path in paths:
            self.commit(path)
        return self.catch_up()

    def catch_up(self) -> bool:
        """Whether everything could be delivered."""
        try:
            self.outbox.deliver()
        except Stopped:
            return False
        return True

    def commit(self, path: str) -> None:
        one = self.make_document(path)
        self.ledger.commit_picked(
            path,
            Handled(stamp=FileStamp(size=1, mtime_ns=1), fingerprint=""),
            lambda epoch, seq, _: encode_document(msgspec.structs.replace(one, epoch=epoch, seq=seq)),
        )

    def blocked(self) -> bool:
        return self.outbox.waits_for != ""

    def close(self) -> None:
        self.stream.close()
        self.ledger.close()


@pytest.fixture
def rig(tmp_path: Path, make_document: Callable[..., MicrographDocument]) -> Iterator[Rig]:
    made = Rig(tmp_path / "out", tmp_path / "ledger", make_document)
    yield made
    made.close()


def test_the_tree_below_out_mirrors_the_watched_one(rig: Rig, tmp_path: Path) -> None:
    assert rig.deliver("/watched/a.mrc", "/watched/grid/square 1/a.mrc")
    assert read_star(tmp_path / "out" / "a_picks.star").x[0] == 2
    assert read_star(tmp_path / "out" / "grid" / "square 1" / "a_picks.star").y[0] == 1
    assert list(rig.ledger.undelivered()) == []


def test_a_document_from_another_tree_stays_inside_out(rig: Rig, tmp_path: Path) -> None:
    assert rig.deliver("/elsewhere/../b.mrc")
    assert (tmp_path / "out" / "b_picks.star").is_file()


def test_while_the_file_cannot_be_written_delivery_waits_and_then_goes_on(rig: Rig, tmp_path: Path) -> None:
    (tmp_path / "out").write_text("a file where the directory should be")
    done: list[bool] = []
    waiting = threading.Thread(target=lambda: done.append(rig.deliver("/watched/a.mrc")))
    waiting.start()
    while not rig.blocked():
        assert waiting.is_alive()
    (tmp_path / "out").unlink()
    waiting.join(10)
    assert done == [True]
    assert not rig.blocked()
    assert (tmp_path / "out" / "a_picks.star").is_file()


@pytest.mark.parametrize(
    "error", [OSError(errno.ENOSPC, "No space left on device"), sqlite3.OperationalError("database or disk is full")]
)
def test_what_cannot_be_written_is_retried_and_said_from_the_start(
    rig: Rig, error: Exception, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("frazil.session.outbox.outbox._RETRY_SECONDS", 0.01)
    caplog.set_level(logging.INFO, "frazil.session.outbox.outbox")
    remember, seen = rig.ledger.remember, []

    def fail_at_first(key: str, value: str) -> None:
        seen.append(rig.blocked())
        if len(seen) < 4:
            raise error
        remember(key, value)

    monkeypatch.setattr(rig.ledger, "remember", fail_at_first)
    rig.outbox.remember("asked", "now")
    assert rig.ledger.recall("asked") == "now"
    assert seen == [False, True, True, True]
    assert not rig.blocked()
    name = str(rig.ledger.file)
    assert [(r.levelname, name in r.message) for r in caplog.records] == [("WARNING", True), ("INFO", True)]


def test_told_to_stop_it_gives_up(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(key: str, value: str) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(rig.ledger, "remember", fail)
    rig.stop.set()
    with pytest.raises(Stopped):
        rig.outbox.remember("asked", "now")


def test_told_to_stop_while_blocked_it_leaves_all_that_follows_for_the_next_start(rig: Rig, tmp_path: Path) -> None:
    (tmp_path / "out").write_text("in the way")
    rig.stop.set()
    assert not rig.deliver("/watched/a.mrc")
    (tmp_path / "out").unlink()
    assert not rig.deliver("/watched/b.mrc")
    assert [seq for seq, _ in rig.ledger.undelivered()] == [1, 2]
    rig.close()

    again = Rig(tmp_path / "out", tmp_path / "ledger", rig.make_document)
    assert again.catch_up()
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == ["a_picks.star", "b_picks.star"]
    assert list(again.ledger.undelivered()) == []
    again.close()


def records(rig: Rig) -> dict[str, tuple[str, str]]:
    with LedgerReader(rig.ledger.file) as reader:
        return {record.path: (record.state, record.reason) for record in reader.micrographs()}


def documents(rig: Rig) -> list[tuple[int, str, str]]:
    with LedgerReader(rig.ledger.file) as reader:
        found = [decode_document(body) for _, body in reader.documents()]
    return [(d.seq, type(d).__name__, getattr(d, "reason", "")) for d in found]  # type: ignore[union-attr]


PICKED = ("picked", "")
UNWRITTEN = ("quarantined", "output")


def test_a_file_that_cannot_be_written_fails_alone_and_both_documents_go_out(rig: Rig, tmp_path: Path) -> None:
    (tmp_path / "out" / "isdir_picks.star").mkdir(parents=True)
    (tmp_path / "out" / "notdir").write_text("notes of the operator")
    (tmp_path / "out" / "loop").symlink_to("loop")
    assert rig.deliver("/watched/isdir.mrc", "/watched/notdir/a.mrc", "/watched/loop/a.mrc", "/watched/good.mrc")
    assert not rig.blocked()
    assert rig.outbox.waits_for == ""
    assert (tmp_path / "out" / "good_picks.star").is_file()
    assert sorted(p.name for p in (tmp_path / "out").iterdir() if p.name.startswith(".")) == []
    assert list(rig.ledger.undelivered()) == []
    assert [kind for _, kind, _ in documents(rig)] == ["MicrographDocument"] * 4 + ["FailedDocument"] * 3
    assert {reason for _, kind, reason in documents(rig) if kind == "FailedDocument"} == {"output"}
    assert [seq for seq, _, _ in documents(rig)] == list(range(1, 8))
    assert records(rig) == {
        "/watched/isdir.mrc": UNWRITTEN,
        "/watched/notdir/a.mrc": UNWRITTEN,
        "/watched/loop/a.mrc": UNWRITTEN,
        "/watched/good.mrc": PICKED,
    }
    labels = {"outcome": "failed", "reason": "output"}
    assert rig.metrics.registry.get_sample_value("frazil_micrographs_total", labels) == 3
    with LedgerReader(rig.ledger.file) as reader:
        failed = reader.micrograph("/watched/notdir/a.mrc")
    assert failed is not None
    assert failed.seq == 2
    expected = f"expected a folder at {tmp_path}/out/notdir, found something else; mend that, then frazil requeue"
    assert failed.message.endswith(expected)


def test_what_failed_is_said_once_though_it_is_delivered_again(rig: Rig, tmp_path: Path) -> None:
    (tmp_path / "out" / "a_picks.star").mkdir(parents=True)
    assert rig.deliver("/watched/a.mrc", "/watched/b.mrc")
    # As after a loss of power that undid what was noted of the delivery.
    rig.ledger.remember("delivered", "0")
    rig.close()

    again = Rig(tmp_path / "out", tmp_path / "ledger", rig.make_document)
    assert again.catch_up()
    assert [kind for _, kind, _ in documents(again)] == ["MicrographDocument"] * 2 + ["FailedDocument"]
    assert records(again) == {"/watched/a.mrc": UNWRITTEN, "/watched/b.mrc": PICKED}
    labels = {"outcome": "failed", "reason": "output"}
    assert again.metrics.registry.get_sample_value("frazil_micrographs_total", labels) == 0
    again.close()


def test_the_document_that_says_what_failed_is_whole_and_so_is_the_log(
    rig: Rig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    one = msgspec.structs.replace(rig.make_document("/watched/grid/a.mrc"), directory="grid")
    monkeypatch.setattr(rig, "make_document", lambda _: one)
    blocked = tmp_path / "out" / "grid" / "a_picks.star"
    blocked.mkdir(parents=True)
    assert rig.deliver("grid/a.mrc")
    with LedgerReader(rig.ledger.file) as reader:
        stored = reader.document(2)
    assert stored is not None
    assert (stored.topic, stored.path) == ("failed", "grid/a.mrc")
    failed = stored.decode()
    assert isinstance(failed, FailedDocument)
    assert (failed.epoch, failed.seq, failed.kind) == (rig.ledger.epoch, 2, "permanent")
    assert (failed.micrograph, failed.path, failed.directory) == ("a.mrc", "/watched/grid/a.mrc", "grid")
    assert str(blocked) in failed.message
    (record,) = [record for record in caplog.records if record.levelname == "WARNING"]
    assert record.getMessage() == f"failed (output), its result is number 1: {failed.message}"
    told = {"event": "failed", "micrograph": "/watched/grid/a.mrc", "reason": "output", "seq": 1}
    assert record.event == told  # type: ignore[attr-defined]


def test_each_delivery_gives_a_sign_of_life_that_names_the_document(rig: Rig) -> None:
    assert rig.deliver("/watched/a.mrc", "/watched/b.mrc")
    assert [beat for beat in rig.beats if "document" in beat] == ["delivering document 1", "delivering document 2"]


def test_the_witness_knows_each_number_that_was_sent(
    tmp_path: Path, make_document: Callable[..., MicrographDocument]
) -> None:
    (tmp_path / "out").mkdir()
    with (
        closing(Witness(tmp_path / "out", watch=ROOT, ledger=tmp_path / "ledger")) as witness,
        closing(Rig(tmp_path / "out", tmp_path / "ledger", make_document, witness)) as rig,
    ):
        for seq in (1, 2):
            assert rig.deliver(f"/watched/{seq}.mrc")
            assert read_witness(tmp_path / "out") == (rig.ledger.epoch, seq)


def test_a_delivery_that_cannot_be_recorded_is_repeated_after_a_restart_only(
    rig: Rig, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    refuse = "CREATE TRIGGER t BEFORE UPDATE ON meta BEGIN SELECT RAISE(ABORT, 'not now'); END"
    with closing(sqlite3.connect(rig.ledger.file)) as database:
        database.execute(refuse)
    assert rig.deliver("/watched/a.mrc")
    assert "delivery of 1 cannot be recorded (not now): after a restart it may be repeated" in caplog.text
    (tmp_path / "out" / "a_picks.star").unlink()
    assert rig.catch_up()
    assert rig.deliver("/watched/b.mrc")
    assert [file.name for file in (tmp_path / "out").iterdir()] == ["b_picks.star"]
    rig.close()
    with closing(sqlite3.connect(tmp_path / "ledger")) as database:
        database.execute("DROP TRIGGER t")
    with closing(Rig(tmp_path / "out", tmp_path / "ledger", rig.make_document)) as again:
        assert again.catch_up()
        assert sorted(file.name for file in (tmp_path / "out").iterdir()) == ["a_picks.star", "b_picks.star"]
        assert list(again.ledger.undelivered()) == []


def test_more_than_is_read_at_once_is_delivered_each_once_and_in_order(rig: Rig, tmp_path: Path) -> None:
    for i in range(230):
        rig.commit(f"/watched/{i}.mrc")
    assert rig.catch_up()
    assert rig.beats == [f"delivering document {seq}" for seq in range(1, 231)]
    assert len(list((tmp_path / "out").iterdir())) == 230
    with LedgerReader(rig.ledger.file) as reader:
        assert all(record.published_at for record in reader.micrographs())
    assert rig.catch_up()
    assert len(rig.beats) == 230


def test_a_later_result_finds_out_anew_whether_its_file_can_be_written(rig: Rig, tmp_path: Path) -> None:
    blocked = tmp_path / "out" / "a_picks.star"
    blocked.mkdir(parents=True)
    assert rig.deliver("/watched/a.mrc")

    def revise(older: int) -> int:
        one = rig.make_document("/watched/a.mrc")
        seq = rig.ledger.commit_revision(
            "/watched/a.mrc",
            older,
            lambda epoch, seq: encode_document(msgspec.structs.replace(one, epoch=epoch, seq=seq)),
            score_map=None,
            remember=("key", "value"),
        )
        assert rig.catch_up()
        return seq

    revised = revise(1)
    assert records(rig) == {"/watched/a.mrc": UNWRITTEN}
    assert [kind for _, kind, _ in documents(rig)][-2:] == ["MicrographDocument", "FailedDocument"]
    blocked.rmdir()
    revise(revised)
    assert records(rig) == {"/watched/a.mrc": PICKED}
    assert blocked.is_file()


def test_a_result_that_was_superseded_meanwhile_fails_no_micrograph(rig: Rig, tmp_path: Path) -> None:
    (tmp_path / "out" / "a_picks.star").mkdir(parents=True)
    assert rig.deliver("/watched/a.mrc", "/watched/a.mrc")
    assert [(seq, kind) for seq, kind, _ in documents(rig)] == [
        (1, "MicrographDocument"),
        (2, "MicrographDocument"),
        (3, "FailedDocument"),
    ]
    assert records(rig) == {"/watched/a.mrc": UNWRITTEN}


def test_a_record_that_the_ledger_cannot_take_is_not_waited_for(rig: Rig) -> None:
    rig.ledger._database.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, 2000)
    handled = Handled(stamp=FileStamp(size=1, mtime_ns=1), fingerprint="")
    with pytest.raises(sqlite3.DataError, match="too big"):
        rig.outbox.commit(rig.make_document("/watched/a.mrc"), key="a", handled=handled, score_map=bytes(3000))
    assert rig.ledger.head == 0
    assert not rig.blocked()
    assert rig.deliver("/watched/b.mrc")


def test_an_output_directory_that_cannot_be_written_is_refused_by_name(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="file/out: expected a directory that can be written"):
        OutputFolder(tmp_path / "file" / "out").prepare()


def test_an_output_directory_is_made_and_left_empty(tmp_path: Path) -> None:
    OutputFolder(tmp_path / "a" / "b").prepare()
    assert list((tmp_path / "a" / "b").iterdir()) == []


def test_a_damaged_document_is_passed_over_and_what_follows_is_delivered(
    rig: Rig, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for path in ("/watched/a.mrc", "/watched/b.mrc"):
        rig.commit(path)
    with closing(sqlite3.connect(rig.ledger.file)) as database, database:
        database.execute("UPDATE documents SET body = x'7b' WHERE seq = 1")
    assert rig.catch_up()
    assert [file.name for file in (tmp_path / "out").iterdir()] == ["b_picks.star"]
    assert list(rig.ledger.undelivered()) == []
    assert rig.metrics.registry.get_sample_value("frazil_damaged_documents_total") == 1
    assert "document 1 (/watched/a.mrc) is damaged" in caplog.text


def test_a_ledger_that_is_gone_is_not_waited_for(rig: Rig, tmp_path: Path) -> None:
    rig.commit("/watched/a.mrc")
    (tmp_path / "ledger").unlink()
    with pytest.raises(OutputError):
        rig.ledger.look()
    assert not rig.catch_up()
    assert not rig.blocked()
    assert not (tmp_path / "out").exists()


def test_a_result_of_a_run_that_knew_the_directory_by_another_name_goes_to_the_same_place(
    rig: Rig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = msgspec.structs.replace(rig.make_document("/raid/session/grid/a.mrc"), directory="grid")
    monkeypatch.setattr(rig, "make_document", lambda _: one)
    assert rig.deliver("grid/a.mrc")
    assert [file.relative_to(tmp_path / "out") for file in (tmp_path / "out").rglob("*.star")] == [
        Path("grid/a_picks.star")
    ]


def test_what_is_committed_is_numbered_told_of_and_then_delivered(rig: Rig, tmp_path: Path) -> None:
    handled, star = Handled(stamp=FileStamp(size=1, mtime_ns=1), fingerprint="f"), tmp_path / "out" / "a_picks.star"
    told: list[tuple[int, bool]] = []
    for number in (1, 2):
        seq = rig.outbox.commit(
            rig.make_document("/watched/a.mrc"),
            key="a.mrc",
            handled=handled,
            on_commit=lambda seq: told.append((seq, star.exists())),
        )
        assert seq == number
    assert told == [(1, False), (2, True)]
    first, second = (decode_document(stored.body) for stored in rig.ledger.documents_after(0))
    assert isinstance(first, MicrographDocument)
    assert isinstance(second, MicrographDocument)
    assert (first.supersedes, second.supersedes) == (0, 1)
    assert {first.epoch, second.epoch} == {rig.ledger.epoch}
    assert list(rig.ledger.undelivered()) == []


def test_a_failure_that_is_tried_again_is_not_quarantined(rig: Rig) -> None:
    handled = Handled(stamp=FileStamp(size=1, mtime_ns=1), fingerprint="")
    for kind, attempts in (("transient", 1), ("permanent", 0)):
        failed = record_failure(
            MicrographError(ROOT / "a.mrc", "unreadable", "cannot be read"),
            ROOT / "a.mrc",
            "",
            attempts=1 + rig.outbox.attempts("a.mrc"),
            is_transient=kind == "transient",
        )
        rig.outbox.commit(failed, key="a.mrc", handled=handled)
        with closing(LedgerReader(rig.ledger.file)) as reader:
            assert reader.counts() == {{"transient": "failed", "permanent": "quarantined"}[kind]: 1}
        assert rig.outbox.attempts("a.mrc") == attempts


def test_told_to_stop_what_was_committed_is_left_to_the_next_start(rig: Rig, tmp_path: Path) -> None:
    (tmp_path / "out").write_text("in the way")
    rig.stop.set()
    handled = Handled(stamp=FileStamp(size=1, mtime_ns=1), fingerprint="")
    committed: list[int] = []
    with pytest.raises(Stopped):
        rig.outbox.commit(rig.make_document("/watched/a.mrc"), key="a.mrc", handled=handled, on_commit=committed.append)
    assert committed == [1]
    assert [seq for seq, _ in rig.ledger.undelivered()] == [1]
