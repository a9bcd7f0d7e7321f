"""Salvage: what SQLite stores is read page by page as it is, and nothing else passes for it."""

from __future__ import annotations

import shutil
import sqlite3
import struct
from contextlib import closing
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from frazil.session.outbox.ledger.salvage import Row, read_rows

PAGE_SIZES = [512, 1024, 4096, 65536]
NUMBERS = [sign * 2**k + d for k in (0, 7, 8, 15, 16, 23, 31, 47, 62) for sign in (1, -1) for d in (-1, 0, 1)]
WHOLE = st.integers(-(2**63), 2**63 - 1)
VALUES = st.one_of(
    st.none(),
    WHOLE,
    st.sampled_from(NUMBERS),
    st.floats(allow_nan=False),
    st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=40),
    st.binary(max_size=40),
)
ROWS = st.lists(st.tuples(VALUES, VALUES, VALUES), max_size=12)


def kinds(rows: list[Row]) -> list[list[tuple[type, object]]]:
    """Rows in an order of their own, with the types of their values: 1, 1.0 and True are not the same here."""
    return sorted(([(type(value), value) for value in row] for row in rows), key=repr)


def make(file: Path, *, page_bytes: int = 4096, auto_vacuum: str = "INCREMENTAL") -> sqlite3.Connection:
    """A database with a table of numbered rows, and one whose rows lie in the tree of their key."""
    database = sqlite3.connect(file, isolation_level=None)
    database.execute(f"PRAGMA page_size={page_bytes}")
    database.execute(f"PRAGMA auto_vacuum={auto_vacuum}")
    database.execute("PRAGMA journal_mode=WAL")
    database.execute("PRAGMA secure_delete=OFF")
    database.execute("CREATE TABLE numbered (number INTEGER PRIMARY KEY, mark TEXT, a, b, c)")
    database.execute("CREATE TABLE keyed (key TEXT PRIMARY KEY, mark TEXT, a, b) WITHOUT ROWID")
    return database


def stored(database: sqlite3.Connection, table: str) -> list[Row]:
    return list(database.execute(f"SELECT * FROM {table}"))


def salvaged(file: Path) -> dict[str, list[Row]]:
    """Rows read page by page, by the table whose mark they bear."""
    rows = [row for row in read_rows(file) if len(row) > 1]
    return {table: [row for row in rows if row[1] == f"#{table}"] for table in ("numbered", "keyed")}


def agree(file: Path, database: sqlite3.Connection) -> None:
    for table, rows in salvaged(file).items():
        assert kinds(rows) == kinds(stored(database, table))


@pytest.mark.parametrize("page_bytes", PAGE_SIZES)
def test_values_around_each_change_of_form_are_read_as_they_were_stored(tmp_path: Path, page_bytes: int) -> None:
    values = [None, 0.5, 1.0, -0.0, 1e300, "", "x", "ü", "x" * 57, "x" * 58, b"", b"\xff", b"x" * 58, *NUMBERS]
    with closing(make(tmp_path / "l", page_bytes=page_bytes)) as database:
        for number, value in zip(
            [0, 1, *(2**k - d for k in range(7, 63, 7) for d in (0, 1)), 2**63 - 1], values, strict=False
        ):
            database.execute("INSERT INTO numbered VALUES (?, '#numbered', ?, ?, NULL)", (number, value, number % 3))
        for i, value in enumerate(values):
            database.execute("INSERT INTO numbered VALUES (?, '#numbered', ?, 'b', ?)", (i + 9000, value, value))
            database.execute("INSERT INTO keyed VALUES (?, '#keyed', ?, ?)", (f"{i}", value, i))
        agree(tmp_path / "l", database)
        database.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
        agree(tmp_path / "l", database)


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    rows=ROWS,
    numbers=st.lists(st.integers(0, 2**63 - 1), min_size=12, max_size=12, unique=True),
    page_bytes=st.sampled_from(PAGE_SIZES),
)
def test_values_of_every_kind_are_read_as_they_were_stored(
    tmp_path: Path, rows: list[Row], numbers: list[int], page_bytes: int
) -> None:
    (tmp_path / "l").unlink(missing_ok=True)
    with closing(make(tmp_path / "l", page_bytes=page_bytes)) as database:
        for number, row in zip(numbers, rows, strict=False):
            database.execute("INSERT INTO numbered VALUES (?, '#numbered', ?, ?, ?)", (number, *row))
            database.execute("INSERT INTO keyed VALUES (?, '#keyed', ?, ?)", (f"key {number}", *row[:2]))
        agree(tmp_path / "l", database)  # from the write-ahead log
        database.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
        agree(tmp_path / "l", database)


