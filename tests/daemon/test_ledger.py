"""The ledger: numbers without gaps, nothing forgotten, one daemon at a time."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import pytest

from frazil.errors import OutputError
from frazil.service.ledger import Handled, Ledger
from frazil.service.watch import FileStamp

HANDLED = Handled(stamp=FileStamp(size=10, mtime_ns=20), fingerprint="f")


def body(epoch: str, seq: int) -> bytes:
    return f"{epoch}:{seq}".encode()


def test_sequence_numbers_have_no_gaps_over_restarts(tmp_path: Path) -> None:
    file = tmp_path / "ledger.sqlite"
    numbers, epochs = [], set()
    for start in range(3):
        ledger = Ledger(file)
        epochs.add(ledger.epoch)
        numbers += [ledger.commit_picked(f"{start}-{i}.mrc", HANDLED, body)[0] for i in range(4)]
        assert ledger.head == numbers[-1]
        ledger.close()
    assert numbers == list(range(1, 13))
    assert len(epochs) == 1


def test_another_ledger_is_another_epoch(tmp_path: Path) -> None:
    first, second = Ledger(tmp_path / "a"), Ledger(tmp_path / "b")
    assert first.epoch != second.epoch
    first.close()
    second.close()


def test_what_was_not_marked_delivered_is_delivered_after_a_restart(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "l")
    for name in "abc":
        ledger.commit_picked(name, HANDLED, body)
    ledger.mark_delivered(1)
    ledger.close()
    ledger = Ledger(tmp_path / "l")
    assert list(ledger.undelivered()) == [(seq, body(ledger.epoch, seq)) for seq in (2, 3)]
    ledger.mark_delivered(3)
    assert list(ledger.undelivered()) == []
    ledger.close()


def test_a_document_that_cannot_be_made_uses_up_no_number(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "l")

    def broken(epoch: str, seq: int) -> bytes:
        raise RuntimeError("no document")

    with pytest.raises(RuntimeError):
        ledger.commit_picked("a.mrc", HANDLED, broken)
    assert ledger.known() == {}
    assert ledger.commit_picked("a.mrc", HANDLED, body)[0] == 1
    ledger.close()


def test_picked_failed_and_touched_micrographs_are_remembered(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "l")
    ledger.commit_picked("a.mrc", HANDLED, body)
    ledger.commit_failed("b.mrc", HANDLED, "truncated")
    later = FileStamp(size=10, mtime_ns=99)
    ledger.restamp("a.mrc", later)
    ledger.close()
    ledger = Ledger(tmp_path / "l")
    assert ledger.known() == {"a.mrc": later, "b.mrc": HANDLED.stamp}
    ledger.close()


def test_a_second_daemon_is_kept_off(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "l")
    with pytest.raises(OutputError, match="in use by another frazil daemon"):
        Ledger(tmp_path / "l")
    ledger.close()
    Ledger(tmp_path / "l").close()


def test_a_file_that_is_no_ledger_is_refused_and_left_alone(tmp_path: Path) -> None:
    file = tmp_path / "notes.txt"
    file.write_text("notes " * 500)
    with pytest.raises(OutputError, match=r"notes\.txt: expected a frazil ledger"):
        Ledger(file)
    assert file.read_text() == "notes " * 500


def test_a_ledger_of_another_layout_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "l"
    Ledger(file).close()
    with sqlite3.connect(file) as database:
        database.execute("UPDATE meta SET value = '99' WHERE key = 'layout'")
    database.close()
    with pytest.raises(OutputError, match="expected ledger layout 1, found 99"):
        Ledger(file)


def test_a_place_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="missing/l"):
        Ledger(tmp_path / "missing" / "l")
