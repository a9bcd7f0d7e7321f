"""Corrections: edits hold for whatever picks the model makes, in the order in which they were left, once each."""

from __future__ import annotations

import http.client
import json
import math
import sqlite3
from collections.abc import Callable, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from frazil.commands.cli import app
from frazil.documents import (
    Corrections,
    MicrographDocument,
    columns_of,
    decode_document,
    encode_document,
)
from frazil.errors import OutputError
from frazil.picking import Picks
from frazil.session.correct import (
    AddPick,
    DeletePick,
    Edit,
    JunkOutline,
    MarkMicrograph,
    UndoEdit,
    read_edit,
)
from frazil.session.correct.applying import Corrected, apply, correct_document, live_edits, undone_by
from frazil.session.outbox.file_stamp import FileStamp
from frazil.session.outbox.ledger import Handled, LedgerReader, archive, check, leave_edits, rebuild

SHAPE = (400, 500)
DIAMETER_PX = 40.0
REACH_PX = DIAMETER_PX / 4
HANDLED = Handled(stamp=FileStamp(size=1, mtime_ns=1), fingerprint="f")

MakeDocument = Callable[..., MicrographDocument]
Rig = Any
"""Of ``conftest.py``: a ledger with what commits to it and grants edits."""


# --- applied ----------------------------------------------------------------------------------------------------


def picks_at(*places: tuple[float, float], score: float = 0.5) -> Picks:
    y, x = np.array(places, np.float64).reshape(-1, 2).T
    return Picks(y=y, x=x, score=np.full(y.size, score))


def make_edits(*kinds: tuple[type[Any], dict[str, Any]]) -> list[Edit]:
    return [kind(id=f"edit-{i:05}", path="a.mrc", **values) for i, (kind, values) in enumerate(kinds)]


def places(picks: Picks) -> set[tuple[float, float]]:
    return set(zip(picks.y.tolist(), picks.x.tolist(), strict=True))


def run(picks: Picks, *kinds: tuple[type[Any], dict[str, Any]]) -> Corrected:
    return apply(make_edits(*kinds), picks, DIAMETER_PX, SHAPE)


GRID = [(40.0 + 40 * row, 40.0 + 40 * column) for row in range(8) for column in range(10)]
"""A diameter from each other: an edit that is within reach of one is of no other."""
offsets = st.floats(-REACH_PX / 2, REACH_PX / 2)


@st.composite
def edits_of(draw: st.DrawFn, cells: Sequence[int], prefix: str) -> list[Edit]:
    """Adds, deletions and undos of one person, at some places of the grid."""
    edits: list[Edit] = []
    for number in range(draw(st.integers(0, 12))):
        name = f"{prefix}-edit-{number}"
        kind = draw(st.sampled_from(("add", "delete", "undo"))) if edits else draw(st.sampled_from(("add", "delete")))
        if kind == "undo":
            edits.append(UndoEdit(id=name, path="a.mrc", edit=draw(st.sampled_from(edits)).id))
        else:
            y, x = GRID[draw(st.sampled_from(cells))]
            make = AddPick if kind == "add" else DeletePick
            edits.append(make(id=name, path="a.mrc", y=y + draw(offsets), x=x + draw(offsets)))
    return edits


def interleave(draw: st.DrawFn, one: list[Edit], other: list[Edit]) -> list[Edit]:
    one, other, merged = list(one), list(other), []
    while one or other:
        take = one if not other or (one and draw(st.booleans())) else other
        merged.append(take.pop(0))
    return merged


@given(data=st.data())
def test_edits_of_two_people_at_different_picks_merge_in_any_order(data: st.DataObject) -> None:
    first, second = data.draw(edits_of(range(40), "one")), data.draw(edits_of(range(40, 80), "two"))
    picks = picks_at(*(GRID[i] for i in data.draw(st.sets(st.integers(0, 79)))))
    orders = [data.draw(st.composite(lambda draw: interleave(draw, first, second))()) for _ in range(2)]
    one, other = (apply(edits, picks, DIAMETER_PX, SHAPE) for edits in orders)
    assert columns_of(one.picks) == columns_of(other.picks)
    assert one.added.tolist() == other.added.tolist()
    assert one.deleted == other.deleted


