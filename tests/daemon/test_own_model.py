"""A session's own model: it serves if it picks what was corrected at least as well, and the session can go back."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import prometheus_client
import pytest

from frazil.health.metrics import Metrics
from frazil.model import (
    ModelFolder,
    current_token,
    identify_model,
    learned_folder,
    load_model,
    read_card,
    read_serving_records,
    write_card,
)
from frazil.picking import Picker, PickingSettings, read_micrograph
from frazil.record import MicrographReader, record_picks
from frazil.session.correct import MarkMicrograph, UndoEdit
from frazil.session.models import Models
from frazil.session.outbox.file_stamp import FileStamp
from frazil.session.outbox.ledger import Handled, Ledger, leave_edits
from frazil.session.outbox.outbox import Outbox
from frazil.session.outbox.stream import Stream
from frazil.session.pick.comparison import Comparison
from frazil.session.pick.granter import Granter
from frazil.session.pick.model_changes import Announcer, ModelChange
from frazil.session.pick.promoted import Promoted
from frazil.session.pick.serving import Serving
from frazil.session.pick.shadow import CanaryBounds
from frazil.session.pick.swapper import Swapper
from frazil.session.retune import Reviser

SETTINGS = PickingSettings(diameter_angstrom=48)
HANDLED = Handled(stamp=FileStamp(size=1, mtime_ns=1), fingerprint="f")
BLIND = -60.0
Blob = Callable[..., Path]


class Session:
    """As much of a session as its models need, with a ledger, an outbox and a stream of its own."""

    def __init__(self, setting: Path, folder: Path) -> None:
        self.watched, self.out = folder / "watched", folder / "out"
        for place in (self.watched, self.out):
            place.mkdir(exist_ok=True)
        self.own = learned_folder(self.out)
        self.ledger = Ledger(folder / "ledger")
        metrics = Metrics(prometheus_client.CollectorRegistry())
        self.stream = Stream("tcp://127.0.0.1:0", metrics=metrics)
        channel = self.stream.add("", ledger=self.ledger.file, epoch=self.ledger.epoch, published=0)
        self.stop = threading.Event()
        self.outbox = Outbox(self.ledger, channel, metrics, self.watched, self.out, self.stop)
        self.reviser = Reviser(self.ledger, self.outbox, SETTINGS)
        promoted = Promoted(setting, self.own)
        self.announcer = Announcer(self.ledger, self.outbox, metrics, promoted.folder_of)
        self.swapper = Swapper(
            promoted,
            models=Models(lambda path, _: load_model(path, "cpu")),
            make_picker=lambda model: Picker(model, SETTINGS),
            announcer=self.announcer,
            metrics=metrics,
            watch=self.watched,
            out=self.out,
            name="daemon",
            precision="float32",
            check_seconds=60.0,
            threads=1,
            bounds=CanaryBounds(micrographs=0, agreement=0.5, picks_ratio=3.0),
            comparison=Comparison(self.ledger.file, MicrographReader(largest_bytes=2**30, timeout_seconds=60.0)),
            stop=self.stop,
        )
        picker = Picker(self.swapper.load_first(), SETTINGS)
        self.serving = Serving(picker, probation_micrographs=0, faults_allowed=0)

    def pick(self, name: str) -> None:
        micrograph = read_micrograph(self.watched / name, as_stored=True)
        record = record_picks(self.serving.picker, micrograph, read_seconds=0, since=0)
        self.outbox.commit(record.document, key=name, handled=HANDLED)

    def edit(self, *edits: Any) -> None:
        assert leave_edits(self.ledger.file, edits).refused == []
        granter = Granter(self.ledger, self.outbox, self.reviser)
        while self.ledger.next_to_correct() is not None:
            granter._next_look = 0.0
            granter.grant_next()

    def look(self) -> list[ModelChange]:
        """Look once at what is promoted, and go on with what is offered; the changes."""
        changes: list[ModelChange] = []
        self.swapper._look(self.serving, changes.append)
        changes += [change for change in self.serving.advance() if isinstance(change, ModelChange)]
        for change in changes:
            self.announcer.announce(change)
        return changes

    @property
    def serves(self) -> str:
        return self.serving.picker.model.identity.short

    def close(self) -> None:
        self.reviser.close()
        self.stream.close()
        self.ledger.close()


@pytest.fixture
def setting(tmp_path: Path, make_blob_model: Blob) -> Path:
    """The model of the session's settings, which several sessions may share."""
    return make_blob_model(tmp_path / "shared" / "blob", threshold=0.6)


@pytest.fixture
def begin(setting: Path, tmp_path: Path) -> Iterator[Callable[..., Session]]:
    """The session begins; a second time after the first run has ended."""
    runs: list[Session] = []

    def start(folder: Path = setting) -> Session:
        for run in runs:
            run.close()
        runs[:] = [Session(folder, tmp_path)]
        return runs[0]

    yield start
    for run in runs:
        run.close()