@pytest.mark.parametrize("page_bytes", [512, 4096])
def test_rows_of_every_length_are_put_together_from_the_pages_they_go_on_in(tmp_path: Path, page_bytes: int) -> None:
    """Around each length at which SQLite begins another page, or keeps more or less of a row in the first."""
    spilled = page_bytes - 4
    most = (page_bytes - 12) * 64 // 255 - 23
    lengths = {1, 100, 10 * page_bytes}
    for edge in (most, page_bytes - 35, spilled + most, spilled + page_bytes - 35):
        lengths |= set(range(edge - 24, edge + 4))
    with closing(make(tmp_path / "l", page_bytes=page_bytes)) as database:
        database.execute("BEGIN")
        for length in sorted(lengths):
            # No two parts of it are the same.
            content = b"".join(struct.pack(">I", i) for i in range(length // 4 + 1))[:length]
            database.execute("INSERT INTO numbered VALUES (?, '#numbered', ?, 1, 2)", (length, content))
            database.execute("INSERT INTO keyed VALUES (?, '#keyed', ?, 'end')", (f"{length}", content))
        database.execute("COMMIT")
        database.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
        agree(tmp_path / "l", database)


@pytest.mark.parametrize("auto_vacuum", ["INCREMENTAL", "NONE"])
def test_every_row_of_many_pages_is_read_whether_or_not_some_of_them_are_maps(tmp_path: Path, auto_vacuum: str) -> None:
    """A ledger of the first layout that was cut off while it was brought up to date has no maps."""
    with closing(make(tmp_path / "l", page_bytes=512, auto_vacuum=auto_vacuum)) as database:
        database.execute("BEGIN")
        for number in range(300):
            database.execute("INSERT INTO numbered VALUES (?, '#numbered', ?, 1.5, NULL)", (number, "x" * 300))
            database.execute("INSERT INTO keyed VALUES (?, '#keyed', ?, 2)", (f"{number:05}", "y" * 90))
        database.execute("COMMIT")
        database.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
        assert database.execute("PRAGMA page_count").fetchone()[0] > 3 * 103
        agree(tmp_path / "l", database)


def test_what_was_deleted_stays_deleted(tmp_path: Path) -> None:
    """Its pages are free, and still hold it."""
    with closing(make(tmp_path / "l", page_bytes=512)) as database:
        database.execute("BEGIN")
        for number in range(700):
            row = (number, "old" if number >= 20 else "new", "x" * 200)
            database.execute("INSERT INTO numbered VALUES (?, '#numbered', ?, ?, 1)", row)
        database.execute("COMMIT")
        database.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
        database.execute("DELETE FROM numbered WHERE number >= 20")
        database.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
        assert database.execute("PRAGMA freelist_count").fetchone()[0] > 2 * 126, "more than one page lists"
        assert (tmp_path / "l").read_bytes().count(b"oldxxx") > 500
        agree(tmp_path / "l", database)
        database.execute("PRAGMA incremental_vacuum(50)").fetchall()  # the log says that the file is shorter
        agree(tmp_path / "l", database)


STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("add"), st.integers(1, 40)),
        st.tuples(st.just("remove"), st.integers(1, 40)),
        st.tuples(st.just("change"), st.integers(1, 400)),
        st.tuples(st.just("checkpoint"), st.sampled_from(["PASSIVE", "RESTART", "TRUNCATE"])),
        st.tuples(st.just("vacuum"), st.integers(1, 9)),
    ),
    min_size=2,
    max_size=14,
)