@given(data=st.data())
def test_whatever_the_edits_each_pick_is_the_models_or_added_and_counted(data: st.DataObject) -> None:
    edits = data.draw(edits_of(range(80), "one"))
    picks = picks_at(*(GRID[i] for i in data.draw(st.sets(st.integers(0, 79)))))
    corrected = apply(edits, picks, DIAMETER_PX, SHAPE)
    added = corrected.picks.select(corrected.added)
    assert (added.score == 1.0).all()
    wanted = {(edit.y, edit.x) for edit in live_edits(edits) if isinstance(edit, AddPick)}
    assert places(added) <= wanted
    of_model = places(corrected.picks) - places(added)
    assert of_model <= places(picks)
    assert corrected.deleted == len(places(picks)) - len(corrected.picks) + len(added)
    assert (np.diff(corrected.picks.score) <= 0).all()


@given(data=st.data())
def test_undoing_every_edit_gives_the_picks_of_the_model(data: st.DataObject) -> None:
    edits = data.draw(edits_of(range(80), "one"))
    picks = picks_at(*(GRID[i] for i in data.draw(st.sets(st.integers(0, 79)))))
    undos = [UndoEdit(id=f"last-undo-{i}", path="a.mrc", edit=edit.id) for i, edit in enumerate(reversed(edits))]
    corrected = apply([*edits, *undos], picks, DIAMETER_PX, SHAPE)
    assert columns_of(corrected.picks) == columns_of(picks)
    assert corrected.deleted == 0


def test_an_undo_can_be_undone() -> None:
    edits = make_edits((DeletePick, {"y": 40, "x": 40}), (UndoEdit, {"edit": "edit-00000"}))
    again = [*edits, UndoEdit(id="edit-00002", path="a.mrc", edit="edit-00001")]
    assert undone_by(edits) == {"edit-00000": "edit-00001"}
    assert undone_by(again) == {"edit-00001": "edit-00002"}
    picks = picks_at((40, 40))
    assert [len(apply(some, picks, DIAMETER_PX, SHAPE).picks) for some in (edits[:1], edits, again)] == [0, 1, 0]


def test_a_deleted_place_takes_the_nearest_pick_within_a_quarter_of_the_diameter() -> None:
    picks = picks_at((40, 40), (40, 52), (200, 200))
    assert places(run(picks, (DeletePick, {"y": 40, "x": 47})).picks) == {(40, 40), (200, 200)}
    assert len(run(picks, (DeletePick, {"y": 200, "x": 200 + REACH_PX})).picks) == 2
    assert len(run(picks, (DeletePick, {"y": 200, "x": 200.1 + REACH_PX})).picks) == 3


def test_a_particle_that_two_people_add_is_there_once() -> None:
    corrected = run(picks_at((40, 40)), (AddPick, {"y": 100, "x": 100}), (AddPick, {"y": 103, "x": 104}))
    assert places(corrected.picks) == {(40, 40), (100, 100)}
    assert corrected.added.tolist() == [0]
    assert len(run(picks_at((40, 40)), (AddPick, {"y": 41, "x": 40})).added) == 0


def test_what_lies_out_of_the_picture_adds_nothing() -> None:
    assert len(run(picks_at(), (AddPick, {"y": 399.5, "x": -0.5})).picks) == 1
    assert len(run(picks_at(), (AddPick, {"y": 399.6, "x": 10}), (AddPick, {"y": 10, "x": 500})).picks) == 0


@settings(max_examples=50)
@given(
    y=st.floats(0, 399),
    x=st.floats(0, 499),
    corners=st.lists(st.tuples(st.integers(0, 400), st.integers(0, 500)), min_size=3, max_size=8),
)
def test_junk_takes_what_the_outline_winds_round(y: float, x: float, corners: list[tuple[int, int]]) -> None:
    """Told by angles instead: the sides turn round a place inside an odd number of times."""
    sides = list(zip(corners, [*corners[1:], corners[0]], strict=True))
    turns = 0.0
    for (y0, x0), (y1, x1) in sides:
        cross, dot = (y0 - y) * (x1 - x) - (x0 - x) * (y1 - y), (y0 - y) * (y1 - y) + (x0 - x) * (x1 - x)
        if abs(cross) < 1e-6 * (abs(dot) + 1):
            return  # on a side, or too near to tell
        turns += math.atan2(cross, dot)
    corrected = run(picks_at((y, x)), (JunkOutline, {"outline": tuple(corners)}))
    assert len(corrected.picks) == 1 - round(turns / (2 * math.pi)) % 2