@pytest.fixture
def session(begin: Callable[..., Session], write_mrc: Callable[..., Path], make_scene: Callable[..., Any]) -> Session:
    """A session with two micrographs, of which one was corrected: marked good as it is."""
    run = begin()
    for number, name in enumerate(("a.mrc", "b.mrc")):
        write_mrc(run.watched / name, make_scene(seed=number).pixels)
        run.pick(name)
    run.edit(MarkMicrograph(id="mark-0001", path="a.mrc", mark="good"))
    return run


@pytest.fixture
def learn(make_blob_model: Blob) -> Callable[..., None]:
    """Write a version of the session's own model, and promote it."""

    def write(run: Session, version: int = 1, kept_out: object = ({"path": "a.mrc"},), **changes: Any) -> None:
        folder = make_blob_model(run.own, version, **changes)
        card = folder / str(version) / "card.json"
        write_card(card, msgspec.structs.replace(read_card(card), run={"kept_out": kept_out}))
        ModelFolder(folder).promote(version)

    return write


def test_an_own_model_that_is_no_worse_serves_in_this_session_and_can_be_withdrawn(
    session: Session, setting: Path, learn: Callable[..., None]
) -> None:
    token = current_token(setting)
    learn(session, threshold=0.55)
    assert [change.event for change in session.look()] == ["loaded"]
    assert session.serves == "learned/1"
    assert current_token(setting) == token
    assert not list(setting.glob(".serving/*"))
    ModelFolder(session.own).withdraw()
    assert [change.event for change in session.look()] == ["loaded"]
    assert session.serves == "blob/1"


def test_a_worse_one_is_refused_with_the_figures_and_the_serving_one_goes_on(
    session: Session, learn: Callable[..., None], setting: Path
) -> None:
    learn(session, bias=BLIND)
    (refused,) = session.look()
    assert (refused.event, refused.reason) == ("refused", "worse")
    assert "found F1 0.000 on" in refused.message
    assert "kept out of its training (serving model: 1.000)" in refused.message
    assert session.serves == "blob/1"
    assert session.look() == []
    session.swapper._post()
    (of_own,) = read_serving_records(session.own)
    assert (of_own.version, [r.reason for r in of_own.refusals]) == (0, ["worse"])
    (of_setting,) = read_serving_records(setting)
    assert (of_setting.version, of_setting.refusals) == (1, ())


def test_a_region_alone_is_compared_where_a_region_alone_was_kept_out(
    session: Session, learn: Callable[..., None]
) -> None:
    document = session.ledger.result("a.mrc")
    assert document is not None
    picks = msgspec.json.decode(document.body)["picks"]
    region = (picks["y"][0] - 1, picks["x"][0] - 1, picks["y"][0] + 1, picks["x"][0] + 1)
    learn(session, bias=BLIND, kept_out=[{"path": "a.mrc", "region": region}])
    (refused,) = session.look()
    assert "F1 0.000 on 1 particles in 1 corrected micrographs" in refused.message


@pytest.mark.parametrize(
    ("kept_out", "says"),
    [
        ([], "none is named on its card"),
        ([{"path": "b.mrc"}], "b.mrc is not corrected"),
        ([{"path": "../../etc/passwd"}], "../../etc/passwd is not corrected"),
        ("nonsense", "none is named on its card"),
    ],
)
def test_one_that_cannot_be_compared_is_refused(
    session: Session, learn: Callable[..., None], kept_out: object, says: str
) -> None:
    learn(session, threshold=0.55, kept_out=kept_out)
    (refused,) = session.look()
    assert refused.reason == "worse"
    assert says in refused.message
    assert session.serves == "blob/1"


def test_corrections_that_were_taken_back_or_marked_bad_prove_nothing(
    session: Session, learn: Callable[..., None]
) -> None:
    session.pick("b.mrc")
    session.edit(
        UndoEdit(id="undo-0001", path="a.mrc", edit="mark-0001"),
        MarkMicrograph(id="mark-0002", path="b.mrc", mark="bad"),
    )
    learn(session, threshold=0.55, kept_out=[{"path": "a.mrc"}, {"path": "b.mrc"}])
    (refused,) = session.look()
    assert "found none" in refused.message


def test_a_missing_micrograph_is_told_as_the_reason(session: Session, learn: Callable[..., None]) -> None:
    (session.watched / "a.mrc").unlink()
    learn(session, threshold=0.55)
    (refused,) = session.look()
    assert "a.mrc" in refused.message
    assert session.serves == "blob/1"


def test_what_a_person_saw_is_compared_with_and_not_what_a_later_model_picked(
    session: Session, learn: Callable[..., None], make_blob_model: Blob, begin: Callable[..., Session]
) -> None:
    """The blind model picks the micrograph again: its corrections hold, and say what they said."""
    blind = Picker(load_model(make_blob_model(session.out / "blind", bias=BLIND), "cpu"), SETTINGS)
    micrograph = read_micrograph(session.watched / "a.mrc", as_stored=True)
    record = record_picks(blind, micrograph, read_seconds=0, since=0)
    newest = session.ledger.result("a.mrc")
    assert newest is not None
    session.outbox.commit(
        msgspec.structs.replace(record.document, supersedes=newest.seq), key="a.mrc", revises=newest.seq
    )
    learn(session, bias=BLIND)
    (refused,) = session.look()
    assert "found F1 0.000" in refused.message