@settings(max_examples=10, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(steps=STEPS)
def test_the_log_is_followed_through_every_round_of_it(tmp_path: Path, steps: list[tuple[str, object]]) -> None:
    """A log begins anew after a checkpoint, and what is left of the earlier round lies behind the new."""
    (tmp_path / "l").unlink(missing_ok=True)
    with closing(make(tmp_path / "l", page_bytes=512)) as database:
        number = 0
        for step, value in steps:
            match step, value:
                case "add", int(count):
                    database.execute("BEGIN")
                    for _ in range(count):
                        number += 1
                        database.execute("INSERT INTO numbered VALUES (?, '#numbered', ?, 'b', 3)", (number, b"a" * 90))
                        database.execute("INSERT INTO keyed VALUES (?, '#keyed', ?, 3)", (f"{number}", "k" * 60))
                    database.execute("COMMIT")
                case "remove", int(count):
                    database.execute(
                        "DELETE FROM numbered WHERE number <= (SELECT min(number) FROM numbered) + ?", (count,)
                    )
                    database.execute("DELETE FROM keyed WHERE length(key) = ?", (count % 3,))
                case "change", int(length):
                    database.execute("UPDATE numbered SET b = ? WHERE number % 7 = 0", ("c" * length,))
                case "checkpoint", str(how):
                    database.execute(f"PRAGMA wal_checkpoint({how})").fetchall()
                case "vacuum", int(count):
                    database.execute(f"PRAGMA incremental_vacuum({count})").fetchall()
            agree(tmp_path / "l", database)


def test_what_was_never_committed_is_not_read(tmp_path: Path) -> None:
    """A transaction that does not fit into memory is in the log before its end."""
    with closing(make(tmp_path / "l")) as database, closing(sqlite3.connect(tmp_path / "l")) as other:
        database.execute("INSERT INTO numbered VALUES (1, '#numbered', 'committed', 1, 2)")
        database.execute("PRAGMA cache_size=5")
        database.execute("BEGIN")
        for number in range(2, 400):
            database.execute("INSERT INTO numbered VALUES (?, '#numbered', ?, 1, 2)", (number, b"x" * 500))
        assert (tmp_path / "l-wal").stat().st_size > 100_000
        agree(tmp_path / "l", other)
        assert len(salvaged(tmp_path / "l")["numbered"]) == 1


# --- damage ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def filled(tmp_path: Path) -> Path:
    """A closed database of small pages, some of them free."""
    with closing(make(tmp_path / "l", page_bytes=1024)) as database:
        database.execute("BEGIN")
        for number in range(60):
            database.execute("INSERT INTO numbered VALUES (?, '#numbered', ?, 'b', 3)", (number, b"a" * (number * 50)))
            database.execute("INSERT INTO keyed VALUES (?, '#keyed', ?, 3)", (f"{number}", "k" * (2 * number)))
        database.execute("DELETE FROM numbered WHERE number > 50")
        database.execute("COMMIT")
    return tmp_path / "l"


@pytest.mark.parametrize("page_bytes", PAGE_SIZES)
def test_without_its_first_page_a_file_is_read_by_the_page_size_of_its_log(tmp_path: Path, page_bytes: int) -> None:
    with closing(make(tmp_path / "l", page_bytes=page_bytes)) as database:
        database.execute("INSERT INTO numbered VALUES (1, '#numbered', 'one', 1, 2)")
        database.execute("PRAGMA wal_checkpoint(RESTART)").fetchall()
        database.execute("INSERT INTO keyed VALUES ('k', '#keyed', 1, 2)")
        for ending in ("", "-wal"):
            shutil.copy(tmp_path / f"l{ending}", tmp_path / f"copy{ending}")
        content = (tmp_path / "copy").read_bytes()
        (tmp_path / "copy").write_bytes(bytes(page_bytes) + content[page_bytes:])
        agree(tmp_path / "copy", database)


def test_without_its_first_page_and_any_log_a_file_is_read_by_the_page_size_of_a_ledger(tmp_path: Path) -> None:
    with closing(make(tmp_path / "l")) as database:
        for number in range(100):
            database.execute("INSERT INTO numbered VALUES (?, '#numbered', ?, 1, 2)", (number, "x" * 100))
        database.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
        content = (tmp_path / "l").read_bytes()
        (tmp_path / "copy").write_bytes(bytes(4096) + content[4096:])
        agree(tmp_path / "copy", database)


def test_a_size_of_pages_that_cannot_be_is_not_believed(tmp_path: Path) -> None:
    with closing(make(tmp_path / "l")) as database:
        database.execute("INSERT INTO numbered VALUES (1, '#numbered', 'one', 1, 2)")
        database.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
        content = (tmp_path / "l").read_bytes()
        for said in (0, 2, 256, 513, 4097, 5000, 65535):
            (tmp_path / "copy").write_bytes(content[:16] + struct.pack(">H", said) + content[18:])
            agree(tmp_path / "copy", database)


@pytest.mark.parametrize("content", [b"", b"x", b"\0" * 100, b"\x0d" * 5000, b"\xff" * 9000, b"\x02" * 9000])
def test_a_file_that_is_no_database_has_an_end(tmp_path: Path, content: bytes) -> None:
    """Its log may say that there are billions of pages."""
    (tmp_path / "l").write_bytes(content)
    (tmp_path / "l-wal").write_bytes(content)
    assert not any(salvaged(tmp_path / "l").values())


def test_a_list_of_free_pages_that_goes_in_a_circle_or_astray_costs_no_row(filled: Path) -> None:
    """What was deleted may come back."""
    content = bytearray(filled.read_bytes())
    (trunk,) = struct.unpack_from(">I", content, 32)
    assert trunk
    with closing(sqlite3.connect(filled)) as database:
        rows = stored(database, "numbered")
    at = (trunk - 1) * 1024
    for following, count in ((trunk, 3), (10**9, 2**32 - 1), (0, 255)):
        struct.pack_into(">II", content, at, following, count)
        filled.write_bytes(content)
        assert set(salvaged(filled)["numbered"]) >= set(rows)
    struct.pack_into(">I", content, 32, 10**9)
    filled.write_bytes(content)
    assert set(salvaged(filled)["numbered"]) >= set(rows)


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_one_damaged_page_costs_no_row_that_lies_in_others(filled: Path, data: st.DataObject) -> None:
    content = filled.read_bytes()
    page = data.draw(st.integers(1, len(content) // 1024 - 1), label="page, from 0")
    spoilt = data.draw(
        st.one_of(
            st.binary(min_size=1024, max_size=1024),
            st.binary(min_size=1, max_size=40).map(lambda head: (head + content[page * 1024 :])[:1024]),
            st.sampled_from([b"\x0d", b"\x0a", b"\x02"]).flatmap(
                lambda kind: st.binary(min_size=60, max_size=60).map(lambda rest: (kind + rest * 18)[:1024])
            ),
        ),
        label="content",
    )
    changed = filled.with_name("changed")
    changed.write_bytes(content[: page * 1024] + spoilt + content[(page + 1) * 1024 :])
    with closing(sqlite3.connect(filled)) as database:
        small = [row for row in stored(database, "keyed") if len(row[2]) < 100]  # type: ignore[arg-type]
    lost = set(small) - set(salvaged(changed)["keyed"])
    assert all(str(row[0]).encode() + b"#keyed" in content[page * 1024 : (page + 1) * 1024] for row in lost)