def test_a_micrograph_marked_bad_has_no_picks_until_the_mark_is_lifted() -> None:
    bad = ((AddPick, {"y": 100, "x": 100}), (MarkMicrograph, {"mark": "bad"}))
    corrected = run(picks_at((40, 40)), *bad)
    assert (len(corrected.picks), corrected.deleted, corrected.mark) == (0, 1, "bad")
    lifted = run(picks_at((40, 40)), *bad, (MarkMicrograph, {"mark": ""}))
    assert (len(lifted.picks), lifted.deleted, lifted.mark) == (2, 0, "")
    assert run(picks_at((40, 40)), *bad, (MarkMicrograph, {"mark": "good"})).mark == "good"


def test_a_document_says_what_was_corrected_and_one_without_edits_is_as_before(make_document: MakeDocument) -> None:
    document = msgspec.structs.replace(make_document("/data/a.mrc"), shape=(90, 90))
    assert b"corrections" not in encode_document(correct_document(document, []))
    edits = [
        AddPick(id="edit-00001", path="a.mrc", y=60, x=60, by="Ada", at=10.5),
        JunkOutline(id="edit-00002", path="a.mrc", outline=((0, 0), (0, 1), (1, 1)), by="", at=20.25),
    ]
    corrected = correct_document(document, edits)
    assert decode_document(encode_document(corrected)) == corrected
    assert corrected.corrections == Corrections(
        at="1970-01-01T00:00:20.250+00:00",
        by=["Ada"],
        mark="",
        added=[0],
        deleted=0,
        junk=[[(0, 0), (0, 1), (1, 1)]],
    )
    undone = [*edits, *(UndoEdit(id=f"{edit.id}-u", path="a.mrc", edit=edit.id) for edit in edits)]
    assert encode_document(correct_document(corrected_back(corrected, document), undone)) == encode_document(document)


def corrected_back(corrected: MicrographDocument, document: MicrographDocument) -> MicrographDocument:
    return msgspec.structs.replace(corrected, picks=document.picks)


# --- read -------------------------------------------------------------------------------------------------------

BAD = {
    "no id": {"kind": "add", "path": "a.mrc", "y": 1, "x": 1},
    "a short id": {"id": "short", "kind": "add", "path": "a.mrc", "y": 1, "x": 1},
    "an id of other letters": {"id": "edit/../../x", "kind": "add", "path": "a.mrc", "y": 1, "x": 1},
    "an id that ends with a line": {"id": "edit-00001\n", "kind": "add", "path": "a.mrc", "y": 1, "x": 1},
    "an unknown kind": {"id": "edit-00001", "kind": "move", "path": "a.mrc", "y": 1, "x": 1},
    "no path": {"id": "edit-00001", "kind": "add", "y": 1, "x": 1},
    "no place": {"id": "edit-00001", "kind": "delete", "path": "a.mrc", "y": 1},
    "a place beyond all pictures": {"id": "edit-00001", "kind": "add", "path": "a.mrc", "y": 1e300, "x": 1},
    "two corners": {"id": "edit-00001", "kind": "junk", "path": "a.mrc", "outline": [[1, 1], [2, 2]]},
    "too many corners": {"id": "edit-00001", "kind": "junk", "path": "a.mrc", "outline": [[1, 1]] * 201},
    "another mark": {"id": "edit-00001", "kind": "mark", "path": "a.mrc", "mark": "fine"},
    "more than an edit has": {"id": "edit-00001", "kind": "mark", "path": "a.mrc", "mark": "bad", "score": 1},
}


@pytest.mark.parametrize("name", BAD)
def test_what_is_no_edit_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match="expected an edit"):
        read_edit(json.dumps(BAD[name]).encode())


@given(st.binary(max_size=60))
def test_no_bytes_do_more_than_be_refused(body: bytes) -> None:
    with pytest.raises(ValueError, match="expected an edit"):
        read_edit(body)


# --- kept and granted -------------------------------------------------------------------------------------------


@pytest.fixture
def rig(open_rig: Callable[..., Rig]) -> Rig:
    return open_rig()


def where(document: MicrographDocument) -> set[tuple[float, float]]:
    return set(zip(document.picks.y, document.picks.x, strict=True))


