"""The cursor file: a record for each ledger, which a kill, a full disk or a loss of power leaves in order."""

from __future__ import annotations

import os
from contextlib import closing
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from frazil.client.cursor import Cursor, Place
from frazil.errors import OutputError

A, B, C = (Place(letter * 32, seq, letter) for seq, letter in enumerate("abc", start=7))
PLACES = st.builds(Place, st.sampled_from(["a" * 32, "b" * 32, "c" * 32]), st.integers(0, 2**63 - 1), st.just("g" * 12))


def read(file: Path) -> dict[str, Place]:
    cursor = Cursor(file)
    cursor.close()
    return cursor.places


def write(file: Path, *places: Place) -> None:
    with closing(Cursor(file)) as cursor:
        for place in places:
            cursor.advance(place)


def test_a_cursor_of_one_ledger_is_one_record_as_it_always_was(tmp_path: Path) -> None:
    write(tmp_path / "cursor", Place("e", 1), Place("e", 17, "9c41"))
    assert (tmp_path / "cursor").read_bytes() == b'{"epoch":"e","seq":17,"generation":"9c41"}'.ljust(127) + b"\n"


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(runs=st.lists(st.lists(PLACES, max_size=6), max_size=4))
def test_the_last_place_in_each_ledger_is_remembered(tmp_path: Path, runs: list[list[Place]]) -> None:
    file = tmp_path / "cursor"
    file.unlink(missing_ok=True)
    expected: dict[str, Place] = {}
    for places in runs:
        write(file, *places)
        expected |= {place.epoch: place for place in places}
        assert read(file) == expected
        assert file.stat().st_size == 128 * len(expected)


@pytest.mark.parametrize("rest", [b"{", b"x" * 127, b"\0" * 128, b" " * 128])
def test_a_new_record_that_did_not_get_to_the_disk_is_dropped(tmp_path: Path, rest: bytes) -> None:
    file = tmp_path / "cursor"
    write(file, A, B)
    file.write_bytes(file.read_bytes() + rest)
    assert read(file) == {A.epoch: A, B.epoch: B}
    write(file, C)
    assert read(file) == {A.epoch: A, B.epoch: B, C.epoch: C}


@pytest.mark.parametrize(
    "content", [b"x", b"x" * 128, b"\0" * 128, b"{}".ljust(128), b"a,b\n" * 1000, b'{"epoch":"e","seq":17}']
)
def test_what_is_no_cursor_is_refused_and_left_as_it_is(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "cursor"
    file.write_bytes(content)
    with pytest.raises(OutputError, match="expected a frazil cursor, found something else"):
        Cursor(file)
    assert file.read_bytes() == content


def test_a_record_that_is_damaged_before_others_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "cursor"
    write(file, A, B, C)
    content = file.read_bytes()
    file.write_bytes(content[:128] + b"x" * 128 + content[256:])
    with pytest.raises(OutputError, match="expected a frazil cursor, found something else"):
        Cursor(file)


def test_a_full_disk_leaves_no_half_of_a_new_record(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "cursor"
    write(file, A)
    pwrite = os.pwrite
    cursor = Cursor(file)
    with monkeypatch.context() as full:
        full.setattr("os.pwrite", lambda descriptor, record, at: pwrite(descriptor, record[:50], at))
        with pytest.raises(OutputError, match="the cursor cannot be written: No space left on device"):
            cursor.advance(B)
    assert file.stat().st_size == 128
    cursor.advance(B)
    cursor.close()
    assert read(file) == {A.epoch: A, B.epoch: B}


def test_a_cursor_has_a_bound(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("frazil.client.cursor._MOST_RECORDS", 2)
    file = tmp_path / "cursor"
    write(file, A, B, Place(A.epoch, 20, "a"))
    with pytest.raises(OutputError, match="expected at most 2 ledgers, found one more: use a new cursor"):
        write(file, C)
    write(file, Place(B.epoch, 30, "b"))
    file.write_bytes(file.read_bytes() + file.read_bytes()[:128].replace(b"aa", b"cc"))
    with pytest.raises(OutputError, match="at most 2 ledgers, found more"):
        Cursor(file)


def test_a_cursor_is_held_by_one_program(tmp_path: Path) -> None:
    cursor = Cursor(tmp_path / "cursor")
    with pytest.raises(OutputError, match="expected a free cursor, found another program holds it"):
        Cursor(tmp_path / "cursor")
    cursor.close()