def test_who_goes_back_to_a_version_that_served_is_not_held_up(session: Session, learn: Callable[..., None]) -> None:
    learn(session, threshold=0.55)
    learn(session, 2, threshold=0.5)
    assert [change.event for change in session.look()] == ["loaded"]
    assert session.serves == "learned/2"
    learn(session, 3, bias=BLIND, kept_out=[])
    assert [change.reason for change in session.look()] == ["worse"]
    ModelFolder(session.own).withdraw()
    assert [change.event for change in session.look()] == ["loaded"]
    (session.watched / "a.mrc").unlink()  # nothing can be compared any more
    ModelFolder(session.own).promote(1)
    assert [change.reason for change in session.look()] == ["worse"]
    ModelFolder(session.own).promote(2)
    assert [change.event for change in session.look()] == ["loaded"]
    assert session.serves == "learned/2"


def test_a_restart_goes_on_with_the_own_model_and_takes_none_that_was_never_compared(
    session: Session, learn: Callable[..., None], begin: Callable[..., Session]
) -> None:
    learn(session, threshold=0.55)
    session.look()
    again = begin()
    assert again.serves == "learned/1"
    assert again.look() == []
    learn(again, 2, bias=BLIND)
    last = begin()
    assert last.serves == "learned/1"
    (refused,) = last.look()
    assert (refused.reason, last.serves) == ("worse", "learned/1")


def test_a_session_that_begins_anew_serves_the_model_of_its_settings_first(
    begin: Callable[..., Session], tmp_path: Path, make_blob_model: Blob
) -> None:
    own = make_blob_model(learned_folder(tmp_path / "out"), bias=BLIND)
    run = begin()
    assert run.serves == "blob/1"
    (refused,) = run.look()
    assert (refused.reason, refused.folder) == ("worse", str(own))


def test_a_session_whose_settings_name_one_version_learns_too(
    begin: Callable[..., Session],
    setting: Path,
    learn: Callable[..., None],
    write_mrc: Callable[..., Path],
    make_scene: Callable[..., Any],
) -> None:
    run = begin(setting / "1")
    write_mrc(run.watched / "a.mrc", make_scene().pixels)
    run.pick("a.mrc")
    run.edit(MarkMicrograph(id="mark-0001", path="a.mrc", mark="good"))
    assert run.look() == []
    learn(run, threshold=0.55)
    assert [change.event for change in run.look()] == ["loaded"]
    assert begin(setting / "1").serves == "learned/1"
    ModelFolder(run.own).withdraw()
    last = begin(setting / "1")
    assert [change.event for change in last.look()] == ["loaded"]
    assert last.serves == "blob/1"


def test_an_own_model_of_another_session_as_the_setting_is_a_setting_like_any_other(
    begin: Callable[..., Session], make_blob_model: Blob, tmp_path: Path
) -> None:
    other = make_blob_model(learned_folder(tmp_path / "other"))
    run = begin(other)
    make_blob_model(other, 2, threshold=0.7)
    ModelFolder(other).promote(2)
    assert [change.event for change in run.look()] == ["loaded"]
    assert run.announcer.standing is not None
    assert run.announcer.standing.folder == str(other.resolve())


def test_a_broken_model_is_refused(session: Session, learn: Callable[..., None]) -> None:
    learn(session, threshold=0.55)
    (session.own / "1" / "model.onnx").write_bytes(b"no model")
    (refused,) = session.look()
    assert refused.event == "refused"
    assert session.serves == "blob/1"


def test_a_ledger_that_cannot_be_read_puts_the_model_off(session: Session, learn: Callable[..., None]) -> None:
    learn(session, threshold=0.55)
    comparison = session.swapper._comparison
    session.swapper._comparison = Comparison(session.out / "no-ledger", comparison._read)
    assert session.look() == []
    session.swapper._comparison = comparison
    assert [change.event for change in session.look()] == ["loaded"]


def test_a_session_that_ends_while_it_compares_refuses_nothing(session: Session, learn: Callable[..., None]) -> None:
    learn(session, threshold=0.55)
    read = session.swapper._comparison._read

    def end_and_read(path: Path) -> Any:
        session.stop.set()
        return read(path)

    session.swapper._comparison = Comparison(session.ledger.file, end_and_read)  # type: ignore[arg-type]
    card = session.own / "1" / "card.json"
    write_card(card, msgspec.structs.replace(read_card(card), run={"kept_out": [{"path": "a.mrc"}] * 2}))
    changes: list[ModelChange] = []
    session.swapper._look(session.serving, changes.append)
    assert changes == []
    assert session.serving.coming.model.identity.short == "blob/1"


def test_the_folder_of_a_model_is_told_by_its_content(tmp_path: Path, make_blob_model: Blob) -> None:
    setting, own = make_blob_model(tmp_path / "a" / "learned"), make_blob_model(tmp_path / "b" / "learned", bias=-7.0)
    promoted = Promoted(setting, own)
    assert promoted.folder_of(identify_model(own)) == str(own)
    assert promoted.folder_of(identify_model(setting)) == str(setting)