DELETE_FIRST = (DeletePick, {"y": GRID[0][0] + 1, "x": GRID[0][1]})
ADD_LAST = (AddPick, {"y": 300.0, "x": 300.0})


def test_all_edits_of_a_micrograph_become_one_revision_and_the_file_follows(rig: Rig) -> None:
    first = rig.pick()
    rig.pick("b.mrc")
    rig.leave(DELETE_FIRST, ADD_LAST)
    rig.grant()
    document = rig.newest()
    assert (document.seq, document.supersedes) == (3, first)
    assert where(document) == rig.star() == {*GRID[1:4], (300, 300)}
    assert isinstance(document.corrections, Corrections)
    assert (document.corrections.by, document.corrections.deleted) == (["Ada"], 1)
    assert [document.picks.score[i] for i in document.corrections.added] == [1.0]
    assert rig.newest("b.mrc").seq == 2
    with LedgerReader(rig.file) as reader:
        assert [(stored.number, stored.seq) for stored in reader.edits("a.mrc")] == [(1, 3), (2, 3)]
        before = reader.uncorrected(3)
        assert before is not None
        assert set(zip(before.y, before.x, strict=True)) == set(GRID[:4])


def test_an_edit_is_there_once_however_often_it_is_left(rig: Rig) -> None:
    rig.pick()
    edit = AddPick(id="edit-00001", path="a.mrc", y=300, x=300)
    assert [leave_edits(rig.file, [edit, edit]).accepted for _ in range(2)] == [2, 2]
    rig.grant()
    assert leave_edits(rig.file, [edit]).accepted == 1
    assert rig.ledger.next_to_correct() is None
    with LedgerReader(rig.file) as reader:
        assert len(list(reader.every_edit())) == 1
    left = leave_edits(rig.file, [msgspec.structs.replace(edit, x=30)])
    assert left.refused == [("edit-00001", "expected an id of its own, found that of another edit")]


def test_undo_and_a_lifted_mark_work_without_a_score_map(rig: Rig) -> None:
    rig.pick()
    rig.leave(DELETE_FIRST, (MarkMicrograph, {"mark": "bad"}))
    rig.grant()
    assert rig.star() == where(rig.newest()) == set()
    rig.leave((MarkMicrograph, {"mark": ""}), first=2)
    rig.grant()
    assert rig.star() == set(GRID[1:4])
    rig.leave(*((UndoEdit, {"edit": f"edit-{i:05}"}) for i in range(3)), first=3)
    rig.grant()
    assert rig.star() == set(GRID[:4])
    assert rig.newest().corrections is msgspec.UNSET


def test_edits_hold_for_a_file_that_is_picked_again(rig: Rig) -> None:
    rig.pick()
    rig.leave(DELETE_FIRST, ADD_LAST)
    rig.grant()
    seq = rig.pick(at=[(GRID[0][0] - 2, GRID[0][1] + 2), *GRID[5:8]])
    assert rig.newest().seq == seq
    assert rig.star() == {*GRID[5:8], (300, 300)}
    assert rig.ledger.next_to_correct() is None


def test_a_pick_commits_the_edits_that_wait(rig: Rig) -> None:
    """As where the daemon was away: no second revision follows."""
    rig.pick()
    rig.leave(DELETE_FIRST)
    rig.pick()
    assert rig.star() == set(GRID[1:4])
    assert rig.ledger.next_to_correct() is None


def test_a_mark_may_come_before_the_picks(rig: Rig) -> None:
    rig.pick("b.mrc")
    with closing(sqlite3.connect(rig.file)) as database, database:
        database.execute("INSERT INTO micrographs (path, state, size, mtime_ns) VALUES ('a.mrc', 'seen', 1, 1)")
    left = leave_edits(
        rig.file,
        [
            MarkMicrograph(id="edit-00001", path="a.mrc", mark="bad"),
            AddPick(id="edit-00002", path="a.mrc", y=1, x=1),
        ],
    )
    assert left.accepted == 1
    assert left.refused[0][0] == "edit-00002"
    assert rig.ledger.next_to_correct() is None  # it waits, and holds up no other
    rig.pick()
    assert rig.star() == set()


