"""Delivery: the file before the message, nothing dropped while the disk is full, nothing overtaken."""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import msgspec
import prometheus_client
import pytest

from frazil.documents import MicrographDocument, encode_document
from frazil.errors import OutputError
from frazil.picking import read_star
from frazil.service.delivery import Delivery, prepare_output, star_path
from frazil.service.ledger import Handled, Ledger
from frazil.service.metrics import Metrics
from frazil.service.stamp import FileStamp
from frazil.service.stream import Stream

ROOT = Path("/watched")


class Rig:
    def __init__(self, out: Path, ledger_file: Path, make_document: Callable[..., MicrographDocument]) -> None:
        self.make_document = make_document
        self.ledger = Ledger(ledger_file)
        self.metrics = Metrics(prometheus_client.CollectorRegistry())
        self.stream = Stream(
            "tcp://127.0.0.1:0", ledger=ledger_file, epoch=self.ledger.epoch, published=0, metrics=self.metrics
        )
        self.stop = threading.Event()
        self.delivery = Delivery(self.ledger, self.stream, self.metrics, ROOT, out, self.stop)

    def deliver(self, *paths: str) -> bool:
        for path in paths:
            self.commit(path)
        return self.delivery.catch_up()

    def commit(self, path: str) -> None:
        one = self.make_document(path)
        self.ledger.commit_picked(
            path,
            Handled(stamp=FileStamp(size=1, mtime_ns=1), fingerprint=""),
            lambda epoch, seq, _: encode_document(msgspec.structs.replace(one, epoch=epoch, seq=seq)),
        )

    def blocked(self) -> float | None:
        return self.metrics.registry.get_sample_value("frazil_output_blocked")

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
    while rig.blocked() != 1:
        assert waiting.is_alive()
    (tmp_path / "out").unlink()
    waiting.join(10)
    assert done == [True]
    assert rig.blocked() == 0
    assert (tmp_path / "out" / "a_picks.star").is_file()


def test_told_to_stop_while_blocked_it_leaves_all_that_follows_for_the_next_start(rig: Rig, tmp_path: Path) -> None:
    (tmp_path / "out").write_text("in the way")
    rig.stop.set()
    assert not rig.deliver("/watched/a.mrc")
    (tmp_path / "out").unlink()
    assert not rig.deliver("/watched/b.mrc")
    assert [seq for seq, _ in rig.ledger.undelivered()] == [1, 2]
    rig.close()

    again = Rig(tmp_path / "out", tmp_path / "ledger", rig.make_document)
    assert again.delivery.catch_up()
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == ["a_picks.star", "b_picks.star"]
    assert list(again.ledger.undelivered()) == []
    again.close()


def test_an_output_directory_that_cannot_be_written_is_refused_by_name(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="file/out: expected a directory that can be written"):
        prepare_output(tmp_path / "file" / "out")


def test_an_output_directory_is_made_and_left_empty(tmp_path: Path) -> None:
    prepare_output(tmp_path / "a" / "b")
    assert list((tmp_path / "a" / "b").iterdir()) == []


def test_star_files_are_named_after_their_micrograph() -> None:
    assert star_path(Path("/out"), Path("May08_03.13.02.mrc")) == Path("/out/May08_03.13.02_picks.star")


def test_a_damaged_document_is_passed_over_and_what_follows_is_delivered(
    rig: Rig, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for path in ("/watched/a.mrc", "/watched/b.mrc"):
        rig.commit(path)
    with closing(sqlite3.connect(rig.ledger.file)) as database, database:
        database.execute("UPDATE documents SET body = x'7b' WHERE seq = 1")
    assert rig.delivery.catch_up()
    assert [file.name for file in (tmp_path / "out").iterdir()] == ["b_picks.star"]
    assert list(rig.ledger.undelivered()) == []
    assert rig.metrics.registry.get_sample_value("frazil_damaged_documents_total") == 1
    assert "document 1 (/watched/a.mrc) is damaged" in caplog.text


def test_a_ledger_that_is_gone_is_not_waited_for(rig: Rig, tmp_path: Path) -> None:
    rig.commit("/watched/a.mrc")
    (tmp_path / "ledger").unlink()
    with pytest.raises(OutputError):
        rig.ledger.look()
    assert not rig.delivery.catch_up()
    assert rig.blocked() == 0
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