def test_what_an_edit_cannot_be_is_told_and_the_others_are_taken(rig: Rig) -> None:
    rig.pick()
    rig.pick()
    left = leave_edits(
        rig.file,
        [
            AddPick(id="edit-00001", path="a.mrc", y=400, x=10),
            AddPick(id="edit-00002", path="unknown.mrc", y=4, x=10),
            UndoEdit(id="edit-00003", path="a.mrc", edit="edit-00009"),
            JunkOutline(id="edit-00004", path="a.mrc", outline=((-9, -9), (-9, -3), (-3, -3))),
            DeletePick(id="edit-00005", path="a.mrc", y=40, x=40, seq=1),
            UndoEdit(id="edit-00006", path="a.mrc", edit="edit-00005", seq=2),
        ],
    )
    assert (left.accepted, left.merged) == (2, ["a.mrc"])
    assert [name for name, _ in left.refused] == [f"edit-0000{i}" for i in range(1, 5)]
    assert "expected a place in a picture of 500 x 400 px, found y 400, x 10" in left.refused[0][1]


def test_a_daemon_that_ends_between_leaving_and_granting_grants_once(rig: Rig) -> None:
    rig.pick()
    rig.leave(DELETE_FIRST, ADD_LAST)
    rig.close()
    rig.open()
    rig.grant()
    rig.close()
    rig.open()
    rig.grant()
    assert rig.ledger.head == 2
    assert rig.star() == {*GRID[1:4], (300, 300)}


def test_a_commit_that_fails_leaves_its_edits_waiting(rig: Rig) -> None:
    """The revision and the note that its edits are in it are one transaction."""
    rig.pick()
    rig.leave(DELETE_FIRST)
    with closing(sqlite3.connect(rig.file)) as database, database:
        database.execute("CREATE TRIGGER full BEFORE UPDATE ON edits BEGIN SELECT RAISE(ABORT, 'no room'); END")
    with pytest.raises(sqlite3.Error):
        rig.ledger.set_edits_aside("a.mrc", 1, 1)
    with pytest.raises(sqlite3.Error):
        rig.granter.grant_next()
    with closing(sqlite3.connect(rig.file)) as database, database:
        assert database.execute("SELECT count(*) FROM documents").fetchone() == (1,)
        database.execute("DROP TRIGGER full")
    rig.close()
    rig.open()
    rig.grant()
    assert rig.star() == set(GRID[1:4])


def test_a_damaged_edit_is_passed_over_and_found(rig: Rig) -> None:
    rig.pick()
    rig.leave(DELETE_FIRST, ADD_LAST)
    with closing(sqlite3.connect(rig.file)) as database, database:
        database.execute("UPDATE edits SET body = CAST(replace(body, '300', '200') AS BLOB) WHERE number = 2")
    rig.grant()
    assert rig.star() == set(GRID[1:4])
    assert check(rig.file).faults == ["1 edits of picks are damaged: 2"]


def test_damaged_picks_without_edits_are_found(rig: Rig) -> None:
    rig.pick()
    rig.leave(DELETE_FIRST)
    rig.grant()
    with closing(sqlite3.connect(rig.file)) as database, database:
        database.execute("UPDATE uncorrected_picks SET body = CAST(substr(body, 2) AS BLOB)")
    assert check(rig.file).faults == [f"the picks without edits of 1 results are damaged: {rig.newest().seq}"]


def test_status_says_how_many_edits_wait(rig: Rig, capsys: pytest.CaptureFixture[str]) -> None:
    def waiting() -> tuple[int, str]:
        app(["status", "--ledger", str(rig.file), "--json"], standalone_mode=False)
        number = json.loads(capsys.readouterr().out)["waiting_edits"]
        app(["status", "--ledger", str(rig.file)], standalone_mode=False)
        return number, capsys.readouterr().out

    rig.pick()
    rig.leave(DELETE_FIRST, ADD_LAST)
    number, says = waiting()
    assert number == 2
    assert "2 edits of picks wait" in says
    rig.grant()
    number, says = waiting()
    assert number == 0
    assert "wait to be applied" not in says


def test_edits_of_a_damaged_result_wait_until_it_is_picked_again(rig: Rig) -> None:
    rig.pick()
    rig.pick("b.mrc")
    rig.leave(DELETE_FIRST)
    rig.leave(DELETE_FIRST, key="b.mrc", first=5)
    with closing(sqlite3.connect(rig.file)) as database, database:
        database.execute("UPDATE documents SET body = CAST(replace(body, 'a.mrc', 'x.mrc') AS BLOB) WHERE seq = 1")
    rig.grant()
    assert where(rig.newest("b.mrc")) == set(GRID[1:4])
    rig.pick()
    assert rig.star() == set(GRID[1:4])


# --- the ledger as a whole --------------------------------------------------------------------------------------


def test_a_ledger_of_layout_3_gets_room_for_edits(rig: Rig) -> None:
    rig.pick()
    rig.close()
    with closing(sqlite3.connect(rig.file)) as database:
        database.executescript(
            "DROP TABLE qualities; DROP TABLE unassessed; DROP TABLE edits; DROP TABLE uncorrected_picks; "
            "UPDATE meta SET value = '3' WHERE key = 'layout'"
        )
    with LedgerReader(rig.file) as reader:
        assert (reader.edits("a.mrc"), list(reader.every_edit()), reader.uncorrected(1)) == ([], [], None)
        assert len(reader.generations()) == 1
    with pytest.raises(OutputError, match="frazil serve brings an older one up to date"):
        leave_edits(rig.file, [])
    rig.open()
    rig.leave(DELETE_FIRST)
    rig.grant()
    assert rig.star() == set(GRID[1:4])


def test_an_archived_result_keeps_its_edits_here_and_there(rig: Rig, tmp_path: Path) -> None:
    rig.pick()
    rig.leave(DELETE_FIRST)
    rig.grant()
    archive(rig.file, tmp_path / "archive", before=2e9)
    for file in (rig.file, tmp_path / "archive"):
        with LedgerReader(file) as reader:
            assert [stored.seq for stored in reader.edits("a.mrc")] == [2]
    with LedgerReader(tmp_path / "archive") as reader:
        assert reader.uncorrected(2) is not None
    left = leave_edits(rig.file, [AddPick(id="edit-00009", path="a.mrc", y=5, x=5)])
    assert "archived" in left.refused[0][1]
    rig.pick()
    assert rig.star() == set(GRID[1:4])


def test_a_rebuilt_ledger_has_all_edits_and_grants_those_whose_result_is_lost(rig: Rig) -> None:
    rig.pick()
    rig.leave(DELETE_FIRST)
    rig.grant()
    rig.leave(ADD_LAST, first=1)
    rig.close()
    built = rebuild(rig.file, out=rig.folder / "out")
    assert built.edits == 2
    rig.open()
    with LedgerReader(rig.file) as reader:
        assert [stored.seq for stored in reader.edits("a.mrc")] == [2, None]
        assert reader.uncorrected(2) is not None
    rig.leave((UndoEdit, {"edit": "edit-00000"}), first=2)
    rig.grant()
    assert rig.star() == {*GRID[:4], (300, 300)}
    assert check(rig.file).faults == []


# --- asked of the page ------------------------------------------------------------------------------------------


def ask(page: Any, method: str, path: str, body: bytes | None = None, **headers: str) -> tuple[int, bytes]:
    with closing(http.client.HTTPConnection(*page.address, timeout=240)) as connection:
        connection.request(method, path, body, {k.replace("_", "-"): v for k, v in headers.items()})
        answer = connection.getresponse()
        return answer.status, answer.read()


def post(page: Any, *edits: dict[str, Any], by: str = "Ada") -> tuple[int, Any]:
    body = json.dumps({"by": by, "edits": edits}).encode()
    status, answer = ask(
        page, "POST", "/api/edits", body, authorization=f"Bearer {page.token}", content_type="application/json"
    )
    return status, json.loads(answer)


@pytest.fixture
def page_rig(open_page: Callable[..., Any], open_rig: Callable[..., Rig]) -> tuple[Any, Rig]:
    """A page over the ledger of a rig, which the page's fixture opens and closes."""
    page = open_page()
    return page, open_rig(page.ledger)


def add(i: int, y: float, x: float, **more: Any) -> dict[str, Any]:
    return {"id": f"edit-{i:05}", "path": "a.mrc", "kind": "add", "y": y, "x": x, **more}


def test_edits_come_over_the_page_and_are_listed_and_drawn(page_rig: tuple[Any, Rig]) -> None:
    page, rig = page_rig
    rig.pick()
    delete = {"id": "edit-00002", "path": "a.mrc", "kind": "delete", "y": 41, "x": 40, "seq": 1}
    assert post(page, add(1, 300, 300), delete) == (202, {"accepted": 2, "merged": [], "refused": []})
    undo = {"id": "edit-00003", "path": "a.mrc", "kind": "undo", "edit": "edit-00001"}
    post(page, undo, by="Bob")
    _, body = ask(page, "GET", "/api/edits?path=a.mrc")
    listed = json.loads(body)
    assert listed["waiting"] == 3
    assert [(e["id"], e["kind"], e["by"], e["undone_by"]) for e in listed["edits"]] == [
        ("edit-00001", "add", "Ada", "edit-00003"),
        ("edit-00002", "delete", "Ada", ""),
        ("edit-00003", "undo", "Bob", ""),
    ]
    rig.grant()
    overlay = json.loads(ask(page, "GET", "/api/overlay/2")[1])
    assert (overlay["corrections"]["deleted"], overlay["corrections"]["by"]) == (1, ["Ada"])
    assert overlay["deleted_picks"] == {"y": [40.0], "x": [40.0], "score": [0.5]}
    assert "corrections" not in json.loads(ask(page, "GET", "/api/overlay/1")[1])
    (row,) = json.loads(ask(page, "GET", "/api/micrographs")[1])["rows"]
    assert (row["mark"], row["corrected"], row["picks"]) == ("", True, 3)
    assert json.loads(ask(page, "GET", "/api/edits?path=a.mrc")[1])["waiting"] == 0
    assert ask(page, "GET", "/api/edits?path=x.mrc")[0] == 404


def test_edits_of_a_micrograph_that_was_revised_meanwhile_are_merged_and_told(page_rig: tuple[Any, Rig]) -> None:
    page, rig = page_rig
    rig.pick()
    post(page, add(1, 300, 300, seq=1))
    rig.grant()
    rig.pick(at=GRID[:6])
    assert post(page, add(2, 200, 300, seq=1), by="Bob")[1]["merged"] == ["a.mrc"]
    rig.grant()
    assert rig.star() == {*GRID[:6], (300, 300), (200, 300)}


def test_ten_thousand_edits_come_at_once(page_rig: tuple[Any, Rig]) -> None:
    page, rig = page_rig
    rig.pick(at=[])
    places = [(2.0 + 4 * row, 2.5 + 4.9 * column) for row in range(100) for column in range(100)]
    rig.pick(at=[], key="b.mrc", diameter_px=4.0)
    edits = [add(i, y, x, path="b.mrc") for i, (y, x) in enumerate(places)]
    status, answer = post(page, *edits)
    assert (status, answer["accepted"], answer["refused"]) == (202, 10_000, [])
    rig.grant()
    assert where(rig.newest("b.mrc")) == {(round(y, 4), round(x, 4)) for y, x in places}
    assert rig.newest("b.mrc").supersedes == 2
    status, answer = post(page, *edits, *edits, add(20_001, 1, 1))
    assert (status, rig.ledger.next_to_correct()) == (400, None)


def test_bad_edits_are_refused_one_by_one_and_bad_requests_whole(page_rig: tuple[Any, Rig]) -> None:
    page, rig = page_rig
    rig.pick()
    status, answer = post(page, *BAD.values(), add(1, 400, 10), add(2, 10, 10))
    assert (status, answer["accepted"], len(answer["refused"])) == (202, 1, len(BAD) + 1)
    assert answer["refused"][-1] == {
        "id": "edit-00001",
        "why": "expected a place in a picture of 500 x 400 px, found y 400, x 10",
    }
    token, kind = {"authorization": f"Bearer {page.token}"}, {"content_type": "application/json"}
    for body in (b"", b"[]", b"garbage", b'{"edits": 1}', b'{"edits": [1, }', b'{"edits": [], "more": 1}', b"[" * 9999):
        assert ask(page, "POST", "/api/edits", body, **token, **kind)[0] == 400, body
    assert ask(page, "POST", "/api/edits", b" " * (4 * 2**20 + 1), **token, **kind)[0] == 400
    good = json.dumps({"edits": [add(3, 90, 90)]}).encode()
    assert ask(page, "POST", "/api/edits", good, **kind)[0] == 401
    assert ask(page, "POST", "/api/edits", good, authorization="Bearer wrong", **kind)[0] == 401
    assert ask(page, "POST", "/api/edits", good, **token)[0] == 415
    assert ask(page, "POST", "/api/edits", good, **token, **kind, origin="http://elsewhere")[0] == 403
    rig.grant()
    assert rig.star() == {*GRID[:4], (10, 10)}
